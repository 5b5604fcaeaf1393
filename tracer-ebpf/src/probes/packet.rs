//! Packets at the cgroup_skb hooks: DNS messages with payload, TCP SYN/FIN/RST by their headers.
//! No process identity here: packets travel in softirq and old kernels refuse the helpers.

use core::{mem::MaybeUninit, ptr::addr_of_mut};

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
    limits::{CONTROL_SNAP, SNAP_MAX, STREAM_SNAP_MAX},
    maps::{CONFIG_WIRE, Config, SOCKET_DNS, SOCKET_REPORTED, Socket},
    record::{FLAG_CUT, kind, probe},
};

use super::{Words, mapped, peer_key, wire::await_answer};
use crate::{
    emit::{Carrier, Count, Subject, bounded, count, forgotten, head, reserve, zero},
    filter::{config, is_dns, known_socket, wants},
    maps::{EVENTS, OF_RESOLVER, OF_TARGET, QUESTIONS, SOCKETS, TARGET_ADDRESSES},
};

const TCP: u64 = 6;
pub(super) const UDP: u64 = 17;
/// In place of a protocol: a later fragment, without ports.
const NOT_OURS: u64 = 255;
const TCP_FIN_SYN_RST: u64 = 7;
const TCP_SYN: u64 = 2;
/// Length in front of each message of a stream.
const TCP_PREFIX: u32 = 2;
/// DNS header, before the question.
const DNS_HEADER: u32 = 12;
/// How long a question of a target lets the resolver's own traffic through.
const QUESTION_NS: u64 = 60_000_000_000;
const EXTENSIONS_MAX: u32 = 4;

/// What the headers say.
pub(super) struct Parsed {
    version: u64,
    protocol: u64,
    tcp_flags: u64,
    transport: u32,
    pub(super) payload: u32,
    pub(super) src: Words,
    dst: Words,
    pub(super) sport: u16,
    dport: u16,
}

/// What the IP header says. Whole registers: the verifier loses sight of parts of one.
pub(super) struct Network {
    pub(super) version: u64,
    pub(super) protocol: u64,
    pub(super) transport: u64,
    pub(super) src: Words,
    pub(super) dst: Words,
}

/// A packet worth a record.
pub(super) struct Fact {
    pub(super) kind: u16,
    pub(super) version: u64,
    pub(super) protocol: u64,
    pub(super) transport: u32,
    pub(super) probe: u16,
    pub(super) role: u8,
    pub(super) direction: u8,
    pub(super) flags: u16,
    pub(super) intended_port: u16,
    pub(super) limit: u32,
    pub(super) cookie: u64,
    pub(super) cgroup_id: u64,
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
        learn_address(&p, OF_TARGET, probe);
    }
    if direction == DIRECTION_OUT && message && p.protocol == UDP && config.flags & CONFIG_WIRE != 0
    {
        await_answer(skb, &p, (cookie, cgroup_of(skb)), probe);
    }
    mark_reported(found, socket, cookie, dns, probe);
    let limit = if message { most_of(&p, config) } else { CONTROL_SNAP as u32 };
    emit(
        skb,
        &Fact {
            kind: kind::PACKET,
            version: p.version,
            protocol: p.protocol,
            transport: p.transport,
            probe,
            role: role::TARGET,
            direction,
            flags: if dns { PACKET_DNS } else { 0 },
            intended_port: socket.port,
            limit,
            cookie,
            cgroup_id: cgroup_of(skb),
        },
    );
    1
}

/// Of the resolver only what a target asked or waits for. Always allows.
#[inline(always)]
fn of_resolver(skb: *mut __sk_buff, ctx: &SkBuffContext, probe: u16, direction: u8) -> i32 {
    let Some(config) = config() else { return 1 };
    let Some(p) = parse(skb, probe) else { return 1 };
    if !(is_dns(config, p.sport) || is_dns(config, p.dport)) {
        return 1;
    }
    // Of a stream shared by many only segments that begin with a message can be told apart.
    let prefix = if p.protocol == TCP { TCP_PREFIX } else { 0 };
    let message = forgotten(u64::from(p.payload + prefix)) as u32;
    if length(skb) < message + DNS_HEADER {
        return 1;
    }
    if !belongs(skb, &p, message, direction, config, probe) {
        return 1;
    }
    // SAFETY: the context is what the helper wants.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let (found, socket) = known_socket(cookie);
    mark_reported(found, socket, cookie, true, probe);
    emit(
        skb,
        &Fact {
            kind: kind::PACKET,
            version: p.version,
            protocol: p.protocol,
            transport: p.transport,
            probe,
            role: role::RESOLVER,
            direction,
            flags: PACKET_DNS,
            intended_port: socket.port,
            limit: most_of(&p, config),
            cookie,
            cgroup_id: cgroup_of(skb),
        },
    );
    1
}

