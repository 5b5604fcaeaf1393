//! What connection tracking refused, by network namespace: the kernel's counters, read once a second. Only
//! reads: where connection tracking is not there, it stays so. Judges nothing.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail};
use netlink_packet_core::{
    Emitable as _, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NetlinkHeader, NlasIterator,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket as Netlink, SocketAddr as NetlinkAddr};

use super::{bounded, processes, sockets};
use crate::context::{Conntrack, ConntrackCounters};
use crate::record::Timestamp;

/// Namespaces that are read; a node has one for each pod that is traced, and its own.
const NAMESPACES_MAX: usize = 64;
/// Processes remembered of each, through which it is reached.
const PROCESSES_MAX: usize = 8;
/// Longest file that is read: some 160 bytes for each processor.
const FILE_MAX: u64 = 1 << 20;

/// The counters of one processor: insertions that failed, packets dropped, entries dropped early.
type Counters = [u32; 3];

/// The namespaces, and what was read of them.
#[derive(Debug)]
pub(super) struct Watch {
    known: BTreeMap<u64, Namespace>,
    /// That of svctrace itself, which is the node's.
    own: Option<u64>,
}

#[derive(Debug, Default)]
struct Namespace {
    processes: VecDeque<u32>,
    last: Option<Reading>,
}

#[derive(Debug)]
struct Reading {
    at: Timestamp,
    /// `None` where they cannot be read.
    counters: Option<Vec<Counters>>,
    /// Since the first reading.
    sum: ConntrackCounters,
}

impl Watch {
    /// Knows the own namespace only.
    pub(super) fn new() -> Self {
        let pid = std::process::id();
        let mut watch = Self { known: BTreeMap::new(), own: processes::namespace(pid, "net") };
        watch.note(watch.own, pid);
        watch
    }

    /// A traced process is in this namespace.
    pub(super) fn note(&mut self, namespace: Option<u64>, pid: u32) {
        let Some(namespace) = namespace else { return };
        if self.known.len() >= NAMESPACES_MAX && !self.known.contains_key(&namespace) {
            return;
        }
        // The oldest stay: those that come after them are short-lived, as a rule.
        let processes = &mut self.known.entry(namespace).or_default().processes;
        if !processes.contains(&pid) && processes.len() < PROCESSES_MAX {
            processes.push_back(pid);
        }
    }

    /// What is worth telling of those that were never read.
    pub(super) fn first(&mut self, now: Timestamp) -> Vec<Conntrack> {
        self.read_those(now, |namespace| namespace.last.is_none())
    }

    /// What changed in all.
    pub(super) fn read(&mut self, now: Timestamp) -> Vec<Conntrack> {
        self.read_those(now, |_| true)
    }

    fn read_those(&mut self, now: Timestamp, which: impl Fn(&Namespace) -> bool) -> Vec<Conntrack> {
        let mut told = Vec::new();
        let own = self.own;
        self.known.retain(|id, namespace| {
            if !which(namespace) {
                return true;
            }
            // Of one that nobody is known to live in any more, that is told.
            let counters = namespace.counters(*id);
            let lives = counters.is_some();
            if (lives || namespace.last.is_some())
                && let Some((since, sum)) = namespace.take(now, counters.flatten())
            {
                told.push(Conntrack {
                    net_ns: *id,
                    own: own == Some(*id),
                    counters: sum,
                    since,
                    at: now,
                });
            }
            lives
        });
        told
    }
}

impl Namespace {
    /// The counters of namespace `id`, `Some(None)` where they cannot be read; `None` when all known
    /// processes have left it.
    fn counters(&mut self, id: u64) -> Option<Option<Vec<Counters>>> {
        self.processes.retain(|pid| processes::namespace(*pid, "net") == Some(id));
        while let Some(pid) = self.processes.front() {
            match counters(*pid) {
                Ok(counters) => return Some(Some(counters)),
                // It ended meanwhile.
                Err(_) if processes::namespace(*pid, "net") != Some(id) => {
                    self.processes.pop_front();
                }
                Err(error) => {
                    tracing::debug!("conntrack of network namespace {id}: {error:#}");
                    return Some(None);
                }
            }
        }
        None
    }

