//! Records as few bytes, so that a fuzzer reaches every field of them and any bytes are records.

use tracer::record::{HostId, Record, RecordKind, Task, Timestamp};

use super::Input;
use crate::records::START_NS;

const CUT: u8 = 1;
const TASK: u8 = 2;
const CGROUP: u8 = 4;
const COOKIE: u8 = 8;
const CPU: u8 = 16;
const PROBE: u8 = 32;
/// The number of the record before.
const SAME: u8 = 64;
const OTHER_HOST: u8 = 128;
/// Bits of a step in time: its mantissa, and two bits of shift for each unit of exponent.
const MANTISSA: u32 = 12;
/// This exponent goes back in time.
const BACK: u16 = 15;
/// From this mantissa on the largest step is a jump: by 2^48 to 2^63 ns, 78 hours to 292 years.
const JUMP: u16 = 0xff0;
const JUMP_BITS: u32 = 48;

/// Any bytes as records.
pub fn decode(bytes: &[u8]) -> Vec<Record> {
    let (mut input, mut records) = (Input(bytes), Vec::new());
    let (mut at, mut number) = (START_NS, 0);
    while !input.is_empty() {
        let kind = RecordKind::ALL[usize::from(input.u8()) % RecordKind::ALL.len()];
        let flags = input.u8();
        let has = |flag: u8| flags & flag != 0;
        let step = input.u16();
        let mantissa = u64::from(step & ((1 << MANTISSA) - 1));
        at = match step >> MANTISSA {
            BACK => at.saturating_sub(mantissa * 1_000_000),
            exponent if exponent == BACK - 1 && step & 0xfff >= JUMP => {
                at.saturating_add(1 << (JUMP_BITS + u32::from(step & 0xf)))
            }
            exponent => at.saturating_add(mantissa << (2 * exponent)),
        };
        number += u64::from(!has(SAME) || number == 0);
        let probe = has(PROBE).then(|| input.u16());
        let task = has(TASK).then(|| {
            let pid = input.u32();
            let len = usize::from(input.u8() % 32);
            let comm = String::from_utf8_lossy(input.piece(len)).into_owned();
            Task { pid, tid: pid, comm }
        });
        let cgroup = has(CGROUP).then(|| u64::from(input.u32()));
        let cookie = has(COOKIE).then(|| u64::from(input.u32()));
        let len = usize::from(input.u16());
        records.push(Record {
            number,
            at: Timestamp(at),
            host: HostId(u16::from(has(OTHER_HOST))),
            kind,
            cpu: has(CPU).then_some(0),
            probe,
            cut: has(CUT),
            task,
            cgroup,
            cookie,
            body: input.piece(len).to_vec().into(),
        });
    }
    records
}

/// The same records, but for ids that need more than 32 bits and the last digits of their times.
pub fn encode(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    let (mut at, mut number) = (START_NS, 0);
    for record in records {
        let kind = RecordKind::ALL.iter().position(|kind| *kind == record.kind);
        out.push(kind.and_then(|kind| u8::try_from(kind).ok()).unwrap_or_default());
        let mut flags = 0;
        for (is, flag) in [
            (record.cut, CUT),
            (record.task.is_some(), TASK),
            (record.cgroup.is_some(), CGROUP),
            (record.cookie.is_some(), COOKIE),
            (record.cpu.is_some(), CPU),
            (record.probe.is_some(), PROBE),
            (record.number == number, SAME),
            (record.host != HostId::default(), OTHER_HOST),
        ] {
            flags |= if is { flag } else { 0 };
        }
        out.push(flags);
        let step = step(record.at.0.saturating_sub(at));
        at += u64::from(step & 0xfff) << (2 * (step >> MANTISSA));
        number = record.number;
        out.extend(step.to_le_bytes());
        out.extend(record.probe.iter().flat_map(|probe| probe.to_le_bytes()));
        if let Some(task) = &record.task {
            let comm = &task.comm.as_bytes()[..task.comm.len().min(31)];
            out.extend(task.pid.to_le_bytes());
            out.push(u8::try_from(comm.len()).unwrap_or_default());
            out.extend(comm);
        }
        for id in [record.cgroup, record.cookie].into_iter().flatten() {
            out.extend((id as u32).to_le_bytes());
        }
        let body = &record.body[..record.body.len().min(usize::from(u16::MAX))];
        out.extend(u16::try_from(body.len()).unwrap_or_default().to_le_bytes());
        out.extend(body);
    }
    out
}

/// The nearest step that is not longer.
fn step(ns: u64) -> u16 {
    let exponent = (0..BACK).find(|exponent| ns >> (2 * exponent) < 1 << MANTISSA);
    let exponent = exponent.unwrap_or(BACK - 1);
    let most = if exponent == BACK - 1 { JUMP - 1 } else { (1 << MANTISSA) - 1 };
    let mantissa = (ns >> (2 * exponent)).min(most.into());
    exponent << MANTISSA | u16::try_from(mantissa).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_records_and_records_are_bytes(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
        ) {
            let records = decode(&bytes);
            let again = decode(&encode(&records));
            prop_assert_eq!(records.len(), again.len());
            for (record, again) in records.iter().zip(&again) {
                prop_assert_eq!((record.kind, &record.body), (again.kind, &again.body));
                prop_assert_eq!((record.number, record.cookie), (again.number, again.cookie));
            }
        }
    }
}
