//! Records on their way out: numbers and times, and the wait of a record for facts that stand later in
//! the file. Knows no event types.
//!
//! Old captures do not say what a `sendmmsg` sent, but the resolver's side or the response does, a
//! little later. Everything behind such a call waits until its questions are known, 6 s of the
//! capture's time have passed, or 65,536 records or 32 MiB wait. What stays unknown is told as loss.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use tracer_common::bodies::{AF_INET, AF_INET6, DIRECTION_IN, DIRECTION_OUT};
use tracer_common::record::probe;

use crate::context::{Loss, LossStage};
use crate::record::{HostId, Record, RecordKind, Task, Timestamp};

const HOLD_NS: u64 = 6_000_000_000;
const HOLD_MAX: usize = 65_536;
const HOLD_BYTES_MAX: usize = 32 << 20;
const HOLDS_MAX: usize = 4096;
/// Longest query kept for a call that waits.
const QUERY_MAX: usize = 4096;
/// glibc sends the questions for both address types with one call; nobody else uses it so.
const QUESTIONS: usize = 2;
const ARENA: usize = 64 * 1024;
const DNS_HEADER: usize = 12;
const QUESTION_MAX: usize = 260;

/// Who is behind a record.
#[derive(Clone, Debug, Default)]
pub(super) struct Who {
    pub(super) task: Option<Task>,
    pub(super) cgroup: Option<u64>,
    pub(super) cpu: Option<u32>,
    pub(super) cookie: Option<u64>,
}

/// A message on a socket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) incoming: bool,
    /// `IPPROTO_*`.
    pub(super) protocol: u8,
    pub(super) bytes: &'a [u8],
    /// Bytes it had on the socket.
    pub(super) original: u32,
}

/// A call that sent nobody knows what.
#[derive(Debug)]
struct Hold {
    who: Who,
    at: u64,
    number: u64,
    local: SocketAddr,
    remote: SocketAddr,
    found: Vec<(Bytes, u32)>,
    done: bool,
}

#[derive(Debug)]
enum Item {
    Record(Record),
    /// A call that waits: its id, its number and time.
    Hold(u64, u64, u64),
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Out {
    /// Time of the newest event, Unix nanoseconds; 0 before the first.
    now: u64,
    /// Number of the event told last.
    number: u64,
    /// State only: nothing but context leaves.
    pub(super) muted: bool,
    queue: VecDeque<Item>,
    /// Bytes of the bodies in `queue`.
    queued: usize,
    ready: VecDeque<Record>,
    holds: BTreeMap<u64, Hold>,
    next_hold: u64,
    arena: BytesMut,
    finished: bool,
}

impl Out {
    /// The newest event's time.
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// An event of this time comes next; what had no time yet gets this one.
    pub(super) fn time(&mut self, at: u64) {
        if self.now == 0 && at != 0 {
            for item in &mut self.queue {
                if let Item::Record(record) = item {
                    record.at = Timestamp(at);
                }
            }
        }
        self.now = self.now.max(at);
    }

    /// Nothing more comes in.
    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    /// Room to write a body into; take it with [`Self::body`].
    pub(super) fn room(&mut self) -> &mut BytesMut {
        if self.arena.capacity() - self.arena.len() < 1024 {
            self.arena = BytesMut::with_capacity(ARENA);
        }
        &mut self.arena
    }

    /// What was written since.
    pub(super) fn body(&mut self) -> Bytes {
        self.arena.split().freeze()
    }

    /// The event itself: the first record with its number.
    pub(super) fn event(&mut self, number: u64, at: u64, who: Who, body: Bytes) {
        if self.muted {
            return;
        }
        self.number = number;
        self.push(RecordKind::Call, at, who, None, false, body);
    }

    /// What the event told last means.
    pub(super) fn fact(
        &mut self,
        kind: RecordKind,
        at: u64,
        who: Who,
        hook: Option<u16>,
        body: Bytes,
    ) {
        if !self.muted {
            self.push(kind, at, who, hook, false, body);
        }
    }

    /// Arguments or payload of the event told last, of which there were `original` bytes.
    pub(super) fn data(&mut self, at: u64, who: Who, what: u8, bytes: &[u8], original: u32) {
        if self.muted {
            return;
        }
        let mut body = BytesMut::with_capacity(12 + bytes.len());
        body.put_u8(what);
        body.put_bytes(0, 3);
        body.put_u32_ne(original);
        body.put_u32_ne(u32::try_from(bytes.len()).unwrap_or_default());
        body.put_slice(bytes);
        self.push(RecordKind::Data, at, who, None, false, body.freeze());
    }

