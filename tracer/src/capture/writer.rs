//! Records to capture files: one, or a ring of them that each stand alone. Opens nothing: it is given
//! open files. Flushes by record time; what is flushed is whole.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::{self, BufWriter, Write};
use std::mem::offset_of;
use std::time::Duration;

use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::name_resolution::NameResolutionBlock;
use pcap_file::pcapng::blocks::opt_common::{CommonOption, UnknownOption};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::blocks::unknown::UnknownBlock;
use pcap_file::pcapng::{Block, PcapNgBlock, PcapNgWriteError, PcapNgWriter};
use pcap_file::{DataLink, Endianness};
use tracer_common::bodies::{DIRECTION_OUT, Packet};
use tracer_common::record::WIRE_VERSION;

use super::decoration::{self, Decoration, Interface};
use super::shown::{self, Shown};
use super::snapshot::Snapshot;
use super::{
    BLOCK_MARK, BLOCK_MAX, BLOCK_RECORD, MAJOR, MINOR, Mark, OPTION_RECORD, OPTION_SECTION,
    OPTION_SHOWN, Section, What, encoding,
};
use crate::record::{Record, RecordKind, Timestamp};

/// Least record time between two flushes, in nanoseconds.
const FLUSH_NS: u64 = 500_000_000;
/// Least record time between two snapshots, in nanoseconds.
const SNAPSHOT_NS: u64 = 30_000_000_000;
/// Compression: the fast end of zstd.
const LEVEL: i32 = 3;
/// Names of addresses in one block.
const NAMES_PER_BLOCK: usize = 1024;
/// Fixed part of a packet's body.
const FRONT: usize = size_of::<Packet>();
/// Flags of a packet block: direction.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

/// An open file (or pipe) to write to.
pub trait Volume: Write {
    /// Empties it, to be written again from its start.
    fn start_over(&mut self) -> io::Result<()>;
}

/// How to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// zstd around everything.
    pub compress: bool,
    /// Go on to the next file at about so many bytes.
    pub rotate_bytes: Option<u64>,
    /// Go on to the next file after so many nanoseconds of record time.
    pub rotate_ns: Option<u64>,
}

/// Writes a recording.
pub struct Writer {
    options: Options,
    /// Files not in use now, the one used longest ago last.
    idle: Vec<Box<dyn Volume>>,
    file: Option<OpenFile>,
    decoration: Decoration,
    snapshot: Snapshot,
    recording: Option<u64>,
    files: u32,
    last: (u64, Timestamp),
    cut_short: bool,
}

struct OpenFile {
    blocks: PcapNgWriter<Output>,
    interfaces: HashMap<Interface, u32>,
    began: Timestamp,
    flushed: Timestamp,
    snapshot_at: Timestamp,
    bytes_at_snapshot: u64,
    bytes: u64,
}

impl Writer {
    /// Writes to `volumes`, one after the other, round and round.
    pub fn new(mut volumes: Vec<Box<dyn Volume>>, options: Options) -> Self {
        volumes.reverse();
        Self {
            options,
            idle: volumes,
            file: None,
            decoration: Decoration::default(),
            snapshot: Snapshot::default(),
            recording: None,
            files: 0,
            last: (0, Timestamp::default()),
            cut_short: false,
        }
    }

    /// Writes one record.
    pub fn record(&mut self, record: &Record) -> io::Result<()> {
        if self.is_full(record.at) {
            self.end_file(What::Continues)?;
        }
        if self.file.is_none() {
            self.start_file(record)?;
        }
        let mut shown = None;
        if let Some(event) = self.decoration.learn(record) {
            self.snapshot.learn(record, event);
            // Where the packet itself was captured, its record is in the packet's own block.
            shown = (record.kind == RecordKind::Payload).then(|| shown::packet(event)).flatten();
        }
        self.write_names(false)?;
        let mut written = match packet_end(record) {
            Some(end) => self.write_packet(record, end)?,
            None => self.write_record(record, false)?,
        };
        if let Some(shown) = shown {
            written += self.write_shown(record, shown)?;
        }
        self.last = (record.number, record.at);
        let Some(file) = &mut self.file else { return Ok(()) };
        file.bytes += written as u64;
        let grown = file.bytes - file.bytes_at_snapshot;
        if record.at.since(file.snapshot_at) >= SNAPSHOT_NS && grown >= self.snapshot.bytes() as u64
        {
            self.write_snapshot(record.at)?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        if record.at.since(file.flushed) >= FLUSH_NS {
            file.flushed = record.at;
            file.blocks.get_mut().flush()?;
        }
        Ok(())
    }

    /// What was to be recorded broke off; the capture will say so by having no end.
    pub fn cut_short(&mut self) {
        self.cut_short = true;
    }

    /// Ends the recording. One without any record is an empty capture.
    pub fn finish(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.open(0, Timestamp::default())?;
        }
        self.end_file(What::End).map(drop)
    }

