//! Open transactions by socket and DNS id. Holds ids only; knows nothing of what they stand for.

use std::collections::BTreeMap;

use foldhash::HashMap;
use smallvec::SmallVec;

use super::transaction::SocketKey;
use crate::record::HostId;

/// Ids of one socket and DNS id, oldest first; as a rule one.
type Ids = SmallVec<[u64; 2]>;

/// The index. Sockets with a cookie are told when they close, so theirs are kept in order.
#[derive(Debug, Default)]
pub(crate) struct BySocket {
    cookies: BTreeMap<(HostId, u64, u16), Ids>,
    flows: HashMap<(SocketKey, u16), Ids>,
}

impl BySocket {
    /// Ids under `key`, oldest first.
    pub(crate) fn get(&self, key: &(SocketKey, u16)) -> &[u64] {
        let ids = match key.0 {
            SocketKey::Cookie(host, cookie) => self.cookies.get(&(host, cookie, key.1)),
            SocketKey::Flow { .. } => self.flows.get(key),
        };
        ids.map(SmallVec::as_slice).unwrap_or_default()
    }

    pub(crate) fn add(&mut self, key: (SocketKey, u16), id: u64) {
        match key.0 {
            SocketKey::Cookie(host, cookie) => {
                self.cookies.entry((host, cookie, key.1)).or_default()
            }
            SocketKey::Flow { .. } => self.flows.entry(key).or_default(),
        }
        .push(id);
    }

    pub(crate) fn remove(&mut self, key: &(SocketKey, u16), id: u64) {
        match key.0 {
            SocketKey::Cookie(host, cookie) => {
                let key = (host, cookie, key.1);
                if self.cookies.get_mut(&key).is_some_and(|ids| without(ids, id)) {
                    self.cookies.remove(&key);
                }
            }
            SocketKey::Flow { .. } => {
                if self.flows.get_mut(key).is_some_and(|ids| without(ids, id)) {
                    self.flows.remove(key);
                }
            }
        }
    }

    /// All ids on the socket with this cookie.
    pub(crate) fn on_cookie(&self, (host, cookie): (HostId, u64)) -> Vec<u64> {
        let range = (host, cookie, 0)..=(host, cookie, u16::MAX);
        self.cookies.range(range).flat_map(|(_, ids)| ids).copied().collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.cookies.is_empty() && self.flows.is_empty()
    }
}

/// Takes `id` out; true when nothing is left.
fn without(ids: &mut Ids, id: u64) -> bool {
    ids.retain(|known| *known != id);
    ids.is_empty()
}
