//! The built binary: flags, exit codes, one clear sentence for bad input. Traces nothing.

use std::process::{Command, Output, Stdio};

use tests::binary::{self, command, run, stderr, stdout};
use xtask::skips;

/// Exit code 2, nothing on standard output, one sentence that says `what`.
fn refuses(output: &Output, what: &str) {
    let told = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert_eq!(stdout(output), "");
    assert!(told.contains(what), "{what:?} in {told:?}");
    assert!(!told.contains("panicked"), "{told}");
}

fn sentence(words: &[&str], what: &str) {
    let output = run(words);
    refuses(&output, what);
    let told = stderr(&output);
    assert_eq!(told.lines().count(), 1, "{words:?}: {told}");
    assert!(told.starts_with("svctrace: "), "{told}");
}

#[test]
fn help_and_version_are_not_errors() {
    let output = run(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    for said in ["--pod", "--no-resolver", "--fail-on", "schema", "probes", "Exit codes"] {
        assert!(stdout(&output).contains(said), "{said}");
    }
    assert!(!stdout(&output).contains("pipeline"), "the second process is nobody's business");
    assert!(stdout(&run(&["--version"])).starts_with("svctrace "));
}

#[test]
fn explain_prints_the_page_of_a_code() {
    let all = run(&["explain"]);
    assert_eq!(all.status.code(), Some(0));
    for code in tracer::report::Code::ALL.map(tracer::report::Code::name) {
        let mut lines = stdout(&all).lines().map(str::to_owned).collect::<Vec<_>>();
        lines.retain(|line| line.split_whitespace().next() == Some(code));
        assert!(lines.len() == 1 && lines[0].len() > 30, "{code}: {lines:?}");
        let page = run(&["explain", code]);
        assert_eq!(page.status.code(), Some(0));
        assert!(stdout(&page).starts_with(&format!("# {code}\n")), "{}", stdout(&page));
    }
    let unknown = run(&["explain", "upstream-timout"]);
    refuses(&unknown, "'upstream-timeout'");
    refuses(&unknown, "similar");
    refuses(&run(&["explain", "nxdomain", "dns-error"]), "unexpected");
}

#[test]
fn no_target_is_answered_with_an_example() {
    sentence(&[], "svctrace --pod client -n critical-app");
}

#[test]
fn unknown_flags_are_refused() {
    refuses(&run(&["--pod", "x", "--frobnicate"]), "--frobnicate");
    refuses(&run(&["-o", "xml", "--pid", "1"]), "xml");
    refuses(&run(&["-t", "x", "--pid", "1"]), "'x'");
    refuses(&run(&["--pid", "one"]), "one");
    refuses(&run(&["--duration", "30", "--pid", "1"]), "30s");
    refuses(&run(&["--fail-on", "slowness", "--pid", "1"]), "upstream-timeout");
    refuses(&run(&["-v", "-q", "--pid", "1"]), "cannot be used with");
    refuses(&run(&["depoy/web"]), "deploy, sts, ds, job, rs, svc");
    refuses(&run(&["-l", "app in (web"]), "`,` or `)` at the end");
    refuses(&run(&["-A", "-n", "shop"]), "cannot be used with");
    refuses(&run(&["-r", "x", "deploy/web"]), "cannot be used with");
    refuses(&run(&["--no-api", "--kubeconfig", "x", "--pid", "1"]), "cannot be used with");
}

#[test]
fn contradictions_are_a_sentence() {
    sentence(&["-n", "default", "--pid", "1"], "--pod NAME");
    sentence(&["--wait", "--pid", "1"], "--pod NAME");
    sentence(&["-A", "deploy/web"], "-n NAMESPACE");
    sentence(&["-A", "--pid", "1"], "--all-namespaces");
    sentence(&["--pid", "1", "--ring-size", "5M"], "power of two");
    sentence(&["--pid", "1", "--snaplen", "1M"], "--snaplen");
    sentence(&["--container", "nginx"], "hex digits");
    sentence(&["--pid", "0"], "no process");
}

#[test]
fn targets_that_do_not_exist_are_a_sentence() {
    sentence(&["--cgroup", "/no/such/cgroup"], "/no/such/cgroup");
    sentence(&["--pid", "4194303"], "4194303");
}

#[test]
fn without_privilege_it_says_which() {
    let mut words = vec!["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    let path = binary::path();
    let reachable = Command::new("setpriv").args(&words).arg(&path).arg("--version").output();
    let Ok(reachable) = reachable else {
        return skips::note("cli::without_privilege_it_says_which", "no setpriv");
    };
    if !reachable.status.success() {
        return skips::note(
            "cli::without_privilege_it_says_which",
            "not root, or nobody cannot reach the binary",
        );
    }
    words.extend([path.to_str().unwrap(), "--pid", "1"]);
    let output = Command::new("setpriv").args(&words).output().unwrap();
    refuses(&output, "CAP_BPF");
}

#[test]
fn what_an_option_takes_is_asked_for_first() {
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-net_raw", "--inh-caps=-net_raw", "--"]).arg(binary::path());
    let Ok(output) = command.args(["--wire", "--no-api", "--pid", "1"]).output() else {
        return skips::note("cli::what_an_option_takes_is_asked_for_first", "no setpriv");
    };
    if !nix::unistd::Uid::effective().is_root() {
        return skips::note("cli::what_an_option_takes_is_asked_for_first", "not root");
    }
    refuses(&output, "CAP_NET_RAW");
}

#[test]
fn a_reader_that_leaves_is_not_an_error() {
    let mut child =
        command(&["schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}

#[test]
fn the_second_process_does_not_start_alone() {
    refuses(&run(&["pipeline", "--fd", "99"]), "svctrace: ");
}
