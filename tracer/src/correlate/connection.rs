//! TCP connects: outcome, handshake, Service and backend. Knows accepts only as the far end of a
//! connect; what happens after a connection was told is not followed.
//!
//! A connection is told when it was established and its backend is known (or a short grace passed),
//! and a failed one after the same grace, so that the errno of a blocking call is with it. Those to
//! DNS ports and those of the resolver are told only when they failed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use foldhash::HashMap;

use crate::context::Role;
use crate::describe::errno_name;
use crate::event::{
    Actor, AddressCall, Body, Call, Direction, Event, Protocol, Syscall, Tcp, TcpChange, TcpState,
};
use crate::identify::Identifier;
use crate::record::{HostId, Timestamp};
use crate::report::{self, ConnectionOutcome, Ts};

use super::clients::{owner, with_task};
use super::grouping::Owner;
use super::names::Names;
use super::peers::{Client, Peers};
use super::truncated::Connected;

/// Wait for the backend's side, or for the errno, after the outcome.
const GRACE_NS: u64 = 50_000_000;
/// An unanswered connect that is given up sooner was cancelled, not timed out.
const PATIENCE_NS: u64 = 900_000_000;
const OPEN_MAX: usize = 16_384;
/// Connects that are told stay in the order until there are so many more than open ones.
const ORDER_SPARE: usize = 1_024;
const EVENTS_MAX: usize = 32;
const ASKERS_MAX: usize = 4_096;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Cookie(HostId, u64),
    Flow(HostId, Option<u64>, SocketAddr, SocketAddr),
}

impl Key {
    fn host(&self) -> HostId {
        match self {
            Self::Cookie(host, _) | Self::Flow(host, ..) => *host,
        }
    }
}

/// One connect.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Who; the task that connected.
    pub actor: Actor,
    /// Own end.
    pub local: Option<SocketAddr>,
    /// Address the program asked for.
    pub remote: SocketAddr,
    /// Far end of the accepting socket.
    pub backend: Option<SocketAddr>,
    /// The name looked up before.
    pub name: Option<String>,
    /// What came of it.
    pub outcome: ConnectionOutcome,
    /// errno of the call.
    pub errno: Option<i32>,
    /// Start.
    pub started: Timestamp,
    /// SYN (or the call) to established, in nanoseconds.
    pub handshake_ns: Option<u64>,
    /// Start to failure, in nanoseconds.
    pub duration_ns: Option<u64>,
    /// `dns-over-tls`, `dns-over-https`: DNS that cannot be seen.
    pub inside: Option<&'static str>,
    /// It was to carry a lookup, of which nothing was seen; whether resolv.conf says that its client asks over
    /// TCP, else it did so before.
    pub unasked: Option<bool>,
    /// Its client asked on another connection after it had begun this one.
    pub asked_after: bool,
    /// Numbers of the events.
    pub events: Vec<u64>,
}

/// A connect to a DNS server: begun, or come to its outcome.
#[derive(Clone, Debug)]
pub(crate) struct StreamNote {
    pub(crate) owner: Option<Owner>,
    pub(crate) server: SocketAddr,
    pub(crate) at: Timestamp,
    pub(crate) connected: Option<Connected>,
}

#[derive(Debug)]
struct Open {
    actor: Actor,
    owner: Option<Owner>,
    quiet: bool,
    /// Towards a DNS port.
    dns: bool,
    /// To a nameserver of a client that asks over TCP: see [`Connection::unasked`].
    unasked: Option<bool>,
    /// What is inside cannot be seen.
    inside: Option<&'static str>,
    local: Option<SocketAddr>,
    remote: SocketAddr,
    started: Timestamp,
    syn: Option<Timestamp>,
    established: Option<Timestamp>,
    outcome: Option<(ConnectionOutcome, Timestamp)>,
    errno: Option<i32>,
    retransmits: u32,
    events: Vec<u64>,
    deadline: Option<Timestamp>,
    /// Which one it was.
    turn: u64,
}

