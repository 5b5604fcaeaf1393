//! Time namespaces around svctrace, and around its target: they shift the boot time that is
//! read inside, and nothing that svctrace tells may depend on that. Needs the lab; skipped as its other
//! tests. A wall clock that jumps is tried in the guests of `cargo xtask kernels`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use tests::{binary, lines};
use xtask::lab::incidents::{self, run_client};
use xtask::lab::trace::{Echo, Trace, lab_args};
use xtask::{cmd, skips};

use crate::lab::{PATIENCE, POD, lab_for};

/// A day.
const SHIFT: [&str; 6] = ["unshare", "--time", "--boottime", "86400", "--monotonic", "86400"];

/// Whether a program started with [`SHIFT`] is in the namespace (since Linux 6.3, without a fork).
fn shifts() -> bool {
    let uptime = |text: String| text.split('.').next().and_then(|s| s.parse::<u64>().ok());
    let inside = cmd::run(SHIFT[0], [&SHIFT[1..], &["cat", "/proc/uptime"]].concat());
    let inside = inside.ok().and_then(uptime).unwrap_or_default();
    let outside = fs::read_to_string("/proc/uptime").ok().and_then(uptime).unwrap();
    inside >= outside + 86_400
}

/// The second that it is now, as in the JSON.
fn now() -> String {
    cmd::run("date", ["-u", "+%Y-%m-%dT%H:%M:%S"]).unwrap().trim().to_owned()
}

#[test]
fn time_namespaces_change_nothing() {
    const NAME: &str = "clocks::time_namespaces_change_nothing";
    let Some(_guard) = lab_for(NAME) else { return };
    if !shifts() {
        return skips::note(NAME, "this kernel or `unshare` makes no time namespaces");
    }
    let folder = tempfile::tempdir().unwrap();
    let shifted = folder.path().join("svctrace");
    let text = format!("#!/bin/sh\nexec {} {} \"$@\"\n", SHIFT.join(" "), binary::path().display());
    fs::write(&shifted, text).unwrap();
    fs::set_permissions(&shifted, fs::Permissions::from_mode(0o755)).unwrap();
    let incident = incidents::find("search-timeout").unwrap();
    for (tracer_inside, target_inside) in [(true, false), (false, true)] {
        let lab = incident.set_up().unwrap();
        let program = if tracer_inside { shifted.clone() } else { binary::path() };
        let words = POD.iter().map(ToString::to_string).chain(lab_args(true));
        let words = words.chain(["-o", "json", "--events"].map(str::to_owned));
        let before = now();
        let mut trace = Trace::start(&program, words, Echo::Quiet).unwrap();
        trace.wait_attached(PATIENCE).unwrap();
        let shift = if target_inside { &SHIFT[..] } else { &[] };
        let client = run_client(&lab, &[shift, incident.clients[0]].concat()).unwrap();
        let traced = trace.finish(PATIENCE).unwrap();
        let after = now();
        lab.down().unwrap();
        let what = format!("{tracer_inside} {target_inside}: {}{}", traced.stderr, traced.stdout);
        assert_eq!(traced.status.code(), Some(0), "{what}");
        let lines = lines(&traced.stdout);
        let of = |kind: &'static str| lines.iter().filter(move |line| line["type"] == kind);
        let times: Vec<&str> = of("event").filter_map(|line| line["ts"].as_str()).collect();
        assert!(!times.is_empty() && times.is_sorted(), "{what}");
        for at in times {
            assert!((before.as_str()..=after.as_str()).contains(&&at[..19]), "{at}: {what}");
        }
        let codes: BTreeSet<_> = of("finding").filter_map(|line| line["code"].as_str()).collect();
        assert_eq!(codes, incident.findings.iter().copied().collect(), "{what}");
        assert_eq!(of("summary").next().unwrap()["lost"], 0, "{what}");
        let took = |line: &Value| line["duration_ns"].as_u64().map(|ns| ns as f64 / 1e9);
        let told = of("lookup").find_map(took).unwrap();
        let waited = client.name_lookup().unwrap();
        assert!(
            (waited - 0.5..=waited).contains(&told),
            "{told} s, curl waited {waited} s: {what}"
        );
    }
}
