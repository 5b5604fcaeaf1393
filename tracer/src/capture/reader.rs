//! Capture files to records, marks and sections, block by block in bounded memory. What it does not
//! know it skips and counts; the first damage ends it.

use std::io::{self, Read};

use pcap_file::Endianness;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::blocks::{
    ENHANCED_PACKET_BLOCK, INTERFACE_DESCRIPTION_BLOCK, NAME_RESOLUTION_BLOCK, SECTION_HEADER_BLOCK,
};
use pcap_file::pcapng::{Block, PcapNgReadError, PcapNgReader, PcapNgState, RawBlock};
use tracer_common::record::WIRE_VERSION;

use super::encoding::{self, Decoded};
use super::{
    BLOCK_MARK, BLOCK_MAX, BLOCK_RECORD, MAJOR, Mark, OPTION_RECORD, OPTION_SECTION, OPTION_SHOWN,
    Section, What,
};
use crate::capture_error::{CaptureError, CaptureErrorKind};
use crate::record::Record;

/// Most bytes of one read, so that a large buffer is not touched for a small file.
const CHUNK: usize = 256 << 10;
/// More interfaces than any writer makes, and bytes of their descriptions, which stay in memory.
const INTERFACES_MAX: u32 = 1 << 16;
const DESCRIPTIONS_MAX: usize = 16 << 20;

/// A record as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    /// The record.
    pub record: Record,
    /// It repeats a fact for readers that begin here.
    pub snapshot: bool,
}

/// What a capture is made of.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A section begins: what follows belongs to this recording.
    Section(Section),
    /// A record.
    Record(Stored),
    /// A note of the writer.
    Mark(Mark),
}

/// What was there but could not be used by this version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Blocks of unknown types, and packets that are not ours.
    pub blocks: u64,
    /// Records of unknown kinds or with unknown meaning.
    pub records: u64,
}

/// Reads one capture.
pub struct Reader<R: Read> {
    blocks: PcapNgReader<Source<R>>,
    first: Option<Section>,
    interfaces: u32,
    descriptions: usize,
    whole: bool,
    over: bool,
    skipped: Skipped,
}

impl<R: Read> Reader<R> {
    /// Reads the section header.
    pub fn new(reader: R) -> Result<Self, CaptureError> {
        let source = Source { reader, read: 0 };
        let blocks = match PcapNgReader::with_capacity(source, BLOCK_MAX) {
            Ok(blocks) => blocks,
            Err(error) => return Err(CaptureError::new(0, kind(&error, None))),
        };
        let first = section(blocks.section(), 0)?;
        Ok(Self {
            blocks,
            first: Some(first),
            interfaces: 0,
            descriptions: 0,
            whole: false,
            over: false,
            skipped: Skipped::default(),
        })
    }

    /// Bytes understood so far.
    pub fn offset(&self) -> u64 {
        self.blocks.bytes_parsed()
    }

    /// What had to be skipped so far.
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }

    fn step(&mut self) -> Option<Result<Option<Item>, CaptureError>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(Some(Item::Section(first))));
        }
        let offset = self.blocks.bytes_parsed();
        let held = self.blocks.get_ref().read - offset;
        match self.blocks.next_raw_block() {
            None if self.whole => None,
            None => Some(Err(CaptureError::new(offset, CaptureErrorKind::TailMissing))),
            Some(Err(error)) => {
                let read = self.blocks.get_ref().read - offset;
                Some(Err(CaptureError::new(offset, kind(&error, Some(read.max(held))))))
            }
            Some(Ok((block, state))) => {
                let context = &mut Context {
                    offset,
                    interfaces: &mut self.interfaces,
                    descriptions: &mut self.descriptions,
                    whole: &mut self.whole,
                    skipped: &mut self.skipped,
                };
                Some(context.item(block, state))
            }
        }
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Item, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.over {
            match self.step() {
                Some(Ok(None)) => {}
                Some(Ok(Some(item))) => return Some(Ok(item)),
                Some(Err(error)) => {
                    self.over = true;
                    return Some(Err(error));
                }
                None => self.over = true,
            }
        }
        None
    }
}

/// What understanding one block needs.
struct Context<'a> {
    offset: u64,
    interfaces: &'a mut u32,
    descriptions: &'a mut usize,
    whole: &'a mut bool,
    skipped: &'a mut Skipped,
}

