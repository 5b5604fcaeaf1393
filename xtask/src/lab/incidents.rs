//! The incidents: one entry each with what it shows, what is broken, what the client does and
//! which findings svctrace owes us.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::faults::Fault;
use super::{Lab, pause, state};
use crate::interrupt;

/// Something that goes wrong in a cluster, ready to be reproduced.
#[derive(Clone, Copy, Debug)]
pub struct Incident {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it shows, in one sentence.
    pub shows: &'static str,
    /// Whether the node's resolv.conf leaks its search suffix into the pods.
    pub leak: bool,
    /// What is broken.
    pub faults: &'static [Fault],
    /// Whether pod `noisy` floods the resolver meanwhile.
    pub neighbour: bool,
    /// What pod `client` runs, one after the other.
    pub clients: &'static [&'static [&'static str]],
    /// The codes of the findings that must be printed; no other may be.
    pub findings: &'static [&'static str],
}

/// What curl prints about its times: seconds to the address, to the end, and the HTTP status.
const REPORT: &str = "curl: dns=%{time_namelookup} total=%{time_total} status=%{http_code}\\n";

const BACKEND: &[&str] = &curl("http://backend.critical-app.svc.cluster.local/");
const NOWHERE: &[&str] = &curl("http://no-such-service.critical-app.svc.cluster.local/");
const STORY: &[&str] = &["search-expansion", "foreign-suffix", "upstream-timeout"];

const fn curl(url: &'static str) -> [&'static str; 5] {
    ["curl", "-sS", "-w", REPORT, url]
}

/// Every incident.
pub const INCIDENTS: [Incident; 8] = [
    Incident {
        name: "search-timeout",
        shows: "a search suffix leaked from the node sends a cluster name to a silent upstream: ten seconds, then success",
        leak: true,
        faults: &[Fault::UpstreamSilent],
        neighbour: false,
        clients: &[BACKEND],
        findings: STORY,
    },
    Incident {
        name: "healthy",
        shows: "the same request without a foreign suffix: nothing to find",
        leak: false,
        faults: &[Fault::UpstreamSilent],
        neighbour: false,
        clients: &[BACKEND],
        findings: &[],
    },
    Incident {
        name: "resolver-down",
        shows: "the cluster's DNS server has died; its pod refuses every question",
        leak: false,
        faults: &[Fault::ResolverDown],
        neighbour: false,
        clients: &[BACKEND],
        findings: &["resolver-unreachable"],
    },
    Incident {
        name: "resolver-silent",
        shows: "questions vanish on the way to the cluster's DNS server",
        leak: false,
        faults: &[Fault::ResolverSilent],
        neighbour: false,
        clients: &[BACKEND],
        findings: &["resolver-timeout", "search-expansion"],
    },
    Incident {
        name: "aaaa-lost",
        shows: "of the A and AAAA pair one query is lost on the node: five seconds, then success",
        leak: false,
        faults: &[Fault::AaaaLost],
        neighbour: false,
        clients: &[BACKEND],
        findings: &["aaaa-race", "search-expansion"],
    },
    Incident {
        name: "aaaa-swallowed",
        shows: "its twin: the cluster's DNS server gets both queries of the pair and answers one",
        leak: false,
        faults: &[Fault::AaaaSwallowed],
        neighbour: false,
        clients: &[BACKEND],
        findings: &["resolver-timeout", "search-expansion"],
    },
    Incident {
        name: "nxdomain",
        shows: "a name that exists nowhere, with a healthy search list",
        leak: false,
        faults: &[],
        neighbour: false,
        clients: &[NOWHERE],
        findings: &["nxdomain"],
    },
    Incident {
        name: "noisy-neighbour",
        shows: "the story, while another pod floods the same DNS server: nothing of that pod may appear",
        leak: true,
        faults: &[Fault::UpstreamSilent],
        neighbour: true,
        clients: &[BACKEND],
        findings: STORY,
    },
];

/// The incident with this name.
pub fn find(name: &str) -> Result<&'static Incident> {
    INCIDENTS.iter().find(|incident| incident.name == name).with_context(|| {
        let names: Vec<&str> = INCIDENTS.iter().map(|incident| incident.name).collect();
        format!("there is no incident `{name}`; there are {}", names.join(", "))
    })
}

/// What a client command left behind.
#[derive(Debug)]
pub struct ClientRun {
    /// The command line.
    pub command: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// All it printed.
    pub stdout: String,
    /// All it said.
    pub stderr: String,
    /// From start to end.
    pub took: Duration,
}

impl ClientRun {
    /// The seconds curl needed to get the address, as it reports them itself.
    pub fn name_lookup(&self) -> Option<f64> {
        self.stdout.split("dns=").nth(1)?.split_whitespace().next()?.parse().ok()
    }
}

/// The neighbour's flood; dropping it ends it.
#[derive(Debug)]
pub struct Flood(Child);

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Incident {
    /// A fresh lab in which this is broken.
    pub fn set_up(&self) -> Result<Lab> {
        let lab = Lab::up(self.leak)?;
        for fault in self.faults {
            fault.apply(&lab)?;
        }
        Ok(lab)
    }

    /// Starts the neighbour's flood, if this incident has one.
    pub fn start_neighbour(&self, lab: &Lab) -> Result<Option<Flood>> {
        if self.neighbour { flood(lab).map(Some) } else { Ok(None) }
    }

    /// The codes of findings that should be in svctrace's output and are not.
    pub fn missing_findings(&self, output: &str) -> Vec<&'static str> {
        self.findings.iter().filter(|code| !output.contains(**code)).copied().collect()
    }

    /// Runs the client's commands to their ends.
    pub fn run_clients(&self, lab: &Lab) -> Result<Vec<ClientRun>> {
        self.clients.iter().map(|words| run_client(lab, words)).collect()
    }
}

/// Runs one command in pod `client` to its end.
pub fn run_client(lab: &Lab, words: &[&str]) -> Result<ClientRun> {
    let (program, args) = words.split_first().context("an empty client command")?;
    let mut command = lab.command(lab.pod("client")?, program)?;
    command.args(args).stdin(Stdio::null()).process_group(0);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
    // The commands print little: their pipes hold it until they have ended.
    while child.try_wait()?.is_none() {
        if interrupt::requested() {
            let _ = child.kill();
        }
        pause();
    }
    let took = started.elapsed();
    let output = child.wait_with_output()?;
    interrupt::check()?;
    Ok(ClientRun {
        command: words.join(" "),
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took,
    })
}

/// 500 questions a second from pod `noisy`: names that exist, names that do not, and one for the upstream.
pub(crate) fn flood(lab: &Lab) -> Result<Flood> {
    let mut questions = String::from("neighbour.localdomain A\n");
    for number in 0..50 {
        questions += "kubernetes.default.svc.cluster.local A\n";
        questions += &format!("neighbour-{number}.critical-app.svc.cluster.local A\n");
    }
    let file = state::folder().join("flood.txt");
    fs::write(&file, questions)?;
    let log = fs::File::create(state::log_folder().join("flood.log"))?;
    let mut command = lab.command(lab.pod("noisy")?, "dnsperf")?;
    command.args(["-s", super::services::DNS_ADDRESS, "-Q", "500", "-c", "4", "-l", "120", "-d"]);
    command.arg(&file).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    Ok(Flood(command.spawn().context("cannot start dnsperf (`cargo xtask setup` installs it)")?))
}
