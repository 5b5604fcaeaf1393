//! Bodies of kernel records, `tracer_common::bodies` field by field. Packets are in `packet`,
//! context records are plain JSON and need no code of their own.

use tracer_common::bodies::{
    CALL_ENTER, CALL_EXIT, CALL_FD, CALL_RESULT, DIRECTION_IN, DIRECTION_OUT, SYSCALL_OPEN, call,
    data as data_number, role, tcp_event,
};
use tracer_common::record::probe;

use super::DecodeError;
use super::cursor::Cursor;
use super::dns;
use crate::context;
use crate::event::{
    AddressCall, Body, Call, CallSide, Data, DataKind, Direction, Dns, Protocol, SocketAddress,
    SocketClosed, Syscall, TcpChange, TcpState,
};
use crate::record::{Record, Timestamp};
use crate::text;

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;

pub(super) fn protocol(number: u8) -> Protocol {
    match number {
        IPPROTO_TCP => Protocol::Tcp,
        IPPROTO_UDP => Protocol::Udp,
        other => Protocol::Other(other),
    }
}

pub(super) fn syscall(cursor: &mut Cursor<'_>) -> Result<Body, DecodeError> {
    let number = cursor.u16("call")?;
    let flags = cursor.u16("flags")?;
    let fd = cursor.i32("fd")?;
    let result = cursor.i64("result")?;
    let entered = Timestamp(cursor.u64("enter_boot_ns")?);
    let size = cursor.u64("size")?;
    let peer = cursor.address("peer")?;
    cursor.u32("pad")?;
    let call = match number {
        call::CONNECT => Call::Connect,
        call::SENDTO => Call::Sendto,
        call::SENDMSG => Call::Sendmsg,
        call::SENDMMSG => Call::Sendmmsg,
        call::RECVFROM => Call::Recvfrom,
        call::RECVMSG => Call::Recvmsg,
        call::RECVMMSG => Call::Recvmmsg,
        other => return Err(cursor.field_error("call", other.to_string())),
    };
    // sendmsg and recvmsg carry no length argument, connect's is that of the address.
    let sized = !matches!(call, Call::Connect | Call::Sendmsg | Call::Recvmsg);
    Ok(Body::Syscall(Syscall {
        call,
        entered,
        result: (flags & SYSCALL_OPEN == 0).then_some(result),
        fd,
        size: (sized || size != 0).then_some(size),
        peer,
    }))
}

pub(super) fn socket_address(
    cursor: &mut Cursor<'_>,
    hook: Option<u16>,
) -> Result<Body, DecodeError> {
    let remote = cursor.some_address("remote")?;
    let fd = cursor.i32("fd")?;
    let protocol = protocol(cursor.u8("protocol")?);
    cursor.u8("socket_type")?;
    cursor.bytes(6, "pad")?;
    let call = match hook {
        Some(probe::CONNECT4 | probe::CONNECT6) => AddressCall::Connect,
        Some(probe::SENDMSG4 | probe::SENDMSG6) => AddressCall::Sendmsg,
        Some(probe::RECVMSG4 | probe::RECVMSG6) => AddressCall::Recvmsg,
        Some(other) => return Err(cursor.field_error("probe", other.to_string())),
        None => return Err(cursor.field_error("probe", "missing".to_owned())),
    };
    Ok(Body::SocketAddress(SocketAddress { call, protocol, remote, fd: (fd >= 0).then_some(fd) }))
}

pub(super) fn socket_closed(cursor: &mut Cursor<'_>) -> Result<Body, DecodeError> {
    let local = cursor.address("local")?;
    let remote = cursor.address("remote")?;
    let protocol = protocol(cursor.u8("protocol")?);
    cursor.u8("role")?;
    cursor.bytes(6, "pad")?;
    // The kernel tells 0.0.0.0:0 for an end that was never bound or connected.
    let set = |end: &std::net::SocketAddr| end.port() != 0 || !end.ip().is_unspecified();
    Ok(Body::SocketClosed(SocketClosed {
        protocol,
        local: local.filter(set),
        remote: remote.filter(set),
    }))
}

