//! Tries every probe on the running kernel and prints what it takes.

use std::process::ExitCode;

use tracer::source::live::{probes::Options, selftest};

fn main() -> ExitCode {
    match selftest::run(&Options::default()) {
        Ok(report) => {
            print!("{report}");
            if report.ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::from(2)
        }
    }
}
