//! The records of the self-test and what they must say. Reads the wire structs directly: the
//! decoder is not under test here, the probes are.

use std::ptr;

use tracer_common::{
    bodies::{
        AF_INET, Cgroup, DIRECTION_IN, DIRECTION_OUT, Exec, Packet, SocketAddress, SocketClosed,
        Syscall, TcpState, call, role, tcp_event,
    },
    record::{RecordHeader, WIRE_VERSION, kind, probe},
};

use super::traffic::Facts;

/// One thing that the traffic proved or not.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// Whether it held.
    pub ok: bool,
    /// Whether svctrace needs it.
    pub mandatory: bool,
}

/// Wire structs: plain bytes, any value is valid.
trait Wire: Copy {}
impl Wire for RecordHeader {}
impl Wire for SocketAddress {}
impl Wire for SocketClosed {}
impl Wire for Packet {}
impl Wire for Syscall {}
impl Wire for TcpState {}
impl Wire for Exec {}
impl Wire for Cgroup {}

fn read<T: Wire>(bytes: &[u8], at: usize) -> Option<T> {
    let slice = bytes.get(at..at.checked_add(size_of::<T>())?)?;
    // SAFETY: the slice has the size of T, T is plain bytes, alignment does not matter.
    Some(unsafe { ptr::read_unaligned(slice.as_ptr().cast()) })
}

/// Records, sorted by kind.
#[derive(Default)]
pub(super) struct Seen {
    addresses: Vec<(RecordHeader, SocketAddress)>,
    closed: Vec<(RecordHeader, SocketClosed)>,
    packets: Vec<(RecordHeader, Packet, Vec<u8>)>,
    doors: Vec<(RecordHeader, Packet, Vec<u8>)>,
    syscalls: Vec<(RecordHeader, Syscall)>,
    tcp: Vec<(RecordHeader, TcpState)>,
    programs: Vec<(RecordHeader, Vec<u8>)>,
    exits: Vec<RecordHeader>,
    cgroups: Vec<(RecordHeader, Cgroup, Vec<u8>)>,
    odd: usize,
}

impl Seen {
    pub(super) fn take(&mut self, slot: &[u8]) {
        if self.sort(slot).is_none() {
            self.odd += 1;
        }
    }

    fn sort(&mut self, slot: &[u8]) -> Option<()> {
        let header: RecordHeader = read(slot, 0)?;
        let bytes = slot.get(..header.len as usize)?;
        let at = size_of::<RecordHeader>();
        if header.version != WIRE_VERSION || header.pad != 0 {
            return None;
        }
        match header.kind {
            kind::SOCKET_ADDRESS => self.addresses.push((header, read(bytes, at)?)),
            kind::SOCKET_CLOSED => self.closed.push((header, read(bytes, at)?)),
            kind::SYSCALL => self.syscalls.push((header, read(bytes, at)?)),
            kind::TCP_STATE => self.tcp.push((header, read(bytes, at)?)),
            kind::PACKET | kind::WIRE => {
                let body: Packet = read(bytes, at)?;
                let data = bytes.get(at + size_of::<Packet>()..)?;
                (data.len() == body.captured as usize).then_some(())?;
                let all =
                    if header.kind == kind::WIRE { &mut self.doors } else { &mut self.packets };
                all.push((header, body, data.to_vec()));
            }
            kind::EXEC => {
                let data = bytes.get(at + size_of::<Exec>()..)?;
                self.programs.push((header, data.to_vec()));
            }
            kind::EXIT => self.exits.push(header),
            kind::CGROUP_MADE | kind::CGROUP_REMOVED => {
                let data = bytes.get(at + size_of::<Cgroup>()..)?;
                self.cgroups.push((header, read(bytes, at)?, data.to_vec()));
            }
            _ => return None,
        }
        Some(())
    }

