//! Findings as blocks: the root cause first, what it caused inside it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::line::word;
use super::words::{count, duration, pad, place, process, width, wrap};
use super::{BAD, BOLD, DIM, ODD, Style};
use crate::report::{Confidence, Finding, Severity};
use crate::text::visible;

/// Findings kept back at most; more are printed without waiting for what they caused.
const HELD_MAX: usize = 256;
/// Evidence numbers that are written out.
const EVIDENCE_MAX: usize = 8;
/// Names of a search walk that are written out.
const TRIED_MAX: usize = 10;
/// Columns of an outcome.
const OUTCOME: usize = 11;
/// Columns of a block's labels.
const LABEL: usize = 10;

/// Findings of one batch, a root and its dependants in one group.
#[derive(Default)]
pub(super) struct Held {
    groups: Vec<Vec<Finding>>,
    count: usize,
}

impl Held {
    /// Keeps a finding; true when it is time to print.
    pub(super) fn add(&mut self, finding: &Finding) -> bool {
        let caused = |group: &&mut Vec<Finding>| {
            group.iter().any(|earlier| finding.caused_by.contains(&earlier.id))
        };
        match self.groups.iter_mut().find(caused) {
            Some(group) => group.push(finding.clone()),
            None => self.groups.push(vec![finding.clone()]),
        }
        self.count += 1;
        self.count >= HELD_MAX
    }

    /// What was kept.
    pub(super) fn take(&mut self) -> Vec<Vec<Finding>> {
        self.count = 0;
        std::mem::take(&mut self.groups)
    }
}

/// The lines of a root and its dependants.
pub(super) fn lines(group: &[Finding], style: &Style) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some((root, caused)) = group.split_first() {
        let mut block = Block { style, indent: 0, lines: &mut lines, conf_shown: false };
        block.finding(root, None);
        for finding in caused {
            block.lines.push(String::new());
            block.indent = 4;
            block.finding(finding, Some(root));
        }
        block.indent = 0;
        block.more(group);
    }
    lines
}

struct Block<'a> {
    style: &'a Style,
    indent: usize,
    lines: &'a mut Vec<String>,
    /// resolv.conf was printed with an earlier finding of this group.
    conf_shown: bool,
}

