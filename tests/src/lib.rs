//! The harness: records made by hand, the real pipeline, its output checked against the schema.
//! Reimplements no stage.
#![expect(clippy::disallowed_methods, reason = "tests read BLESS and measure real time")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a harness that fails is a failed test"
)]

pub mod binary;
pub mod capture;
pub mod frames;
pub mod fuzz;
pub mod golden;
pub mod pcap;
pub mod records;
pub mod scap;
pub mod wire;

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::LazyLock;

use serde_json::Value;
use tracer::pipeline::{Options, Pipeline, Verdict};
use tracer::record::Record;
use tracer::sink::Sink;
use tracer::sink::json::Json;
use tracer::sink::text::{Style, Text};

static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let schema = tracer::sink::schema::schema().to_value();
    jsonschema::draft202012::new(&schema).expect("the schema is one")
});

/// Everything a run gave.
pub struct Output {
    /// JSON lines.
    pub json: String,
    /// The same for people, 100 columns, no colour.
    pub text: String,
    /// For the exit code.
    pub verdict: Verdict,
}

impl Output {
    /// The lines of this `type`.
    pub fn lines(&self, kind: &str) -> Vec<Value> {
        of_type(&lines(&self.json), kind).into_iter().cloned().collect()
    }

    /// Codes of the findings, in order.
    pub fn codes(&self) -> Vec<String> {
        let code = |line: Value| line["code"].as_str().unwrap().to_owned();
        self.lines("finding").into_iter().map(code).collect()
    }
}

/// JSON lines, each checked against the schema.
pub fn lines(json: &str) -> Vec<Value> {
    json.lines().map(checked).collect()
}

/// Those of this `type`.
pub fn of_type<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["type"] == kind).collect()
}

/// One JSON line, checked against the schema.
pub fn checked(line: &str) -> Value {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    if let Err(error) = SCHEMA.validate(&value) {
        panic!("{error} at {}: {line}", error.instance_path());
    }
    value
}

/// Through the real pipeline, with every output switched on.
pub fn run(records: &[Record]) -> Output {
    run_with(Options { events: true, transactions: true, ..Options::default() }, records)
}

/// Through the real pipeline, with its default options.
pub fn run_default(records: &[Record]) -> Output {
    run_with(Options::default(), records)
}

/// Through the real pipeline.
pub fn run_with(options: Options, records: &[Record]) -> Output {
    let (json, text) = (Shared::default(), Shared::default());
    let style = Style { width: Some(100), ..Style::default() };
    let sinks: Vec<Box<dyn Sink>> =
        vec![Box::new(Json::new(json.clone())), Box::new(Text::new(text.clone(), style))];
    let mut pipeline = Pipeline::new(options, sinks);
    for record in records {
        pipeline.push(record.clone()).unwrap();
    }
    let verdict = pipeline.finish().unwrap();
    Output { json: json.text(), text: text.text(), verdict }
}

/// A buffer that a sink and its test share.
#[derive(Clone, Default)]
struct Shared(Rc<RefCell<Vec<u8>>>);

impl Shared {
    fn text(&self) -> String {
        String::from_utf8(self.0.borrow().clone()).unwrap()
    }
}

impl io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
