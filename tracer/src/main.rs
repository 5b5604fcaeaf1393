//! The program: reads the command line and hands over to the parts. Decides nothing.

mod cli;
mod handover;
mod log;
mod settings;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tracer::source::live;

use crate::cli::{Cli, Trace, Verb};
use crate::settings::Print;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "svctrace: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(cli: Cli) -> Result<u8> {
    match cli.verb {
        Some(Verb::Schema) => {
            writeln!(io::stdout(), "{:#}", tracer::sink::schema::schema().to_value())?;
            Ok(0)
        }
        Some(Verb::Probes) => {
            let report = live::selftest::run(&live::probes::Options::default())?;
            write!(io::stdout(), "{report}")?;
            Ok(if report.ok() { 0 } else { 2 })
        }
        Some(Verb::Pipeline { fd, output }) => {
            log::start(output.verbose, output.quiet)?;
            let print = Print::new(&output);
            let mut pipeline = print.pipeline();
            let ending = live::receive(handover::socket(fd)?, &mut |record| pipeline.push(record))?;
            Ok(print.exit_code(&pipeline.finish()?, ending == live::Ending::Clean))
        }
        None => {
            let Trace { target, how, output } = cli.trace;
            log::start(output.verbose, output.quiet)?;
            let options = settings::trace(target, how, output.verbose)?;
            live::agent(options, Print::new(&output).arguments())
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}
