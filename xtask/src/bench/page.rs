//! Tables of results, on the terminal and in docs/performance.md, where each bench owns the part
//! between its two marks. Measures nothing.

use std::fs;

use anyhow::{Context, Result};
use xtask::{cmd, repo};

use crate::marks;

const HEAD: &str = "# Performance\n\nMeasured, and written here, by `cargo xtask bench NAME --write`. \
                    Times are medians; ratios are medians of rounds in which the programs ran in turn.\n";

/// A table as Markdown, readable as text as well.
pub(super) struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(title: &str, columns: &[&str]) -> Self {
        Self {
            title: title.to_owned(),
            rows: vec![columns.iter().map(ToString::to_string).collect()],
        }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn text(&self) -> String {
        format!("### {}\n\n{}", self.title, marks::table(&self.rows))
    }
}

/// The machine, in a line.
pub(super) fn machine() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let commit = cmd::run(
        "git",
        ["-C".into(), repo::root(), "rev-parse".into(), "--short".into(), "HEAD".into()],
    );
    let commit = commit.unwrap_or_default();
    format!("{cpus} × {model}, Linux {}, commit {}", kernel.trim(), commit.trim())
}

/// Puts `text` between the marks of `name`.
pub(super) fn write(name: &str, text: &str) -> Result<()> {
    let path = repo::root().join("docs/performance.md");
    let old = fs::read_to_string(&path).unwrap_or_else(|_| HEAD.to_owned());
    let (name, text) = (mark(name), format!("{}\n", text.trim_end()));
    let new =
        marks::with_part(&old, &name, &text).unwrap_or_else(|| marks::appended(&old, &name, &text));
    fs::write(&path, new).with_context(|| path.display().to_string())
}

/// What stands between the marks of `name`.
pub(super) fn read(name: &str) -> Option<String> {
    let page = fs::read_to_string(repo::root().join("docs/performance.md")).ok()?;
    marks::part(&page, &mark(name)).map(str::to_owned)
}

fn mark(name: &str) -> String {
    format!("bench {name}")
}
