//! Puts records of several CPUs and of the agent into one order by time, numbers them, counts those
//! that came too late. Keeps a bounded window; knows no descriptors.

use std::collections::VecDeque;

use super::convert;
use crate::record::{Record, Timestamp};

/// How much later than its time a record may arrive, in nanoseconds.
pub(super) const WINDOW_NS: u64 = 50_000_000;
/// Most records held back; beyond it the oldest go at once.
const HELD_MAX: usize = 1 << 16;
/// Most bytes of their bodies; likewise.
const HELD_BYTES_MAX: usize = 64 << 20;

/// The reorder window. Times are `CLOCK_BOOTTIME` nanoseconds until release.
#[derive(Debug, Default)]
pub(super) struct Merge {
    /// In order; what has the same time, in the order it came. The ring's records nearly are in order:
    /// a new one goes to the end or close to it.
    held: VecDeque<Record>,
    held_bytes: usize,
    watermark_ns: u64,
    released_ns: u64,
    number: u64,
    offset_ns: i64,
    late: u64,
}

impl Merge {
    /// Nothing held yet. `offset_ns` is Unix time minus boot time, in nanoseconds.
    pub(super) fn new(offset_ns: i64) -> Self {
        Self { offset_ns, ..Self::default() }
    }

    /// Takes in a kernel record.
    pub(super) fn kernel(&mut self, record: Record) {
        if record.at.0 < self.released_ns {
            self.late += 1;
            return;
        }
        self.passed(record.at.0);
        self.hold(record);
    }

    /// Takes in a record of the agent; what comes late is a fact from now on.
    pub(super) fn context(&mut self, mut record: Record) {
        record.at.0 = record.at.0.max(self.released_ns);
        self.hold(record);
    }

    /// All kernel records up to about this time have been taken in.
    pub(super) fn passed(&mut self, boot_ns: u64) {
        self.watermark_ns = self.watermark_ns.max(boot_ns.saturating_sub(WINDOW_NS));
    }

    /// No more records come: everything held may go.
    pub(super) fn end(&mut self) {
        self.watermark_ns = u64::MAX;
    }

    /// The next record in order, if it may go.
    pub(super) fn next(&mut self) -> Option<Record> {
        let first = self.held.front()?.at.0;
        let room = self.held.len() <= HELD_MAX && self.held_bytes <= HELD_BYTES_MAX;
        if first > self.watermark_ns && room {
            return None;
        }
        let mut record = self.held.pop_front()?;
        self.held_bytes -= record.body.len();
        self.released_ns = first;
        self.number += 1;
        record.number = self.number;
        convert::to_unix(&mut record, self.offset_ns);
        Some(record)
    }

    /// Records that came after their place had passed, since the last call.
    pub(super) fn take_late(&mut self) -> u64 {
        std::mem::take(&mut self.late)
    }

    /// Time of the last released record, boot clock.
    pub(super) fn released(&self) -> Timestamp {
        Timestamp(self.released_ns)
    }

    /// Unix time minus boot time.
    pub(super) fn offset(&self) -> i64 {
        self.offset_ns
    }

    fn hold(&mut self, record: Record) {
        self.held_bytes += record.body.len();
        match self.held.back() {
            Some(last) if last.at > record.at => {
                let place = self.held.partition_point(|held| held.at <= record.at);
                self.held.insert(place, record);
            }
            _ => self.held.push_back(record),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RecordKind;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn at(boot_ns: u64) -> Record {
        Record::bare(0, Timestamp(boot_ns), RecordKind::Exit, Bytes::new())
    }

    #[test]
    fn holds_until_the_window_has_passed() {
        let mut merge = Merge::default();
        merge.kernel(at(1_000));
        merge.kernel(at(900));
        assert!(merge.next().is_none());
        merge.kernel(at(1_000 + WINDOW_NS));
        assert_eq!(merge.next().unwrap().at, Timestamp(900));
        assert_eq!(merge.next().unwrap().number, 2);
        assert!(merge.next().is_none());
        merge.kernel(at(999));
        merge.end();
        assert_eq!(merge.next().unwrap().number, 3);
        assert_eq!(merge.take_late(), 1);
    }

    proptest! {
        #[test]
        fn order_and_count_hold(times in proptest::collection::vec(0_u64..400_000_000, 0..200)) {
            let mut merge = Merge::default();
            let mut out = Vec::new();
            for time in &times {
                merge.kernel(at(*time));
                out.extend(std::iter::from_fn(|| merge.next()));
            }
            merge.end();
            out.extend(std::iter::from_fn(|| merge.next()));
            prop_assert!(out.windows(2).all(|pair| pair[0].at <= pair[1].at && pair[0].number + 1 == pair[1].number));
            prop_assert_eq!(out.len() as u64 + merge.take_late(), times.len() as u64);
        }
    }
}
