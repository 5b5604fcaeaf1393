//! `--sandbox` from outside: what the processes of a trace and a replay may still do, that the output
//! is the same with it, and that ends of all kinds work. Single walls: the sandbox's own unit tests.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tests::{binary, lines};
use xtask::lab::incidents::{self, run_client};
use xtask::lab::trace::{Echo, Trace, lab_args};
use xtask::lab::{Lab, api, node_command, state};
use xtask::skips;

use crate::lab::{PATIENCE, POD, URL, children, lab_for, until, watch};

const INCIDENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../demo/incident.pcapng.zst");
/// Those that an agent may keep: DAC_READ_SEARCH, KILL, NET_ADMIN, SYS_PTRACE, SYS_ADMIN, PERFMON, BPF.
pub(crate) const KEPT: u64 = 1 << 2 | 1 << 5 | 1 << 12 | 1 << 19 | 1 << 21 | 1 << 38 | 1 << 39;
/// And SETGID, SETUID for the user behind sudo.
const KEPT_FOR_USER: u64 = KEPT | 1 << 6 | 1 << 7;
const USER: u32 = 4242;

/// Whether this machine has all that `strict` asks for.
pub(crate) fn strict_is_had() -> Result<(), String> {
    let output = binary::run(&["info", INCIDENT, "--sandbox", "strict"]);
    if output.status.success() { Ok(()) } else { Err(binary::stderr(&output)) }
}

/// The same, with a note if not.
fn strict_for(test: &str) -> bool {
    let had = strict_is_had();
    if let Err(why) = &had {
        skips::note(test, why.trim());
    }
    had.is_ok()
}

/// What the kernel says of a process or thread.
pub(crate) struct Status(String);

impl Status {
    pub(crate) fn of(folder: &str) -> Self {
        Self(fs::read_to_string(format!("/proc/{folder}/status")).unwrap())
    }

    pub(crate) fn field(&self, name: &str) -> &str {
        let line = self.0.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.unwrap_or_else(|| panic!("{name}: {}", self.0)).trim()
    }

    pub(crate) fn set(&self, name: &str) -> u64 {
        u64::from_str_radix(self.field(name), 16).unwrap()
    }

    fn is_confined(&self, user: u32) {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(self.set(set), 0, "{set}: {}", self.0);
        }
        let ids: Vec<_> = self.field("Uid").split_whitespace().collect();
        assert_eq!(ids, [user.to_string().as_str(); 4], "{}", self.0);
        assert_eq!((self.field("Groups"), self.field("NoNewPrivs")), ("", "1"), "{}", self.0);
        assert_eq!((self.field("Seccomp"), self.field("Threads")), ("2", "1"), "{}", self.0);
    }

    fn keeps(&self, kept: u64) {
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(self.set(set) & !kept, 0, "{set}: {}", self.0);
        }
        assert_eq!((self.set("CapAmb"), self.field("NoNewPrivs")), (0, "1"), "{}", self.0);
    }
}

fn threads(pid: i32) -> Vec<Status> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    tasks.map(|task| Status::of(&format!("{pid}/task/{}", task.file_name().display()))).collect()
}

