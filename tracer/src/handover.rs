//! The descriptors that the agent leaves open for the pipeline process.

use std::fs::{self, File};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;

use anyhow::{Result, ensure};

/// Takes over the socket that was inherited under this number. Called once.
pub(crate) fn socket(number: i32) -> Result<OwnedFd> {
    let open = fs::metadata(format!("/proc/self/fd/{number}"));
    let socket = number > 2 && open.is_ok_and(|file| file.file_type().is_socket());
    ensure!(
        socket,
        "pipeline: descriptor {number} is no socket; svctrace starts this process itself"
    );
    // SAFETY: it is open, and nothing else in this process knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Takes over an open file that was inherited under this number. Called once for each.
pub(crate) fn file(number: i32) -> Result<File> {
    let open = number > 2 && fs::metadata(format!("/proc/self/fd/{number}")).is_ok();
    ensure!(open, "pipeline: descriptor {number} is not open; svctrace starts this process itself");
    // SAFETY: it is open, and nothing else in this process knows its number.
    Ok(unsafe { File::from_raw_fd(number) })
}
