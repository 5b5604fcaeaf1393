//! resolv.conf as glibc reads it (resolv.conf(5)). Absurd input is tolerated and noted; what other
//! resolver libraries make of the same file is the correlator's matter.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::ResolverConfig;
use crate::text;

const SERVERS_MAX: usize = 3;
const NDOTS_MAX: u32 = 15;
const TIMEOUT_MAX: u32 = 30;
const ATTEMPTS_MAX: u32 = 5;
/// glibc has no limit since 2.26; kubelet writes at most 32.
const SEARCH_MAX: usize = 64;
const NAME_MAX: usize = 253;
const STRANGE_MAX: usize = 16;
const OPTIONS_MAX: usize = 32;
/// Lines kept as they are, and characters of each.
const LINES_MAX: usize = 12;
const LINE_MAX: usize = 300;

/// Reads `text`, the file at `path`.
pub(super) fn parse(text: &str, path: &str) -> ResolverConfig {
    let mut config = ResolverConfig {
        ndots: 1,
        timeout_s: 5,
        attempts: 2,
        path: text::visible(path),
        ..ResolverConfig::default()
    };
    for line in text.lines() {
        if config.lines.len() < LINES_MAX {
            let start: String = line.chars().take(LINE_MAX).collect();
            config.lines.push(text::visible(&start));
        } else {
            config.more_lines += 1;
        }
        if line.starts_with(['#', ';']) || line.trim().is_empty() {
            continue;
        }
        if !understand(&mut config, line) {
            strange(&mut config, line);
        }
    }
    if config.servers.is_empty() {
        config.servers.push(IpAddr::V4(Ipv4Addr::LOCALHOST)); // what the resolver then asks
    }
    config
}

fn strange(config: &mut ResolverConfig, line: &str) {
    if config.strange.len() < STRANGE_MAX {
        let start: String = line.chars().take(200).collect();
        config.strange.push(text::escape(start.as_bytes()));
    }
}

/// Takes a line in; false if some of it means nothing.
fn understand(config: &mut ResolverConfig, line: &str) -> bool {
    // Keywords count only at the very start of a line.
    let (keyword, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    match keyword {
        "nameserver" => nameserver(config, rest),
        "search" => search(config, rest.split_whitespace()),
        "domain" => search(config, rest.split_whitespace().take(1)),
        "options" => {
            let unknown = rest.split_whitespace().filter(|word| !option(config, word)).count();
            unknown == 0
        }
        "sortlist" => true, // sorts answers, asks nothing
        _ => false,
    }
}

fn nameserver(config: &mut ResolverConfig, rest: &str) -> bool {
    let word = rest.split_whitespace().next().unwrap_or_default();
    let address = word.split('%').next().unwrap_or_default(); // fe80::1%eth0
    match address.parse::<IpAddr>() {
        Ok(ip) if config.servers.len() < SERVERS_MAX => {
            config.servers.push(ip.to_canonical());
            true
        }
        _ => false,
    }
}

/// The last `search` or `domain` line replaces those before it.
fn search<'a>(config: &mut ResolverConfig, words: impl Iterator<Item = &'a str>) -> bool {
    let search = Arc::make_mut(&mut config.search);
    search.clear();
    let mut fine = true;
    for word in words {
        let name = normal(word);
        if search.len() >= SEARCH_MAX || name.len() > NAME_MAX {
            fine = false;
        } else if !name.is_empty() {
            fine &= !name.starts_with(['#', ';']); // no comment to glibc: it asks for such names
            search.push(text::escape(name.as_bytes()));
        }
    }
    fine
}

