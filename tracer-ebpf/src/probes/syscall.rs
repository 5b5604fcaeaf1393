//! System calls on tracked sockets, one record at the exit. Filtered by cgroup first, because these
//! tracepoints run for every process of the node.

use core::ptr::{addr_of_mut, read_volatile};

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_ktime_get_boot_ns, bpf_probe_read_user},
    macros::tracepoint,
    programs::TracePointContext,
};
use tracer_common::{
    bodies::{AF_INET, AF_INET6, Address, Syscall, call},
    maps::{Call, fd_key},
    record::{kind, probe},
};

use super::{Words, address, mapped};
use crate::{
    emit::{Count, Record, Subject, comm, count, head, reserve},
    filter::{config, current_target},
    maps::{CALLS, EVENTS, FDS, SOCKETS},
};

/// Where the kernel puts the arguments (enter) and the result (exit): fixed for all syscalls.
const ARGUMENTS: usize = 16;

macro_rules! syscalls {
    ($($call:expr, $probe:expr, $size:expr, $peer:expr, $enter:ident, $exit:ident;)*) => { $(
        #[tracepoint]
        pub fn $enter(ctx: TracePointContext) -> u32 {
            enter(&ctx, $call, $probe, $size, $peer);
            0
        }
        #[tracepoint]
        pub fn $exit(ctx: TracePointContext) -> u32 {
            exit(&ctx, $probe);
            0
        }
    )* };
}

// Call, probe, argument with the size, argument with the address.
syscalls! {
    call::CONNECT, probe::SYS_CONNECT, None, Some(1), enter_connect, exit_connect;
    call::SENDTO, probe::SYS_SENDTO, Some(2), Some(4), enter_sendto, exit_sendto;
    call::SENDMSG, probe::SYS_SENDMSG, None, None, enter_sendmsg, exit_sendmsg;
    call::SENDMMSG, probe::SYS_SENDMMSG, Some(2), None, enter_sendmmsg, exit_sendmmsg;
    call::RECVFROM, probe::SYS_RECVFROM, Some(2), None, enter_recvfrom, exit_recvfrom;
    call::RECVMSG, probe::SYS_RECVMSG, None, None, enter_recvmsg, exit_recvmsg;
    call::RECVMMSG, probe::SYS_RECVMMSG, Some(2), None, enter_recvmmsg, exit_recvmmsg;
}

#[inline(always)]
fn argument(ctx: &TracePointContext, number: usize) -> u64 {
    // SAFETY: within the tracepoint's record, at a constant offset.
    unsafe { read_volatile(ctx.as_ptr().cast::<u8>().add(ARGUMENTS + number * 8).cast::<u64>()) }
}

#[inline(always)]
fn enter(
    ctx: &TracePointContext,
    number: u16,
    probe: u16,
    size: Option<usize>,
    peer: Option<usize>,
) {
    let Some(config) = config() else { return };
    let Some((pid_tgid, cgroup_id)) = current_target(config) else { return };
    let fd = argument(ctx, 0) as i32;
    let receives = number >= call::RECVFROM;
    // A socket is always addressed before anything is received on it.
    // SAFETY: only whether it is there matters.
    if receives && unsafe { FDS.get(fd_key((pid_tgid >> 32) as u32, fd)) }.is_none() {
        return;
    }
    let mut entry = Call {
        // SAFETY: a helper without preconditions.
        enter_boot_ns: unsafe { bpf_ktime_get_boot_ns() },
        size: size.map_or(0, |n| argument(ctx, n)),
        cookie: 0,
        cgroup_id,
        peer: Address { family: 0, port: 0, addr: [0; 16] },
        fd,
        call: number,
        pad: [0; 3],
    };
    if let Some(n) = peer {
        entry.peer = user_address(argument(ctx, n));
    }
    if CALLS.insert(pid_tgid, entry, 0).is_err() {
        count(probe, Count::MapFull);
    }
}

/// A `sockaddr` of the caller; family 0 when it is none of the Internet's or cannot be read.
#[inline(always)]
fn user_address(pointer: u64) -> Address {
    let none = Address { family: 0, port: 0, addr: [0; 16] };
    if pointer == 0 {
        return none;
    }
    let mut v4 = [0_u32; 2];
    // SAFETY: the helper checks the user's pointer and fills 8 bytes of our stack.
    if unsafe { bpf_probe_read_user(addr_of_mut!(v4).cast(), 8, pointer as *const _) } != 0 {
        return none;
    }
    let family = v4[0] as u16;
    let port = u16::from_be((v4[0] >> 16) as u16);
    if family == AF_INET {
        return address(mapped(v4[1]), port);
    }
    if family != AF_INET6 {
        return none;
    }
    let mut v6: Words = [0; 4];
    // SAFETY: as above, 16 bytes after family, port and flow label.
    if unsafe { bpf_probe_read_user(addr_of_mut!(v6).cast(), 16, (pointer + 8) as *const _) } != 0 {
        return none;
    }
    address(v6, port)
}

#[inline(always)]
fn exit(ctx: &TracePointContext, probe: u16) {
    // SAFETY: a helper without preconditions.
    let pid_tgid = unsafe { aya_ebpf::helpers::generated::bpf_get_current_pid_tgid() };
    // SAFETY: the entry belongs to this thread, which is here.
    let Some(call) = (unsafe { CALLS.get(pid_tgid) }) else { return };
    if config().is_some() {
        report(pid_tgid, call, argument(ctx, 0) as i64, probe);
    }
    // An entry that is gone already is as good as removed.
    let _ = CALLS.remove(pid_tgid);
}

#[inline(always)]
fn report(pid_tgid: u64, call: &Call, result: i64, probe: u16) {
    let key = fd_key((pid_tgid >> 32) as u32, call.fd);
    let mut cookie = call.cookie;
    if cookie == 0 {
        // SAFETY: a plain read of a live map value.
        cookie = unsafe { FDS.get(key) }.copied().unwrap_or(0);
    }
    // SAFETY: only whether it is there matters.
    let tracked = cookie != 0 && unsafe { SOCKETS.get(cookie) }.is_some();
    if !tracked && call.peer.family == 0 {
        return;
    }
    let Some(mut slot) = reserve::<Record<Syscall>>(&EVENTS, probe) else { return };
    let record = slot.as_mut_ptr();
    // SAFETY: the slot is ours until submitted.
    unsafe {
        head(
            addr_of_mut!((*record).header),
            kind::SYSCALL,
            probe,
            size_of::<Record<Syscall>>() as u32,
            0,
            &Subject { pid_tgid, cgroup_id: call.cgroup_id, cookie },
        );
        comm(addr_of_mut!((*record).header));
        addr_of_mut!((*record).body).write(Syscall {
            call: call.call,
            flags: 0,
            fd: call.fd,
            result,
            enter_boot_ns: call.enter_boot_ns,
            size: call.size,
            peer: call.peer,
            pad: 0,
        });
    }
    slot.submit(0);
}
