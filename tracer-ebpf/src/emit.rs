//! Writing records: a slot of constant size is reserved in the ring and filled in place. Nothing
//! is staged in per-CPU memory, so a softirq hook can interrupt a process hook without harm.

use core::{mem::MaybeUninit, ptr::addr_of_mut};

use aya_ebpf::{
    helpers::generated::{bpf_get_current_comm, bpf_get_smp_processor_id, bpf_ktime_get_boot_ns},
    maps::{RingBuf, ring_buf::RingBufEntry},
};
use tracer_common::{
    limits::COMM_LEN,
    record::{RecordHeader, WIRE_VERSION},
};

use crate::maps::COUNTERS;

/// A record without payload.
#[repr(C)]
pub struct Record<B> {
    pub header: RecordHeader,
    pub body: B,
}

/// A record with room for `N` bytes of payload.
#[repr(C)]
pub struct Carrier<B, const N: usize> {
    pub header: RecordHeader,
    pub body: B,
    pub data: [MaybeUninit<u8>; N],
}

/// Whose fact it is; 0 is unknown everywhere.
#[derive(Clone, Copy)]
pub struct Subject {
    pub pid_tgid: u64,
    pub cgroup_id: u64,
    pub cookie: u64,
}

/// Which of the [`Counters`] moves.
#[derive(Clone, Copy)]
pub enum Count {
    Seen,
    Lost,
    MapFull,
    Cut,
    Unreadable,
}

/// Adds one to a counter of the probe on this CPU.
#[inline(always)]
pub fn count(probe: u16, what: Count) {
    let Some(counters) = COUNTERS.get_ptr_mut(u32::from(probe)) else { return };
    // SAFETY: the pointer is this CPU's live map value; atomic because an interrupt may run the
    // same program on this CPU in between.
    unsafe {
        let field = match what {
            Count::Seen => addr_of_mut!((*counters).seen),
            Count::Lost => addr_of_mut!((*counters).lost),
            Count::MapFull => addr_of_mut!((*counters).map_full),
            Count::Cut => addr_of_mut!((*counters).cut),
            Count::Unreadable => addr_of_mut!((*counters).unreadable),
        };
        core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) field, in(reg) 1_u64, options(nostack));
    }
}

/// A slot in the ring, or a counted loss.
#[inline(always)]
pub fn reserve<T: 'static>(ring: &RingBuf, probe: u16) -> Option<RingBufEntry<T>> {
    let slot = ring.reserve::<T>(0);
    count(probe, if slot.is_some() { Count::Seen } else { Count::Lost });
    slot
}

/// Fills a header; the thread name is left zero.
///
/// # Safety
/// `header` must be valid for writes.
#[inline(always)]
pub unsafe fn head(
    header: *mut RecordHeader,
    kind: u16,
    probe: u16,
    len: u32,
    flags: u8,
    who: &Subject,
) {
    // SAFETY: per the contract; the helpers have no preconditions.
    unsafe {
        addr_of_mut!((*header).version).write(WIRE_VERSION);
        addr_of_mut!((*header).flags).write(flags);
        addr_of_mut!((*header).kind).write(kind);
        addr_of_mut!((*header).len).write(len);
        addr_of_mut!((*header).boot_ns).write(bpf_ktime_get_boot_ns());
        addr_of_mut!((*header).cgroup_id).write(who.cgroup_id);
        addr_of_mut!((*header).cookie).write(who.cookie);
        addr_of_mut!((*header).tgid).write((who.pid_tgid >> 32) as u32);
        addr_of_mut!((*header).tid).write(who.pid_tgid as u32);
        addr_of_mut!((*header).cpu).write(bpf_get_smp_processor_id() as u32);
        addr_of_mut!((*header).probe).write(probe);
        zero::<1>(addr_of_mut!((*header).pad).cast());
        zero::<{ COMM_LEN / 2 }>(addr_of_mut!((*header).comm).cast());
    }
}

/// Zeroes `N` half words, one by one: a call of `memset` would be a second function in the
/// program, and Linux before 6.4 verifies programs of several functions by brute force.
///
/// # Safety
/// `at` must be valid for writes of `N` half words and aligned to one.
#[inline(always)]
pub unsafe fn zero<const N: usize>(at: *mut u16) {
    let mut n = 0;
    while n < N {
        // SAFETY: per the contract.
        unsafe { at.add(n).write_volatile(0) };
        n += 1;
    }
}

/// Adds the current thread's name; only for hooks in process context.
///
/// # Safety
/// `header` must be valid for writes.
#[inline(always)]
pub unsafe fn comm(header: *mut RecordHeader) {
    // SAFETY: per the contract; the helper writes at most COMM_LEN bytes and zeroes on failure.
    unsafe {
        bpf_get_current_comm(addr_of_mut!((*header).comm).cast(), COMM_LEN as u32);
    }
}

/// `len` limited to 1..=`N` in a way that the compiler cannot move away from the call that needs
/// it: Linux 5.10 forgets the bounds of a number that was spilled to the stack. `N` is a power of 2.
#[inline(always)]
pub fn bounded<const N: usize>(len: u32) -> u32 {
    const { assert!(N.is_power_of_two()) };
    let mut less_one = u64::from(len.wrapping_sub(1));
    // SAFETY: one arithmetic instruction on a register that we own.
    unsafe {
        core::arch::asm!("{0} &= {1}", inout(reg) less_one, const N - 1, options(pure, nomem, nostack));
    }
    (less_one + 1) as u32
}

/// The same number, of which the compiler knows nothing more.
#[inline(always)]
pub fn opaque(mut number: u64) -> u64 {
    // SAFETY: adds nothing. Not a mere comment: two line records at one instruction are refused.
    unsafe {
        core::arch::asm!("{0} += 0", inout(reg) number, options(pure, nomem, nostack));
    }
    number
}

/// The same number, of which the verifier knows nothing more: paths that meet then look alike and
/// the rest of the program is verified once instead of once for each path.
#[inline(always)]
pub fn forgotten(mut number: u64) -> u64 {
    // SAFETY: two instructions on a register that we own, which undo each other.
    unsafe {
        core::arch::asm!("{0} = -{0}", "{0} = -{0}", inout(reg) number, options(pure, nomem, nostack));
    }
    number
}
