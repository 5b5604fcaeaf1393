//! Finds and removes everything of the lab on this machine, also what a crashed run left.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{cgroups, net, state};

const PATIENCE: Duration = Duration::from_secs(5);

/// Kills the lab's processes and removes its namespaces, cgroups and files.
pub(crate) fn remove() -> Result<()> {
    let parent = cgroups::parent()?;
    let names = net::existing();
    let spared = ancestors();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut running = processes_in(&names);
        running.extend(cgroups::processes(&parent));
        running.retain(|pid| !spared.contains(pid));
        if running.is_empty() {
            break;
        }
        if Instant::now() > deadline {
            bail!("these processes of the lab do not die: {running:?}");
        }
        for pid in running {
            // One that ended in between is what we want.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    net::delete(&names)?;
    while !cgroups::remove(&parent) {
        if Instant::now() > deadline {
            bail!("cannot remove {}: something still runs in it", parent.display());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    state::remove_folder()
}

/// What is there of the lab, one line each; empty when nothing is.
pub fn list() -> Result<Vec<String>> {
    let mut lines = Vec::new();
    let names = net::existing();
    let parent = cgroups::parent()?;
    lines.extend(names.iter().map(|name| format!("network namespace {name}")));
    if parent.exists() {
        lines.push(format!("cgroup {}", parent.display()));
    }
    let mut running = processes_in(&names);
    running.extend(cgroups::processes(&parent));
    for pid in running {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        lines.push(format!("process {pid} {}", name.trim()));
    }
    if state::folder().exists() {
        lines.push(format!("folder {}", state::folder().display()));
    }
    Ok(lines)
}

/// Processes whose network namespace is one of `names`.
fn processes_in(names: &[String]) -> BTreeSet<i32> {
    let inodes: Vec<u64> =
        names.iter().filter_map(|name| Some(fs::metadata(net::path(name)).ok()?.ino())).collect();
    let mut found = BTreeSet::new();
    let Ok(entries) = fs::read_dir("/proc") else { return found };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let namespace = fs::metadata(entry.path().join("ns/net"));
        if namespace.is_ok_and(|meta| inodes.contains(&meta.ino())) {
            found.insert(pid);
        }
    }
    found
}

/// This process and those it was started by: a shell inside the lab may call `lab down`.
fn ancestors() -> BTreeSet<i32> {
    let mut line = BTreeSet::new();
    let mut pid = std::process::id().cast_signed();
    while pid > 0 && line.insert(pid) {
        pid = parent(pid).unwrap_or(0);
    }
    line
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The name in parentheses may hold anything; the parent is the second field after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
