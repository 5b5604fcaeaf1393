//! Pods as the node's own directories name them: kubelet's log folders and hosts files. Needs no
//! API and no credentials; knows only pods of this node. Pods that other sources on the node named
//! (see names.rs) are listed along.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{bounded, plain};
use crate::context::{Container, Origin, Pod};

/// Most pods read; kubelet allows some hundreds on a node.
const PODS_MAX: usize = 10_000;
/// Most of a hosts file read: a container can write to its own.
const HOSTS_MAX: u64 = 64 << 10;

/// Pods by UID that other sources on this node named.
pub(super) type Others = Arc<Mutex<HashMap<String, Pod>>>;

/// The node's directories.
#[derive(Clone, Debug)]
pub(super) struct NodeFiles {
    logs: PathBuf,
    links: PathBuf,
    pods: PathBuf,
    others: Others,
}

/// `<pod>_<ns>_<container>-<id>.log` and the folder that it points to.
struct Link {
    pod: String,
    namespace: String,
    container: String,
    id: String,
    target: Option<PathBuf>,
}

impl NodeFiles {
    /// Below the node's root file system.
    pub(super) fn new(host_root: &Path) -> Self {
        Self {
            logs: host_root.join("var/log/pods"),
            links: host_root.join("var/log/containers"),
            pods: host_root.join("var/lib/kubelet/pods"),
            others: Others::default(),
        }
    }

    /// Whether kubelet's log folder exists at all.
    pub(super) fn exist(&self) -> bool {
        self.logs.is_dir()
    }

    /// Where other sources put what they found.
    pub(super) fn others(&self) -> Others {
        Arc::clone(&self.others)
    }

    /// Names and UIDs of all pods with a log folder, or known to other sources on the node; cheap
    /// enough to be asked often.
    pub(super) fn names(&self) -> Vec<Pod> {
        let mut pods = self.folders();
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let known: std::collections::HashSet<String> =
            pods.iter().map(|pod| pod.uid.clone()).collect();
        pods.extend(others.values().filter(|pod| !known.contains(&pod.uid)).cloned());
        pods.truncate(PODS_MAX);
        pods
    }

    /// Pods with a log folder.
    fn folders(&self) -> Vec<Pod> {
        let entries = fs::read_dir(&self.logs).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| pod(entry.file_name().to_str()?));
        names.take(PODS_MAX).collect()
    }

    /// All that the directories say about all pods.
    pub(super) fn all(&self) -> Vec<Pod> {
        let links = self.links();
        let mut pods = self.folders();
        for pod in &mut pods {
            self.complete(pod, &links);
        }
        pods
    }

    /// All that the directories say about the pod `uid`.
    pub(super) fn by_uid(&self, uid: &str) -> Option<Pod> {
        let mut pod = self.folders().into_iter().find(|pod| pod.uid == uid)?;
        self.complete(&mut pod, &self.links());
        Some(pod)
    }

    /// All that the directories say about one pod of [`Self::names`].
    pub(super) fn details(&self, mut pod: Pod) -> Pod {
        if pod.origin == Origin::NodeFiles {
            self.complete(&mut pod, &self.links());
        }
        pod
    }

    /// A container's name in its pod, by its runtime id.
    pub(super) fn container_name(&self, id: &str) -> Option<String> {
        self.links().into_iter().find(|link| link.id == id).map(|link| link.container)
    }

    fn complete(&self, pod: &mut Pod, links: &[Link]) {
        let folder = format!("{}_{}_{}", pod.namespace, pod.name, pod.uid);
        for entry in fs::read_dir(self.logs.join(&folder)).into_iter().flatten().flatten() {
            let name =
                entry.file_name().to_str().filter(|name| plain::name(name)).map(str::to_owned);
            let Some(name) = name else { continue };
            // Links of an earlier pod of the same name may still be there.
            let own = |link: &&Link| {
                (&link.pod, &link.namespace, &link.container) == (&pod.name, &pod.namespace, &name)
                    && link.target.as_ref().is_none_or(|target| {
                        target.components().any(|part| part.as_os_str() == folder.as_str())
                    })
            };
            let ids: Vec<_> = links.iter().filter(own).map(|link| link.id.clone()).collect();
            if ids.is_empty() {
                pod.containers.push(Container { name: name.clone(), id: None });
            }
            let one = |id| Container { name: name.clone(), id: Some(id) };
            pod.containers.extend(ids.into_iter().map(one));
        }
        let hosts = bounded::text(&self.pods.join(&pod.uid).join("etc-hosts"), HOSTS_MAX);
        pod.ips = pod_address(&hosts, &pod.name).into_iter().collect();
    }

    /// Each link of `/var/log/containers`.
    fn links(&self) -> Vec<Link> {
        let entries = fs::read_dir(&self.links).into_iter().flatten().flatten();
        let link = |entry: fs::DirEntry| {
            let link = container_link(entry.file_name().to_str()?)?;
            Some(Link { target: fs::read_link(entry.path()).ok(), ..link })
        };
        entries.filter_map(link).take(PODS_MAX).collect()
    }
}

