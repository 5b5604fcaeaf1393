//! DNS over TCP out of captured segments: connections, each with two directions. Bounded by number
//! and memory; what had to be given up is counted. Understands no message and opens no packet.

mod half;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::Bytes;
use foldhash::HashMap;

use crate::event::Direction;
use crate::record::{HostId, Timestamp};
use half::{Half, Out, Piece};

/// Connections at one time.
const CONNECTIONS_MAX: usize = 8_192;
/// Bytes kept of all of them.
const HELD_MAX: usize = 32 << 20;
/// A connection that is quiet for so long is forgotten: what comes later is found again.
const IDLE_NS: u64 = 300_000_000_000;

/// A connection, seen from one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) host: HostId,
    pub(super) cookie: Option<u64>,
    pub(super) cgroup: Option<u64>,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// A captured segment of a DNS connection.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) direction: Direction,
    pub(super) at: Timestamp,
    pub(super) number: u64,
    pub(super) seq: u32,
    /// With ACK only.
    pub(super) ack: Option<u32>,
    pub(super) syn: bool,
    pub(super) fin: bool,
    pub(super) rst: bool,
    /// Payload, as far as captured.
    pub(super) bytes: Bytes,
    /// Payload on the wire, in bytes.
    pub(super) size: u32,
}

/// A message, whole or as far as it was captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) direction: Direction,
    pub(super) bytes: Bytes,
    /// Bytes on the wire.
    pub(super) original: u16,
    /// The segment with its last byte.
    pub(super) at: Timestamp,
    pub(super) number: u64,
}

#[derive(Debug, Default)]
struct Connection {
    out: Half,
    r#in: Half,
    last: Timestamp,
    held: usize,
}

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Connections {
    all: HashMap<Key, Connection>,
    /// When each was last looked at, oldest first.
    order: VecDeque<(Timestamp, Key)>,
    held: usize,
    /// Gaps in streams and messages given up, not taken yet.
    lost: u64,
    broken_off: u64,
}

impl Connections {
    /// Takes a segment in; appends the messages that can be read now.
    pub(super) fn add(&mut self, key: Key, segment: Segment, messages: &mut Vec<Message>) {
        self.expire(segment.at);
        if !self.all.contains_key(&key) {
            self.order.push_back((segment.at, key));
        }
        let connection = self.all.entry(key).or_default();
        connection.last = connection.last.max(segment.at);
        let (at, number, direction) = (segment.at, segment.number, segment.direction);
        let opposite = match direction {
            Direction::In => Direction::Out,
            Direction::Out => Direction::In,
        };
        let mut there = Out::default();
        let mut back = Out::default();
        connection.step(segment, &mut there, &mut back);
        connection.half(direction).look(at, number, &mut there);
        connection.half(opposite).look(at, number, &mut back);
        let held = connection.out.held() + connection.r#in.held();
        self.held = (self.held + held).saturating_sub(connection.held);
        connection.held = held;
        self.lost += there.gaps + back.gaps;
        self.broken_off += there.broken_off + back.broken_off;
        for (direction, out) in [(opposite, back), (direction, there)] {
            messages.extend(out.told.into_iter().map(|told| Message {
                direction,
                bytes: told.bytes,
                original: told.original,
                at: told.at,
                number: told.number,
            }));
        }
    }

    /// Gaps in streams, and messages given up, since the last call.
    pub(super) fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Messages that their senders broke off, so far.
    pub(super) fn broken_off(&self) -> u64 {
        self.broken_off
    }

    /// Nothing follows: what waits behind a hole is given up. A message that merely goes on is open.
    pub(super) fn finish(&mut self) {
        let halves = self.all.values().flat_map(|connection| [&connection.out, &connection.r#in]);
        self.lost += halves.filter(|half| half.waits()).count() as u64;
        *self = Self { lost: self.lost, broken_off: self.broken_off, ..Self::default() };
    }

    /// Forgets who is idle, and who is too much.
    fn expire(&mut self, now: Timestamp) {
        while let Some((seen, key)) = self.order.front().copied() {
            let full = self.all.len() >= CONNECTIONS_MAX || self.held > HELD_MAX;
            if !full && now.since(seen) < IDLE_NS {
                return;
            }
            self.order.pop_front();
            let Some(last) = self.all.get(&key).map(|connection| connection.last) else { continue };
            if last > seen {
                self.order.push_back((last, key)); // not idle: later, perhaps
                continue;
            }
            if let Some(mut connection) = self.all.remove(&key) {
                self.held = self.held.saturating_sub(connection.held);
                let mut out = Out::default();
                connection.out.abandon(&mut out);
                connection.r#in.abandon(&mut out);
                self.lost += out.gaps;
                self.broken_off += out.broken_off;
            }
        }
    }
}

impl Connection {
    fn half(&mut self, direction: Direction) -> &mut Half {
        match direction {
            Direction::In => &mut self.r#in,
            Direction::Out => &mut self.out,
        }
    }

    fn step(&mut self, segment: Segment, there: &mut Out, back: &mut Out) {
        let Segment { direction, at, number, seq, ack, syn, fin, rst, bytes, size } = segment;
        let (sending, receiving) = match direction {
            Direction::In => (&mut self.r#in, &mut self.out),
            Direction::Out => (&mut self.out, &mut self.r#in),
        };
        // SYN and FIN take a number each.
        let seq = seq.wrapping_add(u32::from(syn));
        if syn {
            sending.begin(seq, there);
        }
        if let Some(ack) = ack {
            receiving.acked(ack, at);
        }
        if size > 0 {
            sending.add(Piece { seq, size, bytes, at, number }, there);
        }
        if fin {
            sending.ends(seq.wrapping_add(size));
            if sending.ended() {
                sending.abandon(there);
            }
        }
        if rst {
            sending.reset(Some(seq.wrapping_add(size)), there);
            receiving.reset(None, back);
        }
    }
}
