//! docs/kernels.md: the table of the last full run, between two marks; the words around it are kept.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result};
use xtask::repo;

use super::table::{self, Outcome};
use crate::marks;

/// Replaces the table in the page.
pub(super) fn write(outcomes: &[Outcome]) -> Result<()> {
    let path = repo::root().join("docs/kernels.md");
    let old = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let new = marks::with_part(&old, "kernels", &text(outcomes))
        .with_context(|| format!("{} has lost its marks", path.display()))?;
    fs::write(&path, new).with_context(|| path.display().to_string())
}

fn text(outcomes: &[Outcome]) -> String {
    let mut out = String::from("\n| |");
    // Writing to a String cannot fail.
    for outcome in outcomes {
        let (label, release) = outcome.name();
        let _ =
            write!(out, " {label}: {} |", if release.is_empty() { "not tried" } else { release });
    }
    let _ = write!(out, "\n|---|{}\n", "---|".repeat(outcomes.len()));
    for (row, cells) in table::rows(outcomes) {
        let _ = writeln!(out, "| {row} | {} |", cells.join(" | "));
    }
    out.push('\n');
    for outcome in outcomes {
        let (label, _) = outcome.name();
        let _ = writeln!(out, "- **{label}**: {}", outcome.verdict());
        for (name, result) in outcome.remarks() {
            let _ = writeln!(out, "  - {name}: {result}");
        }
    }
    out.push('\n');
    out
}
