//! `-- COMMAND`: a cgroup of its own, a child that waits in it until the probes are attached, then
//! the program as the invoking user. Leftover cgroups of earlier runs are removed.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use nix::libc;
use nix::sys::signal::SigSet;
use nix::unistd::{Pid, pipe2};

use super::cgroups::{self, Directory, Mount};
use super::invoker::Invoker;
use super::processes;

const PREFIX: &str = "svctrace-";

/// A command waiting for its start.
pub(super) struct Waiting {
    go: File,
    thread: JoinHandle<io::Result<Child>>,
    /// Its cgroup.
    pub(super) group: OwnGroup,
    /// The program as the user wrote it.
    pub(super) name: String,
}

/// A command that runs.
pub(super) struct Running {
    child: Child,
    name: String,
    _group: OwnGroup,
}

/// The cgroup of a command; removed when it is empty.
pub(super) struct OwnGroup {
    /// Where it is.
    pub(super) directory: Directory,
}

impl Drop for OwnGroup {
    fn drop(&mut self) {
        // What is killed leaves its cgroup a moment later; what goes on keeps it until the next run.
        for _ in 0..20 {
            if fs::remove_dir(&self.directory.dir).is_ok() || !self.directory.dir.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Starts a child in a cgroup of its own; it runs `command` only after [`Waiting::go`].
pub(super) fn prepare(
    mount: &Mount,
    command: &[OsString],
    invoker: Option<&Invoker>,
) -> anyhow::Result<Waiting> {
    let (program, arguments) = command.split_first().context("no command to run")?;
    let dir = mount.root().join(format!("{PREFIX}{}", Pid::this()));
    fs::create_dir_all(&dir).with_context(|| format!("cannot make cgroup {}", dir.display()))?;
    let group = OwnGroup { directory: mount.directory(&dir)? };
    let join = fs::OpenOptions::new().write(true).open(dir.join("cgroup.procs"))?;
    let (go_in, go_out) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let (ready_in, ready_out) = pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let (go_out, ready_out) = (File::from(go_out), File::from(ready_out));

    let mut child = Command::new(program);
    child.args(arguments);
    if let Some(invoker) = invoker {
        child.envs(invoker.environment().iter().map(|(name, value)| (name, value)));
    }
    let invoker = invoker.cloned();
    let own_end = go_out.as_raw_fd();
    // SAFETY: between fork and exec the closure makes only system calls on memory that was
    // prepared before; it allocates nothing.
    unsafe {
        child.pre_exec(move || {
            wait_in_cgroup(&join, own_end, ready_out.as_raw_fd(), go_in.as_raw_fd())?;
            invoker.as_ref().map_or(Ok(()), Invoker::become_user)
        });
    }
    let name = program.to_string_lossy().into_owned();
    // spawn() returns only after exec, so it has a thread of its own.
    let thread = std::thread::Builder::new().name("command".into()).spawn(move || child.spawn())?;
    let mut ready = [0; 1];
    match File::from(ready_in).read(&mut ready) {
        Ok(1) => Ok(Waiting { go: go_out, thread, group, name }),
        _ => match thread.join() {
            Ok(Err(error)) => Err(anyhow!("cannot start {name}: {error}")),
            _ => Err(anyhow!("cannot start {name}")),
        },
    }
}

fn wait_in_cgroup(mut join: &File, own_end: RawFd, ready: RawFd, go: RawFd) -> io::Result<()> {
    // The agent's threads have their signals blocked; the command must not inherit that.
    SigSet::empty().thread_set_mask()?;
    join.write_all(b"0")?;
    let mut byte = [0_u8; 1];
    // SAFETY: plain system calls on descriptors this child inherited; `byte` outlives them. The
    // child's copy of the writing end must go, or it would never see that the agent died.
    let count = unsafe {
        libc::close(own_end);
        libc::write(ready, byte.as_ptr().cast(), 1);
        loop {
            let count = libc::read(go, byte.as_mut_ptr().cast(), 1);
            if count >= 0 || *libc::__errno_location() != libc::EINTR {
                break count;
            }
        }
    };
    if count == 1 { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ECANCELED)) }
}

impl Waiting {
    /// Lets the command run.
    pub(super) fn go(mut self) -> anyhow::Result<Running> {
        let _ = self.go.write_all(&[1]);
        drop(self.go);
        match self.thread.join() {
            Ok(Ok(child)) => Ok(Running { child, name: self.name, _group: self.group }),
            Ok(Err(error)) => Err(anyhow!("cannot run {}: {error}", self.name)),
            Err(_) => Err(anyhow!("cannot run {}", self.name)),
        }
    }
}

impl Running {
    /// How the command ended, in words, if it did.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!("{} {}", self.name, in_words(status)))
    }

    /// Passes a signal on.
    pub(super) fn signal(&self, signal: nix::sys::signal::Signal) {
        let _ = nix::sys::signal::kill(Pid::from_raw(self.child.id() as i32), signal);
    }
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

/// Removes empty cgroups of earlier runs whose agent (or self-test) is dead.
pub(super) fn remove_leftovers(mount: &Mount) {
    for entry in fs::read_dir(mount.root()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| maker(name)?.parse().ok());
        if pid.is_some_and(|pid| !processes::exists(pid)) && is_empty(&entry.path()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Process id in the name of a cgroup that svctrace makes.
fn maker(name: &str) -> Option<&str> {
    let name = name.strip_prefix(PREFIX)?;
    let name = name.strip_prefix("selftest-").unwrap_or(name);
    Some(name.strip_suffix("-resolver").unwrap_or(name))
}

fn is_empty(dir: &Path) -> bool {
    cgroups::processes(dir).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_by_name() {
        for name in ["svctrace-77", "svctrace-selftest-77", "svctrace-selftest-77-resolver"] {
            assert_eq!(maker(name), Some("77"));
        }
        assert_eq!(maker("system.slice"), None);
    }
}
