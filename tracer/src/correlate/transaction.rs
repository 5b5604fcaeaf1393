//! One DNS query on one socket and what came of it. Decides nothing about lookups.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use crate::event::{Actor, Answer, Dns, Protocol, rcode_name};
use crate::identify::Identifier;
use crate::record::{HostId, Timestamp};
use crate::report::{self, Outcome, TransactionOutcome, Transport};

pub use super::asked::Asked;
use super::upstream::Tie;

/// Most sends and events kept of one transaction; further ones are counted only.
pub(crate) const EVENTS_MAX: usize = 64;

/// What identifies a socket: its cookie, else where its packets go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SocketKey {
    /// Host and cookie.
    Cookie(HostId, u64),
    /// Host, cgroup and 5-tuple.
    Flow {
        /// Machine.
        host: HostId,
        /// cgroup v2 id.
        cgroup: Option<u64>,
        /// TCP, not UDP.
        tcp: bool,
        /// Own end.
        local: SocketAddr,
        /// Far end.
        remote: SocketAddr,
    },
}

/// In few words: it is a key that every message looks up.
impl Hash for SocketKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let word = |end: &SocketAddr| match end.ip() {
            IpAddr::V4(ip) => u128::from(ip.to_bits()) << 16,
            IpAddr::V6(ip) => ip.to_bits(),
        };
        match self {
            Self::Cookie(host, cookie) => {
                state.write_u64(*cookie);
                state.write_u16(host.0);
            }
            Self::Flow { host, cgroup, tcp, local, remote } => {
                state.write_u128(word(local));
                state.write_u128(word(remote));
                let ports = u64::from(local.port()) << 16 | u64::from(remote.port());
                let rest = u64::from(host.0) << 33 | u64::from(*tcp) << 32;
                state.write_u64(ports | rest);
                state.write_u64(cgroup.unwrap_or_default());
            }
        }
    }
}

impl SocketKey {
    pub(crate) fn of(actor: &Actor, dns: &Dns) -> Self {
        match actor.socket() {
            Some((host, cookie)) => Self::Cookie(host, cookie),
            None => Self::Flow {
                host: actor.host,
                cgroup: actor.cgroup,
                tcp: dns.protocol == Protocol::Tcp,
                local: dns.local,
                remote: dns.remote,
            },
        }
    }

    /// The machine it is on.
    pub(crate) fn host(&self) -> HostId {
        match self {
            Self::Cookie(host, _) | Self::Flow { host, .. } => *host,
        }
    }
}

/// A datagram (or message) that went out or came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// When.
    pub at: Timestamp,
    /// Its event.
    pub number: u64,
}

/// A response.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// When it arrived.
    pub at: Timestamp,
    /// Its event.
    pub number: u64,
    /// RCODE with EDNS's upper bits.
    pub rcode: u16,
    /// TC bit.
    pub truncated: bool,
    /// Answer section.
    pub answers: Vec<Answer>,
}

impl Reply {
    pub(crate) fn of(dns: &Dns, at: Timestamp, number: u64) -> Self {
        Self {
            at,
            number,
            rcode: dns.message.rcode,
            truncated: dns.message.truncated,
            answers: dns.message.answers.clone(),
        }
    }

    /// Neither an answer nor NXDOMAIN.
    pub(crate) fn is_error(&self) -> bool {
        self.rcode != 0 && self.rcode != 3
    }
}

/// How it was seen that the sender waits no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GaveUp {
    /// It asked again from another socket or with another id.
    Retried,
    /// It went on to the next candidate name.
    NextName,
    /// It closed the socket.
    Closed,
    /// Its process ended.
    Exited,
    /// The time-out of its resolver configuration has passed.
    Expired,
    /// A system call on the socket failed with this errno.
    Errno(i32),
    /// It closed the socket far too soon for a time-out, and no call was seen to fail. With the event
    /// of a sendmmsg that the socket cut short, as it does while an error is pending.
    TooSoon(Option<u64>),
}

