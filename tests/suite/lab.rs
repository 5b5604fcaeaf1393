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

/// One finding of this code, certain, that cost what curl waited, and that explains the walk.
fn half_a_pair(name: &str, code: &str) {
    let Some(_guard) = lab_for(&format!("lab::{name}")) else { return };
    let incident = incidents::find(name).unwrap();
    let watched = watch(incident, &[]);
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

/// A message pair of tcpdump: when asked, when answered.
struct Pair {
    asked: pcap::Message,
    answered_ns: Option<u64>,
}

fn pairs(messages: &[pcap::Message]) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::new();
    for message in messages {
        let same = |pair: &&mut Pair| {
            let (client, asked) = if message.response {
                (message.to, &pair.asked)
            } else {
                (message.from, &pair.asked)
            };
            (client, message.id, &message.name, message.qtype)
                == (asked.from, asked.id, &asked.name, asked.qtype)
        };
        match (pairs.iter_mut().find(same), message.response) {
            (Some(pair), true) => {
                pair.answered_ns.get_or_insert(message.at_ns);
            }
            (Some(_), false) => {} // sent again
            (None, false) => pairs.push(Pair { asked: message.clone(), answered_ns: None }),
            (None, true) => panic!("an answer without a question: {message:?}"),
        }
    }
    pairs
}

#[test]
fn tcpdump_sees_the_same() {
    let Some(_guard) = lab_for("lab::tcpdump_sees_the_same") else { return };
    let Some(tcpdump) = cmd::find("tcpdump") else {
        return skips::note("lab::tcpdump_sees_the_same", "tcpdump is not installed");
    };
    let incident = incidents::find("search-timeout").unwrap();
    let lab = incident.set_up().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dns.pcap");
    let mut command = lab.command(lab.pod("client").unwrap(), tcpdump.to_str().unwrap()).unwrap();
    command.args(["-i", "eth0", "-n", "-U", "-Z", "root", "--immediate-mode"]);
    command.args(["--time-stamp-precision=nano", "-w", file.to_str().unwrap(), "udp port 53"]);
    let mut tcpdump = command.stderr(Stdio::null()).spawn().unwrap();
    until("tcpdump captures", || fs::metadata(&file).is_ok_and(|file| file.len() >= 24));
    let args: Vec<_> = POD.iter().chain(&["-o", "json", "--events"]).copied().collect();
    let trace = attached(&args);
    run_client(&lab, &["curl", "-sS", URL]).unwrap();
    run_client(&lab, &["curl", "-sS", "http://no-such.critical-app.svc.cluster.local./"]).unwrap();
    let traced = trace.finish(PATIENCE).unwrap();
    let pid = nix::unistd::Pid::from_raw(tcpdump.id().cast_signed());
    nix::sys::signal::kill(pid, Signal::SIGINT).unwrap();
    tcpdump.wait().unwrap();
    let lines = lines(&traced.stdout);
    let transactions = of_type(&lines, "transaction");
    let pairs = pairs(&pcap::dns_messages(&fs::read(&file).unwrap()));
    assert!(pairs.len() >= 8, "{} pairs", pairs.len());
    for Pair { asked, answered_ns } in &pairs {
        let qtype = if asked.qtype == 28 { "AAAA" } else { "A" };
        let same = |line: &&&Value| {
            line["client"] == asked.from.to_string()
                && line["id"] == asked.id
                && line["qtype"] == qtype
                && line["name"].as_str().is_some_and(|name| name.eq_ignore_ascii_case(&asked.name))
        };
        let found = transactions.iter().find(same);
        let found = found.unwrap_or_else(|| panic!("{asked:?} is missing: {}", traced.stdout));
        let ours = found["latency_ns"].as_u64();
        assert_eq!(ours.is_some(), answered_ns.is_some(), "{asked:?}: {found}");
        if let (Some(ours), Some(answered)) = (ours, answered_ns) {
            let theirs = answered - asked.at_ns;
            assert!(ours.abs_diff(theirs) < 1_000_000, "{theirs} ns on the wire: {found}");
        }
    }
    assert_eq!(transactions.len(), pairs.len(), "{}", traced.stdout);
}

