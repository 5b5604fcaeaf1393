//! Plain domain names straight from the wire to text. Whatever is not plain (escapes, errors, odd
//! pointers) is left to the codec, which says the same of those that are, more slowly.

/// Longest name on the wire (RFC 1035 section 2.3.4).
const NAME_MAX: usize = 255;
const LABEL_MAX: u8 = 63;
/// Bytes looked at together.
const WIDE: usize = 16;

/// Room for the text of a name, with whole pieces of [`WIDE`] bytes wherever one begins.
#[derive(Debug)]
pub(super) struct Room([u8; NAME_MAX + WIDE]);

impl Default for Room {
    fn default() -> Self {
        Self([PLAIN; _])
    }
}

/// Stands for itself, like what is behind the text in its [`Room`].
const PLAIN: u8 = b'a';

/// Letters, digits, hyphen and underscore: they stand for themselves.
fn is_plain(bytes: &[u8; WIDE]) -> bool {
    // No early end, so it is done with all at once.
    bytes.iter().fold(true, |all, byte| {
        all & (byte.is_ascii_alphanumeric() | (*byte == b'-') | (*byte == b'_'))
    })
}

/// The name at `start` of `message`, written to `room`, without the final dot (the root is "."), and the
/// bytes it takes in the message; `None` where it is not plain.
pub(super) fn plain<'t>(
    message: &[u8],
    start: usize,
    room: &'t mut Room,
) -> Option<(&'t str, usize)> {
    let Room(text) = room;
    let mut length = 0;
    let mut segment = start;
    let mut used = None;
    loop {
        // Labels in a row, until the root or a pointer.
        let row = message.get(segment..)?;
        let mut end = 0;
        let high = loop {
            match *row.get(end)? {
                0 => break None,
                size @ 1..=LABEL_MAX => end += 1 + usize::from(size),
                high @ 0xc0.. => break Some(high),
                _ => return None,
            }
        };
        // The root's own length needs a place, too.
        let place = text.get_mut(length..NAME_MAX - 1)?.get_mut(..end)?;
        place.copy_from_slice(row.get(..end)?);
        put_at_lengths(place, row, PLAIN);
        let (pieces, _) = text.get(length..)?.as_chunks();
        if !pieces.iter().take(end.div_ceil(WIDE)).all(is_plain) {
            return None;
        }
        // A dot takes the place of the length in front of each label.
        put_at_lengths(text.get_mut(length..length + end)?, row, b'.');
        length += end;
        let Some(high) = high else {
            used.get_or_insert_with(|| segment + end + 1 - start);
            break;
        };
        used.get_or_insert_with(|| segment + end + 2 - start);
        let to = u16::from_be_bytes([high & 0x3f, *row.get(end + 1)?]).into();
        // Always backwards, so it ends.
        if to >= segment {
            return None;
        }
        segment = to;
    }
    let text = text.get(1..length).unwrap_or(b".");
    Some((std::str::from_utf8(text).ok()?, used?))
}

/// Puts `byte` where in `row` the lengths of labels stand.
fn put_at_lengths(place: &mut [u8], row: &[u8], byte: u8) {
    let mut at = 0;
    while let (Some(place), Some(size)) = (place.get_mut(at), row.get(at)) {
        *place = byte;
        at += 1 + usize::from(*size);
    }
}