impl Block<'_> {
    fn finding(&mut self, of: &Finding, root: Option<&Finding>) {
        self.head(of);
        for line in wrap(&visible(&of.title), self.room(0)) {
            self.push(0, &self.style.paint(&line, BOLD));
        }
        let told = root.is_some_and(|root| root.identity == of.identity);
        let who = [place(&of.identity), process(&of.identity)];
        let who: Vec<_> = who.into_iter().filter(|part| part != "-").collect();
        if !told && !who.is_empty() {
            self.labelled("who", &who.join(", "));
        }
        self.labelled("cause", &of.cause);
        let told_elsewhere = root.map(|root| root.id);
        let others: Vec<_> = of
            .caused_by
            .iter()
            .filter(|id| Some(**id) != told_elsewhere)
            .map(|id| format!("[{id}]"))
            .collect();
        if !others.is_empty() {
            self.labelled("because", &format!("of {}", others.join(" ")));
        }
        if !of.inferred_from.is_empty() {
            self.labelled("inferred", &of.inferred_from.join("; "));
        }
        for caveat in &of.caveats {
            self.labelled("caveat", caveat);
        }
        self.tried(of);
        self.resolv_conf(of);
        if !of.evidence.is_empty() {
            self.labelled("evidence", &evidence(&of.evidence));
        }
        for (n, remedy) in of.remedy.iter().enumerate() {
            self.remedy(if n == 0 { "fix" } else { "" }, remedy);
        }
    }

    /// Where to read on: the root's page, and those of what it caused.
    fn more(&mut self, group: &[Finding]) {
        let mut codes: Vec<_> = group.iter().map(|of| of.code.name()).collect();
        let mut told = BTreeSet::new();
        codes.retain(|code| told.insert(*code));
        let Some((root, others)) = codes.split_first() else { return };
        let others = match others {
            [] => String::new(),
            some => format!(" (or {})", some.join(", ")),
        };
        self.lines.push(String::new());
        self.labelled("read on", &format!("svctrace explain {root}{others}"));
    }

    /// The names of a search walk in order, with what came of each.
    fn tried(&mut self, of: &Finding) {
        let candidates = of.details.get("candidates").and_then(Value::as_array);
        // Other findings have plain names there.
        let Some(candidates) = candidates.filter(|all| all.iter().all(Value::is_object)) else {
            return;
        };
        let suffix = |of: &Value| match of["suffix"].as_str() {
            Some(suffix) => visible(&format!(".{suffix}")),
            None => "as typed".to_owned(),
        };
        let shown = candidates.iter().take(TRIED_MAX);
        let wide = shown.clone().map(|of| width(&suffix(of))).max().unwrap_or_default();
        let mut label = "tried";
        for candidate in shown {
            let outcome = visible(candidate["outcome"].as_str().unwrap_or("-"));
            let ns = |value: &Value| value.as_u64().unwrap_or_default();
            let mut line = format!(
                "{}  {} {:>8}",
                pad(&suffix(candidate), wide),
                pad(&outcome, OUTCOME),
                duration(ns(&candidate["duration_ns"])),
            );
            let again = candidate["asked_again_ns"].as_array();
            let again: Vec<_> = again.into_iter().flatten().map(|at| duration(ns(at))).collect();
            if !again.is_empty() {
                line.push_str(&format!("  asked again after {}", again.join(", ")));
            }
            self.label_line(label, &line);
            label = "";
        }
        if let Some(more) = candidates.len().checked_sub(TRIED_MAX).filter(|more| *more > 0) {
            self.label_line("", &format!("and {}", count(more as u64, "more name", "more names")));
        }
    }

    /// resolv.conf as the process read it, once in a group.
    fn resolv_conf(&mut self, of: &Finding) {
        let Some(conf) = of.details.get("resolv_conf").filter(|conf| !conf.is_null()) else {
            return;
        };
        if std::mem::replace(&mut self.conf_shown, true) {
            return;
        }
        let path = visible(conf["path"].as_str().unwrap_or("resolv.conf"));
        self.labelled("read", &format!("{path}:"));
        for line in conf["lines"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            for (n, part) in wrap(&visible(line), self.room(LABEL + 4)).iter().enumerate() {
                let more = if n > 0 { "  " } else { "" };
                self.push(LABEL, &format!("│ {more}{part}"));
            }
        }
        let more = conf["more_lines"].as_u64().unwrap_or_default();
        if more > 0 {
            self.push(LABEL, &format!("│ … {}", count(more, "more line", "more lines")));
        }
    }

    fn head(&mut self, of: &Finding) {
        let paint = match of.severity {
            Severity::Error => BAD.bold(),
            Severity::Warning => ODD.bold(),
            Severity::Info => BOLD,
        };
        let code = self.style.paint(of.code.name(), paint);
        let cost = duration(of.cost_ns);
        // The title says it already, as a rule.
        let cost = (of.cost_ns > 0 && !of.title.contains(&cost)).then(|| format!(", cost {cost}"));
        let caused = if self.indent > 0 { "which caused " } else { "" };
        let sure = match of.confidence {
            Confidence::Certain => "certain",
            Confidence::Inferred => "inferred",
        };
        let class = of.class.as_deref().map(|class| format!(" ({})", visible(class)));
        let head = format!(
            "{caused}[{}] {code}{}: {}  {}{}, {sure}",
            of.id,
            class.unwrap_or_default(),
            visible(&of.subject),
            word(&of.severity),
            cost.unwrap_or_default(),
        );
        self.lines.push(format!("{}{head}", " ".repeat(self.indent)));
    }

    fn labelled(&mut self, label: &str, text: &str) {
        let mut label = label;
        for paragraph in text.split('\n') {
            for line in wrap(&visible(paragraph), self.room(LABEL)) {
                self.label_line(label, &line);
                label = "";
            }
        }
    }

    /// The first line is a sentence and is wrapped; what follows is a snippet and keeps its shape.
    fn remedy(&mut self, label: &str, text: &str) {
        let (sentence, snippet) = match text.split_once('\n') {
            Some((sentence, snippet)) => (sentence, Some(snippet)),
            None => (text, None),
        };
        let mut label = label;
        let mut bullet = "- ";
        for line in wrap(&visible(sentence), self.room(LABEL + 2)) {
            self.label_line(label, &format!("{bullet}{line}"));
            (label, bullet) = ("", "  ");
        }
        for line in snippet.into_iter().flat_map(str::lines) {
            self.push(LABEL + 4, &visible(line));
        }
    }

    fn label_line(&mut self, label: &str, text: &str) {
        let label = self.style.paint(&pad(label, LABEL), DIM);
        self.push(0, &format!("{label}{text}"));
    }

    fn push(&mut self, more: usize, text: &str) {
        let line = format!("{}{text}", " ".repeat(self.indent + 4 + more));
        self.lines.push(line.trim_end().to_owned());
    }

    fn room(&self, more: usize) -> usize {
        self.style.columns().saturating_sub(self.indent + 4 + more).max(20)
    }
}

fn evidence(numbers: &[u64]) -> String {
    let shown: Vec<_> = numbers.iter().take(EVIDENCE_MAX).map(u64::to_string).collect();
    let more = numbers.len().saturating_sub(EVIDENCE_MAX) as u64;
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let what = count(numbers.len() as u64, "event", "events");
    format!("{what}: {}{more}", shown.join(" "))
}