/// All connects under way.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: BTreeMap<Key, Open>,
    /// Connects so far.
    turns: u64,
    /// By turn; those that are not open any more go with time.
    order: VecDeque<(u64, Key)>,
    /// Established, and the backend's side not known: by their client.
    waiting: HashMap<Client, Key>,
    timers: BTreeSet<(Timestamp, Key)>,
    peers: Peers,
    /// Who asked over TCP.
    askers: Askers,
    /// Of DNS servers, not taken yet.
    notes: Vec<StreamNote>,
    /// Clocks of several hosts can differ by so much, in nanoseconds.
    pub(crate) skew_ns: u64,
    /// Given up because of the cap.
    pub(crate) evicted: u64,
}

impl Connection {
    /// In the words of the contract, with the identity known now.
    pub fn report(&self, who: &Identifier) -> report::Connection {
        report::Connection {
            schema: 1,
            ts: Ts(self.started),
            identity: who.identity(&self.actor),
            protocol: "tcp".to_owned(),
            local: self.local,
            remote: self.remote,
            service: who.service(self.remote, Protocol::Tcp, self.started),
            peer: who.peer(self.remote, Protocol::Tcp, self.started),
            backend: self.backend.map(|b| who.backend(b, Protocol::Tcp, self.started)),
            name: self.name.clone(),
            outcome: self.outcome,
            errno: self.errno.and_then(|e| errno_name(-i64::from(e))),
            handshake_ns: self.handshake_ns,
            duration_ns: self.duration_ns,
            inside: self.inside.map(str::to_owned),
            events: self.events.clone(),
        }
    }
}

impl Connections {
    pub(crate) fn observe(
        &mut self,
        event: &Event,
        who: &Identifier,
        names: &Names,
        done: &mut Vec<Connection>,
    ) {
        match &event.body {
            Body::SocketAddress(a)
                if a.protocol == Protocol::Tcp && a.call == AddressCall::Connect =>
            {
                self.begin(event, None, a.remote, who, names, done);
            }
            Body::TcpState(state) => self.state(event, state, who, names, done),
            Body::Tcp(packet) => self.packet(event, packet, who, names, done),
            Body::Syscall(call) => self.call(event, call),
            Body::SocketClosed(_) => self.closed(event),
            _ => {}
        }
    }

    fn key(actor: &Actor, ends: Option<(SocketAddr, SocketAddr)>) -> Option<Key> {
        let host = actor.host;
        match (actor.cookie, ends) {
            (Some(cookie), _) => Some(Key::Cookie(host, cookie)),
            (None, Some((local, remote))) => Some(Key::Flow(host, actor.cgroup, local, remote)),
            (None, None) => None,
        }
    }

    fn begin(
        &mut self,
        event: &Event,
        local: Option<SocketAddr>,
        remote: SocketAddr,
        who: &Identifier,
        names: &Names,
        done: &mut Vec<Connection>,
    ) {
        let Some(key) = Self::key(&event.actor, local.map(|l| (l, remote))) else { return };
        if let Some(open) = self.open.get_mut(&key) {
            if open.outcome.is_none() {
                open.local = open.local.or(local);
                open.note(event.number);
                return;
            }
            self.tell(&key, names, done); // the socket connects again
        }
        if self.open.len() >= OPEN_MAX {
            self.give_up_oldest(names, done);
        }
        let actor = with_task(&event.actor, who);
        let ports = who.host(&actor).map_or(&[][..], |h| &h.dns_ports);
        let dns = ports.contains(&remote.port()) || remote.port() == 53;
        let owner = owner(&actor, who, local);
        if dns {
            let (owner, server, at) = (owner.clone(), remote, event.at);
            self.notes.push(StreamNote { owner, server, at, connected: None });
        }
        let unasked = if dns { self.unasked(&actor, owner.as_ref(), remote, who) } else { None };
        self.turns += 1;
        self.order.push_back((self.turns, key.clone()));
        let open = Open {
            turn: self.turns,
            owner,
            quiet: dns || who.role(&actor) == Some(Role::Resolver),
            dns,
            unasked,
            inside: inside(&actor, remote, dns, who),
            actor,
            local,
            remote,
            started: event.at,
            syn: None,
            established: None,
            outcome: None,
            errno: None,
            retransmits: 0,
            events: vec![event.number],
            deadline: None,
        };
        self.open.insert(key, open);
    }

