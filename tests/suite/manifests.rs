//! The manifests in deploy/: valid against the published API types, and enough to trace with, shown
//! by running in what a container runtime would make of them. Not covered: seccomp and AppArmor.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tests::{binary, lines};
use xtask::lab::incidents::{self, run_client};
use xtask::lab::trace::{Echo, Trace};
use xtask::lab::{api, net, state};
use xtask::{cmd, skips};

use crate::lab::{children, lab_for};
use crate::sandbox::{KEPT, Status, strict_is_had};

const PATIENCE: Duration = Duration::from_secs(20);
/// Where a pod finds its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const MANIFESTS: [&str; 3] = ["rbac.yaml", "debug-pod.yaml", "daemonset.yaml"];

fn documents(file: &str) -> Vec<Value> {
    let text = fs::read_to_string(xtask::repo::root().join("deploy").join(file)).unwrap();
    serde_saphyr::from_multiple(&text).unwrap()
}

/// The document as that type of the published API; a field that the type does not have, or a value
/// of another form, is an error.
fn typed<T: DeserializeOwned + Serialize>(document: &Value) -> T {
    let object: T = serde_json::from_value(document.clone()).unwrap();
    let mut again = serde_json::to_value(&object).unwrap();
    drop_empty(&mut again);
    let mut wanted = document.clone();
    drop_empty(&mut wanted);
    assert_eq!(again, wanted, "nothing of it is unknown to the API");
    object
}

/// `emptyDir: {}` and the like are written in both ways.
fn drop_empty(value: &mut Value) {
    if let Value::Object(map) = value {
        map.values_mut().for_each(drop_empty);
        map.retain(|_, value| !value.is_null());
    } else if let Value::Array(all) = value {
        all.iter_mut().for_each(drop_empty);
    }
}

fn debug_pod() -> Pod {
    typed(&documents("debug-pod.yaml")[0])
}

fn daemon_set() -> DaemonSet {
    typed(&documents("daemonset.yaml")[0])
}

fn only_container(spec: &PodSpec) -> &Container {
    let [one] = spec.containers.as_slice() else { panic!("one container") };
    one
}

fn capabilities(container: &Container) -> Vec<String> {
    let context = container.security_context.as_ref().unwrap();
    assert_ne!(context.privileged, Some(true));
    assert_eq!(context.read_only_root_filesystem, Some(true));
    assert_eq!(context.allow_privilege_escalation, Some(false));
    let capabilities = context.capabilities.as_ref().unwrap();
    assert_eq!(capabilities.drop.as_deref(), Some(&["ALL".to_owned()][..]));
    capabilities.add.clone().unwrap()
}

#[test]
fn they_are_what_the_api_knows() {
    for file in MANIFESTS {
        for document in documents(file) {
            match document["kind"].as_str().unwrap() {
                "ServiceAccount" => drop(typed::<ServiceAccount>(&document)),
                "ClusterRole" => drop(typed::<ClusterRole>(&document)),
                "ClusterRoleBinding" => drop(typed::<ClusterRoleBinding>(&document)),
                "Pod" => drop(typed::<Pod>(&document)),
                "DaemonSet" => drop(typed::<DaemonSet>(&document)),
                other => panic!("{file}: {other} is not checked"),
            }
        }
    }
}

/// The pod and the DaemonSet ask for the same rights and mounts, and write nothing to the node.
#[test]
fn they_ask_for_the_same_and_no_more() {
    let (pod, set) = (debug_pod(), daemon_set());
    let pod = pod.spec.unwrap();
    let set = set.spec.unwrap().template.spec.unwrap();
    for spec in [&pod, &set] {
        assert_eq!((spec.host_pid, spec.host_network), (Some(true), Some(true)));
        assert_eq!(spec.service_account_name.as_deref(), Some("svctrace"));
        let host: Vec<_> =
            spec.volumes.iter().flatten().filter(|volume| volume.host_path.is_some()).collect();
        for volume in host {
            let mounts = only_container(spec).volume_mounts.iter().flatten();
            for mount in mounts.filter(|mount| mount.name == volume.name) {
                assert_eq!(mount.read_only, Some(true), "{}", mount.mount_path);
            }
        }
    }
    assert_eq!(capabilities(only_container(&pod)), capabilities(only_container(&set)));
    assert_eq!(only_container(&pod).image, only_container(&set).image);
}

