//! What runs inside a guest: the lab's small incident, traced live, recorded and replayed; the same
//! with IPVS in place of iptables, with netem's delay, both of which the host may lack, and with a
//! clock that jumps. Prints one line `check NAME RESULT` each for the table.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use xtask::lab::incidents::{self, Incident};
use xtask::lab::trace::{Echo, Trace, lab_args};
use xtask::lab::{self, Lab, net};
use xtask::{cmd, interrupt};

use super::clock;

/// An emulated machine is slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most that curl's own figure may be above the cost, seconds: it includes curl's start.
const SLOW: f64 = 1.5;
/// What netem adds to every packet to the client.
const DELAY: &str = "80ms";

/// What to do.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The svctrace to try
    #[arg(long)]
    binary: PathBuf,
    /// This machine's clock may be set
    #[arg(long)]
    own_clock: bool,
}

/// Every check, whatever came of those before it.
pub(crate) fn run(options: &Options) -> Result<()> {
    interrupt::catch()?;
    let binary = &options.binary;
    let checks: [(&str, &dyn Fn() -> Result<String>); 7] = [
        ("sandbox", &|| confined(binary)),
        ("incident", &|| story(binary, &Watch::default())),
        ("healthy", &|| silent(binary, &Watch::default())),
        ("incident-ipvs", &|| story(binary, &Watch { change: &ipvs, ..Watch::default() })),
        ("healthy-ipvs", &|| silent(binary, &Watch { change: &ipvs, ..Watch::default() })),
        ("netem", &|| delayed(binary)),
        ("clock-jumps", &|| match options.own_clock {
            true => clock::jumps(binary),
            false => bail!(Lacking("this machine's clock is not ours to set".to_owned())),
        }),
    ];
    for (name, check) in checks {
        match check() {
            Ok(note) => println!("check {name} ok {note}"),
            Err(error) if error.is::<Lacking>() => println!("check {name} lacking: {error:#}"),
            Err(error) => {
                println!("check {name} FAILED {}", format!("{error:#}").replace('\n', " | "))
            }
        }
        if let Err(error) = lab::down() {
            println!("check {name}-clean FAILED {error:#}");
        }
    }
    let left = lab::leftovers()?;
    let clean =
        if left.is_empty() { "ok".to_owned() } else { format!("FAILED {}", left.join(", ")) };
    println!("check leaves-nothing {clean}");
    Ok(())
}

/// The kernel, or this system, has not what the check is about.
#[derive(Debug)]
struct Lacking(String);

impl std::fmt::Display for Lacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Lacking {}

/// What is different about a run.
pub(super) struct Watch<'a> {
    /// Done to the lab before svctrace starts.
    pub(super) change: &'a dyn Fn(&Lab) -> Result<()>,
    /// Done while the client runs.
    pub(super) meanwhile: &'a (dyn Fn() -> Result<()> + Sync),
    /// More options for svctrace, live and replaying.
    pub(super) more: &'a [&'a str],
}

impl Default for Watch<'_> {
    fn default() -> Self {
        Self { change: &|_| Ok(()), meanwhile: &|| Ok(()), more: &[] }
    }
}

/// What a live run found and said, and what its client waited for the name.
pub(super) struct Seen {
    findings: Vec<Value>,
    pub(super) lines: Vec<Value>,
    pub(super) said: String,
    waited: f64,
}

impl Seen {
    fn codes(&self) -> BTreeSet<&str> {
        self.findings.iter().filter_map(|f| f["code"].as_str()).collect()
    }

    fn cost(&self, code: &str) -> Option<f64> {
        let finding = self.findings.iter().find(|f| f["code"] == code)?;
        Some(finding["cost_ns"].as_u64()? as f64 / 1e9)
    }
}

/// Runs the incident with svctrace watching and recording; the replay must say the same.
pub(super) fn watch(binary: &Path, incident: &Incident, watch: &Watch<'_>) -> Result<Seen> {
    let lab = incident.set_up()?;
    (watch.change)(&lab)?;
    let capture = "/tmp/incident.pcapng.zst";
    let args = ["--pod", "client", "-n", "critical-app", "-o", "json", "--force", "-w", capture];
    let args = args.iter().chain(watch.more).map(|word| (*word).to_owned());
    let mut trace = Trace::start(binary, lab_args(true).into_iter().chain(args), Echo::Quiet)?;
    trace.wait_attached(PATIENCE)?;
    let clients = std::thread::scope(|scope| {
        let meanwhile = scope.spawn(watch.meanwhile);
        let clients = incident.run_clients(&lab);
        meanwhile.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        clients
    })?;
    let traced = trace.finish(PATIENCE)?;
    lab.down()?;
    let code = traced.status.code();
    ensure!(code == Some(0), "svctrace ended with {code:?}: {}", traced.stderr.trim());
    let client = clients.first().context("no client ran")?;
    ensure!(client.status.success(), "the client failed: {}", client.stderr.trim());
    let replay =
        Command::new(binary).args(["-r", capture, "-o", "json"]).args(watch.more).output()?;
    fs::remove_file(capture)?;
    ensure!(replay.stdout == traced.stdout.as_bytes(), "the replay differs from the live run");
    let parsed: Result<Vec<Value>, _> = traced.stdout.lines().map(serde_json::from_str).collect();
    let lines = parsed?;
    let findings = lines.iter().filter(|l| l["type"] == "finding").cloned().collect();
    let waited = client.name_lookup().context("curl said no time")?;
    Ok(Seen { findings, lines, said: traced.stderr, waited })
}

pub(super) fn incident(name: &str) -> Result<&'static Incident> {
    incidents::find(name)
}

