//! What a finished process used, and how it ended. Starts nothing.

use std::io;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use anyhow::Result;
use nix::libc;

/// The end of a process.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// How it ended.
    pub status: ExitStatus,
    /// User and system time.
    pub cpu: Duration,
    /// Peak resident memory, KiB.
    pub rss_kib: u64,
}

/// Waits for the end of `child`.
pub fn wait(child: Child) -> Result<Usage> {
    let pid = libc::pid_t::try_from(child.id())?;
    let mut status = 0;
    // SAFETY: rusage is plain numbers; all zero is a value of it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to locals that live through the call; nobody else waits for the
    // child, which is ours alone.
    while unsafe { libc::wait4(pid, &mut status, 0, &mut usage) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error.into());
        }
    }
    let time = |t: libc::timeval| {
        Duration::from_secs(u64::try_from(t.tv_sec).unwrap_or_default())
            + Duration::from_micros(u64::try_from(t.tv_usec).unwrap_or_default())
    };
    Ok(Usage {
        status: std::os::unix::process::ExitStatusExt::from_raw(status),
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        rss_kib: u64::try_from(usage.ru_maxrss).unwrap_or_default(),
    })
}
