//! Programs started and ended by targets, cgroups made and removed by anybody. Field offsets come
//! from user space, which read them from the running kernel.

use core::ptr::addr_of_mut;

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_probe_read_kernel,
        bpf_probe_read_kernel_str,
    },
    macros::tracepoint,
    maps::{RingBuf, ring_buf::RingBufEntry},
    programs::TracePointContext,
};
use aya_log_ebpf::warn;
use tracer_common::{
    bodies::{Cgroup, Exec},
    limits::{CGROUP_PATH_MAX, FILENAME_MAX},
    maps::Config,
    record::{RecordHeader, kind, probe},
};

use crate::{
    emit::{Carrier, Count, Subject, comm, count, head, reserve},
    filter::{config, current_target},
    maps::{CALLS, EVENTS, LIFECYCLE},
};

#[tracepoint]
pub fn process_exec(ctx: TracePointContext) -> u32 {
    if let Some(config) = config()
        && let Some((pid_tgid, cgroup_id)) = current_target(config)
    {
        let who = Subject { pid_tgid, cgroup_id, cookie: 0 };
        let offset = config.exec_filename;
        if !(exec(&ctx, &EVENTS, offset, &who) && exec(&ctx, &LIFECYCLE, offset, &who)) {
            warn!(&ctx, "exec of {}: file name not readable", (pid_tgid >> 32) as u32);
        }
    }
    0
}

#[tracepoint]
pub fn process_exit(_ctx: TracePointContext) -> u32 {
    // SAFETY: a helper without preconditions.
    let pid_tgid = unsafe { bpf_get_current_pid_tgid() };
    // A thread killed inside a call never leaves it.
    let _ = CALLS.remove(pid_tgid);
    if pid_tgid >> 32 == pid_tgid & 0xffff_ffff
        && let Some(config) = config()
        && let Some((pid_tgid, cgroup_id)) = current_target(config)
    {
        exited(&Subject { pid_tgid, cgroup_id, cookie: 0 });
    }
    0
}

#[tracepoint]
pub fn cgroup_mkdir(ctx: TracePointContext) -> u32 {
    cgroup(&ctx, kind::CGROUP_MADE, probe::CGROUP_MKDIR)
}
#[tracepoint]
pub fn cgroup_rmdir(ctx: TracePointContext) -> u32 {
    cgroup(&ctx, kind::CGROUP_REMOVED, probe::CGROUP_RMDIR)
}

/// A copy that finds no room in the agent's ring is no fact lost: `EVENTS` has it.
#[inline(always)]
fn slot<T: 'static>(ring: &RingBuf, probe: u16) -> Option<RingBufEntry<T>> {
    if core::ptr::eq(ring, &EVENTS) {
        return reserve(ring, probe);
    }
    let slot = ring.reserve::<T>(0);
    if slot.is_none() {
        count(probe, Count::MapFull);
    }
    slot
}

/// False when the name cannot be read; a full ring is counted, not reported here.
#[inline(always)]
fn exec(ctx: &TracePointContext, ring: &RingBuf, offset: u16, who: &Subject) -> bool {
    let Some(mut slot) = slot::<Carrier<Exec, FILENAME_MAX>>(ring, probe::PROCESS_EXEC) else {
        return true;
    };
    let record = slot.as_mut_ptr();
    let fixed = size_of::<Carrier<Exec, FILENAME_MAX>>() - FILENAME_MAX;
    // SAFETY: the slot is ours until submitted.
    unsafe {
        let data = addr_of_mut!((*record).data).cast::<u8>();
        let name_len = located(ctx, offset, data, FILENAME_MAX as u32);
        head(
            addr_of_mut!((*record).header),
            kind::EXEC,
            probe::PROCESS_EXEC,
            fixed as u32 + name_len,
            0,
            who,
        );
        comm(addr_of_mut!((*record).header));
        addr_of_mut!((*record).body).write(Exec { name_len, pad: 0 });
        slot.submit(0);
        if name_len == 0 {
            count(probe::PROCESS_EXEC, Count::Unreadable);
        }
        name_len != 0
    }
}

#[inline(always)]
fn exited(who: &Subject) {
    let Some(mut slot) = reserve::<RecordHeader>(&EVENTS, probe::PROCESS_EXIT) else { return };
    let header = slot.as_mut_ptr();
    // SAFETY: the slot is ours until submitted.
    unsafe {
        head(header, kind::EXIT, probe::PROCESS_EXIT, size_of::<RecordHeader>() as u32, 0, who);
        comm(header);
    }
    slot.submit(0);
}

#[inline(always)]
fn cgroup(ctx: &TracePointContext, kind: u16, probe: u16) -> u32 {
    if let Some(config) = config() {
        cgroup_record(ctx, &EVENTS, config, kind, probe);
        cgroup_record(ctx, &LIFECYCLE, config, kind, probe);
    }
    0
}

#[inline(always)]
fn cgroup_record(ctx: &TracePointContext, ring: &RingBuf, config: &Config, kind: u16, probe: u16) {
    let Some(mut slot) = slot::<Carrier<Cgroup, CGROUP_PATH_MAX>>(ring, probe) else { return };
    let record = slot.as_mut_ptr();
    let fixed = size_of::<Carrier<Cgroup, CGROUP_PATH_MAX>>() - CGROUP_PATH_MAX;
    // SAFETY: the slot is ours until submitted; helpers without preconditions.
    unsafe {
        let data = addr_of_mut!((*record).data).cast::<u8>();
        let path_len = located(ctx, config.cgroup_path, data, CGROUP_PATH_MAX as u32);
        let who = Subject {
            pid_tgid: bpf_get_current_pid_tgid(),
            cgroup_id: bpf_get_current_cgroup_id(),
            cookie: 0,
        };
        head(addr_of_mut!((*record).header), kind, probe, fixed as u32 + path_len, 0, &who);
        comm(addr_of_mut!((*record).header));
        addr_of_mut!((*record).body).write(Cgroup {
            id: field(ctx, config.cgroup_id),
            level: field(ctx, config.cgroup_level),
            hierarchy: field(ctx, config.cgroup_root),
            path_len,
            pad: 0,
        });
    }
    slot.submit(0);
}

/// A plain field at an offset known only at run time.
#[inline(always)]
fn field<T: Default>(ctx: &TracePointContext, offset: u16) -> T {
    let mut value = T::default();
    // SAFETY: the helper checks the source and fills our stack.
    unsafe {
        bpf_probe_read_kernel(
            addr_of_mut!(value).cast(),
            size_of::<T>() as u32,
            ctx.as_ptr().cast::<u8>().add(usize::from(offset)).cast(),
        );
    }
    value
}

/// Copies the text behind a `__data_loc` field; its length without the NUL.
///
/// # Safety
/// `into` must be valid for writes of `size` bytes.
#[inline(always)]
unsafe fn located(ctx: &TracePointContext, offset: u16, into: *mut u8, size: u32) -> u32 {
    let at = field::<u32>(ctx, offset) & 0xffff;
    // SAFETY: per the contract; the helper checks the source.
    let copied = unsafe {
        let from = ctx.as_ptr().cast::<u8>().add(at as usize);
        bpf_probe_read_kernel_str(into.cast(), size, from.cast())
    };
    if copied > 0 { copied as u32 - 1 } else { 0 }
}
