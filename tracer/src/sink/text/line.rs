//! One line per lookup, connection, transaction, event or loss.

use std::fmt::Write as _;

use super::words::{clock, count, duration, pad, place, process, push_padded, width};
use super::{BAD, BOLD, Clock, DIM, GOOD, ODD, Style};
use crate::context::{LossStage, Origin};
use crate::record::Timestamp;
use crate::report::{
    Connection, ConnectionOutcome, EventLine, Identity, Lookup, Loss, Outcome, Transaction,
    TransactionOutcome, Transport,
};
use crate::text::visible;

/// Widths of the columns that grow with what was printed so far, up to a bound.
pub(super) struct Columns {
    place: usize,
    process: usize,
    subject: usize,
    headed: bool,
}

impl Default for Columns {
    fn default() -> Self {
        Self { place: 20, process: 14, subject: 40, headed: false }
    }
}

/// A line's cells, before they are aligned.
struct Row {
    time: String,
    place: String,
    process: String,
    what: &'static str,
    subject: String,
    outcome: String,
    paint: anstyle::Style,
    took: Option<u64>,
    notes: Vec<String>,
}

impl Columns {
    pub(super) fn lookup(&mut self, of: &Lookup, time: &mut Clock, style: &Style) -> String {
        let mut notes = Vec::new();
        if !of.answers.is_empty() {
            notes.push(answers(&of.answers));
        }
        notes.extend(of.external_name.as_deref().map(|to| format!("ExternalName {}", visible(to))));
        let others = (of.attempts.len() as u64).saturating_sub(1);
        match (of.wasted_queries, of.wasted_ns) {
            (Some(queries), Some(ns)) if others > 0 => notes.push(format!(
                "after {} ({}, {})",
                count(others, "other name", "other names"),
                count(queries, "query", "queries"),
                duration(ns)
            )),
            _ if others > 0 => notes.push(count(others + 1, "name tried", "names tried")),
            _ => {}
        }
        if style.wide {
            notes.push(format!("server {}", of.server));
            notes.extend(of.resolver_library.as_deref().map(visible));
            notes.extend(of.ndots.map(|n| format!("ndots {n}")));
            notes.extend(whereabouts(&of.identity));
        }
        let row = Row {
            time: time.say(of.ts.0, Some(of.duration_ns)),
            place: place(&of.identity),
            process: process(&of.identity),
            what: "lookup",
            subject: visible(&of.name),
            outcome: word(&of.outcome),
            paint: match of.outcome {
                Outcome::Answered => GOOD,
                Outcome::Nxdomain | Outcome::Nodata | Outcome::Undecided => ODD,
                _ => BAD,
            },
            took: Some(of.duration_ns),
            notes,
        };
        self.row(row, style)
    }

    pub(super) fn connection(
        &mut self,
        of: &Connection,
        time: &mut Clock,
        style: &Style,
    ) -> String {
        let mut notes = Vec::new();
        let named = of.service.as_ref().or(of.peer.as_ref());
        if named.is_some() {
            notes.push(of.remote.to_string());
        }
        notes.extend(of.peer.as_deref().filter(|peer| says_more(of, peer)).map(visible));
        if let Some(backend) = &of.backend {
            let pod = backend.pod.as_deref().map(|pod| format!("{} ", visible(pod)));
            let state = backend.state.as_deref().map(|state| format!(", {}", visible(state)));
            let (pod, state) = (pod.unwrap_or_default(), state.unwrap_or_default());
            notes.push(format!("to {pod}{}{state}", backend.address));
        }
        notes.extend(of.errno.as_deref().map(visible));
        notes.extend(of.inside.as_deref().map(|inside| match inside {
            "dns-over-tls" => "DNS over TLS: names cannot be seen".to_owned(),
            "dns-over-https" => "DNS over HTTPS: names cannot be seen".to_owned(),
            other => visible(other),
        }));
        notes.extend(of.name.as_deref().map(|name| format!("for {}", visible(name))));
        if style.wide {
            notes.extend(of.local.map(|local| format!("from {local}")));
            notes.extend(of.duration_ns.map(|ns| format!("open {}", duration(ns))));
            notes.extend(whereabouts(&of.identity));
        }
        let remote = || of.remote.to_string();
        let row = Row {
            time: time.say(of.ts.0, of.handshake_ns),
            place: place(&of.identity),
            process: process(&of.identity),
            what: "connect",
            subject: named.map_or_else(remote, |name| visible(name)),
            outcome: word(&of.outcome),
            paint: match of.outcome {
                ConnectionOutcome::Established => GOOD,
                ConnectionOutcome::Undecided => ODD,
                _ => BAD,
            },
            took: of.handshake_ns,
            notes,
        };
        self.row(row, style)
    }

