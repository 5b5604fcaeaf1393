//! Small pieces of text: foreign strings made harmless, durations, clock times, padding, wrapping.
//! Pure functions.

use std::borrow::Cow;

use unicode_width::UnicodeWidthStr;

use crate::record::Timestamp;
use crate::report::Identity;

/// A character that a terminal could obey or that hides or reorders what follows: controls (C0, DEL,
/// C1), bidirectional marks, line and paragraph separators, zero-width and other invisible ones.
pub(crate) fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// `text` on one line with nothing hostile in it; what was escaped before stays as it is.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match u32::from(c) {
            _ if !is_hostile(c) => safe.push(c),
            code @ 0..=0x7f => safe.push_str(&format!("\\x{code:02x}")),
            code => safe.push_str(&format!("\\u{{{code:x}}}")),
        }
    }
    Cow::Owned(safe)
}

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
        (_, None, None, None) => "-".into(),
    };
    clean(&place).into_owned()
}

/// `comm[pid]`, else what is known of it, else `-`.
pub(crate) fn process(who: &Identity) -> String {
    match (&who.comm, who.pid) {
        (Some(comm), Some(pid)) => format!("{}[{pid}]", clean(comm)),
        (Some(comm), None) => clean(comm).into_owned(),
        (None, Some(pid)) => format!("[{pid}]"),
        (None, None) => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_survives() {
        let evil = "a\u{1b}[2Jb\u{7}c\nd\re\u{202e}f\u{9b}31mg\u{200b}h\u{2028}i\tj\u{7f}";
        let safe = clean(evil);
        assert!(!safe.contains(is_hostile), "{safe:?}");
        assert_eq!(
            safe,
            "a\\x1b[2Jb\\x07c\\x0ad\\x0de\\u{202e}f\\u{9b}31mg\\u{200b}h\\u{2028}i\\x09j\\x7f"
        );
    }

    #[test]
    fn cleaning_twice_changes_nothing() {
        for text in ["plain", "\\x1b[0m", "back\\slash", "ü-ñ-漢", "\u{1b}]0;x\u{7}"] {
            let once = clean(text).into_owned();
            assert_eq!(clean(&once), once);
        }
        assert_eq!(clean("back\\slash ü 漢"), "back\\slash ü 漢");
    }

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
