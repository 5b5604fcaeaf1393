//! Records to events. Keeps no state but DNS over TCP on its way; a record that cannot be
//! understood is counted by the pipeline, never fatal.

mod body;
mod cursor;
pub mod dns;
mod name;
mod packet;
mod tcp;
#[cfg(test)]
mod tests;
mod wire;

use serde::de::DeserializeOwned;

use crate::context;
use crate::event::{Actor, Body, Event};
use crate::record::{Record, RecordKind};
use cursor::Cursor;

/// Why a record could not be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The body ends before `field`.
    #[error("{kind:?} record of {len} bytes ends before {field}")]
    Short {
        /// Kind of record.
        kind: RecordKind,
        /// Field that is missing.
        field: &'static str,
        /// Bytes there are.
        len: usize,
    },
    /// `field` has a value that means nothing.
    #[error("{kind:?} record: {field} makes no sense ({why})")]
    Field {
        /// Kind of record.
        kind: RecordKind,
        /// Field.
        field: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// The decoder.
#[derive(Debug, Default)]
pub struct Decoder {
    connections: tcp::Connections,
    // Empty between records.
    heard: Vec<packet::Heard>,
}

impl Decoder {
    /// Gaps in streams of DNS over TCP, and messages given up in them, since the last call.
    pub fn take_lost(&mut self) -> u64 {
        self.connections.take_lost()
    }

    /// Messages over TCP that their senders broke off, so far.
    pub fn broken_off(&self) -> u64 {
        self.connections.broken_off()
    }

    /// The input ended: what stands behind a gap is lost.
    pub fn finish(&mut self) {
        self.connections.finish();
    }

    /// Appends what `record` says to `events` (none, one, or several), and takes its task and a
    /// datagram's bytes out of it.
    pub fn decode(
        &mut self,
        record: &mut Record,
        events: &mut Vec<Event>,
    ) -> Result<(), DecodeError> {
        let mut actor = Actor {
            host: record.host,
            task: record.task.take(),
            cgroup: record.cgroup,
            cookie: record.cookie,
            local: None,
        };
        let cursor = &mut Cursor::new(record.kind, &record.body);
        let body = match record.kind {
            RecordKind::Syscall => body::syscall(cursor)?,
            RecordKind::SocketAddress => body::socket_address(cursor, record.probe)?,
            RecordKind::SocketClosed => body::socket_closed(cursor)?,
            RecordKind::TcpState => body::tcp_state(cursor)?,
            RecordKind::Exec => body::exec(cursor)?,
            RecordKind::Exit => Body::Exit,
            RecordKind::CgroupMade => Body::CgroupMade(body::cgroup(cursor)?),
            RecordKind::CgroupRemoved => Body::CgroupRemoved(body::cgroup(cursor)?),
            RecordKind::Packet => {
                let body = packet::decode(record, &mut self.connections, &mut self.heard)?;
                for packet::Heard { number, at, dns } in self.heard.drain(..) {
                    let actor = Actor { local: Some(dns.local), ..actor.clone() };
                    let (cpu, probe) = (record.cpu, record.probe);
                    events.push(Event { number, at, cpu, probe, actor, body: Body::Dns(dns) });
                }
                match body {
                    Some(body) => body,
                    None => return Ok(()),
                }
            }
            RecordKind::Wire => wire::decode(record)?,
            RecordKind::Payload => body::payload(cursor, record)?,
            RecordKind::Data => Body::Data(body::data(cursor, record)?),
            RecordKind::Call => Body::Call(body::call_side(cursor, record)?),
            RecordKind::Host => Body::Host(json(record)?),
            RecordKind::Heartbeat => Body::Heartbeat,
            RecordKind::Loss => Body::Loss(json(record)?),
            RecordKind::Scope => Body::Scope(json(record)?),
            RecordKind::Cgroup => Body::Cgroup(json(record)?),
            RecordKind::Process => Body::Process(json(record)?),
            RecordKind::Socket => Body::Socket(canonical(json(record)?)),
            RecordKind::ResolvConf => Body::ResolvConf(json(record)?),
            RecordKind::NodeFile => Body::NodeFile(json(record)?),
            RecordKind::Conntrack => Body::Conntrack(json(record)?),
            RecordKind::Pod => Body::Pod(json(record)?),
            RecordKind::Service => Body::Service(json(record)?),
            RecordKind::EndpointSlice => Body::EndpointSlice(json(record)?),
        };
        actor.local = match &body {
            Body::Dns(dns) | Body::Passing(dns) => Some(dns.local),
            Body::Icmp(icmp) => Some(icmp.query.local),
            Body::Tcp(tcp) => Some(tcp.local),
            Body::TcpState(state) => Some(state.local),
            Body::SocketClosed(closed) => closed.local,
            _ => None,
        };
        events.push(Event {
            number: record.number,
            at: record.at,
            cpu: record.cpu,
            probe: record.probe,
            actor,
            body,
        });
        Ok(())
    }
}

/// IPv4 addresses of dual-stack sockets come out as IPv4, as everywhere else.
fn canonical(mut socket: context::Socket) -> context::Socket {
    for end in [Some(&mut socket.local), socket.remote.as_mut()].into_iter().flatten() {
        end.set_ip(end.ip().to_canonical());
    }
    socket
}

fn json<T: DeserializeOwned>(record: &Record) -> Result<T, DecodeError> {
    serde_json::from_slice(&record.body).map_err(|error| {
        if error.is_eof() {
            DecodeError::Short { kind: record.kind, field: "end of JSON", len: record.body.len() }
        } else {
            DecodeError::Field { kind: record.kind, field: "JSON", why: error.to_string() }
        }
    })
}