    /// A fact about host or cluster.
    pub(super) fn context(&mut self, kind: RecordKind, body: &impl Serialize) {
        // Plain data: this cannot fail.
        let Ok(json) = serde_json::to_vec(body) else { return };
        self.push(kind, self.now, Who::default(), None, false, json.into());
    }

    fn push(
        &mut self,
        kind: RecordKind,
        at: u64,
        who: Who,
        hook: Option<u16>,
        cut: bool,
        body: Bytes,
    ) {
        let record = record(self.number, kind, at, who, hook, cut, body);
        self.queued += record.body.len();
        self.queue.push_back(Item::Record(record));
    }

    /// A DNS message that the event told last carried.
    pub(super) fn message(&mut self, at: u64, who: Who, message: Message<'_>) {
        if self.muted {
            return;
        }
        if message.incoming && question(message.bytes).is_some_and(|q| !q.response) {
            self.arrived(message.remote, message.bytes, message.original);
        } else if message.incoming
            && let Some(cookie) = who.cookie
        {
            self.answered(cookie, message.bytes);
        }
        let cut = (message.bytes.len() as u64) < u64::from(message.original);
        let body = payload(message);
        self.push(RecordKind::Payload, at, who, None, cut, body);
    }

    /// A call begins that sends nobody knows what yet: what it sent may be seen elsewhere before it
    /// returns.
    pub(super) fn begin_hold(
        &mut self,
        at: u64,
        who: Who,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> u64 {
        for earlier in self.holds.values_mut() {
            if earlier.who.cookie == who.cookie && !earlier.found.is_empty() {
                earlier.done = true;
            }
        }
        if self.holds.len() >= HOLDS_MAX {
            self.holds.pop_first(); // its place in the queue tells the loss
        }
        self.next_hold += 1;
        let hold = Hold { who, at, number: 0, local, remote, found: Vec::new(), done: false };
        self.holds.insert(self.next_hold, hold);
        self.next_hold
    }

    /// The call returned, as the event told last: its queries belong here.
    pub(super) fn place_hold(&mut self, id: u64) {
        if let Some(hold) = self.holds.get_mut(&id) {
            hold.number = self.number;
            self.queue.push_back(Item::Hold(id, hold.number, hold.at));
        }
    }

    /// The call told itself what it sent.
    pub(super) fn drop_hold(&mut self, id: u64) {
        self.holds.remove(&id);
    }

    /// No answer can come on this socket any more.
    pub(super) fn closed(&mut self, cookie: u64) {
        for hold in self.holds.values_mut().filter(|hold| hold.who.cookie == Some(cookie)) {
            hold.done = true;
        }
    }

    /// A query arrived somewhere on this machine: its sender is told by the address.
    fn arrived(&mut self, client: SocketAddr, bytes: &[u8], original: u32) {
        let mut waiting = self.holds.values_mut().rev();
        if let Some(hold) = waiting.find(|hold| hold.local == client && !hold.done) {
            let kept = bytes.get(..QUERY_MAX).unwrap_or(bytes);
            hold.add(Bytes::copy_from_slice(kept), original);
        }
    }

    /// A response repeats the question.
    fn answered(&mut self, cookie: u64, bytes: &[u8]) {
        if !self.holds.values().any(|hold| hold.who.cookie == Some(cookie) && !hold.done) {
            return;
        }
        let Some(query) = query_of(bytes) else { return };
        for hold in self.holds.values_mut().filter(|hold| hold.who.cookie == Some(cookie)) {
            hold.add(query.clone(), u32::try_from(query.len()).unwrap_or_default());
        }
    }

    /// No more than this may wait.
    pub(super) fn is_full(&self) -> bool {
        self.queue.len() > HOLD_MAX || self.queued > HOLD_BYTES_MAX
    }

    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The next record, if all before it is known.
    pub(super) fn pop(&mut self) -> Option<Record> {
        let full = self.finished || self.is_full();
        if self.now == 0 && !full {
            return None;
        }
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Some(record);
            }
            if let Some(Item::Hold(id, number, at)) = self.queue.front() {
                let (id, number, at) = (*id, *number, *at);
                let waits = |hold: &Hold| !hold.done && self.now.saturating_sub(hold.at) < HOLD_NS;
                if !full && self.holds.get(&id).is_some_and(waits) {
                    return None;
                }
                self.queue.pop_front();
                self.release(id, number, at);
                continue;
            }
            return match self.queue.pop_front() {
                Some(Item::Record(record)) => {
                    self.queued -= record.body.len();
                    Some(record)
                }
                _ => None,
            };
        }
    }

