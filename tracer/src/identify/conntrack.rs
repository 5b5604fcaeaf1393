//! What connection tracking refused around an instant, by network namespace. Bounded; knows no packets.

use std::collections::{BTreeSet, VecDeque};

use super::table::Table;
use crate::context::Conntrack;
use crate::record::{HostId, Timestamp};

const NAMESPACES_MAX: usize = 1_024;
/// Readings kept of each: those that differ from the one before.
const READINGS_MAX: usize = 256;
/// A query is counted as refused this much before it is seen leaving its socket, or after.
const SKEW_NS: u64 = 10_000_000;

/// What a namespace's connection tracking refused around some instants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// The host it is on.
    pub host: HostId,
    /// Inode of the namespace.
    pub net_ns: u64,
    /// It is that in which svctrace ran: the node's.
    pub own: bool,
    /// Entries that could not be inserted (their packets are lost).
    pub insert_failed: u64,
    /// Packets dropped, those among them.
    pub drop: u64,
}

/// Readings of all namespaces.
#[derive(Debug)]
pub(super) struct Readings(Table<(HostId, u64), VecDeque<Conntrack>>);

impl Default for Readings {
    fn default() -> Self {
        Self(Table::new(NAMESPACES_MAX))
    }
}

impl Readings {
    pub(super) fn learn(&mut self, host: HostId, reading: &Conntrack) {
        self.0.change((host, reading.net_ns), |known| {
            // Told again in snapshots.
            if known.back().is_none_or(|last| last.at < reading.at) {
                known.push_back(*reading);
            }
            if known.len() > READINGS_MAX {
                known.pop_front();
            }
        });
    }

    /// Somebody tried to read them on this host.
    pub(super) fn tried(&self, host: HostId) -> bool {
        self.0.iter().any(|((of, _), _)| *of == host)
    }

    /// Of the own namespace and of these, as far as they could be read.
    pub(super) fn around(
        &self,
        host: HostId,
        namespaces: &BTreeSet<u64>,
        instants: &BTreeSet<Timestamp>,
    ) -> Vec<Refused> {
        let wanted = |((of, id), readings): &(&(HostId, u64), &VecDeque<Conntrack>)| {
            *of == host && (namespaces.contains(id) || readings.iter().any(|r| r.own))
        };
        let all = self.0.iter().filter(wanted);
        let mut found: Vec<Refused> =
            all.filter_map(|(_, readings)| refused(host, readings, instants)).collect();
        found.sort_by_key(|refused| (!refused.own, refused.net_ns));
        found
    }

    pub(super) fn evicted(&self) -> u64 {
        self.0.evicted()
    }
}

/// `None` where one of the instants is not covered.
fn refused(
    host: HostId,
    readings: &VecDeque<Conntrack>,
    instants: &BTreeSet<Timestamp>,
) -> Option<Refused> {
    let first = readings.front()?;
    let begin = instants.first()?;
    let during = |from: Timestamp, to: Timestamp| {
        let from = Timestamp(from.0.saturating_sub(SKEW_NS));
        instants.range(from..=to.plus(SKEW_NS)).next().is_some()
    };
    let after = readings.iter().skip(1).map(|next| next.at).chain([Timestamp(u64::MAX)]);
    let mut unread = readings.iter().zip(after).filter(|(reading, _)| reading.counters.is_none());
    if first.at > begin.plus(SKEW_NS) || unread.any(|(r, after)| during(r.since, after)) {
        return None;
    }
    let mut sum = Refused { host, net_ns: first.net_ns, own: first.own, ..Refused::default() };
    for (before, reading) in readings.iter().zip(readings.iter().skip(1)) {
        let (Some(old), Some(new)) = (before.counters, reading.counters) else { continue };
        if during(reading.since, reading.at) {
            let more = new.insert_failed.saturating_sub(old.insert_failed);
            sum.insert_failed = sum.insert_failed.saturating_add(more);
            sum.drop = sum.drop.saturating_add(new.drop.saturating_sub(old.drop));
        }
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::ConntrackCounters;

    const S: u64 = 1_000_000_000;

    fn reading(net_ns: u64, since: u64, at: u64, refused: Option<u64>) -> Conntrack {
        let counters = |n| ConntrackCounters { insert_failed: n, drop: n, early_drop: 0 };
        let (since, at) = (Timestamp(since * S), Timestamp(at * S));
        Conntrack { net_ns, own: net_ns == 1, counters: refused.map(counters), since, at }
    }

    fn asked(readings: &Readings, namespaces: &[u64], at: &[u64]) -> Vec<(u64, u64)> {
        let at = at.iter().map(|ms| Timestamp(ms * 1_000_000)).collect();
        let namespaces = namespaces.iter().copied().collect();
        let found = readings.around(HostId(0), &namespaces, &at);
        found.iter().map(|refused| (refused.net_ns, refused.insert_failed)).collect()
    }

    #[test]
    fn what_was_refused_between_two_readings() {
        let mut readings = Readings::default();
        for one in [
            reading(1, 1, 1, Some(0)),
            reading(7, 1, 1, Some(0)),
            reading(7, 4, 5, Some(3)),
            // Told again, as in a snapshot.
            reading(7, 4, 5, Some(3)),
            reading(7, 8, 9, Some(5)),
            reading(8, 1, 1, Some(0)),
            reading(9, 1, 1, None),
        ] {
            readings.learn(HostId(0), &one);
        }
        assert_eq!(asked(&readings, &[7], &[4_500]), [(1, 0), (7, 3)]);
        assert_eq!(asked(&readings, &[7], &[3_000]), [(1, 0), (7, 0)]);
        assert_eq!(asked(&readings, &[7], &[4_500, 4_600, 8_995]), [(1, 0), (7, 5)]);
        // Not before it was read, nor where it could not be.
        assert_eq!(asked(&readings, &[7, 9], &[500, 4_500]), []);
        assert_eq!(asked(&readings, &[9], &[4_500]), [(1, 0)]);
        assert!(readings.tried(HostId(0)) && !readings.tried(HostId(1)));
    }

    #[test]
    fn what_could_not_be_read_for_a_while() {
        let mut readings = Readings::default();
        for one in [
            reading(7, 1, 1, Some(0)),
            reading(7, 9, 10, None),
            reading(7, 19, 20, Some(0)),
            reading(7, 29, 30, Some(u64::MAX)),
            reading(7, 39, 40, Some(0)),
            reading(7, 49, 50, Some(u64::MAX)),
        ] {
            readings.learn(HostId(0), &one);
        }
        assert_eq!(asked(&readings, &[7], &[5_000]), [(7, 0)]);
        assert_eq!(asked(&readings, &[7], &[15_000]), []);
        assert_eq!(asked(&readings, &[7], &[29_500, 49_500]), [(7, u64::MAX)]);
        readings.learn(HostId(0), &reading(7, 59, 60, None));
        assert_eq!(asked(&readings, &[7], &[70_000]), [], "nobody reads it any more");
    }

    #[test]
    fn readings_are_bounded() {
        let mut readings = Readings::default();
        for n in 1..2 * READINGS_MAX as u64 {
            readings.learn(HostId(0), &reading(7, n, n + 1, Some(n)));
        }
        let kept = readings.0.get(&(HostId(0), 7)).unwrap();
        assert_eq!(kept.len(), READINGS_MAX);
    }
}
