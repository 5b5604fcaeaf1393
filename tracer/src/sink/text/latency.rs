//! How long the calls of a foreign capture took: from the event of the entry to that of the return, as
//! sysdig counts. What carries its own time needs none of this.

use std::collections::HashMap;

use tracer_common::bodies::{CALL_ENTER, CALL_EXIT};

use crate::record::{Record, RecordKind, Timestamp};

/// Threads remembered.
const THREADS_MAX: usize = 262_144;
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
    /// Of the event told last.
    pub(super) last: Option<u64>,
}

impl Latency {
    /// What comes next is about this record.
    pub(super) fn record(&mut self, record: &Record) {
        self.last = None;
        let (RecordKind::Call, Some(task)) = (record.kind, &record.task) else { return };
        let Some((direction, name)) = side(&record.body) else { return };
        match direction {
            CALL_ENTER => {
                self.last = Some(0);
                let room = self.under_way.len() < THREADS_MAX;
                if !BETWEEN.contains(&name) && (room || self.under_way.contains_key(&task.tid)) {
                    self.under_way.insert(task.tid, (name.into(), record.at));
                }
            }
            CALL_EXIT => {
                let begun = self.under_way.remove(&task.tid).filter(|(begun, _)| **begun == *name);
                self.last = Some(begun.map_or(0, |(_, at)| record.at.since(at)));
            }
            _ => {}
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
        let mut record = Record::bare(1, Timestamp(at), RecordKind::Call, body);
        record.task = Some(Task { pid: 1, tid: 2, comm: "x".into() });
        latency.record(&record);
        latency.last
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
