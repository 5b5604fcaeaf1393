//! scap's outer framing: gzip or raw bytes to blocks, with the offset of each. Knows no block's
//! content but what its length may be.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use crate::source::{CaptureError, CaptureErrorKind};

const CHUNK: usize = 256 * 1024;
/// Type and length in front, length again behind.
const HEADER: usize = 8;
const FRAME: usize = 12;
/// No writer makes larger events, but in blocks made for that.
const EVENT_MAX: usize = 64 * 1024;
/// Process lists and large events.
const BLOCK_MAX: usize = 64 * 1024 * 1024;
/// What a writer's wrong length of an interface list can be short by.
const INTERFACES_SHORT_MAX: usize = 64 * 1024;

/// Block types by number; aliases of the first years included.
pub(super) mod kind {
    pub(in super::super) const SECTION: u32 = 0x0A0D_0D0A;
    pub(in super::super) const MACHINE: u32 = 0x201;
    pub(in super::super) const MACHINE_OLD: u32 = 0x8002_ABCD;
    pub(in super::super) const INTERFACES_V2: u32 = 0x219;
    pub(in super::super) const FDS: u32 = 0x203;
    pub(in super::super) const FDS_OLD: u32 = 0x8001_ABCD;
    pub(in super::super) const FDS_V2: u32 = 0x218;
    pub(in super::super) const EVENT: u32 = 0x204;
    pub(in super::super) const EVENT_OLD: u32 = 0x8010_ABCD;
    pub(in super::super) const EVENT_FLAGS: u32 = 0x208;
    pub(in super::super) const EVENT_V2: u32 = 0x216;
    pub(in super::super) const EVENT_V2_FLAGS: u32 = 0x217;
    pub(in super::super) const EVENT_LARGE: u32 = 0x221;
    pub(in super::super) const EVENT_LARGE_FLAGS: u32 = 0x222;
}

/// An event of any version.
pub(super) fn is_event(block: u32) -> bool {
    matches!(
        block,
        kind::EVENT
            | kind::EVENT_OLD
            | kind::EVENT_FLAGS
            | kind::EVENT_V2
            | kind::EVENT_V2_FLAGS
            | kind::EVENT_LARGE
            | kind::EVENT_LARGE_FLAGS
    )
}

/// Numbers that writers use or may come to use.
fn is_plausible(block: u32) -> bool {
    matches!(block, 0x200..=0x2ff | kind::SECTION) || block & 0xFFE0_FFFF == 0x8000_ABCD
}

/// One block.
pub(super) struct Block<'a> {
    /// Where it begins in the decompressed input.
    pub(super) offset: u64,
    pub(super) kind: u32,
    /// What is between the two lengths, padding included.
    pub(super) body: &'a [u8],
}

/// Reads blocks; memory is one chunk, or the largest block.
pub(super) struct Blocks {
    input: Box<dyn Read + Send>,
    buffer: Vec<u8>,
    start: usize,
    /// Offset of `buffer[0]`.
    base: u64,
    /// Events were seen: blocks of a type nobody knows stand only among the metadata before them.
    events: bool,
    /// Reading came to an end: well, or with this error.
    ended: Option<Option<io::Error>>,
}

impl Blocks {
    /// Looks at the first bytes to tell gzip from raw.
    pub(super) fn new(mut input: Box<dyn Read + Send>) -> Result<Self, CaptureError> {
        let mut magic = Vec::with_capacity(2);
        input
            .by_ref()
            .take(2)
            .read_to_end(&mut magic)
            .map_err(|e| CaptureError::new(0, e.into()))?;
        let zipped = magic == [0x1f, 0x8b];
        let whole = io::Cursor::new(magic).chain(input);
        let input: Box<dyn Read + Send> = if zipped {
            Box::new(MultiGzDecoder::new(BufReader::with_capacity(CHUNK / 4, whole)))
        } else {
            Box::new(whole)
        };
        Ok(Self { input, buffer: Vec::new(), start: 0, base: 0, events: false, ended: None })
    }

