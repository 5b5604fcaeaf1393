//! Kernel bytes to records: checks the header, turns boot times into Unix times, escapes names.
//! Leaves what a body means to `decode`.

use std::fmt::Write as _;
use std::mem::{offset_of, size_of};

use bytes::Bytes;
use tracer_common::bodies::Syscall;
use tracer_common::limits::COMM_LEN;
use tracer_common::record::{FLAG_CUT, RecordHeader, WIRE_VERSION};

use crate::record::{Record, RecordKind, Task, Timestamp};

/// Why kernel bytes are no record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// Fewer bytes than the header (or than it says).
    #[error("{0} bytes are too few")]
    Short(usize),
    /// Written by probes of another version.
    #[error("wire version {0}")]
    Version(u8),
    /// A kind this version does not know.
    #[error("record kind {0:#x}")]
    Kind(u16),
}

/// A record without number and with its time still in `CLOCK_BOOTTIME` nanoseconds.
pub(super) fn record(raw: &[u8]) -> Result<Record, Unreadable> {
    let header = raw.get(..size_of::<RecordHeader>()).ok_or(Unreadable::Short(raw.len()))?;
    let version = header[offset_of!(RecordHeader, version)];
    if version != WIRE_VERSION {
        return Err(Unreadable::Version(version));
    }
    let len = u32_at(header, offset_of!(RecordHeader, len)) as usize;
    let body = raw.get(size_of::<RecordHeader>()..len).ok_or(Unreadable::Short(raw.len()))?;
    let number = u16_at(header, offset_of!(RecordHeader, kind));
    let kind = RecordKind::from_number(number).filter(|kind| !kind.is_context());
    let comm = &header[offset_of!(RecordHeader, comm)..][..COMM_LEN];
    let pid = u32_at(header, offset_of!(RecordHeader, tgid));
    Ok(Record {
        number: 0,
        at: Timestamp(u64_at(header, offset_of!(RecordHeader, boot_ns))),
        kind: kind.ok_or(Unreadable::Kind(number))?,
        cpu: Some(u32_at(header, offset_of!(RecordHeader, cpu))),
        probe: Some(u16_at(header, offset_of!(RecordHeader, probe))),
        cut: header[offset_of!(RecordHeader, flags)] & FLAG_CUT != 0,
        task: (pid != 0).then(|| Task {
            pid,
            tid: u32_at(header, offset_of!(RecordHeader, tid)),
            comm: escape(until_nul(comm)),
        }),
        cgroup: known(u64_at(header, offset_of!(RecordHeader, cgroup_id))),
        cookie: known(u64_at(header, offset_of!(RecordHeader, cookie))),
        body: Bytes::copy_from_slice(body),
    })
}

/// Moves all times of `record` from the boot clock to Unix time.
pub(super) fn to_unix(record: &mut Record, offset_ns: i64) {
    record.at = Timestamp(record.at.0.saturating_add_signed(offset_ns));
    if record.kind != RecordKind::Syscall {
        return;
    }
    const ENTER: usize = offset_of!(Syscall, enter_boot_ns);
    let mut body = std::mem::take(&mut record.body).to_vec();
    if body.len() >= ENTER + 8 {
        let unix = u64_at(&body, ENTER).saturating_add_signed(offset_ns);
        body[ENTER..ENTER + 8].copy_from_slice(&unix.to_ne_bytes());
    }
    record.body = body.into();
}

/// Printable text of bytes from outside; control characters, invisible direction marks and invalid
/// UTF-8 become `\xNN`.
pub(super) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let hex = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            let _ = write!(text, "\\x{byte:02x}");
        }
    };
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            if char.is_control() || invisible(char) {
                hex(&mut text, char.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(char);
            }
        }
        hex(&mut text, chunk.invalid());
    }
    text
}

/// Characters that change how the text around them is shown.
fn invisible(char: char) -> bool {
    matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn known(value: u64) -> Option<u64> {
    (value != 0).then_some(value)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|slice| slice.try_into().ok()).unwrap_or([0; N])
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(array(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(array(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer_common::record::{kind, probe};

    fn raw(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![WIRE_VERSION, 0];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((64 + body.len() as u32).to_ne_bytes());
        bytes.extend(1_000_u64.to_ne_bytes());
        bytes.extend(77_u64.to_ne_bytes());
        bytes.extend(0_u64.to_ne_bytes());
        bytes.extend(5_u32.to_ne_bytes());
        bytes.extend(6_u32.to_ne_bytes());
        bytes.extend(1_u32.to_ne_bytes());
        bytes.extend(probe::SYS_CONNECT.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(*b"a\x1bb\xff\0\0\0\0\0\0\0\0\0\0\0\0");
        bytes.extend(body);
        bytes
    }

    #[test]
    fn header_becomes_record() {
        let mut slot = raw(kind::EXIT, &[]);
        slot.extend([9; 24]); // the ring slot may be larger than the record
        let record = record(&slot).unwrap();
        assert_eq!(record.kind, RecordKind::Exit);
        assert_eq!((record.cgroup, record.cookie), (Some(77), None));
        let task = record.task.unwrap();
        assert_eq!((task.pid, task.tid, task.comm.as_str()), (5, 6, "a\\x1bb\\xff"));
        assert!(record.body.is_empty());
    }

    #[test]
    fn entry_time_moves_with_the_record() {
        let mut body = [0; size_of::<Syscall>()];
        body[16..24].copy_from_slice(&900_u64.to_ne_bytes());
        let mut record = record(&raw(kind::SYSCALL, &body)).unwrap();
        to_unix(&mut record, 50);
        assert_eq!(record.at, Timestamp(1_050));
        assert_eq!(u64_at(&record.body, 16), 950);
    }

    #[test]
    fn damaged_bytes_are_refused() {
        let good = raw(kind::EXIT, &[]);
        for len in 0..good.len() {
            assert!(record(&good[..len]).is_err());
        }
        assert_eq!(record(&raw(0x7777, &[])), Err(Unreadable::Kind(0x7777)));
        assert_eq!(record(&raw(0x8001, &[])), Err(Unreadable::Kind(0x8001)));
        let mut lying = good;
        lying[4..8].copy_from_slice(&3_u32.to_ne_bytes());
        assert!(record(&lying).is_err());
    }
}
