//! `events-lost`: records that never arrived, and the caveat for findings in their window.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::context::{self, LossStage};
use crate::record::{HostId, Timestamp};
use crate::report::{Code, Confidence, Ts};

use super::draft::{self, Draft, Key, Text};
use super::interval::Intervals;
use super::words;

/// Sources told apart; a capture may name any number of them.
const SOURCES_MAX: usize = 64;
/// What all others are together.
const OTHERS: &str = "others";

/// What was lost.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    by_source: BTreeMap<String, u64>,
    first: Timestamp,
    last: Timestamp,
    stage: LossStage,
}

impl Facts {
    pub(crate) fn merge(&mut self, other: Self) {
        for (source, count) in other.by_source {
            let known = self.by_source.len() < SOURCES_MAX || self.by_source.contains_key(&source);
            let source = if known { source } else { OTHERS.to_owned() };
            let sum = self.by_source.entry(source).or_default();
            *sum = sum.saturating_add(count);
        }
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

/// Whole records were lost, not only parts of payloads.
pub(crate) fn loses_records(stage: LossStage) -> bool {
    matches!(stage, LossStage::Kernel | LossStage::User)
}

/// The finding about a loss.
pub(crate) fn found(loss: &context::Loss) -> Draft {
    let stage = match loss.stage {
        LossStage::Kernel => "kernel",
        _ => "user",
    };
    let mut cost = Intervals::default(); // carries the window; the finding's cost stays 0
    cost.add((loss.first, loss.last.max(loss.first.plus(1))));
    Draft {
        key: Key {
            code: Code::EventsLost,
            class: None,
            subject: stage.to_owned(),
            host: HostId::default(),
        },
        confidence: Confidence::Certain,
        cost,
        evidence: BTreeSet::new(),
        victims: Vec::new(),
        lookups: BTreeSet::new(),
        failed: false,
        caused_by: BTreeSet::new(),
        harmless: false,
        facts: draft::Facts::Lost(Facts {
            by_source: BTreeMap::from([(loss.source.clone(), loss.count)]),
            first: loss.first,
            last: loss.last,
            stage: loss.stage,
        }),
    }
}

pub(crate) fn text(facts: &Facts) -> Text {
    let total = facts.by_source.values().fold(0_u64, |sum, count| sum.saturating_add(*count));
    let sources: Vec<String> =
        facts.by_source.iter().map(|(source, count)| format!("{source}: {count}")).collect();
    let place = match facts.stage {
        LossStage::Kernel => "in the kernel (the ring buffer was full, or a map refused state)",
        _ => "in user space (a queue overflowed, or they came too late)",
    };
    let span = words::time(facts.last.since(facts.first));
    Text {
        title: format!("{total} records were lost"),
        cause: format!(
            "{total} records were lost {place} within {span}: {}.",
            words::list(&sources, 4)
        ),
        remedy: vec!["a larger --ring-size, a narrower target, or --no-syscalls".to_owned()],
        details: [
            ("count", json!(total)),
            ("sources", json!(facts.by_source)),
            ("first_ts", json!(Ts(facts.first).rfc3339())),
            ("last_ts", json!(Ts(facts.last).rfc3339())),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into(),
        inferred_from: Vec::new(),
    }
}
