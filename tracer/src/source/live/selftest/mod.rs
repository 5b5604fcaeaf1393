//! Loads and attaches every probe to fresh cgroups, makes a little traffic on loopback and checks
//! that the right records come back. Says what this kernel can do; changes nothing that stays.

mod seen;
mod traffic;

use std::{
    fmt, fs,
    fs::File,
    io,
    path::{Path, PathBuf},
    process,
    time::Instant,
};

use tracer_common::bodies::role;

pub use self::seen::Check;
use self::{
    seen::Seen,
    traffic::{Servers, Traffic},
};
use super::probes::{
    Failure, Options, Probes, ProbesError, cgroup_root, events_from_fd,
    table::{Level, Probe},
};
use super::{processes, wire::Doors};

/// What came out.
#[derive(Debug)]
pub struct Report {
    /// Every probe that was tried, with the reason when the kernel refused it.
    pub probes: Vec<(Probe, Option<Failure>)>,
    /// What the traffic proved.
    pub checks: Vec<Check>,
    /// Time to create maps and load programs, in microseconds.
    pub load_us: u128,
    /// Time to attach everything, in microseconds.
    pub attach_us: u128,
}

impl Report {
    /// Whether every mandatory probe works and all checks that depend on those hold.
    pub fn ok(&self) -> bool {
        let probes = self
            .probes
            .iter()
            .all(|(probe, failure)| failure.is_none() || probe.level != Level::Mandatory);
        probes && self.checks.iter().all(|c| c.ok || !c.mandatory)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (probe, failure) in &self.probes {
            let (name, hook) = (probe.program, probe.hook_name());
            match failure {
                None => writeln!(f, "probe {name} {hook} ok")?,
                Some(why) => {
                    writeln!(f, "probe {name} {hook} missing {}: {}", why.step, why.reason)?
                }
            }
        }
        for check in &self.checks {
            let result = match (check.ok, check.mandatory) {
                (true, _) => "ok",
                (false, true) => "failed",
                (false, false) => "missing",
            };
            writeln!(f, "check {} {result}", check.name)?;
        }
        writeln!(f, "time load {} us attach {} us", self.load_us, self.attach_us)
    }
}

/// Tries all probes here and now. This process moves through the test cgroups and back.
///
/// # Errors
/// When the maps, tracefs or the cgroup tree cannot be had at all.
#[expect(clippy::disallowed_methods, reason = "the self-test measures the live source itself")]
pub fn run(options: &Options) -> Result<Report, ProbesError> {
    let places = Places::make()?;
    places.enter(&places.resolver)?;
    let servers = Servers::open()?;
    places.leave()?;
    let traffic = Traffic::open(servers)?;
    let options = Options { dns_ports: traffic.dns_ports(), wire: true, ..options.clone() };

    let before = Instant::now();
    let (mut probes, mut failures) = Probes::load_what_goes(&options)?;
    let load_us = before.elapsed().as_micros();
    let before = Instant::now();
    let target = File::open(&places.target)?;
    let resolver = File::open(&places.resolver)?;
    let (on_target, failed) = probes.attach_target_what_goes(&target, role::TARGET)?;
    failures.extend(failed);
    let (on_resolver, failed) = probes.attach_target_what_goes(&resolver, role::RESOLVER)?;
    failures.extend(failed);
    failures.extend(probes.attach_global_what_goes()?);
    let mut doors = Doors::default();
    let door = processes::namespace(process::id(), "net")
        .is_some_and(|namespace| doors.lives(&probes, namespace, process::id()).is_ok());
    let attach_us = before.elapsed().as_micros();

    let events = probes.events_fd()?.try_clone_to_owned()?;
    let mut events = events_from_fd(events)?;
    probes.set_recording(true)?;
    places.enter(&places.target)?;
    let facts = traffic.run(&places.target);
    places.leave()?;
    let facts = facts?;
    probes.set_recording(false)?;

    let mut seen = Seen::default();
    while let Some(record) = events.next() {
        seen.take(&record);
    }
    let has = |name: &str| probes.loaded().iter().any(|p| p.program == name);
    let mut checks = seen.checks(&facts, places.target_id()?, has("enter_connect"));
    checks.push(Check { name: "wire-answer", ok: door && seen.at_door(&facts), mandatory: false });
    let all = probes.loaded().to_vec();
    let tried = tried(&all, &failures, probes.missing());
    probes.detach(on_target)?;
    probes.detach(on_resolver)?;
    Ok(Report { probes: tried, checks, load_us, attach_us })
}

fn tried(
    loaded: &[Probe],
    failures: &[Failure],
    missing: &[Failure],
) -> Vec<(Probe, Option<Failure>)> {
    use super::probes::table::{PROBES, SYSCALLS, WIRE};
    PROBES
        .iter()
        .chain(&SYSCALLS)
        .chain([&WIRE])
        .filter_map(|probe| {
            let why = failures.iter().chain(missing).find(|f| f.program == probe.program);
            let known = why.is_some() || loaded.iter().any(|p| p.program == probe.program);
            known.then(|| (*probe, why.cloned()))
        })
        .collect()
}

/// Two fresh cgroups and the way back.
struct Places {
    home: PathBuf,
    target: PathBuf,
    resolver: PathBuf,
}

impl Places {
    fn make() -> io::Result<Self> {
        let root = cgroup_root()?;
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let home = own.lines().find_map(|l| l.strip_prefix("0::/")).unwrap_or_default();
        let stem = format!("svctrace-selftest-{}", process::id());
        let places = Self {
            home: root.join(home),
            target: root.join(&stem),
            resolver: root.join(format!("{stem}-resolver")),
        };
        fs::create_dir(&places.target)?;
        fs::create_dir(&places.resolver)?;
        Ok(places)
    }

    fn enter(&self, place: &Path) -> io::Result<()> {
        fs::write(place.join("cgroup.procs"), process::id().to_string())
    }

    fn leave(&self) -> io::Result<()> {
        self.enter(&self.home)
    }

    fn target_id(&self) -> io::Result<u64> {
        use std::os::unix::fs::MetadataExt as _;
        Ok(fs::metadata(&self.target)?.ino())
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        // What cannot be cleaned up here is empty and harmless.
        let _ = self.leave();
        let _ = fs::remove_dir(&self.target);
        let _ = fs::remove_dir(&self.resolver);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test, because the whole process moves between cgroups.
    #[test]
    fn records_of_real_traffic_arrive_and_agree() {
        if !nix::unistd::Uid::effective().is_root() {
            println!("skipped: loading probes needs root");
            return;
        }
        if super::super::probes::object().is_none() {
            println!("skipped: built without eBPF toolchain");
            return;
        }
        let report = run(&Options::default()).expect("self-test runs");
        println!("{report}");
        assert!(report.ok(), "{report}");
        assert!(report.checks.iter().all(|c| c.ok), "{report}");

        let quiet = Options { syscalls: false, log: true, ..Options::default() };
        let report = run(&quiet).expect("self-test runs without system calls");
        assert!(report.ok(), "{report}");

        // Another process only: nothing that this one does is a target's.
        let other = Options { only_tgid: 1, ..Options::default() };
        let report = run(&other).expect("self-test runs for another process");
        let held = |name: &str| report.checks.iter().any(|c| c.name == name && c.ok);
        assert!(held("every-record-readable") && held("cgroup-made"), "{report}");
        for name in ["connect-names-process", "dns-query-packet", "resolver-sees-target", "exec"] {
            assert!(!held(name), "{name}: {report}");
        }
    }
}
