//! The header in front of every record and the numbers that say what follows.

use crate::limits::COMM_LEN;

/// Version of all layouts in this crate; written into each header.
pub const WIRE_VERSION: u8 = 1;

/// In front of every kernel record. `len` bytes are used; the ring slot may be larger, because
/// Linux 5.10 reserves constant sizes only.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RecordHeader {
    /// [`WIRE_VERSION`].
    pub version: u8,
    /// Bits of `FLAG_*`.
    pub flags: u8,
    /// A [`kind`] number.
    pub kind: u16,
    /// Bytes in use, this header included.
    pub len: u32,
    /// `CLOCK_BOOTTIME` in nanoseconds at the instant of the fact.
    pub boot_ns: u64,
    /// cgroup v2 id (inode of the directory); 0 is unknown.
    pub cgroup_id: u64,
    /// Socket cookie; 0 is unknown.
    pub cookie: u64,
    /// Process (thread group) id in the initial pid namespace; 0 is unknown.
    pub tgid: u32,
    /// Thread id in the initial pid namespace; 0 is unknown.
    pub tid: u32,
    /// Processor the probe ran on.
    pub cpu: u32,
    /// A [`probe`] number: the hook that saw it.
    pub probe: u16,
    /// Zero.
    pub pad: u16,
    /// Thread name, NUL padded; all zero is unknown.
    pub comm: [u8; COMM_LEN],
}

const _: () = assert!(size_of::<RecordHeader>() == 64);

/// The payload was longer than what the record carries.
pub const FLAG_CUT: u8 = 1;

/// What a record is. Numbers are part of the capture format: never reused, gaps are room to grow.
/// Below 0x8000: facts seen at a hook. From 0x8000: context, made by user space.
pub mod kind {
    /// One system call, at its exit: [`crate::bodies::Syscall`].
    pub const SYSCALL: u16 = 0x0100;
    /// connect, sendmsg, recvmsg as the cgroup hooks see them: [`crate::bodies::SocketAddress`].
    pub const SOCKET_ADDRESS: u16 = 0x0110;
    /// A socket was released: [`crate::bodies::SocketClosed`].
    pub const SOCKET_CLOSED: u16 = 0x0111;
    /// A packet from its IP header on: [`crate::bodies::Packet`] and the bytes.
    pub const PACKET: u16 = 0x0120;
    /// A datagram for a socket that waits for an answer, or an ICMP error about its query, where it
    /// enters the socket's network namespace: [`crate::bodies::Packet`] and the bytes. Whether it reached
    /// the socket is told by `PACKET`; cookie and cgroup are the socket's.
    pub const WIRE: u16 = 0x0121;
    /// A TCP socket's life: [`crate::bodies::TcpState`].
    pub const TCP_STATE: u16 = 0x0130;
    /// A process replaced its program: [`crate::bodies::Exec`] and the file name.
    pub const EXEC: u16 = 0x0140;
    /// A process ended (its last thread group leader): no body.
    pub const EXIT: u16 = 0x0141;
    /// A cgroup was made: [`crate::bodies::Cgroup`] and the path.
    pub const CGROUP_MADE: u16 = 0x0150;
    /// A cgroup was removed: [`crate::bodies::Cgroup`] and the path.
    pub const CGROUP_REMOVED: u16 = 0x0151;
    /// What a program sent or received on a datagram socket: [`crate::bodies::Payload`] and the bytes.
    pub const PAYLOAD: u16 = 0x0160;
    /// One side of a system call (or another event) of a foreign capture: [`crate::bodies::Call`],
    /// its name and its arguments.
    pub const CALL: u16 = 0x0170;
    /// Arguments of a command, or what passed a socket and is not DNS: [`crate::bodies::Data`] and the
    /// bytes. Only where somebody asked for it.
    pub const DATA: u16 = 0x0180;
}

/// Which hook saw a record; also the index into the per-CPU counters.
pub mod probe {
    /// cgroup/connect4.
    pub const CONNECT4: u16 = 1;
    /// cgroup/connect6.
    pub const CONNECT6: u16 = 2;
    /// cgroup/sendmsg4.
    pub const SENDMSG4: u16 = 3;
    /// cgroup/sendmsg6.
    pub const SENDMSG6: u16 = 4;
    /// cgroup/recvmsg4.
    pub const RECVMSG4: u16 = 5;
    /// cgroup/recvmsg6.
    pub const RECVMSG6: u16 = 6;
    /// cgroup/sock_release.
    pub const SOCK_RELEASE: u16 = 7;
    /// cgroup_skb/egress on a target.
    pub const TARGET_EGRESS: u16 = 8;
    /// cgroup_skb/ingress on a target.
    pub const TARGET_INGRESS: u16 = 9;
    /// cgroup_skb/egress on the cluster's resolver.
    pub const RESOLVER_EGRESS: u16 = 10;
    /// cgroup_skb/ingress on the cluster's resolver.
    pub const RESOLVER_INGRESS: u16 = 11;
    /// sock_ops on a target.
    pub const TARGET_SOCK_OPS: u16 = 12;
    /// sock_ops at the root of the cgroup tree: accepts from targets.
    pub const PEER_SOCK_OPS: u16 = 13;
    /// sched:sched_process_exec.
    pub const PROCESS_EXEC: u16 = 14;
    /// sched:sched_process_exit.
    pub const PROCESS_EXIT: u16 = 15;
    /// cgroup:cgroup_mkdir.
    pub const CGROUP_MKDIR: u16 = 16;
    /// cgroup:cgroup_rmdir.
    pub const CGROUP_RMDIR: u16 = 17;
    /// Socket filter on a packet socket in a target's network namespace.
    pub const WIRE: u16 = 18;
    /// syscalls:sys_*_connect.
    pub const SYS_CONNECT: u16 = 20;
    /// syscalls:sys_*_sendto.
    pub const SYS_SENDTO: u16 = 21;
    /// syscalls:sys_*_sendmsg.
    pub const SYS_SENDMSG: u16 = 22;
    /// syscalls:sys_*_sendmmsg.
    pub const SYS_SENDMMSG: u16 = 23;
    /// syscalls:sys_*_recvfrom.
    pub const SYS_RECVFROM: u16 = 24;
    /// syscalls:sys_*_recvmsg.
    pub const SYS_RECVMSG: u16 = 25;
    /// syscalls:sys_*_recvmmsg.
    pub const SYS_RECVMMSG: u16 = 26;
    /// No hook: concluded from the far side's sighting or from the response.
    pub const RECOVERED: u16 = 48;
}
