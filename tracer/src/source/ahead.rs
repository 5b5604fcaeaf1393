//! Reads a capture on a thread of its own, a little ahead of what takes the records: decompressing and
//! parsing go on while the pipeline works. A record is there as soon as it is read; changes nothing.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::{CaptureError, Records};
use crate::record::Record;

/// Records between the two at most.
const AHEAD: usize = 1024;

type Item = Result<Record, CaptureError>;

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    /// The reader has ended, or nobody takes any more.
    over: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits `until` that holds, or all is over.
    fn wait<'a>(
        &self,
        queue: MutexGuard<'a, Queue>,
        until: impl Fn(&Queue) -> bool,
    ) -> MutexGuard<'a, Queue> {
        let waited = self.changed.wait_while(queue, |queue| !queue.over && !until(queue));
        waited.unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same records, read ahead. Where no thread can be had, as they are.
pub fn ahead(records: Records) -> Records {
    let shared = Arc::new(Shared::default());
    let source = Arc::new(Mutex::new(Some(records)));
    let (theirs, reader) = (Arc::clone(&shared), Arc::clone(&source));
    let started = thread::Builder::new().name("reader".to_owned()).spawn(move || {
        let _ended = Ended(&theirs);
        let records = reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        for item in records.into_iter().flatten() {
            let mut queue = theirs.queue();
            if queue.items.len() >= AHEAD {
                // Half of it: the two then take turns less often.
                queue = theirs.wait(queue, |queue| queue.items.len() <= AHEAD / 2);
            }
            if queue.over {
                return;
            }
            queue.items.push_back(item);
            if queue.items.len() == 1 {
                theirs.changed.notify_all();
            }
        }
    });
    match started {
        Ok(_) => Box::new(Ahead { shared, taken: VecDeque::new() }),
        Err(_) => {
            let records = source.lock().unwrap_or_else(PoisonError::into_inner).take();
            records.unwrap_or_else(|| Box::new(std::iter::empty()))
        }
    }
}

/// Tells the other side, also when the reader panics.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.queue().over = true;
        self.0.changed.notify_all();
    }
}

struct Ahead {
    shared: Arc<Shared>,
    /// Taken out of the queue at once.
    taken: VecDeque<Item>,
}

impl Iterator for Ahead {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        if self.taken.is_empty() {
            let queue = self.shared.queue();
            let mut queue = self.shared.wait(queue, |queue| !queue.items.is_empty());
            std::mem::swap(&mut queue.items, &mut self.taken);
            drop(queue);
            self.shared.changed.notify_all();
        }
        self.taken.pop_front()
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.shared.queue().over = true;
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{RecordKind, Timestamp};

    fn records(count: u64) -> Records {
        let record = |n| Record::bare(n, Timestamp(n), RecordKind::Heartbeat, Vec::new());
        let damaged = CaptureError::damaged(7, "torn");
        Box::new((0..count).map(record).map(Ok).chain([Err(damaged)]))
    }

    #[test]
    fn all_of_it_in_order_with_the_error_last() {
        for count in [0, 1, 5_000] {
            let mut read: Vec<Item> = ahead(records(count)).collect();
            assert!(read.pop().is_some_and(|last| last.is_err()));
            let numbers: Vec<u64> = read.into_iter().map(|item| item.unwrap().number).collect();
            assert!(numbers.into_iter().eq(0..count));
        }
    }

    #[test]
    fn a_record_does_not_wait_for_the_next_one() {
        let (send, receive) = std::sync::mpsc::channel();
        let mut read = ahead(Box::new(receive.into_iter()));
        for number in 0..3 {
            let beat = Record::bare(number, Timestamp(0), RecordKind::Heartbeat, Vec::new());
            send.send(Ok(beat)).unwrap();
            assert_eq!(read.next().unwrap().unwrap().number, number);
        }
        drop(send);
        assert!(read.next().is_none());
    }

    #[test]
    fn who_stops_taking_stops_the_reader() {
        let alive = Arc::new(());
        let held = Arc::clone(&alive);
        let endless = records(u64::MAX - 1).inspect(move |_| drop(Arc::clone(&held)));
        let mut read = ahead(Box::new(endless));
        assert!(read.next().is_some());
        drop(read);
        while Arc::strong_count(&alive) > 1 {
            thread::yield_now();
        }
    }
}
