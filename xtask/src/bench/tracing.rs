//! A svctrace that traces a pod of the lab while something is measured: what it saw and lost, and the
//! processor time and memory of its two processes. Makes no load.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::interrupt;
use xtask::lab::node_command;
use xtask::lab::trace::{ATTACHED, lab_args};

const PATIENCE: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(10);

/// A svctrace that traces pod `client`. Dropping it kills it.
pub(super) struct Tracing {
    child: Child,
    output: PathBuf,
    errors: PathBuf,
}

/// What its summary says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    pub(super) seen: u64,
    pub(super) lost: u64,
}

/// Memory of both processes, KiB.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    /// Resident: a page that both have, or that one has mapped twice, counts twice.
    pub(super) resident: u64,
    /// Of that, its own.
    pub(super) anonymous: u64,
    /// Of that, maps shared with the kernel: the ring buffers, whose data stand in memory once and in
    /// the address space twice.
    pub(super) maps: u64,
    /// Of that, the program's and libraries' files.
    pub(super) file: u64,
    /// Proportional: each page by the part of its mappings that are these processes'.
    pub(super) proportional: u64,
}

impl Tracing {
    /// Starts `binary` on the lab's node and waits until it is attached.
    pub(super) fn start(binary: &Path, folder: &Path, more: &[String]) -> Result<Self> {
        let (output, errors) = (folder.join("svctrace.out"), folder.join("svctrace.err"));
        let mut command = node_command(&binary.to_string_lossy())?;
        command.args(lab_args(true)).args(["--pod", "client", "-n", "critical-app"]).args(more);
        command.env_remove("KUBECONFIG").env_remove("SVCTRACE_LOG").process_group(0);
        command.stdin(Stdio::null()).stdout(File::create(&output)?).stderr(File::create(&errors)?);
        let child = command.spawn().with_context(|| binary.display().to_string())?;
        let mut tracing = Self { child, output, errors };
        let deadline = Instant::now() + PATIENCE;
        while !fs::read_to_string(&tracing.errors)?.contains(ATTACHED) {
            interrupt::check()?;
            let ended = tracing.child.try_wait()?.is_some();
            ensure!(!ended && Instant::now() < deadline, "svctrace: {}", tracing.said());
            std::thread::sleep(STEP);
        }
        Ok(tracing)
    }

    /// The ids of its two processes.
    pub(super) fn processes(&self) -> Vec<u32> {
        let agent = self.child.id();
        let children = fs::read_to_string(format!("/proc/{agent}/task/{agent}/children"));
        let children = children.unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        std::iter::once(agent).chain(children).collect()
    }

    /// Ends it as Ctrl-C would.
    pub(super) fn finish(mut self) -> Result<Told> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT)?;
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "svctrace does not end");
            std::thread::sleep(STEP);
        }
        let text = fs::read_to_string(&self.output)?;
        told(&text).with_context(|| format!("svctrace has no summary: {}", self.said()))
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }
}

impl Drop for Tracing {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Processor time of these processes' threads up to now. To the nanosecond: a program that does little
/// takes less than a tick of `/proc/PID/stat`.
pub(super) fn cpu(processes: &[u32]) -> Result<Duration> {
    let mut sum = 0;
    for pid in processes {
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let file = task?.path().join("schedstat");
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            sum += running_ns(&text).with_context(|| file.display().to_string())?;
        }
    }
    Ok(Duration::from_nanos(sum))
}

fn running_ns(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// Memory of these processes now.
pub(super) fn memory(processes: &[u32]) -> Result<Memory> {
    let mut sum = Memory::default();
    for pid in processes {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        sum.resident += kib(&status, "VmRSS:");
        sum.anonymous += kib(&status, "RssAnon:");
        let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
        let maps = of_maps(&smaps);
        sum.maps += maps;
        // The kernel counts them among the files.
        sum.file += kib(&status, "RssFile:").saturating_sub(maps);
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        sum.proportional += kib(&rollup, "Pss:");
    }
    Ok(sum)
}

fn kib(text: &str, label: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(label));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// Resident KiB of the mappings of BPF maps in `/proc/PID/smaps`.
fn of_maps(smaps: &str) -> u64 {
    let (mut sum, mut inside) = (0, false);
    for line in smaps.lines() {
        match line.split_whitespace().next() {
            Some("Rss:") if inside => sum += kib(line, "Rss:"),
            // The first line of a mapping begins with its addresses.
            Some(word) if !word.ends_with(':') => inside = line.ends_with("bpf-map"),
            _ => {}
        }
    }
    sum
}

/// `summary  12.0 s, 99 events seen, 3 lost`
fn told(text: &str) -> Option<Told> {
    let line = text.lines().rev().find(|line| line.starts_with("summary"))?;
    let number = |label: &str| -> Option<u64> {
        line.split_once(label)?.0.split_whitespace().next_back()?.parse().ok()
    };
    Some(Told { seen: number(" event")?, lost: number(" lost")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_summaries_are_read() {
        assert_eq!(running_ns("281000 31 5\n"), Some(281_000));
        let told = told("x\nsummary  12.0 s, 99 events seen, 3 lost\n  lookups  none\n").unwrap();
        assert_eq!((told.seen, told.lost), (99, 3));
        assert_eq!(kib("Rss:  9 kB\nPss:      12 kB\nPss_Dirty: 7 kB\n", "Pss:"), 12);
        let smaps = "7f00-7f10 rw-s 00001000 00:0f 12 anon_inode:bpf-map\nSize:  64 kB\nRss:   64 kB\n\
                     7f20-7f30 r--p 00000000 fe:00 99 /usr/lib/libc.so.6\nRss:   20 kB\n";
        assert_eq!(of_maps(smaps), 64);
    }
}
