//! Pages that people write and a verb fills in: the part between two marks, and the tables there.
//! Reads and writes no file.

/// What stands between the marks of `name`.
pub(crate) fn part<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    let (from, to) = between(page, name)?;
    page.get(from..to)
}

/// The page with `text`, which ends a line, between the marks of `name`; `None` where they are missing.
pub(crate) fn with_part(page: &str, name: &str, text: &str) -> Option<String> {
    let (from, to) = between(page, name)?;
    Some(format!("{}{text}{}", page.get(..from)?, page.get(to..)?))
}

/// The page with a part more at its end.
pub(crate) fn appended(page: &str, name: &str, text: &str) -> String {
    format!("{}\n\n{}{text}{}", page.trim_end(), begin(name), end(name))
}

fn begin(name: &str) -> String {
    format!("<!-- {name} -->\n")
}

fn end(name: &str) -> String {
    format!("<!-- end of {name} -->\n")
}

fn between(page: &str, name: &str) -> Option<(usize, usize)> {
    let begin = begin(name);
    let from = page.find(&begin)? + begin.len();
    Some((from, from + page.get(from..)?.find(&end(name))?))
}

/// Rows, their head first, as a Markdown table readable as text as well: the first column to the
/// left, the others, numbers as a rule, to the right.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default().max(3)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| -> String {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 { format!("| {cell:width$} ") } else { format!("| {cell:>width$} ") }
        });
        cells.chain(["|\n".to_owned()]).collect()
    };
    let rules = widths.iter().enumerate().map(|(column, width)| {
        let dashes = "-".repeat(*width);
        if column == 0 { format!("| {dashes} ") } else { format!("|-{dashes}:") }
    });
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    if !lines.is_empty() {
        lines.insert(1, rules.chain(["|\n".to_owned()]).collect());
    }
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_owns_its_part_only() {
        let page = appended(&appended("# Head\n", "a", "one\n"), "b", "two\n");
        let again = with_part(&page, "a", "three\n").unwrap();
        assert!(again.starts_with("# Head\n\n<!-- a -->\n") && !again.contains("one\n"), "{again}");
        assert!(again.find("three") < again.find("two"), "in its old place");
        assert_eq!((part(&again, "a"), part(&again, "c")), (Some("three\n"), None));
        assert_eq!(with_part("<!-- end of a -->\n<!-- a -->\n", "a", ""), None, "no part, no text");
    }

    #[test]
    fn columns_line_up() {
        let row = |cells: [&str; 2]| Vec::from(cells.map(str::to_owned));
        let text = table(&[row(["what", "n"]), row(["a long näme", "7"])]);
        let lengths: Vec<usize> = text.lines().map(|l| l.chars().count()).collect();
        assert_eq!(lengths, vec![lengths[0]; 3], "{text}");
        assert_eq!(table(&[]), "");
    }
}
