//! The cgroup2 tree as directories: where it is mounted, ids, walks, and which directory belongs
//! to a pod or container. Reads names only; who is behind a pod is not known here.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use procfs::process::Process;

use super::probes::cgroup_root;
pub(super) use crate::cgroup_path::{container_id, pod_uid};
use crate::text::visible_bytes;

/// Most directories one walk looks at; a node has some hundreds.
const WALK_MAX: usize = 100_000;
/// Deepest nesting that is followed.
const DEPTH_MAX: usize = 32;

/// The cgroup2 mount.
#[derive(Clone, Debug)]
pub(super) struct Mount {
    root: PathBuf,
}

/// One cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directory {
    /// Inode of the directory, which is the cgroup's id.
    pub(super) id: u64,
    /// Absolute.
    pub(super) dir: PathBuf,
}

impl Directory {
    /// Whether it is still this cgroup that stands there.
    pub(super) fn exists(&self) -> bool {
        directory_id(&self.dir) == Some(self.id)
    }
}

impl Mount {
    /// Finds it in this process's mounts; the one that shows the whole tree is preferred.
    pub(super) fn find() -> anyhow::Result<Self> {
        Ok(Self { root: cgroup_root()? })
    }

    /// The directory of the root cgroup.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The cgroup in `dir`, an absolute path under the mount or one relative to it.
    pub(super) fn directory(&self, path: &Path) -> anyhow::Result<Directory> {
        let dir = if path.starts_with(&self.root) {
            path.to_owned()
        } else {
            self.root.join(path.strip_prefix("/").unwrap_or(path))
        };
        let shown = path.display();
        let dir = dir.canonicalize().with_context(|| {
            format!("no such cgroup: {shown} (looked under {})", self.root.display())
        })?;
        if !dir.starts_with(&self.root) {
            bail!("{shown} is not below the cgroup2 mount {}", self.root.display());
        }
        let id = directory_id(&dir).with_context(|| format!("{shown} is not a cgroup"))?;
        Ok(Directory { id, dir })
    }

    /// Path below the mount, starting with `/`.
    pub(super) fn relative(&self, dir: &Path) -> String {
        let below = dir.strip_prefix(&self.root).unwrap_or(dir);
        format!("/{}", visible_bytes(below.as_os_str().as_encoded_bytes()))
    }

    /// The cgroups above `dir`, the root last.
    pub(super) fn above(&self, dir: &Path) -> Vec<Directory> {
        dir.ancestors()
            .skip(1)
            .take_while(|above| above.starts_with(&self.root))
            .filter_map(|above| Some(Directory { id: directory_id(above)?, dir: above.to_owned() }))
            .collect()
    }

    /// The v2 cgroup of a process.
    pub(super) fn of_process(&self, pid: u32) -> Option<Directory> {
        let groups = Process::new(i32::try_from(pid).ok()?).ok()?.cgroups().ok()?;
        let group = groups.into_iter().find(|group| group.hierarchy == 0)?;
        self.directory(Path::new(group.pathname.strip_prefix('/')?)).ok()
    }

    /// All cgroups whose directory belongs to a pod with `uid` (as in a [`pod_uid`] segment). A
    /// pod's own cgroup only, none below it.
    pub(super) fn pods(&self, uid: &str) -> Vec<Directory> {
        let mut found = Vec::new();
        walk(&self.root, &mut |directory| {
            let hit = segment(&directory.dir).and_then(pod_uid).is_some_and(|at| at == uid);
            if hit {
                found.push(directory.clone());
            }
            !hit
        });
        found
    }

    /// All pods' cgroups, by UID: [`Self::pods`] for all of them in one walk.
    pub(super) fn by_pod(&self) -> HashMap<String, Vec<Directory>> {
        let mut found: HashMap<String, Vec<Directory>> = HashMap::new();
        walk(&self.root, &mut |directory| {
            let uid = segment(&directory.dir).and_then(pod_uid);
            let go_on = uid.is_none();
            if let Some(uid) = uid {
                found.entry(uid).or_default().push(directory.clone());
            }
            go_on
        });
        found
    }

