//! `--wire` in the lab, with nothing wrong: whose doors are watched and how long, and that seeing each
//! answer twice adds nothing. What it is for is in the incidents' table.

use xtask::lab::PodSpec;

use super::*;

/// Packet sockets in a pod's network namespace.
fn doors(lab: &Lab, pod: &str) -> usize {
    let mut cat = lab.command(lab.pod(pod).unwrap(), "cat").unwrap();
    let output = cat.arg("/proc/net/packet").output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().skip(1).count()
}

fn curl(lab: &Lab, pod: &str) {
    let mut curl = lab.command(lab.pod(pod).unwrap(), "curl").unwrap();
    assert!(curl.args(["-sS", URL]).stdout(Stdio::null()).status().unwrap().success());
}

#[test]
fn the_doors_of_targets_are_watched_as_long_as_they_are_targets() {
    let Some(_guard) = lab_for("lab::wire::the_doors_of_targets") else { return };
    let mut lab = Lab::up(false).unwrap();
    let words = ["-l", "app=late", "-n", "critical-app", "--wait", "--wire", "--events"];
    let mut trace = trace(&[&words[..], &["-o", "json"]].concat());
    std::thread::sleep(Duration::from_secs(1));
    lab.roll_out(&PodSpec::client("late", 50)).unwrap();
    trace.wait_attached(PATIENCE).unwrap();
    until("one for each family", || doors(&lab, "late") == 2);
    assert_eq!(doors(&lab, "client"), 0, "no target");
    curl(&lab, "late");
    curl(&lab, "client");
    lab.label("late", &[("app", "quarantined")]).unwrap();
    until("it is no target any more", || doors(&lab, "late") == 0);
    lab.label("late", &[("app", "late")]).unwrap();
    until("it is one again", || doors(&lab, "late") == 2);
    let traced = trace.finish(PATIENCE).unwrap();
    assert_eq!(doors(&lab, "late"), 0, "nothing is left");
    assert_eq!(traced.status.code(), Some(0), "{}", traced.stderr);
    let lines = lines(&traced.stdout);
    for line in lines.iter().filter(|line| line["type"] == "event") {
        assert_ne!(line["identity"]["pod"], "client", "{line}");
    }
    let of = |kind: &str| {
        let mine = lines.iter().filter(|line| line["kind"] == kind && line["direction"] == "in");
        let id = |line: &Value| (line["args"]["id"].clone(), line["identity"]["pod"].clone());
        mine.filter(|line| line["identity"]["pod"] == "late").map(id).collect::<Vec<_>>()
    };
    let (at_door, mut at_socket) = (of("wire"), of("dns"));
    assert!(at_socket.len() >= 8, "curl walks the search list: {}", traced.stdout);
    // The door may open a moment after the first process of a pod that comes.
    at_socket.retain(|id| at_door.contains(id));
    assert_eq!(at_door.len(), at_socket.len(), "each answer once: {}", traced.stdout);
    assert!(!at_door.is_empty(), "{}", traced.stdout);
    let lookups = of_type(&lines, "lookup");
    let attempts = lookups.iter().flat_map(|l| l["attempts"].as_array().unwrap());
    let transactions = attempts.flat_map(|a| a["transactions"].as_array().unwrap());
    for t in transactions {
        assert_eq!((t["events"].as_array().unwrap().len(), &t["retransmits"]), (2, &0.into()));
        assert!(t["outcome"] == "answered" && t["unheard"].is_null(), "{t}");
    }
    let summary = of_type(&lines, "summary")[0];
    assert_eq!((&summary["unmatched_responses"], &summary["lost"]), (&0.into(), &0.into()));
    assert_eq!(of_type(&lines, "finding").len(), 0, "{}", traced.stdout);
}
