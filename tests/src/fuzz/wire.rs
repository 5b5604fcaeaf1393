//! What comes off the wire and out of the kernel: records of the ring buffer, packets, DNS messages,
//! streams of them.

use std::io::Cursor;

use etherparse::PacketBuilder;
use tracer::decode::{self, Decoder};
use tracer::event::{Body, Protocol};
use tracer::record::{Record, RecordKind, Timestamp};
use tracer::redact::Redactor;
use tracer::source::{CaptureError, Records, live::foreign, pcap};

use super::{Input, assert_visible, check_message};
use crate::frames::{FORMATS, Frame, file};
use crate::wire::packet_body;
use tracer_common::bodies::role;

/// Link layers that are read, and one that is not.
const LINKS: [u16; 8] = [1, 0, 12, 101, 108, 113, 276, 105];
/// Frames of one input.
const FRAMES_MAX: usize = 64;

/// A record of the ring buffer, header and body.
pub fn ring(data: &[u8]) {
    foreign::lifecycle(data);
    let Some(record) = foreign::ring(data, 1_767_225_600_000_000_000) else { return };
    assert!(record.body.len() <= data.len());
    if let Some(task) = &record.task {
        assert_visible(&task.comm);
    }
    super::decode(&mut Decoder::default(), &record);
    super::decode(&mut Decoder::default(), &Redactor::new(b"key").record(&record));
}

/// A DNS message; the first byte says whether its end was cut.
pub fn dns(data: &[u8]) {
    let mut input = Input(data);
    let cut = input.u8() & 1 != 0;
    let message = decode::dns::message(input.0, cut);
    check_message(&message, input.0.len());
    let Some(record) = record(input.0) else { return };
    let events = super::decode(&mut Decoder::default(), &record);
    let [event] = events.as_slice() else { panic!("{events:?}") };
    let Body::Dns(whole) = &event.body else { panic!("{event:?}") };
    assert_eq!(&*whole.payload, input.0);
    assert_eq!(whole.message, decode::dns::message(input.0, false));
    let passing = Record { kind: RecordKind::Wire, ..record.clone() };
    let events = super::decode(&mut Decoder::default(), &passing);
    let [Body::Passing(same)] =
        &events.iter().map(|event| event.body.clone()).collect::<Vec<_>>()[..]
    else {
        panic!("{events:?}");
    };
    assert_eq!(same.message, whole.message);
    let redacted = Redactor::new(b"key").record(&record);
    assert_eq!(redacted.body.len(), record.body.len());
    let events = super::decode(&mut Decoder::default(), &redacted);
    let [Body::Dns(hidden)] =
        &events.iter().map(|event| event.body.clone()).collect::<Vec<_>>()[..]
    else {
        panic!("{events:?}");
    };
    let (before, after) = (&whole.message, &hidden.message);
    assert_eq!(
        (before.id, before.response, before.truncated),
        (after.id, after.response, after.truncated)
    );
    if before.undecoded.is_none() {
        assert_eq!(before.rcode, after.rcode);
        assert_eq!(before.answers.len(), after.answers.len());
    }
}

/// `payload` in a UDP packet, as the probes record it.
fn record(payload: &[u8]) -> Option<Record> {
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(4000, 53);
    builder.write(&mut packet, payload).ok()?;
    let body = packet_body(true, role::TARGET, 53, &packet);
    Some(Record::bare(1, Timestamp(1), RecordKind::Packet, body))
}

/// Frames of a link layer in a capture file: which, then each behind its length. What they come to, unless
/// the first byte is large.
pub fn packet(data: &[u8]) {
    let mut input = Input(data);
    let first = input.u8();
    let link = LINKS[usize::from(first) % LINKS.len()];
    let format = FORMATS[usize::from(input.u8()) % FORMATS.len()];
    let snap = usize::from(input.u16()).max(16);
    let mut frames: Vec<Frame> = Vec::new();
    while !input.is_empty() && frames.len() < FRAMES_MAX {
        let (step, len) = (input.u8(), usize::from(input.u16()));
        let at = frames.last().map_or(0, |last| last.0) + u64::from(step) * 50_000;
        frames.push((at, input.piece(len).to_vec()));
    }
    let records = open(file(format, link, snap, &frames));
    let (mut decoder, mut redactor) = (Decoder::default(), Redactor::new(b"key"));
    let whole = |record: Result<Record, CaptureError>| {
        record.unwrap_or_else(|error| panic!("the file is whole: {error}"))
    };
    let records: Vec<Record> = records.map(whole).collect();
    for record in &records {
        super::decode(&mut decoder, record);
        super::decode(&mut Decoder::default(), &redactor.record(record));
    }
    if first < 0x80 {
        super::whole::concluded(&records);
    }
}

fn open(bytes: Vec<u8>) -> Records {
    pcap::open(Box::new(Cursor::new(bytes))).unwrap_or_else(|error| panic!("{error}"))
}

/// A conversation over TCP: pieces of one stream, in any order, twice or not at all; messages that
/// come out of it are those that were in it, as long as no gap is told.
pub fn tcp(data: &[u8]) {
    let mut input = Input(data);
    let plan = Input(data).u8() % 48;
    input.u8();
    let pieces: Vec<[u16; 2]> = (0..plan).map(|_| [input.u16(), input.u16()]).collect();
    let stream = input.0;
    let start = u32::MAX - 100; // sequence numbers wrap
    let mut frames = vec![(0, segment(start, true, &[]))];
    for (n, [at, len]) in (1..).zip(pieces) {
        let at = usize::from(at) % (stream.len() + 1);
        let end = stream.len().min(at + usize::from(len));
        let seq = start.wrapping_add(1).wrapping_add(at as u32);
        frames.push((n * 1_000_000, segment(seq, false, &stream[at..end])));
    }
    let framed: Vec<Frame> =
        frames.into_iter().map(|(at, packet)| (at, crate::frames::framed(1, &packet))).collect();
    let mut decoder = Decoder::default();
    let mut told = Vec::new();
    for record in open(file(FORMATS[1], 1, 65_535, &framed)) {
        let record = record.unwrap_or_else(|error| panic!("the file is whole: {error}"));
        for event in super::decode(&mut decoder, &record) {
            if let Body::Dns(dns) = event.body {
                assert_eq!(dns.protocol, Protocol::Tcp);
                told.push(dns);
            }
        }
    }
    // Behind a gap it may only be guessed where a message begins.
    if decoder.take_lost() == 0 {
        let mut sent = messages(stream).into_iter();
        for dns in told {
            assert!(sent.any(|message| message == &*dns.payload), "{dns:?} was not sent");
        }
    }
}

fn segment(seq: u32, syn: bool, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(4000, 53, seq, 64_000);
    let builder = if syn { builder.syn() } else { builder.ack(1).psh() };
    let mut packet = Vec::new();
    // At most 65,535 bytes of payload are asked for, and more than a packet holds stays empty.
    let _ =
        builder.write(&mut packet, payload.get(..payload.len().min(60_000)).unwrap_or_default());
    packet
}

/// Messages behind their lengths (RFC 1035 section 4.2.2).
fn messages(mut stream: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while let Some((len, rest)) = stream.split_first_chunk::<2>() {
        let Some((message, rest)) = rest.split_at_checked(u16::from_be_bytes(*len).into()) else {
            break;
        };
        all.push(message);
        stream = rest;
    }
    all
}
