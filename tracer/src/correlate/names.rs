//! Which name gave a process an address. Remembers the latest, bounded.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::net::IpAddr;

use foldhash::HashMap;
use foldhash::quality::RandomState;

use super::grouping::Owner;

const CAP: usize = 16_384;

/// A name that gave an address.
#[derive(Debug)]
struct Given {
    /// Of owner and address.
    hash: u64,
    owner: Owner,
    ip: IpAddr,
    name: String,
}

/// Names by process and address. What comes and goes in a row stays in the processor's caches; only the
/// small index is looked into here and there.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// In the order in which they were learned, numbered from `forgotten` on.
    given: VecDeque<Given>,
    forgotten: u64,
    /// Number of the latest, by hash.
    latest: HashMap<u64, u64>,
    hasher: RandomState,
}

impl Names {
    /// A lookup of `typed` gave `data`.
    pub(crate) fn learn<'a>(
        &mut self,
        owner: &Owner,
        data: impl Iterator<Item = &'a str>,
        typed: &str,
    ) {
        for ip in data.filter_map(|d| d.parse::<IpAddr>().ok()) {
            let hash = self.hasher.hash_one((owner, ip));
            self.latest.insert(hash, self.forgotten + self.given.len() as u64);
            self.given.push_back(Given { hash, owner: owner.clone(), ip, name: typed.to_owned() });
        }
        while self.given.len() > CAP {
            let Some(oldest) = self.given.pop_front() else { return };
            if self.latest.get(&oldest.hash) == Some(&self.forgotten) {
                self.latest.remove(&oldest.hash);
            }
            self.forgotten += 1;
        }
    }

    /// The name that was looked up most recently.
    pub(crate) fn of(&self, owner: &Owner, ip: IpAddr) -> Option<&str> {
        let number = self.latest.get(&self.hasher.hash_one((owner, ip)))?;
        let index = usize::try_from(number.checked_sub(self.forgotten)?).ok()?;
        let given = self.given.get(index).filter(|g| g.ip == ip && g.owner == *owner)?;
        Some(&given.name)
    }
}
