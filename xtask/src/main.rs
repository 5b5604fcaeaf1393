//! svctrace's chores.
#![expect(clippy::disallowed_methods, reason = "a chore may look at the clock and environment")]

mod kernels;

use std::process::ExitCode;

use clap::Parser;

/// Chores of the svctrace project.
#[derive(Parser)]
enum Chore {
    /// Boot the kernels users run and try every probe on each.
    Kernels(kernels::KernelsArgs),
}

fn main() -> ExitCode {
    let result = match Chore::parse() {
        Chore::Kernels(args) => kernels::run(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::from(2)
        }
    }
}