    /// Tells the oldest as it is.
    fn give_up_oldest(&mut self, names: &Names, done: &mut Vec<Connection>) {
        while let Some((turn, key)) = self.order.pop_front() {
            if self.open.get(&key).is_some_and(|open| open.turn == turn) {
                self.tell(&key, names, done);
                self.evicted += 1;
                return;
            }
        }
    }

    fn packet(
        &mut self,
        event: &Event,
        packet: &Tcp,
        who: &Identifier,
        names: &Names,
        done: &mut Vec<Connection>,
    ) {
        if packet.direction == Direction::Out && packet.syn && !packet.ack {
            let remote = who.asked_for(&event.actor, packet.remote);
            self.begin(event, Some(packet.local), remote, who, names, done);
        }
        if packet.direction == Direction::Out && packet.syn && packet.ack {
            self.accepted(event.actor.host, packet.remote, packet.local);
            return;
        }
        let ends = Some((packet.local, packet.remote));
        let Some(key) = Self::key(&event.actor, ends) else { return };
        let Some(open) = self.open.get_mut(&key) else { return };
        open.local = Some(packet.local);
        open.note(event.number);
        match packet.direction {
            Direction::Out if packet.syn && !packet.ack => {
                if open.syn.is_some() {
                    open.retransmits += 1;
                }
                open.syn.get_or_insert(event.at);
            }
            Direction::In if packet.rst => {
                let how = if open.established.is_some() {
                    ConnectionOutcome::Reset
                } else {
                    ConnectionOutcome::Refused
                };
                self.decide(&key, how, event.at);
            }
            Direction::In if packet.syn && packet.ack => self.established(&key, event.at),
            _ => {}
        }
    }

    fn state(
        &mut self,
        event: &Event,
        state: &TcpState,
        who: &Identifier,
        names: &Names,
        done: &mut Vec<Connection>,
    ) {
        if state.peer_side {
            if state.change == TcpChange::PassiveEstablished {
                self.accepted(event.actor.host, state.remote, state.local);
            }
            return;
        }
        if state.change == TcpChange::Connect {
            let remote = who.asked_for(&event.actor, state.remote);
            let local = (state.local.port() != 0).then_some(state.local);
            self.begin(event, local, remote, who, names, done);
        }
        let ends = Some((state.local, state.remote));
        let Some(key) = Self::key(&event.actor, ends) else { return };
        let Some(open) = self.open.get_mut(&key) else { return };
        if state.local.port() != 0 {
            open.local = Some(state.local);
        }
        open.note(event.number);
        match state.change {
            TcpChange::ActiveEstablished | TcpChange::State { new: 1, .. } => {
                self.established(&key, event.at);
            }
            TcpChange::Retransmit => open.retransmits += 1,
            TcpChange::State { old: 2, new: 7 } if open.waited(event.at) => {
                self.decide(&key, ConnectionOutcome::Timeout, event.at);
            }
            _ => {}
        }
    }

    /// The far end took `client`'s connection.
    fn accepted(&mut self, host: HostId, client: SocketAddr, server: SocketAddr) {
        let client = (host.of(client.ip()), client);
        self.peers.add(client, server);
        if let Some(key) = self.waiting.remove(&client)
            && self.open.get(&key).is_some_and(Open::is_established)
        {
            self.due(&key, Timestamp(0));
        }
    }

