//! Small pieces of text: clock times, padding, wrapping.
//! Pure functions.

use std::borrow::Cow;
use std::net::IpAddr;

use unicode_width::UnicodeWidthStr;

use crate::context::Origin;
use crate::digits;
use crate::record::Timestamp;
use crate::report::Identity;
use crate::text::{is_plain, visible};
pub(crate) use crate::words::{count, duration};

/// UTC time of day with nanoseconds.
pub(crate) fn clock(at: Timestamp) -> String {
    digits::instant(at.0).as_str().get(11..29).unwrap_or_default().to_owned()
}

/// Nanoseconds as seconds with nine digits.
pub(crate) fn seconds(ns: i128) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = ns.unsigned_abs();
    format!("{sign}{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// Columns that `text` takes on a terminal.
pub(crate) fn width(text: &str) -> usize {
    if is_plain(text) { text.len() } else { text.width() }
}

/// `text` filled up with spaces to `columns`.
pub(crate) fn pad(text: &str, columns: usize) -> String {
    let mut padded = String::new();
    push_padded(&mut padded, text, columns);
    padded
}

/// Appends `text` filled up with spaces to `columns`.
pub(crate) fn push_padded(to: &mut String, text: &str, columns: usize) {
    to.push_str(text);
    to.extend(std::iter::repeat_n(' ', columns.saturating_sub(width(text))));
}

/// `text` wrapped at words to `columns`.
pub(crate) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let options = textwrap::Options::new(columns)
        .break_words(false)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    textwrap::wrap(text, options).into_iter().map(Cow::into_owned).collect()
}

/// `namespace/pod`, else what is known instead, else `-`.
pub(crate) fn place(who: &Identity) -> String {
    let place = match (&who.namespace, &who.pod, &who.container_id, &who.cgroup) {
        (Some(namespace), Some(pod), ..) => format!("{namespace}/{pod}"),
        (None, Some(pod), ..) => pod.clone(),
        (_, None, Some(id), _) => id.chars().take(12).collect(),
        (_, None, None, Some(path)) => path.clone(),
        (_, None, None, None) => match who.address {
            Some(IpAddr::V4(ip)) => digits::ipv4(ip).as_str().to_owned(),
            Some(ip) => ip.to_string(),
            None => "-".into(),
        },
    };
    // A pod is one of the cluster; all else is on its host.
    let place = match (&who.host, &who.pod) {
        (Some(host), None) => format!("{host}:{place}"),
        _ => place,
    };
    let mut place = visible(&place);
    if who.named_by == Some(Origin::Proc) {
        place.push_str(" (guessed)");
    }
    place
}

/// `comm[pid]`, else what is known of it, else `-`.
pub(crate) fn process(who: &Identity) -> String {
    match (&who.comm, who.pid) {
        (Some(comm), Some(pid)) => format!("{}[{pid}]", visible(comm)),
        (Some(comm), None) => visible(comm),
        (None, Some(pid)) => format!("[{pid}]"),
        (None, None) => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_nine_digits() {
        assert_eq!(clock(Timestamp(1_700_000_000_000_000_042)), "22:13:20.000000042");
        assert_eq!(seconds(-1_500_000_000), "-1.500000000");
        assert_eq!(seconds(12), "0.000000012");
    }
}
