//! Which of several files are of one recording: those whose sections give the same id and that are
//! of one host, since two hosts can begin in the same nanosecond. Looks at beginnings, reads on
//! nothing.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Read};

use super::{CaptureError, CaptureErrorKind};
use crate::capture::{Item, Reader, Section};
use crate::context::Host;
use crate::record::{HostId, Record, RecordKind};

/// Bytes looked at, of files that seem to be the same.
const HEAD_BYTES: u64 = 1 << 20;
/// Records of them that are compared.
const COMPARED_MAX: usize = 4096;

/// What is read.
pub(super) type Bytes = Box<dyn Read + Send>;

/// A file of a recording.
pub(super) struct File {
    /// Empty where nobody knows.
    pub(super) name: String,
    pub(super) bytes: Bytes,
}

/// A recording among others: time of its first record, and its place among those of that time.
pub(super) type Id = (u64, usize);

/// A file that shares its place in a recording with another.
struct Twin {
    index: u32,
    records: Vec<Record>,
    file: File,
}

/// Files by recording, each in its order. An error where two files say different things about the
/// same part of one recording (one was redacted, for example): either would hide the other.
pub(super) fn recordings(
    files: Vec<(Section, File)>,
) -> Result<Vec<(Id, Vec<File>)>, CaptureError> {
    let mut by_time: BTreeMap<u64, Vec<(u32, File)>> = BTreeMap::new();
    for (section, file) in files {
        by_time.entry(section.recording).or_default().push((section.index, file));
    }
    let mut recordings = Vec::new();
    for (time, mut files) in by_time {
        files.sort_by_key(|(index, _)| *index);
        if files.is_sorted_by(|(a, _), (b, _)| a < b) {
            recordings.push(((time, 0), files.into_iter().map(|(_, file)| file).collect()));
            continue;
        }
        for (place, twins) in by_host(files).into_values().enumerate() {
            for pair in twins.windows(2) {
                if let [one, other] = pair {
                    same(one, other)?;
                }
            }
            let files = twins.into_iter().map(|twin| twin.file).collect();
            recordings.push(((time, place), files));
        }
    }
    Ok(recordings)
}

type ByHost = BTreeMap<Option<(String, String)>, Vec<Twin>>;

fn by_host(files: Vec<(u32, File)>) -> ByHost {
    let mut hosts = ByHost::new();
    for (index, mut file) in files {
        let records = beginning(&mut file);
        let is_host = |r: &&Record| r.kind == RecordKind::Host && r.host == HostId::default();
        let said = records.iter().find(is_host);
        let said = said.and_then(|record| serde_json::from_slice::<Host>(&record.body).ok());
        let key = said.map(|said| match said.boot_id.is_empty() {
            // A pseudonym of a name does not make another host.
            false => (said.boot_id, String::new()),
            true => (String::new(), said.hostname),
        });
        hosts.entry(key).or_default().push(Twin { index, records, file });
    }
    // A file that does not say so is the only host's.
    if hosts.len() == 2
        && let Some(unsaid) = hosts.remove(&None)
        && let Some(mut twins) = hosts.first_entry()
    {
        twins.get_mut().extend(unsaid);
        twins.get_mut().sort_by_key(|twin| twin.index);
    }
    hosts
}

/// The first records, and the file as it was. What is wrong in it shows again to whoever reads it.
fn beginning(file: &mut File) -> Vec<Record> {
    let mut bytes = Vec::new();
    // Damage in a compressed file is told by the one who reads on, at its place.
    let _ = file.bytes.by_ref().take(HEAD_BYTES).read_to_end(&mut bytes);
    let rest = std::mem::replace(&mut file.bytes, Box::new(io::empty()));
    let records = Reader::new(bytes.as_slice()).map(|reader| {
        let stored = reader.filter_map(|item| match item {
            // What is kept of payloads, one of two conversions may have left out.
            Ok(Item::Record(stored)) => (!stored.record.kind.is_private()).then_some(stored.record),
            _ => None,
        });
        stored.take(COMPARED_MAX).collect()
    });
    file.bytes = Box::new(Cursor::new(bytes).chain(rest));
    records.unwrap_or_default()
}

/// Whether two files of one place are copies, as far as both go.
fn same(one: &Twin, other: &Twin) -> Result<(), CaptureError> {
    if one.index != other.index || one.records.iter().zip(&other.records).all(|(a, b)| a == b) {
        return Ok(());
    }
    let what = format!(
        "this and {} tell the same part of one recording differently (was one redacted, or \
         recorded again?); read them one at a time",
        if one.file.name.is_empty() { "another file" } else { &one.file.name }
    );
    Err(CaptureError::new(0, CaptureErrorKind::Unsupported(what)).in_file(&other.file.name))
}