    fn call(&mut self, event: &Event, call: &Syscall) {
        if call.call != Call::Connect {
            return;
        }
        let Some(key) = Self::key(&event.actor, None) else { return };
        let Some(open) = self.open.get_mut(&key) else { return };
        open.note(event.number);
        let Some(errno) = call.result.and_then(|r| i32::try_from(r.saturating_neg()).ok()) else {
            return;
        };
        let how = match errno {
            // Success; EINTR, EISCONN, EALREADY, EINPROGRESS; ERESTARTSYS and its like: a signal came.
            ..=0 | 4 | 106 | 114 | 115 | 512..=516 => return,
            104 => ConnectionOutcome::Reset,
            110 => ConnectionOutcome::Timeout,
            111 => ConnectionOutcome::Refused,
            _ => ConnectionOutcome::Unreachable, // the errno says why
        };
        open.errno = Some(errno);
        self.decide(&key, how, event.at);
    }

    fn closed(&mut self, event: &Event) {
        let Some(key) = Self::key(&event.actor, None) else { return };
        let Some(open) = self.open.get_mut(&key) else { return };
        open.note(event.number);
        let how = if open.waited(event.at) {
            ConnectionOutcome::Timeout
        } else {
            ConnectionOutcome::Undecided
        };
        self.decide(&key, how, event.at);
        self.due(&key, Timestamp(0));
    }

    fn established(&mut self, key: &Key, at: Timestamp) {
        if let Some(open) = self.open.get_mut(key) {
            open.established.get_or_insert(at);
        }
        self.decide(key, ConnectionOutcome::Established, at);
        let Some(client) = self.open.get(key).and_then(Open::client) else { return };
        if self.peers.has(&client) {
            self.due(key, Timestamp(0));
        } else if self.open.get(key).is_some_and(Open::is_established) {
            self.waiting.insert(client, key.clone());
        }
    }

    /// The first outcome stays, but a reset overrules an establishment not yet told.
    fn decide(&mut self, key: &Key, how: ConnectionOutcome, at: Timestamp) {
        let Some(open) = self.open.get_mut(key) else { return };
        match open.outcome {
            Some((ConnectionOutcome::Established, _)) if how == ConnectionOutcome::Reset => {}
            Some(_) => return,
            None => {}
        }
        open.outcome = Some((how, at));
        self.due(key, at.plus(GRACE_NS).plus(self.skew_ns));
    }

    fn due(&mut self, key: &Key, at: Timestamp) {
        if let Some(open) = self.open.get_mut(key) {
            open.deadline = Some(at);
            self.timers.insert((at, key.clone()));
        }
    }

