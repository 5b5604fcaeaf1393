//! The container: classic pcap (both byte orders, microseconds and nanoseconds) and pcapng, read as a
//! stream with bounded memory. Knows nothing of what is inside a packet.

use std::io::Read;
use std::ops::Range;

use pcap_file::pcap::{PcapParseError, PcapParser, PcapTsResolution};
use pcap_file::pcapng::blocks::block_common::{
    ENHANCED_PACKET_BLOCK, INTERFACE_DESCRIPTION_BLOCK, PACKET_BLOCK, SECTION_HEADER_BLOCK,
    SIMPLE_PACKET_BLOCK,
};
use pcap_file::pcapng::{Block, PcapNgParseError, PcapNgParser};

use crate::record::Timestamp;
use crate::source::{CaptureError, CaptureErrorKind};

/// A longer packet or block is damage, not data.
const BLOCK_MAX: usize = 16 << 20;
/// Bytes read at once.
const CHUNK: usize = 64 << 10;
/// Interfaces of one section, and bytes of their descriptions.
const INTERFACES_MAX: usize = 4096;
const DESCRIPTIONS_MAX: usize = 4 << 20;

/// One captured packet, from its link header on.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    /// Number in the file, from 1, as Wireshark counts.
    pub(super) number: u64,
    /// `None` in a pcapng Simple Packet Block, which has no time.
    pub(super) at: Option<Timestamp>,
    /// `LINKTYPE_*`.
    pub(super) link: u32,
    pub(super) bytes: &'a [u8],
    /// Bytes on the wire.
    pub(super) original: u32,
}

/// What the next block was.
enum Step {
    /// A packet: its place in the buffer and facts.
    Packet { bytes: Range<usize>, at: Option<Timestamp>, link: u32, original: u32 },
    /// A block whose frame is whole but whose content makes no sense.
    Strange,
    /// Nothing for us.
    Other,
}

enum Format {
    Classic { parser: PcapParser, link: u32 },
    Next { parser: Box<PcapNgParser>, descriptions: usize },
}

/// The bytes not parsed yet.
struct Input {
    reader: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Place of `start` in the file.
    offset: u64,
}

/// A capture file being read.
pub(super) struct File {
    input: Input,
    format: Format,
    packets: u64,
    /// Blocks that made no sense since the last call of [`strange`](Self::strange).
    strange: u64,
}

enum Parsed<T> {
    /// So many bytes used.
    Done(usize, T),
    /// At least so many bytes belong to it.
    More(usize),
    Bad(String),
}

impl Input {
    fn rest(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    fn error(&self, kind: CaptureErrorKind) -> CaptureError {
        CaptureError::new(self.offset, kind)
    }

    /// Reads on; false at the end of the input.
    fn fill(&mut self) -> Result<bool, CaptureError> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let room = (self.end + CHUNK).min(BLOCK_MAX + CHUNK);
        if self.buffer.len() < room {
            self.buffer.resize(room, 0);
        }
        let free = self.buffer.get_mut(self.end..).unwrap_or_default();
        loop {
            match self.reader.read(free) {
                Ok(read) => {
                    self.end += read;
                    return Ok(read > 0);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(CaptureError::new(self.offset, error.into())),
            }
        }
    }

    /// Parses at `start`, with more and more bytes; `None` at a clean end.
    fn parse<T>(
        &mut self,
        mut parse: impl FnMut(&[u8]) -> Parsed<T>,
    ) -> Result<Option<T>, CaptureError> {
        loop {
            if self.start < self.end {
                match parse(self.rest()) {
                    Parsed::Done(used, value) => {
                        self.start += used;
                        self.offset += used as u64;
                        return Ok(Some(value));
                    }
                    Parsed::More(want) if want > BLOCK_MAX => {
                        let what = format!("a packet or block claims {want} bytes");
                        return Err(CaptureError::damaged(self.offset, what));
                    }
                    Parsed::More(_) => {}
                    Parsed::Bad(what) => return Err(CaptureError::damaged(self.offset, what)),
                }
            }
            if !self.fill()? {
                return match self.start == self.end {
                    true => Ok(None),
                    false => Err(self.error(CaptureErrorKind::TailMissing)),
                };
            }
        }
    }
}

impl File {
    /// Reads the file's own header.
    pub(super) fn open(reader: Box<dyn Read + Send>) -> Result<Self, CaptureError> {
        let mut input = Input { reader, buffer: Vec::new(), start: 0, end: 0, offset: 0 };
        while input.end < 4 && input.fill()? {}
        let format = match input.rest().first_chunk() {
            Some([0x0a, 0x0d, 0x0d, 0x0a]) => next(&mut input)?,
            Some(_) => classic(&mut input)?,
            None if input.end == 0 => {
                let what = "the capture is empty".to_owned();
                return Err(input.error(CaptureErrorKind::Unsupported(what)));
            }
            None => return Err(input.error(CaptureErrorKind::TailMissing)),
        };
        Ok(Self { input, format, packets: 0, strange: 0 })
    }

