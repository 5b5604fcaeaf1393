//! Lines about containers that have no name yet wait a moment for it: what ends within milliseconds
//! is printed with the name that comes after. Goes by record time; keeps the order of the lines.

use std::collections::{HashMap, VecDeque};

use crate::identify::{Identifier, nameless};
use crate::record::Timestamp;
use crate::report::{Identity, Output};

/// A container without a name holds its lines up for this long after its first one, in nanoseconds;
/// after that it is taken for one that will never have a name.
const HOLD_NS: u64 = 1_000_000_000;
/// Most lines held; then the first goes as it is.
const LINES_MAX: usize = 8192;
/// Most nameless containers remembered; then those that waited long enough are forgotten. Lines of
/// more than that within a second are not held.
const NAMELESS_MAX: usize = 4096;

/// The lines that wait.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    /// With the instant at which a nameless one goes anyway.
    lines: VecDeque<(Output, Option<Timestamp>)>,
    until: HashMap<String, Timestamp>,
}

impl Hold {
    /// Takes a line; `ready` gets what may go now.
    pub(crate) fn add(
        &mut self,
        output: Output,
        now: Timestamp,
        who: &Identifier,
        ready: &mut Vec<Output>,
    ) {
        let until = identity(&output).and_then(nameless).and_then(|key| {
            if !self.until.contains_key(key) && self.until.len() >= NAMELESS_MAX {
                self.until.retain(|_, until| *until > now);
            }
            if !self.until.contains_key(key) && self.until.len() < NAMELESS_MAX {
                let until = Timestamp(now.0.saturating_add(HOLD_NS));
                self.until.insert(key.to_owned(), until);
            }
            self.until.get(key).copied().filter(|until| *until > now)
        });
        if until.is_none() && self.lines.is_empty() {
            ready.push(output);
            return;
        }
        self.lines.push_back((output, until));
        if self.lines.len() > LINES_MAX {
            ready.extend(self.lines.pop_front().map(|(line, _)| named(line, who)));
            self.release(now, who, ready);
        }
    }

    /// Gives what has a name by now or waited long enough, and all behind it that waits for nothing.
    pub(crate) fn release(&mut self, now: Timestamp, who: &Identifier, ready: &mut Vec<Output>) {
        while let Some((line, until)) = self.lines.pop_front() {
            let line = named(line, who);
            let waits = until.is_some_and(|until| until > now)
                && identity(&line).and_then(nameless).is_some();
            if waits {
                self.lines.push_front((line, until));
                return;
            }
            ready.push(line);
        }
    }

    /// Gives everything, at the end.
    pub(crate) fn finish(&mut self, who: &Identifier, ready: &mut Vec<Output>) {
        ready.extend(self.lines.drain(..).map(|(line, _)| named(line, who)));
    }

    /// The first line's time is over, or nothing waits for one.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        self.lines.front().is_some_and(|(_, until)| until.is_none_or(|until| until <= now))
    }
}

fn named(mut output: Output, who: &Identifier) -> Output {
    let identity = match &mut output {
        Output::Event(line) => &mut line.identity,
        Output::Transaction(line) => &mut line.identity,
        Output::Lookup(line) => &mut line.identity,
        Output::Connection(line) => &mut line.identity,
        Output::Finding(line) => &mut line.identity,
        Output::Loss(_) | Output::Summary(_) => return output,
    };
    who.name_again(identity);
    output
}

fn identity(output: &Output) -> Option<&Identity> {
    match output {
        Output::Event(line) => Some(&line.identity),
        Output::Transaction(line) => Some(&line.identity),
        Output::Lookup(line) => Some(&line.identity),
        Output::Connection(line) => Some(&line.identity),
        Output::Finding(_) | Output::Loss(_) | Output::Summary(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Connection, ConnectionOutcome, Ts};

    fn line(container: u64) -> Output {
        let cgroup = Some(format!("/docker/{container:064x}"));
        Output::Connection(Connection {
            schema: 1,
            ts: Ts(Timestamp(0)),
            identity: Identity { cgroup, ..Identity::default() },
            protocol: String::new(),
            local: None,
            remote: ([127, 0, 0, 1], 80).into(),
            peer: None,
            service: None,
            backend: None,
            name: None,
            outcome: ConnectionOutcome::Established,
            errno: None,
            handshake_ns: None,
            duration_ns: None,
            inside: None,
            events: Vec::new(),
        })
    }

    #[test]
    fn a_container_that_never_gets_a_name_waits_once() {
        let (mut hold, who) = (Hold::default(), Identifier::default());
        let mut ready = Vec::new();
        let mut add = |hold: &mut Hold, container, ns| {
            hold.release(Timestamp(ns), &who, &mut ready);
            hold.add(line(container), Timestamp(ns), &who, &mut ready);
            ready.drain(..).count()
        };
        assert_eq!(add(&mut hold, 1, 0), 0);
        assert_eq!(add(&mut hold, 1, HOLD_NS / 2), 0);
        assert_eq!(add(&mut hold, 1, HOLD_NS), 3);
        assert_eq!(add(&mut hold, 1, HOLD_NS + 1), 1);
        // However many came before it, the first second of a new one is waited for.
        for container in 2..=NAMELESS_MAX as u64 + 9 {
            add(&mut hold, container, container * 2 * HOLD_NS);
        }
        assert_eq!(hold.lines.len(), 1);
        assert!(hold.until.len() <= NAMELESS_MAX);
    }

    #[test]
    fn the_end_releases_all() {
        let (mut hold, who) = (Hold::default(), Identifier::default());
        let mut ready = Vec::new();
        (0..9).for_each(|of| hold.add(line(of), Timestamp(0), &who, &mut ready));
        assert!(ready.is_empty());
        hold.finish(&who, &mut ready);
        assert_eq!(ready.len(), 9);
    }
}
