//! How long the clients' resolver libraries wait, in the words and details of findings about silence.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::correlate::Patience;

use super::draft::{Draft, Text};
use super::words;

/// Codes of findings about silence.
const SILENCES: [&str; 3] = ["upstream-timeout", "resolver-timeout", "aaaa-race"];
/// Libraries named in one finding.
const NAMED_MAX: usize = 3;

/// Adds what is known of the victims' libraries to a finding about silence.
pub(crate) fn tell(draft: &Draft, text: &mut Text) {
    if !SILENCES.contains(&draft.key.code.name()) {
        return;
    }
    let all: BTreeSet<&Patience> =
        draft.victims.iter().filter_map(|v| v.patience.as_ref()).collect();
    for patience in all.into_iter().take(NAMED_MAX) {
        text.cause.push(' ');
        text.cause.push_str(&sentence(patience));
    }
}

/// `glibc gives up after 2 tries of 5.00 s; ...`.
fn sentence(of: &Patience) -> String {
    let library = if of.library == "go" { "Go" } else { of.library };
    let tries = words::count(of.tries as usize, "try", "tries");
    let (wait, total) = (words::time(of.try_ns), words::time(of.gives_up_ns));
    let gives_up = match (of.library, of.servers) {
        ("c-ares", _) => format!(
            "gives up after {tries}, {total} at most (it waits {wait} at first, less for a server that is quick as a rule)"
        ),
        (_, 1) => format!("gives up after {tries} of {wait}"),
        ("musl", servers) => {
            format!("asks all {servers} servers at once and gives up after {tries} of {wait}")
        }
        (_, servers) => {
            format!("asks {servers} servers in turn and gives up after {tries} of each, {total}")
        }
    };
    let ignored: Vec<String> = of.ignored.iter().map(|o| format!("`{o}`")).collect();
    let ignored = match ignored.is_empty() {
        true => String::new(),
        false => format!(" It does not know {} of its resolv.conf.", words::list(&ignored, 6)),
    };
    format!("{library} {gives_up}; {}.{ignored}", of.after_silence())
}

pub(crate) fn details(of: &Patience) -> Value {
    json!({
        "resolver_library": of.library,
        "tries": of.tries,
        "try_ns": of.try_ns,
        "gives_up_ns": of.gives_up_ns,
        "servers": of.servers,
        "after_silence": of.after_silence(),
        "options_ignored": of.ignored,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences() {
        let glibc = Patience {
            library: "glibc",
            tries: 2,
            try_ns: 5_000_000_000,
            gives_up_ns: 10_000_000_000,
            servers: 1,
            ignored: Vec::new(),
        };
        assert_eq!(
            sentence(&glibc),
            "glibc gives up after 2 tries of 5.00 s; after a silent suffix it goes on with the name as typed."
        );
        let musl = Patience {
            library: "musl",
            try_ns: 2_500_000_000,
            gives_up_ns: 5_000_000_000,
            ignored: vec!["use-vc"],
            ..glibc
        };
        assert_eq!(
            sentence(&musl),
            "musl gives up after 2 tries of 2.50 s; the lookup then fails. It does not know `use-vc` of its resolv.conf."
        );
    }
}
