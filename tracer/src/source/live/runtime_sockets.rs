//! Where the container runtime listens: what kubelet was told, then the places that distributions
//! use. Finds paths; connects to none.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::bounded;

/// containerd, CRI-O, k3s and RKE2, microk8s, k0s, cri-dockerd.
const PLACES: [&str; 6] = [
    "run/containerd/containerd.sock",
    "run/crio/crio.sock",
    "run/k3s/containerd/containerd.sock",
    "var/snap/microk8s/common/run/containerd.sock",
    "run/k0s/containerd.sock",
    "run/cri-dockerd.sock",
];
/// Files in which kubelet or a distribution is told of another place.
const FILES: [&str; 6] = [
    "var/lib/kubelet/config.yaml",
    "etc/kubernetes/kubelet/config.yaml",
    "var/lib/kubelet/kubeadm-flags.env",
    "etc/default/kubelet",
    "etc/rancher/k3s/config.yaml",
    "etc/rancher/rke2/config.yaml",
];
/// Programs that are, or hold, a kubelet.
const KUBELETS: [&str; 6] = ["kubelet", "k3s", "k3s-server", "k3s-agent", "rke2", "k0s"];
/// Keys and options that name the socket.
const KEYS: [&str; 3] =
    ["containerRuntimeEndpoint", "container-runtime-endpoint", "remote-runtime-endpoint"];
/// Most of a file or command line read, in bytes.
pub(super) const READ_MAX: u64 = 64 << 10;

/// Sockets below the node's root that exist, the most likely one first.
pub(super) fn find(host_root: &Path) -> Vec<PathBuf> {
    let mut told: Vec<String> = Vec::new();
    for file in FILES {
        told.extend(endpoints(&bounded::text(&host_root.join(file), READ_MAX)));
    }
    for line in command_lines() {
        told.extend(endpoints(&line));
    }
    let told = told.iter().filter_map(|endpoint| local(endpoint));
    let usual = PLACES.iter().map(PathBuf::from);
    let mut sockets = Vec::new();
    for path in told.chain(usual) {
        let socket = host_root.join(path);
        let is_one = fs::metadata(&socket).is_ok_and(|data| data.file_type().is_socket());
        if is_one && !sockets.contains(&socket) {
            sockets.push(socket);
        }
    }
    sockets
}

/// The command lines of running kubelets, arguments in lines.
pub(super) fn command_lines() -> Vec<String> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    // Whoever else calls itself so, in a container or without rights, is not believed.
    let mounts = |dir: &Path| fs::metadata(dir.join("ns/mnt")).ok().map(|data| data.ino());
    let host = mounts(Path::new("/proc/1"));
    let is_kubelet = |dir: &Path| {
        let root = fs::metadata(dir).is_ok_and(|data| data.uid() == 0);
        if !root || mounts(dir) != host {
            return false;
        }
        let comm = fs::read_to_string(dir.join("comm")).unwrap_or_default();
        KUBELETS.contains(&comm.trim_end())
    };
    let process = |name: &OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    entries
        .filter(|entry| process(&entry.file_name()) && is_kubelet(&entry.path()))
        .map(|entry| bounded::text(&entry.path().join("cmdline"), READ_MAX).replace('\0', "\n"))
        .collect()
}

/// Values after one of the keys, in YAML, shell or as an option; also in the next line, as when the
/// option's value is an argument of its own.
fn endpoints(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for key in KEYS {
        for (at, _) in text.match_indices(key) {
            let rest = text.get(at + key.len()..).unwrap_or_default();
            let rest = rest.trim_start_matches(['"', '\'', ':', '=', ' ', '\t', '\n']);
            let end = rest.find(['"', '\'', ' ', '\t', '\n', '#']).unwrap_or(rest.len());
            found.extend(rest.get(..end).filter(|value| !value.is_empty()).map(str::to_owned));
        }
    }
    found
}

/// `unix:///run/x.sock` or `/run/x.sock` below the root; `/var/run` is `/run`.
fn local(endpoint: &str) -> Option<PathBuf> {
    let path = endpoint.strip_prefix("unix://").unwrap_or(endpoint).strip_prefix('/')?;
    let path = path.trim_start_matches('/');
    let path =
        path.strip_prefix("var/run/").map_or_else(|| path.to_owned(), |p| format!("run/{p}"));
    let inside = !path.split('/').any(|part| part == "..");
    (inside && !path.is_empty()).then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn told_places_come_first() {
        let root = tempfile::tempdir().unwrap();
        let listen = |path: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            UnixListener::bind(path).unwrap()
        };
        let _all = [listen("run/containerd/containerd.sock"), listen("run/odd/cri.sock")];
        let kubelet = root.path().join("var/lib/kubelet");
        fs::create_dir_all(&kubelet).unwrap();
        let yaml = "kind: x\ncontainerRuntimeEndpoint: \"unix:///var/run/odd/cri.sock\" # y\n";
        fs::write(kubelet.join("config.yaml"), yaml).unwrap();
        fs::write(root.path().join("run/crio"), "no folder").unwrap();
        let all: Vec<_> = find(root.path())
            .into_iter()
            .map(|path| path.strip_prefix(root.path()).unwrap().to_owned())
            .collect();
        assert_eq!(all, ["run/odd/cri.sock", "run/containerd/containerd.sock"].map(PathBuf::from));
    }

    #[test]
    fn every_way_of_telling() {
        for text in [
            "containerRuntimeEndpoint: unix:///run/a.sock",
            "A=\"--x --container-runtime-endpoint=unix:///run/a.sock --y\"",
            "kubelet\n--container-runtime-endpoint\nunix:///run/a.sock\n--y",
        ] {
            assert_eq!(endpoints(text), ["unix:///run/a.sock"], "{text}");
        }
        assert_eq!(local("unix:///run/a.sock"), Some("run/a.sock".into()));
        for other in ["tcp://1.2.3.4:1", "unix:///../etc/x", "npipe:x", ""] {
            assert_eq!(local(other), None, "{other}");
        }
    }
}
