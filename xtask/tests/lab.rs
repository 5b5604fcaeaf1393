//! The lab itself, on this machine: what it makes is what it says, and nothing of it stays.
//! Needs root and the programs that `cargo xtask setup` installs; elsewhere noted as skipped.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics, and says where")]

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use xtask::lab::incidents::{self, run_client};
use xtask::lab::{self, Lab, PodSpec, state};
use xtask::skips;

/// The machine has room for one lab, and a test looks at what is left after its own.
static ONE_LAB: Mutex<()> = Mutex::new(());

/// The machine for this test alone, if a lab can be made here; a reason is noted otherwise.
fn alone(test: &str) -> Option<MutexGuard<'static, ()>> {
    match lab::check_machine() {
        Ok(()) => Some(ONE_LAB.lock().unwrap_or_else(PoisonError::into_inner)),
        Err(error) => {
            skips::note(test, &format!("{error:#}"));
            None
        }
    }
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn api(path: &str) -> String {
    let mut curl = lab::node_command("curl").unwrap();
    output(curl.args(["-sSf", "-N"]).arg(format!("http://10.244.1.1:6443{path}")))
}

#[test]
fn a_healthy_lab_works_and_leaves_nothing() {
    let Some(_alone) = alone("a_healthy_lab_works_and_leaves_nothing") else { return };
    let incident = incidents::find("healthy").unwrap();
    let lab = incident.set_up().unwrap();
    let client = lab.pod("client").unwrap();

    let runs = incident.run_clients(&lab).unwrap();
    for run in &runs {
        assert!(run.status.success(), "{}", run.stderr);
        assert!(run.name_lookup().unwrap() < 1.0, "{}", run.stdout);
    }

    let seen =
        output(lab.command(client, "cat").unwrap().args(["/etc/resolv.conf", "/proc/self/cgroup"]));
    assert!(
        seen.contains("search critical-app.svc.cluster.local svc.cluster.local cluster.local\n")
    );
    assert!(seen.contains(&format!("cri-containerd-{}.scope", client.container_id)), "{seen}");

    let pods = api("/api/v1/namespaces/critical-app/pods?fieldSelector=metadata.name=client");
    assert!(pods.contains(&client.uid) && pods.contains(&client.container_id), "{pods}");

    let cgroup = client.cgroup.clone();
    lab.down().unwrap();
    assert_eq!(lab::leftovers().unwrap(), Vec::<String>::new());
    assert!(!cgroup.exists() && !Path::new("/run/netns/svct-client").exists());
}

#[test]
fn a_pod_that_comes_later_works_and_is_watched() {
    let Some(_alone) = alone("a_pod_that_comes_later_works_and_is_watched") else { return };
    let mut lab = Lab::up(false).unwrap();
    let version = serde_json::from_str::<serde_json::Value>(&api("/api/v1/pods")).unwrap();
    let version = version["metadata"]["resourceVersion"].as_str().unwrap().to_owned();

    let pod = lab.add_pod(&PodSpec::client("late", 99)).unwrap().clone();
    let answer =
        output(lab.command(&pod, "curl").unwrap().args(["-sSf", "http://10.244.1.31:8080/"]));
    assert!(answer.starts_with("hello from backend-"), "{answer}");
    // The endpoint follows lab.json with a short delay of its own.
    std::thread::sleep(Duration::from_millis(50));
    lab.remove_pod("late").unwrap();
    assert!(lab.pod("late").is_err());
    assert!(!pod.cgroup.exists());

    let path = format!("/api/v1/pods?watch=1&timeoutSeconds=1&resourceVersion={version}");
    let events: Vec<serde_json::Value> =
        api(&path).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(told, ["ADDED", "DELETED"]);
    assert!(events.iter().all(|event| event["object"]["metadata"]["uid"] == pod.uid.as_str()));
}

#[test]
fn every_fault_breaks_what_it_says() {
    let Some(_alone) = alone("every_fault_breaks_what_it_says") else { return };
    let lab = incidents::find("resolver-down").unwrap().set_up().unwrap();
    let refused = run_client(&lab, &["getent", "ahostsv4", "backend.critical-app"]).unwrap();
    assert!(!refused.status.success());
    assert!(refused.took < Duration::from_secs(2), "{:?}", refused.took);
    drop(lab);

    let lab = incidents::find("search-timeout").unwrap().set_up().unwrap();
    let node = std::fs::read_to_string(state::host_root().join("etc/resolv.conf")).unwrap();
    assert!(node.contains("search localdomain"), "{node}");
    let forwarded = run_client(&lab, &["dig", "+tries=1", "+time=1", "www.example.com"]).unwrap();
    assert!(forwarded.stdout.contains("timed out"), "{}", forwarded.stdout);
    let local = ["dig", "+short", "backend.critical-app.svc.cluster.local"];
    assert_eq!(run_client(&lab, &local).unwrap().stdout, "10.96.100.50\n");
}