    /// UIDs of all pods that have a cgroup here.
    pub(super) fn pod_uids(&self) -> Vec<String> {
        self.by_pod().into_keys().collect()
    }

    /// The pod that `dir` is or lies in: its UID and own cgroup.
    pub(super) fn pod_around(&self, dir: &Path) -> Option<(String, Directory)> {
        dir.ancestors().take_while(|at| at.starts_with(&self.root)).find_map(|at| {
            let uid = pod_uid(segment(at)?)?;
            Some((uid, Directory { id: directory_id(at)?, dir: at.to_owned() }))
        })
    }

    /// The containers that have a cgroup here: runtime id and directory.
    pub(super) fn containers(&self) -> Vec<(String, Directory)> {
        let mut found = Vec::new();
        walk(&self.root, &mut |directory| {
            if let Some(id) = segment(&directory.dir).and_then(container_id) {
                found.push((id.to_owned(), directory.clone()));
            }
            true
        });
        found
    }
}

/// The containers in a pod's cgroup, none inside others: runtime id and directory.
pub(super) fn containers_of(pod: &Path) -> Vec<(String, Directory)> {
    let mut found = Vec::new();
    walk(pod, &mut |directory| match segment(&directory.dir).and_then(container_id) {
        Some(id) => {
            found.push((id.to_owned(), directory.clone()));
            false
        }
        None => true,
    });
    found
}

/// In a container with a cgroup namespace of its own, paths in /proc are relative to it and other
/// containers lie outside: goes into the namespace of process 1, which is the host's where the agent
/// shares the host's process ids. Later threads inherit it.
pub(super) fn join_host_namespace() {
    let (own, host) = ("/proc/self/ns/cgroup", "/proc/1/ns/cgroup");
    let inode = |path| fs::metadata(path).ok().map(|data| data.ino());
    let (Some(ours), Some(theirs)) = (inode(own), inode(host)) else { return };
    if ours == theirs {
        return;
    }
    let joined = fs::File::open(host)
        .map_err(anyhow::Error::from)
        .and_then(|file| Ok(nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWCGROUP)?));
    if let Err(error) = joined {
        tracing::warn!("cannot see the host's cgroup paths: {error:#}");
    }
}

/// `dir` and everything below it.
pub(super) fn below(dir: &Path) -> Vec<Directory> {
    let mut found = Vec::new();
    walk(dir, &mut |directory| {
        found.push(directory.clone());
        true
    });
    found
}

/// Processes of `dir` and of everything below it.
pub(super) fn processes(dir: &Path) -> Vec<u32> {
    let mut pids: Vec<u32> =
        below(dir).iter().flat_map(|group| own_processes(&group.dir)).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Processes of `dir` itself. 0 stands for those of another pid namespace.
pub(super) fn own_processes(dir: &Path) -> Vec<u32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid != 0).collect()
}

fn segment(dir: &Path) -> Option<&str> {
    dir.file_name()?.to_str()
}

fn directory_id(dir: &Path) -> Option<u64> {
    fs::metadata(dir).ok().filter(fs::Metadata::is_dir).map(|data| data.ino())
}

/// Calls `visit` for `dir` and all below it, parents first; where it returns false goes no deeper.
fn walk(dir: &Path, visit: &mut dyn FnMut(&Directory) -> bool) {
    let Some(id) = directory_id(dir) else { return };
    let mut stack = vec![(Directory { id, dir: dir.to_owned() }, 0)];
    let mut seen = 0;
    while let Some((directory, depth)) = stack.pop() {
        seen += 1;
        if !visit(&directory) || depth == DEPTH_MAX || seen > WALK_MAX {
            continue;
        }
        let entries = fs::read_dir(&directory.dir).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            stack.push((Directory { id: entry.ino(), dir: entry.path() }, depth + 1));
        }
    }
}
