//! Clocks of two hosts: how far one is ahead of the other, told from one question that both saw, and
//! one host's story by the other's clock. Remembers nothing.

use crate::record::Timestamp;

use super::transaction::Sent;
use super::upstream::Received;

/// Clocks of two hosts differ by so much at most; NTP keeps them closer.
pub(crate) const HOSTS_SKEW_NS: u64 = 50_000_000;
/// The difference and the question's way.
const AHEAD_MAX_NS: u64 = 2 * HOSTS_SKEW_NS;

/// By how much the clock of `arrivals` is ahead of that of `sends`, in nanoseconds: the least
/// difference between one and the other. 0 where none are near.
pub(crate) fn ahead(sends: &[Sent], arrivals: &[Sent]) -> i64 {
    let all = arrivals.iter().flat_map(|arrival| {
        sends.iter().map(|sent| arrival.at.0.wrapping_sub(sent.at.0).cast_signed())
    });
    let least = all.min_by_key(|ahead| ahead.unsigned_abs());
    least.filter(|ahead| ahead.unsigned_abs() <= AHEAD_MAX_NS).unwrap_or_default()
}

/// An instant by another clock.
pub(crate) fn shifted(at: Timestamp, ns: i64) -> Timestamp {
    Timestamp(at.0.saturating_add_signed(ns))
}

/// All of what a resolver saw by another clock.
pub(crate) fn shift(received: &mut Received, ns: i64) {
    let arrivals = received.arrivals.iter_mut().map(|sent| &mut sent.at);
    for beyond in received.tries.iter_mut().filter_map(|t| t.beyond.as_deref_mut()) {
        shift(beyond, ns);
    }
    let tries = received.tries.iter_mut().flat_map(|t| [&mut t.sent.at, &mut t.until]);
    let answered = received.answered.iter_mut().map(|(sent, _)| &mut sent.at);
    for at in arrivals.chain(tries).chain(answered) {
        *at = shifted(*at, ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: &[u64]) -> Vec<Sent> {
        ms.iter().map(|ms| Sent { at: Timestamp(ms * 1_000_000), number: 1 }).collect()
    }

    #[test]
    fn the_nearest_pair_tells() {
        assert_eq!(ahead(&at(&[1000, 6000]), &at(&[1020, 6021])), 20_000_000);
        // The first datagram was lost on its way.
        assert_eq!(ahead(&at(&[1000, 6000]), &at(&[5970])), -30_000_000);
        assert_eq!(ahead(&at(&[1000]), &at(&[1500])), 0, "that is no clock");
        assert_eq!(ahead(&at(&[1000]), &[]), 0);
    }
}
