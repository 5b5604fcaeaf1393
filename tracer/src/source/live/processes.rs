//! Facts about running processes from /proc, as far as they can be read; a process that is gone by
//! then is simply not told about.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt;

use procfs::process::Process;

use super::cgroups::Mount;
use super::convert::escape;
use crate::context;

/// Longest name read; the kernel's own limit is 16.
const COMM_MAX: u64 = 64;
/// Most bytes of a command's words.
const ARGUMENTS_MAX: u64 = 4096;

/// What /proc says about `pid` now.
pub(super) fn describe(pid: u32, mount: &Mount) -> Option<context::Process> {
    let process = Process::new(i32::try_from(pid).ok()?).ok()?;
    let stat = process.stat().ok()?;
    let v2 = mount.of_process(pid);
    let cgroup_path = match &v2 {
        Some(group) if group.dir != mount.root() => Some(mount.relative(&group.dir)),
        _ => v1_path(&process).or_else(|| v2.as_ref().map(|_| "/".to_owned())),
    };
    Some(context::Process {
        pid,
        ppid: u32::try_from(stat.ppid).ok().filter(|ppid| *ppid != 0),
        comm: comm(pid).unwrap_or_else(|| escape(stat.comm.as_bytes())),
        exe: process.exe().ok().map(|path| escape(path.as_os_str().as_encoded_bytes())),
        cgroup: v2.map(|group| group.id),
        cgroup_path,
        mnt_ns: namespace(pid, "mnt"),
        net_ns: namespace(pid, "net"),
        uid: process.uid().ok(),
    })
}

/// Arguments of a process's command, from the second word on, each with a NUL behind it.
pub(super) fn arguments(pid: u32) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = fs::File::open(format!("/proc/{pid}/cmdline")).ok()?;
    file.take(ARGUMENTS_MAX).read_to_end(&mut bytes).ok()?;
    let first = bytes.iter().position(|byte| *byte == 0)?;
    let words = bytes.split_off(first + 1);
    (!words.is_empty()).then_some(words)
}

/// Name of a process, escaped.
pub(super) fn comm(pid: u32) -> Option<String> {
    let mut bytes = Vec::new();
    fs::File::open(format!("/proc/{pid}/comm"))
        .ok()?
        .take(COMM_MAX)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(escape(bytes.strip_suffix(b"\n").unwrap_or(&bytes)))
}

/// Inode of a namespace of `pid`: `mnt`, `net`, ...
pub(super) fn namespace(pid: u32, kind: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/{kind}")).ok().map(|data| data.ino())
}

/// Whether a process with this id exists.
pub(super) fn exists(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}/stat")).unwrap_or(false)
}

/// A process's path in the v1 hierarchy most likely to tell containers apart.
fn v1_path(process: &Process) -> Option<String> {
    let groups = process.cgroups().ok()?;
    let rank = |controllers: &[String]| {
        ["name=systemd", "memory", "pids"]
            .iter()
            .position(|name| controllers.iter().any(|c| c == name))
    };
    groups
        .into_iter()
        .filter(|group| group.hierarchy != 0 && group.pathname != "/")
        .filter_map(|group| Some((rank(&group.controllers)?, group.pathname)))
        .min()
        .map(|(_, path)| escape(path.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn describes_this_process() {
        let Ok(mount) = Mount::find() else {
            eprintln!("skipped: no cgroup2 mount");
            return;
        };
        let process = describe(std::process::id(), &mount).unwrap();
        assert!(process.mnt_ns.is_some() && process.net_ns.is_some());
        assert!(!process.comm.is_empty() && process.cgroup_path.is_some());
        assert!(describe(u32::MAX, &mount).is_none());
    }
}
