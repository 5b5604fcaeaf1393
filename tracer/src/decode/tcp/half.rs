//! One direction of a TCP connection: segments put in order, what is missing told apart from what is
//! late, messages out. Bounded; knows no addresses and no clock but its segments'.

use std::borrow::Cow;

use bytes::Bytes;

use crate::framing::{Framing, Whole};
use crate::record::Timestamp;

/// What waits behind a hole.
const WAITING_MAX: usize = 128;
const WAITING_BYTES_MAX: usize = 192 * 1024;
/// A number further from the expected one belongs to another connection (RFC 7323: no window is
/// larger than 1 GiB; DNS needs no more than this).
const WINDOW: u32 = 16 << 20;
/// What the far end has received and we have not, we will not: segments pass several processors.
const ACKED_NS: u64 = 50_000_000;
/// A hole that stays that long stays.
const HOLE_NS: u64 = 10_000_000_000;

/// A part of the stream.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) seq: u32,
    /// Bytes on the wire, of which `bytes` are the first.
    pub(super) size: u32,
    pub(super) bytes: Bytes,
    pub(super) at: Timestamp,
    pub(super) number: u64,
}

/// A message, and the piece with its last byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) bytes: Bytes,
    pub(super) original: u16,
    pub(super) at: Timestamp,
    pub(super) number: u64,
}

/// What came of a step.
#[derive(Debug, Default)]
pub(super) struct Out {
    pub(super) told: Vec<Told>,
    /// Gaps in the stream, and places where messages began that could not be found.
    pub(super) gaps: u64,
    /// Messages that their sender began and, ending the connection, did not end.
    pub(super) broken_off: u64,
}

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Half {
    /// The next number; `None` before the first segment.
    next: Option<u32>,
    framing: Framing,
    /// Behind a hole, in order of their numbers.
    waiting: Vec<Piece>,
    waiting_bytes: usize,
    /// Since when something waits.
    hole_since: Option<Timestamp>,
    /// The far end has received everything before this number, which is more than we have, and when
    /// that was seen first.
    acked: Option<(u32, Timestamp)>,
    /// Number behind the last byte.
    end: Option<u32>,
}

/// How far `b` lies behind `a`; negative if before it.
fn ahead(a: u32, b: u32) -> i32 {
    b.wrapping_sub(a).cast_signed()
}

impl Half {
    /// The connection begins here: the first byte has the number `first`.
    pub(super) fn begin(&mut self, first: u32, out: &mut Out) {
        // The same SYN again changes nothing.
        if self.next.is_some_and(|next| (0..=0xffff).contains(&ahead(first, next))) {
            return;
        }
        self.abandon(out);
        *self = Self { next: Some(first), ..Self::default() };
    }

    /// A segment with payload.
    pub(super) fn add(&mut self, mut piece: Piece, out: &mut Out) {
        let next = *self.next.get_or_insert_with(|| {
            self.framing = Framing::Lost;
            piece.seq
        });
        let distance = ahead(next, piece.seq);
        if distance.unsigned_abs() > WINDOW {
            self.start_over(&piece, out);
        } else if distance > 0 {
            self.keep(piece, out);
            return;
        } else if !trim(&mut piece, distance.unsigned_abs()) {
            return;
        }
        self.pass(&piece, out);
        self.drain(Some((piece.at, piece.number)), out);
    }

    /// Another connection between the same ends, whose beginning was not seen.
    fn start_over(&mut self, piece: &Piece, out: &mut Out) {
        self.abandon(out);
        *self = Self { next: Some(piece.seq), framing: Framing::Lost, ..Self::default() };
    }

    /// The far end has received what is before `ack`.
    pub(super) fn acked(&mut self, ack: u32, at: Timestamp) {
        let Some(next) = self.next else { return };
        let limit = self.end.unwrap_or(ack);
        let ack = if ahead(limit, ack) > 0 { limit } else { ack };
        let behind = ahead(next, ack);
        if behind > 0 && behind <= WINDOW.cast_signed() {
            match &mut self.acked {
                Some((known, _)) if ahead(*known, ack) > 0 => *known = ack,
                Some(_) => {}
                None => self.acked = Some((ack, at)),
            }
        }
    }

    /// FIN behind the byte with the number before `end`.
    pub(super) fn ends(&mut self, end: u32) {
        self.end = Some(end);
    }

    /// All of it has passed.
    pub(super) fn ended(&self) -> bool {
        self.end.is_some() && self.end == self.next
    }

    /// Time has come to `now`, with the record of this number: what is missing for too long is given
    /// up.
    pub(super) fn look(&mut self, now: Timestamp, number: u64, out: &mut Out) {
        let acked = self.acked.is_some_and(|(_, since)| now.since(since) >= ACKED_NS);
        let stays = self.hole_since.is_some_and(|since| now.since(since) >= HOLE_NS);
        if acked || stays {
            self.skip(now, number, out);
        }
    }