    fn is_full(&self, now: Timestamp) -> bool {
        let Some(file) = &self.file else { return false };
        let bytes = file.blocks.get_ref().written();
        self.options.rotate_bytes.is_some_and(|most| bytes >= most)
            || self.options.rotate_ns.is_some_and(|most| now.since(file.began) >= most)
    }

    fn start_file(&mut self, first: &Record) -> io::Result<()> {
        let recording = *self.recording.get_or_insert(first.at.0);
        self.open(recording, first.at)?;
        self.write_names(true)?;
        self.write_snapshot(first.at)
    }

    fn open(&mut self, recording: u64, at: Timestamp) -> io::Result<()> {
        let missing = || io::Error::other("no file to go on with");
        if self.files == 0 {
            // Nothing of an older recording stays between this one's files.
            self.idle.iter_mut().try_for_each(|volume| volume.start_over())?;
        }
        let mut volume = self.idle.pop().ok_or_else(missing)?;
        if self.files > 0 {
            volume.start_over()?;
        }
        let index = self.files;
        let (major, minor, wire) = (MAJOR, MINOR, WIRE_VERSION.into());
        let ours = Section { major, minor, wire, recording, index }.encode();
        let section = SectionHeaderBlock {
            endianness: Endianness::Little,
            options: vec![
                SectionHeaderOption::Common(unknown(OPTION_SECTION, ours)),
                SectionHeaderOption::UserApplication(Cow::Borrowed(concat!(
                    "svctrace ",
                    env!("CARGO_PKG_VERSION")
                ))),
            ],
            ..SectionHeaderBlock::default()
        };
        let output = Output::new(volume, self.options.compress)?;
        let blocks = PcapNgWriter::with_section_header(output, section).map_err(failed)?;
        self.files += 1;
        self.file = Some(OpenFile {
            blocks,
            interfaces: HashMap::new(),
            began: at,
            flushed: at,
            snapshot_at: at,
            bytes_at_snapshot: 0,
            bytes: 0,
        });
        Ok(())
    }

    fn end_file(&mut self, what: What) -> io::Result<()> {
        if !(self.cut_short && what == What::End) {
            self.write_mark(what, self.last.1)?;
        }
        if let Some(file) = self.file.take() {
            self.idle.insert(0, file.blocks.into_inner().finish()?);
        }
        Ok(())
    }

    fn write_mark(&mut self, what: What, at: Timestamp) -> io::Result<()> {
        let (count, missing) = match what {
            What::Snapshot => (self.snapshot.count(), self.snapshot.missing()),
            _ => (0, 0),
        };
        let mark = Mark { what, at, last_number: self.last.0, count, missing };
        self.block(UnknownBlock::new(BLOCK_MARK, 0, &mark.encode())).map(drop)
    }

    fn write_snapshot(&mut self, at: Timestamp) -> io::Result<()> {
        self.write_mark(What::Snapshot, at)?;
        let snapshot = std::mem::take(&mut self.snapshot);
        let result = snapshot.records().try_for_each(|r| self.write_record(r, true).map(drop));
        self.snapshot = snapshot;
        if let Some(file) = &mut self.file {
            file.snapshot_at = at;
            file.bytes_at_snapshot = file.bytes;
        }
        result
    }

    fn write_names(&mut self, all: bool) -> io::Result<()> {
        let names = self.decoration.names(all);
        for records in names.chunks(NAMES_PER_BLOCK) {
            let records = records.to_vec();
            self.block(NameResolutionBlock { records, options: Vec::new() })?;
        }
        Ok(())
    }

    fn write_record(&mut self, record: &Record, snapshot: bool) -> io::Result<usize> {
        let bytes = encoding::encode(record, snapshot, &record.body);
        if bytes.len() + 16 > BLOCK_MAX {
            // No source makes such a record; the reader would refuse the whole file.
            return Err(io::Error::other(format!("record {} is too long", record.number)));
        }
        self.block(UnknownBlock::new(BLOCK_RECORD, 0, &bytes))
    }

    fn write_packet(&mut self, record: &Record, original: u32) -> io::Result<usize> {
        let (front, packet) = record.body.split_at(FRONT);
        let outbound = front.first() == Some(&DIRECTION_OUT);
        let comment = self.decoration.comment(record);
        let stored = unknown(OPTION_RECORD, encoding::encode(record, false, front));
        self.packet_block(record, packet, original, outbound, stored, comment)
    }

