//! Several recordings as one stream, merged by record time, each record with the number of its host:
//! recordings of one boot of one machine share it. Holds a few records of each recording.
//!
//! The stream does not depend on the order of the recordings. It begins with what each host says of
//! itself. Records are numbered anew (those that shared a number still do). Where a recording ends
//! before the others, its host is told to have ended, so that nothing waits for what cannot come.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use super::recordings::Id;
use super::{CaptureError, Records};
use crate::context::Host;
use crate::record::{HostId, Record, RecordKind, Timestamp};

/// How far ahead is looked for what a host says of itself, in records.
const AHEAD_MAX: usize = 256;

/// One recording.
pub(super) struct Recording {
    pub(super) id: Id,
    pub(super) records: Records,
}

/// What makes a host the same in several recordings: its boot id, since all ids are those of the
/// running kernel (host names differ from container to container); else the recording and its number
/// there.
type Key = (String, Id, HostId);

struct Stream {
    id: Id,
    records: Records,
    /// Read, but not told.
    ahead: VecDeque<Record>,
    /// By the recording's own numbers.
    hosts: BTreeMap<HostId, HostId>,
    last: Timestamp,
}

/// All recordings.
pub(super) struct Nodes {
    streams: Vec<Stream>,
    /// Time of the next record of each, and which.
    next: BinaryHeap<Reverse<(Timestamp, usize)>>,
    /// The stream whose next record says more about the same event.
    same: Option<usize>,
    keys: BTreeMap<Key, HostId>,
    /// What each host said last of itself.
    told: BTreeMap<HostId, Host>,
    /// Last number given.
    number: u64,
    /// What comes before anything else.
    ready: VecDeque<Record>,
    /// What ended recordings; told at the end.
    errors: VecDeque<CaptureError>,
}

impl Nodes {
    pub(super) fn new(recordings: impl Iterator<Item = Recording>) -> Self {
        let mut errors = VecDeque::new();
        let mut streams: Vec<(Key, Stream)> = Vec::new();
        for Recording { id, records } in recordings {
            let (ahead, hosts) = (VecDeque::new(), BTreeMap::new());
            let mut stream = Stream { id, records, ahead, hosts, last: Timestamp::default() };
            let said = stream.find(None, &mut errors);
            let key = stream.key(HostId::default(), said);
            streams.push((key, stream));
        }
        streams.sort_by(|(a, x), (b, y)| (a, x.id).cmp(&(b, y.id)));
        let mut nodes = Self {
            streams: streams.into_iter().map(|(_, stream)| stream).collect(),
            next: BinaryHeap::new(),
            same: None,
            keys: BTreeMap::new(),
            told: BTreeMap::new(),
            number: 0,
            ready: VecDeque::new(),
            errors,
        };
        let first = nodes.streams.iter().filter_map(|s| Some(s.ahead.front()?.at)).min();
        for index in 0..nodes.streams.len() {
            nodes.introduce(index, first.unwrap_or_default());
            if let Some(record) = nodes.streams[index].ahead.front() {
                nodes.next.push(Reverse((record.at, index)));
            }
        }
        nodes
    }

    /// Tells of the hosts of a stream, as far as it was read, as of `at`.
    fn introduce(&mut self, index: usize, at: Timestamp) {
        let stream = &self.streams[index];
        let mut found: Vec<Record> =
            stream.ahead.iter().filter(|r| r.kind == RecordKind::Host).cloned().collect();
        if found.is_empty()
            && let Some(first) = stream.ahead.front()
        {
            found.push(fact(first.host, at, &Host::default()));
        }
        for mut record in found {
            let known = self.keys.len();
            record.host = self.host_of(index, &record);
            if self.keys.len() > known {
                record.at = at;
                self.number += 1;
                record.number = self.number;
                self.learn(&record);
                self.ready.push_back(record);
            }
        }
    }