pub(super) fn tcp_state(cursor: &mut Cursor<'_>) -> Result<Body, DecodeError> {
    let local = cursor.some_address("local")?;
    let remote = cursor.some_address("remote")?;
    let event = cursor.u8("event")?;
    let hook_role = cursor.u8("role")?;
    let old = cursor.u8("old")?;
    let new = cursor.u8("new")?;
    let srtt_us = cursor.u32("srtt_us")?;
    let retransmits = cursor.u32("retransmits")?;
    cursor.u32("pad")?;
    let change = match event {
        tcp_event::CONNECT => TcpChange::Connect,
        tcp_event::ACTIVE_ESTABLISHED => TcpChange::ActiveEstablished,
        tcp_event::PASSIVE_ESTABLISHED => TcpChange::PassiveEstablished,
        tcp_event::STATE => TcpChange::State { old, new },
        tcp_event::RETRANSMIT => TcpChange::Retransmit,
        other => return Err(cursor.field_error("event", other.to_string())),
    };
    Ok(Body::TcpState(TcpState {
        change,
        peer_side: hook_role & role::PEER != 0,
        local,
        remote,
        srtt_us: (srtt_us != 0).then_some(srtt_us),
        retransmits,
    }))
}

pub(super) fn exec(cursor: &mut Cursor<'_>) -> Result<Body, DecodeError> {
    let len = cursor.length("name_len")?;
    cursor.u32("pad")?;
    let name = cursor.bytes(len, "file name")?;
    Ok(Body::Exec { filename: text::escape(until_nul(name)) })
}

/// The path stays as the kernel has it (systemd puts backslashes into unit names): it is compared
/// with other paths, and escaped where it is shown.
pub(super) fn cgroup(cursor: &mut Cursor<'_>) -> Result<context::Cgroup, DecodeError> {
    let id = cursor.u64("id")?;
    cursor.u32("level")?;
    cursor.u32("hierarchy")?;
    let len = cursor.length("path_len")?;
    cursor.u32("pad")?;
    let path = cursor.bytes(len, "path")?;
    Ok(context::Cgroup { id, path: String::from_utf8_lossy(until_nul(path)).into_owned() })
}

/// A message out of a system call's buffer: only DNS is recorded so.
pub(super) fn payload(cursor: &mut Cursor<'_>, record: &Record) -> Result<Body, DecodeError> {
    let local = cursor.some_address("local")?;
    let remote = cursor.some_address("remote")?;
    let protocol = protocol(cursor.u8("protocol")?);
    let direction = match cursor.u8("direction")? {
        DIRECTION_IN => Direction::In,
        DIRECTION_OUT => Direction::Out,
        other => return Err(cursor.field_error("direction", other.to_string())),
    };
    cursor.u16("flags")?;
    let (original_len, bytes) = copied(cursor, "payload")?;
    let cut = record.cut || bytes.len() < original_len as usize;
    Ok(Body::Dns(Dns {
        direction,
        protocol,
        local,
        remote,
        intended_port: None,
        message: dns::message(bytes, cut),
        payload: record.body.slice_ref(bytes),
        original_len,
    }))
}

/// How many bytes there were, and those that were copied.
fn copied<'a>(cursor: &mut Cursor<'a>, what: &'static str) -> Result<(u32, &'a [u8]), DecodeError> {
    let original = cursor.u32("original")?;
    let captured = cursor.length("captured")?;
    if captured > original as usize {
        return Err(cursor.field_error("captured", format!("{captured} of {original} bytes")));
    }
    Ok((original, cursor.bytes(captured, what)?))
}

pub(super) fn data(cursor: &mut Cursor<'_>, record: &Record) -> Result<Data, DecodeError> {
    let kind = match cursor.u8("what")? {
        data_number::ARGUMENTS => DataKind::Arguments,
        data_number::SENT => DataKind::Sent,
        data_number::RECEIVED => DataKind::Received,
        other => return Err(cursor.field_error("what", other.to_string())),
    };
    cursor.bytes(3, "pad")?;
    let (original_len, bytes) = copied(cursor, "bytes")?;
    Ok(Data { kind, bytes: record.body.slice_ref(bytes), original_len })
}

pub(super) fn call_side(cursor: &mut Cursor<'_>, record: &Record) -> Result<CallSide, DecodeError> {
    let fd = cursor.i64("fd")?;
    let result = cursor.i64("result")?;
    let exit = match cursor.u8("direction")? {
        CALL_ENTER => false,
        CALL_EXIT => true,
        other => return Err(cursor.field_error("direction", other.to_string())),
    };
    let flags = cursor.u8("flags")?;
    let name_len = cursor.u16("name_len")?;
    let args_len = cursor.length("args_len")?;
    let name = cursor.bytes(name_len.into(), "name")?;
    let args = cursor.bytes(args_len, "arguments")?;
    Ok(CallSide {
        exit,
        fd: (flags & CALL_FD != 0).then_some(fd),
        result: (flags & CALL_RESULT != 0).then_some(result),
        name: record.body.slice_ref(name),
        args: record.body.slice_ref(args),
    })
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}
