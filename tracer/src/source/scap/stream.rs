//! DNS over TCP out of what calls on a socket carried: messages behind their two bytes of length, in
//! however many calls. Knows no sockets but by cookie; what the writer cut is not made up.

use std::collections::HashMap;

/// Streams with a message under way.
const STREAMS_MAX: usize = 256;

/// A message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Whole {
    /// As far as the writer kept it.
    pub(super) bytes: Vec<u8>,
    /// Bytes it had on the socket.
    pub(super) original: u32,
}

/// A message under way.
#[derive(Debug)]
enum Partial {
    /// The first byte of its length.
    Half(u8),
    /// Its length, what is there of it, and how much has passed.
    Body { len: u16, bytes: Vec<u8>, passed: usize },
    /// Where messages begin is not known any more.
    Lost,
}

/// Streams by socket and direction; one between two messages costs nothing.
#[derive(Debug, Default)]
pub(super) struct Streams {
    partial: HashMap<(u64, bool), Partial>,
    /// Streams whose messages were lost.
    pub(super) given_up: u64,
}

impl Streams {
    /// `size` bytes passed, of which `bytes` are the first; appends the messages that end here.
    pub(super) fn pass(
        &mut self,
        key: (u64, bool),
        mut bytes: &[u8],
        mut size: usize,
        whole: &mut Vec<Whole>,
    ) {
        bytes = bytes.get(..size).unwrap_or(bytes);
        let mut partial = self.partial.remove(&key);
        while size > 0 {
            partial = match (partial, bytes) {
                // A call that carries exactly one message is where the stream is found again.
                (None | Some(Partial::Lost), [a, b, ..])
                    if usize::from(u16::from_be_bytes([*a, *b])) + 2 == size =>
                {
                    (bytes, size) = (bytes.get(2..).unwrap_or_default(), size - 2);
                    body(u16::from_be_bytes([*a, *b]))
                }
                (Some(Partial::Lost), _) => {
                    size = 0;
                    Some(Partial::Lost)
                }
                (None, [a, rest @ ..]) => {
                    (bytes, size) = (rest, size - 1);
                    Some(Partial::Half(*a))
                }
                (Some(Partial::Half(a)), [b, rest @ ..]) => {
                    (bytes, size) = (rest, size - 1);
                    body(u16::from_be_bytes([a, *b]))
                }
                (Some(Partial::Body { len, bytes: mut kept, passed }), _) => {
                    let now = size.min(usize::from(len) - passed);
                    let there = bytes.get(..now).unwrap_or(bytes);
                    // Behind a hole nothing has its place.
                    if kept.len() == passed {
                        kept.extend_from_slice(there);
                    }
                    bytes = bytes.get(there.len()..).unwrap_or_default();
                    size -= now;
                    if passed + now == usize::from(len) {
                        whole.push(Whole { bytes: kept, original: len.into() });
                        None
                    } else {
                        Some(Partial::Body { len, bytes: kept, passed: passed + now })
                    }
                }
                (None | Some(Partial::Half(_)), []) => {
                    self.given_up += 1;
                    size = 0;
                    Some(Partial::Lost)
                }
            };
        }
        match partial {
            Some(_) if self.partial.len() >= STREAMS_MAX => self.given_up += 1,
            Some(partial) => {
                self.partial.insert(key, partial);
            }
            None => {}
        }
    }

    /// The socket is gone; whether messages were under way on it.
    pub(super) fn end(&mut self, cookie: u64) -> bool {
        let under_way =
            |partial: Option<Partial>| partial.is_some_and(|p| !matches!(p, Partial::Lost));
        let incoming = under_way(self.partial.remove(&(cookie, true)));
        under_way(self.partial.remove(&(cookie, false))) || incoming
    }
}

/// An empty message is none.
fn body(len: u16) -> Option<Partial> {
    (len > 0).then(|| Partial::Body { len, bytes: Vec::new(), passed: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
    }

    fn told(calls: &[(&[u8], usize)]) -> (Vec<(Vec<u8>, u32)>, u64) {
        let (mut streams, mut whole) = (Streams::default(), Vec::new());
        for (bytes, size) in calls {
            streams.pass((1, true), bytes, *size, &mut whole);
        }
        let whole = whole.into_iter().map(|w| (w.bytes, w.original)).collect();
        (whole, streams.given_up)
    }

    #[test]
    fn in_however_many_calls() {
        let both = [framed(b"first message"), framed(b"second")].concat();
        let want = vec![(b"first message".to_vec(), 13), (b"second".to_vec(), 6)];
        for a in 0..=both.len() {
            for b in a..=both.len() {
                let calls = [&both[..a], &both[a..b], &both[b..]].map(|part| (part, part.len()));
                assert_eq!(told(&calls), (want.clone(), 0), "{a} {b}");
            }
        }
    }

    #[test]
    fn what_was_cut_is_not_made_up() {
        let one = framed(b"first message");
        // The end of one call is missing, the message is cut, and the next one is found.
        let next = framed(b"second");
        let (got, given_up) = told(&[(&one[..6], one.len()), (&next, next.len())]);
        assert_eq!(got, [(b"firs".to_vec(), 13), (b"second".to_vec(), 6)]);
        assert_eq!(given_up, 0);
        // A hole where a length should be: lost until a call is exactly one message.
        let (got, given_up) = told(&[(&one[..1], one.len()), (b"xxxx", 4), (&next, next.len())]);
        assert_eq!((got, given_up), (vec![(b"second".to_vec(), 6)], 1));
    }

    #[test]
    fn no_more_streams_than_there_is_room_for() {
        let mut streams = Streams::default();
        for cookie in 0..10_000 {
            streams.pass((cookie, true), &[1], 1, &mut Vec::new());
        }
        assert_eq!((streams.partial.len(), streams.given_up), (STREAMS_MAX, 10_000 - 256));
        assert!(streams.end(0));
        assert!(!streams.end(0));
    }
}
