//! svctrace's chores: `cargo xtask <verb>`. One file a verb; nothing here is needed by a user of
//! an installed svctrace.
#![expect(clippy::disallowed_methods, reason = "chores live in real time and read the environment")]

mod bench;
mod build_cmd;
mod demo;
mod dist;
mod fuzz;
mod kernels;
mod lab_cli;
mod marks;
mod setup;
mod sudo;
mod test;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;

/// svctrace's chores
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Verb {
    /// Bring this machine to where everything builds and runs
    Setup(setup::Options),
    /// Build svctrace and its probes
    Build(build_cmd::Options),
    /// Build the one static file that runs on any node, and an image of it
    Dist(dist::Options),
    /// The story: a lab, a slow request, svctrace, the cause
    Demo(demo::Options),
    /// Setup, build, lints, unit tests, end-to-end tests
    Test,
    /// Measure
    #[command(subcommand)]
    Bench(bench::What),
    /// Feed every reader and decoder what nobody would send
    Fuzz(fuzz::Options),
    /// Boot the kernels users run and try every probe on each
    Kernels(kernels::KernelsArgs),
    /// The incident lab
    #[command(subcommand)]
    Lab(lab_cli::Verb),
    /// The checks of `kernels`, inside a guest
    #[command(hide = true)]
    Guest(kernels::guest::Options),
    /// The lab's API endpoint, started by `lab up`
    #[command(hide = true)]
    LabApi {
        /// The lab's folder
        #[arg(long)]
        state: PathBuf,
        /// The address to listen on
        #[arg(long)]
        listen: SocketAddr,
    },
    /// One of the lab's DNS servers, started by the lab
    #[command(hide = true)]
    LabDns(xtask::lab::server::Options),
}

fn main() -> ExitCode {
    match run(Verb::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    match verb {
        Verb::Setup(options) => setup::run(options),
        Verb::Build(options) => build_cmd::run(options),
        Verb::Dist(options) => dist::run(&options),
        Verb::Demo(options) => demo::run(&options),
        Verb::Test => test::run(),
        Verb::Fuzz(options) => fuzz::run(&options),
        Verb::Lab(_) if sudo::needed() => sudo::again(),
        Verb::Bench(ref what) if what.needs_root() && sudo::needed() => sudo::again(),
        Verb::Kernels(args) => {
            ensure!(kernels::run(&args)?, "a mandatory probe or the incident failed");
            Ok(())
        }
        Verb::Guest(options) => kernels::guest::run(&options),
        Verb::Bench(what) => bench::run(&what),
        Verb::Lab(verb) => lab_cli::run(verb),
        Verb::LabDns(options) => xtask::lab::server::serve(&options),
        Verb::LabApi { state, listen } => xtask::lab::api::serve(&state, listen),
    }
}
