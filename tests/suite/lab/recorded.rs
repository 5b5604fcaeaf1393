//! Recordings of the lab: of two nodes, and of a trace that was killed.

use super::*;

/// The client is traced by one svctrace and the resolver by another, as on two nodes: each alone knows
/// half of it. One machine, so its ids are shared; and, with another boot id, as two would have it.
#[test]
fn two_recordings_tell_one_story() {
    let Some(_guard) = lab_for("lab::recorded::two_recordings_tell_one_story") else { return };
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
    let Some(_guard) = lab_for("lab::recorded::a_killed_recording_replays") else { return };
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
