//! What a cgroup path says: pod UID and container id, for every runtime and driver we know of, in v1
//! and v2 hierarchies. Names are not in it.

/// Facts from a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PathFacts {
    /// Pod UID with dashes (static pods: 32 digits, the config hash).
    pub(crate) pod: Option<String>,
    /// Runtime id, 64 hex digits.
    pub(crate) container: Option<String>,
}

/// Reads `path`, also one relative to a cgroup namespace (`/../../pod…`). Only the last pod token
/// counts (clusters nested in containers), then the first container id below it; without a pod, the
/// last container id.
pub(crate) fn parse(path: &str) -> PathFacts {
    let segments: Vec<&str> = path.split(['/', ':']).collect();
    let pod = segments.iter().enumerate().rev().find_map(|(at, s)| Some((at, uid_in(s)?)));
    match pod {
        Some((at, uid)) => PathFacts {
            pod: Some(uid),
            container: segments.iter().skip(at + 1).find_map(|s| id_in(s)).map(str::to_owned),
        },
        None => PathFacts {
            pod: None,
            container: segments.iter().rev().find_map(|s| id_in(s)).map(str::to_owned),
        },
    }
}

/// Pod UID in one directory's name, with dashes.
pub(crate) fn pod_uid(name: &str) -> Option<String> {
    name.split(':').rev().find_map(uid_in)
}

/// Container id in one directory's name; monitors (`crio-conmon-…`) are no containers.
pub(crate) fn container_id(name: &str) -> Option<&str> {
    id_in(name.rsplit(':').next().unwrap_or(name))
}

