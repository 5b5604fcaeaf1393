//! The only file that sees every stage: a record goes in, outputs go to the sinks. Knows no source.

use std::io;

use crate::record::Record;
use crate::report::{Code, Severity};
use crate::sink::Sink;

/// What to conclude and print.
#[derive(Clone, Debug)]
pub struct Options {
    /// Output events.
    pub events: bool,
    /// Output transactions.
    pub transactions: bool,
    /// A search walk that cost at least this is a finding, in nanoseconds (default 100 ms).
    pub walk_threshold_ns: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { events: false, transactions: false, walk_threshold_ns: 100_000_000 }
    }
}

/// What the caller needs for its exit code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Every finding's code and severity.
    pub findings: Vec<(Code, Severity)>,
    /// Records lost or undecodable: an answer could hide in them.
    pub incomplete: u64,
}

/// decode, identify, correlate, diagnose, print.
pub struct Pipeline {
    options: Options,
    sinks: Vec<Box<dyn Sink>>,
}

impl Pipeline {
    /// An empty pipeline in front of `sinks`.
    pub fn new(options: Options, sinks: Vec<Box<dyn Sink>>) -> Self {
        Self { options, sinks }
    }

    /// The one way in, for every source.
    pub fn push(&mut self, record: &Record) -> io::Result<()> {
        let _ = &self.options;
        for sink in &mut self.sinks {
            sink.record(record)?;
        }
        Ok(())
    }

    /// The input ended: concludes what is open, prints the summary.
    pub fn finish(mut self) -> io::Result<Verdict> {
        for sink in &mut self.sinks {
            sink.finish()?;
        }
        Ok(Verdict::default())
    }
}
