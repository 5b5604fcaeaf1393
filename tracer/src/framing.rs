//! DNS messages in a stream of bytes: each behind its two bytes of length (RFC 1035 section 4.2.2),
//! in however many pieces. Knows no connections and no order of segments; what is not there is not
//! made up.

use std::borrow::Cow;

/// Bytes of a DNS header.
const HEADER: usize = 12;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Whole<'a> {
    /// As far as its bytes were there; borrowed if they stood in one piece.
    pub(crate) bytes: Cow<'a, [u8]>,
    /// Bytes it had on the wire.
    pub(crate) original: u16,
}

/// Where in a message a stream is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Between two messages, or at the start.
    #[default]
    Between,
    /// Behind the first byte of a length.
    Half(u8),
    /// Inside a message: its length, what is there of it, and how much has passed.
    Body {
        /// Announced.
        len: u16,
        /// Its beginning, without holes.
        bytes: Vec<u8>,
        /// Bytes of it that have passed, there or not.
        passed: usize,
    },
    /// Where messages begin is not known (any more).
    Lost,
}

impl Framing {
    /// `size` bytes passed, of which `bytes` are the first. Appends the messages that end here; false
    /// when it became unknown where messages begin.
    pub(crate) fn pass<'a>(
        &mut self,
        bytes: &'a [u8],
        mut size: usize,
        whole: &mut Vec<Whole<'a>>,
    ) -> bool {
        let mut bytes = bytes.get(..size).unwrap_or(bytes);
        if *self == Self::Lost {
            if !begins(bytes, size) {
                return true;
            }
            *self = Self::Between;
        }
        while size > 0 {
            *self = match (std::mem::take(self), bytes) {
                (Self::Between, [a, rest @ ..]) => {
                    (bytes, size) = (rest, size - 1);
                    Self::Half(*a)
                }
                (Self::Half(a), [b, rest @ ..]) => {
                    (bytes, size) = (rest, size - 1);
                    let len = u16::from_be_bytes([a, *b]);
                    match bytes.split_at_checked(len.into()) {
                        Some((message, rest)) => {
                            (bytes, size) = (rest, size - message.len());
                            // An empty message is none.
                            if len > 0 {
                                whole.push(Whole { bytes: message.into(), original: len });
                            }
                            Self::Between
                        }
                        None => Self::Body { len, bytes: Vec::new(), passed: 0 },
                    }
                }
                (Self::Body { len, bytes: mut kept, passed }, _) => {
                    let now = size.min(usize::from(len).saturating_sub(passed));
                    let there = bytes.get(..now).unwrap_or(bytes);
                    // Behind a hole nothing has its place.
                    if kept.len() == passed {
                        kept.extend_from_slice(there);
                    }
                    bytes = bytes.get(there.len()..).unwrap_or_default();
                    size -= now;
                    if passed + now == usize::from(len) {
                        whole.push(Whole { bytes: kept.into(), original: len });
                        Self::Between
                    } else {
                        Self::Body { len, bytes: kept, passed: passed + now }
                    }
                }
                (Self::Lost | Self::Between | Self::Half(_), _) => {
                    *self = Self::Lost;
                    return false;
                }
            };
        }
        true
    }

    /// A message has begun and not ended.
    pub(crate) fn under_way(&self) -> bool {
        matches!(self, Self::Half(_) | Self::Body { .. })
    }

    /// Bytes of memory behind it.
    pub(crate) fn held(&self) -> usize {
        if let Self::Body { bytes, .. } = self { bytes.capacity() } else { 0 }
    }
}

/// Whether a piece out of the middle of a stream begins with a message: it holds exactly one or
/// several, or the last goes on behind it and looks like DNS.
fn begins(bytes: &[u8], size: usize) -> bool {
    let mut at = 0;
    loop {
        let Some(len) = bytes.get(at..).and_then(<[u8]>::first_chunk) else { return false };
        let len = usize::from(u16::from_be_bytes(*len));
        let header = bytes.get(at + 2..).and_then(<[u8]>::first_chunk);
        at += 2 + len;
        if len == 0 {
            return false;
        }
        if at == size {
            return true;
        }
        if len < HEADER || !header.is_some_and(plausible) {
            return false;
        }
        if at > size {
            return true;
        }
    }
}

