//! System calls on tracked sockets, one record at the exit. Filtered by cgroup first, because these
//! tracepoints run for every process of the node.

use core::{
    mem::MaybeUninit,
    ptr::{addr_of_mut, read_volatile},
};

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

use super::{Words, mapped, put_address, put_no_address};
use crate::{
    emit::{Count, Record, Subject, comm, count, head, reserve, zero},
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
    let mut entry = MaybeUninit::<Call>::uninit();
    let call = entry.as_mut_ptr();
    // SAFETY: our stack, every field is written; a helper without preconditions.
    let entry = unsafe {
        addr_of_mut!((*call).enter_boot_ns).write(bpf_ktime_get_boot_ns());
        addr_of_mut!((*call).size).write(size.map_or(0, |n| argument(ctx, n)));
        // Volatile, so that zeroes beside each other do not become a call of `memset`.
        addr_of_mut!((*call).cookie).write_volatile(0);
        addr_of_mut!((*call).cgroup_id).write(cgroup_id);
        put_no_address(addr_of_mut!((*call).peer));
        addr_of_mut!((*call).fd).write(fd);
        addr_of_mut!((*call).call).write(number);
        zero::<3>(addr_of_mut!((*call).pad).cast());
        if let Some(n) = peer {
            put_user_address(addr_of_mut!((*call).peer), argument(ctx, n));
        }
        entry.assume_init_ref()
    };
    if CALLS.insert(pid_tgid, entry, 0).is_err() {
        count(probe, Count::MapFull);
    }
}

/// Copies a `sockaddr` of the caller, if it is one of the Internet's and can be read.
///
/// # Safety
/// `to` must be valid for writes and aligned to a word.
#[inline(always)]
unsafe fn put_user_address(to: *mut Address, pointer: u64) {
    if pointer == 0 {
        return;
    }
    let mut start = 0_u64;
    // SAFETY: the helper checks the user's pointer and fills 8 bytes of our stack.
    if unsafe { bpf_probe_read_user(addr_of_mut!(start).cast(), 8, pointer as *const _) } != 0 {
        return;
    }
    // Family and port are the first two half words, an IPv4 address the second word.
    let start = start.to_ne_bytes();
    let family = u16::from_ne_bytes([start[0], start[1]]);
    let port = u16::from_be_bytes([start[2], start[3]]);
    if family == AF_INET {
        let v4 = u32::from_ne_bytes([start[4], start[5], start[6], start[7]]);
        // SAFETY: per the contract.
        unsafe { put_address(to, mapped(v4), port) };
    } else if family == AF_INET6 {
        let mut v6 = MaybeUninit::<Words>::uninit();
        // SAFETY: as above, 16 bytes after family, port and flow label; read only when filled.
        unsafe {
            if bpf_probe_read_user(v6.as_mut_ptr().cast(), 16, (pointer + 8) as *const _) == 0 {
                put_address(to, v6.assume_init(), port);
            }
        }
    }
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
        let body = addr_of_mut!((*record).body);
        addr_of_mut!((*body).call).write(call.call);
        addr_of_mut!((*body).flags).write(0);
        addr_of_mut!((*body).fd).write(call.fd);
        addr_of_mut!((*body).result).write(result);
        addr_of_mut!((*body).enter_boot_ns).write(call.enter_boot_ns);
        addr_of_mut!((*body).size).write(call.size);
        copy_address(addr_of_mut!((*body).peer), &call.peer);
        zero::<2>(addr_of_mut!((*body).pad).cast());
    }
    slot.submit(0);
}

/// Word by word, so that it does not become a call of `memcpy`.
///
/// # Safety
/// `to` must be valid for writes; both must be aligned to a word.
#[inline(always)]
unsafe fn copy_address(to: *mut Address, from: &Address) {
    let from = core::ptr::from_ref(from).cast::<u32>();
    let to = to.cast::<u32>();
    for n in 0..size_of::<Address>() / 4 {
        // SAFETY: per the contract.
        unsafe { to.add(n).write_volatile(from.add(n).read_volatile()) };
    }
}
