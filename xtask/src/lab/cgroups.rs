//! The cgroup2 side of the lab: kubelet-style folders below one parent of our own, and killing
//! what runs in them. A kubelet removes unknown folders below /kubepods, hence the own parent.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::pods::Qos;

const PARENT: &str = "svct-lab";

/// Where the cgroup2 tree is mounted (hybrid machines have it below /sys/fs/cgroup/unified).
pub fn mount_point() -> Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read mountinfo")?;
    for line in table.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        if after.split(' ').next() == Some("cgroup2")
            && let Some(path) = before.split(' ').nth(4)
        {
            return Ok(PathBuf::from(path));
        }
    }
    bail!(
        "no cgroup2 file system is mounted: `mount -t cgroup2 none /sys/fs/cgroup` or boot with systemd's unified hierarchy"
    )
}

/// The folder that holds everything of the lab.
pub fn parent() -> Result<PathBuf> {
    Ok(mount_point()?.join(PARENT))
}

/// A container's folder as kubelet's systemd driver and containerd name it.
pub(crate) fn container(parent: &Path, qos: Qos, uid: &str, container_id: &str) -> PathBuf {
    let uid = uid.replace('-', "_");
    let mut path = parent.join("kubepods.slice");
    match qos.slice() {
        Some(class) => {
            path.push(format!("kubepods-{class}.slice"));
            path.push(format!("kubepods-{class}-pod{uid}.slice"));
        }
        None => path.push(format!("kubepods-pod{uid}.slice")),
    }
    path.push(format!("cri-containerd-{container_id}.scope"));
    path
}

/// Makes the folder and returns its id, as BPF helpers see it.
pub(crate) fn make(path: &Path) -> Result<u64> {
    fs::create_dir_all(path).with_context(|| format!("cannot make cgroup {}", path.display()))?;
    Ok(fs::metadata(path)?.ino())
}

/// Process ids in the whole tree below `path`.
pub(crate) fn processes(path: &Path) -> Vec<i32> {
    let mut found = Vec::new();
    for folder in folders(path) {
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    found
}

/// Removes the (empty) tree, deepest first; returns whether all of it went.
pub(crate) fn remove(path: &Path) -> bool {
    for folder in folders(path).iter().rev() {
        let _ = fs::remove_dir(folder);
    }
    !path.exists()
}

/// `path` and every folder below it, parents first.
fn folders(path: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut open = vec![path.to_path_buf()];
    while let Some(folder) = open.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        let inner = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        open.extend(inner.map(|entry| entry.path()));
        all.push(folder);
    }
    all
}
