//! What can go wrong around a live trace, each with its expected outcome: kills at any moment, full
//! and unwritable places, a lost terminal, one processor, cgroups and programs that come and go,
//! overload. Needs the lab; skipped as its other tests. A clock that jumps is tried in the guests of
//! `cargo xtask kernels`, where the clock is ours to change.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::MutexGuard;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tests::{binary, lines, of_type};
use xtask::lab::incidents::{self, run_client};
use xtask::lab::trace::lab_args;
use xtask::lab::{self, Lab, PodSpec};

use crate::lab::{PATIENCE, URL, attached, children, existing, lab_for, trace, until};

const POD: [&str; 4] = ["--pod", "client", "-n", "critical-app"];
const CURL: [&str; 3] = ["curl", "-sS", URL];

/// A load of questions from the client pod, bounded in time; dropping it ends it.
struct Load(Child);

impl Load {
    fn start(lab: &Lab, folder: &Path, options: &[&str]) -> Self {
        let questions = folder.join("questions");
        fs::write(&questions, "kubernetes.default.svc.cluster.local A\n".repeat(100)).unwrap();
        let mut command = lab.command(lab.pod("client").unwrap(), "dnsperf").unwrap();
        command.args(["-s", "10.96.0.10", "-d"]).arg(questions).args(options);
        let said = File::create(folder.join("load")).unwrap();
        command.stdin(Stdio::null()).stdout(said).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A sequence of numbers that is the same in each run (xorshift, Marsaglia 2003).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// The lab, where there is a program that makes load.
fn lab_with_load_for(test: &str) -> Option<MutexGuard<'static, ()>> {
    let guard = lab_for(test)?;
    if xtask::cmd::find("dnsperf").is_none() {
        xtask::skips::note(test, "dnsperf is not installed");
        return None;
    }
    Some(guard)
}

fn codes(lines: &[Value]) -> BTreeSet<&str> {
    of_type(lines, "finding").iter().filter_map(|f| f["code"].as_str()).collect()
}

/// A hundred times, at any moment from the start on, agent or pipeline or both: what was flushed
/// replays, nothing stays in the kernel, nobody goes on.
#[test]
fn a_hundred_kills() {
    let Some(_guard) = lab_with_load_for("faults::a_hundred_kills") else { return };
    let lab = Lab::up(false).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let before = existing();
    let _load = Load::start(&lab, scratch.path(), &["-Q", "300", "-l", "280"]);
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    let mut replayed = 0;
    for round in 0..100 {
        let capture = scratch.path().join(format!("{round}.pcapng.zst"));
        let capture = capture.to_str().unwrap();
        let mut trace = trace(&[&POD[..], &["-q", "-w", capture]].concat());
        let moment = Duration::from_millis(dice.below(500));
        if round % 2 == 0 {
            trace.wait_attached(PATIENCE).unwrap();
        }
        std::thread::sleep(moment);
        let agent = trace.pid();
        let pipeline = children(agent);
        let victims = match round % 3 {
            0 => vec![agent],
            1 => pipeline.clone(),
            _ => [pipeline.clone(), vec![agent]].concat(),
        };
        for victim in victims {
            let _ = kill(Pid::from_raw(victim), Signal::SIGKILL);
        }
        if pipeline.is_empty() {
            let _ = trace.signal(Signal::SIGKILL);
        }
        let traced = trace.wait(PATIENCE).unwrap();
        assert!(!traced.stderr.contains("panicked"), "round {round}: {}", traced.stderr);
        for pid in pipeline {
            until("the pipeline process ends", || !Path::new(&format!("/proc/{pid}")).exists());
        }
        // Killed before the agent opened it, there is none.
        if fs::metadata(capture).is_ok_and(|file| file.len() > 0) {
            let replay = binary::run(&["-r", capture, "-o", "json"]);
            let told = binary::stderr(&replay);
            assert!(matches!(replay.status.code(), Some(0 | 3)), "round {round}: {told}");
            assert!(told.lines().count() <= 1, "round {round}: {told}");
            replayed += 1;
            fs::remove_file(capture).unwrap();
        }
    }
    assert!(replayed >= 20, "only {replayed} recordings had begun");
    until("the kernel lets go", || existing().is_subset(&before));
    lab.down().unwrap();
}

/// Two on one pod: both see all, and the end of one changes nothing for the other.
#[test]
fn two_at_once() {
    let Some(_guard) = lab_for("faults::two_at_once") else { return };
    let incident = incidents::find("search-timeout").unwrap();
    let lab = incident.set_up().unwrap();
    let words = [&POD[..], &["-o", "json"]].concat();
    let (first, second) = (attached(&words), attached(&words));
    incident.run_clients(&lab).unwrap();
    let first = first.finish(PATIENCE).unwrap();
    run_client(&lab, &["curl", "-sS", "http://backend/"]).unwrap();
    let second = second.finish(PATIENCE).unwrap();
    lab.down().unwrap();
    let expected: BTreeSet<_> = incident.findings.iter().copied().collect();
    for traced in [&first, &second] {
        assert_eq!(traced.status.code(), Some(0), "{}", traced.stderr);
        assert_eq!(codes(&lines(&traced.stdout)), expected, "{}", traced.stdout);
    }
    let names = |text: &str| of_type(&lines(text), "lookup").len();
    assert_eq!((names(&first.stdout), names(&second.stdout)), (1, 2), "{}", second.stdout);
}

/// A program of somebody else's on the pod's cgroup, which allows everything.
struct Foreign {
    program: OwnedFd,
    cgroup: File,
}

/// `BPF_CGROUP_INET_EGRESS` and `BPF_PROG_TYPE_CGROUP_SKB` of linux/bpf.h.
const EGRESS: u32 = 1;
const CGROUP_SKB: u32 = 8;
/// `BPF_F_ALLOW_OVERRIDE` and `BPF_F_ALLOW_MULTI` there.
const OVERRIDE: u32 = 1;
const MULTI: u32 = 2;

fn bpf(command: i32, attributes: &mut [u32; 32]) -> io::Result<i32> {
    // SAFETY: the attributes are 128 bytes that live through the call; what they point to is alive.
    let result = unsafe {
        nix::libc::syscall(
            nix::libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            size_of_val(attributes),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap()) }
}

impl Foreign {
    /// Loads `r0 = 1; exit` and attaches it as `flags` say.
    fn attach(cgroup: &Path, flags: u32) -> Self {
        let code: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
        let licence = c"GPL";
        let mut load = [0; 32];
        load[0] = CGROUP_SKB;
        load[1] = 2;
        load[2..4].copy_from_slice(&halves(code.as_ptr() as u64));
        load[4..6].copy_from_slice(&halves(licence.as_ptr() as u64));
        let program = bpf(5, &mut load).unwrap();
        // SAFETY: the kernel has just given us this descriptor.
        let program = unsafe { OwnedFd::from_raw_fd(program) };
        let cgroup = File::open(cgroup).unwrap();
        let mut this = [0; 32];
        this[0] = cgroup.as_raw_fd() as u32;
        this[1] = program.as_raw_fd() as u32;
        this[2] = EGRESS;
        this[3] = flags;
        bpf(8, &mut this).unwrap();
        Self { program, cgroup }
    }
}

fn halves(address: u64) -> [u32; 2] {
    [address as u32, (address >> 32) as u32]
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let mut this = [0; 32];
        this[0] = self.cgroup.as_raw_fd() as u32;
        this[1] = self.program.as_raw_fd() as u32;
        this[2] = EGRESS;
        let _ = bpf(9, &mut this);
    }
}

