//! What socket calls mean: who connected to whom, which DNS messages passed, when a socket ended.

use std::net::SocketAddr;

use bytes::{BufMut, BytesMut};
use tracer_common::bodies::{SYSCALL_OPEN, call, data, role, tcp_event};
use tracer_common::record::probe;

use super::bytes::{Ends, address, canonical, tuple};
use super::call::polled;
use super::events::Event;
use super::out::{Message, Who, put_address};
use super::state::{Connect, Enter, Fd, Socket};
use super::{Engine, TCP, UDP, file};
use crate::record::RecordKind;

const SOCK_CLOEXEC: u64 = 0x8_0000;
const EINPROGRESS: i64 = -115;
/// Return of read(2).
const READ: u16 = 7;
/// Of readv(2): musl reads files with it.
const READV: u16 = 117;
const POLLOUT: u16 = 4;
const POLLERR_POLLHUP: u16 = 8 | 16;

/// Where a transfer's return keeps what.
struct Transfer {
    incoming: bool,
    fd: usize,
    data: usize,
    ends: Option<usize>,
    /// Bytes asked for, where the return tells.
    size: Option<usize>,
    call: u16,
}

/// read(2) and write(2) on a socket are its recv and send.
fn transfer(kind: u16) -> Option<Transfer> {
    let (incoming, fd, data, ends, size, call) = match kind {
        7 => (true, 2, 1, None, Some(3), call::RECVFROM),
        9 => (false, 2, 1, None, Some(3), call::SENDTO),
        29 | 31 => (false, 2, 1, Some(4), Some(3), call::SENDTO),
        33 => (true, 2, 1, Some(4), Some(3), call::RECVFROM),
        35 => (true, 3, 1, Some(2), Some(4), call::RECVFROM),
        49 => (false, 2, 1, Some(4), Some(3), call::SENDMSG),
        51 => (false, 1, 3, Some(4), Some(2), call::SENDMMSG),
        53 => (true, 5, 2, Some(3), None, call::RECVMSG),
        55 => (true, 1, 3, Some(4), Some(2), call::RECVMMSG),
        117 => (true, 3, 2, None, None, call::RECVMSG),
        119 => (false, 2, 1, None, Some(3), call::SENDMSG),
        _ => return None,
    };
    Some(Transfer { incoming, fd, data, ends, size, call })
}

/// What of an entry the return will need.
pub(super) fn enter(event: &Event<'_>) -> Enter {
    let mut enter = Enter { kind: event.kind, at: event.at, ..Enter::default() };
    match event.kind {
        0 => enter.native = event.u64(1),
        18 => {
            enter.socket =
                event.u64(0).zip(event.u64(1)).zip(event.u64(2)).map(|((d, t), p)| (d, t, p));
        }
        30 | 48 => {
            enter.fd = event.i64(0);
            enter.size = event.u64(1).unwrap_or_default();
            enter.ends = event.get(2).and_then(tuple);
        }
        102 => {
            if let Some(Fd::File { path, .. }) = event.get(1).map(super::bytes::c_text).map(file) {
                enter.path = Some(path);
            }
        }
        150 => {
            enter.fd = event.i64(0);
            enter.command = event.u64(1).unwrap_or_default();
        }
        6 | 8 | 28 | 32 | 34 | 118 => {
            enter.fd = event.i64(0);
            enter.size = event.u64(1).unwrap_or_default();
        }
        4 | 20 | 22 | 24 | 52 | 116 | 124 | 362 | 364 | 366 => enter.fd = event.i64(0),
        _ => {}
    }
    enter
}

/// Ports that mean DNS.
trait DnsPorts {
    fn is_dns(&self, end: Option<SocketAddr>) -> bool;

    /// A stream of DNS messages.
    fn streams(&self, socket: &Socket) -> bool {
        socket.protocol == Some(TCP) && (self.is_dns(socket.local) || self.is_dns(socket.remote))
    }

    /// A client's socket towards a DNS server.
    fn asks(&self, socket: &Socket) -> bool {
        socket.protocol == Some(UDP) && self.is_dns(socket.remote)
    }

    /// Any socket that carries DNS.
    fn carries(&self, socket: &Socket) -> bool {
        socket.protocol != Some(TCP) && (self.is_dns(socket.local) || self.is_dns(socket.remote))
    }
}

impl DnsPorts for Vec<u16> {
    fn is_dns(&self, end: Option<SocketAddr>) -> bool {
        end.is_some_and(|end| self.contains(&end.port()))
    }
}

