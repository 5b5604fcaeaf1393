//! svctrace in the incident lab: real probes, real curl, real resolver. Needs root; skipped by name
//! where that is missing. There is one lab a machine, so these run one after the other.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use tests::{binary, lines, of_type, pcap};
use tracer::record::RecordKind;
use xtask::lab::incidents::{self, ClientRun, Incident, run_client};
use xtask::lab::trace::{Echo, Trace, Traced, lab_args};
use xtask::lab::{self, Lab};
use xtask::{cmd, skips};

mod left;
mod others;
mod recorded;
mod wire;

pub(crate) use left::existing;

static ONE_LAB: Mutex<()> = Mutex::new(());
static NOT_BUILT: LazyLock<bool> =
    LazyLock::new(|| binary::stderr(&binary::run(&["probes"])).contains("built without"));
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const POD: [&str; 4] = ["--pod", "client", "-n", "critical-app"];
pub(crate) const URL: &str = "http://backend.critical-app.svc.cluster.local/";

/// The right to use the lab, or a note why not.
pub(crate) fn lab_for(test: &str) -> Option<MutexGuard<'static, ()>> {
    if let Err(why) = lab::check_machine() {
        skips::note(test, &format!("{why:#}"));
        return None;
    }
    if *NOT_BUILT {
        skips::note(test, "svctrace was built without its probes");
        return None;
    }
    Some(ONE_LAB.lock().unwrap_or_else(PoisonError::into_inner))
}

pub(crate) fn trace(args: &[&str]) -> Trace {
    let args = args.iter().map(ToString::to_string).chain(lab_args(true));
    Trace::start(&binary::path(), args, Echo::Quiet).unwrap()
}

pub(crate) fn attached(args: &[&str]) -> Trace {
    let mut trace = trace(args);
    trace.wait_attached(PATIENCE).unwrap();
    trace
}

/// What svctrace and the clients said.
pub(crate) struct Watched {
    traced: Traced,
    clients: Vec<ClientRun>,
    lines: Vec<Value>,
}

pub(crate) fn watch(incident: &Incident, more: &[&str]) -> Watched {
    let lab = incident.set_up().unwrap();
    let flood = incident.start_neighbour(&lab).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let capture = scratch.path().join("live.pcapng.zst");
    let record = ["-o", "json", "-w", capture.to_str().unwrap()];
    let args: Vec<_> = POD.iter().chain(&record).chain(more).copied().collect();
    let trace = attached(&args);
    let clients = incident.run_clients(&lab).unwrap();
    drop(flood);
    let traced = trace.finish(PATIENCE).unwrap();
    lab.down().unwrap();
    assert_eq!(traced.status.code(), Some(0), "{}\n{}", traced.stderr, traced.stdout);
    let replay = binary::run(&["-r", record[3], "-o", "json"]);
    assert_eq!(binary::stderr(&replay), "");
    assert_eq!(binary::stdout(&replay), traced.stdout, "the replay equals the live run");
    let lines = lines(&traced.stdout);
    Watched { traced, clients, lines }
}

impl Watched {
    fn of(&self, kind: &str) -> Vec<&Value> {
        of_type(&self.lines, kind)
    }

    fn finding(&self, code: &str) -> &Value {
        let mut all = self.of("finding").into_iter();
        all.find(|f| f["code"] == code).unwrap_or_else(|| panic!("{code}: {}", self.traced.stdout))
    }

    /// These findings and no others; everything about the target only.
    pub(crate) fn shows(&self, incident: &Incident) {
        let codes: BTreeSet<_> =
            self.of("finding").iter().map(|f| f["code"].as_str().unwrap()).collect();
        let expected: BTreeSet<_> = incident.findings.iter().copied().collect();
        assert_eq!(codes, expected, "{}: {}", incident.name, self.traced.stdout);
        for line in ["lookup", "connection", "finding"].iter().flat_map(|kind| self.of(kind)) {
            assert_eq!(line["identity"]["pod"], "client", "{line}");
            assert_eq!(line["identity"]["namespace"], "critical-app", "{line}");
            assert_eq!(line["identity"]["comm"], "curl", "{line}");
        }
        let summary = self.of("summary")[0];
        assert_eq!(summary["lost"], 0, "{summary}");
        assert!(!self.traced.stdout.contains("neighbour"), "{}", self.traced.stdout);
    }
}

