//! What besides answers ends the wait of clients: sockets that close, connections that end, calls that
//! fail, processes that exit. Matches no messages.

use crate::event::{Actor, Body, Direction, Event, Syscall, Tcp};
use crate::record::{HostId, Timestamp};
use crate::report::Transport;

use super::super::connection::StreamNote;
use super::super::ids::Ids;
use super::super::transaction::{GaveUp, SocketKey, Transaction};
use super::{Clients, LOOK_MAX};

/// A client that closes within this time was told an error, not silence.
const TOO_SOON_NS: u64 = 300_000_000;

impl Clients {
    /// Everything that is not a DNS message.
    pub(crate) fn observe(&mut self, event: &Event) {
        self.sockets.observe(event);
        match &event.body {
            Body::SocketClosed(_) => self.socket_closed(&event.actor, event.at),
            Body::Tcp(packet) if packet.fin || packet.rst => self.stream_ended(event, packet),
            Body::Syscall(call) => self.call_failed(event, call),
            Body::Exit => {
                if let Some(task) = &event.actor.task {
                    self.exited(event.actor.host, task.pid, event.at);
                }
            }
            _ => {}
        }
    }

    fn on_socket(&self, actor: &Actor) -> Vec<u64> {
        actor.socket().map(|socket| self.by_socket.on_cookie(socket)).unwrap_or_default()
    }

    pub(super) fn give_up(
        &mut self,
        ids: &[u64],
        at: Timestamp,
        why: impl Fn(&Transaction) -> GaveUp,
    ) {
        for id in ids {
            if let Some(open) = self.table.get_mut(id)
                && open.transaction.is_open()
            {
                let why = why(&open.transaction);
                let lookup = open.lookup;
                open.transaction.give_up(at, why);
                self.settle(lookup);
            }
        }
    }

    fn socket_closed(&mut self, actor: &Actor, at: Timestamp) {
        let told = self.sockets.receives(actor);
        let cut_short = self.sockets.cut_short(actor);
        let ids = self.on_socket(actor);
        self.give_up(&ids, at, |t| {
            let soon = at.since(t.last_send()) < TOO_SOON_NS;
            let datagrams = t.transport == Transport::Udp;
            if soon && !told && datagrams { GaveUp::TooSoon(cut_short) } else { GaveUp::Closed }
        });
        for id in ids {
            if let Some(open) = self.table.get_mut(&id) {
                open.closed.get_or_insert(at);
                let lookup = open.lookup;
                self.settle(lookup);
            }
        }
    }

    /// A connection ends: what was asked on it stays unanswered.
    fn stream_ended(&mut self, event: &Event, packet: &Tcp) {
        let key = SocketKey::between(&event.actor, true, packet.local, packet.remote);
        let ids = self.by_socket.on_stream(&key);
        self.give_up(&ids, event.at, |_| match (packet.direction, packet.rst) {
            (Direction::In, true) => GaveUp::Errno(104),
            (Direction::In, false) => GaveUp::ServerClosed,
            (Direction::Out, _) => GaveUp::Closed,
        });
    }

    /// A connect to a DNS server began, or came to its outcome.
    pub(crate) fn stream(&mut self, note: StreamNote) {
        let Some(owner) = &note.owner else { return };
        let ids = self.truncated.get(owner).into_iter().flatten();
        for id in ids.rev().take(LOOK_MAX).copied().collect::<Ids>() {
            let Some(lookup) = self.lookups.get_mut(&id) else { continue };
            let Some(last) = lookup.attempts.last() else { continue };
            if !last.all(&self.table).any(|t| t.cut_at().is_some()) {
                continue;
            }
            match note.connected.clone() {
                None => lookup.connects.begun(note.server, note.at),
                Some(connected) => lookup.connects.ended(connected),
            }
            self.settle(id);
        }
    }

    fn call_failed(&mut self, event: &Event, call: &Syscall) {
        let Some(result) = call.result else { return };
        let Ok(errno) = i32::try_from(result.saturating_neg()) else { return };
        if is_unreachable(errno) {
            self.give_up(&self.on_socket(&event.actor), event.at, |_| GaveUp::Errno(errno));
        }
    }

    fn exited(&mut self, host: HostId, pid: u32, at: Timestamp) {
        let ids = self.by_process.get(&(host, pid)).cloned().unwrap_or_default();
        for id in ids {
            let Some(lookup) = self.lookups.get_mut(&id) else { continue };
            lookup.over = true;
            let all: Vec<u64> =
                lookup.attempts.iter().flat_map(|a| &a.transactions).copied().collect();
            self.give_up(&all, at, |_| GaveUp::Exited);
            self.settle(id);
        }
    }
}

/// errno says that nobody can be reached there.
fn is_unreachable(errno: i32) -> bool {
    // ENETDOWN, ENETUNREACH, ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH: the same on all of Linux's
    // usual architectures.
    matches!(errno, 100 | 101 | 111 | 112 | 113)
}