impl Engine {
    /// A socket call began: what counts from here on.
    pub(super) fn network_enter(&mut self, event: &Event<'_>, who: &Who) {
        let tid = event.tid;
        let ports = &self.options.dns_ports;
        match event.kind {
            4 => {
                if let Some(lost) = event.i64(0).and_then(|fd| self.state.close(tid, fd)) {
                    self.socket_ended(lost, event.at, who);
                }
            }
            50 => self.sends_unseen(event, who),
            80 | 254 => {
                let wanted = polled(event.get(0).unwrap_or_default());
                let writable = wanted.filter(|(_, bits)| bits & POLLOUT != 0).map(|(fd, _)| fd);
                let found = writable
                    .filter_map(|fd| self.state.socket_of(tid, fd))
                    .find(|cookie| self.state.socket(*cookie).is_some_and(|s| ports.asks(s)));
                if let Some(thread) = self.state.thread_mut(tid).filter(|_| found.is_some()) {
                    thread.dns = found;
                }
            }
            _ => {}
        }
    }

    /// sendmmsg of old tells neither socket nor data.
    fn sends_unseen(&mut self, event: &Event<'_>, who: &Who) {
        let ports = &self.options.dns_ports;
        let asks = |cookie: &u64| self.state.socket(*cookie).is_some_and(|s| ports.asks(s));
        let polled = self.state.thread(event.tid).and_then(|thread| thread.dns).filter(asks);
        let Some(cookie) = polled.or_else(|| self.state.only_socket(event.tid, |s| ports.asks(s)))
        else {
            return;
        };
        let Some(socket) = self.state.socket_mut(cookie) else { return };
        let (Some(local), Some(remote)) = (socket.local, socket.remote) else { return };
        socket.told = true;
        let who = Who { cookie: Some(cookie), ..who.clone() };
        let hold = self.out.begin_hold(event.at, who, local, remote);
        if let Some(enter) = self.state.thread_mut(event.tid).and_then(|t| t.enter.as_mut()) {
            enter.hold = Some(hold);
            enter.fd = None;
        }
    }

    /// A socket call returned.
    pub(super) fn network_exit(&mut self, event: &Event<'_>, who: &Who, enter: &Enter) {
        let result = event.i64(0);
        match event.kind {
            5 => {
                // Writers without entries tell the descriptor here.
                let fd = enter.fd.is_none().then(|| event.i64(1)).flatten();
                if let Some(lost) = fd.and_then(|fd| self.state.close(event.tid, fd)) {
                    self.socket_ended(lost, event.at, who);
                }
            }
            19 => self.made(event, enter),
            21 if result == Some(0) => {
                let fd = event.i64(2).or(enter.fd);
                let cookie = fd.and_then(|fd| self.state.socket_of(event.tid, fd));
                let local = event.get(1).and_then(address).map(|end| canonical(end, end).0);
                if let Some(socket) = cookie.and_then(|cookie| self.state.socket_mut(cookie)) {
                    socket.local = local.or(socket.local);
                }
            }
            23 => self.connected(event, who, enter),
            27 | 57 | 247 | 249 | 389 => self.accepted(event, who),
            51 if event.count() == 0 => self.sent_unseen(event, who, enter),
            // What it received, and on which socket, nobody knows.
            55 if event.count() == 0 => {
                let ports = &self.options.dns_ports;
                if self.state.not_heard(event.tid, |socket| ports.carries(socket)) {
                    self.out.unseen("recvmmsg without parameters", event.at);
                }
            }
            81 | 255 => self.polled(event, who),
            _ => {
                if let Some(at) = transfer(event.kind) {
                    self.transferred(event, who, enter, &at);
                }
            }
        }
    }

    fn made(&mut self, event: &Event<'_>, enter: &Enter) {
        let Some(fd) = event.i64(0).filter(|fd| *fd >= 0) else { return };
        let later = event.u64(1).zip(event.u64(2)).zip(event.u64(3)).map(|((d, t), p)| (d, t, p));
        let Some((domain, kind, protocol)) = later.or(enter.socket) else { return };
        let protocol = match (protocol, kind & 0xff) {
            (0, 1) => Some(TCP),
            (0, 2) => Some(UDP),
            (number, _) => u8::try_from(number).ok(),
        };
        let what = match domain {
            2 | 10 => Fd::Socket(self.state.new_socket(Socket {
                v6: domain == 10,
                protocol,
                ..Socket::default()
            })),
            _ => Fd::Other,
        };
        self.opened(event.tid, fd, what, kind & SOCK_CLOEXEC != 0);
    }

