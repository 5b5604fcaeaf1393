//! The pages of docs/findings inside the program, for `svctrace explain`. Makes no findings.

use crate::report::Code;

const INDEX: &str = include_str!("../../docs/findings.md");

macro_rules! pages {
    ($($code:literal),* $(,)?) => {
        [$(($code, include_str!(concat!("../../docs/findings/", $code, ".md")))),*]
    };
}

const PAGES: &[(&str, &str)] = &pages![
    "upstream-timeout",
    "resolver-timeout",
    "resolver-unreachable",
    "aaaa-race",
    "dns-truncated",
    "slow-dns",
    "dns-error",
    "search-expansion",
    "foreign-suffix",
    "nxdomain",
    "events-lost",
];

/// What the page of a code is made of, in this order.
pub const HEADINGS: [&str; 4] =
    ["## What triggers it", "## What it does not mean", "## Remedy", "## Example"];

/// The page of a code (Markdown).
pub fn page(code: Code) -> Option<&'static str> {
    PAGES.iter().find(|(name, _)| *name == code.name()).map(|(_, page)| *page)
}

/// What a code says, in one line of the index.
pub fn line(code: Code) -> Option<&'static str> {
    let mut rows =
        INDEX.lines().filter_map(|row| row.strip_prefix("| [")?.split_once("](findings/"));
    let (_, rest) = rows.find(|(name, _)| *name == code.name())?;
    let (_, says) = rest.split_once(") | ")?;
    says.strip_suffix(" |")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_page() {
        for code in Code::ALL {
            let name = code.name();
            let page = page(code).unwrap_or_else(|| panic!("docs/findings/{name}.md is missing"));
            assert!(page.starts_with(&format!("# {name}\n")), "{name}");
            let places = HEADINGS.map(|heading| {
                let found = page.find(&format!("\n{heading}\n"));
                found.unwrap_or_else(|| panic!("{name} lacks {heading:?}"))
            });
            assert!(places.is_sorted(), "{name}: {places:?}");
            let ends = places.iter().skip(1).copied().chain([page.len()]);
            for (heading, (from, to)) in HEADINGS.iter().zip(places.iter().zip(ends)) {
                let said = page[*from..to].trim().len() - heading.len();
                assert!(said > 40, "{name} says nothing under {heading:?}");
            }
            // From a run, not made up: the finding's own line with this code.
            let example = &page[places[3]..];
            assert!(example.contains("```") && example.contains(&format!("] {name}")), "{name}");
            assert!(line(code).is_some_and(|says| !says.is_empty()), "{name} is not in the index");
        }
    }
}