/// A name as search lists are compared: lower case, no final dot.
pub(super) fn normal(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn option(config: &mut ResolverConfig, word: &str) -> bool {
    let number =
        |text: &str| text.parse::<u64>().ok().map(|n| u32::try_from(n).unwrap_or(u32::MAX));
    let (name, value) = word.split_once(':').unwrap_or((word, ""));
    match (name, number(value)) {
        ("ndots", Some(n)) => {
            config.ndots = n.min(NDOTS_MAX);
            n <= NDOTS_MAX
        }
        ("timeout", Some(n)) => {
            config.timeout_s = n.clamp(1, TIMEOUT_MAX);
            (1..=TIMEOUT_MAX).contains(&n)
        }
        ("attempts", Some(n)) => {
            config.attempts = n.clamp(1, ATTEMPTS_MAX);
            (1..=ATTEMPTS_MAX).contains(&n)
        }
        ("ndots" | "timeout" | "attempts", None) => false,
        _ if config.options.len() < OPTIONS_MAX => {
            config.options.push(text::escape(word.chars().take(64).collect::<String>().as_bytes()));
            true
        }
        _ => false,
    }
}

/// Line (from 1) of the `search` or `domain` line of `text` that holds `suffix`; the last one,
/// since that is the one in force.
pub(super) fn line_of_suffix(text: &str, suffix: &str) -> Option<u32> {
    let suffix = normal(suffix);
    let mut found = None;
    for (number, line) in (1u32..).zip(text.lines()) {
        let mut words = line.split_whitespace();
        if matches!(words.next(), Some("search" | "domain")) && words.any(|w| normal(w) == suffix) {
            found = Some(number);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_kubelet_writes_it() {
        let text = "search critical-app.svc.cluster.local svc.cluster.local cluster.local localdomain\n\
                    nameserver 10.96.0.10\noptions ndots:5 edns0\n";
        let config = parse(text, "/etc/resolv.conf");
        assert_eq!(config.servers, [IpAddr::from([10, 96, 0, 10])]);
        assert_eq!(
            *config.search,
            ["critical-app.svc.cluster.local", "svc.cluster.local", "cluster.local", "localdomain"]
        );
        assert_eq!((config.ndots, config.timeout_s, config.attempts), (5, 5, 2));
        assert_eq!((config.options, config.strange), (vec!["edns0".to_owned()], vec![]));
    }

    #[test]
    fn the_last_search_line_counts() {
        let config = parse("search a b\ndomain C.example.\n", "");
        assert_eq!(*config.search, ["c.example"]);
        let config = parse("domain c\nsearch a. B\n; search x\n#search y\n", "");
        assert_eq!(*config.search, ["a", "b"]);
        assert_eq!(*parse("search .\n", "").search, Vec::<String>::new());
    }

    #[test]
    fn limits_and_nonsense() {
        let text = "nameserver 1.1.1.1\nnameserver fe80::1%eth0\nnameserver ::ffff:2.2.2.2\n\
                    nameserver 3.3.3.3\nnameserver nonsense\n nameserver 4.4.4.4\n\
                    options ndots:99999999999 timeout:0 attempts:77 rotate\noptions ndots:x\n\
                    search a #b\nbogus \x1b[2J\n";
        let config = parse(text, "");
        assert_eq!(config.servers.len(), 3);
        assert_eq!(config.servers[2], IpAddr::from([2, 2, 2, 2]));
        assert_eq!((config.ndots, config.timeout_s, config.attempts), (15, 1, 5));
        assert_eq!(config.options, ["rotate"]);
        assert_eq!(*config.search, ["a", "#b"]);
        assert_eq!(config.strange.len(), 7, "{:?}", config.strange);
        assert_eq!(config.strange[6], "bogus \\x1b[2J");
    }

    #[test]
    fn empty_means_this_machine() {
        let config = parse("", "/etc/resolv.conf");
        assert_eq!(config.servers, [IpAddr::from([127, 0, 0, 1])]);
        assert_eq!(config.ndots, 1);
    }

    #[test]
    fn finds_the_line() {
        let text = "# search lab.example\nnameserver 1.1.1.1\nsearch corp.example Lab.Example.\n";
        assert_eq!(line_of_suffix(text, "lab.example"), Some(3));
        assert_eq!(line_of_suffix(text, "example"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text(text in "(?s).{0,300}", words in "((search|options|nameserver|domain|ndots:|\n| ).{0,5}){0,40}") {
            for text in [text, words] {
                let config = parse(&text, "x");
                assert!(config.ndots <= 15 && config.servers.len() <= 3 && !config.servers.is_empty());
                assert!(!config.search.iter().any(|s| s.chars().any(char::is_control)));
            }
        }
    }
}