/// Others may be on the cgroup before us and come after us; who wants it alone is named.
#[test]
fn beside_programs_of_others() {
    let Some(_guard) = lab_for("faults::beside_programs_of_others") else { return };
    let lab = Lab::up(false).unwrap();
    let pod = lab.pod("client").unwrap();
    let before = Foreign::attach(&pod.cgroup, MULTI);
    let trace_1 = attached(&[&POD[..], &["-o", "json"]].concat());
    let after = Foreign::attach(&pod.cgroup, MULTI);
    assert!(run_client(&lab, &CURL).unwrap().status.success());
    drop(before);
    assert!(run_client(&lab, &CURL).unwrap().status.success());
    let traced = trace_1.finish(PATIENCE).unwrap();
    assert_eq!(traced.status.code(), Some(0), "{}", traced.stderr);
    assert_eq!(of_type(&lines(&traced.stdout), "lookup").len(), 2, "{}", traced.stdout);
    drop(after);
    // The pod's own folder, which holds its containers, is where a pod is traced.
    for flags in [0, OVERRIDE] {
        let alone = Foreign::attach(&pod.pod_cgroup(), flags);
        let traced = trace(&POD).wait(PATIENCE).unwrap();
        assert_eq!(traced.status.code(), Some(2), "{}", traced.stderr);
        assert!(traced.stderr.contains("another program"), "flags {flags}: {}", traced.stderr);
        assert!(run_client(&lab, &CURL).unwrap().status.success());
        drop(alone);
    }
    lab.down().unwrap();
}