/// The story's checks: the root first, what it caused tied to it, its cost what curl waited.
fn is_the_story(watched: &Watched, confidence: &str) {
    let first = watched.of("finding")[0];
    let root = watched.finding("upstream-timeout");
    assert_eq!(first["id"], root["id"], "the root comes first: {}", watched.traced.stdout);
    assert_eq!(root["confidence"], confidence, "{root}");
    for code in ["search-expansion", "foreign-suffix"] {
        let caused_by = &watched.finding(code)["caused_by"];
        assert!(caused_by.as_array().unwrap().contains(&root["id"]), "{code}: {caused_by}");
    }
    let waited = watched.clients[0].name_lookup().unwrap();
    let cost = root["cost_ns"].as_u64().unwrap() as f64 / 1e9;
    assert!((cost - waited).abs() <= 0.05 * waited, "cost {cost} s, curl waited {waited} s");
}

fn incident(name: &str) {
    let Some(_guard) = lab_for(&format!("lab::{name}")) else { return };
    let incident = incidents::find(name).unwrap();
    watch(incident, &[]).shows(incident);
}

#[test]
fn the_story_is_named() {
    let Some(_guard) = lab_for("lab::the_story_is_named") else { return };
    let incident = incidents::find("search-timeout").unwrap();
    let watched = watch(incident, &[]);
    watched.shows(incident);
    is_the_story(&watched, "certain");
    let connection = watched.of("connection")[0];
    assert_eq!(connection["service"], "svc/backend.critical-app:80", "{connection}");
    assert!(connection["backend"]["pod"].as_str().unwrap().contains("backend"), "{connection}");
}

#[test]
fn without_the_resolver_the_story_is_inferred() {
    let Some(_guard) = lab_for("lab::without_the_resolver_the_story_is_inferred") else { return };
    let incident = incidents::find("search-timeout").unwrap();
    let watched = watch(incident, &["--no-resolver"]);
    watched.shows(incident);
    is_the_story(&watched, "inferred");
}

#[test]
fn the_story_beside_a_noisy_neighbour() {
    let Some(_guard) = lab_for("lab::the_story_beside_a_noisy_neighbour") else { return };
    if cmd::find("dnsperf").is_none() {
        return skips::note("lab::the_story_beside_a_noisy_neighbour", "dnsperf is not installed");
    }
    let incident = incidents::find("noisy-neighbour").unwrap();
    let watched = watch(incident, &[]);
    watched.shows(incident);
    is_the_story(&watched, "certain");
}

#[test]
fn healthy_has_no_finding() {
    incident("healthy");
}

#[test]
fn a_name_that_does_not_exist() {
    incident("nxdomain");
}

#[test]
fn a_dead_resolver() {
    incident("resolver-down");
}

#[test]
fn a_silent_resolver() {
    incident("resolver-silent");
}

/// No answer to the first query of the pair came before the second one went out, as it can where the
/// processor was taken away in between.
fn sent_together(watched: &Watched) -> bool {
    let pair = watched.of("lookup")[0]["attempts"][0]["transactions"].as_array().unwrap();
    let event = |of: &Value, n: usize| of["events"][n].as_u64().unwrap_or(u64::MAX);
    event(&pair[1], 0) < event(&pair[0], 1)
}

/// One finding of this code, certain, that cost what curl waited, and that explains the walk.
fn half_a_pair(name: &str, code: &str) {
    let Some(_guard) = lab_for(&format!("lab::{name}")) else { return };
    let incident = incidents::find(name).unwrap();
    let mut runs = (0..3).map(|_| watch(incident, &[]));
    let Some(watched) = runs.find(sent_together) else {
        return skips::note(
            &format!("lab::{name}"),
            "this machine puts an answer between the two queries of a pair",
        );
    };
    watched.shows(incident);
    let finding = watched.finding(code);
    assert_eq!(finding["confidence"], "certain", "{finding}");
    assert_eq!(watched.finding("search-expansion")["caused_by"][0], finding["id"]);
    let waited = watched.clients[0].name_lookup().unwrap();
    let cost = finding["cost_ns"].as_u64().unwrap() as f64 / 1e9;
    assert!((cost - waited).abs() <= 0.05 * waited, "cost {cost} s, curl waited {waited} s");
    assert_eq!(watched.of("summary")[0]["unmatched_responses"], 0);
}

#[test]
fn one_of_a_pair_is_lost() {
    half_a_pair("aaaa-lost", "aaaa-race");
}

