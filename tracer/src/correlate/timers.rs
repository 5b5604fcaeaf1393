//! Instants at which something is to be looked at again. One that was set anew stays under its old
//! instant, too, until that comes or there are too many: who asks knows which is the right one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::record::Timestamp;

/// Fewer are not worth tidying.
const FEW: usize = 1024;
/// Timers for each thing there is before the old ones are thrown away.
const EACH: usize = 4;

/// What to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Transaction(u64),
    Lookup(u64),
}

/// The instants, the next first.
#[derive(Debug, Default)]
pub(super) struct Timers(BinaryHeap<Reverse<(Timestamp, Timer)>>);

impl Timers {
    pub(super) fn set(&mut self, at: Timestamp, timer: Timer) {
        self.0.push(Reverse((at, timer)));
    }

    /// The first one's time has come.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.0.peek().is_some_and(|Reverse((at, _))| *at <= now)
    }

    /// The first, if its time has come.
    pub(super) fn due(&mut self, now: Timestamp) -> Option<(Timestamp, Timer)> {
        let Reverse(first) = self.is_due(now).then(|| self.0.pop())??;
        Some(first)
    }

    /// There are many more than `things`.
    pub(super) fn are_many(&self, things: usize) -> bool {
        self.0.len() > FEW + EACH * things
    }

    /// Throws away those that do not `hold`, when there are many more than `things`.
    pub(super) fn tidy(&mut self, things: usize, hold: impl Fn(Timestamp, Timer) -> bool) {
        if self.are_many(things) {
            self.0.retain(|Reverse((at, timer))| hold(*at, *timer));
            self.0.shrink_to(FEW + EACH * things);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_instants_do_not_pile_up() {
        let mut timers = Timers::default();
        for at in 0..100_000 {
            timers.set(Timestamp(at), Timer::Lookup(7));
            timers.tidy(1, |set, _| set.0 == at);
            assert!(timers.0.len() <= FEW + EACH);
        }
        assert_eq!(timers.due(Timestamp(0)), None);
        let last = std::iter::from_fn(|| timers.due(Timestamp(u64::MAX))).last();
        assert_eq!(last, Some((Timestamp(99_999), Timer::Lookup(7))));
    }
}