    pub(super) fn transaction(
        &mut self,
        of: &Transaction,
        time: &mut Clock,
        style: &Style,
    ) -> String {
        let mut notes = vec![format!("{} id {}", of.server, of.id)];
        if of.try_number > 1 {
            notes.push(format!("try {}", of.try_number));
        }
        if of.retransmits > 0 {
            notes.push(count(of.retransmits.into(), "retransmission", "retransmissions"));
        }
        if of.recovered {
            notes.push("recovered".into());
        }
        if of.transport == Transport::Tcp {
            notes.push("tcp".into());
        }
        match &of.after_truncation {
            Some(after) => notes.push(format!("truncated, {}", after.followed.name())),
            None if of.truncated => notes.push("truncated".into()),
            None => {}
        }
        for error in of.extended_errors.iter().flatten() {
            let text = error.text.as_deref().or(error.name.as_deref()).unwrap_or("no text");
            notes.push(format!("extended error {}: {}", error.code, visible(text)));
        }
        if !of.answers.is_empty() {
            notes.push(answers(&of.answers));
        }
        let answered = of.outcome == TransactionOutcome::Answered;
        let rcode = of.rcode.as_deref().filter(|_| answered);
        let row = Row {
            time: time.say(of.ts.0, of.latency_ns),
            place: place(&of.identity),
            process: process(&of.identity),
            what: "query",
            subject: visible(&format!("{} {}", of.qtype, of.name)),
            outcome: rcode.map_or_else(|| word(&of.outcome), visible),
            paint: match (of.outcome, rcode) {
                (TransactionOutcome::Answered, Some("NOERROR")) => GOOD,
                (TransactionOutcome::Answered | TransactionOutcome::Undecided, _) => ODD,
                _ => BAD,
            },
            took: of.latency_ns,
            notes,
        };
        self.row(row, style)
    }

    /// Aligns; in front of the first line goes what the columns mean.
    fn row(&mut self, row: Row, style: &Style) -> String {
        self.place = width(&row.place).clamp(self.place, 44);
        self.process = width(&row.process).clamp(self.process, 24);
        self.subject = width(&row.subject).clamp(self.subject, 56);
        let took = row.took.map_or_else(|| "-".into(), duration);
        let widths = [width(&row.time), self.place, self.process, 7, self.subject];
        let line = |text: &mut String, cells: [&str; 5]| {
            for (cell, width) in cells.into_iter().zip(widths) {
                push_padded(text, cell, width);
                text.push_str("  ");
            }
        };
        let mut text = String::with_capacity(192);
        if !self.headed {
            self.headed = true;
            let mut head = String::new();
            line(&mut head, ["TIME", "POD", "PROCESS", "WHAT", "NAME OR ADDRESS"]);
            let head = format!("{head}{}  {:>9}  NOTES", pad("OUTCOME", 11), "TOOK");
            text = format!("{}\n", style.paint(&head, DIM));
        }
        line(&mut text, [&row.time, &row.place, &row.process, row.what, &row.subject]);
        let outcome = style.paint(&pad(&row.outcome, 11), row.paint);
        let notes = row.notes.join(", ");
        // Writing to a String cannot fail.
        let _ = write!(text, "{outcome}  {took:>9}  {notes}");
        text.truncate(text.trim_end().len());
        text
    }
}

