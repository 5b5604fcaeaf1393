//! Sizes both sides agree on.

/// Most bytes of a DNS packet (IP header included) that a record carries.
pub const SNAP_MAX: usize = 4096;
/// Most bytes of a TCP packet of DNS that a record carries: the kernel puts up to 64 KiB into one.
pub const STREAM_SNAP_MAX: usize = 65536;
/// Most bytes of a TCP control packet (IP and TCP headers) that a record carries.
pub const CONTROL_SNAP: usize = 128;
/// Most bytes of a file name in an exec record.
pub const FILENAME_MAX: usize = 256;
/// Most bytes of a path in a cgroup record.
pub const CGROUP_PATH_MAX: usize = 512;
/// DNS ports a configuration can name besides each other (53 is only the default first).
pub const DNS_PORTS_MAX: usize = 8;
/// Target cgroups whose tasks the tracepoints can recognise at one time.
pub const TARGET_DIRS_MAX: u32 = 256;
/// Size of a thread name as the kernel keeps it (`TASK_COMM_LEN`).
pub const COMM_LEN: usize = 16;
/// Upper bound for the number of probes; the length of the per-CPU counter map.
pub const PROBES_MAX: u32 = 64;