    fn connected(&mut self, event: &Event<'_>, who: &Who, enter: &Enter) {
        let Some(result) = event.i64(0) else { return };
        let Some(fd) = event.i64(2).or(enter.fd) else { return };
        let Some(cookie) = self.state.socket_of(event.tid, fd) else { return };
        let ends = event.get(1).and_then(tuple);
        let Some(socket) = self.state.socket_mut(cookie) else { return };
        let asked = event.get(3).and_then(address).map(|end| canonical(end, end).0);
        let Some(remote) = ends.map(|(_, remote)| remote).or(asked) else { return };
        if result == 0 || result == EINPROGRESS {
            socket.local = ends.map(|(local, _)| local).or(socket.local);
            socket.remote = Some(remote);
        }
        let (local, protocol, v6) = (socket.local, socket.protocol.unwrap_or(0), socket.v6);
        if protocol == UDP && self.options.dns_ports.is_dns(Some(remote)) {
            if let Some(thread) = self.state.thread_mut(event.tid) {
                thread.dns = Some(cookie);
            }
        } else if protocol != TCP {
            return; // probing for a source address, or nothing we follow
        }
        let who = Who { cookie: Some(cookie), ..who.clone() };
        let begun = if enter.at == 0 { event.at } else { enter.at };
        self.tell_asked(begun, &who, remote, fd, protocol, v6);
        if protocol == TCP
            && let Some(local) = local
        {
            let change = match result {
                0 => Some((tcp_event::ACTIVE_ESTABLISHED, Connect::Done)),
                EINPROGRESS => Some((tcp_event::CONNECT, Connect::Begun)),
                _ => None,
            };
            if let Some((change, state)) = change {
                if let Some(socket) = self.state.socket_mut(cookie) {
                    socket.connect = state;
                }
                self.tell_tcp(event.at, &who, (local, remote), change, 0);
            }
        }
        let called = Called { call: call::CONNECT, fd, result: Some(result), at: begun, size: 0 };
        self.tell_call(event.at, &who, &called, Some(remote));
        if let Some(socket) = self.state.socket_mut(cookie) {
            socket.told = true;
        }
    }

    fn accepted(&mut self, event: &Event<'_>, who: &Who) {
        let Some(fd) = event.i64(0).filter(|fd| *fd >= 0) else { return };
        let Some((client, server)) = event.get(1).and_then(tuple) else {
            self.opened(event.tid, fd, Fd::Other, false);
            return;
        };
        let cookie = self.state.new_socket(Socket {
            v6: client.is_ipv6(),
            protocol: Some(TCP),
            local: Some(server),
            remote: Some(client),
            connect: Connect::Done,
            ..Socket::default()
        });
        self.opened(event.tid, fd, Fd::Socket(cookie), false);
        let who = Who { cookie: Some(cookie), ..who.clone() };
        let change = tcp_event::PASSIVE_ESTABLISHED;
        self.tell_tcp(event.at, &who, (server, client), change, role::PEER);
    }

    /// The call whose questions nobody wrote down returned.
    fn sent_unseen(&mut self, event: &Event<'_>, who: &Who, enter: &Enter) {
        let Some(hold) = enter.hold else { return };
        self.out.place_hold(hold);
        let ports = &self.options.dns_ports;
        let cookie = self.state.thread(event.tid).and_then(|thread| thread.dns);
        let Some(cookie) = cookie.or_else(|| self.state.only_socket(event.tid, |s| ports.asks(s)))
        else {
            return;
        };
        let who = Who { cookie: Some(cookie), ..who.clone() };
        let called = Called { call: call::SENDMMSG, fd: -1, result: None, at: enter.at, size: 0 };
        self.tell_call(event.at, &who, &called, None);
    }

    /// A non-blocking connect is through when its socket can be written to.
    fn polled(&mut self, event: &Event<'_>, who: &Who) {
        let ready: Vec<(u64, u16)> = polled(event.get(1).unwrap_or_default())
            .filter_map(|(fd, bits)| Some((self.state.socket_of(event.tid, fd)?, bits)))
            .collect();
        for (cookie, bits) in ready {
            if bits & POLLERR_POLLHUP != 0 {
                self.settled(cookie, event.at, who, false);
            } else if bits & POLLOUT != 0 {
                self.settled(cookie, event.at, who, true);
            }
        }
    }

