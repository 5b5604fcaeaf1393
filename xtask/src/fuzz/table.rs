//! The table of runs, on the terminal and in docs/fuzzing.md, where each target owns its row.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, Write};

use anyhow::{Context, Result};
use xtask::{cmd, repo};

use super::run::Outcome;
use crate::marks;

const MARK: &str = "fuzz";
const HEAD: [&str; 8] =
    ["target", "executions", "edges reached", "corpus", "peak MiB", "time", "CPU", "result"];

/// For the terminal.
pub(super) fn text(outcomes: &[Outcome]) -> String {
    aligned(&outcomes.iter().map(cells).collect::<Vec<_>>())
}

/// Into docs/fuzzing.md, with the commit that was built; rows of other targets stay, also those that
/// another process writes now.
pub(super) fn write(outcomes: &[Outcome], commit: &str) -> Result<()> {
    let path = repo::root().join("docs/fuzzing.md");
    let work = || -> Result<()> {
        let mut file = fs::File::options().read(true).write(true).open(&path)?;
        file.lock()?;
        let mut page = String::new();
        file.read_to_string(&mut page)?;
        let page = with_rows(&page, outcomes, commit)?;
        file.rewind()?;
        file.write_all(page.as_bytes())?;
        Ok(file.set_len(page.len() as u64)?)
    };
    work().with_context(|| path.display().to_string())
}

/// The commit that is built, `+` behind it when a source is not as committed.
pub(super) fn commit() -> Result<String> {
    let root = repo::root().to_string_lossy().into_owned();
    let commit = cmd::run("git", ["-C", &root, "rev-parse", "--short", "HEAD"])?;
    let changed = cmd::run("git", ["-C", &root, "status", "--porcelain", "--", "*.rs", "*.toml"])?;
    let mark = if changed.trim().is_empty() { "" } else { "+" };
    Ok(format!("{}{mark}", commit.trim()))
}

fn with_rows(page: &str, outcomes: &[Outcome], commit: &str) -> Result<String> {
    let old = marks::part(page, MARK).context("docs/fuzzing.md has no place for it")?;
    let row = |line: &str| {
        let inner = line.strip_prefix('|')?.strip_suffix('|')?;
        let cells: Vec<String> = inner.split('|').map(|cell| cell.trim().to_owned()).collect();
        Some((cells.first()?.clone(), cells))
    };
    let mut rows: BTreeMap<String, Vec<String>> = old.lines().skip(2).filter_map(row).collect();
    for outcome in outcomes {
        let mut cells = cells(outcome);
        cells.push(commit.to_owned());
        rows.insert(outcome.target.clone(), cells);
    }
    let table = aligned(&rows.into_values().collect::<Vec<_>>());
    marks::with_part(page, MARK, &table).context("docs/fuzzing.md has lost its place")
}

fn cells(outcome: &Outcome) -> Vec<String> {
    let (reached, all) = outcome.edges;
    vec![
        outcome.target.clone(),
        outcome.executions.to_string(),
        format!("{reached} of {all}"),
        outcome.corpus.to_string(),
        outcome.peak_mib.to_string(),
        format!("{} s", outcome.time.as_secs()),
        format!("{} s", outcome.cpu.as_secs()),
        if outcome.found.is_some() { "found something" } else { "clean" }.to_owned(),
    ]
}

/// With the head that fits.
fn aligned(rows: &[Vec<String>]) -> String {
    let mut head: Vec<String> = HEAD.map(str::to_owned).into();
    if rows.iter().any(|row| row.len() > HEAD.len()) {
        head.push("commit".to_owned());
    }
    let all: Vec<Vec<String>> = [head].into_iter().chain(rows.iter().cloned()).collect();
    marks::table(&all)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn outcome(target: &str, executions: u64) -> Outcome {
        Outcome {
            target: target.to_owned(),
            executions,
            edges: (1, 2),
            corpus: 3,
            peak_mib: 4,
            time: Duration::from_secs(5),
            cpu: Duration::from_secs(4),
            found: None,
        }
    }

    #[test]
    fn each_target_owns_its_row() {
        let page = "head\n<!-- fuzz -->\n<!-- end of fuzz -->\ntail\n";
        let page = with_rows(page, &[outcome("b", 1), outcome("a", 2)], "c0de").unwrap();
        let page = with_rows(&page, &[outcome("b", 777)], "beef").unwrap();
        assert!(page.starts_with("head\n") && page.ends_with("tail\n"), "{page}");
        assert!(page.contains("777") && !page.contains("| b      |          1 |"), "{page}");
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows.len(), 4, "{page}");
        assert!(rows[2].contains("c0de") && rows[3].contains("beef"), "{page}");
        assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{page}");
    }
}
