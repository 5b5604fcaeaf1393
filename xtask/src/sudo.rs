//! Verbs that need root, started by an ordinary user: once more through sudo, if there is sudo.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt;

use anyhow::{Result, bail};
use nix::unistd::Uid;
use xtask::{cmd, repo};

/// Whether this is not root and sudo is there.
pub(crate) fn needed() -> bool {
    !Uid::effective().is_root() && cmd::find("sudo").is_some()
}

/// Runs this very command line as root, in place of this process.
pub(crate) fn again() -> Result<()> {
    run(&std::env::args_os().skip(1).collect::<Vec<_>>())
}

/// Runs `cargo xtask` with `args` as root, in place of this process.
pub(crate) fn run<S: AsRef<OsStr>>(args: &[S]) -> Result<()> {
    let error = cmd::command("sudo").arg(repo::xtask()?).args(args).exec();
    bail!("cannot run sudo: {error}")
}
