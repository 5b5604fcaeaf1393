//! `cargo xtask test`: everything that must hold, in one go. Goes on after a failure and says at
//! the end what ran, what did not and why; the exit code is honest.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use xtask::{cmd, repo, skips};

use crate::build_cmd::{self, cargo};
use crate::setup;

/// What `cargo test` counted.
#[derive(Default)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// Runs it all.
pub(crate) fn run() -> Result<()> {
    let skip_file = repo::target_dir().join("skipped.txt");
    let _ = std::fs::remove_file(&skip_file);
    let mut skipped = Vec::new();
    let mut failures = Vec::new();

    head("setup");
    if let Err(error) = setup::run(setup::Options { yes: true, ebpf_only: false }) {
        println!("setup: {error:#}");
        skipped.push(format!("parts of the setup: {error:#}"));
    }
    head("build");
    build_cmd::run(build_cmd::Options::default())?;
    lints(&mut failures, &mut skipped);
    dependencies(&mut failures, &mut skipped)?;

    let mut counts = Counts::default();
    head("unit tests");
    tests("unit tests", &mut cargo(&["test", "--lib", "--bins"]), &mut counts, &mut failures)?;
    head("end-to-end tests");
    let mut end_to_end = cargo(&["test", "--test", "lab", "--test", "suite", "--test", "hostile"]);
    end_to_end.env(skips::VARIABLE, &skip_file);
    tests("end-to-end tests", &mut end_to_end, &mut counts, &mut failures)?;

    let noted = std::fs::read_to_string(&skip_file).unwrap_or_default();
    skipped.extend(noted.lines().map(str::to_owned));
    finish(&counts, &skipped, &failures)
}

fn lints(failures: &mut Vec<String>, skipped: &mut Vec<String>) {
    let clippy = ["clippy", "--all-targets", "--", "-D", "warnings"];
    for (name, tool, args) in [
        ("formatting", "cargo-fmt", &["fmt", "--all", "--", "--check"][..]),
        ("lints", "cargo-clippy", &clippy[..]),
    ] {
        head(name);
        if cmd::find(tool).is_none() {
            skipped.push(format!("{name}: {tool} is not installed"));
        } else if let Err(error) = cmd::show(&mut cargo(args)) {
            failures.push(format!("{name}: {error:#}"));
        }
    }
}

/// What deny.toml says of the crates this project depends on.
fn dependencies(failures: &mut Vec<String>, skipped: &mut Vec<String>) -> Result<()> {
    head("dependencies");
    if cmd::find("cargo-deny").is_none() {
        let why = "cargo-deny is not installed (`cargo install cargo-deny --locked`)";
        skipped.push(format!("sources and doubles of dependencies: {why}"));
        skipped.push(format!("advisories: {why}"));
        return Ok(());
    }
    let check = ["deny", "--locked", "check", "licenses", "bans", "sources"];
    if let Err(error) = cmd::show(&mut cargo(&check)) {
        failures.push(format!("dependencies: {error:#}"));
    }
    let advisories = cargo(&["deny", "--locked", "check", "advisories"]).output();
    let advisories = advisories.context("cannot run cargo-deny")?;
    let said = String::from_utf8_lossy(&advisories.stderr);
    match advisories.status.success() {
        true => println!("advisories: none"),
        false if said.contains("failed to fetch") || said.contains("failed to open") => {
            skipped.push("advisories: their list cannot be reached from here".to_owned());
        }
        false => failures.push(format!("advisories: {}", said.trim())),
    }
    Ok(())
}

/// Runs a `cargo test`, showing its output and adding up its counts.
fn tests(
    name: &str,
    command: &mut Command,
    counts: &mut Counts,
    failures: &mut Vec<String>,
) -> Result<()> {
    command.arg("--no-fail-fast").stdout(Stdio::piped());
    let mut child =
        command.spawn().with_context(|| format!("cannot start `{}`", cmd::line(command)))?;
    let output = child.stdout.take().context("no pipe to the tests")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        counts.add(&line);
    }
    let status = child.wait()?;
    if !status.success() {
        failures.push(format!("{name}: `{}` failed ({status})", cmd::line(command)));
    }
    Ok(())
}

impl Counts {
    /// Takes over a line like `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let figures = result.split_once(". ").map_or(result, |(_, figures)| figures);
        for part in figures.split(';') {
            let mut words = part.split_whitespace();
            let number: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            match words.next() {
                Some("passed") => self.passed += number,
                Some("failed") => self.failed += number,
                Some("ignored") => self.ignored += number,
                _ => {}
            }
        }
    }
}

fn finish(counts: &Counts, skipped: &[String], failures: &[String]) -> Result<()> {
    head("summary");
    for what in skipped {
        println!("skipped: {what}");
    }
    for what in failures {
        println!("FAILED: {what}");
    }
    println!(
        "{} passed, {} failed, {} ignored, {} skipped",
        counts.passed,
        counts.failed,
        counts.ignored,
        skipped.len()
    );
    if !failures.is_empty() {
        bail!("not everything passed");
    }
    Ok(())
}

fn head(name: &str) {
    println!("== {name}");
}

#[cfg(test)]
mod tests_of_counts {
    use super::*;

    #[test]
    fn adds_up_the_lines_of_cargo_test() {
        let mut counts = Counts::default();
        counts.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out");
        counts.add("test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured");
        counts.add("test something ... ok");
        assert_eq!((counts.passed, counts.failed, counts.ignored), (5, 4, 1));
    }
}
