//! Reads what the binary printed on each kernel and prints it side by side.

use std::collections::HashMap;

/// What came of one kernel.
#[derive(Debug)]
pub(super) struct Outcome {
    label: &'static str,
    release: String,
    /// Why there is nothing, or why it did not end.
    problem: Option<String>,
    exit: Option<i32>,
    /// All checks were gone through.
    ended: bool,
    booted: bool,
    time: String,
    /// (what, name, detail) in the order printed, and the result.
    lines: Vec<(String, String)>,
}

impl Outcome {
    pub(super) fn absent(label: &'static str, why: String) -> Self {
        Self {
            label,
            release: String::new(),
            problem: Some(why),
            exit: None,
            ended: false,
            booted: false,
            time: String::new(),
            lines: Vec::new(),
        }
    }

    /// Understands `probe NAME HOOK RESULT`, `check NAME RESULT`, `time ...`, `=== kernel R`,
    /// `=== exit N` and `=== end`.
    pub(super) fn read(label: &'static str, console: &str) -> Self {
        let mut outcome = Self::absent(label, String::new());
        outcome.problem = None;
        for line in console.lines().map(str::trim) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["probe", name, hook, result @ ..] => {
                    outcome.lines.push((format!("{name} ({hook})"), result.join(" ")));
                }
                ["check", name, result @ ..] => {
                    outcome.lines.push((format!("check {name}"), result.join(" ")));
                }
                ["time", "load", load, _, "attach", attach, _] => {
                    let ms = |t: &str| t.parse::<u64>().map_or(0, |us| us / 1000);
                    outcome.time = format!("{}+{} ms", ms(load), ms(attach));
                }
                // Firmware may leave escape sequences in front of the first line.
                [.., "kernel", release] if line.contains("=== kernel") => {
                    outcome.release = (*release).to_owned();
                    outcome.booted = true;
                }
                ["===", "exit", code] => {
                    outcome.exit = code.parse().ok();
                    outcome.booted = true;
                }
                ["===", "end"] => outcome.ended = true,
                ["error:", ..] => outcome.problem = Some(line.to_owned()),
                _ => {}
            }
        }
        if !outcome.ended && outcome.problem.is_none() {
            let last = console.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("nothing");
            outcome.problem = Some(format!("did not finish; last words: {}", last.trim()));
        }
        outcome
    }

    /// A kernel that cannot be had is no failure; one that booted must pass.
    pub(super) fn acceptable(&self) -> bool {
        !self.booted || (self.exit == Some(0) && self.ended && self.failures().next().is_none())
    }

    /// Checks that failed, with what they said. A probe may be missing where it is optional; the
    /// binary's own exit status tells whether one was mandatory.
    fn failures(&self) -> impl Iterator<Item = &(String, String)> {
        self.lines.iter().filter(|(_, result)| result.starts_with("FAILED"))
    }

    /// What this kernel is called: the series and, when it booted, its release.
    pub(super) fn name(&self) -> (&'static str, &str) {
        (self.label, &self.release)
    }

    /// In a sentence.
    pub(super) fn verdict(&self) -> String {
        match (self.exit, &self.problem) {
            (_, Some(why)) if self.booted => format!("FAILED: {why}"),
            (_, Some(why)) => format!("not tried: {why}"),
            (Some(0), None) if self.acceptable() => "ok".to_owned(),
            _ => "FAILED: a mandatory probe or a check".to_owned(),
        }
    }

    /// Results that say more than `ok`.
    pub(super) fn remarks(&self) -> impl Iterator<Item = &(String, String)> {
        self.lines.iter().filter(|(_, result)| result != "ok")
    }
}

/// The results by row: its name, and one word for each outcome.
pub(super) fn rows(outcomes: &[Outcome]) -> Vec<(String, Vec<String>)> {
    let mut rows: Vec<&str> = Vec::new();
    for (name, _) in outcomes.iter().flat_map(|o| &o.lines) {
        if !rows.contains(&name.as_str()) {
            rows.push(name);
        }
    }
    let columns: Vec<HashMap<&str, &str>> = outcomes
        .iter()
        .map(|o| o.lines.iter().map(|(n, r)| (n.as_str(), r.as_str())).collect())
        .collect();
    let cells = |row: &str| {
        columns.iter().map(|c| c.get(row).map_or("-", |r| first_word(r)).to_owned()).collect()
    };
    let mut all: Vec<_> = rows.iter().map(|row| ((*row).to_owned(), cells(row))).collect();
    let times = outcomes.iter().map(|o| o.time.clone()).collect();
    all.push(("load+attach".to_owned(), times));
    all
}

pub(super) fn print(outcomes: &[Outcome]) {
    let rows = rows(outcomes);
    let width = rows.iter().map(|(row, _)| row.len()).max().unwrap_or(0).max(12);
    let line = |texts: Vec<&str>| -> String { texts.iter().map(|t| format!(" {t:>12}")).collect() };
    println!("\n{:width$}{}", "", line(outcomes.iter().map(|o| o.label).collect()));
    for (row, cells) in &rows {
        println!("{row:width$}{}", line(cells.iter().map(String::as_str).collect()));
    }
    println!();
    for outcome in outcomes {
        println!("Linux {} {}: {}", outcome.label, outcome.release, outcome.verdict());
        for (name, result) in outcome.remarks() {
            println!("    {name}: {result}");
        }
    }
}

fn first_word(text: &str) -> &str {
    text.split(' ').next().unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "\u{1b}[2J=== kernel 5.10.0-32-cloud-amd64\r
probe connect4 cgroup/connect4 ok\r
probe peer_sock_ops sock_ops missing load: because of reasons\r
check exec ok\r
check incident ok cost 10.01 s\r
time load 1417014 us attach 56493 us\r
=== exit 0\r
=== end\r
";

    #[test]
    fn reads_a_console() {
        let outcome = Outcome::read("5.10", CONSOLE);
        assert_eq!(outcome.release, "5.10.0-32-cloud-amd64");
        assert_eq!(outcome.lines.len(), 4);
        assert_eq!(outcome.lines[1].1, "missing load: because of reasons");
        assert_eq!(outcome.time, "1417+56 ms");
        assert!(outcome.acceptable());
    }

    #[test]
    fn a_kernel_that_hangs_is_a_failure_and_one_that_is_absent_is_not() {
        let cut = CONSOLE.replace("=== end\r\n", "");
        assert!(!Outcome::read("5.10", &cut).acceptable());
        let failed = CONSOLE.replace("incident ok", "incident FAILED");
        assert!(!Outcome::read("6.1", &failed).acceptable());
        assert!(Outcome::absent("7.x", "no mirror".to_owned()).acceptable());
    }
}
