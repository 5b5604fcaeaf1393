//! One DNS query on one socket and what came of it. Decides nothing about lookups.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use smallvec::{SmallVec, smallvec};

use crate::event::{
    Actor, Answer, Dns, EdnsOptions, Protocol, extended_error_name, is_error_rcode, rcode_name,
};
use crate::identify::Identifier;
use crate::record::{HostId, Timestamp};
use crate::report::{self, Outcome, TransactionOutcome, Transport};

pub use super::asked::Asked;
use super::passing::{Rejected, Unheard};
use super::truncated::Sequel;
use super::upstream::Tie;

/// Most sends and events kept of one transaction; further ones are counted only.
pub(crate) const EVENTS_MAX: usize = 64;
/// The same bytes on the same socket within this time are one datagram seen at two hooks: nobody
/// asks again so soon without having heard something.
const SAME_NS: u64 = 100_000;

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
        match self {
            Self::Cookie(host, cookie) => {
                state.write_u64(*cookie);
                state.write_u16(host.0);
            }
            Self::Flow { host, cgroup, tcp, local, remote } => {
                match (local.ip(), remote.ip()) {
                    (IpAddr::V4(local), IpAddr::V4(remote)) => {
                        let word = |ip: Ipv4Addr| u64::from(ip.to_bits());
                        state.write_u64(word(local) << 32 | word(remote));
                    }
                    ends => ends.hash(state),
                }
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
        Self::between(actor, dns.protocol == Protocol::Tcp, dns.local, dns.remote)
    }

    /// That of a packet between these ends.
    pub(crate) fn between(actor: &Actor, tcp: bool, local: SocketAddr, remote: SocketAddr) -> Self {
        match actor.socket() {
            Some((host, cookie)) => Self::Cookie(host, cookie),
            None => Self::Flow { host: actor.host, cgroup: actor.cgroup, tcp, local, remote },
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
    /// Bytes of the message.
    pub size: u32,
    /// Seconds for which the absence that it tells may be kept.
    pub negative_ttl: Option<u32>,
    /// EDNS options, of a response with any.
    pub options: Option<Box<EdnsOptions>>,
}

impl Reply {
    /// What `dns` says, taken out of it.
    pub(crate) fn of(dns: &mut Dns, sent: Sent) -> Self {
        Self {
            at: sent.at,
            number: sent.number,
            size: dns.original_len,
            rcode: dns.message.rcode,
            truncated: dns.message.truncated,
            answers: std::mem::take(&mut dns.message.answers),
            negative_ttl: dns.message.negative_ttl,
            options: dns.message.options.take(),
        }
    }

    /// Neither an answer nor NXDOMAIN.
    pub(crate) fn is_error(&self) -> bool {
        is_error_rcode(self.rcode)
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
    /// A system call on the socket failed with this errno, or a packet brought what it stands for
    /// (ECONNRESET).
    Errno(i32),
    /// The server closed the connection without an answer.
    ServerClosed,
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
    /// Bytes of the query.
    pub size: u32,
    /// Largest datagram that it allows; 0 without an OPT record.
    pub udp_size: u16,
    /// DO bit of its OPT record.
    pub dnssec_ok: bool,
    /// Which try of its attempt for this type, from 1.
    pub try_number: u32,
    /// Each time it went out.
    pub sends: SmallVec<[Sent; 1]>,
    /// Times it went out again.
    pub retransmits: u32,
    /// Nothing saw it leave: it was told from the far side or from the response.
    pub recovered: bool,
    /// The response that counts.
    pub reply: Option<Reply>,
    /// Error responses after which the same datagram went out again.
    pub earlier_errors: Vec<Reply>,
    /// Further answers, as those to retransmissions are.
    pub repeats: Vec<Sent>,
    /// An answer that came after the sender had given up for good.
    pub late: Option<Box<Reply>>,
    /// Answers that came for it and that its sender did not take.
    pub unheard: Option<Box<Unheard>>,
    /// ICMP errors about it.
    pub rejected: Option<Box<Rejected>>,
    /// When and how the sender gave up.
    pub gave_up: Option<(Timestamp, GaveUp)>,
    /// Numbers of its events.
    pub events: SmallVec<[u64; 2]>,
    /// What the resolver's side and other answers say; filled when the lookup closes.
    pub tie: Tie,
    /// What followed a truncated answer; filled when the lookup closes.
    pub sequel: Option<Box<Sequel>>,
}

impl Transaction {
    /// The query `dns` of `actor` from `socket`. Its name is taken out of it.
    pub(crate) fn new(
        actor: Actor,
        socket: SocketKey,
        dns: &mut Dns,
        asked: Asked,
        who: &Identifier,
        sent: Sent,
    ) -> Self {
        let name = dns.message.question.as_mut().map(|question| &mut question.name);
        let name = name.map(std::mem::take).unwrap_or_default();
        Self {
            socket,
            client: dns.local,
            server: who.asked_for(&actor, dns.remote),
            actor,
            wire: dns.remote,
            transport: transport(dns.protocol),
            id: dns.message.id,
            name,
            asked,
            edns: dns.message.edns,
            size: dns.original_len,
            udp_size: dns.message.udp_size,
            dnssec_ok: dns.message.dnssec_ok,
            try_number: 1,
            sends: smallvec![sent],
            retransmits: 0,
            recovered: false,
            reply: None,
            earlier_errors: Vec::new(),
            repeats: Vec::new(),
            late: None,
            unheard: None,
            rejected: None,
            gave_up: None,
            events: smallvec![sent.number],
            tie: Tie::default(),
            sequel: None,
        }
    }

    /// When a truncated answer came over UDP.
    pub(crate) fn cut_at(&self) -> Option<Timestamp> {
        let reply = self.reply.as_ref().filter(|reply| reply.truncated)?;
        (self.transport == Transport::Udp).then_some(reply.at)
    }

    /// The same datagram again. After an error response that opens the transaction again.
    pub(crate) fn resent(&mut self, sent: Sent) {
        let heard = self.reply.as_ref().is_some_and(|r| r.at >= self.last_send());
        if !heard && sent.at.since(self.last_send()) < SAME_NS {
            return;
        }
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
        self.note(reply.number);
        if self.reply.is_none() {
            self.reply = Some(reply);
        }
    }

    /// An answer that the sender does not wait for any more.
    pub(crate) fn answered_late(&mut self, reply: Reply) {
        self.note(reply.number);
        self.late.get_or_insert_with(|| Box::new(reply));
    }

    /// An answer that its sender does not take: it never reached the socket, or came from elsewhere.
    pub(crate) fn passed_by(&mut self, from: SocketAddr, reply: &Reply, dismissed: bool) {
        self.note(reply.number);
        match &mut self.unheard {
            Some(known) => known.count = known.count.saturating_add(1),
            None => {
                let Reply { at, number, rcode, .. } = *reply;
                let first = Unheard { from, at, number, rcode, count: 1, dismissed };
                self.unheard = Some(Box::new(first));
            }
        }
    }

    /// An ICMP error about one of its queries.
    pub(crate) fn rejected(&mut self, error: Rejected) {
        self.note(error.number);
        match &mut self.rejected {
            Some(known) if known.error.is_final() || !error.error.is_final() => {
                known.count = known.count.saturating_add(1);
            }
            _ => self.rejected = Some(Box::new(error)),
        }
    }

    /// The ICMP error that says that nobody will answer; nothing where an answer came all the same.
    pub fn unreachable(&self) -> Option<&Rejected> {
        let rejected = self.rejected.as_deref().filter(|rejected| rejected.error.is_final());
        rejected.filter(|_| self.late.is_none())
    }

    /// One more answer after the one that counts.
    pub(crate) fn answered_again(&mut self, sent: Sent) {
        let before = self.repeats.last().map(|r| r.at).or(self.reply.as_ref().map(|r| r.at));
        if before.is_some_and(|at| sent.at.since(at) < SAME_NS) || self.repeats.len() >= EVENTS_MAX
        {
            return;
        }
        self.note(sent.number);
        self.repeats.push(sent);
    }

    fn note(&mut self, number: u64) {
        if self.events.len() < 2 * EVENTS_MAX {
            self.events.push(number);
        }
    }

    /// The sender waits no more; the first reason stays.
    pub(crate) fn give_up(&mut self, at: Timestamp, why: GaveUp) {
        if self.is_open() {
            self.gave_up = Some((at.max(self.started()), why));
        }
    }

    /// Bytes of its queries and responses as DNS messages, retransmissions included.
    pub fn bytes(&self) -> u64 {
        let queries = u64::from(self.size) * (1 + u64::from(self.retransmits));
        let replies = self.earlier_errors.iter().chain(&self.reply);
        queries + replies.map(|reply| u64::from(reply.size)).sum::<u64>()
    }

    /// `from` is the server that was asked.
    pub(crate) fn is_from(&self, from: SocketAddr) -> bool {
        self.wire == from || self.server == from
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

    /// The time in which the sender heard nothing and then asked again or gave up, if it lost a
    /// datagram or its answer that way.
    pub fn silence(&self) -> Option<(Timestamp, Timestamp)> {
        let from = self.started();
        let Some(reply) = &self.reply else {
            let (until, _) = self.gave_up.filter(|_| self.late.is_none())?;
            return Some((from, until));
        };
        let answers = 1 + self.repeats.len() + self.earlier_errors.len();
        if !self.earlier_errors.is_empty() || answers >= self.sends.len() {
            return None;
        }
        let until = self.send_before(reply.at)?.at;
        (until > from).then_some((from, until))
    }

    /// First send to an answer that came too late for its sender, in nanoseconds.
    pub fn late_ns(&self) -> Option<u64> {
        self.late.as_ref().map(|r| r.at.since(self.started()))
    }

    /// In the words of the contract.
    pub fn outcome(&self) -> TransactionOutcome {
        match (&self.reply, self.gave_up) {
            (Some(_), _) => TransactionOutcome::Answered,
            (None, Some((_, GaveUp::Errno(_) | GaveUp::TooSoon(_) | GaveUp::ServerClosed))) => {
                TransactionOutcome::Unreachable
            }
            (None, Some(_)) if self.unreachable().is_some() => TransactionOutcome::Unreachable,
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
            // Who asks again does not take the part for the whole.
            0 if self.sequel.as_ref().is_some_and(|sequel| sequel.tcp_failed()) => Outcome::Error,
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

    /// Data of the asked type, and CNAME targets before them; taken out.
    fn take_answers(&mut self) -> Vec<String> {
        let answers = self.reply.as_mut().map(|r| std::mem::take(&mut r.answers));
        let wanted = |a: &Answer| a.rtype == self.asked.qtype || a.rtype == "CNAME";
        answers.into_iter().flatten().filter(wanted).map(|a| a.data).collect()
    }

    /// First send to the response that counts, in nanoseconds.
    pub fn latency(&self) -> Option<u64> {
        self.reply.as_ref().map(|r| r.at.since(self.started()))
    }

    fn after_truncation(&self) -> Option<report::AfterTruncation> {
        let (sequel, since) = (self.sequel.as_ref()?, self.cut_at()?);
        Some(report::AfterTruncation {
            followed: sequel.followed,
            duration_ns: sequel.at.map(|at| at.since(since)),
            events: sequel.events.clone(),
        })
    }

    fn unheard(&self) -> Option<report::Unheard> {
        let unheard = self.unheard.as_ref()?;
        Some(report::Unheard {
            from: unheard.from,
            after_ns: unheard.at.since(self.waited_since(unheard.at)),
            rcode: rcode_name(unheard.rcode),
            answers: unheard.count,
            dismissed: unheard.dismissed,
            event: unheard.number,
        })
    }

    fn icmp(&self) -> Option<report::IcmpAbout> {
        let Rejected { from, error, mtu, at, number, count } = **self.rejected.as_ref()?;
        Some(report::IcmpAbout {
            from,
            error: error.name().to_owned(),
            after_ns: at.since(self.waited_since(at)),
            mtu,
            errors: count,
            event: number,
        })
    }

    /// The last send before `at`.
    pub(crate) fn send_before(&self, at: Timestamp) -> Option<&Sent> {
        self.sends.iter().rev().find(|sent| sent.at <= at)
    }

    /// Since when its sender had waited for what came at `at`.
    pub(crate) fn waited_since(&self, at: Timestamp) -> Timestamp {
        self.send_before(at).map_or(self.started(), |sent| sent.at)
    }

    fn edns(&self) -> Option<report::Edns> {
        self.edns.then_some(report::Edns { udp_size: self.udp_size, dnssec_ok: self.dnssec_ok })
    }

    fn options(&self) -> Option<Vec<u16>> {
        Some(self.reply.as_ref()?.options.as_ref()?.codes.clone())
    }

    fn extended_errors(&self) -> Option<Vec<report::ExtendedError>> {
        let errors = &self.reply.as_ref()?.options.as_ref()?.errors;
        let error = |(code, text): &(u16, String)| report::ExtendedError {
            code: *code,
            name: extended_error_name(*code).map(str::to_owned),
            text: (!text.is_empty()).then(|| text.clone()),
        };
        (!errors.is_empty()).then(|| errors.iter().map(error).collect())
    }

    /// As a part of its lookup.
    pub(crate) fn in_attempt(mut self) -> report::AttemptTransaction {
        report::AttemptTransaction {
            client: self.client,
            server: self.server,
            transport: self.transport,
            qtype: self.asked.qtype.clone(),
            id: self.id,
            try_number: self.try_number,
            rcode: self.reply.as_ref().map(|r| rcode_name(r.rcode)),
            outcome: self.outcome(),
            latency_ns: self.latency(),
            late_ns: self.late_ns(),
            unheard: self.unheard(),
            icmp: self.icmp(),
            retransmits: self.retransmits,
            recovered: self.recovered,
            after_truncation: self.after_truncation(),
            extended_errors: self.extended_errors(),
            answers: self.take_answers(),
            events: self.events,
        }
    }

    /// As a line of its own.
    pub fn report(mut self, who: &Identifier) -> report::Transaction {
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
            qtype: self.asked.qtype.clone(),
            rcode: self.reply.as_ref().map(|r| rcode_name(r.rcode)),
            latency_ns: self.latency(),
            late_ns: self.late_ns(),
            unheard: self.unheard(),
            icmp: self.icmp(),
            retransmits: self.retransmits,
            recovered: self.recovered,
            truncated: self.reply.as_ref().is_some_and(|r| r.truncated),
            after_truncation: self.after_truncation(),
            edns: self.edns(),
            response_options: self.options(),
            extended_errors: self.extended_errors(),
            nodata: (self.verdict() == Outcome::Nodata).then_some(true),
            negative_ttl_s: self.reply.as_ref().and_then(|r| r.negative_ttl),
            outcome: self.outcome(),
            answers: self.take_answers(),
            name: self.name,
            events: self.events.into_vec(),
        }
    }
}

/// Transport in the words of the contract.
pub(crate) fn transport(protocol: Protocol) -> Transport {
    if protocol == Protocol::Tcp { Transport::Tcp } else { Transport::Udp }
}