/// The pod goes while it is traced: what it did is told, and the trace ends as ever.
#[test]
fn the_cgroup_is_removed() {
    let Some(_guard) = lab_for("faults::the_cgroup_is_removed") else { return };
    let mut lab = Lab::up(false).unwrap();
    lab.add_pod(&PodSpec::client("gone", 77)).unwrap();
    let words = ["--pod", "gone", "-n", "critical-app", "-o", "json"];
    let trace = attached(&words);
    let mut curl = lab.command(lab.pod("gone").unwrap(), "curl").unwrap();
    assert!(curl.args(&CURL[1..]).stdout(Stdio::null()).status().unwrap().success());
    lab.remove_pod("gone").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let traced = trace.finish(PATIENCE).unwrap();
    lab.down().unwrap();
    assert_eq!(traced.status.code(), Some(0), "{}", traced.stderr);
    let lines = lines(&traced.stdout);
    let lookups = of_type(&lines, "lookup");
    assert_eq!(lookups.len(), 1, "{}", traced.stdout);
    assert_eq!(lookups[0]["identity"]["pod"], "gone");
    assert_eq!(of_type(&lines, "summary")[0]["lost"], 0, "{}", traced.stdout);
}

/// One processor for svctrace, as after the others were taken away: it sees what all of them do.
#[test]
fn on_one_processor() {
    let Some(_guard) = lab_for("faults::on_one_processor") else { return };
    let incident = incidents::find("search-timeout").unwrap();
    let lab = incident.set_up().unwrap();
    let trace = attached(&[&POD[..], &["-o", "json"]].concat());
    let mut only = nix::sched::CpuSet::new();
    only.set(0).unwrap();
    for pid in children(trace.pid()).into_iter().chain([trace.pid()]) {
        for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
            let task = task.file_name().to_str().unwrap().parse().unwrap();
            nix::sched::sched_setaffinity(Pid::from_raw(task), &only).unwrap();
        }
    }
    incident.run_clients(&lab).unwrap();
    let traced = trace.finish(PATIENCE).unwrap();
    lab.down().unwrap();
    let lines = lines(&traced.stdout);
    assert_eq!(codes(&lines), incident.findings.iter().copied().collect(), "{}", traced.stdout);
    assert_eq!(of_type(&lines, "summary")[0]["lost"], 0, "{}", traced.stdout);
}

/// Nothing is traced when nothing can be recorded, and the sentence says why.
#[test]
fn a_place_nobody_can_write_to() {
    let Some(_guard) = lab_for("faults::a_place_nobody_can_write_to") else { return };
    let lab = Lab::up(false).unwrap();
    for file in ["/proc/incident.pcapng", "/no/such/folder/incident.pcapng", "/dev"] {
        let traced = trace(&[&POD[..], &["-w", file]].concat()).wait(PATIENCE).unwrap();
        assert_eq!(traced.status.code(), Some(2), "{file}: {}", traced.stderr);
        assert!(traced.stderr.contains(file), "{file}: {}", traced.stderr);
        assert!(!traced.stderr.contains("attached"), "{file}: {}", traced.stderr);
    }
    lab.down().unwrap();
}

/// A disk that fills up while it is recorded on: one sentence, and what fitted replays.
#[test]
fn a_disk_that_fills_up() {
    let Some(_guard) = lab_with_load_for("faults::a_disk_that_fills_up") else { return };
    let lab = Lab::up(false).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let (small, copy) = (scratch.path().join("small"), scratch.path().join("copy.pcapng"));
    fs::create_dir(&small).unwrap();
    let script = "mount -t tmpfs -o size=256k small \"$SMALL\" || exit 99; \"$@\" 2>\"$SAID\" \
                  >/dev/null; code=$?; cp \"$SMALL/incident.pcapng\" \"$COPY\"; exit $code";
    let said = scratch.path().join("said");
    let mut command = lab::node_command("unshare").unwrap();
    command.args(["-m", "sh", "-c", script, "sh"]).arg(binary::path()).args(POD);
    command.args(lab_args(true)).arg("-w").arg(small.join("incident.pcapng"));
    command.args(["--duration", "20s"]);
    command.env("SMALL", &small).env("SAID", &said).env("COPY", &copy);
    let mut shell = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let told = || fs::read_to_string(&said).unwrap_or_default();
    until("svctrace is attached", || told().contains("attached"));
    let _load = Load::start(&lab, scratch.path(), &["-Q", "2000", "-l", "10"]);
    let status = shell.wait().unwrap();
    lab.down().unwrap();
    let told = told();
    assert_eq!(told.matches("cannot write the capture").count(), 1, "{told}");
    assert!(matches!(status.code(), Some(2 | 3)), "{status}: {told}");
    let replay = binary::run(&["-r", copy.to_str().unwrap(), "-o", "json"]);
    assert_eq!(replay.status.code(), Some(3), "{}", binary::stderr(&replay));
    assert!(binary::stdout(&replay).contains("\"type\":\"lookup\""), "the flushed part replays");
}

