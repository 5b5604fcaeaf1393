//! Damaged records: one of each kind and hook, cut at each byte and with a bit flipped in each.
//! Nothing may panic, and what cannot be understood is counted.

use std::collections::BTreeSet;

use tests::{run, run_default};
use tracer::record::{Record, RecordKind};

use crate::scenarios;

/// The scenario with record `n`'s body replaced.
fn with_body(records: &[Record], n: usize, body: Vec<u8>) -> Vec<Record> {
    let mut damaged = records.to_vec();
    damaged[n].body = body.into();
    damaged
}

/// A few scenarios are enough: together they hold every kind of record.
fn victims() -> [Vec<Record>; 3] {
    [scenarios::story(true), scenarios::resolver_refused(), scenarios::stranger()]
}

/// The first record of each kind and hook that has a body.
fn samples(records: &[Record]) -> Vec<usize> {
    let mut seen = BTreeSet::new();
    let all = records.iter().enumerate().filter(|(_, r)| r.kind != RecordKind::Heartbeat);
    all.filter(|(_, r)| seen.insert((r.kind, r.probe))).map(|(n, _)| n).collect()
}

#[test]
fn records_that_end_early_are_counted() {
    for records in victims() {
        for n in samples(&records) {
            let body = records[n].body.to_vec();
            for keep in 0..body.len() {
                let output = run_default(&with_body(&records, n, body[..keep].to_vec()));
                let summary = &output.lines("summary")[0];
                let what = format!("{:?} cut to {keep} of {}", records[n].kind, body.len());
                assert!(summary["undecoded"].as_u64() > Some(0), "{what}: {summary}");
            }
        }
    }
}

#[test]
fn flipped_bits_never_panic_and_the_contract_holds() {
    for records in victims() {
        for n in samples(&records) {
            let body = records[n].body.to_vec();
            for at in 0..body.len() {
                let mut damaged = body.clone();
                damaged[at] ^= 1 << (at % 8);
                let damaged = with_body(&records, n, damaged);
                let output = run_default(&damaged);
                tests::lines(&output.json);
            }
        }
    }
}

#[test]
fn order_and_repetition_do_not_matter_to_safety() {
    for records in victims() {
        let mut backwards = records.clone();
        backwards.reverse();
        tests::lines(&run(&backwards).json);
        let twice: Vec<_> = records.iter().chain(&records).cloned().collect();
        tests::lines(&run(&twice).json);
    }
}

#[test]
fn nothing_hostile_reaches_the_terminal() {
    let output = run(&scenarios::hostile_name());
    for text in [&output.json, &output.text] {
        let odd = text.chars().find(|c| *c != '\n' && !tracer::text::is_visible(*c));
        assert_eq!(odd, None, "{text}");
    }
    assert!(output.text.contains("owned"), "{}", output.text);
}
