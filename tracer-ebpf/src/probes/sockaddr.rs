//! connect, sendmsg, recvmsg and release of a target's sockets, as the cgroup hooks see them: the
//! owner of each socket, learned in process context. Packets are joined to it by socket cookie.

use core::ptr::addr_of_mut;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_socket_cookie,
    },
    macros::{cgroup_sock, cgroup_sock_addr},
    programs::{SockAddrContext, SockContext},
};
use tracer_common::{
    bodies::{AF_INET, SocketAddress, SocketClosed, role},
    maps::{Config, SOCKET_DNS, SOCKET_REPORTED, Socket, fd_key},
    record::{kind, probe},
};

use super::{Words, mapped, put_address, put_no_address};
use crate::{
    emit::{Count, Record, Subject, comm, count, head, reserve, zero},
    filter::{config, is_dns, known_socket, wants},
    maps::{CALLS, EVENTS, FDS, SOCKETS},
};

#[derive(Clone, Copy, PartialEq)]
enum Action {
    Connect,
    Send,
    Receive,
}

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    hook(&ctx, probe::CONNECT4, Action::Connect, false)
}
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    hook(&ctx, probe::CONNECT6, Action::Connect, true)
}
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    hook(&ctx, probe::SENDMSG4, Action::Send, false)
}
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    hook(&ctx, probe::SENDMSG6, Action::Send, true)
}
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    hook(&ctx, probe::RECVMSG4, Action::Receive, false)
}
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    hook(&ctx, probe::RECVMSG6, Action::Receive, true)
}

/// Always allows.
#[inline(always)]
fn hook(ctx: &SockAddrContext, probe: u16, action: Action, v6: bool) -> i32 {
    if let Some(config) = config() {
        look(ctx, config, probe, action, v6);
    }
    1
}

#[inline(always)]
fn look(ctx: &SockAddrContext, config: &Config, probe: u16, action: Action, v6: bool) {
    let sa = ctx.sock_addr;
    // SAFETY: helpers without preconditions.
    let (pid_tgid, cgroup_id, cookie) = unsafe {
        (
            bpf_get_current_pid_tgid(),
            bpf_get_current_cgroup_id(),
            bpf_get_socket_cookie(ctx.as_ptr()),
        )
    };
    if !wants(config, (pid_tgid >> 32) as u32) {
        return;
    }
    let port = peer_port(sa);
    let (_, known) = known_socket(cookie);
    let marked = known.flags & SOCKET_DNS != 0;
    let dns_port = is_dns(config, port);
    if action != Action::Connect && !dns_port && !marked {
        return;
    }
    let fd = call_fd(pid_tgid, cookie).unwrap_or(known.fd);
    if action != Action::Receive {
        let kept = if action == Action::Send { SOCKET_DNS } else { 0 };
        let flags = (known.flags & !SOCKET_DNS | known.flags & kept)
            | if dns_port { SOCKET_DNS } else { 0 }
            | SOCKET_REPORTED;
        remember(
            probe,
            pid_tgid,
            cookie,
            Socket { tgid: (pid_tgid >> 32) as u32, tid: pid_tgid as u32, fd, port, flags },
        );
    }
    report(sa, probe, v6, fd, &Subject { pid_tgid, cgroup_id, cookie });
}

/// The descriptor of the call that this thread is in; tells the call its socket.
#[inline(always)]
fn call_fd(pid_tgid: u64, cookie: u64) -> Option<i32> {
    let call = CALLS.get_ptr_mut(pid_tgid)?;
    // SAFETY: the entry belongs to this thread, which is here.
    unsafe {
        (*call).cookie = cookie;
        Some((*call).fd)
    }
}

#[inline(always)]
fn remember(probe: u16, pid_tgid: u64, cookie: u64, socket: Socket) {
    if SOCKETS.insert(cookie, socket, 0).is_err() {
        count(probe, Count::MapFull);
    }
    if socket.fd >= 0 && FDS.insert(fd_key((pid_tgid >> 32) as u32, socket.fd), cookie, 0).is_err()
    {
        count(probe, Count::MapFull);
    }
}

