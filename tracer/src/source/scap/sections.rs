//! The metadata at the head of a section: machine, processes, their descriptors. Users and interfaces
//! are not needed, and environment variables are jumped over.

use std::net::SocketAddr;

use super::blocks::{Block, kind};
use super::bytes::{Fields, canonical};
use crate::source::{CaptureError, CaptureErrorKind};

const MAGIC: u32 = 0x1A2B_3C4D;

/// What `svctrace` wants to know about the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) cpus: u32,
    pub(super) hostname: String,
}

/// A thread as the writer found it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ProcessEntry<'a> {
    pub(super) tid: i64,
    pub(super) pid: i64,
    pub(super) ptid: i64,
    pub(super) comm: &'a [u8],
    pub(super) exe: &'a [u8],
    pub(super) flags: u32,
    pub(super) vtid: Option<i64>,
    pub(super) cgroups: &'a [u8],
}

/// A descriptor as the writer found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FdEntry<'a> {
    pub(super) fd: i64,
    pub(super) inode: u64,
    pub(super) what: FdKind<'a>,
}

/// What it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum FdKind<'a> {
    /// IPv4 or IPv6, connected or bound; protocol where the writer can be believed.
    Inet {
        local: SocketAddr,
        remote: Option<SocketAddr>,
        protocol: Option<u8>,
    },
    File(&'a [u8]),
    Other,
}

/// Checks a section header.
pub(super) fn section(block: &Block<'_>) -> Result<(), CaptureError> {
    let mut fields = Fields(block.body);
    let refuse =
        |what: String| Err(CaptureError::new(block.offset, CaptureErrorKind::Unsupported(what)));
    match (fields.u32(), fields.u16()) {
        (Some(MAGIC), Some(0 | 1)) => Ok(()),
        (Some(MAGIC), Some(major)) => {
            refuse(format!("scap of major version {major}; this svctrace reads version 1"))
        }
        (Some(magic), _) if magic == MAGIC.swap_bytes() => {
            refuse("scap of a big-endian machine; only little-endian ones are read".to_owned())
        }
        _ => Err(CaptureError::damaged(block.offset, "the section header lacks its magic number")),
    }
}

/// Reads the machine block; what is missing stays unknown.
pub(super) fn machine(body: &[u8]) -> Machine {
    let mut fields = Fields(body);
    let cpus = fields.u32().unwrap_or_default();
    fields.take(16); // memory, largest pid
    let name = fields.take(128).unwrap_or_default();
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    Machine { cpus, hostname: String::from_utf8_lossy(name).into_owned() }
}

/// Version of a process list by its block type.
pub(super) fn process_version(block: u32) -> Option<u8> {
    Some(match block {
        0x202 | 0x8000_ABCD => 1,
        0x207 | 0x8013_ABCD => 2,
        0x209 | 0x8014_ABCD => 3,
        0x210 => 4,
        0x211 => 5,
        0x212 => 6,
        0x213 => 7,
        0x214 => 8,
        0x215 => 9,
        _ => return None,
    })
}

/// Calls `each` for every thread of the list.
pub(super) fn processes<'a>(
    block: &Block<'a>,
    version: u8,
    mut each: impl FnMut(ProcessEntry<'a>),
) -> Result<(), CaptureError> {
    let mut list = Fields(block.body);
    while list.0.len() >= 4 {
        let short = || CaptureError::damaged(block.offset, "the process list ends inside an entry");
        let entry = if version >= 9 {
            let len = Fields(list.0).u32().unwrap_or_default() as usize;
            let mut entry = Fields(list.take(len.max(4)).ok_or_else(short)?);
            entry.u32();
            process(&mut entry, version)
        } else {
            process(&mut list, version)
        };
        each(entry.ok_or_else(short)?);
    }
    Ok(())
}

