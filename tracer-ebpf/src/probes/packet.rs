//! Packets at the cgroup_skb hooks: DNS messages with payload, TCP SYN/FIN/RST by their headers.
//! No process identity here: packets travel in softirq and old kernels refuse the helpers.

use core::ptr::addr_of_mut;

use aya_ebpf::{
    EbpfContext as _,
    bindings::__sk_buff,
    helpers::generated::{
        bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_skb_cgroup_id, bpf_skb_load_bytes,
    },
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use tracer_common::{
    bodies::{DIRECTION_IN, DIRECTION_OUT, PACKET_DNS, Packet, role},
    limits::{CONTROL_SNAP, SNAP_MAX},
    maps::{Config, SOCKET_DNS, SOCKET_REPORTED, Socket},
    record::{FLAG_CUT, kind, probe},
};

use super::{Words, mapped, peer_key};
use crate::{
    emit::{Carrier, Count, Subject, bounded, count, head, reserve},
    filter::{config, is_dns, known_socket, wants},
    maps::{EVENTS, QUESTIONS, SOCKETS, TARGET_ADDRESSES},
};

const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_FIN_SYN_RST: u8 = 7;
const TCP_SYN: u8 = 2;
/// DNS header, before the question.
const DNS_HEADER: u32 = 12;
/// How long a question of a target lets the resolver's own traffic through.
const QUESTION_NS: u64 = 60_000_000_000;
const EXTENSIONS_MAX: u32 = 6;

/// What the headers say.
struct Parsed {
    version: u8,
    protocol: u8,
    tcp_flags: u8,
    transport: u32,
    payload: u32,
    src: Words,
    dst: Words,
    sport: u16,
    dport: u16,
}

/// A packet worth a record.
struct Fact {
    probe: u16,
    role: u8,
    direction: u8,
    flags: u16,
    intended_port: u16,
    limit: u32,
    cookie: u64,
}

#[cgroup_skb]
pub fn target_egress(ctx: SkBuffContext) -> i32 {
    of_target(ctx.skb.skb, &ctx, probe::TARGET_EGRESS, DIRECTION_OUT)
}
#[cgroup_skb]
pub fn target_ingress(ctx: SkBuffContext) -> i32 {
    of_target(ctx.skb.skb, &ctx, probe::TARGET_INGRESS, DIRECTION_IN)
}
#[cgroup_skb]
pub fn resolver_egress(ctx: SkBuffContext) -> i32 {
    of_resolver(ctx.skb.skb, &ctx, probe::RESOLVER_EGRESS, DIRECTION_OUT)
}
#[cgroup_skb]
pub fn resolver_ingress(ctx: SkBuffContext) -> i32 {
    of_resolver(ctx.skb.skb, &ctx, probe::RESOLVER_INGRESS, DIRECTION_IN)
}

/// Always allows.
#[inline(always)]
fn of_target(skb: *mut __sk_buff, ctx: &SkBuffContext, probe: u16, direction: u8) -> i32 {
    let Some(config) = config() else { return 1 };
    let Some(p) = parse(skb, probe) else { return 1 };
    // SAFETY: the context is what the helper wants.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let (found, socket) = known_socket(cookie);
    if !wants(config, socket.tgid) {
        return 1;
    }
    let marked = socket.flags & SOCKET_DNS != 0;
    let dns = marked || is_dns(config, p.sport) || is_dns(config, p.dport);
    let control = p.protocol == TCP && p.tcp_flags & TCP_FIN_SYN_RST != 0;
    let message = dns && length(skb) > p.payload;
    if !control && !message {
        return 1;
    }
    if direction == DIRECTION_OUT && (dns || p.tcp_flags & TCP_SYN != 0) {
        learn_address(&p, probe);
    }
    mark_reported(found, socket, cookie, dns, probe);
    emit(skb, &p, &Fact {
        probe,
        role: role::TARGET,
        direction,
        flags: if dns { PACKET_DNS } else { 0 },
        intended_port: socket.port,
        limit: if message { config.snap_len } else { CONTROL_SNAP as u32 },
        cookie,
    });
    1
}

/// Of the resolver only what a target asked or waits for. Always allows.
#[inline(always)]
fn of_resolver(skb: *mut __sk_buff, ctx: &SkBuffContext, probe: u16, direction: u8) -> i32 {
    let Some(config) = config() else { return 1 };
    let Some(p) = parse(skb, probe) else { return 1 };
    if p.protocol != UDP || !(is_dns(config, p.sport) || is_dns(config, p.dport)) {
        return 1;
    }
    if length(skb) < p.payload + DNS_HEADER {
        return 1;
    }
    if !belongs(skb, &p, direction, config, probe) {
        return 1;
    }
    // SAFETY: the context is what the helper wants.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let (found, socket) = known_socket(cookie);
    mark_reported(found, socket, cookie, true, probe);
    emit(skb, &p, &Fact {
        probe,
        role: role::RESOLVER,
        direction,
        flags: PACKET_DNS,
        intended_port: socket.port,
        limit: config.snap_len,
        cookie,
    });
    1
}

/// Whether a message at the resolver is a target's, or the resolver's own for a target.
#[inline(always)]
fn belongs(skb: *mut __sk_buff, p: &Parsed, direction: u8, config: &Config, probe: u16) -> bool {
    let mut flags = 0_u8;
    if !load(skb, p.payload + 2, &mut flags) {
        count(probe, Count::Unreadable);
        return false;
    }
    let is_answer = flags & 0x80 != 0;
    let inward = direction == DIRECTION_IN;
    // The far end, and the port on the side that serves.
    let (remote, remote_port, serving) = if inward {
        (p.src, p.sport, if is_answer { p.sport } else { p.dport })
    } else {
        (p.dst, p.dport, if is_answer { p.sport } else { p.dport })
    };
    if !is_dns(config, serving) {
        return false;
    }
    if inward != is_answer {
        // With a client: its query comes in, its answer goes out.
        // SAFETY: only whether it is there matters.
        if unsafe { TARGET_ADDRESSES.get(peer_key(remote, remote_port)) }.is_none() {
            return false;
        }
        if inward {
            let hash = question_hash(skb, p.payload + DNS_HEADER);
            // SAFETY: a helper without preconditions.
            let now = unsafe { bpf_ktime_get_boot_ns() };
            if hash != 0 && QUESTIONS.insert(hash, now, 0).is_err() {
                count(probe, Count::MapFull);
            }
        }
        return true;
    }
    // With an upstream.
    let hash = question_hash(skb, p.payload + DNS_HEADER);
    // SAFETY: a plain read of a live map value.
    let asked = unsafe { QUESTIONS.get(hash) }.copied();
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    asked.is_some_and(|at| now.wrapping_sub(at) < QUESTION_NS)
}

/// FNV-1a over the lower-cased name and the type of the first question; 0 when it cannot be read.
/// Length bytes are below 64 and so are not touched by lower-casing.
#[inline(never)]
fn question_hash(skb: *mut __sk_buff, offset: u32) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    const CHUNKS: u32 = 64;
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    // Bytes of the type still to come; 3 while inside the name.
    let mut left = 3_u32;
    for chunk in 0..CHUNKS {
        // Name end, type and class never leave less than a chunk to read.
        let mut word = 0_u32;
        if !load(skb, offset + chunk * 4, &mut word) {
            return 0;
        }
        for byte in 0..4 {
            let b = word >> (8 * byte) & 0xff;
            let upper = (64_u32.wrapping_sub(b) & b.wrapping_sub(91)) >> 31;
            let folded = if left == 3 { b | upper << 5 } else { b };
            hash = (hash ^ u64::from(folded)).wrapping_mul(PRIME);
            if left == 3 {
                if b == 0 {
                    left = 2;
                }
            } else {
                left -= 1;
                if left == 0 {
                    return hash;
                }
            }
        }
    }
    0
}