    /// A new reading: the time of the one before and the sums, if that is news.
    fn take(
        &mut self,
        at: Timestamp,
        counters: Option<Vec<Counters>>,
    ) -> Option<(Timestamp, Option<ConntrackCounters>)> {
        let before = self.last.take();
        let mut sum = before.as_ref().map(|before| before.sum).unwrap_or_default();
        let known = before.as_ref().and_then(|before| before.counters.as_ref());
        if let (Some(old), Some(new)) = (known, &counters) {
            for (old, new) in old.iter().zip(new) {
                let more = |n: usize| u64::from(new[n].wrapping_sub(old[n]));
                sum.insert_failed += more(0);
                sum.drop += more(1);
                sum.early_drop += more(2);
            }
        }
        let news = before.as_ref().is_none_or(|before| {
            before.sum != sum || before.counters.is_some() != counters.is_some()
        });
        let since = before.map_or(at, |before| before.at);
        let told = counters.is_some().then_some(sum);
        self.last = Some(Reading { at, counters, sum });
        news.then_some((since, told))
    }
}

/// The counters of `pid`'s namespace, by processor.
fn counters(pid: u32) -> anyhow::Result<Vec<Counters>> {
    let path = format!("/proc/{pid}/net/stat/nf_conntrack");
    let text = bounded::text(Path::new(&path), FILE_MAX);
    if !text.is_empty() {
        return understand(&text).context("an unknown table");
    }
    if !fs::exists("/proc/sys/net/netfilter/nf_conntrack_max").unwrap_or(false) {
        bail!("no connection tracking");
    }
    if !answers_over_netlink() {
        bail!("asking over netlink would load nf_conntrack_netlink");
    }
    sockets::inside(pid, over_netlink)
}

/// A kernel without that file answers over netlink, and loads modules for it, which would stay: only if it
/// has them already, or never loads any.
fn answers_over_netlink() -> bool {
    const MODULE: &str = "nf_conntrack_netlink";
    let exists = |path: &str| fs::exists(path).unwrap_or(false);
    let built_in = || {
        let release = bounded::text(Path::new("/proc/sys/kernel/osrelease"), FILE_MAX);
        let list = format!("/lib/modules/{}/modules.builtin", release.trim());
        bounded::text(Path::new(&list), FILE_MAX).contains(&format!("/{MODULE}.ko"))
    };
    !exists("/proc/modules") || exists(&format!("/sys/module/{MODULE}")) || built_in()
}

/// A heading line, then a line of hexadecimal numbers for each processor.
fn understand(text: &str) -> Option<Vec<Counters>> {
    let mut lines = text.lines();
    let heading: Vec<&str> = lines.next()?.split_whitespace().collect();
    let place = |name| heading.iter().position(|word| *word == name);
    let places = [place("insert_failed")?, place("drop")?, place("early_drop")?];
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| u32::from_str_radix(words.get(at)?, 16).ok();
        Some([number(places[0])?, number(places[1])?, number(places[2])?])
    };
    lines.map(line).collect()
}

/// `NFNL_SUBSYS_CTNETLINK` and `IPCTNL_MSG_CT_GET_STATS_CPU`.
const GET_STATS: u16 = 1 << 8 | 4;
const HEADER: usize = 16;
/// `struct nfgenmsg`.
const FAMILY: usize = 4;
/// `CTA_STATS_INSERT_FAILED`, `CTA_STATS_DROP`, `CTA_STATS_EARLY_DROP`.
const ATTRIBUTES: [u16; 3] = [9, 10, 11];

