//! Which resolver library made a lookup, told from its behaviour on the wire and in system calls.
//! Says nothing on weak evidence.

use std::collections::{BTreeMap, VecDeque};

use crate::event::{Actor, AddressCall, Body, Call, Event, Protocol};

use crate::record::HostId;

use super::lookup::Attempt;
use super::transaction::Transaction;

/// Sockets remembered.
const CAP: usize = 16_384;

/// How a socket was used.
#[derive(Clone, Copy, Debug, Default)]
struct Habits {
    connected: bool,
    addressed: bool,
    /// Two messages in one sendmmsg.
    paired: bool,
    /// Event of a sendmmsg that took fewer messages than it was given.
    cut_short: Option<u64>,
    /// Results of receiving calls are told for it.
    receives: bool,
}

/// The event says how its socket is used.
fn tells(body: &Body) -> bool {
    match body {
        Body::SocketAddress(a) => a.protocol == Protocol::Udp && a.call != AddressCall::Recvmsg,
        Body::Syscall(s) => {
            use Call::{Recvfrom, Recvmmsg, Recvmsg, Sendmmsg};
            matches!(s.call, Recvfrom | Recvmsg | Recvmmsg | Sendmmsg)
        }
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
                self.paired |= given >= 2;
                let cut = s.result.is_some_and(|n| u64::try_from(n).is_ok_and(|n| n < given));
                if cut && given == 2 {
                    self.cut_short.get_or_insert(event.number);
                }
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
    pub(crate) fn library(&self, attempts: &[Attempt]) -> Option<&'static str> {
        let all = || attempts.iter().flat_map(|a| &a.transactions);
        let habits = |t: &Transaction| self.of(&t.actor);
        let pairs: Vec<(&Transaction, &Transaction)> =
            attempts.iter().filter_map(|a| pair(&a.transactions)).collect();
        let (first, second) = *pairs.first()?;
        if pairs.iter().any(|(a, _)| habits(a).paired) {
            return Some("glibc"); // no other one asks for both types with one sendmmsg
        }
        let one_socket = pairs.iter().all(|(a, b)| same_port(a, b));
        let two_sockets = pairs.iter().all(|(a, b)| !same_port(a, b));
        let port_kept = attempts.len() > 1
            && all().filter(|t| t.try_number == 1).all(|t| t.client == first.client);
        if all().all(|t| t.edns) {
            if two_sockets {
                return Some("go");
            }
            return (one_socket && port_kept).then_some("c-ares");
        }
        if !one_socket || all().any(|t| t.edns) {
            return None;
        }
        if all().any(|t| resent_after(t, 2_500_000_000)) {
            return Some("musl");
        }
        let unconnected = |t| habits(t).addressed && !habits(t).connected;
        if unconnected(first) && unconnected(second) {
            return Some("musl");
        }
        let connected = habits(first).connected;
        let new_ports = attempts.len() > 1 && !port_kept;
        let five = all().any(|t| resent_after(t, 5_000_000_000));
        ((five && !port_kept) || (connected && new_ports)).then_some("glibc")
    }
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
fn resent_after(transaction: &Transaction, ns: u64) -> bool {
    transaction.sends.windows(2).any(|w| match w {
        [a, b] => b.at.since(a.at).abs_diff(ns) <= ns / 16,
        _ => false,
    })
}
