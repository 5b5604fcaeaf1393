//! One recording of svctrace many times over: each time later, with new numbers, processes and
//! socket cookies. What is known about the cluster stays.

use std::fs::File;
use std::io::{self, Write};

use bytes::Bytes;
use tracer::capture::{Options, Volume, Writer};
use tracer::record::{Record, RecordKind};
use tracer::source;

/// A file as the writer wants it, empty at its start and never written again.
struct Stream<W>(W);

impl<W: Write> Write for Stream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl<W: Write> Volume for Stream<W> {
    fn start_over(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// `rounds` times the records of `seed`, not compressed.
pub(crate) fn write(out: impl Write + 'static, seed: &str, rounds: u64) {
    let seed = source::open(Box::new(File::open(seed).unwrap())).unwrap();
    let seed: Vec<Record> = seed.map(Result::unwrap).collect();
    let first = seed.first().unwrap().at;
    let length = seed.iter().map(|r| r.at.since(first)).max().unwrap() + 1_000_000_000;
    let numbers = seed.iter().map(|r| r.number).max().unwrap() + 1;
    let mut writer = Writer::new(vec![Box::new(Stream(out))], Options::default());
    for round in 0..rounds {
        for record in &seed {
            // Who is there is told once; who comes and goes, each time.
            if round == 0 || matters(record.kind) {
                writer.record(&moved(record, round, length, numbers)).unwrap();
            }
        }
    }
    writer.finish().unwrap();
}

fn matters(kind: RecordKind) -> bool {
    (kind as u16) < RecordKind::Host as u16 || kind == RecordKind::Heartbeat
}

fn moved(record: &Record, round: u64, length: u64, numbers: u64) -> Record {
    let by = round * length;
    let mut moved = record.clone();
    moved.number += round * numbers;
    moved.at = moved.at.plus(by);
    moved.cookie = moved.cookie.map(|cookie| cookie + round * 1_000_000);
    if let Some(task) = &mut moved.task {
        let pids = u32::try_from(round * 1_000).unwrap();
        (task.pid, task.tid) = (task.pid + pids, task.tid + pids);
    }
    if record.kind == RecordKind::Syscall {
        let mut body = record.body.to_vec();
        let entry: [u8; 8] = body[16..24].try_into().unwrap();
        body[16..24].copy_from_slice(&(u64::from_ne_bytes(entry) + by).to_ne_bytes());
        moved.body = Bytes::from(body);
    }
    moved
}
