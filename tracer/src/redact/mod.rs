//! Names out of records: each becomes a pseudonym, the same wherever it stands, so that what is
//! concluded from the records stays what it was. Pure but for the table of pseudonyms; addresses,
//! ports, times, ids and the lengths of names are left as they are.

mod dns;
mod facts;
mod packet;
mod pseudonyms;
pub(crate) mod public;
#[cfg(test)]
mod tests;
mod text;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracer_common::bodies;

use crate::context;
use crate::record::{Record, RecordKind, Task};
use facts::Redact;
use pseudonyms::Pseudonyms;

pub use pseudonyms::Shared;

/// Replaces names by pseudonyms.
pub struct Redactor {
    names: Pseudonyms,
}

impl Redactor {
    /// Pseudonyms that only who has `key` can make again.
    pub fn new(key: &[u8]) -> Self {
        Self { names: Pseudonyms::new(key) }
    }

    /// How well names were kept apart so far.
    pub fn shared(&self) -> Shared {
        self.names.shared()
    }

    /// `record` without names.
    pub fn record(&mut self, record: &Record) -> Record {
        Record {
            number: record.number,
            at: record.at,
            kind: record.kind,
            cpu: record.cpu,
            probe: record.probe,
            cut: record.cut,
            task: record.task.as_ref().map(|task| self.task(task)),
            cgroup: record.cgroup,
            cookie: record.cookie,
            host: record.host,
            body: self.body(record.kind, &record.body),
        }
    }

    fn task(&mut self, task: &Task) -> Task {
        Task { pid: task.pid, tid: task.tid, comm: self.names.words(&task.comm) }
    }

    fn body(&mut self, kind: RecordKind, body: &Bytes) -> Bytes {
        match kind {
            RecordKind::Syscall => numbers::<bodies::Syscall>(body),
            RecordKind::SocketAddress => numbers::<bodies::SocketAddress>(body),
            RecordKind::SocketClosed => numbers::<bodies::SocketClosed>(body),
            RecordKind::TcpState => numbers::<bodies::TcpState>(body),
            RecordKind::Packet | RecordKind::Wire => packet::body(body, &mut self.names),
            RecordKind::Payload => self.payload(body),
            RecordKind::Data => data(body),
            RecordKind::Exec => self.exec(body),
            RecordKind::Exit => Bytes::new(),
            RecordKind::CgroupMade | RecordKind::CgroupRemoved => self.cgroup(body),
            RecordKind::Call => self.call(body),
            RecordKind::Heartbeat => Bytes::from_static(b"{}"),
            RecordKind::Host => self.fact::<context::Host>(body),
            RecordKind::Loss => self.fact::<context::Loss>(body),
            RecordKind::Scope => self.fact::<context::Scope>(body),
            RecordKind::Cgroup => self.fact::<context::Cgroup>(body),
            RecordKind::Process => self.fact::<context::Process>(body),
            RecordKind::Socket => self.fact::<context::Socket>(body),
            RecordKind::ResolvConf => self.fact::<context::ResolvConf>(body),
            RecordKind::NodeFile => self.fact::<context::NodeFile>(body),
            RecordKind::Conntrack => self.fact::<context::Conntrack>(body),
            RecordKind::Pod => self.fact::<context::Pod>(body),
            RecordKind::Service => self.fact::<context::Service>(body),
            RecordKind::EndpointSlice => self.fact::<context::EndpointSlice>(body),
        }
    }

    /// What cannot be read becomes nothing, which cannot be read either.
    fn fact<T: Redact + Serialize + DeserializeOwned>(&mut self, body: &[u8]) -> Bytes {
        let Ok(fact) = serde_json::from_slice::<T>(body) else { return Bytes::new() };
        serde_json::to_vec(&fact.redact(&mut self.names)).unwrap_or_default().into()
    }

    fn payload(&mut self, body: &[u8]) -> Bytes {
        const FRONT: usize = size_of::<bodies::Payload>();
        const CAPTURED: usize = std::mem::offset_of!(bodies::Payload, captured);
        let Some((front, bytes)) = told::<FRONT>(body, CAPTURED) else {
            return numbers::<bodies::Payload>(body);
        };
        let (message, _) = dns::message(bytes, &mut self.names);
        Bytes::from([front, &message].concat())
    }

