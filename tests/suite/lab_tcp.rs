//! DNS over TCP in the incident lab: dig and glibc's `use-vc`, answers that do not fit a datagram, and
//! a resolver whose TCP port is closed. Needs root; skipped by name where that is missing.

use serde_json::Value;
use tests::{binary, lines, of_type};
use xtask::lab::Lab;
use xtask::lab::incidents::{ClientRun, run_client};

use super::lab::{PATIENCE, attached, lab_for};

const BACKEND: &str = "backend.critical-app.svc.cluster.local.";
/// 300 addresses: more than a datagram holds, in a packet of almost 5,000 bytes.
const CROWD: &str = "crowd.critical-app.svc.cluster.local.";

struct Seen {
    client: ClientRun,
    lines: Vec<Value>,
    all: String,
}

impl Seen {
    fn of(&self, kind: &str) -> Vec<&Value> {
        of_type(&self.lines, kind)
    }
}

/// What svctrace says of one command; its recording says the same.
fn seen(lab: &Lab, words: &[&str]) -> Seen {
    let scratch = tempfile::tempdir().unwrap();
    let capture = scratch.path().join("live.pcapng");
    let capture = capture.to_str().unwrap();
    let pod = ["--pod", "client", "-n", "critical-app", "-o", "json", "--events", "-w", capture];
    let trace = attached(&pod);
    let client = run_client(lab, words).unwrap();
    let traced = trace.finish(PATIENCE).unwrap();
    assert_eq!(traced.status.code(), Some(0), "{}\n{}", traced.stderr, traced.stdout);
    let replay = binary::run(&["-r", capture, "-o", "json", "--events"]);
    assert_eq!(binary::stdout(&replay), traced.stdout, "the replay equals the live run");
    let lines = lines(&traced.stdout);
    let lost = of_type(&lines, "loss");
    assert!(lost.is_empty(), "{lost:?}");
    Seen { client, lines, all: traced.stdout }
}

#[test]
fn dns_over_tcp() {
    let Some(_guard) = lab_for("lab_tcp::dns_over_tcp") else { return };
    let lab = Lab::up(false).unwrap();

    let dig = seen(&lab, &["dig", "+tcp", "+tries=1", BACKEND]);
    assert!(dig.client.stdout.contains("10.96.100.50"), "{}", dig.client.stdout);
    let transactions = dig.of("transaction");
    assert_eq!(transactions.len(), 1, "{}", dig.all);
    let t = transactions[0];
    assert_eq!((&t["transport"], &t["outcome"]), (&"tcp".into(), &"answered".into()), "{t}");
    assert_eq!(t["answers"], serde_json::json!(["10.96.100.50"]));
    assert!(t["edns"]["udp_size"].as_u64().is_some(), "{t}");
    assert_eq!(t["identity"]["pod"], "client");
    assert_eq!(dig.of("finding").len(), 0, "{}", dig.all);

    // glibc asks for both types on one connection.
    let glibc = seen(&lab, &["env", "RES_OPTIONS=use-vc", "getent", "ahosts", BACKEND]);
    assert!(glibc.client.stdout.contains("10.96.100.50"), "{}", glibc.client.stdout);
    let transactions = glibc.of("transaction");
    assert_eq!(transactions.len(), 2, "{}", glibc.all);
    for t in &transactions {
        assert_eq!((&t["transport"], &t["outcome"]), (&"tcp".into(), &"answered".into()), "{t}");
    }
    assert_eq!(transactions[0]["client"], transactions[1]["client"]);
    assert_eq!(glibc.of("lookup").len(), 1, "{}", glibc.all);
    assert_eq!(glibc.of("finding").len(), 0, "{}", glibc.all);

    truncated(&lab);
    lab.down().unwrap();
}

fn truncated(lab: &Lab) {
    let whole = seen(lab, &["getent", "ahostsv4", CROWD]);
    assert!(whole.client.status.success());
    let transactions = whole.of("transaction");
    assert_eq!(transactions[0]["truncated"], true, "{}", whole.all);
    assert_eq!(transactions[0]["after_truncation"]["followed"], "tcp-answered", "{}", whole.all);
    let lookups = whole.of("lookup");
    // getent asks again when its buffer is too small for what came.
    for lookup in lookups {
        assert_eq!(lookup["outcome"], "answered", "{lookup}");
        assert_eq!(lookup["answers"].as_array().unwrap().len(), 300, "{lookup}");
    }
    assert_eq!(whole.of("finding").len(), 0, "{}", whole.all);
    // What a refused TCP retry looks like, the incident matrix has with Go and c-ares.
}
