//! Debian's packages: what is offered in which version, and installing without starting services.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use xtask::cmd;

use super::as_root;

static UPDATED: AtomicBool = AtomicBool::new(false);

/// Installs the packages named by its arguments. While it runs, a policy keeps packages from
/// starting their daemons; a policy that was there already stays.
const INSTALL: &str = r#"
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o Dpkg::Use-Pty=0 --no-install-recommends --no-remove "$@"
"#;

/// Whether this system has apt.
pub(super) fn available() -> bool {
    cmd::find("apt-get").is_some() && cmd::find("apt-cache").is_some()
}

/// Fetches the package lists, once a run.
pub(super) fn update() -> Result<()> {
    if UPDATED.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    println!("setup: $ apt-get update");
    as_root(&["apt-get", "update", "-qq"])
}

/// Installs packages; their daemons are not started, nothing is removed for them.
pub(super) fn install(packages: &[String]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    println!(
        "setup: $ apt-get install --no-install-recommends --no-remove {} (no daemon is started)",
        packages.join(" ")
    );
    let mut words = vec!["sh", "-c", INSTALL, "install"];
    words.extend(packages.iter().map(String::as_str));
    as_root(&words)
}

/// The version apt would install of a package.
pub(super) fn candidate(package: &str) -> Option<String> {
    let policy = cmd::run("apt-cache", ["policy", package]).ok()?;
    let line = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?;
    let version = line.trim();
    (version != "(none)").then(|| version.to_owned())
}

/// The first of these packages that apt offers.
pub(super) fn first_offered<'a>(choices: &[&'a str]) -> Option<&'a str> {
    choices.iter().find(|package| candidate(package).is_some()).copied()
}

/// The major LLVM version of the library that a package pulls in.
pub(super) fn llvm_of(package: &str) -> Option<u32> {
    let only = ["recommends", "suggests", "conflicts", "breaks", "replaces", "enhances"]
        .map(|kind| format!("--no-{kind}"));
    let mut words = vec!["depends".to_owned(), "--recurse".to_owned()];
    words.extend(only);
    words.push(package.to_owned());
    let tree = cmd::run("apt-cache", words).ok()?;
    tree.lines().filter_map(|line| llvm_major(line.trim())).next()
}

/// `libllvm22` (Debian) or `libllvm22.1` (Ubuntu's numbering) to 22.
fn llvm_major(package: &str) -> Option<u32> {
    let digits = package.strip_prefix("libllvm")?;
    digits.split(['.', ':', 't']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_llvm_version_from_library_names() {
        assert_eq!(llvm_major("libllvm22"), Some(22));
        assert_eq!(llvm_major("libllvm17t64"), Some(17));
        assert_eq!(llvm_major("libllvm-ocaml-dev"), None);
        assert_eq!(llvm_major("libc6"), None);
    }
}
