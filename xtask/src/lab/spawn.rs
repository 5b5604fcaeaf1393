//! Starts programs inside the lab: in a cgroup, a network namespace and a mount namespace.
//! Not `ip netns exec`: that remounts /sys and hides the cgroup tree.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// Which view of the file system a program gets.
pub(crate) enum Mounts {
    /// The caller's own.
    Own,
    /// That of the process with this id.
    Of(i32),
    /// A new one in which each first path covers the second.
    Private(Vec<(PathBuf, PathBuf)>),
}

/// Where a program runs.
pub(crate) struct Place {
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) netns: PathBuf,
    pub(crate) mounts: Mounts,
}

enum Prepared {
    Own,
    Join(File),
    Private(Vec<(CString, CString)>),
}

/// Arranges that `command` enters `place` between fork and exec.
pub(crate) fn enter(command: &mut Command, place: &Place) -> Result<()> {
    let procs = match &place.cgroup {
        Some(folder) => {
            let file = folder.join("cgroup.procs");
            Some(OpenOptions::new().write(true).open(&file).with_context(|| name(&file))?)
        }
        None => None,
    };
    let net = File::open(&place.netns).with_context(|| name(&place.netns))?;
    let mounts = prepare(&place.mounts)?;
    // SAFETY: the closure makes only system calls on descriptors and strings prepared above.
    unsafe {
        command.pre_exec(move || {
            if let Some(procs) = &procs {
                nix::unistd::write(procs, b"0")?;
            }
            setns(&net, CloneFlags::CLONE_NEWNET)?;
            change_mounts(&mounts)
        });
    }
    Ok(())
}

fn name(path: &Path) -> String {
    format!("cannot open {} (is the lab up?)", path.display())
}

fn prepare(mounts: &Mounts) -> Result<Prepared> {
    Ok(match mounts {
        Mounts::Own => Prepared::Own,
        Mounts::Of(pid) => {
            let path = PathBuf::from(format!("/proc/{pid}/ns/mnt"));
            Prepared::Join(File::open(&path).with_context(|| name(&path))?)
        }
        Mounts::Private(binds) => {
            let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
            let pairs = binds.iter().map(|(from, to)| Ok((text(from)?, text(to)?)));
            Prepared::Private(pairs.collect::<Result<_>>()?)
        }
    })
}

fn change_mounts(mounts: &Prepared) -> io::Result<()> {
    let none: Option<&str> = None;
    match mounts {
        Prepared::Own => {}
        Prepared::Join(namespace) => setns(namespace, CloneFlags::CLONE_NEWNS)?,
        Prepared::Private(binds) => {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
            for (from, to) in binds {
                mount(Some(from.as_c_str()), to.as_c_str(), none, MsFlags::MS_BIND, none)?;
            }
        }
    }
    Ok(())
}

/// Runs `work` on a thread that is inside the network namespace at `path`.
pub(crate) fn in_netns<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let net = File::open(path).with_context(|| name(path))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            setns(&net, CloneFlags::CLONE_NEWNET)?;
            work()
        });
        thread.join().map_err(|_| anyhow::anyhow!("a thread inside {} died", path.display()))?
    })
}