    /// There is something to tell at `now`, or a note to take.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        !self.notes.is_empty() || self.timers.first().is_some_and(|(at, _)| *at <= now)
    }

    /// Time has come to `now`: what is due is told.
    pub(crate) fn advance(&mut self, now: Timestamp, names: &Names, done: &mut Vec<Connection>) {
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            let Some((at, key)) = self.timers.pop_first() else { return };
            if self.open.get(&key).is_some_and(|o| o.deadline == Some(at)) {
                self.tell(&key, names, done);
            }
        }
    }

    /// Nothing more comes from `host`.
    pub(crate) fn host_ended(&mut self, host: HostId, names: &Names, done: &mut Vec<Connection>) {
        let keys: Vec<Key> = self.open.keys().filter(|k| k.host() == host).cloned().collect();
        for key in keys {
            self.tell(&key, names, done);
        }
    }

    /// The input ended.
    pub(crate) fn finish(&mut self, names: &Names, done: &mut Vec<Connection>) {
        let keys: Vec<Key> = self.open.keys().cloned().collect();
        for key in keys {
            self.tell(&key, names, done);
        }
    }

    fn tell(&mut self, key: &Key, names: &Names, done: &mut Vec<Connection>) {
        let Some(open) = self.open.remove(key) else { return };
        // The order keeps as many that are gone, no more.
        if self.order.len() > 2 * self.open.len() + ORDER_SPARE {
            let known = &self.open;
            self.order.retain(|(turn, key)| known.get(key).is_some_and(|o| o.turn == *turn));
        }
        let client = open.client();
        if let Some(client) = client.filter(|client| self.waiting.get(client) == Some(key)) {
            self.waiting.remove(&client);
        }
        let (outcome, at) = open.outcome.unwrap_or((ConnectionOutcome::Undecided, open.started));
        let fine = matches!(outcome, ConnectionOutcome::Established | ConnectionOutcome::Undecided);
        if open.dns {
            let (server, events) = (open.remote, open.events.clone());
            let connected = Some(Connected { server, outcome, at, events });
            let owner = open.owner.clone();
            self.notes.push(StreamNote { owner, server, at, connected });
        }
        if open.quiet && fine {
            return;
        }
        let name = open.owner.as_ref().and_then(|o| names.of(o, open.remote.ip()));
        done.push(Connection {
            backend: client.and_then(|client| self.peers.take(&client)),
            name: name.map(str::to_owned),
            outcome,
            errno: open.errno,
            started: open.started,
            handshake_ns: open.established.map(|e| e.since(open.syn.unwrap_or(open.started))),
            duration_ns: (!fine).then(|| at.since(open.started)),
            actor: open.actor,
            local: open.local,
            remote: open.remote,
            inside: open.inside,
            unasked: open.unasked,
            asked_after: open.owner.is_some_and(|owner| self.askers.after(&owner, open.started)),
            events: open.events,
        });
    }

    /// A client asked over TCP.
    pub(crate) fn asks(&mut self, owner: Owner, at: Timestamp) {
        self.askers.add(owner, at);
    }

    /// Whether a lookup goes over a connection of `actor` to this DNS server, as far as its resolv.conf or what
    /// it did before tells.
    fn unasked(
        &self,
        actor: &Actor,
        owner: Option<&Owner>,
        remote: SocketAddr,
        who: &Identifier,
    ) -> Option<bool> {
        if who.role(actor) == Some(Role::Resolver) {
            return None;
        }
        let config = who.resolver_config(actor);
        let always = config.is_some_and(|config| {
            config.servers.contains(&remote.ip())
                && config.options.iter().any(|option| option == "use-vc")
        });
        let before = || owner.is_some_and(|owner| self.askers.has(owner));
        if always { Some(true) } else { before().then_some(false) }
    }

    /// What became known of connects to DNS servers since the last call.
    pub(crate) fn take_notes(&mut self) -> Vec<StreamNote> {
        std::mem::take(&mut self.notes)
    }
}

/// Processes that asked over TCP, and when they did last; those known longest first.
#[derive(Debug, Default)]
struct Askers {
    known: HashMap<Owner, Timestamp>,
    order: VecDeque<Owner>,
}

impl Askers {
    fn add(&mut self, owner: Owner, at: Timestamp) {
        if self.known.insert(owner.clone(), at).is_none() {
            self.order.push_back(owner);
        }
        while self.order.len() > ASKERS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    fn after(&self, owner: &Owner, at: Timestamp) -> bool {
        self.known.get(owner).is_some_and(|latest| *latest > at)
    }

    fn has(&self, owner: &Owner) -> bool {
        self.known.contains_key(owner)
    }
}

/// DNS that cannot be looked into: DNS over TLS by its port (RFC 7858), DNS over HTTPS only where the
/// same address is a nameserver of the client's resolv.conf.
fn inside(actor: &Actor, remote: SocketAddr, dns: bool, who: &Identifier) -> Option<&'static str> {
    match remote.port() {
        _ if dns => None,
        853 => Some("dns-over-tls"),
        443 => {
            let config = who.resolver_config(actor)?;
            config.servers.contains(&remote.ip()).then_some("dns-over-https")
        }
        _ => None,
    }
}

impl Open {
    fn client(&self) -> Option<Client> {
        let local = self.local?;
        Some((self.actor.host.of(local.ip()), local))
    }

    fn is_established(&self) -> bool {
        matches!(self.outcome, Some((ConnectionOutcome::Established, _)))
    }

    fn note(&mut self, number: u64) {
        if self.events.len() < EVENTS_MAX && self.events.last() != Some(&number) {
            self.events.push(number);
        }
    }

    /// Unanswered for longer than a client that merely changed its mind.
    fn waited(&self, at: Timestamp) -> bool {
        self.retransmits > 0 || at.since(self.started) >= PATIENCE_NS
    }
}
