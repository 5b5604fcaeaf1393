//! Open transactions by socket and DNS id. Holds ids only; knows nothing of what they stand for.

use std::collections::BTreeMap;
use std::hash::BuildHasher;

use foldhash::HashMap;
use foldhash::quality::RandomState;

use super::ids::{Ids, forget, without};
use super::transaction::SocketKey;
use crate::record::HostId;

/// The index. Sockets with a cookie are told when they close, so theirs are kept in order.
#[derive(Debug, Default)]
pub(crate) struct BySocket {
    cookies: BTreeMap<(HostId, u64, u16), Ids>,
    /// By the hash of socket and DNS id: whoever looks for a transaction compares what it asked anyway.
    flows: HashMap<u64, Ids>,
    /// Connections among the flows: their ends tell.
    streams: HashMap<SocketKey, Ids>,
    hasher: RandomState,
}

impl BySocket {
    /// Ids under `key`, oldest first.
    pub(crate) fn get(&self, key: &(SocketKey, u16)) -> &[u64] {
        let ids = match key.0 {
            SocketKey::Cookie(host, cookie) => self.cookies.get(&(host, cookie, key.1)),
            SocketKey::Flow { .. } => self.flows.get(&self.hasher.hash_one(key)),
        };
        ids.map(Ids::as_slice).unwrap_or_default()
    }

    pub(crate) fn add(&mut self, key: (SocketKey, u16), id: u64) {
        if let SocketKey::Flow { tcp: true, .. } = key.0 {
            self.streams.entry(key.0.clone()).or_default().push(id);
        }
        match key.0 {
            SocketKey::Cookie(host, cookie) => {
                self.cookies.entry((host, cookie, key.1)).or_default()
            }
            SocketKey::Flow { .. } => self.flows.entry(self.hasher.hash_one(&key)).or_default(),
        }
        .push(id);
    }

    pub(crate) fn remove(&mut self, key: &(SocketKey, u16), id: u64) {
        if let SocketKey::Flow { tcp: true, .. } = key.0 {
            forget(&mut self.streams, &key.0, id);
        }
        match key.0 {
            SocketKey::Cookie(host, cookie) => {
                let key = (host, cookie, key.1);
                if self.cookies.get_mut(&key).is_some_and(|ids| without(ids, id)) {
                    self.cookies.remove(&key);
                }
            }
            SocketKey::Flow { .. } => forget(&mut self.flows, &self.hasher.hash_one(key), id),
        }
    }

    /// All ids on the socket with this cookie.
    pub(crate) fn on_cookie(&self, (host, cookie): (HostId, u64)) -> Vec<u64> {
        let range = (host, cookie, 0)..=(host, cookie, u16::MAX);
        self.cookies.range(range).flat_map(|(_, ids)| ids).copied().collect()
    }

    /// All ids on a connection.
    pub(crate) fn on_stream(&self, key: &SocketKey) -> Vec<u64> {
        match key {
            SocketKey::Cookie(host, cookie) => self.on_cookie((*host, *cookie)),
            SocketKey::Flow { .. } => {
                self.streams.get(key).map(|ids| ids.to_vec()).unwrap_or_default()
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.streams.is_empty() && self.cookies.is_empty() && self.flows.is_empty()
    }
}
