//! The smallest system that can run the binary: busybox, an init script, and nothing to install.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::fetch;

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up
echo "=== kernel $(uname -r)"
svctrace probes
echo "=== exit $?"
poweroff -f
"#;

/// Writes the image and says where.
pub(super) fn build(work: &Path, binary: &Path, refresh: bool) -> Result<PathBuf> {
    let busybox = fs::read(fetch::busybox(work, refresh)?)?;
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "proc", "sys", "tmp"] {
        archive.add(dir, 0o040_755, &[])?;
    }
    archive.add("bin/busybox", 0o100_755, &busybox)?;
    archive.add("bin/svctrace", 0o100_755, &fs::read(binary)?)?;
    archive.add("init", 0o100_755, INIT.as_bytes())?;
    let path = work.join("initramfs.cpio");
    fs::write(&path, archive.finish()?)?;
    Ok(path)
}

/// A cpio archive in the kernel's format "newc".
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, data: &[u8]) -> Result<()> {
        self.entries += 1;
        let (ino, size, name_size) =
            (self.entries, u32::try_from(data.len())?, u32::try_from(name.len() + 1)?);
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let fields = [ino, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            write!(self.bytes, "{field:08x}")?;
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Result<Vec<u8>> {
        self.add("TRAILER!!!", 0, &[])?;
        Ok(self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_closed() {
        let mut archive = Archive::default();
        archive.add("a", 0o100_644, b"12345").expect("fits");
        let bytes = archive.finish().expect("fits");
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.starts_with(b"070701"));
        // Header of 110 bytes, name of 2, data padded to 8.
        assert_eq!(&bytes[112..117], b"12345");
        assert_eq!(&bytes[120..126], b"070701");
    }
}
