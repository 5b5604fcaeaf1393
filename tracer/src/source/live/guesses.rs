//! The last resort: which pod a process says to be in, by its host name and its search list. Of the
//! environment only `HOSTNAME` is looked at, and nothing of it is kept.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use super::{bounded, plain};
use crate::context::{Origin, Pod};

/// Most bytes of an environment or resolv.conf read.
const READ_MAX: u64 = 256 << 10;

/// A guess at the pod `uid` that process `pid` is in; `None` for host-network pods, whose host name
/// is the node's.
pub(super) fn pod(pid: u32, uid: &str, hostname: &str) -> Option<Pod> {
    let environment = File::open(format!("/proc/{pid}/environ")).ok()?;
    let name = host_name(environment)?;
    if !plain::name(&name) || name == hostname {
        return None;
    }
    let conf = format!("/proc/{pid}/root/etc/resolv.conf");
    let namespace = namespace(&bounded::text(Path::new(&conf), READ_MAX)).unwrap_or_default();
    Some(Pod { uid: uid.to_owned(), namespace, name, origin: Origin::Proc, ..Pod::default() })
}

/// The value of `HOSTNAME`; other variables are dropped as they are read.
fn host_name(environment: impl std::io::Read) -> Option<String> {
    let mut reader = BufReader::new(environment.take(READ_MAX));
    let mut variable = Vec::new();
    loop {
        variable.clear();
        if reader.read_until(0, &mut variable).ok()? == 0 {
            return None;
        }
        let variable = variable.strip_suffix(&[0]).unwrap_or(&variable);
        if let Some(value) = variable.strip_prefix(b"HOSTNAME=") {
            return String::from_utf8(value.to_vec()).ok();
        }
    }
}

/// Kubelet writes `NAMESPACE.svc.DOMAIN` first into the search list.
fn namespace(conf: &str) -> Option<String> {
    let search = conf.lines().rev().find_map(|line| line.trim().strip_prefix("search"))?;
    let (namespace, rest) = search.split_whitespace().next()?.split_once('.')?;
    (rest.starts_with("svc.") && plain::name(namespace)).then(|| namespace.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_name_and_search_list() {
        let name = |text: &[u8]| host_name(text);
        assert_eq!(name(b"TOKEN=x\0HOSTNAME=client-0\0A=b\0").as_deref(), Some("client-0"));
        assert_eq!(name(b"XHOSTNAME=a\0"), None);
        assert_eq!(name(b""), None);
        let conf = "nameserver 10.96.0.10\nsearch shop.svc.one.test svc.one.test\n";
        assert_eq!(namespace(conf).as_deref(), Some("shop"));
        assert_eq!(namespace("search corp.example\n"), None);
        assert_eq!(namespace("search Sh\u{1b}op.svc.one.test\n"), None);
    }
}