/// Most bytes to copy: a stream has no use for a part of a segment; a limit that somebody set stays one.
#[inline(always)]
fn most_of(p: &Parsed, config: &Config) -> u32 {
    if p.protocol == TCP && config.snap_len >= SNAP_MAX as u32 {
        STREAM_SNAP_MAX as u32
    } else {
        config.snap_len
    }
}

/// Whether a message at the resolver is a target's, or the resolver's own for a target.
#[inline(always)]
fn belongs(
    skb: *mut __sk_buff,
    p: &Parsed,
    message: u32,
    direction: u8,
    config: &Config,
    probe: u16,
) -> bool {
    let Some(flags) = load::<u8>(skb, message + 2) else {
        count(probe, Count::Unreadable);
        return false;
    };
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
    // With a client: its query comes in, its answer goes out. Else with an upstream.
    let client = inward != is_answer;
    let mut whose = OF_TARGET;
    if client {
        // SAFETY: a plain read of a live map value.
        let known = unsafe { TARGET_ADDRESSES.get(peer_key(remote, remote_port)) };
        whose = known.copied().unwrap_or(0);
        if whose == 0 || whose == OF_TARGET && !inward {
            return whose != 0;
        }
    }
    let hash = question_hash(skb, message + DNS_HEADER);
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if client && whose == OF_TARGET {
        if hash != 0 && QUESTIONS.insert(hash, now, 0).is_err() {
            count(probe, Count::MapFull);
        }
        return true;
    }
    // SAFETY: a plain read of a live map value.
    let asked = unsafe { QUESTIONS.get(hash) };
    let asked = asked.is_some_and(|at| now.wrapping_sub(*at) < QUESTION_NS);
    if asked && !client && !inward {
        // A resolver that receives it lets it through, too.
        learn_address(p, OF_RESOLVER, probe);
    }
    asked
}

