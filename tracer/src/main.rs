//! The program: reads the command line and hands over to the parts. Decides nothing.

mod cli;
mod files;
mod handover;
mod inspect;
mod log;
mod progress;
mod settings;

use std::io::{self, Write};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use tracer::source::{self, live};

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
        Some(Verb::Info { files, output }) => inspect::run(&files, output),
        Some(Verb::Pipeline { fd, capture, output }) => {
            log::start(output.verbose, output.quiet)?;
            let print = Print::new(&output).aside(capture.write_fd.contains(&1));
            let mut pipeline = print.pipeline(files::handed(&capture)?);
            let ending = live::receive(handover::socket(fd)?, &mut |record| pipeline.push(record))?;
            let whole = ending == live::Ending::Clean;
            if !whole {
                pipeline.cut_short();
            }
            Ok(print.exit_code(&pipeline.finish()?, whole))
        }
        None => {
            let Trace { target, how, capture, output } = cli.trace;
            log::start(output.verbose, output.quiet)?;
            if !capture.read.is_empty() {
                return replay(&capture, &output);
            }
            let options = settings::trace(target, how, output.verbose)?;
            settings::capture(&capture, &options)?;
            let mut created = files::create(&capture)?;
            let mut arguments = Print::new(&output).arguments();
            arguments.extend(created.arguments());
            let code = live::agent(options, arguments, created.descriptors());
            created.remove_unused();
            code
        }
    }
}

/// The same pipeline, fed from files.
fn replay(capture: &cli::Capture, output: &cli::Output) -> Result<u8> {
    let name = files::names(&capture.read);
    let inputs = capture.read.iter().map(|path| files::open(path)).collect::<Result<_>>()?;
    let (readers, shown) = progress::watch(inputs, output.quiet);
    let records = source::open_all(readers).with_context(|| name.clone())?;
    let created = files::create(capture)?;
    let print = Print::new(output).aside(files::is_standard(capture.write.as_deref()));
    let mut pipeline = print.pipeline(created.writer()?);
    let mut whole = true;
    for record in records {
        match record {
            Ok(record) => pipeline.push(&record)?,
            Err(error) => {
                writeln!(progress::stderr(), "svctrace: {name}: {error}")?;
                whole = false;
                pipeline.cut_short();
            }
        }
    }
    drop(shown);
    Ok(print.exit_code(&pipeline.finish()?, whole))
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}