/// Whether `bytes` begin with a length and the header of a DNS message of it.
pub(crate) fn is_head(bytes: &[u8]) -> bool {
    bytes.get(2..).and_then(<[u8]>::first_chunk).is_some_and(plausible)
}

/// Could begin a DNS message: a known opcode, the reserved bit clear, one question.
fn plausible(header: &[u8; HEADER]) -> bool {
    let flags = u16::from_be_bytes([header[2], header[3]]);
    let questions = u16::from_be_bytes([header[4], header[5]]);
    let response = flags & 0x8000 != 0;
    flags >> 11 & 0xf <= 6
        && flags & 0x0040 == 0
        && questions <= 1
        && (response || flags & 0x000f == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
    }

    fn told(framing: &mut Framing, pieces: &[(&[u8], usize)]) -> (Vec<(Vec<u8>, u16)>, usize) {
        let (mut all, mut lost) = (Vec::new(), 0);
        for (bytes, size) in pieces {
            let mut whole = Vec::new();
            lost += usize::from(!framing.pass(bytes, *size, &mut whole));
            all.extend(whole.into_iter().map(|w| (w.bytes.into_owned(), w.original)));
        }
        (all, lost)
    }

    #[test]
    fn in_however_many_pieces() {
        let both = [framed(b"first message"), framed(b"second")].concat();
        let want = vec![(b"first message".to_vec(), 13), (b"second".to_vec(), 6)];
        for a in 0..=both.len() {
            for b in a..=both.len() {
                let pieces = [&both[..a], &both[a..b], &both[b..]].map(|part| (part, part.len()));
                let mut framing = Framing::default();
                assert_eq!(told(&mut framing, &pieces), (want.clone(), 0), "{a} {b}");
                assert_eq!((framing.under_way(), framing.held()), (false, 0));
            }
        }
    }

    #[test]
    fn one_piece_is_not_copied() {
        let bytes = framed(b"first message");
        let mut whole = Vec::new();
        Framing::default().pass(&bytes, bytes.len(), &mut whole);
        assert!(matches!(whole[0].bytes, Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_missing_is_not_made_up() {
        let one = framed(b"first message");
        // The end of one piece is missing, the message is cut, and the next one is found.
        let next = framed(b"second");
        let pieces: [(&[u8], usize); 2] = [(&one[..6], one.len()), (&next, next.len())];
        let (got, lost) = told(&mut Framing::default(), &pieces);
        assert_eq!(got, [(b"firs".to_vec(), 13), (b"second".to_vec(), 6)]);
        assert_eq!(lost, 0);
        // A hole where a length should be: lost until a piece is exactly one message.
        let pieces: [(&[u8], usize); 3] =
            [(&one[..1], one.len()), (b"xxxx", 4), (&next, next.len())];
        let (got, lost) = told(&mut Framing::default(), &pieces);
        assert_eq!((got, lost), (vec![(b"second".to_vec(), 6)], 1));
    }

    #[test]
    fn found_again_where_a_piece_looks_like_a_message() {
        let long = framed(&[&[0, 7, 0x81, 0x80, 0, 1, 0, 9, 0, 0, 0, 0][..], &[1; 500]].concat());
        let pieces: [(&[u8], usize); 3] =
            [(&[9; 40], 40), (&long[..100], 100), (&long[100..], long.len() - 100)];
        let (got, _) = told(&mut Framing::Lost, &pieces);
        assert_eq!(got, [(long[2..].to_vec(), 512)]);
        // The same bytes from the middle do not.
        let pieces: [(&[u8], usize); 2] = [(&long[100..300], 200), (&long[300..], 214)];
        assert_eq!(told(&mut Framing::Lost, &pieces).0, []);
    }
}