/// A line laid out as sysdig does: number, time, processor, container, process, direction, call,
/// arguments.
pub(super) fn event(of: &EventLine, time: &mut Clock, style: &Style) -> String {
    let own = ["blocked_ns", "duration_ns"].iter().find_map(|key| of.args.get(*key)?.as_u64());
    let own = own.or(time.latency.of(of.n));
    let time = time.say(of.ts.0, own);
    let cpu = of.cpu.map_or_else(|| "-".into(), |cpu| cpu.to_string());
    let comm = of.identity.comm.as_deref().map_or_else(|| "-".into(), visible);
    let task = match (of.identity.pid, of.identity.tid) {
        (Some(pid), Some(tid)) if pid != tid => format!("({pid}:{tid})"),
        (Some(id), _) | (None, Some(id)) => format!("({id})"),
        (None, None) => "(-)".into(),
    };
    let direction = match of.direction.as_deref() {
        Some("enter") => ">",
        Some("exit") => "<",
        Some("out") => "->",
        Some("in") => "<-",
        _ => "-",
    };
    let mut text = format!(
        "{} {time} {cpu} {} {} {task} {direction} {}",
        of.n,
        style.paint(&place(&of.identity), DIM),
        style.paint(&comm, BOLD),
        visible(&of.kind)
    );
    if let Some(result) = of.result {
        text.push_str(&format!(" res={result}"));
        if let Some(errno) = &of.errno {
            text.push_str(&format!("({})", visible(errno)));
        }
    }
    for (key, value) in &of.args {
        let value = match value {
            serde_json::Value::Null => continue,
            serde_json::Value::String(text) => visible(text),
            other => visible(&other.to_string()),
        };
        text.push_str(&format!(" {}={value}", visible(key)));
    }
    text
}

/// A line about records that never came.
pub(super) fn loss(of: &Loss, style: &Style) -> String {
    let what = match of.stage {
        LossStage::Kernel | LossStage::User => count(of.count, "record lost", "records lost"),
        LossStage::Payload => count(of.count, "payload cut", "payloads cut"),
        LossStage::Decode => count(of.count, "record not understood", "records not understood"),
    };
    let span = |at: Timestamp| clock(at);
    let text = format!(
        "!! {what} in {} between {} and {}",
        visible(&of.source),
        span(of.first_ts.0),
        span(of.last_ts.0)
    );
    style.paint(&text, BAD)
}

/// The JSON name of an enum's variant.
pub(super) fn word(of: &impl serde::Serialize) -> String {
    match serde_json::to_value(of) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "-".into(),
    }
}

/// The peer is not said by the Service's or the backend's name.
fn says_more(of: &Connection, peer: &str) -> bool {
    let backend = of.backend.as_ref().is_some_and(|backend| backend.pod.is_some());
    of.service.is_some() && !backend && !peer.contains("svc/")
}

fn answers(all: &[String]) -> String {
    let mut text = all.iter().take(2).map(|answer| visible(answer)).collect::<Vec<_>>().join(" ");
    if all.len() > 2 {
        text.push_str(&format!(" +{}", all.len() - 2));
    }
    text
}

fn whereabouts(who: &Identity) -> Option<String> {
    let container = who.container.as_deref().map(|name| format!("container {}", visible(name)));
    let node = who.node.as_deref().map(|name| format!("on {}", visible(name)));
    let source = match who.named_by {
        None | Some(Origin::Api) => None,
        Some(Origin::Proc) => Some("named by a guess from /proc".to_owned()),
        Some(Origin::NodeFiles) => Some("named by the node's files".to_owned()),
        Some(Origin::Cri) => Some("named by the container runtime".to_owned()),
        Some(Origin::Kubelet) => Some("named by the kubelet".to_owned()),
    };
    let parts: Vec<_> = [container, node, source].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}
