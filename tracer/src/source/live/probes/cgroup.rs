//! Where the cgroup v2 tree is.

use std::{cmp::Reverse, io, path::PathBuf};

/// Where cgroup v2 is mounted.
///
/// # Errors
/// When it is not.
pub fn cgroup_root() -> io::Result<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    cgroup_mount(&text).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::NotFound,
            "no cgroup2 file system is mounted; mount it with \
             `mount -t cgroup2 none /sys/fs/cgroup/unified`",
        )
    })
}

/// The mount that shows most of the tree, and of several the one with the shortest path. Seen from
/// a cgroup namespace of our own (a container), a mount's root is told relative to our cgroup: the
/// host's whole tree is `/../..`, and `/` only ourselves.
fn cgroup_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            let mut fields = mount.split(' ').skip(3);
            let (root, place) = (fields.next()?, fields.next()?);
            kind.starts_with("cgroup2 ").then_some((root, place))
        })
        .min_by_key(|(root, place)| {
            let (up, down): (Vec<&str>, Vec<&str>) =
                root.split('/').filter(|part| !part.is_empty()).partition(|part| *part == "..");
            (Reverse(up.len()), down.len(), place.len())
        })
        .map(|(_, place)| PathBuf::from(unescape(place)))
}

/// mountinfo writes space, tab, newline and backslash in octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_cgroup_mount() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime shared:9 - cgroup2 cgroup2 rw";
        assert_eq!(cgroup_mount(hybrid), Some(PathBuf::from("/sys/fs/cgroup/uni fied")));
        let nested = "1 0 0:1 /a/b /inner rw - cgroup2 c rw\n2 0 0:1 / /whole rw - cgroup2 c rw";
        assert_eq!(cgroup_mount(nested), Some(PathBuf::from("/whole")));
        let contained = "1 0 0:1 / /sys/fs/cgroup ro - cgroup2 c rw
2 0 0:1 /../../.. /host/sys/fs/cgroup ro - cgroup2 c rw
3 0 0:1 /../other /elsewhere ro - cgroup2 c rw";
        assert_eq!(cgroup_mount(contained), Some(PathBuf::from("/host/sys/fs/cgroup")));
        assert_eq!(cgroup_mount("rubbish\n - cgroup2 x"), None);
    }
}
