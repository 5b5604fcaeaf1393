//! From the watches to the agent: facts, bounded by the bytes they came in. A watch that is faster
//! than the agent waits, and the server with it.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::Semaphore;

use crate::source::live::kubernetes::Fact;

/// Most bytes that wait to be taken.
const ROOM: usize = 8 << 20;
/// Least that a fact counts.
const LEAST: usize = 512;
/// Most facts taken at a time, so that the agent looks at its probes in between.
const AT_A_TIME: usize = 1024;

/// The end that tells.
#[derive(Clone)]
pub(in crate::source::live) struct Reporter {
    facts: Sender<(Fact, usize)>,
    room: Arc<Semaphore>,
    wake: Arc<EventFd>,
}

/// The end that takes.
pub(in crate::source::live) struct Facts {
    facts: Receiver<(Fact, usize)>,
    room: Arc<Semaphore>,
    wake: Arc<EventFd>,
}

/// Both ends.
pub(in crate::source::live) fn line() -> nix::Result<(Reporter, Facts)> {
    let (sender, receiver) = channel();
    let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
    let (wake, room) = (Arc::new(wake), Arc::new(Semaphore::new(ROOM)));
    let reporter = Reporter { facts: sender, room: Arc::clone(&room), wake: Arc::clone(&wake) };
    Ok((reporter, Facts { facts: receiver, room, wake }))
}

impl Reporter {
    /// Tells a fact that came in `bytes` bytes, when there is room for it.
    pub(in crate::source::live) async fn tell(&self, fact: Fact, bytes: usize) {
        let cost = bytes.clamp(LEAST, ROOM);
        // Never closed; u32 holds ROOM.
        let Ok(room) = self.room.acquire_many(cost as u32).await else { return };
        room.forget();
        if self.facts.send((fact, cost)).is_ok() {
            let _ = self.wake.write(1);
        }
    }
}

impl Facts {
    /// Readable when there are facts.
    pub(in crate::source::live) fn wake(&self) -> &EventFd {
        &self.wake
    }

    /// What was told since the last call, or the first part of it.
    pub(in crate::source::live) fn take(&self) -> Vec<Fact> {
        let _ = self.wake.read();
        let taken: Vec<(Fact, usize)> = self.facts.try_iter().take(AT_A_TIME).collect();
        if taken.len() == AT_A_TIME {
            let _ = self.wake.write(1);
        }
        self.room.add_permits(taken.iter().map(|(_, cost)| cost).sum());
        taken.into_iter().map(|(fact, _)| fact).collect()
    }
}
