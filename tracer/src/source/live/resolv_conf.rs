//! The resolv.conf that the target's processes read, through their root directories, and the
//! node's own. Forwards text, never parses it; reads regular files only and never blocks.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::{processes, resolver};
use crate::context::{NodeFile, ResolvConf};

/// Most bytes of a file that are kept.
const TEXT_MAX: u64 = 64 << 10;
/// Most mount namespaces that are watched.
const NAMESPACES_MAX: usize = 4096;
/// Processes remembered of each: any of them leads to the file.
const WAYS_MAX: usize = 8;
/// Servers taken from one file; resolver libraries use three.
const SERVERS_MAX: usize = 8;
/// Where resolvers look.
const PATH: &str = "/etc/resolv.conf";
/// The node's files that kubelet may copy search suffixes from.
const NODE_PATHS: [&str; 2] = [PATH, "/run/systemd/resolve/resolv.conf"];

/// Identity of a file's content.
type Stamp = (u64, u64, i64, i64, u64);

/// What has been told, by mount namespace.
#[derive(Debug, Default)]
pub(super) struct ResolvConfs {
    seen: HashMap<u64, Seen>,
    node: HashMap<String, Stamp>,
    /// The file that kubelet was told to copy from, if it is none of the usual ones.
    kubelets: Option<String>,
}

#[derive(Debug, Default)]
struct Seen {
    // Processes and their cgroups.
    ways: Vec<(u32, Option<u64>)>,
    of_target: bool,
    stamp: Option<Stamp>,
    told: Option<Result<String, String>>,
}

impl ResolvConfs {
    /// Reads the file of `pid`'s mount namespace unless it was told before and has not changed.
    pub(super) fn look(
        &mut self,
        pid: u32,
        cgroup: Option<u64>,
        of_target: bool,
    ) -> Option<ResolvConf> {
        let namespace = processes::namespace(pid, "mnt")?;
        if !self.seen.contains_key(&namespace) && self.seen.len() >= NAMESPACES_MAX {
            self.seen.retain(|namespace, seen| seen.way(*namespace).is_some());
            if self.seen.len() >= NAMESPACES_MAX {
                return None;
            }
        }
        let seen = self.seen.entry(namespace).or_default();
        seen.of_target |= of_target;
        if seen.ways.len() >= WAYS_MAX {
            seen.ways.retain(|(pid, _)| processes::exists(*pid));
        }
        if seen.ways.len() < WAYS_MAX && !seen.ways.iter().any(|way| way.0 == pid) {
            seen.ways.push((pid, cgroup));
        }
        seen.check(namespace)
    }

    /// Servers in the files of the targets, as they were told last; the first few of each, as
    /// resolvers read them.
    pub(super) fn servers(&self) -> HashSet<IpAddr> {
        let targets = self.seen.values().filter(|seen| seen.of_target);
        let texts = targets.filter_map(|seen| seen.told.as_ref()?.as_deref().ok());
        texts.flat_map(|text| resolver::servers(text).take(SERVERS_MAX)).collect()
    }

    /// Looks again at every namespace; returns what changed.
    pub(super) fn look_again(&mut self) -> Vec<ResolvConf> {
        let all = self.seen.iter_mut();
        all.filter_map(|(namespace, seen)| seen.check(*namespace)).collect()
    }

    /// Counts a file that kubelet copies from among the node's own.
    pub(super) fn read_too(&mut self, path: Option<&str>) {
        let path = path.filter(|path| path.starts_with('/') && !NODE_PATHS.contains(path));
        self.kubelets = path.map(str::to_owned);
    }

    /// The node's own files that are new or changed.
    pub(super) fn node_files(&mut self, host_root: &Path) -> Vec<NodeFile> {
        let mut changed = Vec::new();
        for path in NODE_PATHS.into_iter().chain(self.kubelets.as_deref()) {
            let Ok(root) = File::open(host_root).map(OwnedFd::from) else { continue };
            let Ok((file, stamp)) = open(&root, path) else { continue };
            if self.node.insert(path.to_owned(), stamp) == Some(stamp) {
                continue;
            }
            if let Ok(text) = text(file) {
                changed.push(NodeFile { path: path.to_owned(), text });
            }
        }
        changed
    }
}

impl Seen {
    /// A process that is in this namespace now.
    fn way(&self, namespace: u64) -> Option<(u32, Option<u64>)> {
        let is_in = |pid| processes::namespace(pid, "mnt") == Some(namespace);
        self.ways.iter().copied().find(|(pid, _)| is_in(*pid))
    }

