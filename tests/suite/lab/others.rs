//! tcpdump beside svctrace: the same exchanges, and its files read back.

use super::*;

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
    let Some(_guard) = lab_for("lab::others::tcpdump_sees_the_same") else { return };
    let Some(tcpdump) = cmd::find("tcpdump") else {
        return skips::note("lab::others::tcpdump_sees_the_same", "tcpdump is not installed");
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

/// What tcpdump wrote in the client's pod, on the bridge and on all interfaces, read back.
#[test]
fn tcpdump_files_tell_the_story() {
    let Some(_guard) = lab_for("lab::others::tcpdump_files_tell_the_story") else { return };
    if cmd::find("tcpdump").is_none() {
        return skips::note(
            "lab::others::tcpdump_files_tell_the_story",
            "tcpdump is not installed",
        );
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
