//! `cargo xtask bench identity`: what the names of a large cluster cost: time until all are known,
//! and memory on top of a trace without the API. The cluster is made up, the server our own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::lab::api::cluster::{self, Size};
use xtask::lab::api::faults::Fault;
use xtask::lab::api::server::{Server, Transport};
use xtask::{interrupt, repo};

/// Nothing takes longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// After the last name, for memory to settle.
const SETTLE: Duration = Duration::from_secs(2);
const SYNC_MAX: Duration = Duration::from_secs(3);
const MEMORY_MAX_KIB: u64 = 60 * 1024;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Use the release build
    #[arg(long)]
    release: bool,
    /// Also a million endpoints, which have no limit to keep
    #[arg(long)]
    million: bool,
}

struct Measured {
    synced: Duration,
    resident_kib: u64,
    peak_kib: u64,
}

/// Measures it.
pub(crate) fn run(options: &Options) -> Result<()> {
    interrupt::catch()?;
    let binary = repo::svctrace(options.release)?;
    let node = nix::unistd::gethostname()?.to_string_lossy().into_owned();
    let base = measure(&binary, None)?;
    println!("{:34} {:>9} {:>12} {:>12}", "cluster", "synced", "resident", "peak");
    println!(
        "{:34} {:>9} {:>8} KiB {:>8} KiB",
        "none (--no-api)", "", base.resident_kib, base.peak_kib
    );
    let mut missed = Vec::new();
    for (words, here) in [("5000 pods, 110 here", 110), ("5000 pods, all here", 5000)] {
        let size = Size { pods: 5000, here, services: 1000, endpoints: 10_000 };
        let server = Server::start(cluster::objects_on(&size, &node), Transport::Token)?;
        let found = measure(&binary, Some(&server))?;
        let more = print(words, &found, &base);
        if found.synced > SYNC_MAX || more > MEMORY_MAX_KIB {
            missed.push(words);
        }
    }
    if options.million {
        let size = Size { pods: 110, here: 110, services: 10, endpoints: 10 };
        let server = Server::start(cluster::objects_on(&size, &node), Transport::Token)?;
        server.faults.set(Some("endpointslices"), Fault::Million(1000));
        print("a million endpoints", &measure(&binary, Some(&server))?, &base);
    }
    let limits = format!("{} s and {} MiB", SYNC_MAX.as_secs(), MEMORY_MAX_KIB / 1024);
    ensure!(missed.is_empty(), "over {limits}: {}", missed.join("; "));
    println!("within {limits}");
    Ok(())
}

fn print(words: &str, found: &Measured, base: &Measured) -> u64 {
    let more = found.resident_kib.saturating_sub(base.resident_kib);
    let peak = found.peak_kib.saturating_sub(base.peak_kib);
    println!("{words:34} {:>6} ms {:>+8} KiB {:>+8} KiB", found.synced.as_millis(), more, peak);
    more
}

/// Traces a command that does nothing, until all names are known and memory is at rest.
fn measure(binary: &Path, server: Option<&Server>) -> Result<Measured> {
    let dir = std::env::temp_dir().join(format!("svctrace-bench-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let kubeconfig = dir.join("kubeconfig");
    let mut command = Command::new(binary);
    match server {
        Some(server) => {
            std::fs::write(&kubeconfig, server.kubeconfig())?;
            command.arg("-v").arg("--kubeconfig").arg(&kubeconfig);
        }
        None => {
            command.arg("-v").arg("--no-api");
        }
    }
    command.args(["--", "sleep", "120"]).env_remove("KUBECONFIG").env_remove("SVCTRACE_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let begun = Instant::now();
    let mut child = command.spawn().context("svctrace does not start")?;
    let synced = wait_synced(&mut child, server.is_some(), begun);
    std::thread::sleep(SETTLE);
    let memory = memory(child.id());
    // The first signal is the command's.
    for _ in 0..2 {
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGINT);
        std::thread::sleep(Duration::from_millis(200));
    }
    child.wait()?;
    let _ = std::fs::remove_dir_all(&dir);
    let (resident_kib, peak_kib) = memory;
    Ok(Measured { synced: synced?, resident_kib, peak_kib })
}

/// From the start until the last of the three resources is known whole.
fn wait_synced(child: &mut Child, api: bool, begun: Instant) -> Result<Duration> {
    let errors = child.stderr.take().context("no standard error")?;
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(errors).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    let (mut attached, mut known) = (false, BTreeMap::new());
    let mut said = Vec::new();
    while !attached || api && known.len() < 3 {
        let left = PATIENCE.saturating_sub(begun.elapsed());
        let line = lines.recv_timeout(left).with_context(|| said.join("\n"))?;
        attached |= line.contains("attached to");
        for resource in ["pods", "services", "endpointslices"] {
            if line.contains(&format!(" {resource} known after ")) {
                known.insert(resource, begun.elapsed());
            }
        }
        said.push(line);
    }
    Ok(known.into_values().max().unwrap_or_default())
}

/// Resident now and at the most, of both of svctrace's processes.
fn memory(agent: u32) -> (u64, u64) {
    let children = std::fs::read_to_string(format!("/proc/{agent}/task/{agent}/children"));
    let children = children.unwrap_or_default();
    let pids = children.split_whitespace().map(str::to_owned).chain([agent.to_string()]);
    let ours = |pid: &String| {
        let exe = std::fs::read_link(format!("/proc/{pid}/exe"));
        exe.is_ok_and(|exe| exe.to_string_lossy().contains("svctrace"))
    };
    let mut sum = (0, 0);
    for pid in pids.filter(ours) {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|text| text.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        sum = (sum.0 + field("VmRSS:"), sum.1 + field("VmHWM:"));
    }
    sum
}
