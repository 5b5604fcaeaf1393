//! Captures to records again. A snapshot's facts come through only where the records they repeat
//! were not seen; files of one recording follow one another in its order. Several recordings are
//! merged by `nodes`.

use std::collections::VecDeque;

use super::nodes::{Nodes, Recording};
use super::recordings::{Bytes, File, recordings};
use super::{CaptureError, CaptureErrorKind, Format, Options, Records, pcap, recognise, scap};
use crate::capture::{Item, Mark, Reader, What};
use crate::context::{Loss, LossStage};
use crate::record::{Record, RecordKind, Timestamp};

/// The records of one capture of any kind, recognised by its content.
pub fn open(reader: Bytes) -> Result<Records, CaptureError> {
    open_all(vec![reader])
}

/// The records of several captures, in any order, whose names nobody knows.
pub fn open_all(readers: Vec<Bytes>) -> Result<Records, CaptureError> {
    let unnamed = readers.into_iter().map(|reader| (String::new(), reader)).collect();
    open_named(unnamed, &Options::default())
}

/// The records of one capture, or of all files of svctrace's recordings, in any order, each with its
/// name for what is wrong with it. Several recordings come as one stream, merged by time. `options`
/// are for captures of other tools.
pub fn open_named(
    readers: Vec<(String, Bytes)>,
    options: &Options,
) -> Result<Records, CaptureError> {
    let mut captures = Vec::new();
    for (name, reader) in readers {
        let capture = recognise(reader).map_err(|error| error.in_file(&name))?;
        // A ring that was not filled has files without a byte.
        if capture.format != Format::Empty {
            captures.push((capture.format, File { name, bytes: capture.reader }));
        }
    }
    if captures.len() > 1 {
        return several(captures);
    }
    let Some((format, File { name, bytes })) = captures.pop() else {
        return Err(unsupported("there is nothing in it".to_owned()));
    };
    match format {
        Format::Svctrace(_) => Ok(Box::new(Replay::new(vec![File { name, bytes }]))),
        Format::Pcap | Format::Pcapng => pcap::open_with(bytes, &options.dns_ports),
        Format::Scap => scap::open_with(bytes, options),
        Format::Empty => Err(unsupported("there is nothing in it".to_owned())),
    }
}

fn several(captures: Vec<(Format, File)>) -> Result<Records, CaptureError> {
    let mut files = Vec::new();
    for (format, file) in captures {
        let Format::Svctrace(section) = format else {
            let what = "only captures of svctrace can be read together; convert this one with -r and -w first".to_owned();
            return Err(unsupported(what).in_file(&file.name));
        };
        files.push((section, file));
    }
    let recordings = recordings(files)?.into_iter().map(|(id, files)| {
        let records = Replay::new(files);
        Recording { id, records: Box::new(records) }
    });
    let mut recordings: Vec<Recording> = recordings.collect();
    match recordings.pop() {
        Some(only) if recordings.is_empty() => Ok(only.records),
        last => Ok(Box::new(Nodes::new(recordings.into_iter().chain(last)))),
    }
}

fn unsupported(what: String) -> CaptureError {
    CaptureError::new(0, CaptureErrorKind::Unsupported(what))
}

/// Files of one recording, one after the other.
struct Replay {
    files: VecDeque<File>,
    /// Of the current file.
    name: String,
    current: Option<Reader<Bytes>>,
    recording: Option<u64>,
    last: (u64, Timestamp),
    /// Some record was told.
    begun: bool,
    /// Last number before the snapshot; none if it is where reading begins.
    known: Option<u64>,
    /// Last number of the section before, if its event has no more to say.
    seen: Option<u64>,
    /// Place of the current section in the recording.
    index: Option<u32>,
    /// Nothing of the current section was read.
    opening: bool,
    /// Told once the snapshot it was noticed at has gone by.
    gap: Option<Gap>,
    pending: Option<Record>,
    repeats: u32,
}

/// Records between two files that nobody has.
#[derive(Clone, Copy)]
struct Gap {
    first: u64,
    last: u64,
    from: Timestamp,
    to: Timestamp,
}

impl Replay {
    fn new(files: Vec<File>) -> Self {
        Self {
            files: files.into(),
            name: String::new(),
            current: None,
            recording: None,
            last: (0, Timestamp::default()),
            begun: false,
            known: None,
            seen: None,
            index: None,
            opening: false,
            gap: None,
            pending: None,
            repeats: 0,
        }
    }

