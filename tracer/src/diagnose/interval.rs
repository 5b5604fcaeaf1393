//! Sets of instants as sorted, disjoint intervals: unions, differences, lengths. Knows no causes.

use crate::record::Timestamp;

/// Half-open interval.
pub(crate) type Span = (Timestamp, Timestamp);

/// A union of intervals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Intervals(Vec<Span>);

impl Intervals {
    pub(crate) fn add(&mut self, (from, to): Span) {
        if to <= from {
            return;
        }
        let start = self.0.partition_point(|(_, end)| *end < from);
        let stop = self.0.partition_point(|(begin, _)| *begin <= to);
        let merged = match self.0.get(start..stop) {
            Some([first, .., last]) => (first.0.min(from), last.1.max(to)),
            Some([one]) => (one.0.min(from), one.1.max(to)),
            _ => (from, to),
        };
        self.0.splice(start..stop, [merged]);
    }

    pub(crate) fn extend(&mut self, other: &Self) {
        for span in &other.0 {
            self.add(*span);
        }
    }

    /// Like [`extend`](Self::extend), without what lies before `from`.
    pub(crate) fn extend_from(&mut self, from: Timestamp, other: &Self) {
        for (start, end) in &other.0 {
            self.add(((*start).max(from), *end));
        }
    }

    /// Total length in nanoseconds.
    pub(crate) fn length_ns(&self) -> u64 {
        self.0.iter().map(|(from, to)| to.since(*from)).sum()
    }

    pub(crate) fn start(&self) -> Option<Timestamp> {
        self.0.first().map(|(from, _)| *from)
    }

    pub(crate) fn end(&self) -> Option<Timestamp> {
        self.0.last().map(|(_, to)| *to)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Cuts off what lies before `at` and returns it.
    pub(crate) fn take_before(&mut self, at: Timestamp) -> Self {
        let mut taken = Self::default();
        self.0.retain_mut(|(from, to)| {
            if *from < at {
                taken.0.push((*from, (*to).min(at)));
                *from = at;
            }
            *from < *to
        });
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(spans: &[(u64, u64)]) -> Intervals {
        let mut set = Intervals::default();
        for (from, to) in spans {
            set.add((Timestamp(*from), Timestamp(*to)));
        }
        set
    }

    #[test]
    fn union_counts_each_instant_once() {
        assert_eq!(set(&[(0, 10), (5, 15), (20, 30), (15, 16)]).length_ns(), 26);
        assert_eq!(set(&[(20, 30), (0, 10), (5, 25)]), set(&[(0, 30)]));
        assert_eq!(set(&[(3, 3)]).len(), 0);
    }

    #[test]
    fn cuts() {
        let mut all = set(&[(0, 10), (20, 30)]);
        assert_eq!(all.take_before(Timestamp(25)), set(&[(0, 10), (20, 25)]));
        assert_eq!(all, set(&[(25, 30)]));
    }
}
