//! Lists, addresses and identities in plain words, for titles and causes.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::context::Origin;
use crate::event::Protocol;
use crate::identify::Identifier;
use crate::report::Identity;
pub(crate) use crate::words::duration as time;

/// Names kept of one finding.
const NAMES_MAX: usize = 256;

/// Adds names, as long as there is room.
pub(crate) fn add(names: &mut BTreeSet<String>, more: BTreeSet<String>) {
    for name in more {
        if names.len() >= NAMES_MAX {
            return;
        }
        names.insert(name);
    }
}

/// With a capital letter.
pub(crate) fn sentence(text: &str) -> String {
    let mut rest = text.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}

/// `1 query`, `4 queries`.
pub(crate) fn count(n: usize, one: &str, many: &str) -> String {
    crate::words::count(n as u64, one, many)
}

/// Several durations: one that stands for all where they hardly differ.
pub(crate) fn times(all: &[u64]) -> String {
    let (Some(least), Some(most)) = (all.iter().min(), all.iter().max()) else {
        return String::new();
    };
    if all.len() > 1 && most - least <= most / 20 {
        return format!("{} each time", time(*most));
    }
    list(&all.iter().map(|ns| time(*ns)).collect::<Vec<_>>(), 4)
}

/// `a`, `a and b`, `a, b and 3 more`.
pub(crate) fn list(items: &[String], most: usize) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        _ if items.len() <= most => {
            let (last, rest) = items.split_at(items.len() - 1);
            format!("{} and {}", last.join(", "), rest.join(""))
        }
        _ => {
            let shown = items.get(..most).unwrap_or(items);
            format!("{} and {} more", shown.join(", "), items.len() - shown.len())
        }
    }
}

/// An address, with what it is where that is known.
pub(crate) fn address(addr: SocketAddr, who: &Identifier) -> String {
    let (plain, name) = (addr.to_string(), who.address_name(addr, Protocol::Udp));
    if name == plain { plain } else { one_line(format!("{plain} ({name})")) }
}

/// A name from a capture or a process stays within its sentence: what follows a line break in a
/// remedy is taken for something to paste.
fn one_line(text: String) -> String {
    if text.contains(char::is_control) { text.replace(char::is_control, " ") } else { text }
}

/// A process or pod in words.
pub(crate) fn who(identity: &Identity) -> String {
    one_line(plain_who(identity))
}

fn plain_who(identity: &Identity) -> String {
    let pod = match (&identity.namespace, &identity.pod) {
        (Some(ns), Some(pod)) => Some(format!("{ns}/{pod}")),
        (None, Some(pod)) => Some(pod.clone()),
        _ => None,
    };
    match (pod, &identity.comm, identity.pid) {
        (Some(pod), _, _) if identity.named_by == Some(Origin::Proc) => {
            format!("pod {pod} (guessed)")
        }
        (Some(pod), _, _) => format!("pod {pod}"),
        (None, Some(comm), Some(pid)) => format!("{comm} (pid {pid})"),
        (None, Some(comm), None) => comm.clone(),
        (None, None, Some(pid)) => format!("process {pid}"),
        (None, None, None) => match &identity.cgroup {
            Some(cgroup) => format!("cgroup {cgroup}"),
            None => identity.address.map_or_else(|| "a client".to_owned(), |a| a.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_begin_a_line() {
        let comm = Some("x\nkubectl -n".to_owned());
        assert_eq!(who(&Identity { comm, ..Identity::default() }), "x kubectl -n");
    }

    #[test]
    fn lists() {
        let items = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(list(&items, 3), "a, b and c");
        assert_eq!(list(&items, 2), "a, b and 1 more");
        assert_eq!(list(&items[..1], 2), "a");
        assert_eq!(times(&[5_004_000_000, 5_006_000_000]), "5.01 s each time");
        assert_eq!(times(&[2_500_000_000, 5_000_000_000]), "2.50 s and 5.00 s");
        assert_eq!(times(&[5_000_000_000]), "5.00 s");
    }
}