    /// The next packet; `None` at the end. After an error nothing more can be read.
    pub(super) fn next(&mut self) -> Result<Option<Frame<'_>>, CaptureError> {
        loop {
            let step = match &mut self.format {
                Format::Classic { parser, link } => {
                    let link = *link;
                    self.input.parse(|bytes| classic_packet(parser, link, bytes))?
                }
                Format::Next { parser, descriptions } => {
                    self.input.parse(|bytes| block(parser, descriptions, bytes))?
                }
            };
            match step {
                None => return Ok(None),
                Some(Step::Other) => {}
                Some(Step::Strange) => {
                    self.packets += 1;
                    self.strange += 1;
                }
                Some(Step::Packet { bytes, at, link, original }) => {
                    self.packets += 1;
                    // `start` has moved behind the block; the range counts from the block's end.
                    let range = self.input.start - bytes.end..self.input.start - bytes.start;
                    let bytes = self.input.buffer.get(range).unwrap_or_default();
                    return Ok(Some(Frame { number: self.packets, at, link, bytes, original }));
                }
            }
        }
    }

    /// Packet blocks without sense since the last call.
    pub(super) fn strange(&mut self) -> u64 {
        std::mem::take(&mut self.strange)
    }
}

fn classic(input: &mut Input) -> Result<Format, CaptureError> {
    let parser = input.parse(|bytes| match PcapParser::new(bytes) {
        Ok((rest, parser)) => Parsed::Done(bytes.len() - rest.len(), parser),
        Err(PcapParseError::IncompleteBuffer(want, _)) => Parsed::More(want),
        Err(error) => Parsed::Bad(error.to_string()),
    });
    let Some(parser) = parser? else { return Err(input.error(CaptureErrorKind::TailMissing)) };
    // The upper bits say how long a frame check sequence is.
    let link = u32::from(parser.header().datalink) & 0xffff;
    Ok(Format::Classic { parser, link })
}

fn classic_packet(parser: &PcapParser, link: u32, bytes: &[u8]) -> Parsed<Step> {
    let (rest, packet) = match parser.next_raw_packet(bytes) {
        Ok(parsed) => parsed,
        Err(PcapParseError::IncompleteBuffer(want, _)) => return Parsed::More(want),
        Err(error) => return Parsed::Bad(error.to_string()),
    };
    let unit = match parser.header().ts_resolution {
        PcapTsResolution::MicroSecond => 1000,
        PcapTsResolution::NanoSecond => 1,
    };
    let part = u64::from(packet.ts_frac) * unit;
    if part >= 1_000_000_000 {
        return Parsed::Bad(format!("a packet's time has {part} ns beside the seconds"));
    }
    let at = Timestamp(u64::from(packet.ts_sec) * 1_000_000_000 + part);
    let step = Step::Packet {
        bytes: 0..packet.data.len(),
        at: Some(at),
        link,
        original: packet.orig_len.max(packet.incl_len),
    };
    Parsed::Done(bytes.len() - rest.len(), step)
}

fn next(input: &mut Input) -> Result<Format, CaptureError> {
    let parser = input.parse(|bytes| match PcapNgParser::new(bytes) {
        Ok((rest, parser)) => Parsed::Done(bytes.len() - rest.len(), parser),
        Err(PcapNgParseError::IncompleteBuffer(want, _)) => Parsed::More(want),
        Err(error) => Parsed::Bad(error.to_string()),
    });
    let Some(parser) = parser? else { return Err(input.error(CaptureErrorKind::TailMissing)) };
    Ok(Format::Next { parser: Box::new(parser), descriptions: 0 })
}

fn block(parser: &mut PcapNgParser, descriptions: &mut usize, bytes: &[u8]) -> Parsed<Step> {
    // An error in a section header or interface description ends it all: without them the numbers
    // of interfaces, or the byte order, mean nothing.
    let (rest, raw) = match parser.next_raw_block(bytes) {
        Ok(parsed) => parsed,
        Err(PcapNgParseError::IncompleteBuffer(want, _)) => return Parsed::More(want),
        Err(error) => return Parsed::Bad(error.to_string()),
    };
    let (used, kind) = (bytes.len() - rest.len(), raw.type_);
    match kind {
        SECTION_HEADER_BLOCK => *descriptions = 0,
        INTERFACE_DESCRIPTION_BLOCK => {
            *descriptions += used;
            if parser.interfaces().len() > INTERFACES_MAX || *descriptions > DESCRIPTIONS_MAX {
                return Parsed::Bad("too many interfaces".to_owned());
            }
        }
        ENHANCED_PACKET_BLOCK | PACKET_BLOCK | SIMPLE_PACKET_BLOCK => {
            let step = raw.try_into_block(parser.state()).ok();
            let step = step.and_then(|block| packet(parser, &block, kind, used));
            return Parsed::Done(used, step.unwrap_or(Step::Strange));
        }
        _ => {}
    }
    Parsed::Done(used, Step::Other)
}

fn packet(parser: &PcapNgParser, block: &Block<'_>, kind: u32, used: usize) -> Option<Step> {
    let (interface, at, original, data) = match block {
        Block::EnhancedPacket(p) => {
            (p.interface_id, Some(p.timestamp), p.original_len, p.data.len())
        }
        Block::Packet(p) => {
            (p.interface_id.into(), Some(p.timestamp), p.original_len, p.data.len())
        }
        Block::SimplePacket(p) => (0, None, p.original_len, p.data.len()),
        _ => return None,
    };
    let interface = parser.interfaces().get(usize::try_from(interface).ok()?)?;
    let at = match at {
        Some(at) => Some(Timestamp(u64::try_from(at.as_nanos()).ok()?)),
        None => None,
    };
    // Type and length, then the block's own fixed part.
    let begin = 8 + if kind == SIMPLE_PACKET_BLOCK { 4 } else { 20 };
    Some(Step::Packet {
        bytes: used.checked_sub(begin + data)?..used.checked_sub(begin)?,
        at,
        link: u32::from(interface.linktype),
        original,
    })
}