/// The story: its findings and no others, its cost what the client waited, but for the time in which
/// an emulated machine starts a program.
fn story(binary: &Path, how: &Watch<'_>) -> Result<String> {
    judge_story(&watch(binary, incident("search-timeout")?, how)?)
}

/// What must have been seen of the story.
pub(super) fn judge_story(seen: &Seen) -> Result<String> {
    let incident = incident("search-timeout")?;
    let expected: BTreeSet<&str> = incident.findings.iter().copied().collect();
    let mut found = seen.codes();
    // An emulated machine may be slow with everything.
    found.remove("slow-dns");
    ensure!(found == expected, "found {found:?}, expected {expected:?}");
    let cost = seen.cost("upstream-timeout").context("the root has no cost")?;
    ensure!(
        (seen.waited - SLOW..=seen.waited).contains(&cost),
        "cost {cost} s, curl waited {} s",
        seen.waited
    );
    Ok(format!("cost {cost:.2} s, curl waited {:.2} s", seen.waited))
}

/// A healthy request: nothing found, the connection's backend known.
fn silent(binary: &Path, how: &Watch<'_>) -> Result<String> {
    let seen = watch(binary, incident("healthy")?, how)?;
    // An emulated machine may need more than the threshold for an ordinary walk.
    let slow = BTreeSet::from(["search-expansion", "slow-dns"]);
    ensure!(seen.codes().is_subset(&slow), "found {:?}", seen.codes());
    let connection =
        seen.lines.iter().find(|l| l["type"] == "connection").context("no connection")?;
    let backend = connection["backend"]["pod"].as_str();
    let backend = backend.with_context(|| format!("no backend in {connection}"))?;
    Ok(format!("{} to {backend}", connection["outcome"].as_str().unwrap_or_default()))
}

/// Every answer takes long: that is what the walk costs.
fn delayed(binary: &Path) -> Result<String> {
    let slow_link: &dyn Fn(&Lab) -> Result<()> = &|_| {
        net::on_node("tc", &["qdisc", "add", "dev", "vethclient", "root", "netem", "delay", DELAY])
            .map_err(|error| Lacking(format!("{error:#}")).into())
    };
    let how = Watch { change: slow_link, ..Watch::default() };
    let seen = watch(binary, incident("healthy")?, &how)?;
    let cost = seen.cost("search-expansion");
    let cost = cost.with_context(|| format!("no search-expansion in {:?}", seen.codes()))?;
    // Three suffixes, each one delayed answer.
    ensure!(cost >= 0.24 && cost <= seen.waited, "cost {cost} s, curl waited {} s", seen.waited);
    Ok(format!("search-expansion {cost:.2} s, curl waited {:.2} s", seen.waited))
}

/// What the process that reads foreign bytes may still do on this kernel: of its walls only Landlock
/// may be missing.
fn confined(binary: &Path) -> Result<String> {
    let capture = "/tmp/sandbox.pcapng";
    let words = ["--no-api", "-v", "-w", capture, "--", "true"];
    let live = Command::new(binary).args(words).output()?;
    let replay = Command::new(binary).args(["-r", capture, "-v"]).output()?;
    let _ = fs::remove_file(capture);
    let mut walls = Vec::new();
    for (output, begins) in [(live, "sandbox of the pipeline process: "), (replay, "; sandbox: ")] {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{}: {}", output.status, said.trim());
        let line = said.lines().find_map(|line| line.split_once(begins));
        walls.push(line.with_context(|| format!("not told: {said}"))?.1.to_owned());
    }
    ensure!(walls[0] == walls[1], "live {:?}, replay {:?}", walls[0], walls[1]);
    let (in_force, missing) = walls[0].split_once("; not in force: ").unwrap_or((&walls[0], ""));
    ensure!(missing.split(", ").all(|at| at.is_empty() || at.starts_with("Landlock")), "{missing}");
    for wall in ["user 65534", "no capability", "no_new_privs", "seccomp"] {
        ensure!(in_force.contains(wall), "{wall} is missing: {in_force}");
    }
    let landlock = in_force.find("Landlock").map_or("no Landlock", |at| &in_force[at..]);
    let landlock = landlock.split_once(')').map_or(landlock, |(words, _)| words);
    Ok(format!("seccomp, {}", landlock.replace(" (", ": ")))
}

/// kube-proxy's other mode: virtual servers in place of NAT rules.
fn ipvs(lab: &Lab) -> Result<()> {
    if cmd::find("ipvsadm").is_none() {
        bail!(Lacking("no ipvsadm here".to_owned()));
    }
    let backends: Vec<String> = ["31", "32", "33"].map(|h| format!("10.244.1.{h}:8080")).into();
    let dns =
        lab.world.pods.iter().find(|p| p.role == lab::Role::Resolver).context("no resolver")?;
    let dns = vec![format!("{}:53", dns.ip)];
    net::on_node("iptables", &["-t", "nat", "-F", "KUBE-SERVICES"])?;
    net::node_settings(&[("net/ipv4/vs/conntrack", "1")])?;
    let servers = [
        ("-u", "10.96.0.10:53", &dns),
        ("-t", "10.96.0.10:53", &dns),
        ("-t", "10.96.100.50:80", &backends),
    ];
    net::on_node("ip", &["link", "add", "kube-ipvs0", "type", "dummy"])?;
    for address in ["10.96.0.10/32", "10.96.100.50/32"] {
        net::on_node("ip", &["addr", "add", address, "dev", "kube-ipvs0"])?;
    }
    for (protocol, address, endpoints) in servers {
        net::on_node("ipvsadm", &["-A", protocol, address, "-s", "rr"])?;
        for endpoint in endpoints {
            net::on_node("ipvsadm", &["-a", protocol, address, "-r", endpoint, "-m"])?;
        }
    }
    Ok(())
}