/// `<namespace>_<pod>_<uid>`; `_` can occur in none of the three.
pub(super) fn pod(folder: &str) -> Option<Pod> {
    let mut parts = folder.split('_');
    let (namespace, name, uid) = (parts.next()?, parts.next()?, parts.next()?);
    (parts.next().is_none() && [namespace, name, uid].into_iter().all(plain::name)).then(|| Pod {
        uid: uid.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        origin: Origin::NodeFiles,
        ..Pod::default()
    })
}

fn container_link(link: &str) -> Option<Link> {
    let mut parts = link.strip_suffix(".log")?.split('_');
    let (pod, namespace, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let (container, id) = rest.rsplit_once('-')?;
    let (pod, namespace, container) = (pod.into(), namespace.into(), container.into());
    plain::id(id).then(|| Link { pod, namespace, container, id: id.into(), target: None })
}

/// The pod's address: the line of its hosts file that ends in its name.
fn pod_address(hosts: &str, pod: &str) -> Option<IpAddr> {
    hosts.lines().rev().find_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word == pod).then_some(address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CID: &str = "b3a7000000000000000000000000000000000000000000000000000000000001";

    #[test]
    fn reads_kubelets_folders() {
        let root = tempfile::tempdir().unwrap();
        let logs = root.path().join("var/log/pods");
        fs::create_dir_all(logs.join("shop_client-0_0a1b2c3d-1111-2222-3333-444455556666/app"))
            .unwrap();
        fs::create_dir_all(logs.join("not a pod")).unwrap();
        let links = root.path().join("var/log/containers");
        fs::create_dir_all(&links).unwrap();
        fs::write(links.join(format!("client-0_shop_app-{CID}.log")), "").unwrap();
        let old = format!("client-0_shop_app-{}.log", "c".repeat(64));
        std::os::unix::fs::symlink("/var/log/pods/shop_client-0_older/app/0.log", links.join(old))
            .unwrap();
        let pod = root.path().join("var/lib/kubelet/pods/0a1b2c3d-1111-2222-3333-444455556666");
        fs::create_dir_all(&pod).unwrap();
        fs::write(pod.join("etc-hosts"), "127.0.0.1 localhost\n10.244.1.10\tclient-0\n").unwrap();
        let pods = NodeFiles::new(root.path()).all();
        assert_eq!(pods.len(), 1);
        assert_eq!((pods[0].namespace.as_str(), pods[0].name.as_str()), ("shop", "client-0"));
        assert_eq!(pods[0].ips, ["10.244.1.10".parse::<IpAddr>().unwrap()]);
        assert_eq!(pods[0].containers, [Container { name: "app".into(), id: Some(CID.into()) }]);
    }
}
