//! One module a family of hooks, and the addresses they share.

/// Reads a 32-bit field of a hook's context with the pointer as the kernel gave it: the verifier
/// refuses any other, and the compiler would merge reads of two branches into one through a
/// computed pointer.
macro_rules! context_field {
    ($ctx:expr, $type:ty, $($field:tt)+) => {{
        let context: *mut $type = $ctx;
        let value: u64;
        #[allow(unused_unsafe, reason = "also used inside unsafe blocks")]
        // SAFETY: one load within the context; the verifier checks the offset.
        unsafe {
            core::arch::asm!(
                "{value} = *(u32 *)({context} + {offset})",
                value = out(reg) value,
                context = in(reg) context,
                offset = const core::mem::offset_of!($type, $($field)+),
                options(readonly, nostack),
            );
        }
        value as u32
    }};
}
/// Four words of a context, as [`context_field`] reads one.
macro_rules! context_words {
    ($ctx:expr, $type:ty, $($field:tt)+) => {{
        let context: *mut $type = $ctx;
        let (a, b, c, d): (u64, u64, u64, u64);
        #[allow(unused_unsafe, reason = "also used inside unsafe blocks")]
        // SAFETY: four loads within the context; the verifier checks the offsets.
        unsafe {
            core::arch::asm!(
                "{a} = *(u32 *)({context} + {at0})",
                "{b} = *(u32 *)({context} + {at1})",
                "{c} = *(u32 *)({context} + {at2})",
                "{d} = *(u32 *)({context} + {at3})",
                a = out(reg) a,
                b = out(reg) b,
                c = out(reg) c,
                d = out(reg) d,
                context = in(reg) context,
                at0 = const core::mem::offset_of!($type, $($field)+),
                at1 = const core::mem::offset_of!($type, $($field)+) + 4,
                at2 = const core::mem::offset_of!($type, $($field)+) + 8,
                at3 = const core::mem::offset_of!($type, $($field)+) + 12,
                options(readonly, nostack),
            );
        }
        [a as u32, b as u32, c as u32, d as u32]
    }};
}

mod packet;
mod process;
mod sockaddr;
mod syscall;
mod tcp;
mod wire;

use core::ptr::addr_of_mut;

use tracer_common::{
    bodies::{AF_INET, AF_INET6, Address},
    maps::PeerKey,
};

use crate::emit::zero;

/// `::ffff:0:0/96` as the third word in memory order.
const MAPPED: u32 = 0xffff_u32.to_be();

/// An IPv6 address, or an IPv4 one mapped into it, as four words in memory order.
pub type Words = [u32; 4];

/// IPv4 in the mapped form.
#[inline(always)]
pub fn mapped(v4: u32) -> Words {
    [0, 0, MAPPED, v4]
}

/// Writes the wire form; mapped addresses become IPv4, as the packets on the wire are.
///
/// # Safety
/// `to` must be valid for writes and, as in all our records, aligned to a word.
#[inline(always)]
pub unsafe fn put_address(to: *mut Address, words: Words, port: u16) {
    let v4 = words[0] == 0 && words[1] == 0 && words[2] == MAPPED;
    // SAFETY: per the contract; 16 bytes are four words.
    unsafe {
        let addr = addr_of_mut!((*to).addr).cast::<u32>();
        addr_of_mut!((*to).port).write(port);
        addr_of_mut!((*to).family).write(if v4 { AF_INET } else { AF_INET6 });
        addr.write_volatile(if v4 { words[3] } else { words[0] });
        addr.add(1).write_volatile(words[1]);
        addr.add(2).write_volatile(if v4 { 0 } else { words[2] });
        addr.add(3).write_volatile(if v4 { 0 } else { words[3] });
    }
}

/// Writes that there is no address.
///
/// # Safety
/// `to` must be valid for writes.
#[inline(always)]
pub unsafe fn put_no_address(to: *mut Address) {
    // SAFETY: per the contract; an address is half words only.
    unsafe { zero::<{ size_of::<Address>() / 2 }>(to.cast()) };
}

/// The key under which a target's address is known.
#[inline(always)]
pub fn peer_key(words: Words, port: u16) -> PeerKey {
    let v4_loopback =
        words[0] == 0 && words[1] == 0 && words[2] == MAPPED && u32::from_be(words[3]) >> 24 == 127;
    let v6_loopback = words[0] == 0 && words[1] == 0 && words[2] == 0 && words[3] == 1_u32.to_be();
    // SAFETY: 16 plain bytes either way.
    let addr = unsafe { core::mem::transmute::<Words, [u8; 16]>(words) };
    PeerKey { addr, port: if v4_loopback || v6_loopback { port } else { 0 }, pad: 0 }
}
