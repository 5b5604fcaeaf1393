//! The whole way from a packet to what is printed, and what must hold at its end.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;

use serde_json::Value;
use tracer::decode::Decoder;
use tracer::pipeline::{Options, Pipeline};
use tracer::record::{Record, RecordKind};
use tracer::redact::Redactor;
use tracer::report::Output;
use tracer::sink::Sink;
use tracer::sink::json::Json;
use tracer::sink::text::{Style, Text, Times};
use tracer_common::bodies::call;

use super::{Input, assert_visible, stream};
use crate::records::{
    Process, Stream, close, connect, established, loss, query, response, syscall,
};
use crate::{Shared, of_type};

/// Records of one input; more only cost time.
const RECORDS_MAX: usize = 2000;
/// Stands in the seeds wherever a name can, and must not come through.
pub const MARK: &str = "zqmarker";
/// One input of so many is also held against the schema, and run twice.
const SELDOM: u64 = 8;

/// Records through the redactor: the marked names of the seeds are not printed.
pub fn redact(data: &[u8]) {
    let mut redactor = Redactor::new(b"key");
    let mut decoder = Decoder::default();
    let mut hidden = Vec::new();
    for record in records(data) {
        let redacted = redactor.record(&record);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let (was, is) = (
            decoder.decode(&mut record.clone(), &mut before),
            Decoder::default().decode(&mut redacted.clone(), &mut after),
        );
        if record.kind.is_context() {
            assert_eq!(was.is_ok(), is.is_ok(), "{record:?}\n{redacted:?}");
        }
        after.iter().for_each(super::check_event);
        // Its source is the program's own word and stays.
        if !matches!(record.kind, RecordKind::Loss) {
            hidden.push(redacted);
        }
    }
    let options = Options { events: true, transactions: true, ..Options::default() };
    let (json, text) = printed(options, Style::default(), &hidden);
    for line in json.lines().chain(text.lines()) {
        assert!(!line.to_ascii_lowercase().contains(MARK), "{line}");
    }
}

/// Records to transactions, lookups, connections, findings, text and JSON. The first byte: what is
/// printed and how.
pub fn pipeline(data: &[u8]) {
    let mut input = Input(data);
    let how = input.u8();
    let has = |bit: u8| how & bit != 0;
    let options = Options {
        events: has(1),
        payload: has(1) && has(2),
        transactions: has(4),
        ..Options::default()
    };
    let times = [Times::Human, Times::Absolute, Times::Relative, Times::Delta];
    let style = Style {
        wide: has(8),
        width: has(16).then_some(40),
        times: times[usize::from(how >> 6)],
        ..Style::default()
    };
    let records = records(input.0);
    let (json, text) = printed(options.clone(), style, &records);
    text.lines().chain(json.lines()).for_each(assert_visible);
    let lines: Vec<Value> = json.lines().map(|line| parsed(line, false)).collect();
    check(&lines);
    if hash(data).is_multiple_of(SELDOM) {
        json.lines().for_each(|line| drop(parsed(line, true)));
        let (again, text_again) = printed(options, style, &records);
        assert_eq!(json, again, "a pure function of the records");
        assert_eq!(text, text_again);
    }
}

/// What others' records come to, however that is printed.
pub(super) fn concluded(records: &[Record]) {
    let options = Options { transactions: true, ..Options::default() };
    let (json, text) = printed(options, Style::default(), records);
    text.lines().chain(json.lines()).for_each(assert_visible);
    let lines: Vec<Value> = json.lines().map(|line| parsed(line, false)).collect();
    check(&lines);
}

fn records(data: &[u8]) -> Vec<Record> {
    let mut records = stream::decode(data);
    records.truncate(RECORDS_MAX);
    records
}

fn printed(options: Options, style: Style, records: &[Record]) -> (String, String) {
    let (json, text) = (Shared::default(), Shared::default());
    let sinks: Vec<Box<dyn Sink>> =
        vec![Box::new(Json::new(json.clone())), Box::new(Text::new(text.clone(), style))];
    through(options, sinks, records);
    (json.text(), text.text())
}

fn through(options: Options, sinks: Vec<Box<dyn Sink>>, records: &[Record]) {
    let mut pipeline = Pipeline::new(options, sinks);
    for record in records {
        pipeline.push(record.clone()).unwrap();
    }
    pipeline.finish().unwrap();
}

