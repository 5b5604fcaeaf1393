//! A record as bytes, little-endian: the head, and the body behind it (or in a packet block). Fields
//! are only ever added behind the known ones; the head says how long it is.

use bytes::Bytes;

use crate::record::{HostId, Record, RecordKind, Task, Timestamp};

/// Bytes of the head before the thread's name.
const FIXED: usize = 60;
/// Bytes of the host's number behind it, where it is there.
const HOST: usize = 4;
/// Most bytes of a thread's name.
const COMM_MAX: usize = 1024;

const FLAG_CUT: u32 = 1;
const FLAG_CPU: u32 = 1 << 1;
const FLAG_PROBE: u32 = 1 << 2;
const FLAG_TASK: u32 = 1 << 3;
const FLAG_CGROUP: u32 = 1 << 4;
const FLAG_COOKIE: u32 = 1 << 5;
/// The record repeats a fact for readers that begin here.
const FLAG_SNAPSHOT: u32 = 1 << 8;
/// The head ends with the number of a host that is not the first: a reader that does not know would
/// take its ids for another's.
const FLAG_HOST: u32 = 1 << 16;
/// A reader that does not know one of these bits must not use the record.
const FLAGS_ESSENTIAL: u32 = 0xffff_0000;
/// Those it knows.
const FLAGS_KNOWN: u32 = FLAG_HOST;

/// A record understood, or why not.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Decoded {
    Record {
        record: Record,
        snapshot: bool,
    },
    /// Of a kind or with a meaning that only a later version knows.
    Unknown(u16),
}

/// The head of `record`, and `body` behind it.
pub(super) fn encode(record: &Record, snapshot: bool, body: &[u8]) -> Vec<u8> {
    let comm = record.task.as_ref().map(|task| task.comm.as_str()).unwrap_or_default();
    let comm = &comm[..comm.floor_char_boundary(COMM_MAX)];
    let flag = |set: bool, bit: u32| if set { bit } else { 0 };
    let flags = flag(record.cut, FLAG_CUT)
        | flag(record.cpu.is_some(), FLAG_CPU)
        | flag(record.probe.is_some(), FLAG_PROBE)
        | flag(record.task.is_some(), FLAG_TASK)
        | flag(record.cgroup.is_some(), FLAG_CGROUP)
        | flag(record.cookie.is_some(), FLAG_COOKIE)
        | flag(snapshot, FLAG_SNAPSHOT)
        | flag(record.host != HostId::default(), FLAG_HOST);
    let host = if flags & FLAG_HOST != 0 { HOST } else { 0 };
    let mut bytes = Vec::with_capacity(FIXED + comm.len() + host + body.len());
    bytes.put_u16((FIXED + comm.len() + host) as u16);
    bytes.put_u16(record.kind as u16);
    bytes.put_u32(flags);
    bytes.put_u64(record.number);
    bytes.put_u64(record.at.0);
    bytes.put_u64(record.cgroup.unwrap_or_default());
    bytes.put_u64(record.cookie.unwrap_or_default());
    bytes.put_u32(record.cpu.unwrap_or_default());
    bytes.put_u32(record.task.as_ref().map_or(0, |task| task.pid));
    bytes.put_u32(record.task.as_ref().map_or(0, |task| task.tid));
    bytes.put_u16(record.probe.unwrap_or_default());
    bytes.put_u16(comm.len() as u16);
    bytes.put_u32(body.len() as u32);
    bytes.extend_from_slice(comm.as_bytes());
    if flags & FLAG_HOST != 0 {
        bytes.put_u16(record.host.0);
        bytes.put_u16(0);
    }
    bytes.extend_from_slice(body);
    bytes
}