/// Ids of the BPF programs, maps and links that these processes hold, as `kind:id`.
fn held(pids: &[i32]) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for pid in pids {
        let Ok(infos) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { continue };
        for info in infos.flatten() {
            let text = fs::read_to_string(info.path()).unwrap_or_default();
            for line in text.lines() {
                let Some((key, id)) = line.split_once(":\t") else { continue };
                if let Some(kind) = key.strip_suffix("_id").filter(|k| OBJECTS.contains(k)) {
                    ids.insert(format!("{kind}:{}", id.trim()));
                }
            }
        }
    }
    ids
}

const OBJECTS: [&str; 3] = ["prog", "map", "link"];

/// Ids of everything in the kernel, as `kind:id`.
pub(crate) fn existing() -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for kind in OBJECTS {
        let list: Value = serde_json::from_str(&cmd::run("bpftool", ["-j", kind, "show"]).unwrap())
            .unwrap_or_default();
        ids.extend(
            list.as_array().into_iter().flatten().map(|one| format!("{kind}:{}", one["id"])),
        );
    }
    ids
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

/// Whether a folder of this name is somewhere in the cgroup tree.
fn cgroup_exists(folder: &Path, name: &str) -> bool {
    fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        let path = entry.path();
        path.is_dir() && (entry.file_name() == name || cgroup_exists(&path, name))
    })
}

/// Starts a trace, ends it so, and looks for what is left of it.
fn leaves_nothing(end: impl FnOnce(&Trace, i32)) {
    let _lab = Lab::up(false).unwrap();
    let trace = attached(&POD);
    let agent = trace.pid();
    let pipeline = children(agent);
    assert_eq!(pipeline.len(), 1, "two processes");
    let ours = held(&[agent, pipeline[0]]);
    assert!(ours.len() > 20, "{ours:?}");
    assert!(ours.is_subset(&existing()), "{ours:?}");
    end(&trace, pipeline[0]);
    let _ = trace.wait(PATIENCE).unwrap();
    until("the pipeline process ends", || !Path::new(&format!("/proc/{}", pipeline[0])).exists());
    until("the kernel lets go", || existing().is_disjoint(&ours));
}

#[test]
fn nothing_is_left_after_the_end() {
    let Some(_guard) = lab_for("lab::nothing_is_left_after_the_end") else { return };
    leaves_nothing(|trace, _| trace.signal(Signal::SIGINT).unwrap());
}

#[test]
fn nothing_is_left_when_the_agent_is_killed() {
    let Some(_guard) = lab_for("lab::nothing_is_left_when_the_agent_is_killed") else { return };
    leaves_nothing(|trace, _| trace.signal(Signal::SIGKILL).unwrap());
}

#[test]
fn nothing_is_left_when_the_pipeline_is_killed() {
    let Some(_guard) = lab_for("lab::nothing_is_left_when_the_pipeline_is_killed") else { return };
    leaves_nothing(|_, pipeline| {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pipeline), Signal::SIGKILL).unwrap();
    });
}