/// The options of the DaemonSet are options of this svctrace.
#[test]
fn the_daemon_sets_arguments_are_understood() {
    let set = daemon_set().spec.unwrap().template.spec.unwrap();
    let args = only_container(&set).args.clone().unwrap();
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    args.push("--help");
    let output = binary::run(&args);
    assert!(output.status.success(), "{}", binary::stderr(&output));
    let mut wrong = args.clone();
    wrong.insert(0, "--no-such-option");
    assert!(!binary::run(&wrong).status.success(), "the check can fail");
}

/// A script that does what a container runtime does with `spec`: own mount and cgroup namespaces,
/// the volumes, the service account, the capabilities, no way to more. The machine's /usr is there for the libraries of a
/// binary that was not built by `cargo xtask dist`.
fn runtime(spec: &PodSpec, group: &Path, root: &Path, script: &Path) {
    let container = only_container(spec);
    let allowed: Vec<String> =
        capabilities(container).iter().map(|name| format!("+{}", name.to_lowercase())).collect();
    let mut text = String::from("#!/bin/sh\nset -eu\n");
    let root = root.display();
    let binary = binary::path();
    writeln!(text, "echo $$ > {}/cgroup.procs", group.display()).unwrap();
    writeln!(text, "exec unshare --mount --cgroup --propagation private sh -euc '").unwrap();
    writeln!(text, "mount -t tmpfs none {root}").unwrap();
    writeln!(text, "mkdir -p {root}/usr {root}/proc {root}/sys {root}/bin {root}/dev {root}/tmp")
        .unwrap();
    for link in ["lib", "lib64", "sbin"] {
        writeln!(text, "ln -s usr/{link} {root}/{link}").unwrap();
    }
    writeln!(text, "mount --rbind /usr {root}/usr; mount -t proc proc {root}/proc").unwrap();
    writeln!(text, "mount --rbind /dev {root}/dev").unwrap();
    writeln!(text, "mount -t sysfs -o ro sysfs {root}/sys").unwrap();
    writeln!(text, "mount -t cgroup2 cgroup2 {root}/sys/fs/cgroup").unwrap();
    writeln!(
        text,
        "touch {root}/bin/svctrace; mount --bind {} {root}/bin/svctrace",
        binary.display()
    )
    .unwrap();
    for volume in spec.volumes.iter().flatten() {
        let mounts = container.volume_mounts.iter().flatten();
        for mount in mounts.filter(|mount| mount.name == volume.name) {
            let place = format!("{root}{}", mount.mount_path);
            writeln!(text, "mkdir -p {place}").unwrap();
            match &volume.host_path {
                // The lab's node is a folder; what the kernel shows is this machine's.
                Some(host) if host.path == "/" => {
                    writeln!(text, "mount --bind {} {place}", state::host_root().display())
                        .unwrap();
                    writeln!(text, "mkdir -p {place}/sys; mount --rbind /sys {place}/sys").unwrap();
                    writeln!(text, "mount -o remount,bind,ro {place}").unwrap();
                }
                Some(host) => writeln!(text, "mount --rbind {} {place}", host.path).unwrap(),
                None => writeln!(text, "mount -t tmpfs none {place}").unwrap(),
            }
        }
    }
    let (account, ca) = (format!("{root}{ACCOUNT}"), state::authority(&state::folder()));
    writeln!(text, "mkdir -p {account}; cp {} {account}/ca.crt", ca.display()).unwrap();
    writeln!(text, "printf {} > {account}/token", api::TOKEN).unwrap();
    writeln!(text, "printf kube-system > {account}/namespace").unwrap();
    writeln!(text, "mount -o remount,ro {root}").unwrap();
    writeln!(
        text,
        "unset HOME; exec chroot {root} /usr/bin/env KUBERNETES_SERVICE_HOST={} \
         KUBERNETES_SERVICE_PORT={} /usr/bin/setpriv --bounding-set=-all,{} --inh-caps=-all --no-new-privs \
         /bin/svctrace \"$@\"' sh \"$@\"",
        net::NODE_IP,
        api::TLS_PORT,
        allowed.join(",")
    )
    .unwrap();
    fs::write(script, text).unwrap();
    fs::set_permissions(script, fs::Permissions::from_mode(0o700)).unwrap();
}

