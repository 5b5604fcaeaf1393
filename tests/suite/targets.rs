//! Targets as people name them, in the lab: whom a name, selector or Service means, who joins and
//! leaves while tracing, and to whom short-lived processes belong. Skipped as the lab's other tests.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tests::{lines, of_type};
use xtask::lab::trace::{Echo, Trace, Traced, lab_args};
use xtask::lab::{self, Lab, PodSpec};

use crate::lab::{PATIENCE, URL, attached, lab_for, trace, until};

const BACKENDS: [&str; 3] = ["4kq8z", "9xw2p", "tj6vn"];
const NAME: &str = "backend.critical-app.svc.cluster.local";

/// Runs to its end.
fn ended(args: &[&str]) -> Traced {
    let all = args.iter().map(ToString::to_string).chain(lab_args(!args.contains(&"--no-api")));
    let traced = Trace::start(&tests::binary::path(), all, Echo::Quiet).unwrap();
    let traced = traced.wait(PATIENCE).unwrap();
    assert!(!traced.stderr.contains("panicked"), "{}", traced.stderr);
    traced
}

fn refused(args: &[&str], says: &[&str]) {
    let traced = ended(args);
    assert_eq!(traced.status.code(), Some(2), "{args:?}: {}", traced.stderr);
    for say in says {
        assert!(traced.stderr.contains(say), "{args:?}: {say:?} in {}", traced.stderr);
    }
}

/// The line that says who is traced, after a second of tracing.
fn who(args: &[&str]) -> Traced {
    let args: Vec<&str> = args.iter().copied().chain(["--duration", "200ms"]).collect();
    let traced = ended(&args);
    assert_eq!(traced.status.code(), Some(0), "{args:?}: {}", traced.stderr);
    traced
}

