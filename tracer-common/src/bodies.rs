//! What follows the header, by record kind.

/// An IP endpoint. IPv4 addresses stand in the first four bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Address {
    /// `AF_INET` (2), `AF_INET6` (10); anything else: no address here.
    pub family: u16,
    /// Port in host byte order.
    pub port: u16,
    /// Address in network byte order.
    pub addr: [u8; 16],
}

/// `AF_INET` as the kernel numbers it.
pub const AF_INET: u16 = 2;
/// `AF_INET6` as the kernel numbers it.
pub const AF_INET6: u16 = 10;

/// Body of `SYSCALL`. The header's time is the exit (or, for an open call, the end of the trace).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Syscall {
    /// One of [`call`].
    pub call: u16,
    /// Bit 0: the call had not returned when the trace ended; `result` means nothing.
    pub flags: u16,
    /// File descriptor argument.
    pub fd: i32,
    /// Return value; negative is -errno.
    pub result: i64,
    /// `CLOCK_BOOTTIME` in nanoseconds at the entry.
    pub enter_boot_ns: u64,
    /// Length argument, or the number of messages for the *mmsg calls; 0 where there is none.
    pub size: u64,
    /// Address argument of connect and sendto; family 0 where there is none.
    pub peer: Address,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<Syscall>() == 56);

/// Flag of [`Syscall`]: still open at the end of the trace.
pub const SYSCALL_OPEN: u16 = 1;

/// Numbers of the traced calls (our own, not the architecture's).
pub mod call {
    /// connect(2).
    pub const CONNECT: u16 = 1;
    /// sendto(2).
    pub const SENDTO: u16 = 2;
    /// sendmsg(2).
    pub const SENDMSG: u16 = 3;
    /// sendmmsg(2).
    pub const SENDMMSG: u16 = 4;
    /// recvfrom(2).
    pub const RECVFROM: u16 = 5;
    /// recvmsg(2).
    pub const RECVMSG: u16 = 6;
    /// recvmmsg(2).
    pub const RECVMMSG: u16 = 7;
}

/// Body of `SOCKET_ADDRESS`; the header's probe says which hook.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SocketAddress {
    /// Destination asked for (connect, sendmsg) or source reported (recvmsg).
    pub remote: Address,
    /// File descriptor, when the call that led here is known; else -1.
    pub fd: i32,
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// `SOCK_STREAM` (1), `SOCK_DGRAM` (2), ...
    pub socket_type: u8,
    /// Zero.
    pub pad: [u8; 6],
}

const _: () = assert!(size_of::<SocketAddress>() == 32);

/// Body of `SOCKET_CLOSED`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SocketClosed {
    /// Local end, as far as bound.
    pub local: Address,
    /// Remote end, as far as connected.
    pub remote: Address,
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// [`role`] of the hook.
    pub role: u8,
    /// Zero.
    pub pad: [u8; 6],
}

const _: () = assert!(size_of::<SocketClosed>() == 48);

/// Body of `PACKET` and `WIRE`; `captured` bytes from the IP header on follow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// [`DIRECTION_IN`] or [`DIRECTION_OUT`], seen from the socket.
    pub direction: u8,
    /// 4 or 6.
    pub ip_version: u8,
    /// `IPPROTO_UDP` or `IPPROTO_TCP`; of `WIRE` also `IPPROTO_ICMP` or `IPPROTO_ICMPV6`.
    pub protocol: u8,
    /// [`role`] of the hook.
    pub role: u8,
    /// Bit 0: the socket was opened towards a DNS port, or a port of the packet is one.
    pub flags: u16,
    /// Bytes from the IP header to the transport header.
    pub transport_offset: u16,
    /// Bytes of the whole packet from the IP header on.
    pub original: u32,
    /// Bytes that follow.
    pub captured: u32,
    /// Port the program asked for, remembered by socket cookie, host byte order; 0 unknown.
    pub intended_port: u16,
    /// Zero.
    pub pad: [u8; 6],
}

const _: () = assert!(size_of::<Packet>() == 24);

/// [`Packet::direction`]: towards the socket.
pub const DIRECTION_IN: u8 = 0;
/// [`Packet::direction`]: from the socket.
pub const DIRECTION_OUT: u8 = 1;
/// [`Packet::flags`]: DNS.
pub const PACKET_DNS: u16 = 1;

/// Why a hook looked at a cgroup.
pub mod role {
    /// What the user asked to trace.
    pub const TARGET: u8 = 1;
    /// The cluster's resolver, traced along.
    pub const RESOLVER: u8 = 2;
    /// The far end of a target's connection.
    pub const PEER: u8 = 4;
}