/// One DNS query and what came of it.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Who asked; the task is that of the first send.
    pub actor: Actor,
    /// Its socket.
    pub socket: SocketKey,
    /// Own end.
    pub client: SocketAddr,
    /// Address the program asked for.
    pub server: SocketAddr,
    /// Address on the packets.
    pub wire: SocketAddr,
    /// Transport.
    pub transport: Transport,
    /// Id.
    pub id: u16,
    /// Name as sent.
    pub name: String,
    /// Question.
    pub asked: Asked,
    /// The query carried an OPT record.
    pub edns: bool,
    /// Which try of its attempt for this type, from 1.
    pub try_number: u32,
    /// Each time it went out.
    pub sends: Vec<Sent>,
    /// Times it went out again.
    pub retransmits: u32,
    /// Nothing saw it leave: it was told from the far side or from the response.
    pub recovered: bool,
    /// The response that counts.
    pub reply: Option<Reply>,
    /// Error responses after which the same datagram went out again.
    pub earlier_errors: Vec<Reply>,
    /// When and how the sender gave up.
    pub gave_up: Option<(Timestamp, GaveUp)>,
    /// Numbers of its events.
    pub events: Vec<u64>,
    /// What the resolver's side and other answers say; filled when the lookup closes.
    pub tie: Tie,
}

impl Transaction {
    pub(crate) fn new(actor: Actor, dns: &Dns, asked: Asked, who: &Identifier, sent: Sent) -> Self {
        let name = dns.message.question.as_ref().map_or_else(String::new, |q| q.name.clone());
        Self {
            socket: SocketKey::of(&actor, dns),
            client: dns.local,
            server: who.asked_for(&actor, dns.remote),
            actor,
            wire: dns.remote,
            transport: transport(dns.protocol),
            id: dns.message.id,
            name,
            asked,
            edns: dns.message.edns,
            try_number: 1,
            sends: vec![sent],
            retransmits: 0,
            recovered: false,
            reply: None,
            earlier_errors: Vec::new(),
            gave_up: None,
            events: first_of_two(sent.number),
            tie: Tie::default(),
        }
    }

    /// The same datagram again. After an error response that opens the transaction again.
    pub(crate) fn resent(&mut self, sent: Sent) {
        self.retransmits = self.retransmits.saturating_add(1);
        if self.sends.len() < EVENTS_MAX {
            self.sends.push(sent);
            self.events.push(sent.number);
        }
        if self.reply.as_ref().is_some_and(Reply::is_error)
            && let Some(reply) = self.reply.take()
            && self.earlier_errors.len() < EVENTS_MAX
        {
            self.earlier_errors.push(reply);
        }
        if self.reply.is_none() {
            self.gave_up = None;
        }
    }

    pub(crate) fn answered(&mut self, reply: Reply) {
        if self.events.len() < 2 * EVENTS_MAX {
            self.events.push(reply.number);
        }
        if self.reply.is_none() {
            self.reply = Some(reply);
        }
    }

    /// The sender waits no more; the first reason stays.
    pub(crate) fn give_up(&mut self, at: Timestamp, why: GaveUp) {
        if self.is_open() {
            self.gave_up = Some((at.max(self.started()), why));
        }
    }

    /// No response and not given up.
    pub fn is_open(&self) -> bool {
        self.reply.is_none() && self.gave_up.is_none()
    }

    /// First send.
    pub fn started(&self) -> Timestamp {
        self.sends.first().map_or(Timestamp(0), |s| s.at)
    }

    /// Last send.
    pub fn last_send(&self) -> Timestamp {
        self.sends.last().map_or(Timestamp(0), |s| s.at)
    }

    /// Response, or the moment the sender gave up; `None` while open.
    pub fn ended(&self) -> Option<Timestamp> {
        match (&self.reply, self.gave_up) {
            (Some(reply), _) => Some(reply.at.max(self.started())),
            (None, Some((at, _))) => Some(at),
            (None, None) => None,
        }
    }

