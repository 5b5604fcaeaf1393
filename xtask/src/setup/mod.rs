//! `cargo xtask setup`: brings this machine to where the probes build and the lab runs.
//! Looks first, changes nothing that is there, and says each thing it does.

mod apt;
mod toolchain;

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Result, bail};
use xtask::{cmd, lab, repo};

use self::toolchain::Toolchain;

/// A program the lab or the tests use, and the Debian packages it is in, the preferred first.
const LAB: [(&str, &[&str]); 18] = [
    ("ip", &["iproute2"]),
    ("iptables-restore", &["iptables"]),
    ("dnsmasq", &["dnsmasq-base"]),
    ("nginx", &["nginx-light", "nginx-core", "nginx"]),
    ("curl", &["curl"]),
    ("dig", &["bind9-dnsutils", "dnsutils"]),
    ("dnsperf", &["dnsperf"]),
    ("tcpdump", &["tcpdump"]),
    ("wrk", &["wrk"]),
    ("bpftool", &["bpftool", "linux-tools-common"]),
    ("musl-gcc", &["musl-tools"]),
    ("qemu-system-x86_64", &["qemu-system-x86"]),
    ("busybox", &["busybox-static"]),
    ("cpio", &["cpio"]),
    ("xz", &["xz-utils"]),
    ("ps", &["procps"]),
    ("nsenter", &["util-linux"]),
    ("modprobe", &["kmod"]),
];

/// Options of `cargo xtask setup`.
#[derive(clap::Args, Clone, Copy)]
pub(crate) struct Options {
    /// Do not ask before changing the system
    #[arg(long)]
    pub(crate) yes: bool,
    /// Only what building the probes needs, not the lab's programs
    #[arg(long)]
    pub(crate) ebpf_only: bool,
}

/// Finds what is missing, says it, installs it.
pub(crate) fn run(options: Options) -> Result<()> {
    let programs = if options.ebpf_only { Vec::new() } else { missing_programs() };
    let toolchain = toolchain::find();
    let linker = cmd::find("bpf-linker").is_some();
    match &toolchain {
        Some(found) => println!("setup: eBPF toolchain: {found}"),
        None => println!("setup: eBPF toolchain: none yet"),
    }
    if toolchain.is_some() && linker && programs.is_empty() {
        println!("setup: nothing is missing");
        return Ok(());
    }
    println!("setup: missing: {}", list_missing(&programs, toolchain.as_ref(), linker).join(", "));
    if !apt::available() && !programs.is_empty() {
        by_hand(&programs);
        if toolchain.is_some() && linker {
            bail!("{} programs of the lab are missing, see above", programs.len());
        }
    }
    confirm(options.yes)?;
    install(&programs, toolchain, linker)
}

fn missing_programs() -> Vec<(&'static str, &'static [&'static str])> {
    LAB.into_iter().filter(|(program, _)| cmd::find(program).is_none()).collect()
}

fn list_missing(
    programs: &[(&str, &[&str])],
    toolchain: Option<&Toolchain>,
    linker: bool,
) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    if toolchain.is_none() {
        names.push("a Rust toolchain that can build core for eBPF".to_owned());
    }
    if !linker {
        names.push("bpf-linker".to_owned());
    }
    names.extend(programs.iter().map(|(program, _)| (*program).to_owned()));
    names
}

/// For a system without apt: the names to look for.
fn by_hand(programs: &[(&str, &[&str])]) {
    println!("setup: there is no apt-get here; install these with your system's package manager:");
    for (program, packages) in programs {
        println!("  {program:20} (Debian's package {})", packages.first().unwrap_or(&""));
    }
}

/// Asks on a terminal; without one, and with `yes`, goes on.
fn confirm(yes: bool) -> Result<()> {
    if yes || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    print!("setup: install this now? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("nothing was changed");
    }
    Ok(())
}

fn install(
    programs: &[(&str, &[&str])],
    mut toolchain: Option<Toolchain>,
    linker: bool,
) -> Result<()> {
    let probes_could_build = toolchain.is_some() && linker;
    if apt::available() {
        apt::update()?;
        let (needed, extra): (Vec<_>, Vec<_>) =
            programs.iter().partition(|(program, _)| lab::PROGRAMS.contains(program));
        let mut packages = offered(&needed);
        if toolchain.is_none() {
            packages.extend(toolchain::packages());
        }
        apt::install(&packages)?;
        install_extra(&offered(&extra));
    }
    if toolchain.is_none() {
        toolchain = Some(toolchain::make()?);
    }
    if !linker && let Some(toolchain) = &toolchain {
        toolchain::build_linker(toolchain)?;
    }
    if !probes_could_build {
        rebuild_probes()?;
    }
    finish(programs)
}

/// Says what is still missing; an error if the lab cannot do without it.
fn finish(programs: &[(&str, &[&str])]) -> Result<()> {
    let left: Vec<_> =
        programs.iter().filter(|(program, _)| cmd::find(program).is_none()).collect();
    for (program, _) in &left {
        println!("setup: still missing: {program}");
    }
    if left.iter().any(|(program, _)| lab::PROGRAMS.contains(program)) {
        bail!("the lab cannot run yet; the probes can be built");
    }
    println!("setup: done");
    Ok(())
}

/// The packages apt offers for these programs.
fn offered(programs: &[&(&str, &[&str])]) -> Vec<String> {
    let mut packages = Vec::new();
    for (program, choices) in programs {
        match apt::first_offered(choices) {
            Some(package) => packages.push(package.to_owned()),
            None => println!("setup: apt offers no package for {program} ({choices:?})"),
        }
    }
    packages
}

/// Installs what only some tests use. One package that does not fit this system (apt would have to
/// remove another for it) keeps none of the others away.
fn install_extra(packages: &[String]) {
    if apt::install(packages).is_ok() {
        return;
    }
    for package in packages {
        if apt::install(std::slice::from_ref(package)).is_err() {
            println!(
                "setup: {package} cannot be installed beside what is here; only some tests need it"
            );
        }
    }
}

/// Makes cargo ask again whether the probes can be built: an earlier build left them out.
fn rebuild_probes() -> Result<()> {
    let script = repo::root().join("tracer/build.rs");
    Ok(File::options().append(true).open(script)?.set_modified(SystemTime::now())?)
}

/// Runs something as root: directly, or through sudo.
fn as_root(words: &[&str]) -> Result<()> {
    let root = nix::unistd::Uid::effective().is_root();
    let (program, args) = match words.split_first() {
        Some((program, args)) if root => (*program, args),
        Some(_) if cmd::find("sudo").is_some() => ("sudo", words),
        _ => bail!("this needs root and there is no sudo; as root, run: {}", words.join(" ")),
    };
    cmd::show(cmd::command(program).args(args))
}

/// Whether `path` is there.
fn there(path: impl AsRef<Path>) -> bool {
    path.as_ref().exists()
}
