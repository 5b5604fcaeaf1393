//! What a cgroup path says: pod UID and container id, for every runtime and driver we know of.
//! Names are not in it.

/// Facts from a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PathFacts {
    /// Pod UID with dashes (static pods: 32 digits, the config hash).
    pub(super) pod: Option<String>,
    /// Runtime id, 64 hex digits.
    pub(super) container: Option<String>,
}

/// Reads `path`. Only the last pod token counts (clusters nested in containers), then the first
/// container id below it; without a pod, the last container id.
pub(super) fn parse(path: &str) -> PathFacts {
    let segments: Vec<&str> = path.split(['/', ':']).collect();
    let pod = segments.iter().enumerate().rev().find_map(|(at, s)| Some((at, pod_uid(s)?)));
    match pod {
        Some((at, uid)) => PathFacts {
            pod: Some(uid),
            container: segments.iter().skip(at + 1).find_map(|s| container_id(s)),
        },
        None => {
            PathFacts { pod: None, container: segments.iter().rev().find_map(|s| container_id(s)) }
        }
    }
}

/// `(^|-)pod(UUID|32 hex)(\.slice)?$`, with `_` for `-` allowed inside the UUID.
fn pod_uid(segment: &str) -> Option<String> {
    let name = segment.strip_suffix(".slice").unwrap_or(segment);
    let at = name.rfind("pod")?;
    let (front, uid) = name.split_at(at);
    let uid = uid.strip_prefix("pod")?;
    if !(front.is_empty() || front.ends_with('-')) {
        return None;
    }
    (is_hash(uid) || is_uuid(uid)).then(|| uid.replace('_', "-"))
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn is_hash(uid: &str) -> bool {
    uid.len() == 32 && uid.bytes().all(is_lower_hex)
}

fn is_uuid(uid: &str) -> bool {
    uid.len() == 36
        && uid.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => matches!(byte, b'-' | b'_'),
            _ => is_lower_hex(byte),
        })
}

/// 64 hex digits, perhaps between `prefix-` and `.scope`; conmon's cgroup is not the container.
fn container_id(segment: &str) -> Option<String> {
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    let (prefix, id) = name.rsplit_once('-').unwrap_or(("", name));
    let id_like = id.len() == 64 && id.bytes().all(is_lower_hex);
    (id_like && !prefix.ends_with("conmon")).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "4d2e7b1a-9c3f-4e5d-8a6b-1c2d3e4f5a6b";
    const SLICED: &str = "4d2e7b1a_9c3f_4e5d_8a6b_1c2d3e4f5a6b";
    const STATIC: &str = "aa7be809be48ec01ab43fd4f1ca22e9e";

    #[test]
    fn every_shape() {
        let cid = "b3a7".repeat(16);
        let outer = "0c1d".repeat(16);
        let pod = |uid: &str| Some(uid.to_owned());
        let id = || Some(cid.clone());
        let burst = "/kubepods.slice/kubepods-burstable.slice";
        let kind = "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice";
        let rows: Vec<(String, Option<String>, Option<String>)> = vec![
            // cgroupfs: containerd, docker
            (format!("/kubepods/burstable/pod{UUID}/{cid}"), pod(UUID), id()),
            (format!("/kubepods/besteffort/pod{UUID}/{cid}"), pod(UUID), id()),
            (format!("/kubepods/pod{UUID}/{cid}"), pod(UUID), id()),
            (format!("/kubepods/burstable/pod{STATIC}/{cid}"), pod(STATIC), id()),
            (format!("/kubepods/burstable/pod{UUID}"), pod(UUID), None),
            // cgroupfs, cri-o
            (format!("/kubepods/burstable/pod{UUID}/crio-{cid}"), pod(UUID), id()),
            (format!("/kubepods/burstable/pod{UUID}/crio-conmon-{cid}"), pod(UUID), None),
            // systemd: containerd, cri-o, docker
            (
                format!("{burst}/kubepods-burstable-pod{SLICED}.slice/cri-containerd-{cid}.scope"),
                pod(UUID),
                id(),
            ),
            (
                format!("/kubepods.slice/kubepods-pod{SLICED}.slice/cri-containerd-{cid}.scope"),
                pod(UUID),
                id(),
            ),
            (
                format!("{burst}/kubepods-burstable-pod{STATIC}.slice/cri-containerd-{cid}.scope"),
                pod(STATIC),
                id(),
            ),
            (
                format!("{burst}/kubepods-burstable-pod{SLICED}.slice/crio-{cid}.scope/container"),
                pod(UUID),
                id(),
            ),
            (
                format!("{burst}/kubepods-burstable-pod{SLICED}.slice/crio-conmon-{cid}.scope"),
                pod(UUID),
                None,
            ),
            (
                format!("{burst}/kubepods-burstable-pod{SLICED}.slice/docker-{cid}.scope"),
                pod(UUID),
                id(),
            ),
            // drivers that do not match
            (
                format!(
                    "/system.slice/containerd.service/kubepods-besteffort-pod{SLICED}.slice:cri-containerd:{cid}"
                ),
                pod(UUID),
                id(),
            ),
            // kubelet with a cgroup root
            (
                format!(
                    "{kind}/kubelet-kubepods-burstable-pod{SLICED}.slice/cri-containerd-{cid}.scope"
                ),
                pod(UUID),
                id(),
            ),
            (format!("/kubelet/kubepods/burstable/pod{UUID}/{cid}"), pod(UUID), id()),
            // nodes that are containers themselves, and containers inside containers
            (
                format!("/docker/{outer}/kubelet/kubepods/burstable/pod{UUID}/{cid}"),
                pod(UUID),
                id(),
            ),
            (
                format!(
                    "/system.slice/docker-{outer}.scope{kind}/kubelet-kubepods-burstable-pod{SLICED}.slice/cri-containerd-{cid}.scope"
                ),
                pod(UUID),
                id(),
            ),
            (format!("/kubepods/pod{STATIC}/{outer}/kubepods/pod{UUID}/{cid}"), pod(UUID), id()),
            (format!("/kubepods/pod{UUID}/{cid}/docker/{outer}"), pod(UUID), id()),
            (format!("/kubepods/pod{UUID}/{cid}/system.slice/cron.service"), pod(UUID), id()),
            // no Kubernetes
            (format!("/docker/{cid}"), None, id()),
            (format!("/system.slice/docker-{cid}.scope"), None, id()),
            (format!("/machine.slice/libpod-{cid}.scope/container"), None, id()),
            (format!("/machine.slice/libpod-conmon-{cid}.scope"), None, None),
            (
                format!(
                    "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{cid}.scope/container"
                ),
                None,
                id(),
            ),
            ("/lxc/web".into(), None, None),
            ("/lxc.payload.web/system.slice/ssh.service".into(), None, None),
            ("/system.slice/k3s.service".into(), None, None),
            // lookalikes
            (format!("/kubepods/xpod{UUID}/{cid}"), None, id()),
            ("/kubepods/pod1234".into(), None, None),
            (format!("/kubepods/pod{}/x", UUID.to_uppercase()), None, None),
            ("/".into(), None, None),
            (String::new(), None, None),
        ];
        for (path, pod, container) in rows {
            assert_eq!(parse(&path), PathFacts { pod, container }, "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_path(path in "\\PC{0,200}") {
            let _ = parse(&path);
        }
    }
}
