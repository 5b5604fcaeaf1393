//! Kernel bytes to records: checks the header, turns boot times into Unix times, makes names visible.
//! Leaves what a body means to `decode`.

use std::ffi::OsStr;
use std::mem::offset_of;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use bytes::Bytes;
use tracer_common::bodies::{Cgroup, Data, PACKET_DNS, Packet, SYSCALL_OPEN, Syscall, call, data};
use tracer_common::limits::COMM_LEN;
use tracer_common::maps::Call;
use tracer_common::record::{FLAG_CUT, RecordHeader, WIRE_VERSION, kind as wire, probe};

use crate::context::Process;
use crate::record::{HostId, Record, RecordKind, Task, Timestamp};
use crate::text::visible_bytes;

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
    let body = match number {
        wire::PACKET => without_content(body).unwrap_or_else(|| Bytes::copy_from_slice(body)),
        _ => Bytes::copy_from_slice(body),
    };
    let kind = RecordKind::from_number(number).filter(|kind| !kind.is_context());
    let comm = &header[offset_of!(RecordHeader, comm)..][..COMM_LEN];
    let pid = u32_at(header, offset_of!(RecordHeader, tgid));
    Ok(Record {
        number: 0,
        at: Timestamp(u64_at(header, offset_of!(RecordHeader, boot_ns))),
        host: HostId::default(),
        kind: kind.ok_or(Unreadable::Kind(number))?,
        cpu: Some(u32_at(header, offset_of!(RecordHeader, cpu))),
        probe: Some(u16_at(header, offset_of!(RecordHeader, probe))),
        cut: header[offset_of!(RecordHeader, flags)] & FLAG_CUT != 0,
        task: (pid != 0).then(|| Task {
            pid,
            tid: u32_at(header, offset_of!(RecordHeader, tid)),
            comm: visible_bytes(until_nul(comm)),
        }),
        cgroup: known(u64_at(header, offset_of!(RecordHeader, cgroup_id))),
        cookie: known(u64_at(header, offset_of!(RecordHeader, cookie))),
        body,
    })
}

/// The packet up to the end of its TCP header, where it is no DNS and carries something: what a SYN
/// or FIN carries is nobody's business. `None`: it may stay as it is.
fn without_content(body: &[u8]) -> Option<Bytes> {
    const TCP: u8 = 6;
    const DATA_OFFSET: usize = 12;
    let (front, packet) = body.split_at_checked(size_of::<Packet>())?;
    let dns = u16_at(front, offset_of!(Packet, flags)) & PACKET_DNS != 0;
    (front.get(offset_of!(Packet, protocol)) == Some(&TCP) && !dns).then_some(())?;
    let transport = usize::from(u16_at(front, offset_of!(Packet, transport_offset)));
    let words = packet.get(transport + DATA_OFFSET)? >> 4;
    let kept = packet.get(..transport + 4 * usize::from(words))?;
    (kept.len() < packet.len()).then_some(())?;
    let mut body = [front, kept].concat();
    let captured = (kept.len() as u32).to_ne_bytes();
    body.get_mut(offset_of!(Packet, captured)..)?.get_mut(..4)?.copy_from_slice(&captured);
    Some(body.into())
}

/// Moves all times of `record` from the boot clock to Unix time.
pub(super) fn to_unix(record: &mut Record, offset_ns: i64) {
    record.at = Timestamp(record.at.0.saturating_add_signed(offset_ns));
    if record.kind != RecordKind::Syscall {
        return;
    }
    const ENTER: usize = offset_of!(Syscall, enter_boot_ns);
    let mut body = Vec::from(std::mem::take(&mut record.body));
    if body.len() >= ENTER + 8 {
        let unix = u64_at(&body, ENTER).saturating_add_signed(offset_ns);
        body[ENTER..ENTER + 8].copy_from_slice(&unix.to_ne_bytes());
    }
    record.body = body.into();
}

/// The record of a call that had not returned at `now`, as the probes would write it.
pub(super) fn open_call(pid_tgid: u64, call: &Call, comm: &[u8], now_boot_ns: u64) -> Bytes {
    let probe = probe::SYS_CONNECT + call.call.saturating_sub(call::CONNECT);
    let who = (pid_tgid, call.cgroup_id, call.cookie);
    let mut raw = header(wire::SYSCALL, probe, size_of::<Syscall>(), now_boot_ns, who, comm);
    raw.extend(call.call.to_ne_bytes());
    raw.extend(SYSCALL_OPEN.to_ne_bytes());
    raw.extend(call.fd.to_ne_bytes());
    for value in [0, call.enter_boot_ns, call.size] {
        raw.extend(value.to_ne_bytes());
    }
    raw.extend(call.peer.family.to_ne_bytes());
    raw.extend(call.peer.port.to_ne_bytes());
    raw.extend(call.peer.addr);
    raw.extend([0; 4]);
    raw.into()
}

