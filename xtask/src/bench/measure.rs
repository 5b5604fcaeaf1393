//! Time, processor time and peak memory of whole processes, run in turn; medians of them. Knows no
//! programs.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use xtask::{cmd, interrupt, usage};

/// What one process took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    /// Start to end.
    pub(super) wall: Duration,
    /// User and system.
    pub(super) cpu: Duration,
    /// Peak resident memory, KiB.
    pub(super) rss_kib: u64,
}

/// Runs `command` to its end, output thrown away. Any exit code but those in `fine` is an error.
pub(super) fn once(command: &mut Command, fine: &[i32]) -> Result<Cost> {
    interrupt::check()?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let child =
        command.spawn().with_context(|| format!("cannot start `{}`", cmd::line(command)))?;
    let usage = usage::wait(child)?;
    let wall = start.elapsed();
    interrupt::check()?;
    if !usage.status.code().is_some_and(|code| fine.contains(&code)) {
        bail!("`{}` failed ({})", cmd::line(command), usage.status);
    }
    Ok(Cost { wall, cpu: usage.cpu, rss_kib: usage.rss_kib })
}

/// A program among those compared.
pub(super) struct Contender {
    pub(super) name: String,
    pub(super) command: Command,
    /// Exit codes that are no failure.
    pub(super) fine: &'static [i32],
}

/// A contender and what it took.
pub(super) struct Measured {
    pub(super) name: String,
    /// Medians of time, the largest memory.
    pub(super) cost: Cost,
    /// Median of its wall time over the first contender's in the same round.
    pub(super) ratio: f64,
}

/// All contenders in turn, `rounds` times.
pub(super) fn in_turn(contenders: &mut [Contender], rounds: usize) -> Result<Vec<Measured>> {
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); contenders.len()];
    for _ in 0..rounds.max(1) {
        for (contender, costs) in contenders.iter_mut().zip(&mut costs) {
            costs.push(once(&mut contender.command, contender.fine)?);
        }
    }
    let first = costs.first().cloned().unwrap_or_default();
    let seconds = |cost: &Cost| cost.wall.as_secs_f64().max(1e-9);
    let measured = contenders.iter().zip(&costs).map(|(contender, costs)| Measured {
        name: contender.name.clone(),
        cost: Cost {
            wall: median(costs.iter().map(|c| c.wall)),
            cpu: median(costs.iter().map(|c| c.cpu)),
            rss_kib: costs.iter().map(|c| c.rss_kib).max().unwrap_or_default(),
        },
        ratio: middle(costs.iter().zip(&first).map(|(own, first)| seconds(own) / seconds(first))),
    });
    Ok(measured.collect())
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<Duration> = times.collect();
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Their median.
pub(super) fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
