//! The Rust toolchain that builds the probes, and bpf-linker against the LLVM it uses.
//! Two worlds: rustup's nightly with rust-src, or the Rust of the distribution with its sources.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use xtask::cmd;

use super::{apt, there};

/// The name under which rustup knows the distribution's Rust.
const LINKED: &str = "svctrace-ebpf";
/// The oldest Rust that builds the probes: 1.MINOR.
const OLDEST_MINOR: u32 = 95;
/// The packages of the distribution's Rust: compiler, cargo, sources; the preferred set first.
const PACKAGED: [[&str; 3]; 2] =
    [["rustc-web", "cargo-web", "rust-web-src"], ["rustc", "cargo", "rust-src"]];

/// A toolchain that can build core for eBPF.
pub(super) enum Toolchain {
    /// rustup's nightly, with rust-src.
    Nightly,
    /// The distribution's Rust, linked into rustup.
    Packaged,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nightly => write!(f, "rustup's nightly with rust-src"),
            Self::Packaged => write!(f, "the distribution's Rust with its sources ({LINKED})"),
        }
    }
}

/// The toolchain that is there, if one is.
pub(super) fn find() -> Option<Toolchain> {
    let toolchains = cmd::run("rustup", ["toolchain", "list", "-v"]).ok()?;
    let folder = |name: &str| {
        let line = toolchains.lines().find(|line| {
            line.split_whitespace().next().is_some_and(|first| {
                first == name || first.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
            })
        })?;
        line.split_whitespace().last().map(PathBuf::from)
    };
    if folder("nightly").is_some_and(|folder| has_source(&folder)) {
        return Some(Toolchain::Nightly);
    }
    folder(LINKED).is_some_and(|folder| has_source(&folder)).then_some(Toolchain::Packaged)
}

fn has_source(sysroot: &std::path::Path) -> bool {
    there(sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs"))
}

/// The packages to install for a toolchain: none when apt's Rust is too old or absent.
pub(super) fn packages() -> Vec<String> {
    let Some([compiler, cargo, source]) = offered() else { return Vec::new() };
    let mut packages: Vec<String> = [compiler, cargo, source].map(str::to_owned).into();
    if cmd::find("bpf-linker").is_none() {
        match apt::llvm_of(compiler) {
            Some(major) => packages.extend(llvm_packages(major)),
            None => println!("setup: cannot tell which LLVM {compiler} uses"),
        }
    }
    packages
}

fn llvm_packages(major: u32) -> Vec<String> {
    let mut packages = vec![
        format!("llvm-{major}-dev"),
        format!("libpolly-{major}-dev"),
        "zlib1g-dev".to_owned(),
        "libzstd-dev".to_owned(),
    ];
    if cmd::find("c++").is_none() {
        packages.push("g++".to_owned());
    }
    packages
}

fn offered() -> Option<[&'static str; 3]> {
    PACKAGED
        .into_iter()
        .find(|[compiler, ..]| apt::candidate(compiler).is_some_and(|version| new_enough(&version)))
}

fn new_enough(version: &str) -> bool {
    let mut numbers = version.split(['.', '+', '-']).map_while(|part| part.parse::<u32>().ok());
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    major > 1 || (major == 1 && minor >= OLDEST_MINOR)
}

/// Makes rustup know a suitable toolchain: the distribution's if it is installed, else nightly.
pub(super) fn make() -> Result<Toolchain> {
    if cmd::find("rustup").is_none() {
        bail!("rustup is not there: install it first (https://rustup.rs), then run this again");
    }
    if there("/usr/bin/rustc") && has_source("/usr".as_ref()) && new_enough(&packaged_version()?) {
        println!("setup: $ rustup toolchain link {LINKED} /usr");
        cmd::run("rustup", ["toolchain", "link", LINKED, "/usr"])?;
        return Ok(Toolchain::Packaged);
    }
    let words = ["toolchain", "install", "nightly", "--profile", "minimal", "-c", "rust-src"];
    println!("setup: $ rustup {}", words.join(" "));
    cmd::show(cmd::command("rustup").args(words)).context(
        "no toolchain for the probes; needed is rustup's nightly with rust-src, or a packaged Rust 1.95 or newer with its sources",
    )?;
    Ok(Toolchain::Nightly)
}

/// What `/usr/bin/rustc -vV` says after `key: `.
fn packaged_fact(key: &str) -> Result<String> {
    let text = cmd::run("/usr/bin/rustc", ["-vV"])?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    Ok(line.with_context(|| format!("/usr/bin/rustc does not tell its {key}"))?.to_owned())
}

fn packaged_version() -> Result<String> {
    packaged_fact("release")
}

/// Builds bpf-linker against the LLVM of that toolchain's compiler.
pub(super) fn build_linker(toolchain: &Toolchain) -> Result<()> {
    let mut cargo = cmd::command("cargo");
    cargo.args(["install", "bpf-linker"]);
    let mut note = String::new();
    if let Toolchain::Packaged = toolchain {
        let version = packaged_fact("LLVM version")?;
        let major: u32 = version
            .split('.')
            .next()
            .and_then(|digits| digits.parse().ok())
            .with_context(|| format!("cannot understand LLVM version {version}"))?;
        let prefix = format!("/usr/lib/llvm-{major}");
        if !there(format!("{prefix}/include/llvm-c")) {
            if !apt::available() {
                bail!("bpf-linker needs the development files of LLVM {major} in {prefix}");
            }
            apt::update()?;
            apt::install(&llvm_packages(major))?;
        }
        let feature = format!("llvm-{major}");
        cargo.args(["--no-default-features", "--features", &feature]).env("LLVM_PREFIX", &prefix);
        note = format!("LLVM_PREFIX={prefix} ");
    }
    println!("setup: $ {note}{} (about a minute)", cmd::line(&cargo));
    cmd::show(&mut cargo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_versions_as_debian_and_rustc_write_them() {
        assert!(new_enough("1.96.0+dfsg1-1~deb12u2"));
        assert!(new_enough("1.95.0"));
        assert!(!new_enough("1.63.0+dfsg1-2"));
        assert!(!new_enough(""));
    }
}
