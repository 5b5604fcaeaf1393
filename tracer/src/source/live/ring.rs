//! The pipeline process's side of the live source: maps the ring buffer it was given, merges it
//! with the agent's messages and hands the records on. Needs no privilege, opens no file.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::Context as _;
use aya::maps::{Map, MapData, RingBuf};
use bytes::Bytes;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, signal};

use super::convert;
use super::link::{Message, Receiver};
use super::merge::Merge;
use crate::context::{Loss, LossStage};
use crate::record::{Record, RecordKind, Timestamp};

/// After some records came: sleep, so that one wake-up takes many. The window is longer anyway, and the
/// ring holds that many times what the busiest pods ask.
const NAP: Duration = Duration::from_millis(20);
/// Records taken from the ring before the agent's messages are looked at again.
const BATCH: usize = 4096;

/// How a live trace ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The agent said so, and everything was handed on.
    Clean,
    /// The agent vanished; the probes with it. What had been recorded was handed on.
    AgentDied,
}

/// Hands on every record of a live trace, in order, until it ends. `fd` is the socket to the agent.
/// `confine` gives up this process's rights: once nothing more is to be mapped or asked of the
/// kernel (before 5.19 a map's description needs a capability), before anything foreign is read.
pub fn receive(
    fd: OwnedFd,
    confine: impl FnOnce() -> anyhow::Result<()>,
    on_record: &mut dyn FnMut(Record) -> io::Result<()>,
) -> anyhow::Result<Ending> {
    ignore_interrupts();
    let (mut link, ring, offset_ns) = Receiver::open(fd).context("cannot hear the agent")?;
    let map = MapData::from_fd(ring).context("cannot use the ring buffer")?;
    let ring = RingBuf::try_from(Map::RingBuf(map)).context("cannot map the ring buffer")?;
    let merge = Merge::new(offset_ns);
    let mut intake = Intake { ring, merge, unreadable: 0, ended: false };
    confine()?;
    link.ready().context("the agent is gone")?;
    let ending = intake.run(&mut link, on_record)?;
    Ok(ending)
}

/// Ctrl-C is the agent's to handle: the pipeline ends when the agent says so.
fn ignore_interrupts() {
    for name in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: SIG_IGN installs no handler, so nothing of ours runs in signal context.
        let _ = unsafe { signal(name, SigHandler::SigIgn) };
    }
}

struct Intake {
    ring: RingBuf<MapData>,
    merge: Merge,
    unreadable: u64,
    ended: bool,
}

impl Intake {
    fn run(
        &mut self,
        link: &mut Receiver,
        on_record: &mut dyn FnMut(Record) -> io::Result<()>,
    ) -> anyhow::Result<Ending> {
        loop {
            self.wait(link)?;
            let alive = link.fill().context("cannot hear the agent")?;
            let mut heard = 0;
            while let Some(message) = link.next()? {
                heard = heard.max(self.take(message));
            }
            let over = self.ended || !alive;
            let (count, emptied) = self.drain(if over { usize::MAX } else { BATCH });
            if emptied {
                self.merge.passed(heard);
            }
            if heard != 0 {
                self.report_losses();
            }
            if over {
                self.report_losses();
                self.merge.end();
            }
            while let Some(record) = self.merge.next() {
                on_record(record)?;
            }
            if over {
                return Ok(if self.ended { Ending::Clean } else { Ending::AgentDied });
            }
            if count != 0 && emptied {
                std::thread::sleep(NAP);
            }
        }
    }

    fn wait(&self, link: &Receiver) -> io::Result<()> {
        let mut fds = [
            PollFd::new(self.ring.as_fd(), PollFlags::POLLIN),
            PollFd::new(link.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(error) if error != nix::Error::EINTR => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Takes in a message; returns the time of a heartbeat.
    fn take(&mut self, message: Message) -> u64 {
        match message {
            Message::Context { boot_ns, kind, body } => match RecordKind::from_number(kind) {
                Some(kind) => self.merge.context(context_record(boot_ns, kind, body)),
                None => self.unreadable += 1,
            },
            Message::Kernel(raw) => match convert::record(&raw) {
                Ok(record) => self.merge.context(record),
                Err(_) => self.unreadable += 1,
            },
            Message::Heartbeat { boot_ns } => {
                let body = Bytes::from_static(b"{}");
                self.merge.context(context_record(boot_ns, RecordKind::Heartbeat, body));
                return boot_ns;
            }
            Message::End => self.ended = true,
            Message::Hello { .. } => self.unreadable += 1,
        }
        0
    }

    /// Takes up to `most` records from the ring; returns how many, and whether none is left.
    fn drain(&mut self, most: usize) -> (usize, bool) {
        for count in 0..most {
            let Some(item) = self.ring.next() else { return (count, true) };
            match convert::record(&item) {
                Ok(record) => self.merge.kernel(record),
                Err(_) => self.unreadable += 1,
            }
        }
        (most, false)
    }

    /// Turns what was lost on this side into records.
    fn report_losses(&mut self) {
        let late = self.merge.take_late();
        let unreadable = std::mem::take(&mut self.unreadable);
        for (stage, source, count) in
            [(LossStage::User, "reorder", late), (LossStage::Decode, "ring", unreadable)]
        {
            if count == 0 {
                continue;
            }
            let boot = self.merge.released();
            let at = Timestamp(boot.0.saturating_add_signed(self.merge.offset()));
            let loss = Loss { stage, source: source.to_owned(), count, first: at, last: at };
            let body = serde_json::to_vec(&loss).unwrap_or_default().into();
            self.merge.context(context_record(boot.0, RecordKind::Loss, body));
        }
    }
}

fn context_record(boot_ns: u64, kind: RecordKind, body: Bytes) -> Record {
    Record::bare(0, Timestamp(boot_ns), kind, body)
}