    /// Nothing more will come: what is under way is lost.
    pub(super) fn abandon(&mut self, out: &mut Out) {
        if self.ended() {
            self.broken_off(out);
        }
        while !self.waiting.is_empty() {
            self.skip(Timestamp(0), 0, out);
        }
        if self.framing.under_way() {
            out.gaps += 1;
            self.framing = Framing::Lost;
        }
    }

    /// The connection was reset, by the sender behind the byte before `end`. What is under way is not
    /// ours to lose, unless something is missing.
    pub(super) fn reset(&mut self, end: Option<u32>, out: &mut Out) {
        let next = self.next;
        let more = |end: Option<u32>| next.zip(end).is_some_and(|(next, end)| ahead(next, end) > 0);
        if self.waiting.is_empty() && self.acked.is_none() && !more(self.end) && !more(end) {
            self.broken_off(out);
        }
        self.abandon(out);
    }

    fn broken_off(&mut self, out: &mut Out) {
        if self.framing.under_way() {
            out.broken_off += 1;
            self.framing = Framing::Lost;
        }
    }

    /// Something stands behind a hole.
    pub(super) fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Bytes of memory it holds beside itself.
    pub(super) fn held(&self) -> usize {
        self.waiting_bytes + self.waiting.len() * size_of::<Piece>() + self.framing.held()
    }

    fn keep(&mut self, mut piece: Piece, out: &mut Out) {
        let Some(next) = self.next else { return };
        self.hole_since.get_or_insert(piece.at);
        // Its own memory: the record around it may be larger.
        piece.bytes = Bytes::copy_from_slice(&piece.bytes);
        let place = self.waiting.partition_point(|w| ahead(next, w.seq) < ahead(next, piece.seq));
        match self.waiting.get_mut(place) {
            // The same again; what is longer says more.
            Some(same) if same.seq == piece.seq => {
                if piece.size > same.size {
                    self.waiting_bytes += piece.bytes.len();
                    self.waiting_bytes -= same.bytes.len();
                    *same = piece;
                }
            }
            _ => {
                self.waiting_bytes += piece.bytes.len();
                self.waiting.insert(place, piece);
            }
        }
        while self.waiting.len() > WAITING_MAX || self.waiting_bytes > WAITING_BYTES_MAX {
            self.skip(Timestamp(0), 0, out);
        }
    }

    /// Gives up the hole in front of the first piece that waits, or of what was acknowledged.
    fn skip(&mut self, now: Timestamp, number: u64, out: &mut Out) {
        let Some(next) = self.next else { return };
        let first = self.waiting.first().map(|piece| piece.seq);
        let acked = self.acked.map(|(acked, _)| acked);
        let Some(to) = [first, acked].into_iter().flatten().min_by_key(|to| ahead(next, *to))
        else {
            return;
        };
        out.gaps += 1;
        // A message that ends in the hole was there when what is behind the hole came.
        let (at, number) = self.waiting.first().map_or((now, number), |p| (p.at, p.number));
        let size = to.wrapping_sub(next);
        let gaps = out.gaps;
        self.pass(&Piece { seq: next, size, bytes: Bytes::new(), at, number }, out);
        out.gaps = gaps;
        self.drain(None, out);
    }

    /// Passes on what has its place now. What a late piece `filled` could be read only then.
    fn drain(&mut self, filled: Option<(Timestamp, u64)>, out: &mut Out) {
        while let (Some(next), Some(first)) = (self.next, self.waiting.first())
            && ahead(next, first.seq) <= 0
        {
            let mut piece = self.waiting.remove(0);
            self.waiting_bytes -= piece.bytes.len();
            let before = ahead(piece.seq, next).unsigned_abs();
            if trim(&mut piece, before) {
                if let Some(filled) = filled {
                    (piece.at, piece.number) = filled;
                }
                self.pass(&piece, out);
            }
        }
        self.hole_since = self.waiting.first().map(|piece| piece.at);
        let next = self.next;
        self.acked = self.acked.filter(|(acked, _)| next.is_some_and(|n| ahead(n, *acked) > 0));
    }

    fn pass(&mut self, piece: &Piece, out: &mut Out) {
        let mut whole: Vec<Whole<'_>> = Vec::new();
        let size = usize::try_from(piece.size).unwrap_or(usize::MAX);
        if !self.framing.pass(&piece.bytes, size, &mut whole) {
            out.gaps += 1;
        }
        self.next = Some(piece.seq.wrapping_add(piece.size));
        for message in whole {
            let bytes = match message.bytes {
                Cow::Borrowed(bytes) => piece.bytes.slice_ref(bytes),
                Cow::Owned(bytes) => bytes.into(),
            };
            let (at, number) = (piece.at, piece.number);
            out.told.push(Told { bytes, original: message.original, at, number });
        }
    }
}

/// Takes away the first `count` bytes, which were there before; false if nothing is left.
fn trim(piece: &mut Piece, count: u32) -> bool {
    if count >= piece.size {
        return false;
    }
    let there = usize::try_from(count).unwrap_or(usize::MAX).min(piece.bytes.len());
    piece.bytes = piece.bytes.slice(there..);
    piece.seq = piece.seq.wrapping_add(count);
    piece.size -= count;
    true
}
