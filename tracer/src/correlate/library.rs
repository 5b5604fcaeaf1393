//! Which resolver library made a lookup, told from its behaviour on the wire and in system calls.
//! Says nothing on weak evidence: resolvers that are nobody's libc (nginx, Netty, dig, dnspython)
//! must not pass for one.

use std::collections::{BTreeMap, VecDeque};

use crate::event::{Actor, AddressCall, Body, Call, Event, Protocol};

use crate::record::HostId;

use super::lookup::Attempt;
use super::patience::Settings;
use super::transaction::Transaction;

/// Sockets remembered.
const CAP: usize = 16_384;

/// How a socket was used.
#[derive(Clone, Copy, Debug, Default)]
struct Habits {
    connected: bool,
    addressed: bool,
    /// Two messages, no more, in one sendmmsg.
    paired: bool,
    /// Messages sent one by one, as far as calls are told.
    single: u8,
    /// Event of a sendmmsg that took fewer messages than it was given.
    cut_short: Option<u64>,
    /// Results of receiving calls are told for it.
    receives: bool,
}

/// The event says how its socket is used.
fn tells(body: &Body) -> bool {
    match body {
        Body::SocketAddress(a) => a.protocol == Protocol::Udp && a.call != AddressCall::Recvmsg,
        Body::Syscall(s) => s.call != Call::Connect,
        _ => false,
    }
}

impl Habits {
    fn note(&mut self, event: &Event) {
        match &event.body {
            Body::SocketAddress(a) if a.call == AddressCall::Connect => self.connected = true,
            Body::SocketAddress(_) => self.addressed = true,
            Body::Syscall(s) if s.call == Call::Sendmmsg => {
                let given = s.size.unwrap_or(0);
                self.paired |= given == 2;
                let cut = s.result.is_some_and(|n| u64::try_from(n).is_ok_and(|n| n < given));
                if cut && given == 2 {
                    self.cut_short.get_or_insert(event.number);
                }
            }
            Body::Syscall(s) if matches!(s.call, Call::Sendto | Call::Sendmsg) => {
                self.single = self.single.saturating_add(1);
            }
            Body::Syscall(_) => self.receives = true,
            _ => {}
        }
    }
}

/// Habits by host and socket cookie; the oldest are forgotten first.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    habits: BTreeMap<(HostId, u64), Habits>,
    order: VecDeque<(HostId, u64)>,
}

impl Sockets {
    pub(crate) fn observe(&mut self, event: &Event) {
        let Some(socket) = event.actor.socket() else { return };
        if !tells(&event.body) {
            return;
        }
        let habits = self.habits.entry(socket).or_insert_with(|| {
            self.order.push_back(socket);
            Habits::default()
        });
        habits.note(event);
        if self.order.len() > CAP
            && let Some(oldest) = self.order.pop_front()
        {
            self.habits.remove(&oldest);
        }
    }

    /// Receiving calls on this socket are recorded: an error would have been seen.
    pub(crate) fn receives(&self, actor: &Actor) -> bool {
        self.of(actor).receives
    }

    /// The event of a sendmmsg that this socket cut short.
    pub(crate) fn cut_short(&self, actor: &Actor) -> Option<u64> {
        self.of(actor).cut_short
    }

    fn of(&self, actor: &Actor) -> Habits {
        actor.socket().and_then(|socket| self.habits.get(&socket)).copied().unwrap_or_default()
    }