/// A record from its head and body; `packet` follows the body. `None`: the bytes contradict
/// themselves.
pub(super) fn decode(bytes: &[u8], packet: &[u8]) -> Option<Decoded> {
    let fields = &mut Fields::new(bytes);
    let head_len = usize::from(fields.u16()?);
    let number_of_kind = fields.u16()?;
    let flags = fields.u32()?;
    let has = |bit: u32| flags & bit != 0;
    let number = fields.u64()?;
    let at = Timestamp(fields.u64()?);
    let cgroup = fields.u64()?;
    let cookie = fields.u64()?;
    let cpu = fields.u32()?;
    let pid = fields.u32()?;
    let tid = fields.u32()?;
    let probe = fields.u16()?;
    let comm_len = usize::from(fields.u16()?);
    let body_len = fields.u32()? as usize;
    let comm = bytes.get(FIXED..FIXED.checked_add(comm_len)?)?;
    (head_len >= FIXED + comm_len).then_some(())?;
    let body = bytes.get(head_len..head_len.checked_add(body_len)?)?;
    let Some(kind) = RecordKind::from_number(number_of_kind) else {
        return Some(Decoded::Unknown(number_of_kind));
    };
    if has(FLAGS_ESSENTIAL & !FLAGS_KNOWN) {
        return Some(Decoded::Unknown(number_of_kind));
    }
    let comm = String::from_utf8_lossy(comm).into_owned();
    let host = match has(FLAG_HOST) {
        true => Fields::new(bytes.get(FIXED + comm_len..head_len)?).u16()?,
        false => 0,
    };
    let body = if packet.is_empty() {
        Bytes::copy_from_slice(body)
    } else {
        [body, packet].concat().into()
    };
    let record = Record {
        number,
        at,
        host: HostId(host),
        kind,
        cpu: has(FLAG_CPU).then_some(cpu),
        probe: has(FLAG_PROBE).then_some(probe),
        cut: has(FLAG_CUT),
        task: has(FLAG_TASK).then_some(Task { pid, tid, comm }),
        cgroup: has(FLAG_CGROUP).then_some(cgroup),
        cookie: has(FLAG_COOKIE).then_some(cookie),
        body,
    };
    Some(Decoded::Record { record, snapshot: has(FLAG_SNAPSHOT) })
}

/// Appends little-endian numbers.
pub(super) trait Put {
    fn put(&mut self, bytes: &[u8]);
    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }
    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }
    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }
}

impl Put for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// Takes little-endian numbers off the front.
pub(super) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records() -> impl Strategy<Value = Record> {
        let optional = || proptest::option::of(any::<u64>());
        let task = proptest::option::of((any::<u32>(), any::<u32>(), ".{0,20}"));
        let kind = 0..RecordKind::ALL.len();
        let host = prop_oneof![Just(0), any::<u16>()];
        let numbers = (any::<u64>(), any::<u64>(), host, kind, any::<bool>());
        let places = (proptest::option::of(any::<u32>()), proptest::option::of(any::<u16>()));
        let body = proptest::collection::vec(any::<u8>(), 0..200);
        (numbers, places, task, optional(), optional(), body).prop_map(
            |((number, at, host, kind, cut), (cpu, probe), task, cgroup, cookie, body)| Record {
                number,
                at: Timestamp(at),
                host: HostId(host),
                kind: RecordKind::ALL[kind],
                cpu,
                probe,
                cut,
                task: task.map(|(pid, tid, comm)| Task { pid, tid, comm }),
                cgroup,
                cookie,
                body: body.into(),
            },
        )
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(record in records(), snapshot: bool, split in 0..200_usize) {
            let split = split.min(record.body.len());
            let (front, packet) = record.body.split_at(split);
            let mut bytes = encode(&record, snapshot, front);
            bytes.extend([0; 3]); // a block's padding
            let decoded = decode(&bytes, packet);
            prop_assert_eq!(decoded, Some(Decoded::Record { record, snapshot }));
        }

        #[test]
        fn foreign_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, &[]);
        }
    }

    #[test]
    fn what_a_later_version_adds_is_skipped() {
        let record = Record::bare(7, Timestamp(8), RecordKind::Exit, Bytes::from_static(b"body"));
        let good = encode(&record, false, &record.body);
        let mut longer = good.clone();
        longer.splice(FIXED..FIXED, [9; 8]);
        longer[0] += 8;
        let same = Some(Decoded::Record { record, snapshot: false });
        assert_eq!(decode(&longer, &[]), same, "a longer head");
        let mut flagged = good.clone();
        flagged[5] |= 0x80;
        assert_eq!(decode(&flagged, &[]), same, "a flag that changes nothing");
        flagged[7] |= 0x80;
        assert_eq!(decode(&flagged, &[]), Some(Decoded::Unknown(0x141)), "one that does");
        let mut kind = good;
        kind[2..4].copy_from_slice(&0x7777_u16.to_le_bytes());
        assert_eq!(decode(&kind, &[]), Some(Decoded::Unknown(0x7777)));
    }
}
