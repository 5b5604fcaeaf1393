//! Tables of results, on the terminal and in docs/performance.md, where each bench owns the part
//! between its two marks. Measures nothing.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context, Result};
use xtask::{cmd, repo};

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

    /// The first column to the left, the others, numbers as a rule, to the right.
    pub(super) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default().max(3)
        };
        let mut out = format!("### {}\n\n", self.title);
        for (number, row) in self.rows.iter().enumerate() {
            for (column, cell) in row.iter().enumerate() {
                let width = width(column);
                // Writing to a String cannot fail.
                let _ = match column {
                    0 => write!(out, "| {cell:width$} "),
                    _ => write!(out, "| {cell:>width$} "),
                };
            }
            out.push_str("|\n");
            for column in (0..columns).filter(|_| number == 0) {
                let dashes = "-".repeat(width(column));
                let _ = write!(
                    out,
                    "|{}{dashes}{}",
                    if column == 0 { " " } else { "-" },
                    if column == 0 { " " } else { ":" }
                );
            }
            if number == 0 {
                out.push_str("|\n");
            }
        }
        out
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
    fs::write(&path, with_part(&old, name, text)).with_context(|| path.display().to_string())
}

/// What stands between the marks of `name`.
pub(super) fn read(name: &str) -> Option<String> {
    let page = fs::read_to_string(repo::root().join("docs/performance.md")).ok()?;
    part(&page, name).map(str::to_owned)
}

fn part<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = page.split_once(&format!("<!-- bench {name} -->\n"))?;
    Some(rest.split_once(&format!("<!-- end of bench {name} -->"))?.0)
}

fn with_part(old: &str, name: &str, text: &str) -> String {
    let (begin, end) =
        (format!("<!-- bench {name} -->\n"), format!("<!-- end of bench {name} -->\n"));
    let part = format!("{begin}{}\n{end}", text.trim_end());
    match (old.find(&begin), old.find(&end)) {
        (Some(from), Some(to)) if from < to => {
            format!("{}{part}{}", &old[..from], &old[to + end.len()..])
        }
        _ => format!("{}\n\n{part}", old.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bench_owns_its_part_only() {
        let page = with_part(&with_part(HEAD, "a", "one"), "b", "two");
        let again = with_part(&page, "a", "three");
        assert!(again.starts_with(HEAD.trim_end()) && again.contains("two"));
        assert!(again.contains("three") && !again.contains("one\n"));
        assert!(again.find("three") < again.find("two"), "in its old place");
        assert_eq!((part(&again, "a"), part(&again, "c")), (Some("three\n"), None));
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new("t", &["what", "n"]);
        table.row(["a long name".to_owned(), "7".to_owned()]);
        let text = table.text();
        let lengths: Vec<usize> = text.lines().skip(2).map(|l| l.chars().count()).collect();
        assert_eq!(lengths, vec![lengths[0]; 3], "{text}");
    }
}
