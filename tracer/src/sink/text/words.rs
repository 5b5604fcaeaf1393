//! Small pieces of text: durations, clock times, padding, wrapping.
//! Pure functions.

use std::borrow::Cow;

use unicode_width::UnicodeWidthStr;

use crate::record::Timestamp;
use crate::report::Identity;
use crate::text::visible;

/// A duration as people say it: three figures that matter, one unit.
pub(crate) fn duration(ns: u64) -> String {
    let value = ns as f64;
    match ns {
        0 => "0 ms".into(),
        1..100_000 => format!("{:.2} ms", (value / 1e6).max(0.01)),
        100_000..9_950_000 => format!("{:.1} ms", value / 1e6),
        9_950_000..999_500_000 => format!("{:.0} ms", value / 1e6),
        999_500_000..9_995_000_000 => format!("{:.2} s", value / 1e9),
        9_995_000_000..120_000_000_000 => format!("{:.1} s", value / 1e9),
        120_000_000_000..7_200_000_000_000 => {
            format!("{} min {} s", ns / 60_000_000_000, ns / 1_000_000_000 % 60)
        }
        _ => format!("{} h {} min", ns / 3_600_000_000_000, ns / 60_000_000_000 % 60),
    }
}

/// UTC time of day with nanoseconds.
pub(crate) fn clock(at: Timestamp) -> String {
    let seconds = at.0 / 1_000_000_000 % 86_400;
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hour:02}:{minute:02}:{second:02}.{:09}", at.0 % 1_000_000_000)
}

/// Nanoseconds as seconds with nine digits.
pub(crate) fn seconds(ns: i128) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = ns.unsigned_abs();
    format!("{sign}{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// `3 queries`, `1 query`.
pub(crate) fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// Columns that `text` takes on a terminal.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// `text` filled up with spaces to `columns`.
pub(crate) fn pad(text: &str, columns: usize) -> String {
    let missing = columns.saturating_sub(width(text));
    format!("{text}{}", " ".repeat(missing))
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
        (_, None, None, None) => who.address.map_or_else(|| "-".into(), |a| a.to_string()),
    };
    visible(&place)
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
    fn durations_read_like_speech() {
        let said = |ns| duration(ns);
        assert_eq!(said(0), "0 ms");
        assert_eq!(said(1), "0.01 ms");
        assert_eq!(said(60_000), "0.06 ms");
        assert_eq!(said(400_000), "0.4 ms");
        assert_eq!(said(2_180_000), "2.2 ms");
        assert_eq!(said(312_400_000), "312 ms");
        assert_eq!(said(999_600_000), "1.00 s");
        assert_eq!(said(8_015_000_000), "8.02 s");
        assert_eq!(said(9_996_000_000), "10.0 s");
        assert_eq!(said(10_010_000_000), "10.0 s");
        assert_eq!(said(125_000_000_000), "2 min 5 s");
        assert_eq!(said(7_260_000_000_000), "2 h 1 min");
    }

    #[test]
    fn times_have_nine_digits() {
        assert_eq!(clock(Timestamp(1_700_000_000_000_000_042)), "22:13:20.000000042");
        assert_eq!(seconds(-1_500_000_000), "-1.500000000");
        assert_eq!(seconds(12), "0.000000012");
    }
}
