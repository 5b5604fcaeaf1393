//! TCP sockets' lives through sock_ops: handshakes, state changes, retransmissions of targets, and
//! at the root of the tree the accepts of connections that come from a target.

use core::ptr::addr_of_mut;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_RETRANS_CB, BPF_SOCK_OPS_RETRANS_CB_FLAG, BPF_SOCK_OPS_STATE_CB,
        BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, bpf_sock_ops,
    },
    helpers::generated::{bpf_get_socket_cookie, bpf_sock_ops_cb_flags_set},
    macros::sock_ops,
    programs::SockOpsContext,
};
use tracer_common::{
    bodies::{AF_INET, TcpState, role, tcp_event},
    maps::Config,
    record::{kind, probe},
};

use super::{Words, mapped, peer_key, put_address};
use crate::{
    emit::{Record, Subject, head, reserve, zero},
    filter::{config, known_socket, wants},
    maps::{EVENTS, OF_TARGET, TARGET_ADDRESSES},
};

const TCP_SYN_SENT: u32 = 2;
const TCP_CLOSE: u32 = 7;

#[sock_ops]
pub fn target_sock_ops(ctx: SockOpsContext) -> u32 {
    if let Some(config) = config() {
        target(&ctx, config);
    }
    1
}

#[sock_ops]
pub fn peer_sock_ops(ctx: SockOpsContext) -> u32 {
    if op(ctx.ops) == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB && config().is_some() {
        let key = peer_key(remote_words(ctx.ops), remote_port(ctx.ops));
        // SAFETY: a plain read of a live map value.
        if unsafe { TARGET_ADDRESSES.get(key) }.copied() == Some(OF_TARGET) {
            // SAFETY: the context is what the helper wants.
            let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
            let who = Subject { pid_tgid: 0, cgroup_id: 0, cookie };
            report(
                ctx.ops,
                probe::PEER_SOCK_OPS,
                role::PEER,
                tcp_event::PASSIVE_ESTABLISHED,
                (0, 0),
                &who,
            );
        }
    }
    1
}

#[inline(always)]
fn target(ctx: &SockOpsContext, config: &Config) {
    let (event, states) = match op(ctx.ops) {
        BPF_SOCK_OPS_TCP_CONNECT_CB => (tcp_event::CONNECT, (0, 0)),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => (tcp_event::ACTIVE_ESTABLISHED, (0, 0)),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => (tcp_event::PASSIVE_ESTABLISHED, (0, 0)),
        BPF_SOCK_OPS_RETRANS_CB => (tcp_event::RETRANSMIT, (0, 0)),
        BPF_SOCK_OPS_STATE_CB => {
            let (old, new) = states(ctx.ops);
            if new != TCP_CLOSE && old != TCP_SYN_SENT {
                return;
            }
            (tcp_event::STATE, (old, new))
        }
        _ => return,
    };
    // SAFETY: the context is what the helper wants.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let (_, owner) = known_socket(cookie);
    if !wants(config, owner.tgid) {
        return;
    }
    if event != tcp_event::STATE && event != tcp_event::RETRANSMIT {
        watch(ctx.ops);
    }
    let pid_tgid = u64::from(owner.tgid) << 32 | u64::from(owner.tid);
    let who = Subject { pid_tgid, cgroup_id: 0, cookie };
    report(ctx.ops, probe::TARGET_SOCK_OPS, role::TARGET, event, states, &who);
}

/// Asks for the callbacks, keeping what other programs asked for.
#[inline(always)]
fn watch(ops: *mut bpf_sock_ops) {
    // SAFETY: the helper takes the context.
    unsafe {
        let flags = context_field!(ops, bpf_sock_ops, bpf_sock_ops_cb_flags)
            | BPF_SOCK_OPS_STATE_CB_FLAG
            | BPF_SOCK_OPS_RETRANS_CB_FLAG;
        bpf_sock_ops_cb_flags_set(ops, flags as i32);
    }
}

#[inline(always)]
fn report(
    ops: *mut bpf_sock_ops,
    probe: u16,
    role: u8,
    event: u8,
    states: (u32, u32),
    who: &Subject,
) {
    let Some(mut slot) = reserve::<Record<TcpState>>(&EVENTS, probe) else { return };
    let record = slot.as_mut_ptr();
    // SAFETY: the slot is ours until submitted.
    unsafe {
        head(
            addr_of_mut!((*record).header),
            kind::TCP_STATE,
            probe,
            size_of::<Record<TcpState>>() as u32,
            0,
            who,
        );
        let body = addr_of_mut!((*record).body);
        let port = context_field!(ops, bpf_sock_ops, local_port) as u16;
        put_address(addr_of_mut!((*body).local), local_words(ops), port);
        put_address(addr_of_mut!((*body).remote), remote_words(ops), remote_port(ops));
        addr_of_mut!((*body).event).write(event);
        addr_of_mut!((*body).role).write(role);
        addr_of_mut!((*body).old).write(states.0 as u8);
        addr_of_mut!((*body).new).write(states.1 as u8);
        // The kernel keeps eight times the value.
        addr_of_mut!((*body).srtt_us).write(context_field!(ops, bpf_sock_ops, srtt_us) >> 3);
        let retransmits = context_field!(ops, bpf_sock_ops, total_retrans);
        addr_of_mut!((*body).retransmits).write(retransmits);
        zero::<2>(addr_of_mut!((*body).pad).cast());
    }
    slot.submit(0);
}

#[inline(always)]
fn op(ops: *mut bpf_sock_ops) -> u32 {
    context_field!(ops, bpf_sock_ops, op)
}

/// The arguments of a state callback: old and new.
#[inline(always)]
fn states(ops: *mut bpf_sock_ops) -> (u32, u32) {
    let args = context_words!(ops, bpf_sock_ops, __bindgen_anon_1);
    (args[0], args[1])
}

/// Network order in the upper half of the word.
#[inline(always)]
fn remote_port(ops: *mut bpf_sock_ops) -> u16 {
    u32::from_be(context_field!(ops, bpf_sock_ops, remote_port)) as u16
}

#[inline(always)]
fn is_v4(ops: *mut bpf_sock_ops) -> bool {
    context_field!(ops, bpf_sock_ops, family) == u32::from(AF_INET)
}

#[inline(always)]
fn remote_words(ops: *mut bpf_sock_ops) -> Words {
    if is_v4(ops) {
        mapped(context_field!(ops, bpf_sock_ops, remote_ip4))
    } else {
        context_words!(ops, bpf_sock_ops, remote_ip6)
    }
}

#[inline(always)]
fn local_words(ops: *mut bpf_sock_ops) -> Words {
    if is_v4(ops) {
        mapped(context_field!(ops, bpf_sock_ops, local_ip4))
    } else {
        context_words!(ops, bpf_sock_ops, local_ip6)
    }
}
