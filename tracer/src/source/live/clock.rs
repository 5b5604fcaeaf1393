//! The host's clocks, read by the agent alone: boot time for all records, and the offset to Unix
//! time that the pipeline adds. One offset a run, unless the wall clock is set forward.

use nix::time::{ClockId, clock_gettime};

/// A difference smaller than this is the ordinary slewing of a clock, in nanoseconds.
const JUMP_NS: i64 = 50_000_000;

/// `CLOCK_BOOTTIME` in nanoseconds, the clock of the probes.
pub(super) fn boot_ns() -> u64 {
    read(ClockId::CLOCK_BOOTTIME)
}

fn read(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| {
        (time.tv_sec() as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec() as u64)
    })
}

/// Unix time minus boot time in nanoseconds: the tightest of several readings.
pub(super) fn offset_ns() -> i64 {
    let sample = |_| {
        let before = boot_ns();
        let unix = read(ClockId::CLOCK_REALTIME);
        let width = boot_ns().saturating_sub(before);
        (width, unix as i64 - (before + width / 2) as i64)
    };
    (0..9).map(sample).min_by_key(|(width, _)| *width).map_or(0, |(_, offset)| offset)
}

/// The offset in use.
#[derive(Debug)]
pub(super) struct Clock {
    /// Unix time minus boot time, nanoseconds.
    pub(super) offset_ns: i64,
    told_back: bool,
}

impl Clock {
    /// Reads the clocks.
    pub(super) fn new() -> Self {
        Self { offset_ns: offset_ns(), told_back: false }
    }

    /// Compares with the wall clock again; the new offset when it was set forward. When it was set
    /// back the old offset stays, because a record's time never runs backwards; said once.
    pub(super) fn check(&mut self) -> Option<i64> {
        let jump = offset_ns() - self.offset_ns;
        if jump > JUMP_NS {
            say!("svctrace: the clock was set forward by {} ms", jump / 1_000_000);
            self.offset_ns += jump;
            return Some(self.offset_ns);
        }
        if jump < -JUMP_NS && !self.told_back {
            self.told_back = true;
            let ms = -jump / 1_000_000;
            say!("svctrace: the clock was set back by {ms} ms; times go on from before that");
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_gives_unix_time() {
        let unix = boot_ns().saturating_add_signed(offset_ns());
        #[expect(clippy::disallowed_methods, reason = "compares with the clock on purpose")]
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert!(unix.abs_diff(now.as_nanos() as u64) < 1_000_000_000);
    }
}