/// The terminal goes away: svctrace ends like its shell would, and leaves nothing.
#[test]
fn a_lost_terminal() {
    let Some(_guard) = lab_for("faults::a_lost_terminal") else { return };
    let lab = Lab::up(false).unwrap();
    let before = existing();
    let scratch = tempfile::tempdir().unwrap();
    let capture = scratch.path().join("terminal.pcapng");
    let terminal = nix::pty::openpty(None, None).unwrap();
    let private = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
    nix::fcntl::fcntl(&terminal.master, private).unwrap();
    let mut command = lab::node_command("setsid").unwrap();
    command
        .arg("--ctty")
        .arg(binary::path())
        .args(POD)
        .args(lab_args(true))
        .arg("-w")
        .arg(&capture);
    let end = |fd: &OwnedFd| Stdio::from(fd.try_clone().unwrap());
    command.stdin(end(&terminal.slave)).stdout(end(&terminal.slave)).stderr(end(&terminal.slave));
    let mut child = command.spawn().unwrap();
    drop(command);
    drop(terminal.slave);
    let mut shown = String::new();
    let mut master = File::from(terminal.master);
    while !shown.contains("attached") {
        let mut bytes = [0; 4096];
        let count = io::Read::read(&mut master, &mut bytes).unwrap();
        shown += &String::from_utf8_lossy(&bytes[..count]);
    }
    run_client(&lab, &CURL).unwrap();
    drop(master);
    let _ = run_client(&lab, &CURL);
    let gone = Path::new("/proc").join(child.id().to_string()).join("exe");
    until("svctrace ends", || fs::read_link(&gone).is_err());
    child.wait().unwrap();
    until("the kernel lets go", || existing().is_subset(&before));
    lab.down().unwrap();
    let replay = binary::run(&["-r", capture.to_str().unwrap(), "-o", "json"]);
    assert_eq!(replay.status.code(), Some(0), "closed in order: {}", binary::stderr(&replay));
    assert!(!of_type(&lines(&binary::stdout(&replay)), "lookup").is_empty());
}

/// Far more than two processors can follow, in a tiny ring: every message that the load sent or got
/// was seen or is told as lost, to the last one.
#[test]
fn overload_accounts_for_everything() {
    let Some(_guard) = lab_with_load_for("faults::overload_accounts_for_everything") else {
        return;
    };
    let lab = Lab::up(false).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let quiet = ["--no-syscalls", "--no-resolver", "--ring-size", "64K"];
    let trace = attached(&[&POD[..], &quiet, &["-o", "json", "--events"]].concat());
    let mut load = Load::start(&lab, scratch.path(), &["-n", "600", "-c", "4", "-q", "200"]);
    assert!(load.0.wait().unwrap().success());
    let traced = trace.finish(Duration::from_secs(60)).unwrap();
    lab.down().unwrap();
    let said = fs::read_to_string(scratch.path().join("load")).unwrap();
    let number = |label: &str| -> u64 {
        let rest = said.split(label).nth(1).unwrap_or_else(|| panic!("{label}: {said}"));
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    let lines = lines(&traced.stdout);
    let seen = |direction: &str| {
        let dns = |l: &&&Value| l["kind"] == "dns" && l["direction"] == direction;
        of_type(&lines, "event").iter().filter(dns).count() as u64
    };
    let lost = |probe: &str| -> u64 {
        let of = |l: &&&Value| l["stage"] == "kernel" && l["source"] == probe;
        of_type(&lines, "loss").iter().filter(of).filter_map(|l| l["count"].as_u64()).sum()
    };
    assert_eq!(traced.status.code(), Some(3), "loss is told: {}", traced.stderr);
    assert!(lost("target_egress") > 0, "no overload: {said}");
    assert_eq!(seen("out") + lost("target_egress"), number("Queries sent:"), "{said}");
    assert_eq!(seen("in") + lost("target_ingress"), number("Queries completed:"), "{said}");
    let all: u64 = of_type(&lines, "loss").iter().filter_map(|l| l["count"].as_u64()).sum();
    assert_eq!(of_type(&lines, "summary")[0]["lost"].as_u64(), Some(all));
    for finding in of_type(&lines, "finding").iter().filter(|f| f["code"] != "events-lost") {
        assert!(!finding["caveats"].as_array().unwrap().is_empty(), "{finding}");
    }
}
