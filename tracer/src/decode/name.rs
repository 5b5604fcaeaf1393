//! Plain domain names straight from the wire to text. Whatever is not plain (escapes, errors, odd
//! pointers) is left to the codec, which says the same of those that are, more slowly.

/// Longest name on the wire (RFC 1035 section 2.3.4).
pub(super) const NAME_MAX: usize = 255;
const LABEL_MAX: u8 = 63;

/// Bytes that stand for themselves: letters, digits, hyphen and underscore.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        plain[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        byte += 1;
    }
    plain
};

/// The name at `start` of `message`, written to `text`, without the final dot (the root is "."), and the
/// bytes it takes in the message; `None` where it is not plain.
pub(super) fn plain<'t>(
    message: &[u8],
    start: usize,
    text: &'t mut [u8; NAME_MAX],
) -> Option<(&'t str, usize)> {
    let mut length = 0;
    let (mut at, mut segment) = (start, start);
    let mut used = None;
    loop {
        match *message.get(at)? {
            0 => break,
            size @ 1..=LABEL_MAX => {
                let label = message.get(at + 1..at + 1 + usize::from(size))?;
                // A dot behind each label takes the place of the length in front of it; the root's
                // own length needs a place, too.
                let place = text.get_mut(length..NAME_MAX - 1)?.get_mut(..label.len() + 1)?;
                let (dot, place) = place.split_last_mut()?;
                let mut all = true;
                for (to, from) in place.iter_mut().zip(label) {
                    all &= PLAIN[usize::from(*from)];
                    *to = *from;
                }
                if !all {
                    return None;
                }
                *dot = b'.';
                length += label.len() + 1;
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
    let text = text.get(..length.saturating_sub(1))?;
    let text = if text.is_empty() { "." } else { std::str::from_utf8(text).ok()? };
    Some((text, used.unwrap_or_else(|| at + 1 - start)))
}
