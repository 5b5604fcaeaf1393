//! Text for people: a line per lookup and connection, findings in between as blocks, a summary at
//! the end. Reads neither clock nor environment: width and colour are told.

mod block;
mod latency;
mod line;
mod payload;
mod summary;
mod words;

use std::collections::BTreeMap;
use std::io::{self, Write};

use anstyle::{AnsiColor, Style as Paint};

use self::block::Held;
use self::latency::Latency;
use self::line::Columns;
use super::Sink;
use super::flush::Flushing;
use crate::record::{Record, Timestamp};
use crate::report::{Code, Output};

/// What the time column says, as sysdig's `-t` has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Times {
    /// UTC time of day.
    #[default]
    Human,
    /// Seconds since the Unix epoch.
    Absolute,
    /// Seconds since the first record.
    Relative,
    /// Seconds from the start to the end of what the line is about.
    Own,
    /// Seconds since the line before.
    Delta,
}

/// How it looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// More columns.
    pub wide: bool,
    /// Colours.
    pub color: bool,
    /// Columns of the terminal; `None` where there is none.
    pub width: Option<u16>,
    /// Time column.
    pub times: Times,
}

/// Columns where there is no terminal to ask.
const WIDTH: u16 = 100;

impl Style {
    fn paint(&self, text: &str, paint: Paint) -> String {
        if self.color { format!("{paint}{text}{paint:#}") } else { text.into() }
    }

    fn columns(&self) -> usize {
        usize::from(self.width.unwrap_or(WIDTH).max(40))
    }
}

const BOLD: Paint = Paint::new().bold();
const DIM: Paint = Paint::new().dimmed();
const GOOD: Paint = AnsiColor::Green.on_default();
const ODD: Paint = AnsiColor::Yellow.on_default();
const BAD: Paint = AnsiColor::Red.on_default();

/// Writes text.
pub struct Text<W: Write> {
    writer: Flushing<W>,
    style: Style,
    columns: Columns,
    clock: Clock,
    held: Held,
    worst: BTreeMap<Code, u64>,
    /// The last line printed was an empty one.
    gap: bool,
    /// Number of the event printed last.
    event: Option<u64>,
}

impl<W: Write> Text<W> {
    /// Lines go to `writer`.
    pub fn new(writer: W, style: Style) -> Self {
        Self {
            writer: Flushing::new(writer),
            style,
            columns: Columns::default(),
            clock: Clock {
                times: style.times,
                first: None,
                previous: None,
                latency: Latency::default(),
            },
            held: Held::default(),
            worst: BTreeMap::new(),
            gap: true,
            event: None,
        }
    }

    /// A root and what it caused come in one batch; whatever else comes ends the batch.
    fn release_findings(&mut self) -> io::Result<()> {
        for group in self.held.take() {
            self.leave_gap()?;
            for line in block::lines(&group, &self.style) {
                writeln!(self.writer, "{line}")?;
            }
            self.gap = false;
            self.leave_gap()?;
        }
        Ok(())
    }

    fn leave_gap(&mut self) -> io::Result<()> {
        if !std::mem::replace(&mut self.gap, true) {
            writeln!(self.writer)?;
        }
        Ok(())
    }
}

impl<W: Write> Sink for Text<W> {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        self.clock.first.get_or_insert(record.at);
        if self.clock.times == Times::Own {
            self.clock.latency.record(record);
        }
        self.release_findings()?;
        self.writer.record(record)
    }

    fn output(&mut self, output: &Output) -> io::Result<()> {
        if let Output::Finding(finding) = output {
            let worst = self.worst.entry(finding.code).or_default();
            *worst = finding.cost_ns.max(*worst);
            return if self.held.add(finding) { self.release_findings() } else { Ok(()) };
        }
        self.release_findings()?;
        let text = match output {
            Output::Event(event) => {
                // What else is told under an event's number stands beneath it.
                let same = self.event.replace(event.n) == Some(event.n);
                let beneath = same && payload::is_data(event);
                let head = (!beneath).then(|| line::event(event, &mut self.clock, &self.style));
                head.into_iter().chain(payload::lines(event)).collect::<Vec<_>>().join("\n")
            }
            Output::Transaction(of) => self.columns.transaction(of, &mut self.clock, &self.style),
            Output::Lookup(of) => self.columns.lookup(of, &mut self.clock, &self.style),
            Output::Connection(of) => self.columns.connection(of, &mut self.clock, &self.style),
            Output::Loss(loss) => line::loss(loss, &self.style),
            Output::Summary(of) => {
                self.leave_gap()?;
                summary::text(of, &self.worst, &self.style)
            }
            Output::Finding(_) => return Ok(()), // held above
        };
        self.gap = false;
        writeln!(self.writer, "{text}")
    }

    fn finish(&mut self) -> io::Result<()> {
        self.release_findings()?;
        self.writer.flush()
    }
}

/// The time column.
struct Clock {
    times: Times,
    first: Option<Timestamp>,
    previous: Option<Timestamp>,
    latency: Latency,
}

impl Clock {
    /// What stands in front of a line about something that began at `at` and took `own_ns`.
    fn say(&mut self, at: Timestamp, own_ns: Option<u64>) -> String {
        let since = |earlier: Timestamp| i128::from(at.0) - i128::from(earlier.0);
        let text = match self.times {
            Times::Human => words::clock(at),
            Times::Absolute => words::seconds(at.0.into()),
            Times::Relative => words::seconds(since(*self.first.get_or_insert(at))),
            Times::Own => own_ns.map_or_else(|| "-".into(), |ns| words::seconds(ns.into())),
            Times::Delta => words::seconds(since(self.previous.unwrap_or(at))),
        };
        self.previous = Some(at);
        text
    }
}

#[cfg(test)]
mod tests;
