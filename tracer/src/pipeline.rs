//! The only file that sees every stage: a record goes in, outputs go to the sinks. Knows no source.

use std::collections::BTreeMap;
use std::io;

use crate::context::{self, LossStage};
use crate::correlate::{Conclusion, Correlator};
use crate::decode::Decoder;
use crate::describe;
use crate::diagnose::{Counts, Diagnoser};
use crate::event::{Body, Event};
use crate::hold::Hold;
use crate::identify::Identifier;
use crate::record::{Record, RecordKind, Timestamp};
use crate::report::{Code, Finding, Loss, Output, Severity, Ts};
use crate::sink::Sink;

/// Undecodable records are told at most once in this time, with their number.
const UNDECODED_NS: u64 = 1_000_000_000;

/// What to conclude and print.
#[derive(Clone, Debug)]
pub struct Options {
    /// Output events.
    pub events: bool,
    /// Events of DNS messages carry the payload, and so does what was kept of others.
    pub payload: bool,
    /// Output transactions.
    pub transactions: bool,
    /// A search walk that cost at least this is a finding, in nanoseconds (default 100 ms).
    pub walk_threshold_ns: u64,
    /// A DNS answer that takes at least this is slow, in nanoseconds (default 100 ms).
    pub slow_threshold_ns: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            events: false,
            payload: false,
            transactions: false,
            walk_threshold_ns: 100_000_000,
            slow_threshold_ns: 100_000_000,
        }
    }
}

/// What the caller needs for its exit code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Codes and severities of the findings told, each pair once.
    pub findings: Vec<(Code, Severity)>,
    /// Records lost or undecodable: an answer could hide in them.
    pub incomplete: u64,
}

/// Undecodable records not told yet.
#[derive(Debug, Default)]
struct Undecoded {
    /// `None`: not records, but gaps in streams of DNS over TCP.
    by_kind: BTreeMap<Option<RecordKind>, (u64, Timestamp, Timestamp)>,
    told: Timestamp,
}

/// decode, identify, correlate, diagnose, print.
pub struct Pipeline {
    options: Options,
    sinks: Vec<Box<dyn Sink>>,
    decoder: Decoder,
    who: Identifier,
    correlator: Correlator,
    diagnoser: Diagnoser,
    counts: Counts,
    undecoded: Undecoded,
    hold: Hold,
    /// Lines on their way from `hold` to the sinks; empty between calls.
    ready: Vec<Output>,
    /// Number of the record before.
    number: u64,
    // Reused between records.
    events: Vec<Event>,
    conclusions: Vec<Conclusion>,
}

impl Pipeline {
    /// An empty pipeline in front of `sinks`.
    pub fn new(options: Options, sinks: Vec<Box<dyn Sink>>) -> Self {
        Self {
            diagnoser: Diagnoser::new(options.walk_threshold_ns)
                .slow_from(options.slow_threshold_ns),
            options,
            sinks,
            decoder: Decoder::default(),
            who: Identifier::default(),
            correlator: Correlator::default(),
            counts: Counts::default(),
            undecoded: Undecoded::default(),
            hold: Hold::default(),
            ready: Vec::new(),
            number: 0,
            events: Vec::new(),
            conclusions: Vec::new(),
        }
    }

    /// The one way in, for every source.
    pub fn push(&mut self, mut record: Record) -> io::Result<()> {
        for sink in &mut self.sinks {
            sink.record(&record)?;
        }
        // A record with the number of the one before says more about the same event.
        let first = record.number != self.number;
        self.number = record.number;
        self.count(&record, first);
        // By what was known until then, so that it does not matter which record ends the wait.
        if self.hold.is_due(self.counts.last) {
            self.release()?;
        }
        let mut events = std::mem::take(&mut self.events);
        match self.decoder.decode(&mut record, &mut events) {
            Ok(()) => self.counts.events += u64::from(first),
            Err(_) => self.undecoded.add(Some(record.kind), 1, record.at),
        }
        self.add_gaps(record.at);
        for event in &mut events {
            self.event(event, first)?;
        }
        events.clear();
        self.events = events;
        self.tell_undecoded(false)
    }

    /// The input broke off before its end; `finish` comes next.
    pub fn cut_short(&mut self) {
        for sink in &mut self.sinks {
            sink.cut_short();
        }
    }