    fn take(&mut self, item: Item) -> Option<Record> {
        match item {
            Item::Section(section) => {
                self.recording = Some(section.recording);
                let again = self.index.replace(section.index).is_some_and(|i| i >= section.index);
                self.seen = self.begun.then_some(self.last.0);
                self.opening = !again;
                None
            }
            Item::Mark(mark) => {
                if mark.what == What::Snapshot {
                    self.notice_gap(mark);
                    self.known = self.begun.then_some(self.last.0);
                    // The file before ended between two records of one event.
                    if std::mem::take(&mut self.opening) && self.seen == Some(mark.last_number) {
                        self.seen = None;
                    }
                }
                None
            }
            Item::Record(stored) => {
                // A snapshot's fact that was seen under its own number changes nothing.
                let number = stored.record.number;
                if stored.snapshot && self.known.is_some_and(|known| number <= known) {
                    return None;
                }
                // Records that share a number say more about one event.
                if number < self.last.0 || self.seen.is_some_and(|seen| number <= seen) {
                    self.repeats += 1;
                    return None;
                }
                (self.last, self.begun) = ((number, stored.record.at), true);
                Some(stored.record)
            }
        }
    }

    fn notice_gap(&mut self, mark: Mark) {
        let (last, from) = self.last;
        if last != 0 && mark.last_number > last {
            let (first, last) = (last + 1, mark.last_number);
            self.gap = Some(Gap { first, last, from, to: mark.at });
        }
    }

    /// What is told of a gap before the first record behind it, `number`.
    fn gap_before(&mut self, number: u64) -> Option<Record> {
        let gap = self.gap.filter(|gap| number > gap.last)?;
        self.gap = None;
        let loss = Loss {
            stage: LossStage::User,
            source: "capture".to_owned(),
            count: gap.last - gap.first + 1,
            first: gap.from,
            last: gap.to,
        };
        let body = serde_json::to_vec(&loss).ok()?;
        Some(Record::bare(gap.last, gap.to, RecordKind::Loss, body))
    }

    fn end_of_file(&mut self) {
        if let Some(reader) = self.current.take() {
            let skipped = reader.skipped();
            if skipped.records + skipped.blocks > 0 {
                tracing::warn!(
                    "this version does not know {} records and {} blocks of the capture; skipped",
                    skipped.records,
                    skipped.blocks
                );
            }
        }
        if self.repeats > 0 {
            let (name, repeats) = (&self.name, self.repeats);
            tracing::warn!("{name} {repeats} records of it were there before; skipped");
            self.repeats = 0;
        }
    }
}

impl Iterator for Replay {
    type Item = Result<Record, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(record) = self.pending.take() {
            return Some(Ok(record));
        }
        loop {
            let Some(reader) = &mut self.current else {
                let file = self.files.pop_front()?;
                self.name = file.name;
                match Reader::new(file.bytes) {
                    Ok(reader) => self.current = Some(reader),
                    Err(error) => return Some(Err(error.in_file(&self.name))),
                }
                continue;
            };
            match reader.next() {
                Some(Ok(Item::Section(section)))
                    if self.recording.is_some_and(|known| known != section.recording) =>
                {
                    let offset = reader.offset();
                    self.end_of_file();
                    // Its ids would be taken for those of this recording's host.
                    let what = "another recording begins in this file; what follows was not read. \
                                Keep recordings in files of their own and name each with -r";
                    let kind = CaptureErrorKind::Unsupported(what.to_owned());
                    return Some(Err(CaptureError::new(offset, kind).in_file(&self.name)));
                }
                Some(Ok(item)) => {
                    let Some(record) = self.take(item) else { continue };
                    if let Some(loss) = self.gap_before(record.number) {
                        self.pending = Some(record);
                        return Some(Ok(loss));
                    }
                    return Some(Ok(record));
                }
                Some(Err(error)) => {
                    self.end_of_file();
                    if self.files.is_empty() {
                        return Some(Err(error.in_file(&self.name)));
                    }
                    // What is missing shows as loss at the next file's start.
                    tracing::warn!("{} {error}; going on with the next file", self.name);
                }
                None => self.end_of_file(),
            }
        }
    }
}
