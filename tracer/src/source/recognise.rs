//! Which kind of capture a stream of bytes is, by its first bytes; compression around it is taken
//! off. Reads no further than it must.

use std::io::{self, BufReader, Cursor, Read};

use super::{CaptureError, CaptureErrorKind};
use crate::capture::Section;

/// Bytes that tell.
const PEEK: usize = 1024;
/// How pcapng and scap begin.
const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// Bytes of a section header without options.
const SECTION_LEN: usize = 28;
/// Compressions around one another.
const LAYERS_MAX: usize = 3;
/// Largest zstd window accepted, as a power of two: 32 MiB.
const WINDOW_LOG_MAX: u32 = 25;
const READ_BUFFER: usize = 64 << 10;

/// Kinds of captures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// svctrace's own.
    Svctrace(Section),
    /// pcapng by another tool.
    Pcapng,
    /// Classic pcap.
    Pcap,
    /// sysdig's scap.
    Scap,
    /// No bytes at all.
    Empty,
}

/// A capture whose kind is known, from its first byte.
pub struct Capture {
    /// Which.
    pub format: Format,
    /// Its bytes, without compression.
    pub reader: Box<dyn Read + Send>,
}

/// Looks at the first bytes of `reader`.
pub fn recognise(mut reader: Box<dyn Read + Send>) -> Result<Capture, CaptureError> {
    for _ in 0..=LAYERS_MAX {
        let (first, whole) = peek(reader)?;
        reader = whole;
        reader = match first.as_slice() {
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                let mut decoder = zstd::Decoder::new(reader).map_err(at_start)?;
                decoder.window_log_max(WINDOW_LOG_MAX).map_err(at_start)?;
                Box::new(decoder)
            }
            [0x1f, 0x8b, ..] => {
                let buffered = BufReader::with_capacity(READ_BUFFER, reader);
                Box::new(flate2::bufread::MultiGzDecoder::new(buffered))
            }
            first => return Ok(Capture { format: format(first)?, reader }),
        };
    }
    let what = "compressed more than three times over".to_owned();
    Err(CaptureError::new(0, CaptureErrorKind::Unsupported(what)))
}

fn format(first: &[u8]) -> Result<Format, CaptureError> {
    match first {
        [] => Ok(Format::Empty),
        first if is_cut_section(first) => Err(CaptureError::new(0, CaptureErrorKind::TailMissing)),
        [0x0a, 0x0d, 0x0d, 0x0a, _, _, _, _, 0x1a, 0x2b, 0x3c, 0x4d, ..] => {
            if followed_by_scap(first, u32::from_be_bytes) {
                let what = "scap of a big-endian machine; only little-endian ones are read";
                return Err(CaptureError::new(0, CaptureErrorKind::Unsupported(what.to_owned())));
            }
            Ok(Format::Pcapng)
        }
        [0x0a, 0x0d, 0x0d, 0x0a, _, _, _, _, 0x4d, 0x3c, 0x2b, 0x1a, ..] => {
            if let Some(section) = Section::at_start_of(first) {
                return Ok(Format::Svctrace(section));
            }
            let scap = followed_by_scap(first, u32::from_le_bytes);
            Ok(if scap { Format::Scap } else { Format::Pcapng })
        }
        [0xd4, 0xc3, 0xb2, 0xa1, ..]
        | [0xa1, 0xb2, 0xc3, 0xd4, ..]
        | [0x4d, 0x3c, 0xb2, 0xa1, ..]
        | [0xa1, 0xb2, 0x3c, 0x4d, ..] => Ok(Format::Pcap),
        _ => {
            let what = "not a capture: neither svctrace's, nor pcapng, pcap or scap".to_owned();
            Err(CaptureError::new(0, CaptureErrorKind::Unsupported(what)))
        }
    }
}

/// The input ends inside its first block.
fn is_cut_section(first: &[u8]) -> bool {
    let little = first.get(8..12) == Some(&[0x4d, 0x3c, 0x2b, 0x1a]);
    let len = number(first, 4).filter(|_| little).unwrap_or_default();
    let whole = (len as usize).clamp(SECTION_LEN, PEEK);
    first.len() < whole && first.starts_with(&SECTION[..first.len().min(SECTION.len())])
}

/// scap's section header is pcapng's; the type of the block behind it tells them apart.
fn followed_by_scap(first: &[u8], order: fn([u8; 4]) -> u32) -> bool {
    let number = |at: usize| Some(order(first.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let next = number(4).and_then(|len| number(len as usize));
    next.is_some_and(|next| matches!(next, 0x201..=0x2ff) || next & 0xff00_ffff == 0x8000_abcd)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

/// The first bytes, and a reader that gives them again.
fn peek(mut reader: Box<dyn Read + Send>) -> Result<(Vec<u8>, Box<dyn Read + Send>), CaptureError> {
    let mut first = Vec::with_capacity(PEEK);
    match reader.by_ref().take(PEEK as u64).read_to_end(&mut first) {
        Err(error) if first.is_empty() => return Err(at_start(error)),
        // What is wrong shows again, at its place, to whoever reads on.
        _ => {}
    }
    let whole = Cursor::new(first.clone()).chain(reader);
    Ok((first, Box::new(whole)))
}

fn at_start(error: io::Error) -> CaptureError {
    let kind = match error.kind() {
        io::ErrorKind::UnexpectedEof => CaptureErrorKind::TailMissing,
        _ => CaptureErrorKind::Io(error),
    };
    CaptureError::new(0, kind)
}
