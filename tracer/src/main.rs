//! The program: reads the command line and hands over to the parts. Decides nothing.

mod cli;
mod confinement;
mod files;
mod handover;
mod inspect;
mod log;
mod progress;
mod redaction;
mod settings;

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::slice;

use anyhow::{Context as _, Result};
use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use tracer::record::Record;
use tracer::report::Code;
use tracer::source::{self, live};

use crate::cli::{Cli, Trace, Verb};
use crate::settings::Print;

/// A message is a dozen pieces of memory that come and go (ARCHITECTURE.md, where the time goes).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
        Some(Verb::Info { files, output, sandbox }) => inspect::run(&files, output, sandbox),
        Some(Verb::Explain { code }) => explain(code.as_deref()),
        Some(Verb::Idle) => idle(),
        Some(Verb::Pipeline { fd, user, capture, output }) => {
            log::start(output.verbose, output.quiet)?;
            let print = Print::new(&output).aside(capture.write_fd.contains(&1));
            let mut pipeline = print.pipeline(files::handed(&capture)?);
            let mut redaction = redaction::handed(&capture, output.quiet)?;
            let socket = handover::socket(fd)?;
            let ending = live::receive(
                socket,
                || confinement::enter(output.sandbox, user),
                &mut |record| pipeline.push(redaction.record(record)),
            )?;
            redaction.tell_shared();
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
                return replay(&capture, &how.dns_port, &output);
            }
            let options = settings::trace(target, how, capture.keep_payload, &output)?;
            settings::capture(&capture, &options)?;
            let redaction = redaction::to_hand_over(&capture)?;
            let mut created = files::create(&capture)?;
            let mut arguments = Print::new(&output).arguments();
            arguments.extend(created.arguments());
            arguments.extend(redaction.arguments());
            let mut descriptors = created.descriptors();
            descriptors.extend(redaction.descriptor());
            let code = live::agent(options, arguments, descriptors);
            created.remove_unused();
            code
        }
    }
}

/// The same pipeline, fed from files.
fn replay(capture: &cli::Capture, dns_ports: &[u16], output: &cli::Output) -> Result<u8> {
    let name = files::names(&capture.read);
    let inputs = capture.read.iter().map(|path| files::open(path)).collect::<Result<_>>()?;
    let (readers, shown) = progress::watch(inputs, output.quiet);
    let named = |path: &PathBuf| files::names(slice::from_ref(path));
    let readers = capture.read.iter().map(named).zip(readers).collect();
    let how = settings::source(dns_ports, capture.keep_payload)?;
    let mut redaction = redaction::asked(capture, output.quiet)?;
    let writer = files::create(capture)?.writer()?;
    let print = Print::new(output).aside(files::is_standard(capture.write.as_deref()));
    let ahead = batch(&capture.read);
    confinement::enter_alone(output.sandbox)?;
    let records = source::open_named(readers, &how).map_err(|error| {
        let name = error.file.clone().unwrap_or_else(|| name.clone());
        anyhow::Error::new(error).context(name)
    })?;
    let mut pipeline = print.pipeline(writer);
    let mut whole = true;
    // What an earlier recording kept goes on into a new one only if somebody says so again.
    let private = capture.keep_payload || capture.write.is_none();
    for record in in_batches(records, ahead) {
        match record {
            Ok(record) if record.kind.is_private() && !private => {}
            Ok(record) => pipeline.push(redaction.record(record))?,
            Err(error) => {
                let name = error.file.as_deref().unwrap_or(&name);
                writeln!(progress::stderr(), "svctrace: {name}: {error}")?;
                whole = false;
                pipeline.cut_short();
            }
        }
    }
    drop(shown);
    redaction.tell_shared();
    Ok(print.exit_code(&pipeline.finish()?, whole))
}

/// Records read ahead of the one that is worked on: taking turns with every record, reader and pipeline
/// push one another out of the processor's instruction cache. From a pipe each goes on as it comes.
fn batch(files: &[PathBuf]) -> usize {
    const AHEAD: usize = 64;
    let regular = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|found| found.is_file());
    if files.iter().all(regular) { AHEAD } else { 1 }
}

/// The same records, taken `many` at a time, and fewer of large ones: a file can hold records of many
/// megabytes each.
fn in_batches<E>(
    mut records: impl Iterator<Item = Result<Record, E>>,
    many: usize,
) -> impl Iterator<Item = Result<Record, E>> {
    const BYTES_MAX: usize = 1 << 20;
    let mut taken = VecDeque::with_capacity(many);
    std::iter::from_fn(move || {
        if taken.is_empty() {
            let mut bytes = 0;
            while taken.len() < many
                && bytes < BYTES_MAX
                && let Some(record) = records.next()
            {
                bytes += record.as_ref().map_or(0, |record| record.body.len());
                taken.push_back(record);
            }
        }
        taken.pop_front()
    })
}

/// The page of a code, or all codes with a line each.
fn explain(code: Option<&str>) -> Result<u8> {
    let mut out = io::stdout().lock();
    for known in Code::ALL {
        match code {
            Some(code) if code == known.name() => {
                write!(out, "{}", tracer::explain::page(known).unwrap_or_default())?;
            }
            Some(_) => {}
            None => {
                let says = tracer::explain::line(known).unwrap_or_default();
                writeln!(out, "{:22}{says}", known.name())?;
            }
        }
    }
    Ok(0)
}

/// Until SIGTERM, SIGINT or SIGHUP; as a pod's first process it would ignore them otherwise.
fn idle() -> Result<u8> {
    let mut ends = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        ends.add(signal);
    }
    ends.thread_block().context("cannot block signals")?;
    ends.wait().context("cannot wait for a signal")?;
    Ok(0)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use tracer::record::{RecordKind, Timestamp};

    use super::*;

    #[test]
    fn few_large_records_are_read_ahead() {
        for (size, ahead) in [(100, 64), (600 << 10, 2), (3 << 20, 1)] {
            let read = Cell::new(0);
            let records = (0..200).map(|number| {
                read.set(read.get() + 1);
                let body = vec![0; size];
                Ok::<_, ()>(Record::bare(number, Timestamp(number), RecordKind::Packet, body))
            });
            let mut all = in_batches(records, 64);
            assert_eq!((all.next().unwrap().unwrap().number, read.get()), (0, ahead), "{size}");
            assert!(all.map(|record| record.unwrap().number).eq(1..200));
        }
    }
}