/// The record of a command's arguments, from the second word on.
pub(super) fn arguments(process: &Process, words: &[u8], now_boot_ns: u64) -> Bytes {
    let who =
        (u64::from(process.pid) << 32 | u64::from(process.pid), process.cgroup.unwrap_or(0), 0);
    let len = size_of::<Data>() + words.len();
    let mut raw = header(wire::DATA, 0, len, now_boot_ns, who, process.comm.as_bytes());
    raw.extend([data::ARGUMENTS, 0, 0, 0]);
    raw.extend((words.len() as u32).to_ne_bytes());
    raw.extend((words.len() as u32).to_ne_bytes());
    raw.extend(words);
    raw.into()
}

/// The head of a record that user space makes: `len` bytes follow. `who`: thread group and thread,
/// cgroup, cookie.
fn header(
    kind: u16,
    probe: u16,
    len: usize,
    now_boot_ns: u64,
    who: (u64, u64, u64),
    comm: &[u8],
) -> Vec<u8> {
    let (pid_tgid, cgroup, cookie) = who;
    let mut raw = Vec::with_capacity(size_of::<RecordHeader>() + len);
    raw.extend([WIRE_VERSION, 0]);
    raw.extend(kind.to_ne_bytes());
    raw.extend(((size_of::<RecordHeader>() + len) as u32).to_ne_bytes());
    for value in [now_boot_ns, cgroup, cookie] {
        raw.extend(value.to_ne_bytes());
    }
    for value in [(pid_tgid >> 32) as u32, pid_tgid as u32, 0] {
        raw.extend(value.to_ne_bytes());
    }
    raw.extend(probe.to_ne_bytes());
    raw.extend([0; 2]);
    let mut name = [0; COMM_LEN];
    name.iter_mut().zip(comm).for_each(|(to, from)| *to = *from);
    raw.extend(name);
    raw
}

/// What a record of the small ring says to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Lifecycle {
    /// A process of a target runs a new program.
    Exec {
        /// The process.
        pid: u32,
    },
    /// A cgroup was made.
    CgroupMade {
        /// Its id.
        id: u64,
        /// Its path below its hierarchy's root.
        path: PathBuf,
    },
}

/// Understands a record of the small ring; `None` for what the agent has no use for.
pub(super) fn lifecycle(raw: &[u8]) -> Option<Lifecycle> {
    let record = record(raw).ok()?;
    match record.kind {
        RecordKind::Exec => Some(Lifecycle::Exec { pid: record.task?.pid }),
        RecordKind::CgroupMade => {
            let len = u32_at(&record.body, offset_of!(Cgroup, path_len)) as usize;
            let path = record.body.get(size_of::<Cgroup>()..)?;
            let path = until_nul(path.get(..len).unwrap_or(path));
            let id = u64_at(&record.body, offset_of!(Cgroup, id));
            Some(Lifecycle::CgroupMade { id, path: PathBuf::from(OsStr::from_bytes(path)) })
        }
        _ => None,
    }
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
    use tracer_common::record::kind;

    /// A packet of this protocol and mark, 20 bytes of each header and what it carries.
    fn packet(protocol: u8, flags: u16, content: &[u8]) -> Vec<u8> {
        let mut body = vec![1, 4, protocol, 1];
        body.extend(flags.to_ne_bytes());
        body.extend(20_u16.to_ne_bytes());
        let len = 40 + content.len() as u32;
        body.extend([len.to_ne_bytes(), len.to_ne_bytes()].concat());
        body.extend([0; 8]);
        body.extend([0x45; 20]);
        body.extend([0x50; 20]); // five words of TCP header
        body.extend(content);
        body
    }

    #[test]
    fn a_control_packet_loses_what_it_carries() {
        let body = |raw: Vec<u8>| record(&self::raw(kind::PACKET, &raw)).unwrap().body;
        let got = body(packet(6, 0, b"hunter2"));
        assert_eq!(got.len(), 24 + 40);
        assert_eq!((u32_at(&got, 8), u32_at(&got, 12)), (47, 40), "original and captured");
        for kept in [packet(6, 0, b""), packet(6, PACKET_DNS, b"dns"), packet(17, PACKET_DNS, b"d")]
        {
            assert_eq!(body(kept.clone()), kept);
        }
        let short = packet(6, 0, b"hunter2")[..50].to_vec();
        assert_eq!(body(short.clone()), short);
    }

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
    fn open_calls_read_like_the_probes_own() {
        let call =
            Call { enter_boot_ns: 5, cookie: 8, fd: 3, call: call::SENDMMSG, ..Call::default() };
        let record = record(&open_call(7 << 32 | 9, &call, b"curl", 100)).unwrap();
        assert_eq!((record.at.0, record.kind, record.cookie), (100, RecordKind::Syscall, Some(8)));
        assert_eq!(record.probe, Some(probe::SYS_SENDMMSG));
        let task = record.task.unwrap();
        assert_eq!((task.pid, task.tid, task.comm.as_str()), (7, 9, "curl"));
        assert_eq!(record.body.len(), size_of::<Syscall>());
        assert_eq!(u16_at(&record.body, 2), SYSCALL_OPEN);
        assert_eq!(u64_at(&record.body, offset_of!(Syscall, enter_boot_ns)), 5);
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