    /// The input ended: concludes what is open, prints the summary.
    pub fn finish(mut self) -> io::Result<Verdict> {
        self.decoder.finish();
        self.add_gaps(self.counts.last);
        let mut conclusions = Vec::new();
        self.correlator.finish(&self.who, &mut conclusions);
        self.conclude(&mut conclusions)?;
        self.tell_undecoded(true)?;
        let mut findings = Vec::new();
        self.diagnoser.finish(&self.who, &mut findings);
        self.findings(findings)?;
        self.counts.broken_off = self.decoder.broken_off();
        self.counts.unmatched = self.correlator.unmatched();
        self.counts.evicted = self.correlator.evicted() + self.who.evicted();
        let summary = self.diagnoser.summary(&self.counts);
        let incomplete = summary.lost.saturating_add(summary.undecoded);
        self.output(Output::Summary(summary))?;
        self.hold.finish(&self.who, &mut self.ready);
        self.print()?;
        for sink in &mut self.sinks {
            sink.finish()?;
        }
        Ok(Verdict { findings: self.diagnoser.verdicts(), incomplete })
    }

    /// Counts gaps in streams.
    fn add_gaps(&mut self, at: Timestamp) {
        let gaps = self.decoder.take_lost();
        if gaps > 0 {
            self.undecoded.add(None, gaps, at);
        }
    }

    fn count(&mut self, record: &Record, first: bool) {
        let counts = &mut self.counts;
        if first && record.at < counts.last {
            counts.late += 1;
        }
        counts.first = Some(counts.first.map_or(record.at, |first| first.min(record.at)));
        counts.last = counts.last.max(record.at);
        counts.cut += u64::from(record.cut);
    }

    fn event(&mut self, event: &mut Event, first: bool) -> io::Result<()> {
        self.who.learn(event);
        if matches!(event.body, Body::Pod(_)) {
            self.release()?;
        }
        // With payloads, kept data and messages show although they stand behind the call that
        // carried them.
        let beneath = self.options.payload && matches!(event.body, Body::Data(_) | Body::Dns(_));
        if self.options.events && (first || beneath) {
            let mut line = describe::event_line(event, &self.who);
            if self.options.payload {
                describe::add_payload(event, &mut line);
            }
            self.output(Output::Event(line))?;
        }
        match &event.body {
            Body::Loss(loss) => {
                let host = self.who.identity(&event.actor).host;
                self.loss(loss, host)?;
            }
            Body::Dns(dns) if dns.message.undecoded.is_some() => self.counts.undecoded += 1,
            _ => {}
        }
        let mut conclusions = std::mem::take(&mut self.conclusions);
        self.correlator.observe(event, &self.who, &mut conclusions);
        self.conclude(&mut conclusions)?;
        self.conclusions = conclusions;
        let mut findings = Vec::new();
        self.diagnoser.advance(self.counts.last, &self.who, &mut findings);
        self.findings(findings)
    }

    fn conclude(&mut self, conclusions: &mut Vec<Conclusion>) -> io::Result<()> {
        for conclusion in conclusions.drain(..) {
            match conclusion {
                Conclusion::Lookup(lookup) => {
                    if self.options.transactions {
                        for transaction in lookup.transactions() {
                            let line = transaction.clone().report(&self.who);
                            self.output(Output::Transaction(line))?;
                        }
                    }
                    self.diagnoser.lookup(&lookup, self.counts.last, &self.who);
                    self.output(Output::Lookup(lookup.report(&self.who)))?;
                }
                Conclusion::Connection(connection) => {
                    self.output(Output::Connection(connection.report(&self.who)))?;
                    self.diagnoser.connection(&connection, self.counts.last);
                }
            }
            // Many can close at once.
            let mut findings = Vec::new();
            self.diagnoser.relieve(&self.who, &mut findings);
            self.findings(findings)?;
        }
        Ok(())
    }

    fn loss(&mut self, loss: &context::Loss, host: Option<String>) -> io::Result<()> {
        let now = self.counts.last;
        self.diagnoser.loss(loss, now);
        self.output(Output::Loss(loss_line(loss, host, now)))
    }

    fn tell_undecoded(&mut self, all: bool) -> io::Result<()> {
        let now = self.counts.last;
        for loss in self.undecoded.due(now, all) {
            self.loss(&loss, None)?;
        }
        Ok(())
    }

    fn findings(&mut self, findings: Vec<Finding>) -> io::Result<()> {
        findings.into_iter().try_for_each(|finding| self.output(Output::Finding(finding)))
    }

    fn output(&mut self, output: Output) -> io::Result<()> {
        self.hold.add(output, self.counts.last, &self.who, &mut self.ready);
        self.print()
    }

    fn release(&mut self) -> io::Result<()> {
        self.hold.release(self.counts.last, &self.who, &mut self.ready);
        self.print()
    }