impl Context<'_> {
    fn item(
        &mut self,
        block: RawBlock<'_>,
        state: &PcapNgState,
    ) -> Result<Option<Item>, CaptureError> {
        let damaged = |what: &str| CaptureError::damaged(self.offset, what);
        match block.type_ {
            SECTION_HEADER_BLOCK => {
                (*self.interfaces, *self.descriptions, *self.whole) = (0, 0, false);
                section(state.section(), self.offset).map(|section| Some(Item::Section(section)))
            }
            BLOCK_RECORD => {
                *self.whole = false;
                let decoded = encoding::decode(&block.body, &[]);
                Ok(self.record(decoded.ok_or_else(|| damaged("a record contradicts itself"))?))
            }
            ENHANCED_PACKET_BLOCK => {
                *self.whole = false;
                self.packet(block, state)
            }
            BLOCK_MARK => {
                let mark =
                    Mark::decode(&block.body).ok_or_else(|| damaged("a mark is too short"))?;
                *self.whole |= matches!(mark.what, What::End | What::Continues);
                Ok(Some(Item::Mark(mark)))
            }
            INTERFACE_DESCRIPTION_BLOCK => {
                *self.interfaces += 1;
                *self.descriptions += block.body.len();
                if *self.interfaces > INTERFACES_MAX || *self.descriptions > DESCRIPTIONS_MAX {
                    return Err(damaged("too many interfaces"));
                }
                Ok(None)
            }
            NAME_RESOLUTION_BLOCK => Ok(None),
            _ => {
                self.skipped.blocks += 1;
                Ok(None)
            }
        }
    }

    fn packet(
        &mut self,
        block: RawBlock<'_>,
        state: &PcapNgState,
    ) -> Result<Option<Item>, CaptureError> {
        let offset = self.offset;
        let block = block
            .try_into_block(state)
            .map_err(|error| CaptureError::damaged(offset, chain(&error)))?;
        let Block::EnhancedPacket(packet) = block else { return Ok(None) };
        let option = |code: u16| {
            packet.options.iter().find_map(|option| match option {
                EnhancedPacketOption::Common(CommonOption::Unknown(option))
                    if option.code == code =>
                {
                    Some(&option.value)
                }
                _ => None,
            })
        };
        let Some(stored) = option(OPTION_RECORD) else {
            // What is made for other readers only, we need not know.
            self.skipped.blocks += u64::from(option(OPTION_SHOWN).is_none());
            return Ok(None);
        };
        let decoded = encoding::decode(stored, &packet.data)
            .ok_or_else(|| CaptureError::damaged(offset, "a packet's record contradicts itself"))?;
        Ok(self.record(decoded))
    }

    fn record(&mut self, decoded: Decoded) -> Option<Item> {
        match decoded {
            Decoded::Record { record, snapshot } => Some(Item::Record(Stored { record, snapshot })),
            Decoded::Unknown(_) => {
                self.skipped.records += 1;
                None
            }
        }
    }
}

fn section(header: &SectionHeaderBlock<'_>, offset: u64) -> Result<Section, CaptureError> {
    let unsupported = |what: String| CaptureError::new(offset, CaptureErrorKind::Unsupported(what));
    let ours = header.options.iter().find_map(|option| match option {
        SectionHeaderOption::Common(CommonOption::Unknown(option))
            if option.code == OPTION_SECTION =>
        {
            Section::decode(&option.value)
        }
        _ => None,
    });
    let Some(section) = ours else {
        return Err(unsupported("this section was not recorded by svctrace".to_owned()));
    };
    if section.major > MAJOR {
        return Err(unsupported(format!(
            "this capture has format {}.{}, and this svctrace reads up to {MAJOR}; take a newer one",
            section.major, section.minor
        )));
    }
    if section.wire != u16::from(WIRE_VERSION) {
        let wire = section.wire;
        return Err(unsupported(format!("its kernel records have version {wire}")));
    }
    if header.endianness != Endianness::Little || cfg!(target_endian = "big") {
        return Err(unsupported("big-endian machines are not supported".to_owned()));
    }
    Ok(section)
}

/// `held`: bytes at hand from the block's start on.
fn kind(error: &PcapNgReadError, held: Option<u64>) -> CaptureErrorKind {
    match error {
        PcapNgReadError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            if held.is_some_and(|held| held >= BLOCK_MAX as u64) {
                return CaptureErrorKind::Damaged(format!("a block longer than {BLOCK_MAX} bytes"));
            }
            CaptureErrorKind::TailMissing
        }
        PcapNgReadError::Io(error) => {
            CaptureErrorKind::Io(io::Error::new(error.kind(), error.to_string()))
        }
        other => CaptureErrorKind::Damaged(chain(other)),
    }
}

/// An error with all its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.ends_with(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}

/// Counts what is read.
struct Source<R: Read> {
    reader: R,
    read: u64,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(CHUNK);
        loop {
            match self.reader.read(&mut buffer[..most]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(count) => {
                    self.read += count as u64;
                    return Ok(count);
                }
            }
        }
    }
}
