//! svctrace, the program: reads the command line and hands over to the parts. Decides nothing itself.

mod cli;
mod settings;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use tracer::source::live;
use tracing_subscriber::EnvFilter;

use crate::cli::{Cli, Verb};
use crate::settings::Print;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
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
        Some(Verb::Probes) => live::selftest(),
        Some(Verb::Pipeline { fd, output }) => {
            let print = Print::new(&output);
            let mut pipeline = print.pipeline();
            let ending = live::receive(fd, |record| pipeline.push(record))?;
            Ok(print.exit_code(&pipeline.finish()?, ending == live::Ending::Whole))
        }
        None => {
            log(cli.trace.output.verbose, cli.trace.output.quiet)?;
            let print = Print::new(&cli.trace.output);
            let options =
                settings::trace(cli.trace.target, cli.trace.how, cli.trace.output.verbose)?;
            live::agent(options, print.arguments())
        }
    }
}

/// svctrace's own log, on standard error.
fn log(verbose: u8, quiet: bool) -> Result<()> {
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "warn",
        (false, 1) => "info",
        (false, 2) => "debug",
        (false, _) => "trace",
    };
    let builder = EnvFilter::builder().with_env_var("SVCTRACE_LOG");
    let filter = builder.with_default_directive(level.parse()?).from_env()?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).without_time().init();
    Ok(())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}