/// A command is run, traced and forgotten; its status is told, not returned.
#[test]
fn a_command_of_its_own() {
    let Some(_guard) = lab_for("lab::a_command_of_its_own") else { return };
    let _lab = Lab::up(false).unwrap();
    let args =
        ["-o", "json", "--no-api", "--", "sh", "-c", "curl -sS -m 2 http://10.244.1.1:1/; exit 7"];
    let trace = Trace::start(&binary::path(), args, Echo::Quiet).unwrap();
    let cgroup = format!("svctrace-{}", trace.pid());
    let traced = trace.wait(PATIENCE).unwrap();
    assert_eq!(traced.status.code(), Some(0), "{}", traced.stderr);
    assert!(traced.stderr.contains('7'), "{}", traced.stderr);
    let lines = lines(&traced.stdout);
    assert!(lines.iter().any(|line| line["type"] == "connection"), "{}", traced.stdout);
    assert_eq!(lines.last().unwrap()["type"], "summary");
    let mount = lab::cgroups::mount_point().unwrap();
    until("its cgroup goes", || !cgroup_exists(&mount, &cgroup));
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

/// The client is traced by one svctrace and the resolver by another, as on two nodes: each alone knows
/// half of it. One machine, so its ids are shared; and, with another boot id, as two would have it.
#[test]
fn two_recordings_tell_one_story() {
    let Some(_guard) = lab_for("lab::two_recordings_tell_one_story") else { return };
    let incident = incidents::find("search-timeout").unwrap();
    let lab = incident.set_up().unwrap();
    let resolver = lab.pod("dns").unwrap().name.clone();
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    let (a, b, c) = (path("a.pcapng.zst"), path("b.pcapng"), path("c.pcapng"));
    let resolver = ["--pod", &resolver, "-n", "kube-system"];
    let record = |pod: [&str; 4], file: &str| {
        attached(
            &pod.iter().chain(&["--no-resolver", "-q", "-w", file]).copied().collect::<Vec<_>>(),
        )
    };
    let (client, resolver) = (record(POD, &a), record(resolver, &b));
    incident.run_clients(&lab).unwrap();
    client.finish(PATIENCE).unwrap();
    resolver.finish(PATIENCE).unwrap();
    lab.down().unwrap();
    elsewhere(&b, &c);
    for (files, confidence, host) in [
        (vec![&a], "inferred", Value::Null),
        (vec![&a, &b], "certain", Value::Null),
        (vec![&c, &a], "certain", "elsewhere".into()),
    ] {
        let mut words = vec!["-o", "json"];
        words.extend(files.iter().flat_map(|file| ["-r", file.as_str()]));
        let output = binary::run(&words);
        assert_eq!((output.status.code(), binary::stderr(&output).as_str()), (Some(0), ""));
        let text = binary::stdout(&output);
        let lines = lines(&text);
        let roots: Vec<_> = lines.iter().filter(|l| l["code"] == "upstream-timeout").collect();
        assert_eq!(roots.len(), 1, "{files:?}: {text}");
        assert_eq!(roots[0]["confidence"], confidence, "{files:?}: {text}");
        assert_eq!(roots[0]["details"]["resolver"]["host"], host, "{files:?}: {text}");
        if confidence == "certain" {
            assert_eq!(roots[0]["details"]["upstream"], "10.99.0.53:53", "{files:?}: {text}");
        }
        let of_client = |l: &&Value| l["type"] == "lookup" && l["identity"]["pod"] == "client";
        assert_eq!(lines.iter().filter(of_client).count(), 1, "{files:?}: {text}");
    }
}

/// The same recording, as of another machine.
fn elsewhere(from: &str, to: &str) {
    let records = tracer::source::open(Box::new(fs::File::open(from).unwrap())).unwrap();
    let moved = records.map(|record| {
        let mut record = record.unwrap();
        if record.kind == RecordKind::Host {
            let mut host: Value = serde_json::from_slice(&record.body).unwrap();
            (host["boot_id"], host["hostname"]) = ("another".into(), "elsewhere".into());
            record.body = host.to_string().into();
        }
        record.at = record.at.plus(20_000_000); // and its clock is ahead
        record
    });
    let moved: Vec<_> = moved.collect();
    fs::write(to, tests::capture::file(&moved, tracer::capture::Options::default())).unwrap();
}

/// Killed in the middle: all that was flushed replays, and the end is known to be missing.
#[test]
fn a_killed_recording_replays() {
    let Some(_guard) = lab_for("lab::a_killed_recording_replays") else { return };
    let incident = incidents::find("search-timeout").unwrap();
    let lab = incident.set_up().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let capture = scratch.path().join("killed.pcapng.zst");
    let record = ["-q", "-w", capture.to_str().unwrap()];
    let trace = attached(&POD.iter().chain(&record).copied().collect::<Vec<_>>());
    let mut curl = lab.command(lab.pod("client").unwrap(), "curl").unwrap();
    let mut curl = curl.args(["-sS", URL]).stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    drop(trace);
    curl.kill().unwrap();
    curl.wait().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    lab.down().unwrap();
    let replay = binary::run(&["-r", record[2], "-o", "json", "--events"]);
    assert_eq!(replay.status.code(), Some(3));
    let told = binary::stderr(&replay);
    assert!(told.contains("tail is missing") && told.lines().count() == 1, "{told}");
    let lines = lines(&binary::stdout(&replay));
    let asked = |line: &&Value| line["type"] == "transaction" && line["rcode"] == "NXDOMAIN";
    assert!(lines.iter().filter(asked).count() >= 6, "{lines:?}");
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

/// What tcpdump wrote in the client's pod, on the bridge and on all interfaces, read back.
#[test]
fn tcpdump_files_tell_the_story() {
    let Some(_guard) = lab_for("lab::tcpdump_files_tell_the_story") else { return };
    if cmd::find("tcpdump").is_none() {
        return skips::note("lab::tcpdump_files_tell_the_story", "tcpdump is not installed");
    }
    let lab = incidents::find("search-timeout").unwrap().set_up().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let views = [("eth0", "inferred"), ("cni0", "certain"), ("any", "certain")];
    let mut running = Vec::new();
    for (interface, _) in views {
        let mut command = match interface {
            "eth0" => lab.command(lab.pod("client").unwrap(), "tcpdump").unwrap(),
            _ => lab::node_command("tcpdump").unwrap(),
        };
        // A large buffer: what tcpdump drops, nobody can tell.
        command.args(["-i", interface, "-n", "-U", "-Z", "root", "-B", "16384"]);
        command.args(["-w", &file(interface), "port 53 or port 80 or port 8080"]);
        running.push(command.stderr(Stdio::null()).spawn().unwrap());
        until("tcpdump captures", || fs::metadata(file(interface)).is_ok_and(|f| f.len() >= 24));
    }
    run_client(&lab, &["curl", "-sS", URL]).unwrap();
    std::thread::sleep(Duration::from_secs(2));
    for mut tcpdump in running {
        let pid = nix::unistd::Pid::from_raw(tcpdump.id().cast_signed());
        nix::sys::signal::kill(pid, Signal::SIGINT).unwrap();
        tcpdump.wait().unwrap();
    }
    for (interface, confidence) in views {
        let output = binary::run(&["-r", &file(interface), "-o", "json"]);
        let text = binary::stdout(&output);
        assert_eq!(output.status.code(), Some(0), "{interface}: {}", binary::stderr(&output));
        let lines = lines(&text);
        let find = |key: &str, value: &str| {
            let found = lines.iter().filter(|l| l[key] == value).collect::<Vec<_>>();
            assert_eq!(found.len(), 1, "{interface}: {value}: {text}");
            found[0]
        };
        let root = find("code", "upstream-timeout");
        assert_eq!(root["confidence"], confidence, "{interface}: {root}");
        let upstream = if confidence == "certain" { "10.99.0.53:53".into() } else { Value::Null };
        assert_eq!(root["details"]["upstream"], upstream, "{interface}: {root}");
        find("code", "search-expansion");
        find("code", "foreign-suffix");
        assert_eq!(find("type", "lookup")["outcome"], "answered", "{interface}");
        assert_eq!(find("type", "summary")["unmatched_responses"], 0, "{interface}: {text}");
    }
}