/// Body of `TCP_STATE`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TcpState {
    /// Local end.
    pub local: Address,
    /// Remote end.
    pub remote: Address,
    /// One of [`tcp_event`].
    pub event: u8,
    /// [`role`] of the hook.
    pub role: u8,
    /// Old `TCP_*` state, for `STATE`.
    pub old: u8,
    /// New `TCP_*` state, for `STATE`.
    pub new: u8,
    /// Smoothed round-trip time in microseconds; 0 unknown.
    pub srtt_us: u32,
    /// Segments retransmitted over the socket's life.
    pub retransmits: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(size_of::<TcpState>() == 56);

/// Numbers of [`TcpState::event`].
pub mod tcp_event {
    /// A connect begins.
    pub const CONNECT: u8 = 1;
    /// A connect succeeded.
    pub const ACTIVE_ESTABLISHED: u8 = 2;
    /// A connection was accepted.
    pub const PASSIVE_ESTABLISHED: u8 = 3;
    /// The state changed.
    pub const STATE: u8 = 4;
    /// A segment was retransmitted.
    pub const RETRANSMIT: u8 = 5;
}

/// Body of `EXEC`; `name_len` bytes of the file name follow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Exec {
    /// Bytes that follow.
    pub name_len: u32,
    /// Zero.
    pub pad: u32,
}

/// Body of `CGROUP_MADE` and `CGROUP_REMOVED`; `path_len` bytes of the path below the hierarchy's
/// root follow. The header's cgroup is that of the task that did it, not this one.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Cgroup {
    /// Id of the cgroup.
    pub id: u64,
    /// Depth below the root (1 = child of the root).
    pub level: u32,
    /// Hierarchy number; 0 is unknown. cgroup v2's default hierarchy has its own number.
    pub hierarchy: u32,
    /// Bytes that follow.
    pub path_len: u32,
    /// Zero.
    pub pad: u32,
}

/// Body of `PAYLOAD`; `captured` bytes of the message follow. No captured packet stands behind it: a
/// system call's buffer does.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    /// Own end; a wildcard where the socket is bound to one.
    pub local: Address,
    /// Far end.
    pub remote: Address,
    /// `IPPROTO_*`.
    pub protocol: u8,
    /// [`DIRECTION_IN`] or [`DIRECTION_OUT`], seen from the socket.
    pub direction: u8,
    /// Zero.
    pub flags: u16,
    /// Bytes of the whole message.
    pub original: u32,
    /// Bytes that follow.
    pub captured: u32,
}

const _: () = assert!(size_of::<Payload>() == 52);

/// Body of `DATA`; `captured` bytes follow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Data {
    /// One of [`data`].
    pub what: u8,
    /// Zero.
    pub pad: [u8; 3],
    /// Bytes there were.
    pub original: u32,
    /// Bytes that follow.
    pub captured: u32,
}

const _: () = assert!(size_of::<Data>() == 12);

/// Numbers of [`Data::what`].
pub mod data {
    /// Arguments of a command from the second word on, each with a NUL behind it.
    pub const ARGUMENTS: u8 = 1;
    /// Sent on a socket.
    pub const SENT: u8 = 2;
    /// Received on a socket.
    pub const RECEIVED: u8 = 3;
}

/// Body of `CALL`; `name_len` bytes of the call's name and `args_len` bytes of its arguments follow,
/// each argument as `key=value` and a NUL.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// File descriptor, with [`CALL_FD`].
    pub fd: i64,
    /// Return value, with [`CALL_RESULT`]; negative is -errno.
    pub result: i64,
    /// [`CALL_ENTER`] or [`CALL_EXIT`].
    pub direction: u8,
    /// Bits of [`CALL_FD`] and [`CALL_RESULT`].
    pub flags: u8,
    /// Bytes of the name.
    pub name_len: u16,
    /// Bytes of the arguments.
    pub args_len: u32,
}

const _: () = assert!(size_of::<Call>() == 24);

/// [`Call::direction`]: the call begins, or an event without two sides.
pub const CALL_ENTER: u8 = 0;
/// [`Call::direction`]: the call returns.
pub const CALL_EXIT: u8 = 1;
/// [`Call::flags`]: `fd` is known.
pub const CALL_FD: u8 = 1;
/// [`Call::flags`]: `result` is known.
pub const CALL_RESULT: u8 = 2;
