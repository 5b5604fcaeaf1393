//! Packet captures of others (tcpdump, Wireshark, ptcpdump, ...) to records: classic pcap and pcapng.
//! A packet has no process, no cgroup and no socket here, and its record says so by their absence;
//! the record's number is that of the frame in Wireshark. Our own captures are not read here.

mod copies;
mod file;
mod fragments;
mod link;
mod packets;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Read;

use bytes::Bytes;

use self::file::{File, Frame};
use self::link::Content;
use self::packets::{Packet, Packets};
use super::{CaptureError, Records};
use crate::context::{Host, Loss, LossStage};
use crate::record::{Record, RecordKind, Timestamp};

/// Packets that say nothing move the time at most so often, in nanoseconds.
const HEARTBEAT_NS: u64 = 100_000_000;
/// Link types counted one by one.
const LINKS_MAX: usize = 64;

/// Records of a pcap or pcapng file, with DNS on port 53.
pub fn open(reader: Box<dyn Read + Send>) -> Result<Records, CaptureError> {
    open_with(reader, &[53])
}

/// The same with these ports for DNS.
pub fn open_with(reader: Box<dyn Read + Send>, dns_ports: &[u16]) -> Result<Records, CaptureError> {
    Ok(Box::new(Reader {
        file: File::open(reader)?,
        packets: Packets::new(dns_ports),
        dns_ports: dns_ports.to_vec(),
        last: Timestamp(0),
        told: None,
        number: 0,
        unread: BTreeMap::new(),
        pending: Vec::new(),
        over: false,
    }))
}

/// How many packets nothing could be made of, and when.
#[derive(Clone, Copy)]
struct Unread {
    count: u64,
    first: Timestamp,
    last: Timestamp,
}

struct Reader {
    file: File,
    packets: Packets,
    dns_ports: Vec<u16>,
    /// Time of the latest packet.
    last: Timestamp,
    /// Time of the latest record; `None` before the first.
    told: Option<Timestamp>,
    /// Number of the latest record.
    number: u64,
    /// By what they are, in words.
    unread: BTreeMap<String, Unread>,
    /// What else is to be told, last first.
    pending: Vec<Result<Record, CaptureError>>,
    over: bool,
}

impl Iterator for Reader {
    type Item = Result<Record, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.pending.pop() {
                return Some(item);
            }
            if self.over {
                return None;
            }
            match self.step() {
                Ok(true) => {}
                Ok(false) => self.end(None),
                Err(error) => self.end(Some(error)),
            }
        }
    }
}

impl Reader {
    /// Reads a frame into `pending`; false at the end.
    fn step(&mut self) -> Result<bool, CaptureError> {
        let Some(frame) = self.file.next()? else { return Ok(false) };
        let Frame { number, at, link, bytes, original } = frame;
        let at = at.unwrap_or(self.last);
        self.last = self.last.max(at);
        let record = match link::content(link, bytes) {
            Content::Ip(ip) => {
                let cut = usize::try_from(original).is_ok_and(|original| bytes.len() < original);
                self.packets.record(&Packet { number, at, bytes: ip, cut })
            }
            Content::Other => None,
            Content::UnknownLink => {
                let mut what = format!("packets of link type {link}");
                if self.unread.len() >= LINKS_MAX && !self.unread.contains_key(&what) {
                    "packets of other link types".clone_into(&mut what);
                }
                missed(&mut self.unread, what, 1, at);
                None
            }
        };
        let strange = self.file.strange();
        if strange > 0 {
            missed(&mut self.unread, "packet blocks that make no sense".to_owned(), strange, at);
        }
        let due = self.told.is_none_or(|told| at.since(told) >= HEARTBEAT_NS);
        let record = record.or_else(|| due.then(|| plain(number, at, RecordKind::Heartbeat)));
        if let Some(record) = record {
            self.number = number;
            self.pending.push(Ok(record));
            if self.told.is_none() {
                self.pending.push(Ok(self.host(at)));
            }
            self.told = Some(at.max(self.told.unwrap_or_default()));
        }
        Ok(true)
    }

    /// What ports mean DNS; nothing else is known about the machine.
    fn host(&self, at: Timestamp) -> Record {
        let host = Host { dns_ports: self.dns_ports.clone(), ..Host::default() };
        context(0, at, RecordKind::Host, &host)
    }

    /// Tells what was left out, the time of the last packet, and the error.
    fn end(&mut self, error: Option<CaptureError>) {
        self.over = true;
        let strange = self.file.strange();
        if strange > 0 {
            let what = "packet blocks that make no sense".to_owned();
            missed(&mut self.unread, what, strange, self.last);
        }
        let fragments = self.packets.fragments.finish();
        if fragments > 0 {
            let what = "packets of which a fragment is missing".to_owned();
            missed(&mut self.unread, what, fragments, self.last);
        }
        let mut items = Vec::new();
        for (source, Unread { count, first, last }) in std::mem::take(&mut self.unread) {
            self.number += 1;
            let loss = Loss { stage: LossStage::Decode, source, count, first, last };
            items.push(Ok(context(self.number, self.last, RecordKind::Loss, &loss)));
        }
        if self.told.is_some_and(|told| told < self.last) && items.is_empty() {
            self.number += 1;
            items.push(Ok(plain(self.number, self.last, RecordKind::Heartbeat)));
        }
        items.extend(error.map(Err));
        items.reverse();
        self.pending = items;
    }
}

fn missed(unread: &mut BTreeMap<String, Unread>, what: String, count: u64, at: Timestamp) {
    let entry = unread.entry(what).or_insert(Unread { count: 0, first: at, last: at });
    entry.count += count;
    entry.last = entry.last.max(at);
}

fn plain(number: u64, at: Timestamp, kind: RecordKind) -> Record {
    Record::bare(number, at, kind, Bytes::new())
}

fn context(number: u64, at: Timestamp, kind: RecordKind, body: &impl serde::Serialize) -> Record {
    // Plain structs of strings and numbers: they always have a JSON form.
    let body = serde_json::to_vec(body).map(Bytes::from).unwrap_or_default();
    Record { body, ..plain(number, at, kind) }
}