    pub(super) fn checks(&self, f: &Facts, target: u64, syscalls: bool) -> Vec<Check> {
        let connect = self.addresses.iter().find(|(h, a)| {
            h.probe == probe::CONNECT4 && a.remote.port == f.server_port && a.protocol == 17
        });
        let cookie = connect.map_or(0, |(h, _)| h.cookie);
        let must = |name, ok| Check { name, ok, mandatory: true };
        let may = |name, ok| Check { name, ok, mandatory: false };
        let mut all = vec![
            must("every-record-readable", self.odd == 0),
            must(
                "connect-names-process",
                connect.is_some_and(|(h, a)| {
                    h.tgid == f.tgid
                        && h.cgroup_id == target
                        && h.cookie != 0
                        && h.comm[0] != 0
                        && a.remote.family == AF_INET
                        && a.remote.addr[..4] == [127, 0, 0, 1]
                        && (!syscalls || a.fd == f.client_fd)
                }),
            ),
            must("dns-query-packet", self.dns_packet(DIRECTION_OUT, cookie, target, &f.query)),
            must("dns-answer-packet", self.dns_packet(DIRECTION_IN, cookie, target, &[])),
            must(
                "unconnected-query",
                self.addresses.iter().any(|(h, a)| {
                    h.probe == probe::SENDMSG4 && h.tgid == f.tgid && a.remote.port == f.server_port
                }) && self.packet_from(role::TARGET, f.unconnected_port),
            ),
            must(
                "unconnected-answer",
                self.addresses
                    .iter()
                    .any(|(h, a)| h.probe == probe::RECVMSG4 && a.remote.port == f.server_port),
            ),
            must("resolver-sees-target", self.resolver(f)),
            must("resolver-asks-any-length", f.lengths.iter().all(|query| self.asked(f, query))),
            must("neighbour-stays-out", self.neighbour_absent()),
            must("tcp-connect", self.tcp_connect(f)),
            must(
                "tcp-control-packets",
                self.packets.iter().any(|(_, p, data)| {
                    p.protocol == 6 && port_at(data, p.transport_offset, 2) == f.tcp_server_port
                }),
            ),
            must("cgroup-made", self.cgroup(kind::CGROUP_MADE, f.inner_cgroup)),
            must("cgroup-removed", self.cgroup(kind::CGROUP_REMOVED, f.inner_cgroup)),
            may(
                "socket-close",
                self.closed.iter().any(|(h, c)| {
                    h.cookie == cookie && h.tgid == f.tgid && c.remote.port == f.server_port
                }),
            ),
            may(
                "tcp-backend",
                self.tcp.iter().any(|(_, t)| {
                    t.role == role::PEER
                        && t.event == tcp_event::PASSIVE_ESTABLISHED
                        && t.remote.port == f.tcp_client_port
                }),
            ),
        ];
        if f.ran_program {
            let ran = self.programs.iter().find(|(_, name)| name == b"/bin/true");
            all.push(must("exec", ran.is_some()));
            all.push(must(
                "exit",
                ran.is_some_and(|(h, _)| {
                    self.exits.iter().any(|e| e.tgid == h.tgid && e.boot_ns > h.boot_ns)
                }),
            ));
        }
        if let Some(port) = f.v6 {
            all.push(must("ipv6-query", self.packet_from(role::TARGET, port)));
        }
        if syscalls {
            all.push(may("syscall-connect", self.syscall(call::CONNECT, f, cookie)));
            all.push(may("syscall-sendto", self.syscall(call::SENDTO, f, cookie)));
            all.push(may("syscall-recvfrom", self.syscall(call::RECVFROM, f, cookie)));
        }
        all
    }

    fn dns_packet(&self, direction: u8, cookie: u64, cgroup: u64, payload: &[u8]) -> bool {
        cookie != 0
            && self.packets.iter().any(|(h, p, data)| {
                h.cookie == cookie
                    && h.cgroup_id == cgroup
                    && p.role == role::TARGET
                    && p.direction == direction
                    && p.flags == 1
                    && p.captured == p.original
                    && data.ends_with(payload)
            })
    }