/// A program that is svctrace behind sudo of [`USER`].
fn behind_sudo(folder: &Path) -> PathBuf {
    let script = folder.join("svctrace");
    let text = format!(
        "#!/bin/sh\nexec env SUDO_UID={USER} SUDO_GID={USER} SUDO_USER=somebody {} \"$@\"\n",
        binary::path().display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

#[test]
fn a_trace_has_only_what_it_needs() {
    const NAME: &str = "sandbox::a_trace_has_only_what_it_needs";
    let Some(_guard) = lab_for(NAME) else { return };
    if !strict_for(NAME) {
        return;
    }
    let lab = Lab::up(false).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (program, user, kept) in
        [(binary::path(), 65_534, KEPT), (behind_sudo(folder.path()), USER, KEPT_FOR_USER)]
    {
        let args = POD.iter().map(ToString::to_string).chain(lab_args(true));
        let more = ["-v", "--sandbox", "strict", "-o", "json"].map(str::to_owned);
        let mut trace = Trace::start(&program, args.chain(more), Echo::Quiet).unwrap();
        trace.wait_attached(PATIENCE).unwrap();
        let (agent, pipeline) = (trace.pid(), children(trace.pid()));
        assert_eq!(pipeline.len(), 1, "two processes");
        Status::of(&pipeline[0].to_string()).is_confined(user);
        for thread in threads(agent) {
            thread.keeps(kept);
        }
        let limits = fs::read_to_string(format!("/proc/{}/limits", pipeline[0])).unwrap();
        for name in ["Max core file size", "Max processes"] {
            let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
            assert_eq!(line.split_whitespace().rev().nth(1).unwrap(), "0", "{line}");
        }
        let env = fs::read_to_string(format!("/proc/{}/environ", pipeline[0])).unwrap();
        assert!(!env.contains("PATH="), "nothing of the environment that it has no use for: {env}");
        run_client(&lab, &["curl", "-sS", URL]).unwrap();
        let traced = trace.finish(PATIENCE).unwrap();
        assert_eq!(traced.status.code(), Some(0), "{}", traced.stderr);
        assert!(lines(&traced.stdout).iter().any(|line| line["type"] == "lookup"));
        for process in ["of the agent: capabilities", "of the pipeline process: user"] {
            let told: Vec<_> = traced.stderr.lines().filter(|l| l.contains(process)).collect();
            assert_eq!(told.len(), 1, "{}", traced.stderr);
            assert!(!told[0].contains("not in force"), "{}", told[0]);
        }
    }
}

#[test]
fn a_trace_says_the_same_with_and_without() {
    const NAME: &str = "sandbox::a_trace_says_the_same_with_and_without";
    let Some(_guard) = lab_for(NAME) else { return };
    if !strict_for(NAME) {
        return;
    }
    let incident = incidents::find("nxdomain").unwrap();
    for mode in ["strict", "off"] {
        watch(incident, &["--sandbox", mode]).shows(incident);
    }
}

/// Fixtures of all kinds, as every mode reads them.
#[test]
fn a_replay_says_the_same_with_and_without() {
    const NAME: &str = "sandbox::a_replay_says_the_same_with_and_without";
    if !strict_for(NAME) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut said = Vec::new();
    for mode in ["strict", "auto", "off"] {
        let words = ["-r", INCIDENT, "-o", "json", "--events", "--sandbox", mode];
        let output = binary::run(&words);
        assert_eq!((output.status.code(), binary::stderr(&output).as_str()), (Some(0), ""));
        let (ring, whole) = (file(&format!("ring-{mode}.pcapng")), file(&format!("{mode}.zst")));
        let rotate = ["--rotate-size", "4K", "--rotate-count", "2"];
        for (path, more) in [(&ring, &rotate[..]), (&whole, &[])] {
            let words = [&["-r", INCIDENT, "-q", "--sandbox", mode, "-w", path], more].concat();
            let output = binary::run(&words);
            assert_eq!((output.status.code(), binary::stderr(&output).as_str()), (Some(0), ""));
        }
        let rings = [0, 1].map(|n| fs::read(ring.replace(".pcapng", &format!(".{n}.pcapng"))));
        let info = binary::stdout(&binary::run(&["info", INCIDENT, "--sandbox", mode]));
        let full = binary::run(&["-r", INCIDENT, "-q", "--sandbox", mode, "-w", "/dev/full"]);
        assert_eq!(full.status.code(), Some(2));
        let all = (binary::stdout(&output), rings.map(Result::unwrap), fs::read(&whole).unwrap());
        said.push((all, info, binary::stderr(&full)));
    }
    assert!(said[0] == said[1] && said[0] == said[2], "the modes differ");
}

#[test]
fn a_replay_says_that_it_needs_nothing() {
    if !strict_for("sandbox::a_replay_says_that_it_needs_nothing") {
        return;
    }
    let told = |mode| binary::stderr(&binary::run(&["-r", INCIDENT, "-v", "--sandbox", mode]));
    let strict = told("strict");
    assert_eq!(strict.matches("no privilege is needed").count(), 1, "{strict}");
    for word in ["user ", "no capability", "no_new_privs", "Landlock", "seccomp"] {
        assert!(strict.contains(word) && !strict.contains("not in force"), "{word}: {strict}");
    }
    assert!(told("off").contains("sandbox: off"));
    assert_eq!(binary::run(&["-r", INCIDENT, "--sandbox", "some"]).status.code(), Some(2));
}

/// Where strict cannot be had it is refused in a sentence, and auto goes on: root that may become
/// nobody else.
#[test]
fn strict_refuses_what_auto_does_without() {
    const NAME: &str = "sandbox::strict_refuses_what_auto_does_without";
    if !nix::unistd::Uid::effective().is_root() || xtask::cmd::find("setpriv").is_none() {
        return skips::note(NAME, "needs root and setpriv");
    }
    let run = |mode| {
        let mut command = std::process::Command::new("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(binary::path());
        command.args(["-r", INCIDENT, "-v", "--sandbox", mode]).output().unwrap()
    };
    let (strict, auto) = (run("strict"), run("auto"));
    let (refusal, words) = (binary::stderr(&strict), binary::stderr(&auto));
    assert_eq!((strict.status.code(), binary::stdout(&strict).as_str()), (Some(2), ""));
    assert!(refusal.contains("--sandbox strict") && refusal.contains("user 65534"), "{refusal}");
    assert_eq!(auto.status.code(), Some(0), "{words}");
    assert!(words.contains("not in force: user 65534"), "{words}");
}

/// A replay that cannot read its input leaves an empty file, which the next one may have.
#[test]
fn an_empty_output_is_not_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (bad, out) = (path("bad"), path("out.pcapng"));
    fs::write(&bad, "no capture").unwrap();
    assert_eq!(binary::run(&["-r", &bad, "-w", &out]).status.code(), Some(2));
    assert_eq!(binary::run(&["-r", INCIDENT, "-w", &out]).status.code(), Some(0));
    assert_eq!(binary::run(&["-r", INCIDENT, "-w", &out]).status.code(), Some(2));
}

/// Nobody reads the output; the pipeline process is another user's, and ends by force even so.
#[test]
fn a_second_interrupt_ends_what_hangs() {
    let Some(_guard) = lab_for("sandbox::a_second_interrupt_ends_what_hangs") else { return };
    let _lab = Lab::up(false).unwrap();
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(&[b'x'; 1 << 16]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let said = folder.path().join("said");
    let mut command = node_command(binary::path().to_str().unwrap()).unwrap();
    command.args(POD).args(lab_args(true)).stdin(Stdio::null()).stdout(writer);
    let mut child = command.stderr(fs::File::create(&said).unwrap()).spawn().unwrap();
    let pid = Pid::from_raw(child.id().cast_signed());
    let says = |what: &str| fs::read_to_string(&said).unwrap().contains(what);
    until("it is attached", || says("attached"));
    let pipeline = children(pid.as_raw())[0];
    kill(pid, Signal::SIGINT).unwrap();
    until("it says why it goes on", || says("the output is not read"));
    kill(pid, Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
    assert!(!Path::new(&format!("/proc/{pipeline}")).exists());
    drop(reader);
}

/// A plugin of the kubeconfig runs as the user behind sudo, with no way to more.
#[test]
fn credential_plugins_run_as_the_user() {
    const NAME: &str = "sandbox::credential_plugins_run_as_the_user";
    let Some(_guard) = lab_for(NAME) else { return };
    if xtask::cmd::find("setpriv").is_none() {
        return skips::note(NAME, "setpriv is not installed");
    }
    let _lab = Lab::up(false).unwrap();
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let credential = json!({ "apiVersion": "client.authentication.k8s.io/v1",
        "kind": "ExecCredential", "status": { "token": api::TOKEN } });
    let script =
        format!("#!/bin/sh\ncat /proc/self/status > {}\necho '{credential}'\n", path("was"));
    fs::write(path("plugin"), script).unwrap();
    fs::set_permissions(path("plugin"), fs::Permissions::from_mode(0o755)).unwrap();
    let text = fs::read_to_string(state::kubeconfig()).unwrap();
    let mut config: Value = serde_saphyr::from_str(&text).unwrap();
    config["users"][0]["user"] = json!({ "exec": { "command": path("plugin"),
        "apiVersion": "client.authentication.k8s.io/v1", "interactiveMode": "Never" } });
    fs::write(path("kubeconfig"), config.to_string()).unwrap();
    let mut words: Vec<String> =
        POD.iter().map(ToString::to_string).chain(lab_args(false)).collect();
    words.extend(["--kubeconfig".to_owned(), path("kubeconfig")]);
    let program = behind_sudo(folder.path());
    let mut trace = Trace::start(&program, words, Echo::Quiet).unwrap();
    trace.wait_attached(PATIENCE).unwrap();
    let traced = trace.finish(PATIENCE).unwrap();
    assert!(!traced.stderr.contains("Kubernetes API"), "{}", traced.stderr);
    let was = Status(fs::read_to_string(path("was")).unwrap());
    assert_eq!(was.field("Uid").split_whitespace().next().unwrap(), USER.to_string());
    assert_eq!((was.set("CapEff"), was.field("NoNewPrivs")), (0, "1"), "{}", was.0);
}

/// What is run and traced keeps the rights of who asked for it, also those that svctrace gave up.
#[test]
fn a_traced_command_keeps_its_rights() {
    let Some(_guard) = lab_for("sandbox::a_traced_command_keeps_its_rights") else { return };
    let folder = tempfile::tempdir().unwrap();
    let was = folder.path().join("was");
    let script = format!("cat /proc/self/status > {}", was.display());
    let output = binary::run(&["--no-api", "-q", "--", "sh", "-c", &script]);
    assert_eq!(output.status.code(), Some(0), "{}", binary::stderr(&output));
    let (was, own) = (Status(fs::read_to_string(&was).unwrap()), Status::of("self"));
    for field in ["CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp"] {
        assert_eq!(was.field(field), own.field(field), "{field}");
    }
}

/// With the capabilities that README.md names and no others it traces; its second process then stays
/// root's, and the log says so.
#[test]
fn the_readmes_capabilities_are_enough() {
    const NAME: &str = "sandbox::the_readmes_capabilities_are_enough";
    let Some(_guard) = lab_for(NAME) else { return };
    if xtask::cmd::find("setpriv").is_none() {
        return skips::note(NAME, "setpriv is not installed");
    }
    let text = fs::read_to_string(xtask::repo::root().join("README.md")).unwrap();
    let list = text.split_once("takes root, or").unwrap().1.split_once('(').unwrap().0;
    let words = list.split(|c: char| !c.is_ascii_uppercase() && c != '_');
    let names: Vec<_> = words.filter_map(|word| word.strip_prefix("CAP_")).collect();
    assert_eq!(names.len(), 6, "{names:?}");
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("svctrace");
    let only: Vec<_> = names.iter().map(|name| format!("+{}", name.to_lowercase())).collect();
    let text = format!(
        "#!/bin/sh\nexec setpriv --bounding-set=-all,{} --inh-caps=-all {} \"$@\"\n",
        only.join(","),
        binary::path().display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let incident = incidents::find("nxdomain").unwrap();
    let lab = incident.set_up().unwrap();
    let words = POD.iter().map(ToString::to_string).chain(lab_args(true));
    let more = ["-v", "-o", "json"].map(str::to_owned);
    let mut trace = Trace::start(&script, words.chain(more), Echo::Quiet).unwrap();
    trace.wait_attached(PATIENCE).unwrap();
    let pipeline = Status::of(&children(trace.pid())[0].to_string());
    assert_eq!((pipeline.set("CapPrm"), pipeline.field("NoNewPrivs")), (0, "1"));
    incident.run_clients(&lab).unwrap();
    let traced = trace.finish(PATIENCE).unwrap();
    assert_eq!(traced.status.code(), Some(0), "{}", traced.stderr);
    assert!(traced.stderr.contains("not in force: a user that is not root"), "{}", traced.stderr);
    let lines = lines(&traced.stdout);
    assert!(lines.iter().any(|line| line["code"] == "nxdomain"), "{}", traced.stdout);
}

/// In a folder that root may not write to without the rights it gave up.
#[test]
fn a_recording_that_came_to_nothing_is_removed() {
    const NAME: &str = "sandbox::a_recording_that_came_to_nothing_is_removed";
    if !nix::unistd::Uid::effective().is_root() {
        return skips::note(NAME, "needs root");
    }
    let folder = tempfile::tempdir().unwrap();
    let program = behind_sudo(folder.path());
    let theirs = folder.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    std::os::unix::fs::chown(&theirs, Some(USER), Some(USER)).unwrap();
    fs::set_permissions(&theirs, fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let output = std::process::Command::new(program)
        .args(["--no-api", "--pid", "4194303", "-w"])
        .arg(theirs.join("new.pcapng"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", binary::stderr(&output));
    assert_eq!(binary::stderr(&output).lines().count(), 1, "{}", binary::stderr(&output));
    assert_eq!(fs::read_dir(&theirs).unwrap().count(), 0);
}
