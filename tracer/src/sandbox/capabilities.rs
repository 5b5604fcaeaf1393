//! The capability sets of the calling thread: shrunk, never grown.

use std::io;

use nix::libc;

use super::checked;

/// A capability: number in the kernel and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Bit in a set.
    pub bit: u32,
    /// Without `CAP_`.
    pub name: &'static str,
}

macro_rules! capabilities {
    ($($name:ident = $bit:literal),+ $(,)?) => {
        $(
            #[doc = concat!("CAP_", stringify!($name))]
            pub const $name: Capability = Capability { bit: $bit, name: stringify!($name) };
        )+
        const NAMED: &[Capability] = &[$($name),+];
    };
}

capabilities! {
    DAC_OVERRIDE = 1,
    DAC_READ_SEARCH = 2,
    KILL = 5,
    SETGID = 6,
    SETUID = 7,
    NET_ADMIN = 12,
    NET_RAW = 13,
    SYS_PTRACE = 19,
    SYS_ADMIN = 21,
    PERFMON = 38,
    BPF = 39,
}

/// More than any kernel has.
const BITS: u32 = 64;

/// As a set.
pub fn mask(all: &[Capability]) -> u64 {
    all.iter().fold(0, |mask, one| mask | 1 << one.bit)
}

/// Names of those in a set, by number where we never ask for one.
pub(super) fn names(set: u64) -> String {
    let name = |bit: u32| {
        let known = NAMED.iter().find(|one| one.bit == bit);
        known.map_or_else(|| bit.to_string(), |one| one.name.to_owned())
    };
    let names: Vec<_> = (0..BITS).filter(|bit| set & (1 << bit) != 0).map(name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

/// `struct __user_cap_header_struct`, version 3, of the calling thread.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

impl Header {
    fn own() -> Self {
        Self { version: 0x2008_0522, pid: 0 }
    }
}

/// `struct __user_cap_data_struct`: 32 bits of each set.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// What this thread may make effective.
///
/// # Errors
/// Where the system call is forbidden.
pub fn permitted() -> io::Result<u64> {
    let mut header = Header::own();
    let mut data = [Data::default(); 2];
    // SAFETY: version 3 of the header goes with an array of two, and both outlive the call.
    checked(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    Ok(u64::from(data[0].permitted) | u64::from(data[1].permitted) << 32)
}

/// Shrinks the permitted and effective sets to what of `kept` there is, which it returns, and
/// empties the inheritable one.
pub(super) fn limit(kept: u64) -> io::Result<u64> {
    let left = permitted()? & kept;
    let mut header = Header::own();
    let half = |shift: u32| {
        let bits = (left >> shift) as u32;
        Data { effective: bits, permitted: bits, inheritable: 0 }
    };
    let data = [half(0), half(32)];
    // SAFETY: as above; the kernel only reads.
    checked(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })?;
    Ok(left)
}

/// Shrinks the bounding set: what a program run from here could get at most.
pub(super) fn bound(kept: u64) -> io::Result<()> {
    for bit in (0..BITS).filter(|bit| kept & (1 << bit) == 0) {
        match control(libc::PR_CAPBSET_READ, bit.into()) {
            Ok(0) => {}
            Ok(_) => drop(control(libc::PR_CAPBSET_DROP, bit.into())?),
            // This kernel has no more.
            Err(_) => break,
        }
    }
    Ok(())
}

/// Empties the ambient set, which programs run from here would get.
pub(super) fn clear_ambient() -> io::Result<()> {
    control(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong).map(drop)
}

/// prctl(2) with numbers only.
fn control(option: libc::c_int, value: libc::c_ulong) -> io::Result<libc::c_long> {
    let none: libc::c_ulong = 0;
    // SAFETY: with these options the arguments are numbers and no memory is touched.
    checked(unsafe { libc::prctl(option, value, none, none, none) }.into())
}
