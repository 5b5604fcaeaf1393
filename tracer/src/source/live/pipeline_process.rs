//! Starting the second process and learning how it ended.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;

use super::invoker::environment;
use super::link::Sender;
use super::rights;

/// Exit code of both processes: usage or environment.
pub(super) const REFUSED: u8 = 2;
/// Time for the process to map the ring buffer.
const START: Duration = Duration::from_secs(10);

/// What of our environment it gets: how its log looks. The rest may hold secrets.
const ENVIRONMENT: [&str; 8] = [
    "SVCTRACE_LOG",
    "RUST_BACKTRACE",
    "TERM",
    "COLORTERM",
    "NO_COLOR",
    "CLICOLOR",
    "CLICOLOR_FORCE",
    "CI",
];

/// The process that turns records into answers. Dropped before it is ready, it is ended.
pub(super) struct PipelineProcess {
    child: Child,
    socket: Option<UnixStream>,
    ready: bool,
}

impl Drop for PipelineProcess {
    fn drop(&mut self) {
        if !self.ready && matches!(self.child.try_wait(), Ok(None)) {
            self.kill();
        }
    }
}

impl PipelineProcess {
    /// Runs this program again as `pipeline --fd N …`, with the other end of [`Self::socket`].
    /// `inherited` descriptors stay open there, and only there.
    pub(super) fn start(arguments: Vec<OsString>, inherited: Vec<OwnedFd>) -> anyhow::Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("cannot make a socket pair")?;
        let fd = theirs.as_raw_fd();
        let kept: Vec<i32> =
            inherited.iter().map(|fd| fd.as_raw_fd()).filter(|fd| *fd > 2).chain([fd]).collect();
        let mut command = Command::new("/proc/self/exe");
        command.arg("pipeline").arg("--fd").arg(fd.to_string()).args(arguments);
        if let Some(user) = rights::pipeline_user() {
            command.arg("--user").arg(user.to_string());
        }
        command.env_clear().stdin(Stdio::null());
        command.envs(ENVIRONMENT.iter().filter_map(|name| Some((name, environment(name)?))));
        // SAFETY: only system calls between fork and exec.
        unsafe {
            command.pre_exec(move || {
                SigSet::empty().thread_set_mask()?;
                // Ctrl-C reaches the whole process group, also before the pipeline can ignore it.
                for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                    libc::signal(signal, libc::SIG_IGN);
                }
                for fd in &kept {
                    if libc::fcntl(*fd, libc::F_SETFD, 0) == -1 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let child = command.spawn().context("cannot start the pipeline process")?;
        Ok(Self { child, socket: Some(ours), ready: false })
    }

    /// Our end of the line to it, once.
    pub(super) fn socket(&mut self) -> anyhow::Result<UnixStream> {
        self.socket.take().context("the line to the pipeline process is in use")
    }

    /// Waits until it has mapped the ring buffer.
    pub(super) fn wait_ready(&mut self, link: &mut Sender) -> anyhow::Result<()> {
        loop {
            match link.ready() {
                Ok(Some(())) => {
                    self.ready = true;
                    return Ok(());
                }
                Ok(None) => {}
                Err(_) => bail!("the pipeline process ended at once ({})", self.how_it_ended()),
            }
            let timeout = PollTimeout::try_from(START).unwrap_or(PollTimeout::MAX);
            let fd: BorrowedFd<'_> = std::os::fd::AsFd::as_fd(link);
            if poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], timeout) == Ok(0) {
                bail!("the pipeline process did not start within {} s", START.as_secs());
            }
        }
    }

    /// Whether it ended by itself for want of something here.
    pub(super) fn refused(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(status)) if status.code() == Some(REFUSED.into()))
    }

    fn how_it_ended(&mut self) -> String {
        self.child.wait().map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    /// Its exit code once it has ended; 3 (incomplete) when it was killed.
    pub(super) fn ended(&mut self) -> Option<u8> {
        let status = self.child.try_wait().ok()??;
        match status.code() {
            Some(code) => Some(u8::try_from(code).unwrap_or(3)),
            None => {
                say!("svctrace: the pipeline process was killed ({status})");
                Some(3)
            }
        }
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