/// The agent's own cgroup, gone with the test.
struct AgentGroup(PathBuf);

impl AgentGroup {
    fn make() -> Self {
        let path = xtask::lab::cgroups::mount_point().unwrap().join("svct-agent");
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for AgentGroup {
    fn drop(&mut self) {
        for _ in 0..50 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20)); // its last process is still ending
        }
    }
}

#[test]
fn the_debug_pod_is_enough_to_trace_with() {
    const NAME: &str = "manifests::the_debug_pod_is_enough_to_trace_with";
    let Some(_guard) = lab_for(NAME) else { return };
    for program in ["unshare", "setpriv", "chroot"] {
        if cmd::find(program).is_none() {
            return skips::note(NAME, &format!("{program} is not installed"));
        }
    }
    let incident = incidents::find("search-timeout").unwrap();
    let lab = incident.set_up().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let (root, script) = (scratch.path().join("root"), scratch.path().join("svctrace"));
    fs::create_dir(&root).unwrap();
    let group = AgentGroup::make();
    runtime(&debug_pod().spec.unwrap(), &group.0, &root, &script);
    let args = ["--host-root", "/host", "-vvv"];
    let target =
        ["--pod", "client", "-n", "critical-app", "-o", "json", "-w", "/captures/a.pcapng"];
    let mut trace = Trace::start(&script, args.iter().chain(&target), Echo::Quiet).unwrap();
    trace.wait_attached(PATIENCE).unwrap();
    let pipeline = children(trace.pid());
    let pipeline = Status::of(&pipeline[0].to_string());
    assert_eq!((pipeline.set("CapPrm"), pipeline.field("Seccomp")), (0, "2"));
    assert!(pipeline.field("Uid").starts_with("65534"), "{}", pipeline.field("Uid"));
    assert_eq!(Status::of(&trace.pid().to_string()).set("CapPrm"), KEPT);
    run_client(&lab, &["curl", "-sS", "http://backend.critical-app.svc.cluster.local/"]).unwrap();
    let traced = trace.finish(PATIENCE).unwrap();
    lab.down().unwrap();
    assert_eq!(traced.status.code(), Some(0), "{}\n{}", traced.stderr, traced.stdout);
    let lines = lines(&traced.stdout);
    let root = lines.iter().find(|line| line["code"] == "upstream-timeout").unwrap();
    assert_eq!(root["confidence"], "certain", "{root}");
    let foreign = lines.iter().find(|line| line["code"] == "foreign-suffix").unwrap();
    assert_eq!(foreign["identity"]["named_by"], "api", "{foreign}");
    assert_eq!(foreign["details"]["origin"]["place"], "/etc/resolv.conf", "{foreign}");
    assert!(!traced.stderr.contains("the Kubernetes API "), "{}", traced.stderr);
    assert_eq!(traced.stderr.matches("sandbox of the").count(), 2, "{}", traced.stderr);
    let lacking = traced.stderr.contains("not in force");
    assert!(strict_is_had().is_err() || !lacking, "{}", traced.stderr);
    let all = traced.stdout + &traced.stderr;
    assert!(!all.contains(api::TOKEN), "the account's token is nobody's business: {all}");
}