#[inline(always)]
fn learn_address(p: &Parsed, probe: u16) {
    let key = peer_key(p.src, p.sport);
    // SAFETY: only whether it is there matters.
    if unsafe { TARGET_ADDRESSES.get(key) }.is_none() && TARGET_ADDRESSES.insert(key, 1, 0).is_err()
    {
        count(probe, Count::MapFull);
    }
}

/// Makes the release of this socket worth a record.
#[inline(always)]
fn mark_reported(found: bool, mut socket: Socket, cookie: u64, dns: bool, probe: u16) {
    if socket.flags & SOCKET_REPORTED != 0 || cookie == 0 {
        return;
    }
    // A socket without an owner entry gets its DNS mark from the packets alone.
    socket.flags |= SOCKET_REPORTED | if dns && !found { SOCKET_DNS } else { 0 };
    if SOCKETS.insert(cookie, socket, 0).is_err() {
        count(probe, Count::MapFull);
    }
}

#[inline(always)]
fn emit(skb: *mut __sk_buff, p: &Parsed, fact: &Fact) {
    let limit = if fact.limit > SNAP_MAX as u32 { SNAP_MAX as u32 } else { fact.limit };
    let original = length(skb);
    let want = if original < limit { original } else { limit };
    if want == 0 {
        return;
    }
    if want <= 128 {
        carry::<128>(skb, p, fact, want);
    } else if want <= 256 {
        carry::<256>(skb, p, fact, want);
    } else if want <= 512 {
        carry::<512>(skb, p, fact, want);
    } else if want <= 1024 {
        carry::<1024>(skb, p, fact, want);
    } else {
        carry::<SNAP_MAX>(skb, p, fact, want);
    }
}

