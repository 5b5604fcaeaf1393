//! svctrace's own capture format: pcapng that any reader opens, with everything else in blocks and
//! options of the local-use range. Documented in docs/capture-format.md; opens no file itself.

mod decoration;
mod encoding;
pub mod info;
mod reader;
mod shown;
mod snapshot;
mod writer;

pub use reader::{Item, Reader, Skipped, Stored};
pub use writer::{Options, Volume, Writer};

use crate::record::Timestamp;
use encoding::{Fields, Put as _};

/// Version of the format. A reader refuses a higher major version and reads any minor one.
pub const MAJOR: u16 = 1;
/// Version of what was only added.
pub const MINOR: u16 = 1;
/// First bytes of the section option.
pub const MAGIC: &[u8; 8] = b"svctrace";
/// Option of the section header, the first one there: [`Section`].
pub const OPTION_SECTION: u16 = 0x9353;
/// Option of a packet block: a record without its packet.
pub const OPTION_RECORD: u16 = 0x9354;
/// Option of a packet block that is decoration: made for other readers beside the record whose
/// number it holds.
pub const OPTION_SHOWN: u16 = 0x9355;
/// Block: one record.
pub const BLOCK_RECORD: u32 = 0x9353_0001;
/// Block: a [`Mark`].
pub const BLOCK_MARK: u32 = 0x9353_0002;
/// No block is longer, in bytes.
pub const BLOCK_MAX: usize = 16 << 20;

/// What the section header says about the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// [`MAJOR`] of the writer.
    pub major: u16,
    /// [`MINOR`] of the writer.
    pub minor: u16,
    /// Version of the kernel bodies (`tracer_common`'s `WIRE_VERSION`).
    pub wire: u16,
    /// Time of the recording's first record: the same in all files of a ring.
    pub recording: u64,
    /// Place of this file in the recording, from 0.
    pub index: u32,
}

impl Section {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.put_u16(self.major);
        bytes.put_u16(self.minor);
        bytes.put_u16(self.wire);
        bytes.put_u16(0);
        bytes.put_u64(self.recording);
        bytes.put_u32(self.index);
        bytes.put_u32(0);
        bytes
    }

    /// From the option's value; `None` when it is not ours.
    pub(crate) fn decode(value: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(value.strip_prefix(MAGIC)?);
        let (major, minor, wire) = (fields.u16()?, fields.u16()?, fields.u16()?);
        fields.u16()?;
        Some(Self { major, minor, wire, recording: fields.u64()?, index: fields.u32()? })
    }

    /// From the first bytes of a little-endian pcapng file, where ours has this as first option.
    pub fn at_start_of(bytes: &[u8]) -> Option<Self> {
        const OPTIONS: usize = 24; // type, length, byte order, version, section length
        let mut fields = Fields::new(bytes.get(OPTIONS..)?);
        let (code, len) = (fields.u16()?, fields.u16()?);
        (code == OPTION_SECTION).then_some(())?;
        Self::decode(bytes.get(OPTIONS + 4..OPTIONS + 4 + usize::from(len))?)
    }
}

/// A note of the writer between records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Which.
    pub what: What,
    /// When, by record time.
    pub at: Timestamp,
    /// Number of the last record before it that is not part of a snapshot; 0: none.
    pub last_number: u64,
    /// Snapshot: how many records it has.
    pub count: u32,
    /// Snapshot: facts that are missing in it because there were too many.
    pub missing: u64,
}

/// What a [`Mark`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Records that repeat what is known follow.
    Snapshot,
    /// The recording ends here, as it should.
    End,
    /// The recording goes on in the next file.
    Continues,
    /// Something of a later version.
    Other(u16),
}

impl Mark {
    fn encode(&self) -> Vec<u8> {
        let what = match self.what {
            What::Snapshot => 1,
            What::End => 2,
            What::Continues => 3,
            What::Other(number) => number,
        };
        let mut bytes = Vec::with_capacity(32);
        bytes.put_u16(what);
        bytes.put_u16(0);
        bytes.put_u32(self.count);
        bytes.put_u64(self.at.0);
        bytes.put_u64(self.last_number);
        bytes.put_u64(self.missing);
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let what = match fields.u16()? {
            1 => What::Snapshot,
            2 => What::End,
            3 => What::Continues,
            number => What::Other(number),
        };
        fields.u16()?;
        Some(Self {
            what,
            count: fields.u32()?,
            at: Timestamp(fields.u64()?),
            last_number: fields.u64()?,
            missing: fields.u64()?,
        })
    }
}