    fn settled(&mut self, cookie: u64, at: u64, who: &Who, well: bool) {
        let Some(socket) = self.state.socket_mut(cookie) else { return };
        if socket.connect != Connect::Begun {
            return;
        }
        socket.connect = Connect::Done;
        let (Some(local), Some(remote)) = (socket.local, socket.remote) else { return };
        let who = Who { cookie: Some(cookie), ..who.clone() };
        let change = if well { tcp_event::ACTIVE_ESTABLISHED } else { tcp_event::STATE };
        self.tell_tcp(at, &who, (local, remote), change, 0);
    }

    /// Bytes passed, or did not.
    fn transferred(&mut self, event: &Event<'_>, who: &Who, enter: &Enter, at: &Transfer) {
        if let Some(hold) = enter.hold {
            self.out.drop_hold(hold);
        }
        let Some(result) = event.i64(0) else { return };
        let ends = at.ends.and_then(|index| event.get(index)).and_then(tuple).or(enter.ends);
        // From the socket's point of view.
        let ends = ends.map(|(from, to)| if at.incoming { (to, from) } else { (from, to) });
        let fd = event.i64(at.fd).or(enter.fd);
        if let (READ | READV, Some(fd), Some(data)) = (event.kind, fd, event.get(at.data)) {
            self.file_read(event.tid, fd, data, result);
        }
        let cookie = match fd {
            Some(fd) => self.state.socket_of(event.tid, fd),
            // A call that was under way when the capture began: its descriptor is not told.
            None => ends.and_then(|(local, _)| {
                let same = |end: SocketAddr| end.port() == local.port();
                self.state.only_socket(event.tid, |socket| {
                    socket.remote.is_none() && socket.local.is_some_and(same)
                })
            }),
        };
        let Some(cookie) = cookie else {
            // The socket is not known, but only datagrams come with addresses.
            let ports = &self.options.dns_ports;
            let dns = |ends: &Ends| ports.is_dns(Some(ends.0)) || ports.is_dns(Some(ends.1));
            if let Some((local, remote)) = ends.filter(dns) {
                self.tell_message(event, who.clone(), at, (local, remote), result);
            }
            return;
        };
        if result >= 0 {
            self.settled(cookie, event.at, who, true);
        }
        let Some(socket) = self.state.socket_mut(cookie) else { return };
        if socket.protocol.is_none() && ends.is_some() {
            socket.protocol = Some(UDP); // only datagrams come with addresses
        }
        let local = socket.local.filter(|end| !end.ip().is_unspecified());
        let local = local.or(ends.map(|(local, _)| local)).or(socket.local);
        let remote = ends.map(|(_, remote)| remote).or(socket.remote);
        let (Some(local), Some(remote)) = (local, remote) else { return };
        let ports = &self.options.dns_ports;
        if ports.streams(socket) {
            let stream = (cookie, canonical(local, remote));
            self.streamed(event, who, at, stream, result);
            return;
        }
        if socket.protocol != Some(UDP) || !(ports.carries(socket) || ports.is_dns(Some(remote))) {
            self.keep_payload(event, who, at, cookie, result);
            return;
        }
        socket.told = true;
        let who = Who { cookie: Some(cookie), ..who.clone() };
        self.tell_message(event, who.clone(), at, canonical(local, remote), result);
        let begun = if enter.at == 0 { event.at } else { enter.at };
        let fd = fd.unwrap_or(-1);
        let size = at.size.and_then(|index| event.u64(index)).unwrap_or(enter.size);
        let called = Called { call: at.call, fd, result: Some(result), at: begun, size };
        self.tell_call(event.at, &who, &called, Some(remote));
    }

    /// What a socket carried that is not DNS.
    fn keep_payload(
        &mut self,
        event: &Event<'_>,
        who: &Who,
        at: &Transfer,
        cookie: u64,
        result: i64,
    ) {
        let size = u32::try_from(result).ok().filter(|size| *size > 0 && self.options.keep_payload);
        let Some((size, bytes)) = size.zip(carried(event, at, result)) else { return };
        let what = if at.incoming { data::RECEIVED } else { data::SENT };
        let who = Who { cookie: Some(cookie), ..who.clone() };
        self.out.data(event.at, who, what, bytes, size);
    }

    fn tell_message(
        &mut self,
        event: &Event<'_>,
        who: Who,
        at: &Transfer,
        ends: Ends,
        result: i64,
    ) {
        let Some(original) = u32::try_from(result).ok().filter(|size| *size > 0) else { return };
        let bytes = carried(event, at, result).unwrap_or_default();
        let ((local, remote), incoming, protocol) = (ends, at.incoming, UDP);
        let message = Message { local, remote, incoming, protocol, bytes, original };
        self.out.message(event.at, who, message);
    }