#[inline(always)]
fn carry<const N: usize>(skb: *mut __sk_buff, p: &Parsed, fact: &Fact, want: u32) {
    let Some(mut slot) = reserve::<Carrier<Packet, N>>(&EVENTS, fact.probe) else { return };
    let record = slot.as_mut_ptr();
    let original = length(skb);
    let cut = want < original;
    let fixed = (size_of::<Carrier<Packet, N>>() - N) as u32;
    // SAFETY: the slot is ours until submitted.
    unsafe {
        let who = Subject { pid_tgid: 0, cgroup_id: bpf_skb_cgroup_id(skb), cookie: fact.cookie };
        let flags = if cut { FLAG_CUT } else { 0 };
        head(addr_of_mut!((*record).header), kind::PACKET, fact.probe, fixed + want, flags, &who);
        addr_of_mut!((*record).body).write(Packet {
            direction: fact.direction,
            ip_version: p.version,
            protocol: p.protocol,
            role: fact.role,
            flags: fact.flags,
            transport_offset: p.transport as u16,
            original,
            captured: want,
            intended_port: fact.intended_port,
            pad: [0; 6],
        });
        let data = addr_of_mut!((*record).data);
        if bpf_skb_load_bytes(skb.cast(), 0, data.cast(), bounded::<N>(want)) != 0 {
            slot.discard(0);
            count(fact.probe, Count::Unreadable);
            return;
        }
    }
    slot.submit(0);
    if cut && fact.limit > CONTROL_SNAP as u32 {
        count(fact.probe, Count::Cut);
    }
}

/// `None` for what is neither TCP nor UDP; counts headers that cannot be read.
#[inline(always)]
fn parse(skb: *mut __sk_buff, probe: u16) -> Option<Parsed> {
    let mut p = Parsed {
        version: 0,
        protocol: 0,
        tcp_flags: 0,
        transport: 0,
        payload: 0,
        src: [0; 4],
        dst: [0; 4],
        sport: 0,
        dport: 0,
    };
    let readable = network(skb, &mut p) && transport(skb, &mut p);
    if !readable {
        count(probe, Count::Unreadable);
    }
    (readable && (p.protocol == TCP || p.protocol == UDP)).then_some(p)
}

#[inline(always)]
fn network(skb: *mut __sk_buff, p: &mut Parsed) -> bool {
    let mut v4 = [0_u32; 5];
    if !load(skb, 0, &mut v4) {
        return false;
    }
    let first = u32::from_be(v4[0]);
    match first >> 28 {
        4 => {
            let fragment = u32::from_be(v4[1]) & 0x1fff;
            p.version = 4;
            p.transport = (first >> 24 & 0xf) * 4;
            p.protocol = if fragment == 0 { (u32::from_be(v4[2]) >> 16) as u8 } else { 0 };
            p.src = mapped(v4[3]);
            p.dst = mapped(v4[4]);
            p.transport >= 20
        }
        6 => network_v6(skb, p),
        _ => false,
    }
}

#[inline(always)]
fn network_v6(skb: *mut __sk_buff, p: &mut Parsed) -> bool {
    let mut v6 = [0_u32; 10];
    if !load(skb, 0, &mut v6) {
        return false;
    }
    p.version = 6;
    p.src = [v6[2], v6[3], v6[4], v6[5]];
    p.dst = [v6[6], v6[7], v6[8], v6[9]];
    let mut next = (u32::from_be(v6[1]) >> 8) as u8;
    let mut offset = 40_u32;
    for _ in 0..EXTENSIONS_MAX {
        // Hop-by-hop, routing, destination options: a length in units of 8; fragment: fixed.
        if next != 0 && next != 43 && next != 60 && next != 44 {
            break;
        }
        let mut extension = [0_u8; 4];
        if !load(skb, offset, &mut extension) {
            return false;
        }
        let fragment = u16::from_be_bytes([extension[2], extension[3]]) & 0xfff8;
        if next == 44 {
            offset += 8;
            if fragment != 0 {
                return true;
            }
        } else {
            offset += 8 + u32::from(extension[1]) * 8;
        }
        next = extension[0];
    }
    p.protocol = next;
    p.transport = offset;
    true
}

#[inline(always)]
fn transport(skb: *mut __sk_buff, p: &mut Parsed) -> bool {
    if p.protocol != TCP && p.protocol != UDP {
        return true;
    }
    let mut ports = [0_u16; 2];
    if !load(skb, p.transport, &mut ports) {
        return false;
    }
    p.sport = u16::from_be(ports[0]);
    p.dport = u16::from_be(ports[1]);
    p.payload = p.transport + 8;
    if p.protocol == TCP {
        let mut control = [0_u8; 2];
        if !load(skb, p.transport + 12, &mut control) {
            return false;
        }
        p.payload = p.transport + u32::from(control[0] >> 4) * 4;
        p.tcp_flags = control[1];
    }
    true
}

/// Fills `into` from the packet; false when it is too short.
#[inline(always)]
fn load<T>(skb: *mut __sk_buff, offset: u32, into: &mut T) -> bool {
    // SAFETY: `into` is writable memory of that size on our stack.
    unsafe {
        bpf_skb_load_bytes(
            skb.cast(),
            offset,
            core::ptr::from_mut(into).cast(),
            size_of::<T>() as u32,
        ) == 0
    }
}

/// Bytes from the IP header on.
#[inline(always)]
fn length(skb: *mut __sk_buff) -> u32 {
    context_field!(skb, __sk_buff, len)
}
