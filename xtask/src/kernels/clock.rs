//! The guest's wall clock set forward and back while the incident is traced and recorded: what is
//! found, how long it took and in which order must not change. Never on a machine that is not ours.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use serde_json::Value;

use super::guest::{self, Watch};

/// An hour forward, then back to an hour before the right time, then right again: time into the
/// lookup's ten seconds, and seconds by which the clock is set.
const JUMPS: [(Duration, i64); 3] = [
    (Duration::from_millis(2_500), 3_600),
    (Duration::from_millis(5_000), -7_200),
    (Duration::from_millis(7_500), 3_600),
];
/// What svctrace says of each: the ends of its sentences.
const TOLD: [&str; 3] =
    ["s behind it", "s ahead of it", "it agrees with the times told here again"];
/// Two readings of clocks on an emulated machine.
const ROUGH: SignedDuration = SignedDuration::from_millis(200);

/// The story under a clock that jumps.
pub(super) fn jumps(binary: &Path) -> Result<String> {
    let watch = Watch { meanwhile: &jump, more: &["--events"], ..Watch::default() };
    let (began, clock) = (Timestamp::now(), Instant::now());
    let seen = guest::watch(binary, guest::incident("search-timeout")?, &watch)?;
    let ended = began + SignedDuration::try_from(clock.elapsed())?;
    let words = guest::judge_story(&seen)?;
    for told in TOLD {
        let count = seen.said.matches(told).count();
        ensure!(count == 1, "`{told}` is said {count} times: {}", seen.said);
    }
    let mut last = began - ROUGH;
    let events: Vec<&Value> = seen.lines.iter().filter(|l| l["type"] == "event").collect();
    for event in &events {
        let at = event["ts"].as_str().context("an event without a time")?.parse::<Timestamp>()?;
        ensure!(last <= at, "{at} after {last}");
        last = at;
    }
    ensure!(!events.is_empty() && last <= ended + ROUGH, "{last} is after the end, {ended}");
    Ok(words)
}

fn jump() -> Result<()> {
    let start = Instant::now();
    for (at, seconds) in JUMPS {
        std::thread::sleep(at.saturating_sub(start.elapsed()));
        let now = clock_gettime(ClockId::CLOCK_REALTIME)?;
        let then = TimeSpec::new(now.tv_sec() + seconds, now.tv_nsec());
        clock_settime(ClockId::CLOCK_REALTIME, then).context("cannot set the clock")?;
    }
    Ok(())
}
