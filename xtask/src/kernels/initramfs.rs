//! A system just large enough for the binary and the lab: busybox, an init script, this system's own
//! programs with their libraries, and a kernel's modules.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{fetch, modules, tools};

const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 cgroup /sys/fs/cgroup
hostname guest
ip link set lo up
echo "=== kernel $(uname -r)"
for module in /modules/*; do insmod "$module" || echo "cannot load $module"; done
svctrace probes
echo "=== exit $?"
if [ -d /sys/kernel/btf ]; then mount -t tmpfs none /sys/kernel/btf; fi
svctrace probes > /tmp/probes && echo "check without-btf ok" || echo "check without-btf FAILED"
if [ -d /sys/kernel/btf ]; then umount /sys/kernel/btf; fi
xtask guest --binary /bin/svctrace --own-clock
echo "=== end"
poweroff -f
"#;

const PASSWD: &str = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";
const NSSWITCH: &str = "passwd: files\ngroup: files\nhosts: files dns\n";

/// Writes what all guests share and says where.
pub(super) fn build(work: &Path, binary: &Path, refresh: bool) -> Result<PathBuf> {
    let busybox = fs::read(fetch::busybox(work, refresh)?)?;
    let mut archive = Archive::default();
    for dir in ["bin", "dev", "proc", "sys", "tmp", "run", "var/log", "modules"] {
        archive.folders(Path::new(dir))?;
    }
    archive.file(Path::new("bin/busybox"), 0o755, &busybox)?;
    archive.file(Path::new("bin/svctrace"), 0o755, &fs::read(binary)?)?;
    archive.file(Path::new("init"), 0o755, INIT.as_bytes())?;
    for (path, text) in [
        ("etc/passwd", PASSWD),
        ("etc/group", GROUP),
        ("etc/nsswitch.conf", NSSWITCH),
        ("etc/resolv.conf", ""),
        ("etc/hosts", "127.0.0.1 localhost\n"),
    ] {
        archive.file(Path::new(path), 0o644, text.as_bytes())?;
    }
    for (place, file) in tools::collect(&fetch::ipvsadm(work, refresh)?)? {
        let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        archive.file(place.strip_prefix("/").unwrap_or(&place), 0o755, &content)?;
    }
    let path = work.join("initramfs.cpio");
    fs::write(&path, archive.finish()?)?;
    Ok(path)
}

/// Writes the image for one kernel: the shared part, then its modules. The kernel unpacks archives
/// that follow each other into one tree.
pub(super) fn with_modules(shared: &Path, unpacked: &Path, label: &str) -> Result<PathBuf> {
    let mut archive = Archive::default();
    archive.folders(Path::new("modules"))?;
    for (name, content) in modules::collect(unpacked)? {
        archive.file(&Path::new("modules").join(name), 0o644, &content)?;
    }
    let mut bytes = fs::read(shared)?;
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(archive.finish()?);
    let path = shared.with_file_name(format!("initramfs-{label}.cpio"));
    fs::write(&path, bytes)?;
    Ok(path)
}

/// A cpio archive in the kernel's format "newc".
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    made: BTreeSet<PathBuf>,
}

impl Archive {
    /// A folder, after those it is in.
    fn folders(&mut self, path: &Path) -> Result<()> {
        let parents: Vec<&Path> = path.ancestors().filter(|p| !p.as_os_str().is_empty()).collect();
        for folder in parents.into_iter().rev() {
            if self.made.insert(folder.to_path_buf()) {
                self.add(&folder.to_string_lossy(), 0o040_755, &[])?;
            }
        }
        Ok(())
    }

    /// A file, after the folders it is in.
    fn file(&mut self, path: &Path, mode: u32, data: &[u8]) -> Result<()> {
        if let Some(folder) = path.parent() {
            self.folders(folder)?;
        }
        self.add(&path.to_string_lossy(), 0o100_000 | mode, data)
    }

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