/// `(^|-)pod(UUID|32 hex)(\.slice)?$`, with `_` for `-` allowed inside the UUID.
fn uid_in(segment: &str) -> Option<String> {
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
fn id_in(segment: &str) -> Option<&str> {
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    let (prefix, id) = name.rsplit_once('-').unwrap_or(("", name));
    let id_like = id.len() == 64 && id.bytes().all(is_lower_hex);
    (id_like && !prefix.ends_with("conmon")).then_some(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    #[test]
    fn names_of_directories() {
        let cid = "b3a7".repeat(16);
        let colons = format!("kubepods-pod{SLICED}.slice:cri-containerd:{cid}");
        for name in [format!("pod{UUID}"), format!("a-b-pod{SLICED}.slice"), colons.clone()] {
            assert_eq!(pod_uid(&name).as_deref(), Some(UUID), "{name}");
        }
        for name in [cid.clone(), format!("crio-{cid}.scope"), colons] {
            assert_eq!(container_id(&name), Some(cid.as_str()), "{name}");
        }
        for name in ["kubepods.slice", "podman", "pod", "tripod0a1b2c3d", "container"] {
            assert_eq!((pod_uid(name), container_id(name)), (None, None), "{name}");
        }
        assert_eq!(container_id(&format!("crio-conmon-{cid}.scope")), None);
    }

    /// Outer prefix, pod level, container level, what is below: put together they are a path.
    #[derive(Debug, Clone)]
    struct Shape {
        uid: String,
        cid: String,
        path: String,
        container: bool,
    }

    fn uid() -> impl Strategy<Value = String> {
        prop_oneof![
            "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
            "[0-9a-f]{32}", // static pods
        ]
    }

    /// What stands before kubelet's own tree: nothing, a cgroup root, a node that is a container,
    /// another pod with its container, or the way up out of a cgroup namespace.
    fn outer() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(String::new()),
            Just("/kubelet".to_owned()),
            Just("/../..".to_owned()),
            Just("/../../..".to_owned()),
            "/[a-z][a-z0-9.@_-]{0,20}",
            "/(docker|lxc)/[0-9a-f]{64}",
            "/system\\.slice/(docker|libpod)-[0-9a-f]{64}\\.scope",
            "/kubepods/besteffort/pod[0-9a-f]{32}/[0-9a-f]{64}",
            ("[0-9a-f]{64}", uid()).prop_map(|(cid, uid)| format!(
                "/kubepods.slice/kubepods-pod{}.slice/cri-containerd-{cid}.scope",
                uid.replace('-', "_")
            )),
        ]
    }

    /// What programs make below their container: nothing of it counts.
    fn below() -> impl Strategy<Value = String> {
        prop_oneof![
            Just(String::new()),
            Just("/container".to_owned()),
            Just("/init.scope".to_owned()),
            "/docker/[0-9a-f]{64}",
            "/system\\.slice/(docker|crio)-[0-9a-f]{64}\\.scope(/container)?",
            "/system\\.slice/[a-z]{1,12}\\.service",
        ]
    }

    fn shape() -> impl Strategy<Value = Shape> {
        let qos = prop_oneof![Just(""), Just("burstable"), Just("besteffort")];
        let runtime = prop_oneof![Just("cri-containerd"), Just("crio"), Just("docker")];
        let level = 0..5_u8; // pod only, pod and container, crun, monitor, wrong driver
        (uid(), "[0-9a-f]{64}", outer(), qos, runtime, below(), level, any::<bool>()).prop_map(
            |(uid, cid, outer, qos, runtime, below, level, systemd)| {
                let pod = match (systemd || level == 4, qos) {
                    (true, "") => format!("kubepods-pod{}.slice", uid.replace('-', "_")),
                    (true, qos) => format!("kubepods-{qos}-pod{}.slice", uid.replace('-', "_")),
                    (false, _) => format!("pod{uid}"),
                };
                let above = match (systemd, qos) {
                    (true, "") => "/kubepods.slice".to_owned(),
                    (true, qos) => format!("/kubepods.slice/kubepods-{qos}.slice"),
                    (false, "") => "/kubepods".to_owned(),
                    (false, qos) => format!("/kubepods/{qos}"),
                };
                let scope = if systemd { ".scope" } else { "" };
                let inner = match (level, systemd, runtime) {
                    (0, ..) => String::new(),
                    (3, ..) => format!("/crio-conmon-{cid}{scope}"),
                    (_, false, "crio") => format!("/crio-{cid}"),
                    (_, false, _) => format!("/{cid}"),
                    (_, true, _) => format!("/{runtime}-{cid}.scope"),
                };
                let path = match level {
                    0 | 3 => format!("{outer}{above}/{pod}{inner}"),
                    4 => format!("{outer}/system.slice/{runtime}.service/{pod}:{runtime}:{cid}"),
                    _ => format!("{outer}{above}/{pod}{inner}{below}"),
                };
                Shape { uid, cid, path, container: !matches!(level, 0 | 3) }
            },
        )
    }

    proptest! {
        #[test]
        fn every_layout_is_found(shape in shape()) {
            let want = PathFacts {
                pod: Some(shape.uid.clone()),
                container: shape.container.then(|| shape.cid.clone()),
            };
            prop_assert_eq!(parse(&shape.path), want, "{}", shape.path);
        }

        #[test]
        fn no_pod_is_seen_where_none_is(outer in "(/system\\.slice)?/(docker|libpod|lxc)-?", cid in "[0-9a-f]{64}", below in below()) {
            // The last id counts: a container in a container is itself.
            let path = format!("{outer}{cid}{below}");
            prop_assert_eq!(parse(&path).pod, None);
        }

        #[test]
        fn what_is_found_is_plain(path in "(\\PC|[/:.-]|pod|[0-9a-f]{32}){0,60}") {
            check(&path);
        }

        #[test]
        fn so_it_is_in_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            check(&String::from_utf8_lossy(&bytes));
        }
    }

    fn check(path: &str) {
        let PathFacts { pod, container } = parse(path);
        let plain = |text: &str| text.bytes().all(|byte| is_lower_hex(byte) || byte == b'-');
        assert!(pod.is_none_or(|pod| matches!(pod.len(), 32 | 36) && plain(&pod)), "{path:?}");
        let hex = |id: &str| id.len() == 64 && id.bytes().all(is_lower_hex);
        assert!(container.is_none_or(|id| hex(&id)), "{path:?}");
    }
}
