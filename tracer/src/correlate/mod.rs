//! Events to transactions, lookups and connections, with bounded state that expires by record time.
//! Formats nothing and judges nothing.
//!
//! When a lookup closes: when an attempt answered for both address types or the last candidate
//! failed, and its sockets are closed (or 1 ms later); 100 ms after it when only one type was asked, or
//! one stayed silent; 1 s after a name that does not exist when the search list has more; after an
//! error response 1 s, or 100 ms when no candidate is left, once its sockets are closed, else when
//! musl's next send (half of `timeout`) is overdue by 500 ms; at the exit of its process; and when its
//! thread turns to another name. An unanswered query has timed out when its client asked again or went
//! on, closed the socket or ended, or the time-out of its library has passed by 1 s: `timeout` of its
//! resolv.conf for musl and for each try of Go, else `timeout` × `attempts`. Where several hosts are in the stream, a lookup is told
//! 100 ms after it closed: the resolver's host may have another clock.

mod asked;
mod by_socket;
mod clients;
mod clocks;
mod connection;
mod grouping;
mod heard;
mod ids;
mod library;
mod lookup;
mod names;
mod passing;
mod patience;
mod peers;
mod search_list;
mod slab;
mod timers;
mod transaction;
mod truncated;
mod upstream;
mod wire;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_bounds;
#[cfg(test)]
mod tests_incidents;
#[cfg(test)]
mod tests_walks;
#[cfg(test)]
mod tests_wire;
#[cfg(test)]
mod walks;

pub use connection::Connection;
pub use heard::Unmatched;
pub use lookup::{Attempt, Lookup};
pub use passing::{Rejected, Unheard};
pub use patience::Patience;
pub use search_list::SearchList;
pub use transaction::{Asked, GaveUp, Reply, Sent, SocketKey, Transaction};
pub use truncated::Sequel;
pub use upstream::{Leaf, OtherAnswer, Received, Tie, UpstreamTry};

use tracer_common::record::probe;

use crate::event::{self as events, Body, Direction, Dns, Event};
use crate::identify::Identifier;
use crate::record::Timestamp;

use asked::Questions;
use clients::Clients;
use connection::Connections;
use passing::{Door, Passing};
use upstream::Resolvers;
use wire::Wire;

/// What the correlator concluded.
#[derive(Clone, Debug)]
pub enum Conclusion {
    /// A lookup closed; its transactions are in it.
    Lookup(Box<Lookup>),
    /// A connect came to its outcome.
    Connection(Box<Connection>),
}

/// The correlator.
#[derive(Debug, Default)]
pub struct Correlator {
    now: Timestamp,
    clients: Clients,
    resolvers: Resolvers,
    connections: Connections,
    wire: Wire,
    door: Door,
    questions: Questions,
}

impl Correlator {
    /// Takes an event in, and out of it what is remembered; appends what became certain.
    pub fn observe(&mut self, event: &mut Event, who: &Identifier, done: &mut Vec<Conclusion>) {
        let at = event.at;
        self.advance(at, who, done);
        if let Body::Dns(dns) = &event.body {
            if dns.message.opcode == 0 {
                let asked = self.questions.of(dns);
                self.on_the_way(event, dns, asked.as_ref(), who);
                self.dns(event, asked, who);
            }
        } else if let Body::Passing(dns) = &mut event.body {
            let asked = self.questions.of(dns);
            let sent = Sent { at, number: event.number };
            let passing = Passing::new(&event.actor, dns, asked, sent);
            if !self.clients.heard(&passing) {
                self.door.enters(passing);
            }
        } else if let Body::Icmp(icmp) = &event.body {
            let asked = self.questions.of(&icmp.query);
            let error = Rejected::of(icmp, event);
            self.clients.rejected(&event.actor, &icmp.query, asked.as_ref(), error);
        } else {
            self.clients.observe(event);
            if let (Body::SocketClosed(_), Some(socket)) = (&event.body, event.actor.socket()) {
                self.resolvers.closed(socket, event.at);
            }
            let mut connections = Vec::new();
            self.connections.observe(event, who, &self.clients.names, &mut connections);
            if let Body::Host(host) = &event.body {
                self.host(event, host.ended, who, &mut connections);
            }
            self.unasked(&mut connections, who);
            self.streams();
            done.extend(connections.into_iter().map(Box::new).map(Conclusion::Connection));
        }
        self.advance(at, who, done);
    }

