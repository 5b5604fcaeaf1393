//! `cargo xtask bench attach`: how long svctrace needs from its start until it misses nothing, in turn
//! with tcpdump's and bpftrace's where they are installed. Any traffic is somebody else's.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use xtask::lab::incidents;
use xtask::lab::trace::{self, Echo, Trace};
use xtask::{cmd, interrupt, repo};

use super::measure::middle;
use super::page::{self, Table};

const PATIENCE: Duration = Duration::from_secs(20);
const MOST: f64 = 0.3;
/// Says "ready" once its probes are attached: `BEGIN` comes after them.
const SCRIPT: &str = "tracepoint:syscalls:sys_enter_connect,tracepoint:syscalls:sys_enter_sendmsg,\
                      tracepoint:syscalls:sys_enter_recvmsg { @[probe] = count(); } \
                      BEGIN { printf(\"ready\\n\"); }";

/// How to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Runs of each kind
    #[arg(long, default_value_t = 11)]
    runs: usize,
    /// Use the release build
    #[arg(long)]
    release: bool,
    /// The svctrace to measure, instead
    #[arg(long, value_name = "FILE", conflicts_with = "release")]
    program: Option<PathBuf>,
    /// Put the results into docs/performance.md
    #[arg(long)]
    write: bool,
}

/// What is started.
enum Contender {
    /// svctrace, with the API or without.
    Ours { api: bool },
    /// A peer, and what it says once it is ready.
    Peer { program: PathBuf, args: &'static [&'static str], ready: &'static str },
}

/// Measures it; an error when svctrace takes longer than it may.
pub(crate) fn run(options: &Options) -> Result<()> {
    interrupt::catch()?;
    let binary = match &options.program {
        Some(program) => program.clone(),
        None => repo::svctrace(options.release)?,
    };
    let mut contenders = contenders();
    let mut times = vec![Vec::new(); contenders.len()];
    let lab = incidents::find("healthy")?.set_up()?;
    for _ in 0..options.runs.max(1) {
        for ((_, contender), times) in contenders.iter_mut().zip(&mut times) {
            interrupt::check()?;
            times.push(contender.start(&binary)?.as_secs_f64());
        }
    }
    lab.down()?;
    let columns = ["program", "runs", "median ms", "fastest ms", "slowest ms"];
    let mut table = Table::new("Start to attached", &columns);
    for ((name, _), times) in contenders.iter().zip(&times) {
        let fastest = times.iter().copied().fold(f64::INFINITY, f64::min);
        let slowest = times.iter().copied().fold(0.0, f64::max);
        let shown = [middle(times.iter().copied()), fastest, slowest];
        let shown = shown.map(|seconds| format!("{:.0}", seconds * 1e3));
        table.row([(*name).to_owned(), times.len().to_string()].into_iter().chain(shown));
    }
    let text = format!("{}.\n\n{}", page::machine(), table.text());
    println!("{text}");
    if options.write {
        page::write("attach", &text)?;
    }
    let ours = times.first().map_or(0.0, |times| middle(times.iter().copied()));
    ensure!(ours <= MOST, "svctrace takes {ours:.2} s, which is more than {MOST} s");
    Ok(())
}

fn contenders() -> Vec<(&'static str, Contender)> {
    let mut all = vec![
        ("svctrace", Contender::Ours { api: true }),
        ("svctrace without the API", Contender::Ours { api: false }),
    ];
    if let Some(program) = cmd::find("bpftrace") {
        let peer = Contender::Peer { program, args: &["-e", SCRIPT], ready: "ready" };
        all.push(("bpftrace, three system calls", peer));
    }
    if let Some(program) = cmd::find("tcpdump") {
        let args = &["-n", "-i", "lo", "-w", "/dev/null", "port", "53"];
        all.push(("tcpdump -w", Contender::Peer { program, args, ready: "listening on" }));
    }
    all
}

impl Contender {
    /// Starts it and ends it again; how long it took to be ready.
    fn start(&mut self, binary: &Path) -> Result<Duration> {
        match self {
            Self::Ours { api } => {
                let mut args = trace::lab_args(*api);
                args.extend(["--pod", "client", "-n", "critical-app"].map(str::to_owned));
                let mut running = Trace::start(binary, &args, Echo::Quiet)?;
                let time = running.wait_attached(PATIENCE)?;
                running.finish(PATIENCE)?;
                Ok(time)
            }
            Self::Peer { program, args, ready } => peer(Command::new(program).args(*args), ready),
        }
    }
}

/// How long `command` takes until a line of what it prints has `ready` in it.
fn peer(command: &mut Command, ready: &str) -> Result<Duration> {
    /// Never outlives its measurement.
    struct Killed(Child);

    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    // One pipe for both: one says it here, the other there.
    let (reader, writer) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let line = cmd::line(command);
    let begun = Instant::now();
    let child = Killed(command.spawn().with_context(|| format!("cannot start {line}"))?);
    // Ours of its writing ends: without them the reading ends when the child does.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    for said in BufReader::new(reader.take(1 << 20)).lines() {
        if said?.contains(ready) {
            let time = begun.elapsed();
            drop(child);
            return Ok(time);
        }
    }
    bail!("{line} ended before it was ready")
}
