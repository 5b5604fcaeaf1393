//! A loader that leaves the kernel's own type information alone: no probe needs it, and to read all
//! of it takes more time and memory than everything else up to the attachment. Loads nothing itself.

use std::io;
use std::thread;

use aya::EbpfLoader;
use nix::libc;

/// `LANDLOCK_ACCESS_FS_READ_FILE`.
const READ_FILE: u64 = 1 << 2;

/// aya reads that information when a loader is made, whether it is wanted or not; where it cannot
/// be read, it does without. So the loader is made in a thread of its own that can read no file.
pub(super) fn loader() -> EbpfLoader<'static> {
    let made = thread::Builder::new().name("loader".to_owned()).spawn(|| {
        if let Err(error) = read_nothing() {
            tracing::debug!("the kernel's type information is read: {error}");
        }
        EbpfLoader::new()
    });
    let made = made.ok().and_then(|thread| thread.join().ok());
    let mut loader = made.unwrap_or_default();
    loader.btf(None);
    loader
}

/// This thread opens no file for reading from now on. Linux before 5.13 cannot do that.
fn read_nothing() -> io::Result<()> {
    // As in linux/landlock.h, first version.
    let rules: u64 = READ_FILE;
    let size = size_of_val(&rules);
    // SAFETY: plain numbers; it changes this thread only.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
    // SAFETY: the attributes are `size` bytes that live through the call.
    let set = check(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const rules, size, 0)
    })?;
    // SAFETY: a descriptor that was just made; it changes this thread only.
    let restricted = check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, set, 0) });
    // SAFETY: nobody else knows the descriptor.
    unsafe { libc::close(i32::try_from(set).unwrap_or(-1)) };
    restricted.map(drop)
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_that_thread_reads_no_file() {
        let there = thread::spawn(|| {
            read_nothing().ok()?;
            Some(std::fs::read("/proc/self/status").is_err())
        });
        // `None`: this kernel has no Landlock.
        assert_ne!(there.join().unwrap(), Some(false));
        assert!(std::fs::read("/proc/self/status").is_ok());
    }
}
