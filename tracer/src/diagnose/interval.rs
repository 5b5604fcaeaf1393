//! Sets of instants as sorted, disjoint intervals: unions, differences, lengths. Knows no causes.

use crate::record::Timestamp;

/// Half-open interval.
pub(crate) type Span = (Timestamp, Timestamp);

/// A union of intervals.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Intervals {
    spans: Vec<Span>,
    folded: Option<Folded>,
}

/// Spans that are kept as their sum only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Folded {
    ns: u64,
    start: Timestamp,
    end: Timestamp,
}

impl Intervals {
    pub(crate) fn add(&mut self, (from, to): Span) {
        let from = self.folded.map_or(from, |folded| from.max(folded.end));
        if to <= from {
            return;
        }
        let start = self.spans.partition_point(|(_, end)| *end < from);
        let stop = self.spans.partition_point(|(begin, _)| *begin <= to);
        let merged = match self.spans.get(start..stop) {
            Some([first, .., last]) => (first.0.min(from), last.1.max(to)),
            Some([one]) => (one.0.min(from), one.1.max(to)),
            _ => (from, to),
        };
        self.spans.splice(start..stop, [merged]);
    }

    /// Adds what `other` keeps.
    pub(crate) fn extend(&mut self, other: &Self) {
        for span in &other.spans {
            self.add(*span);
        }
    }

    /// Like [`extend`](Self::extend), without what lies before `from`.
    pub(crate) fn extend_from(&mut self, from: Timestamp, other: &Self) {
        for (start, end) in &other.spans {
            self.add(((*start).max(from), *end));
        }
    }

    /// Total length in nanoseconds.
    pub(crate) fn length_ns(&self) -> u64 {
        let folded = self.folded.map_or(0, |folded| folded.ns);
        self.spans.iter().fold(folded, |sum, (from, to)| sum.saturating_add(to.since(*from)))
    }

    pub(crate) fn start(&self) -> Option<Timestamp> {
        let first = self.spans.first().map(|(from, _)| *from);
        self.folded.map(|folded| folded.start).or(first)
    }

    pub(crate) fn end(&self) -> Option<Timestamp> {
        let last = self.spans.last().map(|(_, to)| *to);
        last.or(self.folded.map(|folded| folded.end))
    }

    /// Keeps only the latest when there are more than `most`: nothing is added before those any more.
    pub(crate) fn fold(&mut self, most: usize) {
        if self.spans.len() <= most {
            return;
        }
        let old = self.spans.drain(..self.spans.len() - most / 2);
        for (start, end) in old {
            let folded = self.folded.get_or_insert(Folded { ns: 0, start, end });
            folded.ns = folded.ns.saturating_add(end.since(start));
            folded.end = end;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// Cuts off what lies before `at` and returns it.
    pub(crate) fn take_before(&mut self, at: Timestamp) -> Self {
        let mut taken = Self::default();
        self.spans.retain_mut(|(from, to)| {
            if *from < at {
                taken.spans.push((*from, (*to).min(at)));
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

    #[test]
    fn what_is_folded_still_counts() {
        let mut all = Intervals::default();
        for at in 0..1000 {
            all.add((Timestamp(10 * at), Timestamp(10 * at + 3)));
            all.fold(16);
            assert!(all.len() <= 16);
        }
        assert_eq!(all.length_ns(), 3000);
        assert_eq!((all.start(), all.end()), (Some(Timestamp(0)), Some(Timestamp(9993))));
        all.add((Timestamp(5), Timestamp(9)));
        assert_eq!(all.length_ns(), 3000, "too late to be told apart");
    }
}