/// FNV-1a over the lower-cased name and the type of the first question; 0 when it cannot be read.
/// Length bytes are below 64 and so are not touched by lower-casing.
#[inline(always)]
fn question_hash(skb: *mut __sk_buff, offset: u32) -> u64 {
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    const CHUNKS: u32 = 64;
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    // Bytes of the type still to come; 3 while inside the name.
    let mut left = 3_u32;
    for chunk in 0..CHUNKS {
        let at = offset + chunk * 4;
        let Some(word) = load::<u32>(skb, at) else {
            // A packet may end three bytes after the type's first: with the type's second, and the
            // class.
            if left != 1 {
                return 0;
            }
            let Some(last) = load::<u8>(skb, at) else { return 0 };
            return (hash ^ u64::from(last)).wrapping_mul(PRIME);
        };
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
fn learn_address(p: &Parsed, whose: u32, probe: u16) {
    let key = peer_key(p.src, p.sport);
    // SAFETY: only whether it is there matters.
    let known = unsafe { TARGET_ADDRESSES.get(key) }.is_some();
    if !known && TARGET_ADDRESSES.insert(key, whose, 0).is_err() {
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
pub(super) fn emit(skb: *mut __sk_buff, fact: &Fact) {
    let most = STREAM_SNAP_MAX as u32;
    let limit = if fact.limit > most { most } else { fact.limit };
    let original = length(skb);
    let want = if original < limit { original } else { limit };
    if want == 0 {
        return;
    }
    if want <= 128 {
        carry::<128>(skb, fact, want);
    } else if want <= 256 {
        carry::<256>(skb, fact, want);
    } else if want <= 512 {
        carry::<512>(skb, fact, want);
    } else if want <= 1024 {
        carry::<1024>(skb, fact, want);
    } else if want <= SNAP_MAX as u32 {
        carry::<SNAP_MAX>(skb, fact, want);
    } else if want <= 16384 {
        carry::<16384>(skb, fact, want);
    } else {
        carry::<STREAM_SNAP_MAX>(skb, fact, want);
    }
}

#[inline(always)]
fn carry<const N: usize>(skb: *mut __sk_buff, fact: &Fact, want: u32) {
    let Some(mut slot) = reserve::<Carrier<Packet, N>>(&EVENTS, fact.probe) else { return };
    let record = slot.as_mut_ptr();
    let original = length(skb);
    let cut = want < original;
    let fixed = (size_of::<Carrier<Packet, N>>() - N) as u32;
    // SAFETY: the slot is ours until submitted.
    unsafe {
        let who = Subject { pid_tgid: 0, cgroup_id: fact.cgroup_id, cookie: fact.cookie };
        let flags = if cut { FLAG_CUT } else { 0 };
        head(addr_of_mut!((*record).header), fact.kind, fact.probe, fixed + want, flags, &who);
        let body = addr_of_mut!((*record).body);
        addr_of_mut!((*body).direction).write(fact.direction);
        addr_of_mut!((*body).ip_version).write(fact.version as u8);
        addr_of_mut!((*body).protocol).write(fact.protocol as u8);
        addr_of_mut!((*body).role).write(fact.role);
        addr_of_mut!((*body).flags).write(fact.flags);
        addr_of_mut!((*body).transport_offset).write(fact.transport as u16);
        addr_of_mut!((*body).original).write(original);
        addr_of_mut!((*body).captured).write(want);
        addr_of_mut!((*body).intended_port).write(fact.intended_port);
        zero::<3>(addr_of_mut!((*body).pad).cast());
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
    let Some(network) = network(skb, 0) else {
        count(probe, Count::Unreadable);
        return None;
    };
    let protocol = network.protocol;
    if protocol != TCP && protocol != UDP {
        return None;
    }
    let parsed = transport(skb, network);
    if parsed.is_none() {
        count(probe, Count::Unreadable);
    }
    parsed
}

/// The IP header that begins at `base`.
#[inline(always)]
pub(super) fn network(skb: *mut __sk_buff, base: u32) -> Option<Network> {
    let first = load::<u8>(skb, base)?;
    let network = match first >> 4 {
        4 => network_v4(skb, base)?,
        6 => network_v6(skb, base)?,
        _ => return None,
    };
    // IPv4 and IPv6, with and without options, meet here.
    Some(Network {
        version: forgotten(network.version),
        protocol: forgotten(network.protocol),
        transport: forgotten(network.transport),
        src: network.src.map(forgotten_word),
        dst: network.dst.map(forgotten_word),
    })
}

#[inline(always)]
pub(super) fn forgotten_word(word: u32) -> u32 {
    forgotten(u64::from(word)) as u32
}

#[inline(always)]
fn network_v4(skb: *mut __sk_buff, base: u32) -> Option<Network> {
    let header = load::<[u32; 5]>(skb, base)?;
    let transport = (u32::from_be(header[0]) >> 24 & 0xf) * 4;
    let fragment = u32::from_be(header[1]) & 0x1fff;
    let protocol = u32::from_be(header[2]) >> 16 & 0xff;
    (transport >= 20).then_some(Network {
        version: 4,
        protocol: if fragment == 0 { u64::from(protocol) } else { NOT_OURS },
        transport: u64::from(base + transport),
        src: mapped(header[3]),
        dst: mapped(header[4]),
    })
}

#[inline(always)]
fn network_v6(skb: *mut __sk_buff, base: u32) -> Option<Network> {
    let header = load::<[u32; 10]>(skb, base)?;
    let mut next = forgotten(u64::from(u32::from_be(header[1]) >> 8 & 0xff));
    let mut offset = forgotten(u64::from(base + 40));
    for _ in 0..EXTENSIONS_MAX {
        // Hop-by-hop, routing, destination options: a length in units of 8; fragment: fixed.
        if next != 0 && next != 43 && next != 60 && next != 44 {
            break;
        }
        let extension = load::<u32>(skb, offset as u32)?;
        let extension = u64::from(u32::from_be(extension));
        let mut length = 8 + (extension >> 16 & 0xff) * 8;
        let mut after = extension >> 24;
        if next == 44 {
            length = 8;
            if extension & 0xfff8 != 0 {
                after = NOT_OURS;
            }
        }
        offset = forgotten(offset + length);
        next = forgotten(after);
    }
    Some(Network {
        version: 6,
        protocol: next,
        transport: offset,
        src: [header[2], header[3], header[4], header[5]],
        dst: [header[6], header[7], header[8], header[9]],
    })
}

#[inline(always)]
fn transport(skb: *mut __sk_buff, network: Network) -> Option<Parsed> {
    let Network { version, protocol, transport, src, dst } = network;
    let at = transport as u32;
    let ports = load::<[u16; 2]>(skb, at)?;
    let mut payload = transport + 8;
    let mut tcp_flags = 0;
    if protocol == TCP {
        let control = u64::from(load::<u16>(skb, at + 12)?.to_be());
        payload = transport + (control >> 12) * 4;
        tcp_flags = control & 0xff;
    }
    Some(Parsed {
        version,
        protocol: forgotten(protocol),
        tcp_flags: forgotten(tcp_flags),
        transport: at,
        payload: forgotten(payload) as u32,
        src,
        dst,
        sport: u16::from_be(ports[0]),
        dport: u16::from_be(ports[1]),
    })
}

/// The cgroup of the packet's socket.
#[inline(always)]
fn cgroup_of(skb: *mut __sk_buff) -> u64 {
    // SAFETY: the context is what the helper wants.
    unsafe { bpf_skb_cgroup_id(skb) }
}

/// Reads from the packet; `None` when it is too short.
#[inline(always)]
pub(super) fn load<T: Copy>(skb: *mut __sk_buff, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper fills our stack whole or fails; T is plain numbers.
    unsafe {
        let size = size_of::<T>() as u32;
        (bpf_skb_load_bytes(skb.cast(), offset, value.as_mut_ptr().cast(), size) == 0)
            .then(|| value.assume_init())
    }
}

/// Bytes from the IP header on.
#[inline(always)]
fn length(skb: *mut __sk_buff) -> u32 {
    context_field!(skb, __sk_buff, len)
}
