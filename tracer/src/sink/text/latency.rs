//! How long the calls of a foreign capture took: from the event of the entry to that of the return, as
//! sysdig counts. What carries its own time needs none of this.

use std::collections::{HashMap, VecDeque};

use tracer_common::bodies::{CALL_ENTER, CALL_EXIT};

use crate::record::{Record, RecordKind, Timestamp};

/// Threads remembered.
const THREADS_MAX: usize = 262_144;
/// Events whose time is remembered: more than lines are ever held back.
const TOLD_MAX: usize = 16_384;
/// Where a `CALL` keeps its direction, the length of its name, and the name.
const DIRECTION: usize = 16;
const NAME_LEN: usize = 18;
const NAME: usize = 24;
/// Events that come between the two sides of a call.
const BETWEEN: [&[u8]; 4] = [b"switch", b"signaldeliver", b"procinfo", b"drop"];

/// Calls under way, by thread.
#[derive(Default)]
pub(super) struct Latency {
    under_way: HashMap<u32, (Box<[u8]>, Timestamp)>,
    /// Numbers and times of the latest events; numbers never decrease.
    told: VecDeque<(u64, u64)>,
}

impl Latency {
    /// How long event `number` took, in nanoseconds; `None` for what has its own time.
    pub(super) fn of(&self, number: u64) -> Option<u64> {
        let at = self.told.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        self.told.get(at).map(|(_, took)| *took)
    }

    /// Takes notice of a record, in the order they come.
    pub(super) fn record(&mut self, record: &Record) {
        let (RecordKind::Call, Some(task)) = (record.kind, &record.task) else { return };
        let Some((direction, name)) = side(&record.body) else { return };
        let took = match direction {
            CALL_ENTER => {
                let room = self.under_way.len() < THREADS_MAX;
                if !BETWEEN.contains(&name) && (room || self.under_way.contains_key(&task.tid)) {
                    self.under_way.insert(task.tid, (name.into(), record.at));
                }
                0
            }
            CALL_EXIT => {
                let begun = self.under_way.remove(&task.tid).filter(|(begun, _)| **begun == *name);
                begun.map_or(0, |(_, at)| record.at.since(at))
            }
            _ => return,
        };
        if self.told.len() >= TOLD_MAX {
            self.told.pop_front();
        }
        if self.told.back().is_none_or(|(last, _)| *last < record.number) {
            self.told.push_back((record.number, took));
        }
    }
}

fn side(body: &[u8]) -> Option<(u8, &[u8])> {
    let len = u16::from_ne_bytes(*body.get(NAME_LEN..)?.first_chunk()?);
    let name = body.get(NAME..NAME + usize::from(len))?;
    Some((*body.get(DIRECTION)?, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Task;

    fn told(latency: &mut Latency, at: u64, direction: u8, name: &str) -> Option<u64> {
        let mut body = vec![0; NAME];
        body[DIRECTION] = direction;
        body[NAME_LEN..NAME_LEN + 2].copy_from_slice(&(name.len() as u16).to_ne_bytes());
        body.extend(name.as_bytes());
        let mut record = Record::bare(at, Timestamp(at), RecordKind::Call, body);
        record.task = Some(Task { pid: 1, tid: 2, comm: "x".into() });
        latency.record(&record);
        latency.of(at)
    }

    #[test]
    fn from_the_entry_to_the_return() {
        let mut latency = Latency::default();
        assert_eq!(told(&mut latency, 10, CALL_ENTER, "read"), Some(0));
        assert_eq!(told(&mut latency, 20, CALL_ENTER, "switch"), Some(0));
        assert_eq!(told(&mut latency, 35, CALL_EXIT, "read"), Some(25));
        assert_eq!(told(&mut latency, 40, CALL_EXIT, "read"), Some(0), "its entry is gone");
        told(&mut latency, 50, CALL_ENTER, "read");
        assert_eq!(told(&mut latency, 60, CALL_EXIT, "poll"), Some(0), "another call");
    }
}
