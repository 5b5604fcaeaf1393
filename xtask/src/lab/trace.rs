//! Runs the built svctrace on the lab's node: waits until it is attached, ends it, keeps its output.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{node_command, state};
use crate::interrupt;

/// How the line on stderr begins by which svctrace says that it misses nothing from now on.
pub const ATTACHED: &str = "svctrace: attached";
const STEP: Duration = Duration::from_millis(50);

/// A svctrace that runs on the lab's node. Dropping it kills it.
#[derive(Debug)]
pub struct Trace {
    child: Child,
    started: Instant,
    attached: Receiver<Instant>,
    stdout: Option<JoinHandle<String>>,
    stderr: Option<JoinHandle<String>>,
}

/// What a finished svctrace left behind.
#[derive(Debug)]
pub struct Traced {
    /// Its exit status.
    pub status: ExitStatus,
    /// All it printed.
    pub stdout: String,
    /// All it said.
    pub stderr: String,
}

/// Whether output is also shown while it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// Keep it only.
    Quiet,
    /// Copy it to our own stdout and stderr.
    Show,
}

/// The options that point svctrace at the lab: the node's files, and the API unless `api` is off.
pub fn lab_args(api: bool) -> Vec<String> {
    let mut args = vec!["--host-root".to_owned(), state::host_root().display().to_string()];
    if api {
        args.extend(["--kubeconfig".to_owned(), state::kubeconfig().display().to_string()]);
    }
    args
}

impl Trace {
    /// Starts `binary` in the network namespace of the node of the lab that is up.
    pub fn start<S: AsRef<OsStr>>(
        binary: &Path,
        args: impl IntoIterator<Item = S>,
        echo: Echo,
    ) -> Result<Self> {
        let mut command = node_command(&binary.to_string_lossy())?;
        // Its own process group: Ctrl-C on our terminal reaches it through us only, once.
        command.args(args).stdin(Stdio::null()).process_group(0);
        command.env_remove("KUBECONFIG").stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child =
            command.spawn().with_context(|| format!("cannot start {}", binary.display()))?;
        let (tell, attached) = channel();
        let stdout = child.stdout.take().map(|pipe| {
            collect(pipe, move |line| {
                if echo == Echo::Show {
                    print!("{line}");
                }
            })
        });
        let stderr = child.stderr.take().map(|pipe| {
            collect(pipe, move |line| {
                if line.starts_with(ATTACHED) {
                    // Nobody listens any more once the wait was given up.
                    let _ = tell.send(Instant::now());
                }
                if echo == Echo::Show {
                    eprint!("{line}");
                }
            })
        });
        Ok(Self { child, started, attached, stdout, stderr })
    }

    /// Waits until it says that it is attached; returns how long that took from its start.
    pub fn wait_attached(&mut self, patience: Duration) -> Result<Duration> {
        let deadline = self.started + patience;
        loop {
            match self.attached.recv_timeout(STEP) {
                Ok(when) => return Ok(when - self.started),
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("svctrace ended before it was attached ({status}): {}", self.said());
                }
                Err(RecvTimeoutError::Timeout) => {
                    interrupt::check()?;
                    if Instant::now() > deadline {
                        bail!("svctrace is not attached after {patience:?}");
                    }
                }
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.pid()), signal)?)
    }

    /// Ends it as Ctrl-C would and waits for its summary.
    pub fn finish(self, patience: Duration) -> Result<Traced> {
        self.signal(Signal::SIGINT)?;
        self.wait(patience)
    }

    /// Waits until it ends by itself.
    pub fn wait(mut self, patience: Duration) -> Result<Traced> {
        let deadline = Instant::now() + patience;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                bail!("svctrace does not end within {patience:?}");
            }
            super::pause();
        };
        Ok(Traced { status, stdout: text(self.stdout.take()), stderr: self.said() })
    }

    fn said(&mut self) -> String {
        text(self.stderr.take())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn collect(
    pipe: impl Read + Send + 'static,
    each: impl Fn(&str) + Send + 'static,
) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut all = String::new();
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let text = String::from_utf8_lossy(&line);
            each(&text);
            all += &text;
            line.clear();
        }
        all
    })
}

fn text(thread: Option<JoinHandle<String>>) -> String {
    thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
}
