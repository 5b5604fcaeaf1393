//! Questions that stand behind another on one connection: many servers (CoreDNS, dnsmasq) read the next one
//! only when they have answered the one before. Tells whose wait that is; knows no other reason to wait.

use crate::event::Protocol;
use crate::record::{HostId, Timestamp};

use super::ties::TRIES_MAX;
use super::{Dns, EARLIER_MAX, Resolvers, SILENCE_NS, Sighting, UpstreamTry};

/// Questions of a connection that are known, the latest.
const STREAM_MAX: usize = 1_024;
/// Of those before one that many are looked at, the latest, ...
const LOOK_MAX: usize = 256;
/// ... and as many of them that waited then, too, the first: they are served in turn.
const BEFORE_MAX: usize = 16;

impl Resolvers {
    /// A question that came over TCP is found by its connection, too.
    pub(super) fn on_stream(&mut self, host: HostId, dns: &Dns, number: u64) -> bool {
        let stream = dns.protocol == Protocol::Tcp;
        if stream {
            let ids = self.by_stream.entry((host, dns.remote)).or_default();
            ids.push(number);
            if ids.len() > STREAM_MAX {
                ids.remove(0);
            }
        }
        stream
    }

    /// Others came over its connection.
    pub(super) fn shares_stream(&self, sighting: &Sighting) -> bool {
        let key = (sighting.resolver.host, sighting.client);
        sighting.stream && self.by_stream.get(&key).is_some_and(|ids| ids.len() > 1)
    }

    /// Adds to `tries`, which are in order of time, what was asked in vain until `end` for questions before
    /// it on its connection, while nothing was asked for this one.
    pub(super) fn behind(&self, sighting: &Sighting, end: Timestamp, tries: &mut Vec<UpstreamTry>) {
        let Some(begin) = sighting.arrivals.first().map(|arrived| arrived.at) else { return };
        let end = tries.first().map_or(end, |first| first.sent.at.min(end));
        if !sighting.stream || end.since(begin) < SILENCE_NS {
            return;
        }
        let key = (sighting.resolver.host, sighting.client);
        let ids = self.by_stream.get(&key).map(|ids| ids.as_slice()).unwrap_or_default();
        let after = |other: &&Sighting| other.arrivals.first().is_none_or(|first| first.at > begin);
        let before = ids.iter().rev().filter_map(|id| self.sightings.get(id)).skip_while(after);
        let before = before.take(LOOK_MAX).filter(|other| {
            other.site == sighting.site
                && other.asked != sighting.asked
                && !after(other)
                && other.answered.is_none_or(|(sent, _)| sent.at > begin)
        });
        let before: Vec<&Sighting> = before.collect();
        let own = tries.len();
        for other in before.iter().rev().take(BEFORE_MAX) {
            if tries.len() > 2 * TRIES_MAX {
                break;
            }
            let until = other.answered.map_or(end, |(sent, _)| sent.at.min(end));
            let question = (other.site.clone(), other.asked.clone());
            let asked = self.asked_around(&question, begin).iter();
            for forwarded in asked.filter_map(|id| self.forwarded.get(id)).take(2 * EARLIER_MAX) {
                let known = tries.len();
                forwarded.tries(begin, until, tries);
                for new in tries.iter_mut().skip(known) {
                    new.instead = Some(other.asked.clone());
                }
            }
        }
        let mut at = 0;
        tries.retain(|t| {
            at += 1;
            at <= own || t.answered.is_none()
        });
        tries.sort_by_key(|t| (t.sent.at, t.sent.number));
    }
}
