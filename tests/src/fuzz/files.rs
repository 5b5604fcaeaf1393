//! Capture files of every kind: records, then at most one error at a place in the file.

use std::io::Cursor;

use tracer::capture::info::Info;
use tracer::capture::{MAGIC, Options};
use tracer::decode::Decoder;
use tracer::record::Record;
use tracer::source::{self, CaptureError};

use crate::capture;

/// More records of one input only cost time.
const RECORDS_MAX: usize = 20_000;

/// A classic pcap file.
pub fn pcap(data: &[u8]) {
    decoded(data);
}

/// A pcapng file of another tool.
pub fn pcapng(data: &[u8]) {
    decoded(data);
}

/// A scap file of sysdig.
pub fn scap(data: &[u8]) {
    decoded(data);
}

/// A capture of our own, plain or compressed: what is read is written and read as it was.
pub fn capture(data: &[u8]) {
    let info = Info::read(Cursor::new(data));
    assert!(info.damage.is_none_or(|damage| damage.what.len() < 4096));
    let (records, error) = decoded(data);
    let ours = data.windows(MAGIC.len()).any(|window| window == MAGIC);
    if records.is_empty() || error.is_some() && !ours {
        return;
    }
    let plain = Options { compress: false, rotate_bytes: None, rotate_ns: None };
    let (again, error) = capture::replay(&[capture::file(&records, plain)]);
    assert!(error.is_none(), "{error:?}");
    assert!(again == records, "{records:?}\n{again:?}");
}

fn decoded(data: &[u8]) -> (Vec<Record>, Option<CaptureError>) {
    let (records, error) = read(data);
    let mut decoder = Decoder::default();
    for record in &records {
        super::decode(&mut decoder, record);
    }
    (records, error)
}

fn read(data: &[u8]) -> (Vec<Record>, Option<CaptureError>) {
    let mut all = match source::open(Box::new(Cursor::new(data.to_vec()))) {
        Ok(all) => all,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let mut records: Vec<Record> = Vec::new();
    for record in all.by_ref().take(RECORDS_MAX) {
        match record {
            Ok(record) => {
                let before = records.last().map_or(0, |last| last.number);
                assert!(before <= record.number, "{before} before {}", record.number);
                records.push(record);
            }
            Err(error) => {
                assert!(error.to_string().len() < 4096);
                assert!(all.next().is_none(), "an error ends it");
                return (records, Some(error));
            }
        }
    }
    (records, None)
}
