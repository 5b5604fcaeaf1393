//! Names without the Kubernetes API: from kubelet's folders, from the runtime's, guessed from /proc,
//! and such that come after their process has ended. What a real containerd says is tested in
//! `source/live/cri`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tests::records::{Fact, Process, Stream, connect, established, fact};
use tests::{binary, lines, run};
use tracer::context::{Cgroup, Container, Origin, Pod, Role, Scope};
use tracer::record::{Record, RecordKind};
use xtask::lab::incidents::run_client;
use xtask::lab::trace::{Echo, Trace, Traced, lab_args};
use xtask::lab::{self, Lab, cgroups};

use crate::lab::{PATIENCE, lab_for};

const UID: &str = "4d2e7b1a-9c3f-4e5d-8a6b-1c2d3e4f5a6b";
const URL: &str = "http://backend.critical-app.svc.cluster.local/";

fn attached(args: Vec<String>) -> Trace {
    let mut trace = Trace::start(&binary::path(), args, Echo::Quiet).unwrap();
    trace.wait_attached(PATIENCE).unwrap();
    trace
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

/// Every line about a lookup or connection; there are some.
fn told(traced: &Traced) -> Vec<Value> {
    assert_eq!(traced.status.code(), Some(0), "{}\n{}", traced.stderr, traced.stdout);
    let all = lines(&traced.stdout).into_iter();
    let told: Vec<_> = all.filter(|l| l["type"] == "lookup" || l["type"] == "connection").collect();
    assert!(!told.is_empty(), "{}\n{}", traced.stderr, traced.stdout);
    told
}

fn is(line: &Value, container: Option<&str>, by: &str) {
    let who = &line["identity"];
    assert_eq!(who["pod"], "client", "{line}");
    assert_eq!(who["namespace"], "critical-app", "{line}");
    assert_eq!(who["container"].as_str(), container, "{line}");
    assert_eq!(who["named_by"], by, "{line}");
}

#[test]
fn from_kubelets_folders() {
    let Some(_guard) = lab_for("names::from_kubelets_folders") else { return };
    let lab = Lab::up(false).unwrap();
    let mut args = words(&["--pod", "client", "-n", "critical-app", "-o", "json", "--no-api"]);
    args.extend(lab_args(false));
    let trace = attached(args);
    run_client(&lab, &["curl", "-sS", "-m", "5", URL]).unwrap();
    let traced = trace.finish(PATIENCE).unwrap();
    lab.down().unwrap();
    told(&traced).iter().for_each(|line| is(line, Some("client"), "node-files"));
}

/// A host root that holds nothing but what the test puts there.
fn with_root(root: &Path, container: &str) -> Vec<String> {
    let root = root.to_str().unwrap();
    words(&["--container", container, "-o", "json", "--no-api", "--host-root", root])
}

#[test]
fn from_the_runtimes_folders() {
    let Some(_guard) = lab_for("names::from_the_runtimes_folders") else { return };
    let lab = Lab::up(false).unwrap();
    let (id, uid) =
        (lab.pod("client").unwrap().container_id.clone(), &lab.pod("client").unwrap().uid);
    let root = tempfile::tempdir().unwrap();
    let bundle = root.path().join("run/containerd/io.containerd.runtime.v2.task/k8s.io").join(&id);
    fs::create_dir_all(&bundle).unwrap();
    let config = serde_json::json!({ "process": { "env": ["TOKEN=s3cr3t"] }, "annotations": {
        "io.kubernetes.cri.sandbox-uid": uid, "io.kubernetes.cri.sandbox-name": "client",
        "io.kubernetes.cri.sandbox-namespace": "critical-app",
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": "app" }});
    fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    let capture = root.path().join("live.pcapng");
    let mut args = with_root(root.path(), &id);
    args.extend(words(&["-w", capture.to_str().unwrap()]));
    let trace = attached(args);
    run_client(&lab, &["curl", "-sS", "-m", "5", URL]).unwrap();
    let traced = trace.finish(PATIENCE).unwrap();
    lab.down().unwrap();
    told(&traced).iter().for_each(|line| is(line, Some("app"), "node-files"));
    let bytes = fs::read(&capture).unwrap();
    assert!(!bytes.windows(6).any(|part| part == b"s3cr3t"), "an environment in the capture");
}

#[test]
fn guessed_from_proc() {
    let Some(_guard) = lab_for("names::guessed_from_proc") else { return };
    let lab = Lab::up(false).unwrap();
    let pod = lab.pod("client").unwrap();
    let root = tempfile::tempdir().unwrap();
    let capture = root.path().join("live.pcapng");
    let mut args = with_root(root.path(), &pod.container_id);
    args.extend(words(&["-vvv", "-w", capture.to_str().unwrap()]));
    let trace = attached(args);
    let mut curl = lab.command(pod, "curl").unwrap();
    curl.args(["-sS", "-m", "5", URL]).env("HOSTNAME", "client").env("TOKEN", "s3cr3t");
    curl.stdout(Stdio::null()).status().unwrap();
    let traced = trace.finish(PATIENCE).unwrap();
    lab.down().unwrap();
    told(&traced).iter().for_each(|line| is(line, None, "proc"));
    let (mut all, capture) = (traced.stdout.into_bytes(), fs::read(&capture).unwrap());
    all.extend(traced.stderr.into_bytes().into_iter().chain(capture));
    assert!(!all.windows(6).any(|part| part == b"s3cr3t"), "an environment was kept");
}

/// Its folders come a quarter of a second after the only process of the pod has ended.
#[test]
fn a_process_that_lives_for_milliseconds() {
    let Some(_guard) = lab_for("names::a_process_that_lives_for_milliseconds") else { return };
    let lab = Lab::up(false).unwrap();
    let root = tempfile::tempdir().unwrap();
    let id = "b3a7".repeat(16);
    let pods = cgroups::parent().unwrap().join("kubepods.slice");
    let (target, root_text) = (pods.to_str().unwrap(), root.path().to_str().unwrap());
    let capture = root.path().join("live.pcapng");
    let capture = capture.to_str().unwrap();
    let mut args = vec!["--cgroup", target, "-o", "json", "--no-api", "--host-root", root_text];
    args.extend(["--events", "-w", capture]);
    let trace = attached(words(&args));
    let slice = format!("kubepods-pod{}.slice", UID.replace('-', "_"));
    let cgroup = pods.join(slice).join(format!("cri-containerd-{id}.scope"));
    fs::create_dir_all(&cgroup).unwrap();
    let procs = cgroup.join("cgroup.procs");
    let script = format!("echo $$ > {}; exec curl -s -m 1 http://10.244.1.1:1/", procs.display());
    let mut shell = lab::node_command("sh").unwrap();
    let ended = shell.args(["-c", &script]).stdout(Stdio::null()).status().unwrap();
    assert_eq!(ended.code(), Some(7), "curl: connection refused");
    std::thread::sleep(Duration::from_millis(250));
    let log = root.path().join(format!("var/log/pods/critical-app_client_{UID}/once"));
    fs::create_dir_all(&log).unwrap();
    let links = root.path().join("var/log/containers");
    fs::create_dir_all(&links).unwrap();
    let target = format!("/var/log/pods/critical-app_client_{UID}/once/0.log");
    symlink(target, links.join(format!("client_critical-app_once-{id}.log"))).unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    let traced = trace.finish(PATIENCE).unwrap();
    lab.down().unwrap();
    let told = told(&traced);
    let curl: Vec<_> =
        told.iter().filter(|l| l["identity"]["container_id"] == id.as_str()).collect();
    assert_eq!(curl.len(), 1, "{}", traced.stdout);
    is(curl[0], Some("once"), "node-files");
    // Lines that waited for a name wait as long in the replay.
    let replay = binary::run(&["-r", capture, "-o", "json", "--events"]);
    assert_eq!(binary::stdout(&replay), traced.stdout);
}

fn cgroup_path() -> String {
    format!("/kubepods/burstable/pod{UID}/{}", "b3a7".repeat(16))
}

/// A connection of a container without a name, and its name from `origin` after `ms`.
fn late(ms: f64, origin: Origin) -> Vec<Record> {
    let mut stream = Stream::default();
    let scope = Scope { cgroup: 101, path: cgroup_path(), role: Role::Target, ..Scope::default() };
    stream.add([
        fact(RecordKind::Cgroup, &Cgroup { id: 101, path: cgroup_path() }),
        fact(RecordKind::Scope, &scope),
    ]);
    let client = Process::target(10, "curl", 101);
    let socket = client.tcp(7, "10.244.1.10:41000", "10.96.0.1:80");
    stream.add([
        connect(&socket).at_ms(10.0),
        established(&socket).at_ms(11.0),
        tests::records::close(&socket).at_ms(12.0),
        named(origin).at_ms(ms),
    ]);
    stream.beat_until_ms(3000);
    stream.records()
}

fn named(origin: Origin) -> Fact {
    let containers = vec![Container { name: "app".into(), id: Some("b3a7".repeat(16)) }];
    let (uid, namespace, name) = (UID.into(), "critical-app".into(), "client".into());
    fact(RecordKind::Pod, &Pod { uid, namespace, name, containers, origin, ..Pod::default() })
}

#[test]
fn lines_wait_for_a_late_name() {
    let output = run(&late(400.0, Origin::Cri));
    is(&output.lines("connection")[0], Some("app"), "cri");
    for line in output.lines("event").iter().filter(|line| line["kind"] == "connect") {
        is(line, Some("app"), "cri");
    }
}

#[test]
fn lines_do_not_wait_for_ever() {
    let output = run(&late(1500.0, Origin::Cri));
    let who = &output.lines("connection")[0]["identity"];
    assert_eq!(who["pod"], Value::Null, "{who}");
    assert_eq!(who["cgroup"], cgroup_path(), "{who}");
}

#[test]
fn a_guess_is_called_one() {
    let output = run(&late(400.0, Origin::Proc));
    is(&output.lines("connection")[0], Some("app"), "proc");
    assert!(output.text.contains("critical-app/client (guessed)"), "{}", output.text);
    let sure = run(&late(400.0, Origin::NodeFiles));
    assert!(!sure.text.contains("guessed"), "{}", sure.text);
}