    fn release(&mut self, id: u64, number: u64, at: u64) {
        let hold = self.holds.remove(&id).filter(|hold| !hold.found.is_empty());
        let Some(hold) = hold else {
            let body = loss("sendmmsg without parameters", Timestamp(at));
            let who = Who::default();
            self.ready.push_back(record(number, RecordKind::Loss, at, who, None, false, body));
            return;
        };
        for (bytes, original) in &hold.found {
            let cut = (bytes.len() as u64) < u64::from(*original);
            let (local, remote) = (hold.local, hold.remote);
            let (incoming, protocol, original) = (false, super::UDP, *original);
            let body = payload(Message { local, remote, incoming, protocol, bytes, original });
            let hook = Some(probe::RECOVERED);
            let who = hold.who.clone();
            let kind = RecordKind::Payload;
            self.ready.push_back(record(hold.number, kind, hold.at, who, hook, cut, body));
        }
    }

    /// A message passed that the writer did not keep.
    pub(super) fn unseen(&mut self, source: &str, at: u64) {
        let body = loss(source, Timestamp(at));
        self.fact(RecordKind::Loss, at, Who::default(), None, body);
    }
}

fn loss(source: &str, at: Timestamp) -> Bytes {
    let source = source.to_owned();
    let loss = Loss { stage: LossStage::Payload, source, count: 1, first: at, last: at };
    serde_json::to_vec(&loss).unwrap_or_default().into()
}

impl Hold {
    fn add(&mut self, bytes: Bytes, original: u32) {
        let Some(new) = question(&bytes) else { return };
        let known = self.found.iter().any(|(old, _)| question(old).as_ref() == Some(&new));
        if !self.done && !known {
            self.found.push((bytes, original));
            self.done = self.found.len() >= QUESTIONS;
        }
    }
}

fn record(
    number: u64,
    kind: RecordKind,
    at: u64,
    who: Who,
    hook: Option<u16>,
    cut: bool,
    body: Bytes,
) -> Record {
    Record {
        number,
        at: Timestamp(at),
        host: HostId::default(),
        kind,
        cpu: who.cpu,
        probe: hook,
        cut,
        task: who.task,
        cgroup: who.cgroup,
        cookie: who.cookie,
        body,
    }
}

fn payload(message: Message<'_>) -> Bytes {
    let mut body = BytesMut::with_capacity(52 + message.bytes.len());
    put_address(&mut body, Some(message.local));
    put_address(&mut body, Some(message.remote));
    body.put_u8(message.protocol);
    body.put_u8(if message.incoming { DIRECTION_IN } else { DIRECTION_OUT });
    body.put_u16_ne(0);
    body.put_u32_ne(message.original);
    body.put_u32_ne(u32::try_from(message.bytes.len()).unwrap_or_default());
    body.put_slice(message.bytes);
    body.freeze()
}

/// A `bodies::Address`.
pub(super) fn put_address(body: &mut BytesMut, end: Option<SocketAddr>) {
    let mut addr = [0; 16];
    let family = match end.map(|end| end.ip()) {
        Some(IpAddr::V4(ip)) => {
            addr[..4].copy_from_slice(&ip.octets());
            AF_INET
        }
        Some(IpAddr::V6(ip)) => {
            addr = ip.octets();
            AF_INET6
        }
        None => 0,
    };
    body.put_u16_ne(family);
    body.put_u16_ne(end.map_or(0, |end| end.port()));
    body.put_slice(&addr);
}

/// What identifies a query, and its response, on one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Question<'a> {
    id: u16,
    response: bool,
    /// Name, type and class as on the wire.
    wire: &'a [u8],
}

/// The first question of a message; the codec proper reads it again later.
fn question(bytes: &[u8]) -> Option<Question<'_>> {
    let &[a, b, flags, _, 0, count, ..] = bytes else { return None };
    let body = bytes.get(DNS_HEADER..).filter(|_| count > 0)?;
    let mut end = 0;
    loop {
        match *body.get(end)? {
            0 => break,
            label @ 1..=63 => end += usize::from(label) + 1,
            _ => return None, // no compression in a first question
        }
        if end > QUESTION_MAX {
            return None;
        }
    }
    let wire = body.get(..end + 5)?;
    Some(Question { id: u16::from_be_bytes([a, b]), response: flags & 0x80 != 0, wire })
}

/// The query that a response answers, as far as the response tells.
fn query_of(response: &[u8]) -> Option<Bytes> {
    let asked = question(response).filter(|question| question.response)?;
    let mut query = BytesMut::with_capacity(DNS_HEADER + asked.wire.len());
    query.put_u16(asked.id);
    query.put_u8(response.get(2).copied().unwrap_or_default() & 0x01); // recursion desired
    query.put_slice(&[0, 0, 1, 0, 0, 0, 0, 0, 0]);
    query.put_slice(asked.wire);
    Some(query.freeze())
}