    fn check(&mut self, namespace: u64) -> Option<ResolvConf> {
        let (pid, cgroup) = self.way(namespace)?;
        let opened = root(pid).and_then(|root| open(&root, PATH));
        // The process may have ended while we looked, and its number be another's.
        if processes::namespace(pid, "mnt") != Some(namespace) {
            return None;
        }
        let found = match opened {
            Ok((_, stamp)) if self.stamp == Some(stamp) => return None,
            Ok((file, stamp)) => {
                self.stamp = Some(stamp);
                text(file).map_err(|error| error.to_string())
            }
            Err(error) => {
                self.stamp = None;
                Err(error.to_string())
            }
        };
        if self.told.as_ref() == Some(&found) {
            return None;
        }
        self.told = Some(found.clone());
        let (text, error) = match found {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(error)),
        };
        Some(ResolvConf {
            cgroup,
            mnt_ns: Some(namespace),
            pid: Some(pid),
            path: PATH.to_owned(),
            text,
            error,
        })
    }
}

/// What is wrong with a resolv.conf, in one sentence, when a resolver cannot use it.
pub(super) fn complaint(conf: &ResolvConf) -> Option<String> {
    let path = &conf.path;
    let pid = conf.pid?;
    match (&conf.text, &conf.error) {
        (None, error) => {
            let why = error.as_deref().unwrap_or("unknown reason");
            Some(format!(
                "{path} of process {pid} cannot be read ({why}): its resolver asks 127.0.0.1, and \
                 search suffixes can only be inferred"
            ))
        }
        (Some(text), _) => resolver::servers(text).next().is_none().then(|| {
            format!(
                "{path} of process {pid} names no usable nameserver: its resolver asks 127.0.0.1"
            )
        }),
    }
}

fn root(pid: u32) -> io::Result<OwnedFd> {
    let flags = (OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC).bits();
    let path = PathBuf::from(format!("/proc/{pid}/root"));
    Ok(fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?.into())
}

/// Opens `path` below `root`, links resolved inside it. The file is looked at before it is opened
/// for reading: opening a FIFO or a device can block or do things.
fn open(root: &OwnedFd, path: &str) -> io::Result<(File, Stamp)> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let handle = File::from(openat2(root, path, how)?);
    if !handle.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let again = format!("/proc/self/fd/{}", handle.as_raw_fd());
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(again)?;
    let data = file.metadata()?;
    Ok((file, (data.dev(), data.ino(), data.mtime(), data.mtime_nsec(), data.size())))
}

fn text(file: File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(TEXT_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn at(dir: &tempfile::TempDir) -> io::Result<String> {
        let root = OwnedFd::from(File::open(dir.path()).unwrap());
        open(&root, PATH).and_then(|(file, _)| text(file))
    }

    #[test]
    fn links_stay_inside_and_only_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let etc = dir.path().join("etc");
        fs::create_dir(&etc).unwrap();
        assert!(at(&dir).is_err());
        let path = etc.join("resolv.conf");
        symlink("/../../run/x.conf", &path).unwrap();
        fs::create_dir(dir.path().join("run")).unwrap();
        fs::write(dir.path().join("run/x.conf"), "nameserver 192.0.2.1\n").unwrap();
        assert_eq!(at(&dir).unwrap(), "nameserver 192.0.2.1\n");
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(at(&dir).unwrap_err().to_string(), "not a regular file");
        fs::remove_file(&path).unwrap();
        fs::write(&path, vec![b'x'; 100_000]).unwrap();
        assert_eq!(at(&dir).unwrap().len() as u64, TEXT_MAX);
    }

    #[test]
    fn told_once_until_it_changes() {
        let mut all = ResolvConfs::default();
        let first = all.look(std::process::id(), Some(1), true);
        assert!(first.is_some_and(|conf| conf.text.is_some() || conf.error.is_some()));
        assert!(all.look(std::process::id(), Some(1), true).is_none());
        assert!(all.look_again().is_empty());
    }

    #[test]
    fn any_process_of_a_namespace_leads_to_the_file() {
        let own = std::process::id();
        let namespace = processes::namespace(own, "mnt").unwrap();
        let mut gone = std::process::Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        let ways = vec![(gone.id(), Some(1)), (own, Some(2))];
        let mut seen = Seen { ways, ..Seen::default() };
        let told = seen.check(namespace).unwrap();
        assert_eq!((told.pid, told.cgroup), (Some(own), Some(2)));
    }

    #[test]
    fn an_unusable_file_gets_one_sentence() {
        let conf = |text: Option<&str>| ResolvConf {
            pid: Some(7),
            path: PATH.to_owned(),
            text: text.map(str::to_owned),
            error: text.is_none().then(|| "no such file".to_owned()),
            ..ResolvConf::default()
        };
        assert_eq!(complaint(&conf(Some("nameserver 10.96.0.10\n"))), None);
        let absurd = complaint(&conf(Some("nameserver nonsense\nsearch a b\n"))).unwrap();
        assert!(absurd.contains("names no usable nameserver"), "{absurd}");
        let missing = complaint(&conf(None)).unwrap();
        assert!(missing.contains("no such file"), "{missing}");
    }
}