    /// In the words of the contract.
    pub fn outcome(&self) -> TransactionOutcome {
        match (&self.reply, self.gave_up) {
            (Some(_), _) => TransactionOutcome::Answered,
            (None, Some((_, GaveUp::Errno(_) | GaveUp::TooSoon(_)))) => {
                TransactionOutcome::Unreachable
            }
            (None, Some(_)) => TransactionOutcome::Timeout,
            (None, None) => TransactionOutcome::Undecided,
        }
    }

    /// What it says about the name. A CNAME without data of the asked type is no data.
    pub fn verdict(&self) -> Outcome {
        let Some(reply) = &self.reply else {
            return match self.outcome() {
                TransactionOutcome::Unreachable => Outcome::Unreachable,
                TransactionOutcome::Timeout => Outcome::Timeout,
                _ => Outcome::Undecided,
            };
        };
        let wanted = &self.asked.qtype;
        match reply.rcode {
            0 if reply.answers.iter().any(|a| a.rtype == *wanted || wanted == "ANY") => {
                Outcome::Answered
            }
            0 if reply.truncated => Outcome::Error,
            0 => Outcome::Nodata,
            2 => Outcome::Servfail,
            3 => Outcome::Nxdomain,
            5 => Outcome::Refused,
            _ => Outcome::Error,
        }
    }

    /// Data of the asked type.
    pub fn data(&self) -> impl Iterator<Item = &str> {
        let wanted = self.asked.qtype.as_ref();
        let answers = self.reply.iter().filter(|r| r.rcode == 0).flat_map(|r| &r.answers);
        answers.filter(move |a| a.rtype == wanted).map(|a| a.data.as_str())
    }

    /// Data of the asked type, and CNAME targets before them.
    fn answers(&self) -> Vec<String> {
        let answers = self.reply.iter().flat_map(|r| &r.answers);
        answers
            .filter(|a| a.rtype == self.asked.qtype || a.rtype == "CNAME")
            .map(|a| a.data.clone())
            .collect()
    }

    fn latency(&self) -> Option<u64> {
        self.reply.as_ref().map(|r| r.at.since(self.started()))
    }

    /// As a part of its lookup.
    pub(crate) fn in_attempt(&self) -> report::AttemptTransaction {
        report::AttemptTransaction {
            client: self.client,
            server: self.server,
            transport: self.transport,
            qtype: self.asked.qtype.clone().into_owned(),
            id: self.id,
            try_number: self.try_number,
            rcode: self.reply.as_ref().map(|r| rcode_name(r.rcode)),
            outcome: self.outcome(),
            latency_ns: self.latency(),
            retransmits: self.retransmits,
            recovered: self.recovered,
            answers: self.answers(),
            events: self.events.clone(),
        }
    }

    /// As a line of its own.
    pub fn report(&self, who: &Identifier) -> report::Transaction {
        report::Transaction {
            schema: 1,
            ts: report::Ts(self.started()),
            identity: who.identity(&self.actor),
            client: self.client,
            server: self.server,
            server_wire: (self.wire != self.server).then_some(self.wire),
            transport: self.transport,
            id: self.id,
            try_number: self.try_number,
            name: self.name.clone(),
            qtype: self.asked.qtype.clone().into_owned(),
            rcode: self.reply.as_ref().map(|r| rcode_name(r.rcode)),
            answers: self.answers(),
            latency_ns: self.latency(),
            retransmits: self.retransmits,
            recovered: self.recovered,
            truncated: self.reply.as_ref().is_some_and(|r| r.truncated),
            outcome: self.outcome(),
            events: self.events.clone(),
        }
    }
}

/// As a rule a response follows.
fn first_of_two(number: u64) -> Vec<u64> {
    let mut events = Vec::with_capacity(2);
    events.push(number);
    events
}

/// Transport in the words of the contract.
pub(crate) fn transport(protocol: Protocol) -> Transport {
    if protocol == Protocol::Tcp { Transport::Tcp } else { Transport::Udp }
}
