//! The host's clocks, read by the agent alone: boot time for all records, and the offset to Unix
//! time that the pipeline adds. One offset a run, whatever becomes of the wall clock: durations, order
//! and time-outs are boot time's. Slewing is in both clocks and changes nothing.

use std::fs;
use std::sync::OnceLock;

use nix::time::{ClockId, clock_gettime};

/// A difference smaller than this is the inaccuracy of two readings, in nanoseconds.
const JUMP_NS: u64 = 50_000_000;

/// `CLOCK_BOOTTIME` of the machine in nanoseconds, the clock of the probes, which know no time
/// namespaces.
pub(super) fn boot_ns() -> u64 {
    static NAMESPACE_NS: OnceLock<i64> = OnceLock::new();
    let namespace_ns = NAMESPACE_NS.get_or_init(|| {
        // The file is about the children's namespace, which before Linux 6.3 is not ours after
        // `unshare --time` without a fork.
        let namespace = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).ok();
        let offsets = fs::read_to_string("/proc/self/timens_offsets").ok();
        let ours = namespace("time") == namespace("time_for_children");
        offsets.filter(|_| ours).map_or(0, |text| namespace_offset_ns(&text))
    });
    read(ClockId::CLOCK_BOOTTIME).saturating_add_signed(namespace_ns.saturating_neg())
}

/// What `/proc/PID/timens_offsets` says of boot time: a line `boottime SECONDS NANOSECONDS`.
fn namespace_offset_ns(text: &str) -> i64 {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("boottime"));
    let numbers = line.unwrap_or_default().split_whitespace().map_while(|n| n.parse::<i64>().ok());
    match numbers.collect::<Vec<_>>().as_slice() {
        [seconds, nanos] => seconds.saturating_mul(1_000_000_000).saturating_add(*nanos),
        _ => 0,
    }
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

/// The offset in use, and what the clocks differed by when last looked at.
#[derive(Debug)]
pub(super) struct Clock {
    /// Unix time minus boot time at the start, nanoseconds.
    pub(super) offset_ns: i64,
    seen_ns: i64,
}

impl Clock {
    /// Reads the clocks.
    pub(super) fn new() -> Self {
        let offset_ns = offset_ns();
        Self { offset_ns, seen_ns: offset_ns }
    }

    /// Compares with the wall clock again and says when it was set since the last look.
    pub(super) fn check(&mut self) {
        if let Some(words) = self.jumped(offset_ns()) {
            say!("svctrace: {words}");
        }
    }

    fn jumped(&mut self, now_ns: i64) -> Option<String> {
        let jump = now_ns.saturating_sub(self.seen_ns);
        if jump.unsigned_abs() <= JUMP_NS {
            return None;
        }
        self.seen_ns = now_ns;
        let way = if jump > 0 { "forward" } else { "back" };
        let seconds = jump.unsigned_abs() as f64 / 1e9;
        let after = now_ns.saturating_sub(self.offset_ns);
        let told = match after.unsigned_abs() <= JUMP_NS {
            true => "it agrees with the times told here again".to_owned(),
            false => format!(
                "times go on as they began, {:.3} s {} it",
                after.unsigned_abs() as f64 / 1e9,
                if after > 0 { "behind" } else { "ahead of" }
            ),
        };
        Some(format!("the wall clock was set {way} by {seconds:.3} s; {told}"))
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

    #[test]
    fn each_jump_is_told_and_changes_no_time() {
        let mut clock = Clock { offset_ns: 7_000_000_000, seen_ns: 7_000_000_000 };
        assert_eq!(clock.jumped(7_040_000_000), None);
        let hour = 3_600_000_000_000;
        let told = |words: Option<String>| words.unwrap();
        assert_eq!(
            told(clock.jumped(7_000_000_000 + hour)),
            "the wall clock was set forward by 3600.000 s; times go on as they began, 3600.000 s behind it"
        );
        assert_eq!(clock.jumped(7_000_000_000 + hour), None);
        assert_eq!(
            told(clock.jumped(7_000_000_000 - hour)),
            "the wall clock was set back by 7200.000 s; times go on as they began, 3600.000 s ahead of it"
        );
        assert_eq!(
            told(clock.jumped(7_000_000_001)),
            "the wall clock was set forward by 3600.000 s; it agrees with the times told here again"
        );
        assert_eq!(clock.offset_ns, 7_000_000_000);
        assert!(clock.jumped(i64::MIN).is_some() && clock.jumped(i64::MAX).is_some());
    }

    #[test]
    fn a_time_namespaces_offset_is_read() {
        let text = "monotonic           5         0\nboottime      -100000 500000000\n";
        assert_eq!(namespace_offset_ns(text), -99_999_500_000_000);
        for text in ["", "boottime", "boottime x 0", "boottime 1 2 3", "monotonic 1 1"] {
            assert_eq!(namespace_offset_ns(text), 0, "{text}");
        }
        assert_eq!(namespace_offset_ns(&format!("boottime {} 9", i64::MIN)), i64::MIN + 9);
    }
}