    /// The number of the host that a record of this stream is about.
    fn host_of(&mut self, index: usize, record: &Record) -> HostId {
        let stream = &mut self.streams[index];
        let key = match (stream.hosts.get(&record.host), record.kind) {
            (Some(host), kind) if kind != RecordKind::Host => return *host,
            (_, RecordKind::Host) => stream.key(record.host, said(record)),
            _ => {
                let said = stream.find(Some(record.host), &mut self.errors);
                stream.key(record.host, said)
            }
        };
        let new = HostId(u16::try_from(self.keys.len()).unwrap_or(u16::MAX));
        let host = *self.keys.entry(key).or_insert(new);
        stream.hosts.insert(record.host, host);
        host
    }

    fn learn(&mut self, record: &Record) {
        if let Some(host) = said(record) {
            self.told.insert(record.host, host);
        }
    }

    /// The next record of a stream, as one of all.
    fn take(&mut self, index: usize) -> Option<Record> {
        let mut record = self.streams[index].ahead.pop_front()?;
        record.host = self.host_of(index, &record);
        self.learn(&record);
        let stream = &mut self.streams[index];
        stream.last = stream.last.max(record.at);
        stream.read(&mut self.errors);
        let own = record.number;
        self.number += u64::from(self.same.take().is_none());
        record.number = self.number;
        match stream.ahead.front() {
            // 0 is no event's number.
            Some(next) if next.number == own && own != 0 => self.same = Some(index),
            Some(next) => self.next.push(Reverse((next.at, index))),
            None => self.ended(index),
        }
        Some(record)
    }

    /// A recording is over while others go on.
    fn ended(&mut self, index: usize) {
        if self.next.is_empty() {
            return;
        }
        let stream = &self.streams[index];
        for host in stream.hosts.values() {
            let said = self.told.get(host).cloned().unwrap_or_default();
            self.number += 1;
            let mut record = fact(*host, stream.last, &Host { ended: true, ..said });
            record.number = self.number;
            self.ready.push_back(record);
        }
    }
}

impl Iterator for Nodes {
    type Item = Result<Record, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(record) = self.ready.pop_front() {
            return Some(Ok(record));
        }
        let index = self.same.or_else(|| self.next.pop().map(|Reverse((_, index))| index));
        match index.and_then(|index| self.take(index)) {
            Some(record) => Some(Ok(record)),
            None => self.errors.pop_front().map(Err),
        }
    }
}

impl Stream {
    /// Reads until something is at hand.
    fn read(&mut self, errors: &mut VecDeque<CaptureError>) {
        if self.ahead.is_empty() {
            self.read_one(errors);
        }
    }

    /// False at the end.
    fn read_one(&mut self, errors: &mut VecDeque<CaptureError>) -> bool {
        loop {
            match self.records.next() {
                Some(Ok(record)) => {
                    self.ahead.push_back(record);
                    return true;
                }
                Some(Err(error)) => errors.push_back(error),
                None => return false,
            }
        }
    }

    /// What this host (the first one, if `None`) says of itself, soon.
    fn find(&mut self, host: Option<HostId>, errors: &mut VecDeque<CaptureError>) -> Option<Host> {
        let mut at = 0;
        while at < self.ahead.len() || (at < AHEAD_MAX && self.read_one(errors)) {
            let record = self.ahead.get(at)?;
            if host.is_none_or(|host| record.host == host)
                && let Some(host) = said(record)
            {
                return Some(host);
            }
            at += 1;
        }
        None
    }

    fn key(&self, host: HostId, said: Option<Host>) -> Key {
        match said {
            Some(said) if !said.boot_id.is_empty() => {
                (said.boot_id, Id::default(), HostId::default())
            }
            _ => (String::new(), self.id, host),
        }
    }
}

fn said(record: &Record) -> Option<Host> {
    (record.kind == RecordKind::Host).then(|| serde_json::from_slice(&record.body).ok())?
}

fn fact(host: HostId, at: Timestamp, said: &Host) -> Record {
    // A plain struct of strings and numbers: it always has a JSON form.
    let body = serde_json::to_vec(said).unwrap_or_default();
    Record { host, ..Record::bare(0, at, RecordKind::Host, body) }
}