/// The same of the namespace that this thread is in, as conntrack(8) asks.
fn over_netlink() -> anyhow::Result<Vec<Counters>> {
    let mut socket = Netlink::new(NETLINK_NETFILTER).context("no netfilter netlink")?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    let mut request = [0; HEADER + FAMILY];
    let mut header = NetlinkHeader::default();
    header.length = request.len() as u32;
    header.message_type = GET_STATS;
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    header.emit(&mut request);
    socket.send(&request, 0)?;
    let mut all = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let size = socket.recv(&mut buffer.as_mut_slice(), 0)?;
        let mut rest = buffer.get(..size).unwrap_or_default();
        while let Ok(message) = NetlinkBuffer::new_checked(rest) {
            match message.message_type() {
                NLMSG_DONE => return Ok(all),
                NLMSG_ERROR => bail!("the kernel refuses to tell"),
                _ => all.push(attributes(message.payload().get(FAMILY..).unwrap_or_default())),
            }
            let length = (message.length() as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

fn attributes(bytes: &[u8]) -> Counters {
    let mut found = Counters::default();
    for attribute in NlasIterator::new(bytes).map_while(Result::ok) {
        let place = ATTRIBUTES.iter().position(|known| *known == attribute.kind());
        let place = place.and_then(|at| found.get_mut(at));
        if let (Some(place), Ok(value)) = (place, attribute.value().try_into()) {
            *place = u32::from_be_bytes(value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
entries  clashres found new invalid ignore delete chainlength insert insert_failed drop early_drop icmp_error  expect_new
00000002  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000001 00000001 0000000a ffffffff 00000000  00000000
00000002  00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000001 00000000 00000000 00000000 00000000  00000000
";

    #[test]
    fn the_table_is_read_by_its_headings() {
        assert_eq!(understand(TABLE), Some(vec![[1, 10, u32::MAX], [0, 0, 0]]));
        assert_eq!(understand("entries searched\n00 00\n"), None);
        assert_eq!(understand(""), None);
        assert_eq!(understand("insert_failed drop early_drop\n1 x 3\n"), None);
    }

    #[test]
    fn attributes_of_a_message() {
        let attribute = |kind: u16, value: u32| {
            [&8_u16.to_ne_bytes()[..], &kind.to_ne_bytes(), &value.to_be_bytes()].concat()
        };
        let bytes = [attribute(2, 5), attribute(9, 7), attribute(10, 8), attribute(11, 9)].concat();
        assert_eq!(attributes(&bytes), [7, 8, 9]);
        for end in 0..bytes.len() {
            attributes(&bytes[..end]);
        }
        assert_eq!(attributes(&[0; 16]), [0; 3]);
    }

    #[test]
    fn only_news_is_told_and_counters_may_wrap() {
        let mut namespace = Namespace::default();
        let mut at = 0;
        let mut take = |counters: Option<Counters>| {
            at += 1;
            namespace.take(Timestamp(at), counters.map(|counters| vec![counters]))
        };
        let sum =
            |insert_failed, drop| Some(ConntrackCounters { insert_failed, drop, early_drop: 0 });
        assert_eq!(take(Some([u32::MAX, 4, 0])), Some((Timestamp(1), sum(0, 0))));
        assert_eq!(take(Some([u32::MAX, 4, 0])), None);
        assert_eq!(take(Some([1, 5, 0])), Some((Timestamp(2), sum(2, 1))));
        assert_eq!(take(None), Some((Timestamp(3), None)));
        assert_eq!(take(None), None);
    }

    #[test]
    fn both_ways_tell_the_same() {
        let own = std::process::id();
        let path = format!("/proc/{own}/net/stat/nf_conntrack");
        let text = bounded::text(Path::new(&path), FILE_MAX);
        let Some(table) = understand(&text) else {
            say!("skipped: no connection tracking here");
            return;
        };
        match over_netlink() {
            Ok(counters) => assert_eq!(counters, table),
            Err(error) => say!("skipped: {error:#}"),
        }
    }

    #[test]
    fn the_own_namespace_is_the_first() {
        let mut watch = Watch::new();
        let told = watch.first(Timestamp(7));
        assert!(told.len() == 1 && told[0].own && told[0].at == Timestamp(7), "{told:?}");
        assert_eq!(watch.first(Timestamp(8)), []);
        // Gone with its last process.
        watch.note(Some(1), u32::MAX);
        watch.read(Timestamp(9));
        assert_eq!(watch.known.len(), 1);
    }

    #[test]
    fn a_namespace_is_read_through_its_oldest_process_and_its_end_is_told() {
        let own = std::process::id();
        let id = processes::namespace(own, "net").unwrap();
        let mut watch = Watch { known: BTreeMap::new(), own: None };
        watch.note(Some(id), own);
        for gone in 1..=2 * PROCESSES_MAX as u32 {
            watch.note(Some(id), u32::MAX - gone);
        }
        assert_eq!(watch.first(Timestamp(1)).len(), 1);
        assert_eq!(watch.known[&id].processes, [own]);
        let namespace = watch.known.get_mut(&id).unwrap();
        let sum = ConntrackCounters::default();
        namespace.last = Some(Reading { at: Timestamp(1), counters: Some(Vec::new()), sum });
        namespace.processes.clear();
        let told = watch.read(Timestamp(2));
        assert!(told.len() == 1 && told[0].counters.is_none(), "{told:?}");
        assert!(watch.known.is_empty());
    }
}