    /// A packet for other readers beside a record that is not one.
    fn write_shown(&mut self, record: &Record, shown: Shown) -> io::Result<usize> {
        let mut comment = self.decoration.comment(record);
        if !comment.is_empty() {
            comment.push_str("; ");
        }
        comment.push_str(shown.note);
        let of = unknown(OPTION_SHOWN, record.number.to_le_bytes().to_vec());
        self.packet_block(record, &shown.bytes, shown.original, shown.outbound, of, comment)
    }

    fn packet_block(
        &mut self,
        record: &Record,
        packet: &[u8],
        original: u32,
        outbound: bool,
        ours: CommonOption<'static>,
        comment: String,
    ) -> io::Result<usize> {
        let interface_id = self.interface(record)?;
        let mut options = vec![
            EnhancedPacketOption::Common(ours),
            EnhancedPacketOption::Flags(if outbound { OUTBOUND } else { INBOUND }),
        ];
        if !comment.is_empty() {
            let comment = CommonOption::Comment(Cow::Owned(comment));
            options.push(EnhancedPacketOption::Common(comment));
        }
        self.block(EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(record.at.0),
            original_len: original,
            data: Cow::Borrowed(packet),
            options,
        })
    }

    fn interface(&mut self, record: &Record) -> io::Result<u32> {
        let wanted = self.decoration.interface(record);
        let Some(file) = &mut self.file else { return Ok(0) };
        if let Some(id) = file.interfaces.get(&wanted) {
            return Ok(*id);
        }
        let interface = decoration::within_cap(wanted, file.interfaces.len());
        if let Some(id) = file.interfaces.get(&interface) {
            return Ok(*id);
        }
        let id = file.interfaces.len() as u32;
        file.interfaces.insert(interface.clone(), id);
        self.block(InterfaceDescriptionBlock {
            linktype: DataLink::RAW,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(interface.name)),
                InterfaceDescriptionOption::IfDescription(Cow::Owned(interface.key)),
                InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
            ],
        })?;
        Ok(id)
    }

    fn block<'a>(&mut self, block: impl PcapNgBlock<'a>) -> io::Result<usize> {
        let Some(file) = &mut self.file else { return Ok(0) };
        let block: Block<'a> = block.into_block();
        file.blocks.write_block(&block).map_err(failed)
    }
}

/// The packet's original length, where `record` is one that a packet block can hold in whole.
fn packet_end(record: &Record) -> Option<u32> {
    if !matches!(record.kind, RecordKind::Packet | RecordKind::Wire) {
        return None;
    }
    let (front, packet) = record.body.split_at_checked(FRONT)?;
    let number = |at: usize| {
        let bytes = front.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let (original, captured) =
        (number(offset_of!(Packet, original))?, number(offset_of!(Packet, captured))?);
    let version = packet.first()? >> 4;
    let whole = captured as usize == packet.len() && original >= captured;
    let short = packet.len() <= usize::from(u16::MAX) && matches!(version, 4 | 6);
    (whole && short).then_some(original)
}

fn unknown(code: u16, value: Vec<u8>) -> CommonOption<'static> {
    CommonOption::Unknown(UnknownOption { code, value: Cow::Owned(value) })
}

fn failed(error: PcapNgWriteError) -> io::Error {
    match error {
        PcapNgWriteError::Io(error) => error,
        other => io::Error::other(other),
    }
}

/// Counts what reaches the volume.
struct Counted {
    volume: Box<dyn Volume>,
    written: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.volume.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.volume.flush()
    }
}

enum Output {
    Plain(BufWriter<Counted>),
    Zstd(Box<zstd::Encoder<'static, BufWriter<Counted>>>),
}

impl Output {
    fn new(volume: Box<dyn Volume>, compress: bool) -> io::Result<Self> {
        let writer = BufWriter::new(Counted { volume, written: 0 });
        if !compress {
            return Ok(Self::Plain(writer));
        }
        let mut encoder = zstd::Encoder::new(writer, LEVEL)?;
        encoder.include_checksum(true)?;
        Ok(Self::Zstd(Box::new(encoder)))
    }

    /// Bytes that have left, about.
    fn written(&self) -> u64 {
        let buffer = match self {
            Self::Plain(writer) => writer,
            Self::Zstd(encoder) => encoder.get_ref(),
        };
        buffer.get_ref().written + buffer.buffer().len() as u64
    }

    fn finish(self) -> io::Result<Box<dyn Volume>> {
        let mut writer = match self {
            Self::Plain(writer) => writer,
            Self::Zstd(encoder) => encoder.finish()?,
        };
        writer.flush()?;
        let counted = writer.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(counted.volume)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(writer) => writer.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(writer) => writer.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}