    /// Gives the sinks what is ready.
    fn print(&mut self) -> io::Result<()> {
        for output in self.ready.drain(..) {
            for sink in &mut self.sinks {
                sink.output(&output)?;
            }
        }
        Ok(())
    }
}

fn loss_line(loss: &context::Loss, host: Option<String>, now: Timestamp) -> Loss {
    Loss {
        schema: 1,
        host,
        ts: Ts(now),
        stage: loss.stage,
        source: loss.source.clone(),
        count: loss.count,
        first_ts: Ts(loss.first),
        last_ts: Ts(loss.last),
    }
}

impl Undecoded {
    fn add(&mut self, kind: Option<RecordKind>, count: u64, at: Timestamp) {
        let entry = self.by_kind.entry(kind).or_insert((0, at, at));
        entry.0 += count;
        entry.1 = entry.1.min(at);
        entry.2 = entry.2.max(at);
    }

    /// What is to be told now.
    fn due(&mut self, now: Timestamp, all: bool) -> Vec<context::Loss> {
        if self.by_kind.is_empty() || !(all || now.since(self.told) >= UNDECODED_NS) {
            return Vec::new();
        }
        self.told = now;
        let kinds = std::mem::take(&mut self.by_kind);
        let source = |kind: Option<RecordKind>| match kind {
            Some(kind) => format!("{kind:?}"),
            None => "DNS over TCP".to_owned(),
        };
        let loss = |(kind, (count, first, last))| context::Loss {
            stage: LossStage::Decode,
            source: source(kind),
            count,
            first,
            last,
        };
        kinds.into_iter().map(loss).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use bytes::Bytes;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Rc<RefCell<Vec<Output>>>);

    impl Sink for Kept {
        fn output(&mut self, output: &Output) -> io::Result<()> {
            self.0.borrow_mut().push(output.clone());
            Ok(())
        }
    }

    fn record(number: u64, at: u64, kind: RecordKind, body: &'static [u8]) -> Record {
        Record::bare(number, Timestamp(at), kind, Bytes::from_static(body))
    }

    #[test]
    fn what_cannot_be_understood_is_counted_and_told_once_a_second() {
        let kept = Kept::default();
        let mut pipeline = Pipeline::new(Options::default(), vec![Box::new(kept.clone())]);
        let s = 1_000_000_000;
        for n in 0..10 {
            let bad = record(n, 100 * s + n, RecordKind::Packet, b"?");
            pipeline.push(bad).unwrap();
        }
        pipeline.push(record(10, 102 * s, RecordKind::Heartbeat, b"{}")).unwrap();
        pipeline.push(record(11, 101 * s, RecordKind::Heartbeat, b"{}")).unwrap();
        let verdict = pipeline.finish().unwrap();
        assert_eq!(verdict.incomplete, 10);
        let outputs = kept.0.borrow();
        let losses: Vec<u64> = outputs
            .iter()
            .filter_map(|o| match o {
                Output::Loss(loss) => Some(loss.count),
                _ => None,
            })
            .collect();
        assert_eq!(losses, [1, 9]);
        let Some(Output::Summary(summary)) = outputs.last() else { panic!("no summary") };
        assert_eq!((summary.events, summary.undecoded, summary.late), (2, 10, 1));
        assert_eq!(summary.duration_ns, 2 * s);
    }

    #[test]
    fn absurd_losses_add_up_to_the_most_there_is_and_their_sources_have_an_end() {
        let kept = Kept::default();
        let mut pipeline = Pipeline::new(Options::default(), vec![Box::new(kept.clone())]);
        for n in 0..200 {
            let stage = [LossStage::Kernel, LossStage::Payload, LossStage::Decode][n as usize % 3];
            let source = format!("source {n}");
            let at = Timestamp(n);
            let loss = context::Loss { stage, source, count: u64::MAX, first: at, last: at };
            let body = serde_json::to_vec(&loss).unwrap();
            pipeline.push(Record::bare(n, at, RecordKind::Loss, body)).unwrap();
        }
        assert_eq!(pipeline.finish().unwrap().incomplete, u64::MAX);
        let outputs = kept.0.borrow();
        let Some(Output::Summary(summary)) = outputs.last() else { panic!("no summary") };
        assert_eq!((summary.lost, summary.cut, summary.undecoded), (u64::MAX, u64::MAX, u64::MAX));
        let findings = outputs.iter().filter_map(|o| match o {
            Output::Finding(finding) => finding.details["sources"].as_object(),
            _ => None,
        });
        let sources: Vec<usize> = findings.map(serde_json::Map::len).collect();
        assert!(!sources.is_empty() && sources.iter().all(|n| *n <= 65), "{sources:?}");
    }
}
