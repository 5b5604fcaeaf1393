//! Questions that a redirection keeps inside their pod: a mesh's sidecar or a DNS proxy of the pod gets
//! them, on a port that is not DNS's, so that no query is seen arriving. That another process of the
//! pod then asks the same question, while the first waits, says that it received it.

use std::collections::{BTreeSet, VecDeque};

use crate::event::{Actor, Dns};
use crate::identify::{Entity, Identifier};
use crate::record::{HostId, Task};

use super::super::ids::Ids;
use super::super::transaction::{Asked, Sent};
use super::super::wire::Question;
use super::{Resolvers, STALE_NS, site};

/// Questions that wait for a process to ask the same.
const INSIDE_MAX: usize = 1_024;
/// Processes known to receive such questions.
const PROXIES_MAX: usize = 1_024;

/// A question on its way to a process of its own pod.
#[derive(Debug)]
pub(super) struct Redirected {
    site: Entity,
    pid: u32,
    asked: Asked,
    question: Question,
}

/// What is known of redirections.
#[derive(Debug, Default)]
pub(super) struct Inside {
    /// The oldest first.
    waiting: VecDeque<Redirected>,
    proxies: BTreeSet<(HostId, u32)>,
}

impl Inside {
    /// A proxy asks whether its upstream lives, as CoreDNS does.
    pub(super) fn is_probe(&self, actor: &Actor, asked: &Asked, who: &Identifier) -> bool {
        let root = &*asked.name == "." && asked.qtype == "NS";
        let known = |task: Task| self.proxies.contains(&(actor.host, task.pid));
        root && !self.proxies.is_empty() && who.task(actor).is_some_and(known)
    }
}

/// The query goes to its own pod or host.
fn stays(dns: &Dns) -> bool {
    dns.remote.ip().is_loopback() || dns.remote.ip() == dns.local.ip()
}

impl Resolvers {
    /// A query that is nobody's upstream query, as far as its addresses tell: it goes to the place that
    /// it comes from, and not from the process that received the question.
    pub(super) fn is_asked_inside(
        &self,
        actor: &Actor,
        dns: &Dns,
        waiting: Option<&Ids>,
        who: &Identifier,
    ) -> bool {
        let pid = |actor: &Actor| who.task(actor).map(|task| task.pid);
        let receiver = |id: &u64| {
            let its = self.sightings.get(id).and_then(|s| pid(&s.resolver));
            its.is_some() && its == pid(actor)
        };
        stays(dns) && !waiting.into_iter().flatten().any(receiver)
    }

    /// A query left a socket: remembered if it was redirected into its own pod; else whoever waits for
    /// the same there is this process's client.
    pub(crate) fn heard_inside(
        &mut self,
        actor: &Actor,
        dns: &Dns,
        asked: &Asked,
        sent: Sent,
        who: &Identifier,
    ) {
        let redirected = stays(dns) && who.asked_for(actor, dns.remote) != dns.remote;
        if !redirected && (self.inside.waiting.is_empty() || stays(dns)) {
            return;
        }
        let Some(task) = who.task(actor) else { return };
        let site = site(who, actor, dns.local);
        let all = &mut self.inside.waiting;
        while all.front().is_some_and(|first| first.is_stale(sent)) {
            all.pop_front();
        }
        if redirected {
            self.redirected(site, task.pid, dns, asked, sent);
            return;
        }
        let mut clients = Vec::new();
        for waiting in all {
            if waiting.site == site && waiting.pid != task.pid && waiting.asked == *asked {
                clients.extend(waiting.question.take_unproven());
            }
        }
        let proxy = (actor.host, task.pid);
        if !clients.is_empty() && self.inside.proxies.len() < PROXIES_MAX {
            self.inside.proxies.insert(proxy);
        }
        for question in &clients {
            self.proven(actor, question, asked, who);
        }
    }

    fn redirected(&mut self, site: Entity, pid: u32, dns: &Dns, asked: &Asked, sent: Sent) {
        let again = self.inside.waiting.iter_mut().find(|waiting| {
            waiting.site == site && waiting.asked == *asked && waiting.question.is(dns)
        });
        if let Some(waiting) = again {
            waiting.question.sent_again(sent);
            let ids = self.by_id.get(&(asked.clone(), dns.message.id)).into_iter().flatten();
            for id in ids {
                if let Some(sighting) = self.sightings.get_mut(id)
                    && sighting.site == site
                    && sighting.client == dns.local
                    && sighting.answered.is_none()
                {
                    sighting.arrived(sent);
                }
            }
            return;
        }
        if self.inside.waiting.len() >= INSIDE_MAX {
            self.inside.waiting.pop_front();
        }
        let question = Question::new(dns, sent);
        self.inside.waiting.push_back(Redirected { site, pid, asked: asked.clone(), question });
    }

    /// Its client has its answer.
    pub(crate) fn answered_inside(&mut self, dns: &Dns, asked: Option<&Asked>) {
        self.inside.waiting.retain(|waiting| {
            waiting.question.client != dns.local
                || waiting.question.id != dns.message.id
                || asked.is_some_and(|asked| *asked != waiting.asked)
        });
    }
}

impl Redirected {
    fn is_stale(&self, now: Sent) -> bool {
        self.question.sends.last().is_none_or(|last| now.at.since(last.at) > STALE_NS)
    }
}
