//! Which name gave a process an address. Remembers the latest, bounded.

use std::collections::VecDeque;
use std::net::IpAddr;

use foldhash::HashMap;

use crate::record::Timestamp;

use super::grouping::Owner;

const CAP: usize = 16_384;

/// Names by process and address.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: HashMap<(Owner, IpAddr), (String, Timestamp)>,
    order: VecDeque<(Timestamp, Owner, IpAddr)>,
}

impl Names {
    /// A lookup of `typed` gave `data`.
    pub(crate) fn learn<'a>(
        &mut self,
        owner: &Owner,
        data: impl Iterator<Item = &'a str>,
        typed: &str,
        at: Timestamp,
    ) {
        for ip in data.filter_map(|d| d.parse::<IpAddr>().ok()) {
            self.known.insert((owner.clone(), ip), (typed.to_owned(), at));
            self.order.push_back((at, owner.clone(), ip));
        }
        while self.order.len() > CAP {
            let Some((at, owner, ip)) = self.order.pop_front() else { return };
            let key = (owner, ip);
            if self.known.get(&key).is_some_and(|(_, latest)| *latest == at) {
                self.known.remove(&key);
            }
        }
    }

    /// The name that was looked up most recently.
    pub(crate) fn of(&self, owner: &Owner, ip: IpAddr) -> Option<&str> {
        self.known.get(&(owner.clone(), ip)).map(|(name, _)| name.as_str())
    }
}
