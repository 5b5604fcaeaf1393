//! Whose an address is, and was: pods, nodes, Services and their endpoints by address. An address
//! that went to another is answered by time. Knows no names but those it is given.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::table::Table;
use crate::event::Protocol;
use crate::record::Timestamp;

const CAP: usize = 65_536;
const NODES_CAP: usize = 16_384;
/// Slices that can list one address and port.
const LISTINGS_MAX: usize = 8;

/// Namespace and name.
pub(super) type Key = (String, String);

/// A value, and the one it replaced.
#[derive(Debug, Default)]
struct Dated<V> {
    now: V,
    since: Timestamp,
    before: Option<V>,
}

impl<V: PartialEq> Dated<V> {
    fn at(&self, at: Timestamp) -> &V {
        // What nobody had before is known late.
        self.before.as_ref().filter(|_| at < self.since).unwrap_or(&self.now)
    }

    fn replaced(self, now: V, since: Timestamp) -> Self {
        if self.now == now {
            return self;
        }
        Self { now, since, before: Some(self.now) }
    }
}

/// Whether an endpoint takes connections, as its slice says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    NotReady,
    Terminating,
    /// No slice lists it any more.
    Gone,
}

impl State {
    /// In words, if it is not plainly ready.
    pub(super) fn words(self) -> Option<&'static str> {
        match self {
            Self::Ready => None,
            Self::NotReady => Some("not ready"),
            Self::Terminating => Some("terminating"),
            Self::Gone => Some("no longer listed"),
        }
    }
}

/// A slice, and the Service it belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) service: Option<String>,
}

/// That a slice lists, or listed, an address.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    pub(super) slice: Arc<Slice>,
    /// `namespace/name`.
    pub(super) pod: Option<Arc<str>>,
    pub(super) uid: Option<Arc<str>>,
    /// For any protocol where the slice did not say.
    protocol: Option<Protocol>,
    state: State,
    /// When it came, its state changed, and it went.
    from: Timestamp,
    changed: Timestamp,
    before: Option<State>,
    gone: Option<Timestamp>,
}

impl Listing {
    pub(super) fn new(slice: &Arc<Slice>, state: State, at: Timestamp) -> Self {
        Self {
            slice: Arc::clone(slice),
            pod: None,
            uid: None,
            protocol: None,
            state,
            from: at,
            changed: at,
            before: None,
            gone: None,
        }
    }

    /// Of this pod, as `namespace/name` and UID.
    pub(super) fn of(mut self, pod: Option<&Arc<str>>, uid: Option<&Arc<str>>) -> Self {
        (self.pod, self.uid) = (pod.cloned(), uid.cloned());
        self
    }

    /// For this protocol only.
    pub(super) fn over(mut self, protocol: Option<Protocol>) -> Self {
        self.protocol = protocol;
        self
    }

    fn same(&self, other: &Self) -> bool {
        self.slice.namespace == other.slice.namespace
            && self.slice.name == other.slice.name
            && self.pod == other.pod
            && self.uid == other.uid
            && self.protocol == other.protocol
    }

    pub(super) fn is_live(&self, at: Timestamp) -> bool {
        self.gone.is_none_or(|gone| at < gone)
    }

    pub(super) fn state(&self, at: Timestamp) -> State {
        match self.before {
            _ if !self.is_live(at) => State::Gone,
            Some(before) if at < self.changed => before,
            _ => self.state,
        }
    }
}

/// The tables.
#[derive(Debug)]
pub(super) struct Addresses {
    pods: Table<IpAddr, Dated<String>>,
    nodes: Table<IpAddr, String>,
    services: Table<IpAddr, Dated<Key>>,
    /// Addresses from outside; several Services may share one, by port.
    external: Table<(IpAddr, u16, Protocol), Key>,
    node_ports: Table<(u16, Protocol), Key>,
    endpoints: Table<SocketAddr, Vec<Listing>>,
}

impl Default for Addresses {
    fn default() -> Self {
        Self {
            pods: Table::new(CAP),
            nodes: Table::new(NODES_CAP),
            services: Table::new(CAP),
            external: Table::new(NODES_CAP),
            node_ports: Table::new(NODES_CAP),
            endpoints: Table::new(CAP),
        }
    }
}

impl Addresses {
    pub(super) fn give_pod(&mut self, ip: IpAddr, uid: &str, at: Timestamp) {
        let uid = uid.to_owned();
        let dated = match self.pods.remove(&ip) {
            Some(old) => old.replaced(uid, at),
            None => Dated { now: uid, since: at, before: None },
        };
        self.pods.insert(ip, dated);
    }

    /// The pod has it no more, if it had it.
    pub(super) fn take_pod(&mut self, ip: IpAddr, uid: &str, at: Timestamp) {
        if self.pods.get(&ip).is_some_and(|dated| dated.now == uid) {
            self.pods.retire(&ip, at);
        }
    }

    /// It never was that pod's own.
    pub(super) fn not_of_pod(&mut self, ip: IpAddr, uid: &str) {
        if self.pods.get(&ip).is_some_and(|dated| dated.now == uid) {
            self.pods.remove(&ip);
        }
    }

    /// Who has it now, and whether that one is gone.
    pub(super) fn holder(&self, ip: IpAddr) -> Option<(&str, bool)> {
        Some((&self.pods.get(&ip)?.now, self.pods.gone(&ip).is_some()))
    }