#[test]
fn one_of_a_pair_is_swallowed() {
    half_a_pair("aaaa-swallowed", "resolver-timeout");
}

/// The client was there before svctrace, waiting for what to fetch; the text is one block.
#[test]
fn a_client_older_than_the_attach() {
    let Some(_guard) = lab_for("lab::a_client_older_than_the_attach") else { return };
    let lab = incidents::find("search-timeout").unwrap().set_up().unwrap();
    let mut curl = lab.command(lab.pod("client").unwrap(), "curl").unwrap();
    curl.args(["-sS", "-K", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut curl = curl.spawn().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let trace = attached(&POD);
    let mut orders = curl.stdin.take().unwrap();
    writeln!(orders, "url = \"{URL}\"").unwrap();
    drop(orders);
    assert!(curl.wait().unwrap().success());
    let text = trace.finish(PATIENCE).unwrap().stdout;
    assert!(text.contains(&format!("curl[{}]", curl.id())), "{text}");
    assert_eq!(text.matches("\n[").count(), 1, "one block: {text}");
    let place = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
    assert!(place("] upstream-timeout") < place("] search-expansion"), "{text}");
    assert!(place("] upstream-timeout") < place("] foreign-suffix"), "{text}");
}

pub(crate) fn children(pid: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

pub(crate) fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within 10 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Names that are nearly right get an answer that helps.
#[test]
fn targets_that_are_not_there() {
    let Some(_guard) = lab_for("lab::targets_that_are_not_there") else { return };
    let _lab = Lab::up(false).unwrap();
    for (words, says) in [
        (["--pod", "clint", "-n", "critical-app"], "client"),
        (["--pod", "client", "-n", "kube-system"], "critical-app"),
        (["--container", "ffff", "--duration", "1s"], "ffff"),
    ] {
        let ended = trace(&words).wait(PATIENCE).unwrap();
        assert_eq!(ended.status.code(), Some(2), "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{words:?}: {}", ended.stderr);
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    }
}

/// A pod that comes later is traced from its first packet.
#[test]
fn a_pod_that_comes_later() {
    let Some(_guard) = lab_for("lab::a_pod_that_comes_later") else { return };
    let mut lab = Lab::up(false).unwrap();
    let trace = trace(&["--pod", "late", "-n", "critical-app", "--wait", "-o", "json"]);
    std::thread::sleep(Duration::from_secs(2));
    lab.add_pod(&lab::PodSpec::client("late", 50)).unwrap();
    let mut curl = lab.command(lab.pod("late").unwrap(), "curl").unwrap();
    assert!(curl.args(["-sS", URL]).stdout(Stdio::null()).status().unwrap().success());
    let traced = trace.finish(PATIENCE).unwrap();
    let lines = lines(&traced.stdout);
    let lookup = lines.iter().find(|line| line["type"] == "lookup");
    let lookup = lookup.unwrap_or_else(|| panic!("{}\n{}", traced.stderr, traced.stdout));
    assert_eq!(lookup["identity"]["pod"], "late");
    assert_eq!(lookup["outcome"], "answered");
    assert_eq!(lookup["attempts"][0]["start_ns"], 0);
}

/// `svctrace | head -n 1`: the reader leaves, svctrace ends at its next line and is not upset.
#[test]
fn a_reader_that_leaves() {
    let Some(_guard) = lab_for("lab::a_reader_that_leaves") else { return };
    let lab = Lab::up(false).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let script = "{ \"$@\" 2>\"$SAID\"; echo $? >\"$CODE\"; } | head -n 1";
    let (said, code) = (folder.path().join("said"), folder.path().join("code"));
    let mut command = lab::node_command("sh").unwrap();
    command.args(["-c", script, "sh"]).arg(binary::path()).args(POD).args(lab_args(true));
    command.args(["-o", "json"]).env("SAID", &said).env("CODE", &code).stdout(Stdio::null());
    let mut shell = command.spawn().unwrap();
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    until("svctrace is attached", || read(&said).contains("attached"));
    for _ in 0..3 {
        run_client(&lab, &["curl", "-sS", URL]).unwrap();
        std::thread::sleep(Duration::from_millis(500));
    }
    until("svctrace ends", || !read(&code).is_empty());
    assert!(shell.wait().unwrap().success());
    assert_eq!(read(&code).trim(), "0", "{}", read(&said));
    assert!(!read(&said).contains("ipe"), "{}", read(&said));
}