    /// Bytes passed on a stream: the messages that are whole now.
    fn streamed(
        &mut self,
        event: &Event<'_>,
        who: &Who,
        at: &Transfer,
        (cookie, (local, remote)): (u64, Ends),
        result: i64,
    ) {
        let Ok(size) = usize::try_from(result) else { return };
        let mut whole = Vec::new();
        let bytes = carried(event, at, result).unwrap_or_default();
        self.streams.pass((cookie, at.incoming), bytes, size, &mut whole);
        for message in &whole {
            let (incoming, protocol, original) = (at.incoming, TCP, message.original.into());
            let bytes = message.bytes.as_ref();
            let message = Message { local, remote, incoming, protocol, bytes, original };
            let who = Who { cookie: Some(cookie), ..who.clone() };
            self.out.message(event.at, who, message);
        }
        if let Some(socket) = self.state.socket_mut(cookie).filter(|_| !whole.is_empty()) {
            socket.told = true;
        }
    }

    /// Nobody holds the socket any more.
    pub(super) fn socket_ended(&mut self, cookie: u64, at: u64, who: &Who) {
        let Some(socket) = self.state.bury(cookie) else { return };
        self.out.closed(cookie);
        if self.streams.end(cookie) {
            self.out.unseen("DNS over TCP that ends inside a message", at);
        }
        if !socket.told || socket.unheard {
            return;
        }
        let mut body = BytesMut::with_capacity(48);
        put_address(&mut body, socket.local);
        put_address(&mut body, socket.remote);
        body.put_u8(socket.protocol.unwrap_or(0));
        body.put_bytes(0, 7);
        let who = Who { cookie: Some(cookie), ..who.clone() };
        self.out.fact(RecordKind::SocketClosed, at, who, None, body.freeze());
    }

    fn tell_asked(
        &mut self,
        at: u64,
        who: &Who,
        remote: SocketAddr,
        fd: i64,
        protocol: u8,
        v6: bool,
    ) {
        let mut body = BytesMut::with_capacity(32);
        put_address(&mut body, Some(remote));
        body.put_i32_ne(i32::try_from(fd).unwrap_or(-1));
        body.put_u8(protocol);
        body.put_u8(if protocol == TCP { 1 } else { 2 });
        body.put_bytes(0, 6);
        let hook = if v6 { probe::CONNECT6 } else { probe::CONNECT4 };
        self.out.fact(RecordKind::SocketAddress, at, who.clone(), Some(hook), body.freeze());
    }

    fn tell_tcp(&mut self, at: u64, who: &Who, ends: Ends, change: u8, role: u8) {
        const SYN_SENT: u8 = 2;
        const CLOSE: u8 = 7;
        let mut body = BytesMut::with_capacity(56);
        put_address(&mut body, Some(ends.0));
        put_address(&mut body, Some(ends.1));
        body.put_u8(change);
        body.put_u8(role);
        // The one state change told here is a connect that failed.
        body.put_slice(if change == tcp_event::STATE { &[SYN_SENT, CLOSE] } else { &[0, 0] });
        body.put_bytes(0, 12);
        self.out.fact(RecordKind::TcpState, at, who.clone(), None, body.freeze());
    }

    fn tell_call(&mut self, at: u64, who: &Who, called: &Called, peer: Option<SocketAddr>) {
        let mut body = BytesMut::with_capacity(56);
        body.put_u16_ne(called.call);
        body.put_u16_ne(if called.result.is_none() { SYSCALL_OPEN } else { 0 });
        body.put_i32_ne(i32::try_from(called.fd).unwrap_or(-1));
        body.put_i64_ne(called.result.unwrap_or_default());
        body.put_u64_ne(called.at);
        body.put_u64_ne(called.size);
        put_address(&mut body, peer);
        body.put_u32_ne(0);
        self.out.fact(RecordKind::Syscall, at, who.clone(), None, body.freeze());
    }
}

/// What was copied of the `result` bytes that passed. What a damaged file has beyond them never passed.
fn carried<'a>(event: &Event<'a>, at: &Transfer, result: i64) -> Option<&'a [u8]> {
    let bytes = event.get(at.data)?;
    let passed = usize::try_from(result).unwrap_or_default();
    Some(bytes.get(..passed).unwrap_or(bytes))
}

/// A system call, told at its return.
struct Called {
    call: u16,
    fd: i64,
    /// `None`: the writer did not say.
    result: Option<i64>,
    /// Entry.
    at: u64,
    size: u64,
}
