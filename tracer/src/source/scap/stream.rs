//! DNS over TCP out of what calls on a socket carried, in however many calls. Knows no sockets but by
//! cookie; what the writer cut is not made up.

use std::collections::HashMap;

use crate::framing::{Framing, Whole};

/// Streams with a message under way.
const STREAMS_MAX: usize = 256;

/// Streams by socket and direction; one between two messages costs nothing.
#[derive(Debug, Default)]
pub(super) struct Streams {
    partial: HashMap<(u64, bool), Framing>,
    /// Streams whose messages were lost.
    pub(super) given_up: u64,
}

impl Streams {
    /// `size` bytes passed, of which `bytes` are the first; appends the messages that end here.
    pub(super) fn pass<'a>(
        &mut self,
        key: (u64, bool),
        bytes: &'a [u8],
        size: usize,
        whole: &mut Vec<Whole<'a>>,
    ) {
        let mut framing = self.partial.remove(&key).unwrap_or_default();
        self.given_up += u64::from(!framing.pass(bytes, size, whole));
        if framing == Framing::Between {
            return;
        }
        if self.partial.len() >= STREAMS_MAX {
            self.given_up += 1;
        } else {
            self.partial.insert(key, framing);
        }
    }

    /// The socket is gone; whether messages were under way on it.
    pub(super) fn end(&mut self, cookie: u64) -> bool {
        let under_way = |framing: Option<Framing>| framing.is_some_and(|f| f.under_way());
        let incoming = under_way(self.partial.remove(&(cookie, true)));
        under_way(self.partial.remove(&(cookie, false))) || incoming
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
