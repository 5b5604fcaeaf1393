//! Who is a target: configuration, cgroup roles and the ports that mean DNS.

use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_get_current_pid_tgid};
use tracer_common::{
    bodies::role,
    limits::TARGET_DIRS_MAX,
    maps::{CONFIG_GENERATION_SHIFT, CONFIG_ON, Config, Socket},
};

use crate::{
    emit::opaque,
    maps::{CGROUPS, CONFIG, SOCKETS, TARGET_DIRS},
};

/// The configuration, while recording is on.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    let config = CONFIG.get(0)?;
    (config.flags & CONFIG_ON != 0).then_some(config)
}

/// Whether `port` means DNS.
#[inline(always)]
pub fn is_dns(config: &Config, port: u16) -> bool {
    // Without branches: each would double the paths that the verifier walks. Of two 16-bit numbers
    // the difference less one is negative only when they are equal.
    let mut hit = 0_u64;
    for known in &config.dns_ports {
        hit |= opaque(u64::from(*known ^ port)).wrapping_sub(1);
    }
    hit >> 63 != 0 && port != 0
}

/// Whether the configuration wants this process.
#[inline(always)]
pub fn wants(config: &Config, tgid: u32) -> bool {
    config.only_tgid == 0 || config.only_tgid == tgid
}

/// What is known of a socket, and whether anything is. The empty one belongs to nobody: as a
/// plain value, because an absent one would leave registers that the verifier cannot follow.
#[inline(always)]
pub fn known_socket(cookie: u64) -> (bool, Socket) {
    let mut socket = Socket { tgid: 0, tid: 0, fd: -1, port: 0, flags: 0 };
    // SAFETY: a plain read of a live map value.
    let found = unsafe { SOCKETS.get(cookie) };
    if let Some(known) = found {
        socket = *known;
    }
    (found.is_some(), socket)
}

/// The current task, when it is a target: (pid_tgid, cgroup id).
#[inline(always)]
pub fn current_target(config: &Config) -> Option<(u64, u64)> {
    // SAFETY: helpers without preconditions.
    let (cgroup_id, pid_tgid) =
        unsafe { (bpf_get_current_cgroup_id(), bpf_get_current_pid_tgid()) };
    if !wants(config, (pid_tgid >> 32) as u32) {
        return None;
    }
    let generation = config.flags >> CONFIG_GENERATION_SHIFT;
    // SAFETY: a u32 read from a live map value; a stale one is told by its generation.
    let cached = unsafe { CGROUPS.get(cgroup_id) }.copied();
    let role = match cached {
        Some(value) if value >> CONFIG_GENERATION_SHIFT == generation => value & 0xffff,
        _ => {
            let role = find_role(u32::from(config.target_dirs));
            let value = (generation << CONFIG_GENERATION_SHIFT) | role;
            // A cache that cannot be written only costs time.
            let _ = CGROUPS.insert(cgroup_id, value, 0);
            role
        }
    };
    (role & u32::from(role::TARGET) != 0).then_some((pid_tgid, cgroup_id))
}

#[inline(always)]
fn find_role(dirs: u32) -> u32 {
    for slot in 0..TARGET_DIRS_MAX {
        // Opaque, lest the compiler folds both limits into one that the verifier cannot see.
        if u64::from(slot) >= opaque(u64::from(dirs)) {
            break;
        }
        if let Ok(true) = TARGET_DIRS.current_task_under_cgroup(slot) {
            return u32::from(role::TARGET);
        }
    }
    0
}
