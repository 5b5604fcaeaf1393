//! Makes text from outside safe to print: what a terminal could act on or show misleadingly is
//! escaped. Leaves colours and layout to the sinks.

use std::fmt::Write;

/// Printable UTF-8 stays; a backslash is doubled; control bytes and invalid bytes become `\xNN`,
/// format, bidirectional and other invisible characters and marks that change another one `\u{...}`.
pub fn escape(bytes: &[u8]) -> String {
    shown(bytes, "\\\\")
}

/// Like [`escape`], for text in which a backslash already is an escape: it stays as it is.
pub fn visible(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { visible_bytes(text.as_bytes()) }
}

/// Like [`visible`], for names that may have escapes of their own, as systemd's cgroups have.
pub fn visible_bytes(bytes: &[u8]) -> String {
    shown(bytes, "\\")
}

fn shown(bytes: &[u8], backslash: &str) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' {
                out.push_str(backslash);
            } else {
                push_visible(&mut out, c);
            }
        }
        for byte in chunk.invalid() {
            push_hex(&mut out, *byte);
        }
    }
    out
}

/// Nothing but ASCII that a terminal shows as it is, one column each.
pub fn is_plain(text: &str) -> bool {
    text.bytes().fold(true, |plain, byte| plain & matches!(byte, b' '..=b'~'))
}

/// Whether a terminal shows `c` as it is: no control, no bidirectional mark, nothing invisible.
pub fn is_visible(c: char) -> bool {
    match u8::try_from(c) {
        Ok(byte) if byte < 0x80 => matches!(byte, b' '..=b'~'),
        // `escape_debug` knows Unicode's tables: one character comes back as itself if printable.
        _ => c.escape_debug().count() == 1,
    }
}

fn push_visible(out: &mut String, c: char) {
    match u8::try_from(c) {
        _ if is_visible(c) => out.push(c),
        Ok(byte) if byte < 0x80 => push_hex(out, byte),
        _ => out.extend(c.escape_unicode()),
    }
}

fn push_hex(out: &mut String, byte: u8) {
    let _ = write!(out, "\\x{byte:02x}"); // writing to a String cannot fail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_a_terminal_could_act_on() {
        let cases: [(&[u8], &str); 8] = [
            (b"curl", "curl"),
            (b"my app", "my app"),
            (b"\x1b[31mred\x07", "\\x1b[31mred\\x07"),
            (b"a\\x41", "a\\\\x41"),
            ("gr\u{fc}n".as_bytes(), "gr\u{fc}n"),
            ("a\u{202e}b\u{200b}\u{9b}".as_bytes(), "a\\u{202e}b\\u{200b}\\u{9b}"),
            (b"bad\xff\xc3", "bad\\xff\\xc3"),
            (b"\n\t\r\0\x7f", "\\x0a\\x09\\x0d\\x00\\x7f"),
        ];
        for (given, want) in cases {
            assert_eq!(escape(given), want);
        }
        // A combining mark, a soft hyphen, a direction mark, a tag; systemd's own escape stays.
        let odd = visible("a\u{319}b\u{ad}c\u{202e}d\u{e0041}gr\u{fc}n \\x2d");
        assert_eq!(odd, "a\\u{319}b\\u{ad}c\\u{202e}d\\u{e0041}gr\u{fc}n \\x2d");
        assert!(odd.chars().all(is_visible));
        assert_eq!(visible("a\\032b\x1b"), "a\\032b\\x1b");
        assert_eq!(visible_bytes(b"a\\x2db\xff"), "a\\x2db\\xff");
    }
}
