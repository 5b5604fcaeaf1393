//! Facts about running processes from /proc, as far as they can be read; a process that is gone by
//! then is simply not told about.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt;

use procfs::process::Process;

use super::cgroups::Mount;
use crate::text::visible_bytes;
use crate::{cgroup_path, context};

/// Longest name read; the kernel's own limit is 16.
const COMM_MAX: u64 = 64;
/// Most bytes of a command's words.
const ARGUMENTS_MAX: u64 = 4096;

/// What /proc says about `pid` now.
pub(super) fn describe(pid: u32, mount: &Mount) -> Option<context::Process> {
    let process = Process::new(i32::try_from(pid).ok()?).ok()?;
    let stat = process.stat().ok()?;
    let v2 = mount.of_process(pid);
    let cgroup_path = path(&process, v2.as_ref().map(|group| mount.relative(&group.dir)));
    Some(context::Process {
        pid,
        ppid: u32::try_from(stat.ppid).ok().filter(|ppid| *ppid != 0),
        comm: comm(pid).unwrap_or_else(|| visible_bytes(stat.comm.as_bytes())),
        exe: process.exe().ok().map(|path| visible_bytes(path.as_os_str().as_encoded_bytes())),
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
    Some(visible_bytes(bytes.strip_suffix(b"\n").unwrap_or(&bytes)))
}

/// Inode of a namespace of `pid`: `mnt`, `net`, ...
pub(super) fn namespace(pid: u32, kind: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/{kind}")).ok().map(|data| data.ino())
}

/// Whether a process with this id exists.
pub(super) fn exists(pid: u32) -> bool {
    fs::exists(format!("/proc/{pid}/stat")).unwrap_or(false)
}

/// The cgroup path of `pid` that says most.
pub(super) fn cgroup_path(pid: u32, mount: &Mount) -> Option<String> {
    let process = Process::new(i32::try_from(pid).ok()?).ok()?;
    let v2 = mount.of_process(pid).map(|group| mount.relative(&group.dir));
    path(&process, v2)
}

fn path(process: &Process, v2: Option<String>) -> Option<String> {
    let groups = process.cgroups().map(|groups| groups.0).unwrap_or_default();
    let v1 = groups.into_iter().filter(|group| group.hierarchy != 0);
    let v1: Vec<_> = v1.map(|group| (group.controllers, group.pathname)).collect();
    best(v2, &v1)
}

/// The v2 path, unless only one in a v1 hierarchy names a pod or container; where the v2 path is the
/// root, that of the v1 hierarchy most likely to tell containers apart.
fn best(v2: Option<String>, v1: &[(Vec<String>, String)]) -> Option<String> {
    let says = |path: &str| {
        let facts = cgroup_path::parse(path);
        u8::from(facts.pod.is_some()) * 2 + u8::from(facts.container.is_some())
    };
    let rank = |controllers: &[String]| {
        ["name=systemd", "memory", "pids"]
            .iter()
            .position(|name| controllers.iter().any(|controller| controller == name))
    };
    let ranked = v1.iter().filter(|(_, path)| path != "/");
    let ranked = ranked.filter_map(|(controllers, path)| Some((rank(controllers)?, path)));
    let first = ranked.min_by_key(|(rank, path)| (std::cmp::Reverse(says(path)), *rank));
    let v1 = first.map(|(_, path)| visible_bytes(path.as_bytes()));
    match (v2, v1) {
        (Some(v2), Some(v1)) if v2 == "/" || says(&v2) == 0 && says(&v1) > 0 => Some(v1),
        (Some(v2), _) => Some(v2),
        (None, v1) => v1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_that_says_most() {
        let cid = "b3a7".repeat(16);
        let pod = format!("/kubepods/burstable/podaa7be809be48ec01ab43fd4f1ca22e9e/{cid}");
        let row = |name: &str, path: &str| (vec![name.to_owned()], path.to_owned());
        let unit = "/system.slice/x.service";
        let all =
            [row("pids", &pod), row("name=systemd", unit), row("cpuset", "/a"), row("memory", "/")];
        let best = |v2: Option<&str>, v1: &[_]| best(v2.map(str::to_owned), v1);
        assert_eq!(best(Some("/"), &all).as_deref(), Some(pod.as_str()), "hybrid, empty v2 tree");
        assert_eq!(best(Some(unit), &all).as_deref(), Some(pod.as_str()), "v2 says only the unit");
        assert_eq!(best(None, &all[1..]).as_deref(), Some(unit), "v1 only");
        assert_eq!(best(Some(&pod), &all[1..]).as_deref(), Some(pod.as_str()));
        assert_eq!(best(Some(unit), &all[2..]).as_deref(), Some(unit));
        assert_eq!(best(Some("/"), &[]).as_deref(), Some("/"));
        let up = format!("/../../kubepods/pod{}/{cid}", "a".repeat(32));
        assert_eq!(best(Some("/"), &[row("pids", &up)]).as_deref(), Some(up.as_str()));
    }

    #[test]
    fn describes_this_process() {
        let Ok(mount) = Mount::find() else {
            say!("skipped: no cgroup2 mount");
            return;
        };
        let process = describe(std::process::id(), &mount).unwrap();
        assert!(process.mnt_ns.is_some() && process.net_ns.is_some());
        assert!(!process.comm.is_empty() && process.cgroup_path.is_some());
        assert!(describe(u32::MAX, &mount).is_none());
    }
}
