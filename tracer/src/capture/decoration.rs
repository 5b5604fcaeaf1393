//! What other readers show: interface names, comments, names of addresses. The best known when
//! written; svctrace ignores it when it reads its own files.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use pcap_file::pcapng::blocks::name_resolution::{Ipv4Record, Ipv6Record, Record as Name};

use crate::decode::Decoder;
use crate::event::{Actor, Body, Event};
use crate::identify::{Entity, Identifier};
use crate::record::{Record, RecordKind};

/// Most interfaces of one file; packets of further units go to one called `other`.
const INTERFACES_MAX: usize = 4096;
/// Most names of addresses.
const NAMES_MAX: usize = 65_536;
/// Most bytes of one name.
const NAME_MAX: usize = 255;

/// Who is who, as far as the writer has heard.
#[derive(Default)]
pub(super) struct Decoration {
    decoder: Decoder,
    who: Identifier,
    events: Vec<Event>,
    names: HashMap<IpAddr, String>,
    fresh: Vec<IpAddr>,
}

/// An interface as other readers see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Interface {
    /// Pod UID, `cgroup/<id>`, or an address.
    pub(super) key: String,
    /// `namespace/pod`, or the key.
    pub(super) name: String,
}

impl Decoration {
    /// Learns from everything but packets; gives the event, if the record has one.
    pub(super) fn learn(&mut self, record: &Record) -> Option<&Event> {
        use RecordKind::{Heartbeat, Packet, TcpState, Wire};
        if matches!(record.kind, Packet | Wire | TcpState | Heartbeat) {
            return None;
        }
        self.events.clear();
        self.decoder.decode(&mut record.clone(), &mut self.events).ok()?;
        let event = self.events.first()?;
        self.who.learn(event);
        match &event.body {
            Body::Pod(pod) if !pod.deleted && !pod.host_network && !pod.name.is_empty() => {
                let name = format!("{}.{}.pod", word(&pod.name), word(&pod.namespace));
                for ip in &pod.ips {
                    note(&mut self.names, &mut self.fresh, *ip, &name);
                }
            }
            Body::Service(service) if !service.deleted => {
                let name = format!("{}.{}.svc", word(&service.name), word(&service.namespace));
                for ip in &service.cluster_ips {
                    note(&mut self.names, &mut self.fresh, *ip, &name);
                }
            }
            _ => {}
        }
        self.events.first()
    }

    /// Names learnt since the last call; `all`: every one known.
    pub(super) fn names(&mut self, all: bool) -> Vec<Name<'static>> {
        let fresh = std::mem::take(&mut self.fresh);
        let mut ips: Vec<_> = if all { self.names.keys().copied().collect() } else { fresh };
        ips.sort_unstable();
        ips.dedup();
        let name = |ip: IpAddr| {
            let names = vec![Cow::Owned(self.names.get(&ip)?.clone())];
            Some(match ip {
                IpAddr::V4(ip_addr) => Name::Ipv4(Ipv4Record { ip_addr, names }),
                IpAddr::V6(ip_addr) => Name::Ipv6(Ipv6Record { ip_addr, names }),
            })
        };
        ips.into_iter().filter_map(name).collect()
    }

    /// The interface of a packet.
    pub(super) fn interface(&self, record: &Record) -> Interface {
        let actor = actor(record);
        let key = match self.who.entity(&actor) {
            Some(Entity::Pod(uid)) => word(&uid),
            Some(Entity::Cgroup(_, id)) => format!("cgroup/{id}"),
            Some(Entity::Address(_, ip)) => ip.to_string(),
            None => "unknown".to_owned(),
        };
        let identity = self.who.identity(&actor);
        let key = match (&identity.host, &identity.pod) {
            (Some(host), None) => format!("{}/{key}", word(host)),
            _ => key,
        };
        let name = match (&identity.namespace, &identity.pod) {
            (Some(namespace), Some(pod)) => format!("{}/{}", word(namespace), word(pod)),
            _ => key.clone(),
        };
        Interface { key, name }
    }

    /// `key=value` words about a packet's owner.
    pub(super) fn comment(&self, record: &Record) -> String {
        let identity = self.who.identity(&actor(record));
        let pid = identity.pid.map(|pid| pid.to_string());
        let container = identity.container.or(identity.container_id);
        let mut text = String::new();
        for (key, value) in [
            ("pod", identity.pod),
            ("ns", identity.namespace),
            ("container", container),
            ("pid", pid),
            ("comm", identity.comm),
            ("host", identity.host),
        ] {
            if let Some(value) = value {
                let gap = if text.is_empty() { "" } else { " " };
                let _ = write!(text, "{gap}{key}={}", word(&value));
            }
        }
        text
    }
}

/// Where packets go when there are too many interfaces.
pub(super) fn within_cap(wanted: Interface, count: usize) -> Interface {
    if count < INTERFACES_MAX {
        return wanted;
    }
    Interface { key: "other".to_owned(), name: "other".to_owned() }
}

fn note(names: &mut HashMap<IpAddr, String>, fresh: &mut Vec<IpAddr>, ip: IpAddr, name: &str) {
    let new = names.get(&ip).is_none_or(|known| known != name);
    if new && (names.len() < NAMES_MAX || names.contains_key(&ip)) {
        names.insert(ip, name.to_owned());
        fresh.push(ip);
    }
}

fn actor(record: &Record) -> Actor {
    let Record { host, task, cgroup, cookie, .. } = record;
    Actor { host: *host, task: task.clone(), cgroup: *cgroup, cookie: *cookie, local: None }
}

/// Percent-escapes what is not plain; cuts what is too long.
fn word(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if out.len() + 3 > NAME_MAX {
            break;
        }
        if byte.is_ascii_alphanumeric() || b"-._~:/@+".contains(&byte) {
            out.push(byte.into());
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::word;

    #[test]
    fn words_hold_nothing_that_separates_or_commands() {
        assert_eq!(word("client-7.x"), "client-7.x");
        assert_eq!(word("a b=c\x1b%\0é"), "a%20b%3Dc%1B%25%00%C3%A9");
        assert!(word(&"\n".repeat(1000)).len() <= 255);
    }
}
