//! Datagrams at the door of a target's network namespace (`--wire`): answers that targets wait for, and
//! ICMP errors about their queries, whether they reach a socket or not. Only what is addressed to a
//! port that asked with this DNS id leaves the kernel. No fragments behind the first, no TCP.

use aya_ebpf::{
    bindings::__sk_buff, helpers::generated::bpf_ktime_get_boot_ns, macros::socket_filter,
    programs::SkBuffContext,
};
use tracer_common::{
    bodies::{DIRECTION_IN, PACKET_DNS, role},
    maps::{Awaited, AwaitedKey},
    record::{kind, probe},
};

use super::{
    Words,
    packet::{Fact, Parsed, UDP, emit, forgotten_word, load, network},
};
use crate::{
    emit::{Count, count, forgotten},
    filter::config,
    maps::AWAITED,
};

const ICMP: u64 = 1;
const ICMP_V6: u64 = 58;
/// In front of the packet that an ICMP error is about.
const ICMP_HEADER: u64 = 8;
const UDP_HEADER: u32 = 8;
/// Enough of an ICMP error for two headers of IPv6 and the longest question.
const ICMP_SNAP: u32 = 512;
/// QR bit.
const RESPONSE: u16 = 0x8000;
/// How long an answer is awaited.
const AWAITED_NS: u64 = 60_000_000_000;

/// Notes what the answer to this query will look like. `who`: cookie and cgroup of its socket.
#[inline(always)]
pub fn await_answer(skb: *mut __sk_buff, p: &Parsed, who: (u64, u64), probe: u16) {
    let Some(dns) = load::<[u16; 2]>(skb, p.payload) else { return };
    if u16::from_be(dns[1]) & RESPONSE != 0 {
        return;
    }
    let key = key(p.src, p.sport, dns[0]);
    // SAFETY: a helper without preconditions.
    let asked_boot_ns = unsafe { bpf_ktime_get_boot_ns() };
    let awaited = Awaited { asked_boot_ns, cookie: who.0, cgroup_id: who.1 };
    if AWAITED.insert(key, awaited, 0).is_err() {
        count(probe, Count::MapFull);
    }
}

#[socket_filter]
pub fn wire(ctx: SkBuffContext) -> i64 {
    look(ctx.skb.skb);
    // Nothing for the socket that this hangs on: nobody reads it.
    0
}

/// Nothing is counted as unreadable here: what passes has not been checked, and most is not ours.
#[inline(always)]
fn look(skb: *mut __sk_buff) -> Option<()> {
    let config = config()?;
    let outer = network(skb, 0)?;
    let error = is_error(skb, outer.version, outer.protocol, outer.transport as u32);
    let (mut protocol, mut transport) = (outer.protocol, outer.transport);
    let mut own = outer.dst;
    if error {
        let inner = network(skb, (outer.transport + ICMP_HEADER) as u32)?;
        (protocol, transport, own) = (inner.protocol, inner.transport, inner.src);
    }
    if forgotten(protocol) != UDP {
        return None;
    }
    let at = forgotten(transport) as u32;
    let own = own.map(forgotten_word);
    let ports = load::<[u16; 2]>(skb, at)?;
    let dns = load::<[u16; 2]>(skb, at + UDP_HEADER)?;
    // The answer comes to who asked; what an error quotes comes from there.
    let port = u16::from_be(if error { ports[0] } else { ports[1] });
    if (u16::from_be(dns[1]) & RESPONSE != 0) == error {
        return None;
    }
    // SAFETY: a plain read of a live map value.
    let awaited = *unsafe { AWAITED.get(key(own, port, dns[0])) }?;
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if now.wrapping_sub(awaited.asked_boot_ns) >= AWAITED_NS {
        return None;
    }
    emit(
        skb,
        &Fact {
            kind: kind::WIRE,
            version: outer.version,
            protocol: outer.protocol,
            transport: outer.transport as u32,
            probe: probe::WIRE,
            role: role::TARGET,
            direction: DIRECTION_IN,
            flags: PACKET_DNS,
            intended_port: 0,
            limit: if error { ICMP_SNAP } else { config.snap_len },
            cookie: awaited.cookie,
            cgroup_id: awaited.cgroup_id,
        },
    );
    Some(())
}

/// Whether it is an ICMP message that quotes a packet: unreachable, too big, time exceeded, bad header.
#[inline(always)]
fn is_error(skb: *mut __sk_buff, version: u64, protocol: u64, at: u32) -> bool {
    let v4 = version == 4 && protocol == ICMP;
    if !v4 && !(version == 6 && protocol == ICMP_V6) {
        return false;
    }
    let Some(kind) = load::<u8>(skb, at) else { return false };
    if v4 { matches!(kind, 3 | 11 | 12) } else { matches!(kind, 1..=4) }
}

#[inline(always)]
fn key(own: Words, port: u16, id: u16) -> AwaitedKey {
    // SAFETY: 16 plain bytes either way.
    let addr = unsafe { core::mem::transmute::<Words, [u8; 16]>(own) };
    AwaitedKey { addr, port, id }
}
