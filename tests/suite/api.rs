//! The fake API server judged by kubectl, a client that we did not write; and traces beside an API
//! that is no good.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use xtask::lab::api::cluster::{self, Size};
use xtask::lab::api::faults::Fault;
use xtask::lab::api::server::{Server, Transport};

const SIZE: Size = Size { pods: 700, here: 3, services: 4, endpoints: 12 };

fn kubectl(server: &Server, dir: &std::path::Path, words: &[&str]) -> Command {
    let file = dir.join("kubeconfig");
    std::fs::write(&file, server.kubeconfig()).unwrap();
    let mut command = Command::new("kubectl");
    command.arg("--kubeconfig").arg(file).arg("--cache-dir").arg(dir.join("cache")).args(words);
    command.env_remove("KUBECONFIG").env("HOME", dir).stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn kubectl_gets_and_watches() {
    if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        xtask::skips::note("api::kubectl_gets_and_watches", "kubectl is not installed");
        return;
    }
    for transport in [Transport::Plain, Transport::Token, Transport::Certificate] {
        let server = Server::start(cluster::objects(&SIZE), transport).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let get = |words: &[&str]| text(&kubectl(&server, dir.path(), words).output().unwrap());

        let all = get(&["get", "pods,svc,endpointslices", "-A", "--chunk-size=100"]);
        assert_eq!(all.lines().filter(|line| line.contains("pod/checkout-service-")).count(), 700);
        assert!(all.contains("service/service-3 "), "{transport:?}: {all}");
        assert!(all.contains("endpointslice.discovery.k8s.io/service-0-x7k2d"), "{all}");
        // Pages of a hundred: six of them after the first.
        assert_eq!(server.asked().iter().filter(|at| at.contains("continue=")).count(), 6);

        let one = ["get", "pods", "-n", "load", "--field-selector", "spec.nodeName=node-here"];
        assert_eq!(get(&[&one[..], &["-o", "wide"]].concat()).lines().count(), 4);
        let name = get(&["get", "svc", "-n", "load", "-l", "app=service-2", "-o", "name"]);
        assert_eq!(name, "service/service-2\n");
        let uid = get(&[
            "get",
            "pod",
            "checkout-service-7c9d8b6f5d-00001",
            "-n",
            "load",
            "-o",
            "jsonpath={.metadata.uid}",
        ]);
        assert_eq!(uid, "00000001-1111-4222-8333-000000000001");
        let missing =
            kubectl(&server, dir.path(), &["get", "pod", "none", "-n", "load"]).output().unwrap();
        assert!(String::from_utf8_lossy(&missing.stderr).contains("NotFound"));

        watch(&server, dir.path());
    }
}

/// `-w` shows what comes and goes.
fn watch(server: &Server, dir: &std::path::Path) {
    let words = [
        "get",
        "pods",
        "-n",
        "load",
        "-w",
        "--field-selector",
        "spec.nodeName=node-here",
        "--output-watch-events",
        "--no-headers",
    ];
    let mut child = kubectl(server, dir, &words).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    for _ in 0..SIZE.here {
        assert!(lines.next().unwrap().starts_with("ADDED "));
    }
    let name = "checkout-service-7c9d8b6f5d-00900";
    server.put(cluster::pod(900, "node-here"));
    let added = lines.next().unwrap();
    assert!(added.starts_with("ADDED ") && added.contains(name), "{added}");
    // Bound elsewhere, it leaves the selection.
    server.put(cluster::pod(900, "node-else"));
    let gone = lines.next().unwrap();
    assert!(gone.starts_with("DELETED ") && gone.contains(name), "{gone}");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// An API that hangs, refuses or lies delays no trace, costs one line and no exit code.
#[test]
fn a_bad_api_costs_one_line() {
    if !nix::unistd::geteuid().is_root() {
        xtask::skips::note("api::a_bad_api_costs_one_line", "needs root");
        return;
    }
    let faults = [
        Fault::BlackHole,
        Fault::Refused(500, "InternalError", None),
        Fault::Refused(401, "Unauthorized", None),
        Fault::Cut,
    ];
    tests::binary::path(); // built before any time is taken
    for fault in faults {
        let server = Server::start(cluster::objects(&SIZE), Transport::Plain).unwrap();
        server.faults.set(None, fault.clone());
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kubeconfig");
        std::fs::write(&file, server.kubeconfig()).unwrap();
        let words = ["--no-syscalls", "--kubeconfig", file.to_str().unwrap(), "--", "sleep", "4"];
        let begun = Instant::now();
        let output = tests::binary::run(&words);
        let (took, error) = (begun.elapsed(), tests::binary::stderr(&output));
        assert_eq!(output.status.code(), Some(0), "{fault:?}: {error}");
        // Attaching waits at most a moment for the API.
        assert!(took < Duration::from_secs(15), "{fault:?}: {took:?}");
        let lines = error.lines().filter(|line| line.contains("Kubernetes API")).count();
        // The black hole is noticed after 15 s; this trace is over by then.
        assert_eq!(lines, usize::from(fault != Fault::BlackHole), "{fault:?}: {error}");
        assert!(!error.contains("ERROR") && !error.contains("WARN"), "{error}");
        assert!(server.asked().len() >= 2, "{fault:?}");
    }
}