    /// `go`, `musl`, `glibc`, `c-ares`, when the lookup tells.
    pub(crate) fn library(
        &self,
        attempts: &[Attempt],
        settings: &Settings,
    ) -> Option<&'static str> {
        let all = || attempts.iter().flat_map(|a| &a.transactions);
        // No other one asks for both types of a name with one sendmmsg; for many names some do.
        let asked_both = |a: &Attempt| {
            let both = pair(&a.transactions).filter(|(a, b)| same_port(a, b));
            both.is_some_and(|(a, _)| self.of(&a.actor).paired)
        };
        if attempts.iter().any(asked_both) {
            return Some("glibc");
        }
        let first = all().next()?;
        let walk = Walked {
            pairs: attempts.iter().filter_map(|a| pair(&a.transactions)).collect(),
            several: attempts.len() > 1,
            port_kept: attempts.len() > 1
                && all().filter(|t| t.try_number == 1).all(|t| t.client == first.client),
        };
        if all().all(|t| t.edns) && !settings.has("edns0") {
            return self.with_edns(attempts, &walk, settings);
        }
        if all().any(|t| t.edns) {
            return None;
        }
        self.plain(attempts, &walk, settings)
    }

    fn with_edns(
        &self,
        attempts: &[Attempt],
        walk: &Walked<'_>,
        settings: &Settings,
    ) -> Option<&'static str> {
        let all = || attempts.iter().flat_map(|a| &a.transactions);
        if !walk.pairs.is_empty() && walk.pairs.iter().all(|(a, b)| !same_port(a, b)) {
            let connected = all().all(|t| !self.of(&t.actor).addressed);
            let ordered = settings.has("single-request") || settings.has("single-request-reopen");
            return (connected && !ordered).then_some("go");
        }
        if walk.pairs.iter().any(|(a, b)| !same_port(a, b)) {
            return None;
        }
        let pair_sends = self.one_by_one(attempts);
        let retried = attempts.iter().any(|a| retried_early(&a.transactions));
        (walk.port_kept || !walk.pairs.is_empty() && (pair_sends || retried)).then_some("c-ares")
    }

    /// A pair was sent one by one on a connected socket, as no libc does. Netty does not connect.
    pub(crate) fn one_by_one(&self, attempts: &[Attempt]) -> bool {
        attempts.iter().filter_map(|a| pair(&a.transactions)).any(|(a, b)| {
            let habits = self.of(&a.actor);
            same_port(a, b)
                && habits.connected
                && !habits.addressed
                && !habits.paired
                && habits.single >= 2
        })
    }

    fn plain(
        &self,
        attempts: &[Attempt],
        walk: &Walked<'_>,
        settings: &Settings,
    ) -> Option<&'static str> {
        let all = || attempts.iter().flat_map(|a| &a.transactions);
        let habits = |t: &Transaction| self.of(&t.actor);
        let new_ports = walk.several && !walk.port_kept;
        let connected = all().all(|t| habits(t).connected && !habits(t).addressed);
        let Some((first, second)) = walk.pairs.first() else {
            // For one type only glibc walks a list over connected sockets and receives with calls.
            let called = all().all(|t| habits(t).receives && habits(t).single > 0);
            return (connected && new_ports && called).then_some("glibc");
        };
        if attempts.iter().any(|a| to_all_servers(&a.transactions)) {
            return Some("musl");
        }
        if !walk.pairs.iter().all(|(a, b)| same_port(a, b)) {
            return None;
        }
        if settings.musl_interval_ns().is_some_and(|ns| all().any(|t| resent_after(t, ns))) {
            return Some("musl");
        }
        let unconnected = |t| habits(t).addressed && !habits(t).connected;
        if unconnected(first) && unconnected(second) {
            return Some("musl");
        }
        // Whoever sends one by one though calls are told is not glibc, unless it was told to.
        if habits(first).single >= 2 && !settings.has("single-request") {
            return None;
        }
        let again = all().any(|t| resent_after(t, settings.timeout_ns));
        (new_ports && (again || connected)).then_some("glibc")
    }
}

/// What the attempts have in common.
struct Walked<'a> {
    pairs: Vec<(&'a Transaction, &'a Transaction)>,
    several: bool,
    /// One port for all first tries of several names.
    port_kept: bool,
}

/// The same datagram from another socket, sooner than the C libraries wait and not after an error.
fn retried_early(transactions: &[Transaction]) -> bool {
    transactions.iter().enumerate().any(|(index, late)| {
        let earlier = transactions.iter().take(index).rev();
        let mut same = earlier.filter(|t| t.id == late.id && t.asked == late.asked);
        same.next().is_some_and(|early| {
            let waited = late.started().since(early.last_send());
            early.reply.is_none()
                && early.socket != late.socket
                && (200_000_000..900_000_000).contains(&waited)
        })
    })
}

/// One datagram to several servers at once.
fn to_all_servers(transactions: &[Transaction]) -> bool {
    transactions.windows(2).any(|w| match w {
        [a, b] => {
            a.socket == b.socket
                && (a.id, &a.asked) == (b.id, &b.asked)
                && a.wire != b.wire
                && b.started().since(a.started()) < 100_000_000
        }
        _ => false,
    })
}

/// The first A and AAAA of an attempt.
pub(crate) fn pair(transactions: &[Transaction]) -> Option<(&Transaction, &Transaction)> {
    let first = |qtype| transactions.iter().find(|t| t.asked.qtype == qtype);
    Some((first("A")?, first("AAAA")?))
}

fn same_port(a: &Transaction, b: &Transaction) -> bool {
    a.client == b.client && a.socket == b.socket
}

/// The same datagram went out again after `ns`, give or take 6 %.
pub(crate) fn resent_after(transaction: &Transaction, ns: u64) -> bool {
    transaction.sends.windows(2).any(|w| match w {
        [a, b] => b.at.since(a.at).abs_diff(ns) <= ns / 16,
        _ => false,
    })
}