    /// A client that asks over TCP, and not because an answer was truncated.
    fn asks_over_tcp(&mut self, actor: &events::Actor, dns: &Dns, at: Timestamp, who: &Identifier) {
        let owner = clients::owner(&clients::with_task(actor, who), who, Some(dns.local));
        if let Some(owner) = owner.filter(|owner| !self.clients.asks_again(owner)) {
            self.connections.asks(owner, at);
        }
    }

    /// A connection that follows a truncated answer carries a lookup that was seen.
    fn unasked(&self, connections: &mut [Connection], who: &Identifier) {
        for connection in connections.iter_mut().filter(|c| c.unasked.is_some()) {
            let owner = clients::owner(&connection.actor, who, connection.local);
            if owner.is_none_or(|owner| self.clients.asks_again(&owner)) {
                connection.unasked = None;
            }
        }
    }

    /// What connects to DNS servers mean for the questions behind them.
    fn streams(&mut self) {
        for note in self.connections.take_notes() {
            self.clients.stream(note);
        }
    }

    fn host(&mut self, event: &Event, ended: bool, who: &Identifier, done: &mut Vec<Connection>) {
        let skew_ns = if who.several_hosts() { clocks::HOSTS_SKEW_NS } else { 0 };
        // What the other host says comes by its own clock, up to so much later.
        (self.clients.skew_ns, self.connections.skew_ns) = (2 * skew_ns, skew_ns);
        if ended {
            let host = event.actor.host;
            for passing in self.door.of_host(host) {
                self.clients.unheard(passing);
            }
            self.clients.host_ended(host, self.now, &self.resolvers);
            self.resolvers.host_ended(host, event.at);
            self.connections.host_ended(host, &self.clients.names, done);
        }
    }

    /// The input ended: what is open is undecided.
    pub fn finish(&mut self, who: &Identifier, done: &mut Vec<Conclusion>) {
        self.held(Timestamp(u64::MAX), who);
        self.lost_inside(Timestamp(u64::MAX));
        let (mut lookups, mut connections) = (Vec::new(), Vec::new());
        self.connections.finish(&self.clients.names, &mut connections);
        self.unasked(&mut connections, who);
        self.streams();
        self.clients.finish(&mut self.resolvers, &mut lookups);
        done.extend(lookups.into_iter().map(Box::new).map(Conclusion::Lookup));
        done.extend(connections.into_iter().map(Box::new).map(Conclusion::Connection));
    }

    /// Responses that matched no query.
    pub fn unmatched(&self) -> Unmatched {
        let mut unmatched = self.clients.unmatched();
        unmatched.query_not_seen += self.resolvers.unmatched;
        unmatched.asked_before += self.resolvers.asked_before;
        unmatched
    }

    /// State given up because of a cap.
    pub fn evicted(&self) -> u64 {
        self.clients.evicted + self.resolvers.evicted + self.connections.evicted
    }