    /// The next block; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Block<'_>>, CaptureError> {
        let offset = self.offset();
        if !self.fill(HEADER) {
            return if self.rest().is_empty() { self.end() } else { Err(self.failed()) };
        }
        let (block, told) = (u32_at(self.rest(), 0), u32_at(self.rest(), 4) as usize);
        let max = match block {
            kind::EVENT_LARGE | kind::EVENT_LARGE_FLAGS => BLOCK_MAX,
            _ if is_event(block) => EVENT_MAX,
            _ => BLOCK_MAX,
        };
        self.events |= is_event(block);
        if self.events && !is_plausible(block) {
            return Err(CaptureError::damaged(offset, format!("no block has type {block:#x}")));
        }
        if told < FRAME || told > max {
            let what = format!("a block of type {block:#x} cannot be {told} bytes long");
            return Err(CaptureError::damaged(offset, what));
        }
        if !self.fill(told) {
            return Err(self.failed());
        }
        let mut len = told;
        if u32_at(self.rest(), told - 4) as usize != told {
            if block == kind::INTERFACES_V2 {
                len = self.short_interfaces(told, offset)?;
            } else if !is_event(block) {
                let what = format!("the two lengths of a block of type {block:#x} differ");
                return Err(CaptureError::damaged(offset, what));
            } // sysdig itself never looks at an event's second length
        }
        let at = self.start;
        self.start += len;
        let body = self.buffer.get(at + HEADER..at + len - 4).unwrap_or_default();
        Ok(Some(Block { offset, kind: block, body }))
    }

    /// Offset of what comes next.
    pub(super) fn offset(&self) -> u64 {
        self.base + self.start as u64
    }

    /// A writer (0.29) told four bytes too few for each entry: the true end is where the length
    /// stands again.
    fn short_interfaces(&mut self, told: usize, offset: u64) -> Result<usize, CaptureError> {
        for more in (4..INTERFACES_SHORT_MAX).step_by(4) {
            if !self.fill(told + more) {
                break;
            }
            if u32_at(self.rest(), told + more - 4) as usize == told {
                return Ok(told + more);
            }
        }
        Err(CaptureError::damaged(offset, "the interface list has no end"))
    }

    fn rest(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// At least `count` bytes are there.
    fn fill(&mut self, count: usize) -> bool {
        while self.buffer.len() - self.start < count {
            if self.ended.is_some() {
                return false;
            }
            if self.start > 0 {
                self.buffer.drain(..self.start);
                self.base += self.start as u64;
                self.start = 0;
            }
            let len = self.buffer.len();
            self.buffer.resize(len + CHUNK.max(count.min(4 * CHUNK)), 0);
            let got = match self.input.read(self.buffer.get_mut(len..).unwrap_or_default()) {
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.buffer.truncate(len);
                    continue;
                }
                Err(error) => {
                    self.ended = Some(Some(error));
                    0
                }
            };
            self.buffer.truncate(len + got);
            if got == 0 && self.ended.is_none() {
                self.ended = Some(None);
            }
        }
        true
    }

    /// Nothing is left: the end, unless reading failed.
    fn end<'a>(&mut self) -> Result<Option<Block<'a>>, CaptureError> {
        match self.ended {
            Some(Some(_)) => Err(self.failed()),
            _ => Ok(None),
        }
    }

    /// Why there is no more: the failure of reading, else the input is shorter than it should be.
    fn failed(&mut self) -> CaptureError {
        let offset = self.offset();
        let kind = match self.ended.replace(None) {
            Some(Some(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                CaptureErrorKind::TailMissing
            }
            Some(Some(error))
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
                ) =>
            {
                CaptureErrorKind::Damaged(format!("gzip: {error}"))
            }
            Some(Some(error)) => CaptureErrorKind::Io(error),
            _ => CaptureErrorKind::TailMissing,
        };
        CaptureError::new(offset, kind)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes.get(at..at + 4).and_then(|field| field.try_into().ok());
    u32::from_le_bytes(field.unwrap_or_default())
}
