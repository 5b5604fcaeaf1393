//! Captures in the built program: what it reads, writes, refuses to write, and says.

use super::*;

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn story(&self) -> String {
        let path = self.path("story.pcapng");
        fs::write(&path, file(&scenarios::story(true), PLAIN)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn the_program_replays_converts_and_tells() {
    let scratch = Scratch::new();
    let story = scratch.story();
    let expected = tests::run_default(&scenarios::story(true)).json;
    let copy = scratch.path("copy.pcapng.zst");
    let copy = copy.to_str().unwrap();
    let output = binary::run(&["-r", &story, "-o", "json", "-w", copy]);
    assert_eq!(binary::stderr(&output), "");
    assert_eq!(binary::stdout(&output), expected);
    lines(&expected);
    assert_eq!(fs::metadata(copy).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read(copy).unwrap().starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
    let output = binary::run(&["-r", copy, "-o", "json"]);
    assert_eq!(binary::stdout(&output), expected);
    let output = binary::run(&["info", copy]);
    let told = binary::stdout(&output);
    for word in ["svctrace 1.1", "critical-app/client", "node-1", "complete", "Packet "] {
        assert!(told.contains(word), "{word}: {told}");
    }
    let output = binary::run(&["info", "-o", "json", copy]);
    let info: serde_json::Value = serde_json::from_str(&binary::stdout(&output)).unwrap();
    assert_eq!((&info["complete"], &info["stands_alone"]), (&true.into(), &true.into()));
}

#[test]
fn pipes_carry_captures() {
    let scratch = Scratch::new();
    let story = scratch.story();
    let converted = binary::run(&["-r", &story, "-o", "json", "-w", "-"]);
    let expected = tests::run_default(&scenarios::story(true)).json;
    assert_eq!(binary::stderr(&converted), expected, "results go aside");
    let mut replay = binary::command(&["-r", "-", "-o", "json"]);
    replay.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut replay = replay.spawn().unwrap();
    replay.stdin.take().unwrap().write_all(&converted.stdout).unwrap();
    let output = replay.wait_with_output().unwrap();
    assert_eq!(binary::stdout(&output), expected);
}

#[test]
fn a_missing_tail_is_told_once_and_is_exit_code_3() {
    let scratch = Scratch::new();
    let story = scratch.story();
    let whole = fs::read(&story).unwrap();
    fs::write(&story, &whole[..whole.len() * 3 / 4]).unwrap();
    let output = binary::run(&["-r", &story, "-o", "json"]);
    assert_eq!(output.status.code(), Some(3));
    let told = binary::stderr(&output);
    assert!(told.lines().count() == 1 && told.contains("tail is missing"), "{told}");
    assert!(lines(&binary::stdout(&output)).iter().any(|line| line["type"] == "summary"));
    let output = binary::run(&["info", &story]);
    assert_eq!(output.status.code(), Some(3));
    assert!(binary::stdout(&output).contains("tail is missing"));
}

#[test]
fn nothing_is_overwritten_unasked() {
    let scratch = Scratch::new();
    let story = scratch.story();
    let other = scratch.path("other.pcapng");
    let path = other.to_str().unwrap();
    fs::write(&other, "precious").unwrap();
    let refused = |words: &[&str], why: &str| {
        let output = binary::run(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        let told = binary::stderr(&output);
        assert!(told.contains(why) && told.lines().count() == 1, "{told}");
    };
    refused(&["-r", &story, "-w", path], "--force");
    assert_eq!(fs::read(&other).unwrap(), b"precious");
    refused(&["-r", &story, "-w", &story, "--force"], "read and written at once");
    let link = scratch.path("link.pcapng");
    std::os::unix::fs::symlink(&story, &link).unwrap();
    refused(&["-r", &story, "-w", link.to_str().unwrap(), "--force"], "a symbolic link");
    let both = |input: &str, output: &[&str], out: Stdio| {
        let mut command = binary::command(&["-r", input, "-w"]);
        command.args(output).stdin(fs::File::open(&story).unwrap()).stdout(out);
        let output = command.stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(binary::stderr(&output).contains("read and written at once"), "{output:?}");
    };
    let whole = fs::read(&story).unwrap();
    both("-", &[&story, "--force"], Stdio::null());
    both(&story, &["-"], fs::OpenOptions::new().append(true).open(&story).unwrap().into());
    assert_eq!(fs::read(&story).unwrap(), whole);
    refused(&["-r", path], "not a capture");
    refused(&["-r", "/no/such.pcapng"], "/no/such.pcapng");
    refused(&["-r", &story, "-w", "/no/such/dir.pcapng"], "cannot write");
    refused(&["-r", &story, "-w", "-", "--rotate-size", "1M"], "no files to rotate");
    refused(&["--pid", "4194303", "-w", scratch.path("new").to_str().unwrap()], "4194303");
    assert!(!scratch.path("new").exists(), "nothing was recorded into it");
    assert_eq!(binary::run(&["-r", &story, "-w", path, "--force"]).status.code(), Some(0));
    assert_eq!(fs::metadata(&other).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(binary::run(&["-r", path, "--pid", "1"]).status.code(), Some(2));
}

#[test]
fn what_sudo_lets_us_make_is_the_users() {
    if !nix::unistd::Uid::effective().is_root() {
        let test = "captures::what_sudo_lets_us_make_is_the_users";
        return xtask::skips::note(test, "not root");
    }
    let scratch = Scratch::new();
    let (story, new, old) = (scratch.story(), scratch.path("new"), scratch.path("old"));
    fs::write(&old, "").unwrap();
    for path in [&new, &old] {
        let mut command = binary::command(&["-r", &story, "--force", "-w"]);
        command.arg(path).env("SUDO_UID", "4000000000").env("SUDO_GID", "4000000001");
        assert!(command.stdout(Stdio::null()).status().unwrap().success());
        let about = fs::metadata(path).unwrap();
        let theirs = if path == &new { (4_000_000_000, 4_000_000_001) } else { (0, 0) };
        assert_eq!((about.uid(), about.gid()), theirs, "{}", path.display());
        assert_eq!(about.permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn arguments_are_recorded_only_if_asked() {
    let test = "captures::arguments_are_recorded_only_if_asked";
    if let Err(why) = xtask::lab::check_machine() {
        return xtask::skips::note(test, &format!("{why:#}"));
    }
    if binary::stderr(&binary::run(&["probes"])).contains("built without") {
        return xtask::skips::note(test, "svctrace was built without its probes");
    }
    let scratch = Scratch::new();
    for (name, more) in [("plain.pcapng", &[][..]), ("kept.pcapng", &["--keep-payload"][..])] {
        let path = scratch.path(name);
        let name = path.to_str().unwrap();
        let shell = ["sh", "-c", "sleep 0.3; : hunter2"];
        let words = [&["-w", name, "--no-api", "--no-resolver"], more, &["--"], &shell].concat();
        let mut command = binary::command(&words);
        let output = command.env("MARKER_IN_ENVIRONMENT", "swordfish").output().unwrap();
        assert!(output.status.success(), "{}", binary::stderr(&output));
        let bytes = fs::read(&path).unwrap();
        let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert_eq!(has(b"hunter2"), !more.is_empty(), "{name}");
        assert!(!has(b"swordfish") && !has(b"MARKER_IN_ENVIRONMENT"), "{name}");
        let replay = binary::run(&["-r", name, "--events", "-x"]);
        let told = binary::stdout(&replay).contains("arguments -c 'sleep 0.3; : hunter2'");
        assert_eq!(told, !more.is_empty(), "{name}");
    }
}

#[test]
fn rotation_leaves_a_ring_that_replays() {
    let scratch = Scratch::new();
    let story = scratch.story();
    let name = scratch.path("ring.pcapng.zst");
    let words =
        ["-r", &story, "-w", name.to_str().unwrap(), "--rotate-time", "3s", "--rotate-count", "12"];
    assert_eq!(binary::run(&words).status.code(), Some(0));
    let mut words = vec!["-o".to_owned(), "json".to_owned()];
    for entry in fs::read_dir(scratch.0.path()).unwrap() {
        let path = entry.unwrap().path().to_str().unwrap().to_owned();
        if path.contains("ring.") {
            words.extend(["-r".to_owned(), path]);
        }
    }
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let output = binary::run(&words);
    assert_eq!(binary::stderr(&output), "");
    assert_eq!(binary::stdout(&output), tests::run_default(&scenarios::story(true)).json);
}

#[test]
fn a_recording_goes_on_when_nobody_reads_the_output() {
    let scratch = Scratch::new();
    let (story, copy) = (scratch.story(), scratch.path("copy.pcapng"));
    let copy = copy.to_str().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = binary::command(&["-r", &story, "-w", copy, "--events"]);
    let output = command.stdout(writer).stderr(Stdio::piped()).output().unwrap();
    let told = binary::stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("the recording goes on") && told.lines().count() == 1, "{told}");
    assert_eq!(replay(&[fs::read(copy).unwrap()]).0, scenarios::story(true));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = binary::command(&["-r", &story]).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), binary::stderr(&output).as_str()), (Some(0), ""));
}

#[test]
fn a_full_disk_is_one_sentence() {
    let scratch = Scratch::new();
    let output = binary::run(&["-r", &scratch.story(), "-w", "/dev/full"]);
    assert_eq!(output.status.code(), Some(2));
    let told = binary::stderr(&output);
    assert!(told.contains("cannot write the capture") && told.lines().count() == 1, "{told}");
}

#[test]
fn the_recorded_incident_tells_the_story() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/incident.pcapng.zst");
    let output = binary::run(&["-r", path, "-o", "json"]);
    assert_eq!((output.status.code(), binary::stderr(&output).as_str()), (Some(0), ""));
    let lines = lines(&binary::stdout(&output));
    let of = |kind: &str| of_type(&lines, kind);
    let root = of("finding")[0];
    assert_eq!(
        (&root["code"], &root["confidence"]),
        (&"upstream-timeout".into(), &"certain".into())
    );
    for code in ["search-expansion", "foreign-suffix"] {
        assert!(of("finding").iter().any(|finding| finding["code"] == code), "{code}");
    }
    assert_eq!(of("lookup")[0]["identity"]["pod"], "client");
}

#[test]
fn tshark_opens_it_and_shows_names() {
    let tshark = |words: &[&str]| Command::new("tshark").args(words).output();
    if tshark(&["--version"]).is_err() {
        return xtask::skips::note("captures::tshark_opens_it_and_shows_names", "no tshark");
    }
    let scratch = Scratch::new();
    let story = scratch.story();
    let output = tshark(&[
        "-r",
        &story,
        "-N",
        "n",
        "-T",
        "fields",
        "-e",
        "frame.interface_name",
        "-e",
        "ip.dst_host",
        "-e",
        "dns.qry.name",
        "-e",
        "frame.comment",
    ])
    .unwrap();
    let (told, warned) = (binary::stdout(&output), binary::stderr(&output));
    let warned: Vec<_> =
        warned.lines().filter(|line| !line.starts_with("Running as user")).collect();
    assert!(warned.is_empty(), "{warned:?}");
    let packets = scenarios::story(true).iter().filter(|r| r.kind == RecordKind::Packet).count();
    assert_eq!(told.lines().count(), packets);
    for word in [
        "critical-app/client\t",
        "kube-dns.kube-system.svc\t",
        "\tbackend.critical-app.svc.cluster.local.localdomain\t",
        "pod=client ns=critical-app container=client pid=4711 comm=curl",
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
}
