//! Lookups close by record time, with what their library and the resolver's side say of them.

use crate::record::{HostId, Timestamp};
use crate::report::Outcome;

use super::super::ids::forget;
use super::super::lookup::{
    Attempt, Lookup, doubt_early_closes, finished, lookup_outcome, strict, waited_out,
};
use super::super::patience::Patience;
use super::super::timers::Timer;
use super::super::transaction::{GaveUp, Transaction};
use super::super::upstream::Resolvers;
use super::{Clients, MARGIN_NS};

/// Closed lookups whose resolver may be told later, by another clock.
const UNTIED_MAX: usize = 4_096;

impl Clients {
    /// Something is to be done at `now`.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        let things = self.table.len() + self.lookups.len();
        self.timers.is_due(now)
            || !self.untied.is_empty()
            || self.orphans.is_due(now)
            || self.timers.are_many(things)
    }

    /// Time has come to `now`: what is due closes.
    pub(crate) fn advance(
        &mut self,
        now: Timestamp,
        resolvers: &mut Resolvers,
        done: &mut Vec<Lookup>,
    ) {
        while let Some((at, timer)) = self.timers.due(now) {
            match timer {
                Timer::Transaction(id) => {
                    if let Some(open) = self.table.get(&id).filter(|o| o.deadline == at) {
                        let passed = Timestamp(at.0.saturating_sub(MARGIN_NS));
                        let lookup = self.lookups.get(&open.lookup);
                        let moment = lookup
                            .map_or(passed, |l| l.gave_up(&open.transaction, &self.table, passed));
                        self.give_up(&[id], moment, |_| GaveUp::Expired);
                    }
                }
                Timer::Lookup(id) => {
                    if self.lookups.get(&id).is_some_and(|l| l.deadline == Some(at)) {
                        self.close(id, false, now, resolvers);
                    }
                }
            }
        }
        self.forget_timers();
        self.told(now, resolvers, done);
        self.orphans.expire(now);
    }

    /// Timers that were set anew leave their old instants behind.
    fn forget_timers(&mut self) {
        let (table, lookups) = (&self.table, &self.lookups);
        self.timers.tidy(table.len() + lookups.len(), |at, timer| match timer {
            Timer::Transaction(id) => table.get(&id).is_some_and(|open| open.deadline == at),
            Timer::Lookup(id) => lookups.get(&id).is_some_and(|open| open.deadline == Some(at)),
        });
    }

    /// The input ended.
    pub(crate) fn finish(&mut self, resolvers: &mut Resolvers, done: &mut Vec<Lookup>) {
        let ids: Vec<u64> = self.ages.iter().copied().collect();
        for id in ids {
            self.close(id, true, Timestamp(u64::MAX), resolvers);
        }
        self.told(Timestamp(u64::MAX), resolvers, done);
        self.orphans.expire(Timestamp(u64::MAX));
    }

    /// Nothing more comes from `host`.
    pub(crate) fn host_ended(&mut self, host: HostId, now: Timestamp, resolvers: &Resolvers) {
        let of_host = |id: &&u64| self.lookups.get(id).is_some_and(|lookup| lookup.host == host);
        let ids: Vec<u64> = self.ages.iter().filter(of_host).copied().collect();
        for id in ids {
            self.close(id, true, now, resolvers);
        }
    }

    /// Closed lookups, as soon as the resolver's side of them can be known.
    fn told(&mut self, now: Timestamp, resolvers: &mut Resolvers, done: &mut Vec<Lookup>) {
        while let Some((due, _)) = self.untied.front()
            && (*due <= now || self.untied.len() > UNTIED_MAX)
            && let Some((_, mut lookup)) = self.untied.pop_front()
        {
            let ended = lookup.ended;
            for t in lookup.attempts.iter_mut().flat_map(|a| &mut a.transactions) {
                let until = t.ended().unwrap_or(ended);
                t.tie.received = resolvers.tie(t, until).map(Box::new);
                // Only a silence asks what else was answered; at the end many are open.
                if t.reply.is_none() && t.silence().is_some() {
                    t.tie.others = self.answers.around(t);
                }
            }
            done.push(lookup);
        }
    }

    fn close(&mut self, id: u64, cut: bool, now: Timestamp, resolvers: &Resolvers) {
        let Some(lookup) = self.lookups.remove(&id) else { return };
        self.ages.remove(&id);
        if let Some(process) = lookup.owner.process() {
            forget(&mut self.by_process, &process, id);
        }
        if lookup.truncated {
            forget(&mut self.truncated, &lookup.owner, id);
        }
        forget(&mut self.by_label, &lookup.label, id);
        if let Some(thread) = lookup.thread() {
            forget(&mut self.lingering, &thread, id);
        }
        let closed = lookup.attempts.last().and_then(|last| last.closed_at(&self.table));
        let mut tried: Vec<Vec<Transaction>> = Vec::new();
        for open in &lookup.attempts {
            let mut taken = Vec::with_capacity(open.transactions.len());
            taken.extend(open.transactions.iter().filter_map(|t| self.take(*t)));
            tried.push(taken);
        }
        let silent = || tried.iter().flatten().filter(|t| t.reply.is_none());
        let dead = silent().find_map(|t| resolvers.dead_since(t));
        doubt_early_closes(&mut tried, dead);
        for attempt in &mut tried {
            lookup.connects.follow(attempt, cut, lookup.over);
        }
        let attempts = tried.into_iter().filter_map(|t| finished(t, &lookup.walk));
        let mut attempts: Vec<Attempt> = attempts.collect();
        let library = self.sockets.library(&attempts, &lookup.settings);
        if library == Some("musl") {
            attempts.iter_mut().for_each(strict);
            if let Some(last) = attempts.last_mut() {
                let passed = last.started.plus(lookup.settings.timeout_ns);
                if let Some(at) = closed.or(Some(passed).filter(|_| !cut)) {
                    waited_out(last, at.min(now));
                }
            }
        }
        let Some(first) = attempts.first().and_then(|a| a.transactions.first()) else { return };
        let started = attempts.iter().map(|a| a.started).min().unwrap_or_default();
        let ended = attempts.iter().map(|a| a.ended).max().unwrap_or_default();
        let mut outcome = lookup_outcome(&attempts);
        if cut && outcome != Outcome::Answered && lookup.unfinished() {
            outcome = Outcome::Undecided;
        }
        // A resolver of its own that knows no search list.
        let own =
            library == Some("c-ares") || library.is_none() && self.sockets.one_by_one(&attempts);
        let unsearched = own && lookup.walk.asked_at_once();
        let alone = attempts.len() == 1 && (lookup.elsewhere || unsearched);
        let typed =
            if alone { first.asked.name.to_string() } else { lookup.walk.typed().to_owned() };
        self.closed += 1;
        let lookup = Lookup {
            id: self.closed,
            actor: first.actor.clone(),
            name: typed,
            server: first.server,
            search: lookup.walk.search().filter(|_| !alone),
            winner: attempts.iter().position(|a| a.outcome == Outcome::Answered),
            library,
            patience: Patience::of(library, &lookup.settings),
            attempts,
            outcome,
            started,
            ended,
        };
        self.untied.push_back((now.plus(self.skew_ns), lookup));
    }

    fn take(&mut self, id: u64) -> Option<Transaction> {
        let open = self.table.remove(&id)?;
        let key = (open.transaction.socket.clone(), open.transaction.id);
        self.by_socket.remove(&key, id);
        let unheard = open.transaction.reply.is_none() && open.transaction.late.is_none();
        if unheard && open.closed.is_none() {
            self.gone.keep(&open.transaction);
        }
        Some(open.transaction)
    }
}
