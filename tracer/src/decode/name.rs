//! Plain domain names straight from the wire to text. Whatever is not plain (escapes, errors, odd
//! pointers) is left to the codec, which says the same of those that are, more slowly.

/// Longest name on the wire (RFC 1035 section 2.3.4).
const NAME_MAX: usize = 255;
const LABEL_MAX: u8 = 63;

/// The name at `start` of `message` without the final dot (the root is "."), and the bytes it takes
/// there; `None` where it is not plain.
pub(super) fn plain(message: &[u8], start: usize) -> Option<(String, usize)> {
    let mut text = String::with_capacity(64);
    let (mut at, mut segment) = (start, start);
    let mut length = 1;
    let mut used = None;
    loop {
        match *message.get(at)? {
            0 => break,
            size @ 1..=LABEL_MAX => {
                let label = message.get(at + 1..at + 1 + usize::from(size))?;
                length += 1 + label.len();
                let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
                if length > NAME_MAX || !label.iter().all(plain) {
                    return None;
                }
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(std::str::from_utf8(label).ok()?);
                at += 1 + label.len();
            }
            high @ 0xc0.. => {
                let to = u16::from_be_bytes([high & 0x3f, *message.get(at + 1)?]).into();
                // Always backwards, so it ends.
                if to >= segment {
                    return None;
                }
                used.get_or_insert_with(|| at + 2 - start);
                (at, segment) = (to, to);
            }
            _ => return None,
        }
    }
    if text.is_empty() {
        text.push('.');
    }
    Some((text, used.unwrap_or_else(|| at + 1 - start)))
}