    /// The client's answer, once, in front of its socket; of the answer to a neighbour nothing.
    pub(super) fn at_door(&self, f: &Facts) -> bool {
        let same = |cookie: u64| self.packets.iter().any(|(h, ..)| h.cookie == cookie);
        let to = |port: u16| {
            let it = self.doors.iter().filter(move |(_, p, data)| {
                p.direction == DIRECTION_IN && port_at(data, p.transport_offset, 2) == port
            });
            it.filter(|(h, ..)| h.cookie != 0 && h.cgroup_id != 0 && same(h.cookie)).count()
        };
        let neighbour = self.doors.iter().any(|(.., data)| has(data, b"neighbour"));
        to(f.client_port) == 1 && to(f.unconnected_port) == 1 && !neighbour
    }

    fn packet_from(&self, role: u8, port: u16) -> bool {
        self.packets.iter().any(|(_, p, data)| {
            p.role == role
                && p.direction == DIRECTION_OUT
                && port_at(data, p.transport_offset, 0) == port
        })
    }

    /// Query in, question out to the upstream, its answer in, answer out.
    fn resolver(&self, f: &Facts) -> bool {
        let has = |direction, offset, port| {
            self.packets.iter().any(|(_, p, data)| {
                p.role == role::RESOLVER
                    && p.direction == direction
                    && port_at(data, p.transport_offset, offset) == port
            })
        };
        has(DIRECTION_IN, 0, f.client_port)
            && has(DIRECTION_OUT, 2, f.upstream_port)
            && has(DIRECTION_IN, 0, f.upstream_port)
            && has(DIRECTION_OUT, 2, f.client_port)
    }

    /// The resolver's own question to the upstream.
    fn asked(&self, f: &Facts, query: &[u8]) -> bool {
        self.packets.iter().any(|(_, p, data)| {
            p.role == role::RESOLVER
                && p.direction == DIRECTION_OUT
                && port_at(data, p.transport_offset, 2) == f.upstream_port
                && data.ends_with(query)
        })
    }

    fn neighbour_absent(&self) -> bool {
        !self.packets.iter().any(|(.., data)| has(data, b"neighbour"))
    }

    fn tcp_connect(&self, f: &Facts) -> bool {
        let owner = self
            .addresses
            .iter()
            .find(|(h, a)| h.probe == probe::CONNECT4 && a.remote.port == f.tcp_server_port);
        owner.is_some_and(|(owner, _)| {
            [tcp_event::CONNECT, tcp_event::ACTIVE_ESTABLISHED, tcp_event::STATE].iter().all(|e| {
                self.tcp.iter().any(|(h, t)| {
                    t.event == *e
                        && h.cookie == owner.cookie
                        && t.remote.port == f.tcp_server_port
                        && (*e == tcp_event::CONNECT || t.local.port == f.tcp_client_port)
                })
            })
        })
    }

    fn cgroup(&self, kind: u16, id: u64) -> bool {
        self.cgroups.iter().any(|(h, c, path)| {
            h.kind == kind && c.id == id && path.starts_with(b"/") && path.ends_with(b"/inner")
        })
    }

    fn syscall(&self, number: u16, f: &Facts, cookie: u64) -> bool {
        self.syscalls.iter().any(|(h, s)| {
            s.call == number
                && h.cookie == cookie
                && h.tgid == f.tgid
                && s.fd == f.client_fd
                && s.result >= 0
                && s.enter_boot_ns <= h.boot_ns
        })
    }
}

fn has(data: &[u8], label: &[u8]) -> bool {
    data.windows(label.len()).any(|window| window == label)
}

fn port_at(data: &[u8], transport: u16, offset: usize) -> u16 {
    let at = usize::from(transport) + offset;
    data.get(at..at + 2).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]))
}
