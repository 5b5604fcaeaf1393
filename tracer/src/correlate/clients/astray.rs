//! What came for a query and reached nobody: answers without a socket, ICMP errors. Ends no wait.

use std::net::SocketAddr;

use crate::event::{Actor, Dns};
use crate::record::Timestamp;

use super::super::heard::Stray;
use super::super::passing::{COPY_NS, Passing, Rejected};
use super::super::transaction::{Asked, SocketKey};
use super::Clients;

impl Clients {
    /// An answer came in, and no socket was seen to get it.
    pub(crate) fn unheard(&mut self, passing: Passing) {
        let (key, asked, from) = (passing.key(), passing.asked(), passing.from());
        let Some(id) = self.asked(key, asked, from) else {
            self.gone.answered(key, asked);
            self.orphans.unmatched.count(Stray::Late);
            return;
        };
        let Some(open) = self.table.get_mut(&id) else { return };
        let t = &mut open.transaction;
        let reply = passing.reply;
        let waits = t.reply.is_none() && t.late.is_none();
        let closed = open.closed.is_some_and(|at| at <= reply.at);
        if closed && waits && t.is_from(from) && t.sends.len() == 1 {
            // Then it says how long the server took; else which query it answers is not known.
            t.answered_late(reply);
        } else if closed {
            self.orphans.unmatched.count(Stray::Late);
        } else {
            if waits {
                t.passed_by(from, &reply, false);
            }
            self.orphans.unmatched.count(Stray::NoSocket);
        }
    }

    /// Its copy at the socket was told before it.
    pub(crate) fn heard(&self, passing: &Passing) -> bool {
        let (from, reply) = (passing.from(), &passing.reply);
        let id = self.asked(passing.key(), passing.asked(), from);
        let Some(open) = id.and_then(|id| self.table.get(&id)) else { return false };
        let t = &open.transaction;
        let near = |at: Timestamp| at.0.abs_diff(reply.at.0) < COPY_NS;
        let taken = t.reply.iter().chain(t.late.as_deref()).map(|known| known.at);
        let mut taken = taken.chain(t.repeats.iter().map(|sent| sent.at));
        let dismissed = t.unheard.as_ref().filter(|unheard| unheard.dismissed);
        taken.any(near) && (t.is_from(from) || open.replied_by == from)
            || dismissed.is_some_and(|unheard| unheard.from == from && near(unheard.at))
    }

    /// An ICMP error about a query.
    pub(crate) fn rejected(
        &mut self,
        actor: &Actor,
        query: &Dns,
        asked: Option<&Asked>,
        error: Rejected,
    ) {
        let key = (SocketKey::of(actor, query), query.message.id);
        if let Some(id) = self.asked(&key, asked, query.remote)
            && let Some(open) = self.table.get_mut(&id)
        {
            open.transaction.rejected(error);
        }
    }

    /// The transaction of this id on this socket: one that waits before others, one to this server
    /// before others.
    fn asked(
        &self,
        key: &(SocketKey, u16),
        asked: Option<&Asked>,
        server: SocketAddr,
    ) -> Option<u64> {
        let all = self.by_socket.get(key).iter().filter_map(|id| {
            let t = &self.table.get(id)?.transaction;
            let fits = asked.is_none_or(|asked| *asked == t.asked);
            fits.then_some(((t.is_from(server), t.reply.is_none()), *id))
        });
        all.max_by_key(|(rank, _)| *rank).map(|(_, id)| id)
    }
}