    /// A message at a socket; what is remembered of it is taken out.
    fn dns(&mut self, event: &mut Event, asked: Option<Asked>, who: &Identifier) {
        let sent = Sent { at: event.at, number: event.number };
        let recovered = event.probe == Some(probe::RECOVERED);
        let Event { actor, body: Body::Dns(dns), .. } = event else { return };
        let actor = &*actor;
        match (dns.direction, dns.message.response, asked) {
            (Direction::Out, false, Some(asked)) => {
                self.resolvers.heard_inside(actor, dns, &asked, sent, who);
                if self.resolvers.is_upstream(actor, dns, &asked, who) {
                    self.resolvers.forwarded(actor, dns, asked, sent, who);
                } else {
                    if dns.protocol == events::Protocol::Tcp {
                        self.asks_over_tcp(actor, dns, sent.at, who);
                    }
                    self.clients.query(actor, dns, asked, sent, recovered, who);
                }
            }
            (Direction::In, true, asked) => {
                if self.door.is_watched() {
                    self.door.arrives(actor, dns, asked.as_ref(), sent.at);
                }
                self.resolvers.answered_inside(dns, asked.as_ref());
                if !self.resolvers.upstream_replied(actor, dns, asked.as_ref(), sent) {
                    self.clients.response(actor, dns, asked, sent, who);
                }
            }
            (Direction::In, false, Some(asked)) => {
                self.resolvers.received(actor, dns, asked, sent, who);
            }
            (Direction::Out, true, asked) => {
                self.resolvers.replied(actor, dns, asked, sent, who);
            }
            (_, false, None) => {} // nothing to match: the decoder counted it
        }
    }

    /// What a packet without a socket says about the other end.
    fn on_the_way(&mut self, event: &Event, dns: &Dns, asked: Option<&Asked>, who: &Identifier) {
        if !event.actor.is_address() {
            return;
        }
        match (dns.direction, dns.message.response, asked) {
            (Direction::Out, false, Some(asked)) => {
                for question in self.wire.received_by(dns.local.ip(), asked) {
                    self.resolvers.proven(&event.actor, question, asked, who);
                }
                self.wire.asked(dns, asked, Sent { at: event.at, number: event.number });
                self.held(event.at, who);
            }
            (Direction::In, false, Some(asked)) => self.wire.translated(dns, asked),
            (Direction::Out, true, asked) => self.wire.replied(event, dns, asked),
            (Direction::In, true, asked) => {
                self.wire.answered(dns, asked);
                self.left_resolver(event, dns, asked, who);
            }
            (_, false, None) => {}
        }
    }

    /// The response that reached its client left the resolver, if that was seen asking.
    fn left_resolver(&mut self, event: &Event, dns: &Dns, asked: Option<&Asked>, who: &Identifier) {
        if !self.resolvers.waits(dns.local, dns.message.id, asked) {
            return;
        }
        let mut left = dns.clone();
        (left.local, left.remote) = (dns.remote, dns.local);
        let mut actor = event.actor.clone();
        actor.local = Some(dns.remote);
        let sent = Sent { at: event.at, number: event.number };
        self.resolvers.replied(&actor, &left, asked.cloned(), sent, who);
    }

    /// Responses that no translated copy will follow.
    fn held(&mut self, now: Timestamp, who: &Identifier) {
        while let Some(mut held) = self.wire.due(now) {
            let asked = self.questions.of(&held.dns);
            self.wire.answered(&held.dns, asked.as_ref());
            let sent = Sent { at: held.event.at, number: held.event.number };
            self.clients.response(&held.event.actor, &mut held.dns, asked, sent, who);
        }
    }

    /// Answers that no socket got.
    fn lost_inside(&mut self, now: Timestamp) {
        while let Some(passing) = self.door.due(now) {
            self.clients.unheard(passing);
        }
    }

    fn advance(&mut self, at: Timestamp, who: &Identifier, done: &mut Vec<Conclusion>) {
        self.now = self.now.max(at);
        self.held(self.now, who);
        self.lost_inside(self.now);
        let due = self.clients.is_due(self.now)
            || self.connections.is_due(self.now)
            || self.resolvers.is_due(self.now);
        if !due {
            return; // as a rule
        }
        let (mut lookups, mut connections) = (Vec::new(), Vec::new());
        self.clients.advance(self.now, &mut self.resolvers, &mut lookups);
        self.connections.advance(self.now, &self.clients.names, &mut connections);
        self.unasked(&mut connections, who);
        self.streams();
        self.resolvers.expire(self.now);
        done.extend(lookups.into_iter().map(Box::new).map(Conclusion::Lookup));
        done.extend(connections.into_iter().map(Box::new).map(Conclusion::Connection));
    }
}