    fn exec(&mut self, body: &[u8]) -> Bytes {
        const FRONT: usize = size_of::<bodies::Exec>();
        const LEN: usize = std::mem::offset_of!(bodies::Exec, name_len);
        let Some((front, bytes)) = told::<FRONT>(body, LEN) else {
            return numbers::<bodies::Exec>(body);
        };
        let name = self.names.words(&until_nul(bytes));
        with_text(front, LEN, &name)
    }

    fn cgroup(&mut self, body: &[u8]) -> Bytes {
        const FRONT: usize = size_of::<bodies::Cgroup>();
        const LEN: usize = std::mem::offset_of!(bodies::Cgroup, path_len);
        let Some((front, bytes)) = told::<FRONT>(body, LEN) else {
            return numbers::<bodies::Cgroup>(body);
        };
        let path = self.names.cgroup(&until_nul(bytes));
        with_text(front, LEN, &path)
    }

    /// Names of calls and of their arguments stay where they are the system's; arguments do not.
    fn call(&mut self, body: &[u8]) -> Bytes {
        const FRONT: usize = size_of::<bodies::Call>();
        const NAME: usize = std::mem::offset_of!(bodies::Call, name_len);
        const ARGS: usize = std::mem::offset_of!(bodies::Call, args_len);
        let parts = || {
            let (front, rest) = body.split_at_checked(FRONT)?;
            let name_len = u16::from_ne_bytes(*front.get(NAME..)?.first_chunk()?);
            let args_len = u32::from_ne_bytes(*front.get(ARGS..)?.first_chunk()?);
            let (name, rest) = rest.split_at_checked(name_len.into())?;
            Some((front, name, rest.get(..usize::try_from(args_len).ok()?)?))
        };
        let Some((front, name, args)) = parts() else { return numbers::<bodies::Call>(body) };
        let mut shown = String::new();
        for arg in args.split_inclusive(|byte| *byte == 0) {
            let arg = String::from_utf8_lossy(arg);
            let (key, value) = arg.split_once('=').unwrap_or(("", &arg));
            let (value, end) = value.strip_suffix('\0').map_or((value, ""), |value| (value, "\0"));
            if !key.is_empty() {
                shown.push_str(&self.of_call(key));
                shown.push('=');
            }
            shown.push_str(&self.names.value(value));
            shown.push_str(end);
        }
        let mut name = self.of_call(&String::from_utf8_lossy(name));
        let name_len = u16::try_from(name.len()).unwrap_or_else(|_| {
            name.clear();
            0
        });
        let mut front = front.to_vec();
        put_u32(&mut front, ARGS, shown.len());
        put(&mut front, NAME, name_len.to_ne_bytes());
        Bytes::from([&front, name.as_bytes(), shown.as_bytes()].concat())
    }

    fn of_call(&mut self, name: &str) -> String {
        if public::is_call(name) { name.to_owned() } else { self.names.words(name) }
    }
}

/// A body without texts, and nothing behind it.
fn numbers<T>(body: &[u8]) -> Bytes {
    Bytes::copy_from_slice(body.get(..size_of::<T>()).unwrap_or(body))
}

/// Arguments and payload of any kind may hold anything: only how long they were stays.
fn data(body: &[u8]) -> Bytes {
    const FRONT: usize = size_of::<bodies::Data>();
    const CAPTURED: usize = std::mem::offset_of!(bodies::Data, captured);
    match told::<FRONT>(body, CAPTURED) {
        Some((front, bytes)) => Bytes::from([front, &vec![0; bytes.len()]].concat()),
        None => numbers::<bodies::Data>(body),
    }
}

/// The fixed part of a body and the bytes behind it, as many as the number at `len` says; `None` if
/// there are fewer.
fn told<const FRONT: usize>(body: &[u8], len: usize) -> Option<(&[u8], &[u8])> {
    let (front, rest) = body.split_at_checked(FRONT)?;
    let len = u32::from_ne_bytes(*front.get(len..)?.first_chunk()?);
    Some((front, rest.get(..usize::try_from(len).ok()?)?))
}

fn with_text(front: &[u8], len: usize, text: &str) -> Bytes {
    let mut front = front.to_vec();
    put_u32(&mut front, len, text.len());
    Bytes::from([&front, text.as_bytes()].concat())
}

fn put_u32(front: &mut [u8], at: usize, value: usize) {
    if let Ok(value) = u32::try_from(value) {
        put(front, at, value.to_ne_bytes());
    }
}

fn put<const N: usize>(front: &mut [u8], at: usize, bytes: [u8; N]) {
    if let Some(place) = front.get_mut(at..at + N) {
        place.copy_from_slice(&bytes);
    }
}

fn until_nul(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}
