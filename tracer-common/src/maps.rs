//! Keys and values of the maps that user space and the probes share, with the maps' names.

use crate::limits::DNS_PORTS_MAX;

/// Ring buffer with all records.
pub const EVENTS: &str = "EVENTS";
/// Small ring buffer for the agent: copies of EXEC (targets), CGROUP_MADE, CGROUP_REMOVED.
pub const LIFECYCLE: &str = "LIFECYCLE";
/// Array of one [`Config`].
pub const CONFIG: &str = "CONFIG";
/// Per-CPU array of [`Counters`], indexed by probe number.
pub const COUNTERS: &str = "COUNTERS";
/// Hash: cgroup id of an attach point -> role bits (u32).
pub const TARGETS: &str = "TARGETS";
/// Array of cgroup directories (`BPF_MAP_TYPE_CGROUP_ARRAY`) whose tasks are targets; the first
/// [`Config::target_dirs`] slots are looked at. Linux 5.10 has no ancestor helper in tracepoints.
pub const TARGET_DIRS: &str = "TARGET_DIRS";
/// LRU hash: any cgroup id -> generation ([`CONFIG_GENERATION_SHIFT`]) in the upper half, role bits
/// in the lower (0 = known to be outside). Filled by the probes; other generations are stale.
pub const CGROUPS: &str = "CGROUPS";
/// LRU hash: [`PeerKey`] -> u32. Addresses of targets, learned from their packets by the probes and
/// seeded by user space.
pub const TARGET_ADDRESSES: &str = "TARGET_ADDRESSES";
/// LRU hash: socket cookie -> [`Socket`].
pub const SOCKETS: &str = "SOCKETS";
/// LRU hash: [`fd_key`] -> socket cookie.
pub const FDS: &str = "FDS";
/// Hash: pid_tgid -> [`Call`], calls under way.
pub const CALLS: &str = "CALLS";
/// LRU hash: question hash -> boot_ns of the last time a target asked it through the resolver.
pub const QUESTIONS: &str = "QUESTIONS";
/// LRU hash: [`AwaitedKey`] -> [`Awaited`]. Answers over UDP that targets may wait for, while
/// [`CONFIG_WIRE`] is set.
pub const AWAITED: &str = "AWAITED";

/// What user space tells the probes. Written before anything is attached; may be rewritten.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Config {
    /// Ports that mean DNS, host byte order; 0 ends the list.
    pub dns_ports: [u16; DNS_PORTS_MAX],
    /// Only this process counts as target (`--pid` in a shared cgroup); 0 = every process.
    pub only_tgid: u32,
    /// Most payload bytes of a DNS packet to copy, at most `SNAP_MAX`.
    pub snap_len: u32,
    /// Bits of `CONFIG_*`.
    pub flags: u32,
    /// Offset of the `__data_loc` file name in sched:sched_process_exec.
    pub exec_filename: u16,
    /// Offset of the hierarchy number in cgroup:cgroup_mkdir.
    pub cgroup_root: u16,
    /// Offset of the level in cgroup:cgroup_mkdir.
    pub cgroup_level: u16,
    /// Offset of the id in cgroup:cgroup_mkdir.
    pub cgroup_id: u16,
    /// Offset of the `__data_loc` path in cgroup:cgroup_mkdir.
    pub cgroup_path: u16,
    /// Slots of `TARGET_DIRS` in use, at most [`crate::limits::TARGET_DIRS_MAX`].
    pub target_dirs: u16,
}

/// [`Config::flags`]: write records. Off until user space is ready.
pub const CONFIG_ON: u32 = 1;
/// [`Config::flags`]: note which answers are awaited.
pub const CONFIG_WIRE: u32 = 2;
/// [`Config::flags`]: from this bit on, a number that moves whenever `TARGET_DIRS` changed.
pub const CONFIG_GENERATION_SHIFT: u32 = 16;

/// Per probe and CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    /// Facts that passed the filters.
    pub seen: u64,
    /// Facts lost because the ring buffer was full.
    pub lost: u64,
    /// State that could not be kept because a map was full or refused.
    pub map_full: u64,
    /// Payloads cut at the snap length.
    pub cut: u64,
    /// Facts that could not be read (header, helper error).
    pub unreadable: u64,
}

/// Owner and purpose of a socket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Socket {
    /// Process that opened or last addressed it; 0 unknown.
    pub tgid: u32,
    /// Thread of it.
    pub tid: u32,
    /// Its file descriptor there; -1 unknown.
    pub fd: i32,
    /// Port asked for, host byte order.
    pub port: u16,
    /// Bits of `SOCKET_*`.
    pub flags: u16,
}

/// [`Socket::flags`]: the port asked for is a DNS port.
pub const SOCKET_DNS: u16 = 1;
/// [`Socket::flags`]: a record about it was written, so its release is worth one.
pub const SOCKET_REPORTED: u16 = 2;
/// [`Socket::flags`]: seeded by user space (older than the attach).
pub const SOCKET_SEEDED: u16 = 4;

/// Address of a target as others see it. Port 0 for ordinary addresses (any port); loopback
/// addresses carry the port, since everybody shares them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PeerKey {
    /// IPv6, or IPv4 mapped into it (`::ffff:a.b.c.d`).
    pub addr: [u8; 16],
    /// Host byte order, or 0.
    pub port: u16,
    /// Zero.
    pub pad: u16,
}

/// An answer as it comes in: to whom, and with which DNS id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AwaitedKey {
    /// Own end as on the packet: IPv6, or IPv4 mapped into it.
    pub addr: [u8; 16],
    /// Own port, host byte order.
    pub port: u16,
    /// DNS id, network byte order.
    pub id: u16,
}

/// The socket that asked.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Awaited {
    /// `CLOCK_BOOTTIME` of the latest query.
    pub asked_boot_ns: u64,
    /// Cookie.
    pub cookie: u64,
    /// cgroup v2 id.
    pub cgroup_id: u64,
}

/// A system call under way.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    /// `CLOCK_BOOTTIME` at entry.
    pub enter_boot_ns: u64,
    /// Length argument or number of messages.
    pub size: u64,
    /// Socket cookie, once a hook told it; 0 unknown.
    pub cookie: u64,
    /// cgroup of the caller.
    pub cgroup_id: u64,
    /// Address argument.
    pub peer: crate::bodies::Address,
    /// Descriptor argument.
    pub fd: i32,
    /// One of [`crate::bodies::call`].
    pub call: u16,
    /// Zero.
    pub pad: [u16; 3],
}

const _: () = assert!(size_of::<Call>() == 64);

/// Key of `FDS`.
pub const fn fd_key(tgid: u32, fd: i32) -> u64 {
    ((tgid as u64) << 32) | fd as u32 as u64
}

#[cfg(feature = "user")]
mod user {
    macro_rules! pod {
        ($($t:ty),*) => { $(
            // SAFETY: repr(C), no padding bytes beyond the explicit ones, any bit pattern is valid.
            unsafe impl aya::Pod for $t {}
        )* };
    }
    pod!(super::Config, super::Counters, super::Socket, super::PeerKey, super::Call);
}
