//! `cargo xtask bench attach`: how long svctrace needs from its start until it misses nothing. The
//! other measurements have files of their own.

use std::time::Duration;

use anyhow::Result;
use xtask::lab::incidents;
use xtask::lab::trace::{self, Echo, Trace};
use xtask::{interrupt, repo};

const PATIENCE: Duration = Duration::from_secs(20);

/// How to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Runs of each kind
    #[arg(long, default_value_t = 11)]
    runs: usize,
    /// Use the release build
    #[arg(long)]
    release: bool,
}

/// Measures it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { runs, release } = *options;
    interrupt::catch()?;
    let binary = repo::svctrace(release)?;
    let lab = incidents::find("healthy")?.set_up()?;
    println!("{:12} {:>5} {:>10} {:>10} {:>10}", "API", "runs", "median", "fastest", "slowest");
    for (name, api) in [("with", true), ("without", false)] {
        let mut args = trace::lab_args(api);
        args.extend(["--pod", "client", "-n", "critical-app"].map(str::to_owned));
        let mut times = Vec::new();
        for _ in 0..runs.max(1) {
            let mut running = Trace::start(&binary, &args, Echo::Quiet)?;
            times.push(running.wait_attached(PATIENCE)?);
            running.finish(PATIENCE)?;
        }
        times.sort();
        let at = |index: usize| times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3);
        println!(
            "{name:12} {:>5} {:>7.0} ms {:>7.0} ms {:>7.0} ms",
            times.len(),
            at(times.len() / 2),
            at(0),
            at(times.len() - 1)
        );
    }
    lab.down()
}
