//! One module a family of hooks, and the addresses they share.

mod packet;
mod process;
mod sockaddr;
mod syscall;
mod tcp;

use tracer_common::{
    bodies::{AF_INET, AF_INET6, Address},
    maps::PeerKey,
};

/// `::ffff:0:0/96` as the third word in memory order.
const MAPPED: u32 = 0xffff_u32.to_be();

/// An IPv6 address, or an IPv4 one mapped into it, as four words in memory order.
pub type Words = [u32; 4];

/// IPv4 in the mapped form.
#[inline(always)]
pub fn mapped(v4: u32) -> Words {
    [0, 0, MAPPED, v4]
}

/// The wire form; mapped addresses become IPv4, as the packets on the wire are.
#[inline(always)]
pub fn address(words: Words, port: u16) -> Address {
    let v4 = words[0] == 0 && words[1] == 0 && words[2] == MAPPED;
    let stored = if v4 { [words[3], 0, 0, 0] } else { words };
    // SAFETY: 16 plain bytes either way.
    let addr = unsafe { core::mem::transmute::<Words, [u8; 16]>(stored) };
    Address { family: if v4 { AF_INET } else { AF_INET6 }, port, addr }
}

/// The key under which a target's address is known.
#[inline(always)]
pub fn peer_key(words: Words, port: u16) -> PeerKey {
    let v4_loopback = words[0] == 0
        && words[1] == 0
        && words[2] == MAPPED
        && u32::from_be(words[3]) >> 24 == 127;
    let v6_loopback =
        words[0] == 0 && words[1] == 0 && words[2] == 0 && words[3] == 1_u32.to_be();
    // SAFETY: 16 plain bytes either way.
    let addr = unsafe { core::mem::transmute::<Words, [u8; 16]>(words) };
    PeerKey { addr, port: if v4_loopback || v6_loopback { port } else { 0 }, pad: 0 }
}
