//! The files a kubelet and a container runtime leave on a node, below a folder of our own, and
//! the ones a pod sees as its /etc. svctrace reads them through `--host-root`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::net::UPSTREAM_IP;
use super::pods::{PodSpec, Role};
use super::services::DNS_ADDRESS;

/// The suffix that the node's own network hands out and that leaks into every pod.
pub const FOREIGN_SUFFIX: &str = "localdomain";

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes the node's own files; `leak` puts the foreign suffix into its resolv.conf.
pub(crate) fn write_node(host: &Path, leak: bool) -> Result<()> {
    write(&host.join("etc/resolv.conf"), &node_resolv_conf(leak))?;
    write(
        &host.join("var/lib/kubelet/config.yaml"),
        &format!(
            "apiVersion: kubelet.config.k8s.io/v1beta1\n\
             kind: KubeletConfiguration\n\
             cgroupDriver: systemd\n\
             clusterDNS:\n- {DNS_ADDRESS}\n\
             clusterDomain: cluster.local\n\
             resolvConf: /etc/resolv.conf\n"
        ),
    )
}

fn node_resolv_conf(leak: bool) -> String {
    let search = if leak { format!("search {FOREIGN_SUFFIX}\n") } else { String::new() };
    format!(
        "# Written by the DHCP client from what the network offered\n{search}nameserver {UPSTREAM_IP}\n"
    )
}

/// What kubelet writes as a pod's resolv.conf.
fn pod_resolv_conf(pod: &PodSpec, leak: bool) -> String {
    if let Some(text) = &pod.resolv_conf {
        return text.clone();
    }
    let foreign = if leak { format!(" {FOREIGN_SUFFIX}") } else { String::new() };
    match pod.role {
        Role::Resolver => {
            let search = if leak { format!("search{foreign}\n") } else { String::new() };
            format!("{search}nameserver {UPSTREAM_IP}\n")
        }
        Role::Client | Role::Backend => format!(
            "search {}.svc.cluster.local svc.cluster.local cluster.local{foreign}\n\
             nameserver {DNS_ADDRESS}\noptions ndots:5\n",
            pod.namespace
        ),
    }
}

fn resolv_conf_path(host: &Path, sandbox_id: &str) -> PathBuf {
    host.join("var/lib/containerd/io.containerd.grpc.v1.cri/sandboxes")
        .join(sandbox_id)
        .join("resolv.conf")
}

/// Writes a pod's files; returns its resolv.conf and what has to cover what in its mount namespace.
pub(crate) fn write_pod(
    host: &Path,
    pod: &PodSpec,
    leak: bool,
) -> Result<(PathBuf, Vec<(PathBuf, PathBuf)>)> {
    let (uid, container, id) = (pod.uid(), pod.container(), pod.id("container"));
    let (name, namespace) = (&pod.name, &pod.namespace);
    let resolv_conf = resolv_conf_path(host, &pod.id("sandbox"));
    write(&resolv_conf, &pod_resolv_conf(pod, leak))?;

    let kubelet = host.join("var/lib/kubelet/pods").join(&uid);
    fs::create_dir_all(kubelet.join("containers").join(container))?;
    let hosts = kubelet.join("etc-hosts");
    write(
        &hosts,
        &format!(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n10.244.1.{}\t{name}\n",
            pod.host
        ),
    )?;

    let log = format!("var/log/pods/{namespace}_{name}_{uid}/{container}/0.log");
    write(&host.join(&log), "")?;
    let links = host.join("var/log/containers");
    fs::create_dir_all(&links)?;
    let link = links.join(format!("{name}_{namespace}_{container}-{id}.log"));
    symlink(Path::new("/").join(&log), link)?;

    let binds = vec![
        (resolv_conf.clone(), PathBuf::from("/etc/resolv.conf")),
        (hosts, PathBuf::from("/etc/hosts")),
    ];
    Ok((resolv_conf, binds))
}

/// What containerd writes about a container before it starts, as far as anybody reads it.
pub(crate) fn write_bundle(host: &Path, pod: &super::Pod, id: &str, name: &str) -> Result<()> {
    let annotations = serde_json::json!({
        "io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.container-name": name,
        "io.kubernetes.cri.sandbox-uid": pod.uid, "io.kubernetes.cri.sandbox-name": pod.name,
        "io.kubernetes.cri.sandbox-namespace": pod.namespace,
    });
    let config = serde_json::json!({ "ociVersion": "1.0.2", "annotations": annotations });
    let bundles = host.join("run/containerd/io.containerd.runtime.v2.task/k8s.io");
    write(&bundles.join(id).join("config.json"), &config.to_string())
}

/// Removes a pod's files.
pub(crate) fn remove_pod(host: &Path, pod: &super::Pod) -> Result<()> {
    let (name, namespace, uid) = (&pod.name, &pod.namespace, &pod.uid);
    fs::remove_dir_all(host.join(format!("var/log/pods/{namespace}_{name}_{uid}")))?;
    fs::remove_dir_all(host.join("var/lib/kubelet/pods").join(uid))?;
    let link = format!("{name}_{namespace}_{}-{}.log", pod.container, pod.container_id);
    fs::remove_file(host.join("var/log/containers").join(link))?;
    Ok(())
}

/// Covers for the machine's own name service settings: a pod asks files, then DNS, no daemon.
pub(crate) fn name_service_binds(state: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let mut binds = Vec::new();
    let machine = Path::new("/etc/nsswitch.conf");
    if machine.exists() {
        let ours = state.join("nsswitch.conf");
        if !ours.exists() {
            write(
                &ours,
                "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n",
            )?;
        }
        binds.push((ours, machine.to_path_buf()));
    }
    let cache = Path::new("/run/nscd");
    if cache.is_dir() {
        let empty = state.join("empty");
        fs::create_dir_all(&empty)?;
        binds.push((empty, cache.to_path_buf()));
    }
    Ok(binds)
}
