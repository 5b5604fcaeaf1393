//! `cargo xtask build`: every crate, and the probes with them.

use std::process::Command;

use anyhow::Result;
use xtask::{cmd, repo};

/// Options of `cargo xtask build`.
#[derive(clap::Args, Clone, Copy, Default)]
pub(crate) struct Options {
    /// Optimised
    #[arg(long)]
    pub(crate) release: bool,
}

/// A cargo command in the repository.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut cargo = cmd::command("cargo");
    cargo.args(args).current_dir(repo::root());
    cargo
}

/// Builds the default members: always the same set, so that dependencies are built once.
pub(crate) fn run(options: Options) -> Result<()> {
    let mut cargo = cargo(&["build"]);
    if options.release {
        cargo.arg("--release");
    }
    cmd::show(&mut cargo)
}