    /// UID of the pod that has it at `at`; a node's own address is no pod's.
    pub(super) fn pod(&self, ip: IpAddr, at: Timestamp) -> Option<&str> {
        let own = self.nodes.get(&ip).is_none();
        self.pods.get(&ip).filter(|_| own).map(|dated| dated.at(at).as_str())
    }

    pub(super) fn give_node(&mut self, ip: IpAddr, node: &str) {
        self.nodes.insert(ip, node.to_owned());
    }

    pub(super) fn node(&self, ip: IpAddr) -> Option<&str> {
        self.nodes.get(&ip).map(String::as_str)
    }

    pub(super) fn give_service(&mut self, ip: IpAddr, key: &Key, at: Timestamp) {
        let dated = match self.services.remove(&ip) {
            Some(old) => old.replaced(key.clone(), at),
            None => Dated { now: key.clone(), since: at, before: None },
        };
        self.services.insert(ip, dated);
    }

    pub(super) fn take_service(&mut self, ip: IpAddr, key: &Key, at: Timestamp) {
        if self.services.get(&ip).is_some_and(|dated| dated.now == *key) {
            self.services.retire(&ip, at);
        }
    }

    pub(super) fn has_service(&self, ip: IpAddr) -> bool {
        self.services.get(&ip).is_some()
    }

    pub(super) fn service(&self, ip: IpAddr, at: Timestamp) -> Option<&Key> {
        self.services.get(&ip).map(|dated| dated.at(at))
    }

    pub(super) fn give_external(&mut self, to: (IpAddr, u16, Protocol), key: &Key) {
        self.external.insert(to, key.clone());
    }

    pub(super) fn take_external(&mut self, to: (IpAddr, u16, Protocol), key: &Key, at: Timestamp) {
        if self.external.get(&to) == Some(key) {
            self.external.retire(&to, at);
        }
    }

    pub(super) fn external(&self, addr: SocketAddr, protocol: Protocol) -> Option<&Key> {
        self.external.get(&(addr.ip(), addr.port(), protocol))
    }

    pub(super) fn give_node_port(&mut self, port: (u16, Protocol), key: &Key) {
        self.node_ports.insert(port, key.clone());
    }

    pub(super) fn take_node_port(&mut self, port: (u16, Protocol), key: &Key, at: Timestamp) {
        if self.node_ports.get(&port) == Some(key) {
            self.node_ports.retire(&port, at);
        }
    }

    /// The Service that every node forwards this port to.
    pub(super) fn node_port(&self, port: u16, protocol: Protocol) -> Option<&Key> {
        self.node_ports.get(&(port, protocol))
    }

    /// `listing` lists `addr` from now on.
    pub(super) fn list(&mut self, addr: SocketAddr, listing: Listing) {
        self.endpoints.change(addr, |all| {
            let (state, at) = (listing.state, listing.from);
            if let Some(known) = all.iter_mut().find(|known| known.same(&listing)) {
                known.slice = Arc::clone(&listing.slice);
                let away = known.gone.take().is_some_and(|gone| gone != at);
                if !away && known.state == state {
                    return;
                }
                known.before = Some(known.state);
                (known.state, known.changed) = (state, at);
                return;
            }
            if all.len() >= LISTINGS_MAX {
                let oldest = all.iter().position(|old| old.gone.is_some()).unwrap_or(0);
                all.remove(oldest);
            }
            all.push(listing);
        });
    }

    /// The slice is said anew: what it listed is gone unless it comes back at the same instant.
    pub(super) fn unlist(&mut self, addr: SocketAddr, namespace: &str, name: &str, at: Timestamp) {
        let Some(mut all) = self.endpoints.remove(&addr) else { return };
        for listing in &mut all {
            let own = listing.slice.namespace == namespace && listing.slice.name == name;
            if own && listing.gone.is_none() {
                listing.gone = Some(at);
            }
        }
        let gone = all.iter().all(|listing| listing.gone.is_some());
        self.endpoints.insert(addr, all);
        if gone {
            self.endpoints.retire(&addr, at);
        }
    }

    /// The listing that says most about `addr` at `at`: one in force, ready, of the protocol.
    pub(super) fn listing(
        &self,
        addr: SocketAddr,
        protocol: Protocol,
        at: Timestamp,
    ) -> Option<&Listing> {
        self.listings(addr, protocol).max_by_key(|listing| {
            let live = listing.is_live(at);
            let named = listing.pod.is_some() || listing.uid.is_some();
            (live, listing.state(at) == State::Ready, named, listing.from)
        })
    }

    /// All that list it or did of late.
    pub(super) fn listings(
        &self,
        addr: SocketAddr,
        protocol: Protocol,
    ) -> impl Iterator<Item = &Listing> {
        let all = self.endpoints.get(&addr).into_iter().flatten();
        all.filter(move |at| at.protocol.is_none_or(|its| its == protocol))
    }

    pub(super) fn sweep(&mut self, now: Timestamp) {
        self.pods.sweep(now);
        self.services.sweep(now);
        self.external.sweep(now);
        self.node_ports.sweep(now);
        self.endpoints.sweep(now);
    }

    pub(super) fn evicted(&self) -> u64 {
        self.pods.evicted()
            + self.nodes.evicted()
            + self.services.evicted()
            + self.external.evicted()
            + self.node_ports.evicted()
            + self.endpoints.evicted()
    }
}