fn parsed(line: &str, strictly: bool) -> Value {
    if strictly {
        return crate::checked(line);
    }
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

fn hash(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// What lines of one run say about one another.
fn check(lines: &[Value]) {
    let of = |kind: &str| of_type(lines, kind).into_iter();
    let summary = lines.last().unwrap();
    assert_eq!((&summary["type"], of("summary").count()), (&"summary".into(), 1));
    let ids = |kind| of(kind).map(|line| number(&line["id"])).collect::<BTreeSet<u64>>();
    let (lookups, findings) = (ids("lookup"), ids("finding"));
    assert_eq!((lookups.len(), findings.len()), (of("lookup").count(), of("finding").count()));
    for (kind, field) in
        [("lookup", "lookups"), ("connection", "connections"), ("finding", "findings")]
    {
        assert_eq!(sum(&summary[field]), of(kind).count() as u64, "{field}: {summary}");
    }
    let wall = number(&summary["duration_ns"]);
    assert!(sum(&summary["time_ns"]) <= wall, "{summary}");
    assert!(number(&summary["search_walk"]["time_ns"]) <= wall, "{summary}");
    for lookup in of("lookup") {
        let duration = number(&lookup["duration_ns"]);
        assert!(duration <= wall, "{lookup}");
        assert!(number(&lookup["wasted_ns"]) <= duration, "{lookup}");
        for attempt in lookup["attempts"].as_array().unwrap() {
            assert!(number(&attempt["start_ns"]) <= duration, "{lookup}");
        }
    }
    for finding in of("finding") {
        assert!(number(&finding["cost_ns"]) <= wall, "{finding}");
        let refers = |field: &str, to: &BTreeSet<u64>| {
            let ids = finding[field].as_array().unwrap().iter().map(number);
            ids.for_each(|id| assert!(to.contains(&id), "{field} {id}: {finding}"));
        };
        refers("lookups", &lookups);
        refers("caused_by", &findings);
    }
}

/// A number, absent or null being none.
fn number(value: &Value) -> u64 {
    match value {
        Value::Null => 0,
        value => value.as_u64().unwrap_or_else(|| panic!("{value}")),
    }
}

fn sum(map: &Value) -> u64 {
    map.as_object().unwrap().values().map(number).sum()
}

#[derive(Clone, Default)]
struct Kept(Rc<RefCell<Vec<Output>>>);

impl Sink for Kept {
    fn output(&mut self, output: &Output) -> io::Result<()> {
        self.0.borrow_mut().push(output.clone());
        Ok(())
    }
}

/// Everything that is concluded from `records`.
pub(super) fn outputs(records: &[Record]) -> Vec<Output> {
    let kept = Kept::default();
    let options = Options { events: true, payload: true, transactions: true, ..Options::default() };
    through(options, vec![Box::new(kept.clone())], records);
    kept.0.take()
}

/// A lookup that was answered, one that was not, a connection and a loss: lines of every type.
pub(super) fn story() -> Vec<Record> {
    let curl = Process::target(100, "curl", 1);
    let asking = curl.socket(1, "10.0.0.1:40000", "10.96.0.10:53");
    let silent = curl.socket(2, "10.0.0.1:40001", "10.96.0.10:53");
    let web = curl.tcp(3, "10.0.0.1:40002", "10.96.0.1:80");
    let mut stream = Stream::default();
    stream
        .add([
            connect(&asking).at_ms(0.0),
            query(&asking, 1, "web.shop", "A").at_ms(0.1),
            response(&asking, 1, "web.shop", "A", 0, &["10.96.0.1"]).at_ms(1.0),
            connect(&web).at_ms(1.1),
            established(&web).at_ms(1.5),
            syscall(&web, call::CONNECT, 0, 1.6, 0.5),
            query(&silent, 2, "nowhere.example", "AAAA").at_ms(2.0),
            loss(3).at_ms(3.0),
            close(&silent).at_ms(5002.0),
        ])
        .beat_until_ms(6000);
    stream.records()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_story_has_lines_of_every_type_and_holds_what_every_run_must() {
        let outputs = outputs(&story());
        let types: BTreeSet<String> = outputs
            .iter()
            .map(|output| serde_json::to_value(output).unwrap()["type"].to_string())
            .collect();
        assert_eq!(types.len(), 7, "{types:?}");
        let mut bytes = vec![7];
        bytes.extend(stream::encode(&story()));
        pipeline(&bytes);
    }

    #[test]
    #[should_panic(expected = "zqmarker")]
    fn a_name_that_comes_through_is_noticed() {
        let options = Options { events: true, ..Options::default() };
        let mut records = story();
        records[0].task.as_mut().unwrap().comm = MARK.to_owned();
        let (json, _) = printed(options, Style::default(), &records);
        assert!(!json.contains(MARK), "{json}");
    }
}
