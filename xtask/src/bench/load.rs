//! Load from pods of the lab: dnsperf through the resolver's Service, wrk through the backend's; and
//! tcpdump beside it. Knows no svctrace.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use xtask::lab::Lab;
use xtask::{cmd, interrupt};

const DNS_SERVICE: &str = "10.96.0.10";
const BACKEND_URL: &str = "http://10.96.100.50/";
/// Names that the lab's resolver knows itself.
const NAMES: usize = 50;
const READY_WITHIN: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(10);

/// What dnsperf did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Asked {
    /// Questions a second.
    pub(super) rate: f64,
    /// Questions that were answered.
    pub(super) answered: u64,
    /// Questions without an answer.
    pub(super) unanswered: u64,
}

/// Writes what dnsperf asks for.
pub(super) fn questions(folder: &Path) -> Result<PathBuf> {
    let file = folder.join("questions.txt");
    let line = |number| format!("svc-{number:02}.critical-app.svc.cluster.local A\n");
    fs::write(&file, (0..NAMES).map(line).collect::<String>())?;
    Ok(file)
}

/// Starts dnsperf in pod `client`, as fast as it goes or `at` so many questions a second.
pub(super) fn start_dnsperf(
    lab: &Lab,
    questions: &Path,
    time: Duration,
    at: Option<u64>,
) -> Result<Child> {
    let mut command = lab.command(lab.pod("client")?, "dnsperf")?;
    command.args(["-s", DNS_SERVICE, "-c", "4", "-q", "100", "-l", &seconds(time), "-d"]);
    command.arg(questions);
    if let Some(rate) = at {
        command.arg("-Q").arg(rate.to_string());
    }
    started(&mut command)
}

/// Waits for dnsperf.
pub(super) fn dnsperf(child: Child) -> Result<Asked> {
    let said = finished(child, "dnsperf")?;
    asked(&said).with_context(|| format!("dnsperf said: {said}"))
}

/// Requests a second that wrk in pod `noisy` gets answered.
pub(super) fn wrk(lab: &Lab, time: Duration) -> Result<f64> {
    let mut command = lab.command(lab.pod("noisy")?, "wrk")?;
    command.args(["-t", "1", "-c", "8", "-d", &format!("{}s", seconds(time)), BACKEND_URL]);
    let said = finished(started(&mut command)?, "wrk")?;
    ensure!(!said.contains("Non-2xx") && !said.contains("Socket errors"), "wrk said: {said}");
    number(&said, "Requests/sec:").with_context(|| format!("wrk said: {said}"))
}

/// `tcpdump -w` of DNS in pod `client`'s network namespace, writing into `file`. Dropping it kills it.
pub(super) struct Tcpdump(Child);

impl Tcpdump {
    /// Starts it and waits until it listens.
    pub(super) fn start(lab: &Lab, folder: &Path, file: &Path) -> Result<Self> {
        let mut command = lab.command(lab.pod("client")?, "tcpdump")?;
        command.args(["-n", "-i", "eth0", "-Z", "root", "-w"]).arg(file).args(["port", "53"]);
        let log = folder.join("tcpdump.log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let child = command.process_group(0).spawn().context("cannot start tcpdump")?;
        let tcpdump = Self(child);
        let deadline = Instant::now() + READY_WITHIN;
        while !fs::read_to_string(&log)?.contains("listening on") {
            interrupt::check()?;
            ensure!(Instant::now() < deadline, "tcpdump: {}", fs::read_to_string(&log)?);
            std::thread::sleep(STEP);
        }
        Ok(tcpdump)
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Ends it as Ctrl-C would; returns how many packets the kernel kept from it.
    pub(super) fn finish(mut self, folder: &Path) -> Result<u64> {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGINT)?;
        self.0.wait()?;
        let said = fs::read_to_string(folder.join("tcpdump.log"))?;
        let dropped = said.lines().find_map(|line| line.strip_suffix(" packets dropped by kernel"));
        dropped.and_then(|n| n.trim().parse().ok()).with_context(|| format!("tcpdump said: {said}"))
    }
}

impl Drop for Tcpdump {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn seconds(time: Duration) -> String {
    time.as_secs().max(1).to_string()
}

fn started(command: &mut Command) -> Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    command.spawn().with_context(|| {
        format!("cannot start `{}` (`cargo xtask setup` installs it)", cmd::line(command))
    })
}

/// What it printed, little enough for its pipe.
fn finished(mut child: Child, name: &str) -> Result<String> {
    while child.try_wait()?.is_none() {
        if interrupt::requested() {
            let _ = child.kill();
        }
        std::thread::sleep(STEP);
    }
    let output = child.wait_with_output()?;
    interrupt::check()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} failed ({}): {said}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn asked(said: &str) -> Option<Asked> {
    let whole = |label| number(said, label).map(|n| n as u64);
    Some(Asked {
        rate: number(said, "Queries per second:")?,
        answered: whole("Queries completed:")?,
        unanswered: whole("Queries lost:")?,
    })
}

/// The number behind `label`.
fn number(said: &str, label: &str) -> Option<f64> {
    said.split_once(label)?.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found() {
        let said = "Statistics:\n\n  Queries sent:         209\n  Queries completed:    207 (99.04%)\n  \
                    Queries lost:         2 (0.96%)\n\n  Queries per second:   68.123456\n";
        let found = Asked { rate: 68.123456, answered: 207, unanswered: 2 };
        assert_eq!(asked(said), Some(found));
        assert_eq!(asked("[Error] nothing"), None);
        assert_eq!(
            number("Requests/sec:  55301.20\nTransfer/sec: 9MB", "Requests/sec:"),
            Some(55301.2)
        );
    }
}