fn run(mut command: Command, args: &[&str]) {
    let status = command.args(args).stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

#[test]
fn names_selectors_and_services() {
    let Some(_guard) = lab_for("targets::names_selectors_and_services") else { return };
    let _lab = Lab::up(false).unwrap();
    let app = ["-n", "critical-app"];
    for words in [
        &["deploy/backend"][..],
        &["deployments.apps/backend"],
        &["rs/backend-6f7bd8c9d5"],
        &["svc/backend"],
        &["-l", "app=backend,!none,app!=client"],
        &["deploy/backend", "svc/backend", "-c", "http"],
    ] {
        let traced = who(&[words, &app[..]].concat());
        for backend in BACKENDS {
            let pod = format!("pod critical-app/backend-6f7bd8c9d5-{backend}");
            assert_eq!(traced.stderr.matches(&pod).count(), 1, "{words:?}: {}", traced.stderr);
        }
        assert!(!traced.stderr.contains("pod critical-app/client"), "{}", traced.stderr);
    }
    let all = who(&["-A"]).stderr;
    // The machine may have pods of its own.
    assert!(all.contains(" pods: ") && all.contains(" more (") && all.contains("backend"), "{all}");
    let all = who(&["-n", "kube-system"]).stderr;
    assert!(all.contains("attached to pod kube-system/coredns-7d764666f9-x2m4k "), "{all}");
    let two = who(&["client", "--pod", "noisy", "-n", "critical-app"]).stderr;
    assert!(two.contains("pod critical-app/client, pod critical-app/noisy"), "{two}");
    // What the node's own files know is said to be a guess.
    let guess = who(&["deploy/backend", "-n", "critical-app", "--no-api"]).stderr;
    assert!(guess.contains("guessed from their names") && guess.contains(BACKENDS[2]), "{guess}");
    let some = who(&["-l", "app!=client,app!=noisy", "-n", "critical-app"]).stderr;
    assert!(some.contains("not traced: 2 on another-node (2)"), "{some}");
}

#[test]
fn what_cannot_be_traced_here() {
    let Some(_guard) = lab_for("targets::what_cannot_be_traced_here") else { return };
    let _lab = Lab::up(false).unwrap();
    let app = |words: &[&'static str]| [words, &["-n", "critical-app"]].concat();
    let there = "kubectl debug node/another-node -it --profile=sysadmin --image=svctrace:";
    let then = "-- svctrace --host-root /host --pod spread-6cc4d9f77b-hq5zt -n critical-app";
    refused(&app(&["deploy/spread"]), &["another-node (1)", there, then]);
    refused(&app(&["-l", "app=spread", "-c", "web"]), &[there, then, "-n critical-app -c web\n"]);
    refused(
        &app(&["--pod", "spread-6cc4d9f77b-hq5zt"]),
        &["runs on node another-node", there, then],
    );
    refused(&app(&["deploy/bakend"]), &["no Deployment bakend", "did you mean backend?"]);
    refused(&["svc/backend", "-n", "default"], &["it exists in namespace critical-app"]);
    refused(&app(&["svc/noendpoints"]), &["there is no pod", "--wait"]);
    refused(&["svc/kubernetes"], &["there is no pod"]);
    refused(&app(&["-l", "app=nowhere"]), &["app=nowhere", "there is no pod"]);
    refused(&app(&["deploy/backend", "-c", "htp"]), &["no container htp", "http"]);
    let rule = "apiGroups: [\"batch\"], resources: [\"jobs\"], verbs: [\"get\"]";
    refused(&app(&["job/migrate"]), &[rule, "-l key=value"]);
    refused(&app(&["svc/backend", "--no-api"]), &["no Kubernetes API", "name the pods"]);
    refused(&app(&["-l", "app=backend", "--no-api"]), &["no Kubernetes API", "name the pods"]);
}

/// The old pod goes, the new one comes; its first question is seen and named.
#[test]
fn a_rollout() {
    let Some(_guard) = lab_for("targets::a_rollout") else { return };
    let mut lab = Lab::up(false).unwrap();
    let old = PodSpec::of_deployment("web", "6d5f7c8b9f", "aaaaa", 50);
    let new = PodSpec::of_deployment("web", "7c9d5b8f6d", "bbbbb", 51);
    lab.add_pod(&old).unwrap();
    let trace = attached(&["deploy/web", "-n", "critical-app", "-o", "json"]);
    lab.roll_out(&new).unwrap();
    run(lab.command(lab.pod(&new.name).unwrap(), "curl").unwrap(), &["-sS", URL]);
    lab.remove_pod(&old.name).unwrap();
    // Pods of others come and go unseen.
    lab.roll_out(&PodSpec::client("other", 52)).unwrap();
    run(lab.command(lab.pod("other").unwrap(), "curl").unwrap(), &["-sS", URL]);
    std::thread::sleep(Duration::from_millis(1500));
    let traced = trace.finish(PATIENCE).unwrap();
    let said = |what: &str, pod: &str| {
        let line = what.replace("POD", &format!("pod critical-app/{pod}"));
        assert!(traced.stderr.contains(&line), "{line:?} in {}", traced.stderr);
    };
    said("attached to POD ", &old.name);
    said("attached to POD…", &new.name);
    said("POD has left this node", &old.name);
    assert!(!traced.stderr.contains("other"), "{}", traced.stderr);
    let lines = lines(&traced.stdout);
    let lookups = of_type(&lines, "lookup");
    assert_eq!(lookups.len(), 1, "{}", traced.stdout);
    assert_eq!(lookups[0]["identity"]["pod"], new.name);
    assert_eq!(lookups[0]["identity"]["owner"], "Deployment/web");
    assert_eq!(lookups[0]["outcome"], "answered");
    assert_eq!(lookups[0]["attempts"][0]["start_ns"], 0, "nothing before it was missed");
    assert_eq!(of_type(&lines, "summary")[0]["lost"], 0);
}

/// A pod that is awaited by its labels, and that leaves when they change.
#[test]
fn labels_that_change() {
    let Some(_guard) = lab_for("targets::labels_that_change") else { return };
    let mut lab = Lab::up(false).unwrap();
    let mut trace = trace(&["-l", "app=late", "-n", "critical-app", "--wait", "-o", "json"]);
    std::thread::sleep(Duration::from_secs(1));
    lab.roll_out(&PodSpec::client("late", 50)).unwrap();
    trace.wait_attached(PATIENCE).unwrap();
    let curl =
        |lab: &Lab| run(lab.command(lab.pod("late").unwrap(), "curl").unwrap(), &["-sS", URL]);
    curl(&lab);
    lab.label("late", &[("app", "quarantined")]).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    curl(&lab);
    let traced = trace.finish(PATIENCE).unwrap();
    assert!(
        traced.stderr.contains("pod critical-app/late is no longer selected"),
        "{}",
        traced.stderr
    );
    let lines = lines(&traced.stdout);
    assert_eq!(of_type(&lines, "lookup").len(), 1, "{}", traced.stdout);
}

/// Of a pod only some containers, also one that starts later.
#[test]
fn containers_by_name() {
    let Some(_guard) = lab_for("targets::containers_by_name") else { return };
    let lab = Lab::up(false).unwrap();
    let pod = lab.pod("client").unwrap();
    let args = ["--pod", "client", "-n", "critical-app", "-c", "client", "-c", "late"];
    let trace = attached(&[&args[..], &["-o", "json"]].concat());
    run(lab.command(pod, "curl").unwrap(), &["-sS", URL]);
    for name in ["other", "late"] {
        let container = lab.add_container(pod, name).unwrap();
        run(lab.command_in(pod, &container, "curl").unwrap(), &["-sS", URL]);
        container.remove().unwrap();
    }
    let traced = trace.finish(PATIENCE).unwrap();
    let lines = lines(&traced.stdout);
    let late = lab.add_container(pod, "late").unwrap();
    let ids: Vec<_> = of_type(&lines, "lookup")
        .iter()
        .map(|line| line["identity"]["container_id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, [pod.container_id.as_str(), late.id.as_str()], "{}", traced.stdout);
    late.remove().unwrap();
}

/// Containers that live for some milliseconds, an init container before the pod's own, and a
/// process that joins from outside belong where they ran.
#[test]
fn short_lives_have_names() {
    let Some(_guard) = lab_for("targets::short_lives_have_names") else { return };
    let lab = Lab::up(false).unwrap();
    let pod = lab.pod("client").unwrap();
    let trace = attached(&["client", "-n", "critical-app", "-o", "json"]);
    let mut ids = Vec::new();
    for name in ["init", "blink"] {
        let container = lab.add_container(pod, name).unwrap();
        let started = std::time::Instant::now();
        run(lab.command_in(pod, &container, "getent").unwrap(), &["ahostsv4", NAME]);
        println!("{name}: {} ms", started.elapsed().as_millis());
        container.remove().unwrap();
        ids.push(container.id);
    }
    // As nsenter does it: the cgroup last, while the process runs.
    let script =
        format!("echo $$ > {}/cgroup.procs && exec getent ahostsv4 {NAME}", pod.cgroup.display());
    let mut nsenter = Command::new("nsenter");
    nsenter.args(["-t", &pod.sandbox_pid.to_string(), "-m", "-n"]);
    run(nsenter, &["sh", "-c", &script]);
    ids.push(pod.container_id.clone());
    let traced = trace.finish(PATIENCE).unwrap();
    let lines = lines(&traced.stdout);
    let lookups = of_type(&lines, "lookup");
    assert_eq!(lookups.len(), 3, "{}\n{}", traced.stderr, traced.stdout);
    for (lookup, id) in lookups.iter().zip(&ids) {
        assert_eq!(lookup["identity"]["pod"], "client", "{lookup}");
        assert_eq!(lookup["identity"]["container_id"], id.as_str(), "{lookup}");
        assert_eq!(lookup["identity"]["comm"], "getent", "{lookup}");
        assert_eq!(lookup["outcome"], "answered", "{lookup}");
    }
}

/// More pods than can be targets at once: one line says so, and a pod that goes makes room.
#[test]
fn more_pods_than_room() {
    let Some(_guard) = lab_for("targets::more_pods_than_room") else { return };
    let mut lab = Lab::up(false).unwrap();
    let parent = lab::cgroups::parent().unwrap().join("kubepods.slice");
    let folder =
        |n: u32| parent.join(format!("kubepods-podaaaaaaaa_0000_4000_a000_{n:012x}.slice"));
    for n in 0..260 {
        fs::create_dir(folder(n)).unwrap();
    }
    let trace = attached(&["-A", "-o", "json"]);
    lab.roll_out(&PodSpec::client("extra", 50)).unwrap();
    let curl =
        |lab: &Lab| run(lab.command(lab.pod("extra").unwrap(), "curl").unwrap(), &["-sS", URL]);
    curl(&lab);
    for n in 0..260 {
        fs::remove_dir(folder(n)).unwrap();
    }
    std::thread::sleep(Duration::from_secs(4));
    curl(&lab);
    let traced = trace.finish(PATIENCE).unwrap();
    assert!(traced.stderr.contains("attached to 256 pods: "), "{}", traced.stderr);
    let full: Vec<_> = traced.stderr.lines().filter(|at| at.contains("the most at one")).collect();
    assert!(full.len() == 1 && full[0].contains("256 cgroups are traced"), "{}", traced.stderr);
    assert!(traced.stderr.contains("pod critical-app/extra"), "{}", traced.stderr);
    let lines = lines(&traced.stdout);
    let lookups = of_type(&lines, "lookup");
    let extra = lookups.iter().filter(|line| line["identity"]["pod"] == "extra");
    assert_eq!(extra.count(), 1, "{}", traced.stdout);
}

/// Credentials as kubectl finds them: two files in KUBECONFIG, one missing, the context's namespace.
#[test]
fn kubeconfigs_as_kubectl_reads_them() {
    let Some(_guard) = lab_for("targets::kubeconfigs_as_kubectl_reads_them") else { return };
    let _lab = Lab::up(false).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let whole: Value =
        serde_json::from_str(&fs::read_to_string(lab::state::kubeconfig()).unwrap()).unwrap();
    let context = serde_json::json!({ "name": "shop",
        "context": { "cluster": "lab", "user": "svctrace", "namespace": "critical-app" } });
    let first = serde_json::json!({ "apiVersion": "v1", "kind": "Config", "contexts": [context],
        "users": [{ "name": "svctrace", "user": { "tokenFile": "token" } }] });
    fs::write(folder.path().join("first"), first.to_string()).unwrap();
    fs::write(folder.path().join("second"), whole.to_string()).unwrap();
    let token = whole["users"][0]["user"]["token"].as_str().unwrap();
    fs::write(folder.path().join("token"), token).unwrap();
    let run = |words: &[&str]| {
        let paths = ["first", "missing", "second"].map(|name| folder.path().join(name));
        let mut command = lab::node_command(tests::binary::path().to_str().unwrap()).unwrap();
        command
            .args(words)
            .args(["--duration", "200ms", "--host-root"])
            .arg(lab::state::host_root());
        command.env("KUBECONFIG", std::env::join_paths(paths).unwrap());
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let shop = run(&["deploy/backend", "--context", "shop"]);
    assert!(shop.contains("attached to pod critical-app/backend-6f7bd8c9d5-4kq8z"), "{shop}");
    // The current context is the second file's, whose namespace is the default one.
    let other = run(&["deploy/backend"]);
    assert!(other.contains("no Deployment backend in namespace default"), "{other}");
    let none = run(&["deploy/backend", "--context", "none"]);
    assert!(none.contains("none"), "{none}");
    fs::write(folder.path().join("token"), "wrong").unwrap();
    until("a wrong token is refused", || {
        run(&["deploy/backend", "--context", "shop"]).contains("401")
            || run(&["deploy/backend", "--context", "shop"]).contains("does not let us")
    });
}

/// The API goes away for a while as pods come and go: names stay right, one line says so.
#[test]
fn an_outage_of_the_api() {
    let Some(_guard) = lab_for("targets::an_outage_of_the_api") else { return };
    let mut lab = Lab::up(false).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let capture = scratch.path().join("outage.pcapng");
    let words = ["-n", "critical-app", "-o", "json", "-w", capture.to_str().unwrap()];
    let curl = |lab: &Lab, pod: &str| {
        run(lab.command(lab.pod(pod).unwrap(), "curl").unwrap(), &["-sS", URL]);
    };
    lab.roll_out(&PodSpec::client("before", 50)).unwrap();
    let trace = attached(&words);
    curl(&lab, "before");
    lab.stop_api().unwrap();
    let away = std::time::Instant::now();
    lab.roll_out(&PodSpec::client("during", 51)).unwrap();
    curl(&lab, "during");
    lab.remove_pod("before").unwrap();
    // Lives for one question.
    lab.roll_out(&PodSpec::client("short", 52)).unwrap();
    curl(&lab, "short");
    lab.remove_pod("short").unwrap();
    std::thread::sleep(Duration::from_secs(9).saturating_sub(away.elapsed()));
    curl(&lab, "during");
    lab.start_api().unwrap();
    std::thread::sleep(Duration::from_secs(10));
    lab.roll_out(&PodSpec::client("after", 53)).unwrap();
    curl(&lab, "after");
    curl(&lab, "during");
    std::thread::sleep(Duration::from_millis(1200));
    let traced = trace.finish(PATIENCE).unwrap();
    lab.down().unwrap();
    assert_eq!(traced.status.code(), Some(0), "{}", traced.stderr);
    let about = traced.stderr.lines().filter(|line| line.contains("Kubernetes API")).count();
    assert_eq!(about, 1, "{}", traced.stderr);
    for left in ["before", "short"] {
        let left = format!("pod critical-app/{left} has left this node");
        assert!(traced.stderr.contains(&left), "{left}: {}", traced.stderr);
    }
    let told = lines(&traced.stdout);
    let named = |line: &Value| {
        let who = &line["identity"];
        assert_eq!(who["namespace"], "critical-app", "{line}");
        assert!(who["container"].is_string() && line["outcome"] == "answered", "{line}");
        let text = |at: &Value| at.as_str().unwrap().to_owned();
        (text(&who["pod"]), text(&who["named_by"]))
    };
    let lookups: Vec<_> = of_type(&told, "lookup").into_iter().map(named).collect();
    let wanted = [
        ("before", "api"),
        ("during", "node-files"),
        ("short", "node-files"),
        ("during", "node-files"),
        ("after", "api"),
        ("during", "api"),
    ];
    let wanted = wanted.map(|(pod, by)| (pod.to_owned(), by.to_owned()));
    assert_eq!(lookups, wanted, "{}", traced.stderr);
    for line in of_type(&told, "connection") {
        assert_eq!(line["service"], "svc/backend.critical-app:80", "{line}");
        let backend = line["backend"]["pod"].as_str().unwrap();
        assert!(backend.starts_with("critical-app/backend-"), "{line}");
    }
    let replay = tests::binary::run(&["-r", capture.to_str().unwrap(), "-o", "json"]);
    assert_eq!(tests::binary::stdout(&replay), traced.stdout, "the replay equals the live run");
    let (capture, token) = (fs::read(&capture).unwrap(), lab::api::TOKEN.as_bytes());
    assert!(!capture.windows(token.len()).any(|part| part == token), "a token in the capture");
}