fn process<'a>(fields: &mut Fields<'a>, version: u8) -> Option<ProcessEntry<'a>> {
    let (tid, pid, ptid) = (fields.i64()?, fields.i64()?, fields.i64()?);
    if version >= 6 {
        fields.i64()?; // sid
    }
    if version >= 8 {
        fields.i64()?; // vpgid
    }
    let (comm, exe) = (fields.text()?, fields.text()?);
    if version >= 7 {
        fields.text()?; // exepath
    }
    fields.text()?; // args
    fields.text()?; // cwd
    fields.i64()?; // fdlimit
    let flags = fields.u32()?;
    fields.take(8)?; // uid, gid
    if version >= 2 {
        fields.take(28)?; // memory, page faults
    }
    if version >= 3 {
        fields.text()?; // environment
    }
    let mut entry = ProcessEntry { tid, pid, ptid, comm, exe, flags, ..ProcessEntry::default() };
    if version >= 4 {
        entry.vtid = Some(fields.i64()?);
        fields.i64()?; // vpid
        entry.cgroups = fields.text()?;
    }
    if version >= 5 {
        fields.text()?; // root
    }
    Some(entry)
}

/// Calls `each` for every descriptor of the thread's list; returns the thread.
pub(super) fn descriptors<'a>(
    block: &Block<'a>,
    mut each: impl FnMut(i64, FdEntry<'a>),
) -> Result<(), CaptureError> {
    let short = || CaptureError::damaged(block.offset, "the descriptor list ends inside an entry");
    let mut list = Fields(block.body);
    let tid = list.i64().ok_or_else(short)?;
    while list.0.len() >= 4 {
        let entry = if block.kind == kind::FDS_V2 {
            let len = Fields(list.0).u32().unwrap_or_default() as usize;
            let mut entry = Fields(list.take(len.max(4)).ok_or_else(short)?);
            entry.u32();
            descriptor(&mut entry)
        } else {
            descriptor(&mut list)
        };
        each(tid, entry.ok_or_else(short)?);
    }
    Ok(())
}

fn descriptor<'a>(fields: &mut Fields<'a>) -> Option<FdEntry<'a>> {
    let (fd, inode) = (fields.i64()?, fields.u64()?);
    let what = match fields.u8()? {
        3 => {
            let (local, remote) = (fields.ipv4()?, fields.ipv4()?);
            let (local, remote) =
                (SocketAddr::new(local, fields.u16()?), SocketAddr::new(remote, fields.u16()?));
            inet(local, Some(remote), known(fields.u8()?))
        }
        4 => {
            let (local, remote) = (fields.ipv6()?, fields.ipv6()?);
            let (local, remote) =
                (SocketAddr::new(local, fields.u16()?), SocketAddr::new(remote, fields.u16()?));
            fields.u8()?; // writers call every IPv6 socket TCP
            inet(local, Some(remote), None)
        }
        5 => {
            let local = SocketAddr::new(fields.ipv4()?, fields.u16()?);
            inet(local, None, known(fields.u8()?))
        }
        6 => {
            let local = SocketAddr::new(fields.ipv6()?, fields.u16()?);
            fields.u8()?;
            inet(local, None, None)
        }
        8 => {
            fields.take(16)?;
            fields.text()?;
            FdKind::Other
        }
        16 => {
            fields.u32()?;
            FdKind::File(fields.text()?)
        }
        1 | 2 => FdKind::File(fields.text()?),
        _ => {
            fields.text()?;
            FdKind::Other
        }
    };
    Some(FdEntry { fd, inode, what })
}

/// The writer's layer-4 number as an `IPPROTO_*`.
fn known(l4: u8) -> Option<u8> {
    match l4 {
        2 => Some(super::TCP),
        3 => Some(super::UDP),
        _ => None,
    }
}

fn inet<'a>(local: SocketAddr, remote: Option<SocketAddr>, protocol: Option<u8>) -> FdKind<'a> {
    let remote = remote.filter(|end| end.port() != 0 || !end.ip().is_unspecified());
    let (local, remote) = match remote {
        Some(remote) => {
            let (local, remote) = canonical(local, remote);
            (local, Some(remote))
        }
        None => (local, None),
    };
    FdKind::Inet { local, remote, protocol }
}
