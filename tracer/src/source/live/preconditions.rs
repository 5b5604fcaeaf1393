//! What the agent needs from this host, checked before anything is attached: one clear sentence
//! for each thing that is missing.

use std::fs;

use anyhow::{Context as _, bail};
use nix::sys::utsname::uname;

/// Oldest kernel whose probes load.
const KERNEL_MIN: (u32, u32) = (5, 10);

/// Needed capabilities: bit, name, what for.
const CAPABILITIES: [(u32, &str, &str); 5] = [
    (39, "CAP_BPF", "to load the probes"),
    (38, "CAP_PERFMON", "to attach tracepoints"),
    (12, "CAP_NET_ADMIN", "to attach network probes to cgroups"),
    (19, "CAP_SYS_PTRACE", "to see the target's files and sockets"),
    (21, "CAP_SYS_ADMIN", "to look into the target's namespaces"),
];

/// Needed besides with `--wire`.
const FOR_WIRE: (u32, &str, &str) =
    (13, "CAP_NET_RAW", "for --wire: to see what comes to the target's network namespace");

/// Fails with a sentence when this process cannot trace on this kernel.
pub(super) fn check(wire: bool) -> anyhow::Result<()> {
    kernel()?;
    capabilities(wire)?;
    lockdown()
}

fn kernel() -> anyhow::Result<()> {
    let name = uname().context("cannot ask for the kernel's version")?;
    let release = name.release().to_string_lossy().into_owned();
    match version(&release) {
        Some(version) if version < KERNEL_MIN => bail!(
            "kernel {release} is too old: svctrace needs Linux {}.{} or newer",
            KERNEL_MIN.0,
            KERNEL_MIN.1
        ),
        _ => Ok(()),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|char: char| !char.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn capabilities(wire: bool) -> anyhow::Result<()> {
    let status =
        fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    let has = effective(&status).context("/proc/self/status has no CapEff line")?;
    let missing = missing(has, wire);
    if missing.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = missing.iter().map(|(name, why)| format!("{name} ({why})")).collect();
    if nix::unistd::geteuid().is_root() {
        bail!("root lacks capabilities here, probably in a container: {}", list.join(", "));
    }
    bail!("not root: run it with sudo; missing are {}", list.join(", "));
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn missing(effective: u64, wire: bool) -> Vec<(&'static str, &'static str)> {
    let has = |bit: u32| effective & (1 << bit) != 0;
    let lacks = |(bit, ..): &(u32, &str, &str)| !has(*bit);
    let all = CAPABILITIES.into_iter().chain(wire.then_some(FOR_WIRE));
    all.filter(lacks).map(|(_, name, why)| (name, why)).collect()
}

fn lockdown() -> anyhow::Result<()> {
    let mode = fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if mode.contains("[confidentiality]") {
        bail!(
            "the kernel is locked down (confidentiality): it refuses BPF programs that read kernel \
             memory; boot it with lockdown=integrity or less"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(version("5.10.0-30-cloud-amd64"), Some((5, 10)));
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("strange"), None);
    }

    #[test]
    fn capabilities_by_name() {
        assert_eq!(effective("Name:\tx\nCapEff:\t0000000000003000\n"), Some(0x3000));
        assert!(missing(u64::MAX, true).is_empty());
        assert_eq!(missing(!(1 << 39), false)[0].0, "CAP_BPF");
        assert_eq!(missing(!(1 << 13), true)[0].0, "CAP_NET_RAW");
        assert!(missing(!(1 << 13), false).is_empty());
        assert_eq!(missing(0, false).len(), CAPABILITIES.len());
    }
}