#[inline(always)]
fn report(sa: *mut bpf_sock_addr, probe: u16, v6: bool, fd: i32, who: &Subject) {
    let Some(mut slot) = reserve::<Record<SocketAddress>>(&EVENTS, probe) else { return };
    let record = slot.as_mut_ptr();
    // SAFETY: the slot is ours until submitted.
    unsafe {
        head(
            addr_of_mut!((*record).header),
            kind::SOCKET_ADDRESS,
            probe,
            size_of::<Record<SocketAddress>>() as u32,
            0,
            who,
        );
        comm(addr_of_mut!((*record).header));
        let words = if v6 {
            context_words!(sa, bpf_sock_addr, user_ip6)
        } else {
            mapped(context_field!(sa, bpf_sock_addr, user_ip4))
        };
        let body = addr_of_mut!((*record).body);
        put_address(addr_of_mut!((*body).remote), words, peer_port(sa));
        addr_of_mut!((*body).fd).write(fd);
        addr_of_mut!((*body).protocol).write(context_field!(sa, bpf_sock_addr, protocol) as u8);
        addr_of_mut!((*body).socket_type).write(context_field!(sa, bpf_sock_addr, type_) as u8);
        zero::<3>(addr_of_mut!((*body).pad).cast());
    }
    slot.submit(0);
}

#[inline(always)]
fn peer_port(sa: *mut bpf_sock_addr) -> u16 {
    u16::from_be(context_field!(sa, bpf_sock_addr, user_port) as u16)
}

#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    released(&ctx, role::TARGET)
}
#[cgroup_sock(sock_release)]
pub fn resolver_sock_release(ctx: SockContext) -> i32 {
    released(&ctx, role::RESOLVER)
}

/// Always allows.
#[inline(always)]
fn released(ctx: &SockContext, role: u8) -> i32 {
    // SAFETY: the context is the socket that the helper wants.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let (found, socket) = known_socket(cookie);
    if !found {
        return 1;
    }
    // An entry that is gone already is as good as removed.
    let _ = SOCKETS.remove(cookie);
    if socket.fd >= 0 {
        let _ = FDS.remove(fd_key(socket.tgid, socket.fd));
    }
    if let Some(config) = config()
        && socket.flags & (SOCKET_REPORTED | SOCKET_DNS) != 0
        && (role != role::TARGET || wants(config, socket.tgid))
    {
        report_closed(ctx.sock, role, cookie, &socket);
    }
    1
}

/// The process named is the socket's owner as far as known, else whoever let go of it last.
#[inline(always)]
fn report_closed(sock: *mut bpf_sock, role: u8, cookie: u64, socket: &Socket) {
    // SAFETY: helpers without preconditions.
    let (current, cgroup_id) = unsafe { (bpf_get_current_pid_tgid(), bpf_get_current_cgroup_id()) };
    let by_owner = socket.tgid == 0 || socket.tgid == (current >> 32) as u32;
    let pid_tgid =
        if by_owner { current } else { u64::from(socket.tgid) << 32 | u64::from(socket.tid) };
    let Some(mut slot) = reserve::<Record<SocketClosed>>(&EVENTS, probe::SOCK_RELEASE) else {
        return;
    };
    let record = slot.as_mut_ptr();
    // SAFETY: the slot is ours until submitted.
    unsafe {
        head(
            addr_of_mut!((*record).header),
            kind::SOCKET_CLOSED,
            probe::SOCK_RELEASE,
            size_of::<Record<SocketClosed>>() as u32,
            0,
            &Subject { pid_tgid, cgroup_id, cookie },
        );
        if by_owner {
            comm(addr_of_mut!((*record).header));
        }
        let body = addr_of_mut!((*record).body);
        // The local end cannot be read in this hook.
        put_no_address(addr_of_mut!((*body).local));
        let port = u16::from_be(context_field!(sock, bpf_sock, dst_port) as u16);
        put_address(addr_of_mut!((*body).remote), released_remote(sock), port);
        addr_of_mut!((*body).protocol).write(context_field!(sock, bpf_sock, protocol) as u8);
        addr_of_mut!((*body).role).write(role);
        zero::<3>(addr_of_mut!((*body).pad).cast());
    }
    slot.submit(0);
}

#[inline(always)]
fn released_remote(sock: *mut bpf_sock) -> Words {
    if context_field!(sock, bpf_sock, family) == u32::from(AF_INET) {
        mapped(context_field!(sock, bpf_sock, dst_ip4))
    } else {
        context_words!(sock, bpf_sock, dst_ip6)
    }
}
