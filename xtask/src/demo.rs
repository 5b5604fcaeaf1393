//! `cargo xtask demo`: the story from nothing to its cause, one line a step.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use nix::unistd::Uid;
use xtask::lab::{cgroups, incidents};
use xtask::{cmd, repo};

use crate::{build_cmd, lab_cli, setup, sudo};

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Setup and build are done; only run (used when the demo calls itself through sudo)
    #[arg(long, hide = true)]
    prepared: bool,
}

/// Sets up, builds, runs the story, and checks that its findings were printed.
pub(crate) fn run(options: &Options) -> Result<()> {
    let blockers = blockers();
    if !blockers.is_empty() {
        build_cmd::run(build_cmd::Options::default())?;
        return replay(&blockers.join("; "));
    }
    if !options.prepared {
        say("checking what this machine has");
        if let Err(error) = setup::run(setup::Options { yes: false, ebpf_only: false }) {
            // What is missing may not matter here; what does matter is told by what needs it.
            say(&format!("setup is not complete: {error:#}"));
        }
        say("building svctrace and its probes");
        build_cmd::run(build_cmd::Options::default())?;
    }
    if !Uid::effective().is_root() {
        say("the kernel lets only root trace: going on through sudo");
        return sudo::run(&["demo", "--prepared"]);
    }
    story()
}

fn story() -> Result<()> {
    let probes = Command::new(repo::svctrace(false)?).arg("probes").output()?;
    if !probes.status.success() {
        let told = String::from_utf8_lossy(&probes.stderr);
        let why = told.lines().next().unwrap_or("this kernel does not take all probes");
        return replay(why);
    }
    let incident = incidents::find("search-timeout")?;
    let options = lab_cli::Run::plain(incident.name);
    let outcome = lab_cli::watch(incident, &options, say)?;
    let missing = incident.missing_findings(&outcome.traced.stdout);
    if !missing.is_empty() {
        bail!("svctrace did not print {}", missing.join(", "));
    }
    for client in &outcome.clients {
        say(&format!(
            "the client waited {:.1} s and saw no error; svctrace named {}",
            client.took.as_secs_f64(),
            incident.findings.join(", ")
        ));
    }
    Ok(())
}

/// The recorded incident (`cargo xtask lab run search-timeout -- -w …`), where live is impossible.
fn replay(why: &str) -> Result<()> {
    say(&format!("no live demo here: {why}"));
    say("replaying the same incident as it was recorded");
    let capture = repo::root().join("demo/incident.pcapng.zst");
    say(&format!("$ svctrace -r {}", capture.display()));
    let output = Command::new(repo::svctrace(false)?).arg("-r").arg(&capture).output()?;
    let told = String::from_utf8_lossy(&output.stdout);
    print!("{told}");
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("svctrace ended with {}", output.status);
    }
    let missing = incidents::find("search-timeout")?.missing_findings(&told);
    if !missing.is_empty() {
        bail!("svctrace did not print {}", missing.join(", "));
    }
    Ok(())
}

fn say(text: &str) {
    println!("demo: {text}");
}

/// What on this machine makes tracing impossible, one sentence each.
fn blockers() -> Vec<String> {
    let mut found = Vec::new();
    match nix::sys::utsname::uname() {
        Ok(names) => {
            let release = names.release().to_string_lossy().into_owned();
            if names.sysname() != "Linux" {
                found.push(format!("this is {}, not Linux", names.sysname().to_string_lossy()));
            } else if kernel_version(&release) < (5, 10) {
                found.push(format!("kernel {release} is older than 5.10"));
            }
        }
        Err(error) => found.push(format!("the kernel does not tell its version: {error}")),
    }
    if let Err(error) = cgroups::mount_point() {
        found.push(format!("{error:#}"));
    }
    let lockdown = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if lockdown.contains("[confidentiality]") {
        found.push("the kernel is locked down (confidentiality): it refuses tracing".to_owned());
    }
    if !Path::new("/proc/sys/net/ipv4").exists() {
        found.push("/proc/sys/net is not there: network namespaces cannot be set up".to_owned());
    }
    if !Uid::effective().is_root() && cmd::find("sudo").is_none() {
        found.push("this is not root and there is no sudo".to_owned());
    }
    found
}

/// `6.1.0-56-cloud` to (6, 1).
fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_compare_by_number() {
        assert!(kernel_version("5.9.1") < (5, 10));
        assert!(kernel_version("5.10.0-33-amd64") >= (5, 10));
        assert!(kernel_version("6.18.44") >= (5, 10));
    }
}
