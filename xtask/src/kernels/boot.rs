//! Boots one kernel in qemu without hardware virtualisation and returns what it said.

use std::{
    fs::{self, File},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// The console's text, complete or as far as it came within `patience`.
pub(super) fn boot(kernel: &Path, image: &Path, log: &Path, patience: Duration) -> Result<String> {
    let console = File::create(log)?;
    let mut guest = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-cpu", "max", "-m", "1536", "-smp", "1"])
        .args(["-nodefaults", "-no-reboot", "-nographic", "-serial", "mon:stdio", "-kernel"])
        .arg(kernel)
        .arg("-initrd")
        .arg(image)
        .args(["-append", "console=ttyS0 panic=-1 quiet"])
        .stdin(Stdio::null())
        .stdout(console.try_clone()?)
        .stderr(console)
        .spawn()
        .context("cannot start qemu-system-x86_64")?;
    let end = Instant::now() + patience;
    while guest.try_wait()?.is_none() {
        if Instant::now() > end {
            guest.kill()?;
            guest.wait()?;
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    Ok(String::from_utf8_lossy(&fs::read(log)?).into_owned())
}
