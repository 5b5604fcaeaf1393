//! Figures and lists in plain words, for titles and causes.

use std::net::SocketAddr;

use crate::event::Protocol;
use crate::identify::Identifier;
use crate::report::Identity;

/// A duration with three significant figures or so: `10.0 s`, `12.3 ms`, `450 µs`.
pub(crate) fn time(ns: u64) -> String {
    let (whole, unit) = match ns {
        1_000_000_000.. => (1_000_000_000, "s"),
        1_000_000.. => (1_000_000, "ms"),
        _ => return format!("{} µs", ns / 1_000),
    };
    let tenths = (ns + whole / 20) / (whole / 10);
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// `1 query`, `4 queries`.
pub(crate) fn count(n: usize, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {many}") }
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
    if name == plain { plain } else { format!("{plain} ({name})") }
}

/// A process or pod in words.
pub(crate) fn who(identity: &Identity) -> String {
    let pod = match (&identity.namespace, &identity.pod) {
        (Some(ns), Some(pod)) => Some(format!("{ns}/{pod}")),
        (None, Some(pod)) => Some(pod.clone()),
        _ => None,
    };
    match (pod, &identity.comm, identity.pid) {
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
    fn figures() {
        assert_eq!(time(10_005_900_000), "10.0 s");
        assert_eq!(time(999_960_000), "1000.0 ms");
        assert_eq!(time(12_340_000), "12.3 ms");
        assert_eq!(time(450_900), "450 µs");
        let items = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(list(&items, 3), "a, b and c");
        assert_eq!(list(&items, 2), "a, b and 1 more");
        assert_eq!(list(&items[..1], 2), "a");
    }
}
