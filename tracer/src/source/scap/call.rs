//! An event as one `Call` record: name, descriptor, result and those arguments that may be shown.

use std::fmt::Write as _;

use bytes::{BufMut, BytesMut};
use syscalls::x86_64::Sysno;
use tracer_common::bodies::{CALL_ENTER, CALL_EXIT, CALL_FD, CALL_RESULT};

use super::Engine;
use super::bytes::{Fields, address, c_text, signed, tuple, unsigned};
use super::events::Event;
use super::out::Who;
use super::state::{Enter, Fd, State};
use super::types::Show;

/// Longest text of one argument.
const TEXT_MAX: usize = 1024;
const POLLED_MAX: usize = 64;
/// A call without an event type of its own.
const GENERIC_ENTER: u16 = 0;
const GENERIC_EXIT: u16 = 1;
/// Types this version has no name for.
const NAMELESS: &str = "event";

impl Engine {
    /// Puts `event` into the queue as the event it is.
    pub(super) fn call(&mut self, event: &Event<'_>, at: u64, who: Who, enter: Option<&Enter>) {
        let name = self.name(event, enter);
        let body = self.out.room();
        body.put_bytes(0, 24);
        body.put_slice(name.as_bytes());
        if self.sides.get(usize::from(event.kind)).is_none() {
            let _ = write!(body, "-{}", event.kind); // writing to memory cannot fail
        }
        let name_len = body.len() - 24;
        let (mut fd, mut result) = (None, None);
        let side = self.sides.get(usize::from(event.kind));
        let parameters = side.map(|side| side.parameters.as_slice()).unwrap_or_default();
        for (index, parameter) in parameters.iter().enumerate().take(event.count()) {
            let Some(value) = event.get(index) else { continue };
            match parameter.show {
                // Descriptors and process ids of four bytes are new.
                Show::Result if matches!(value.len(), 4 | 8) => result = signed(value),
                Show::Fd => fd = signed(value),
                Show::Not | Show::Result => {}
                show => argument(body, parameter.name, show, value),
            }
        }
        if let Some(fd) = fd.filter(|_| !event.is_exit()) {
            what(body, &self.state, event.tid, fd);
        }
        let args_len = body.len() - 24 - name_len;
        let known = (if fd.is_some() { CALL_FD } else { 0 })
            | (if result.is_some() { CALL_RESULT } else { 0 });
        let mut head = body.get_mut(..24).unwrap_or_default();
        head.put_i64_ne(fd.unwrap_or_default());
        head.put_i64_ne(result.unwrap_or_default());
        head.put_u8(if event.is_exit() { CALL_EXIT } else { CALL_ENTER });
        head.put_u8(known);
        head.put_u16_ne(u16::try_from(name_len).unwrap_or_default());
        head.put_u32_ne(u32::try_from(args_len).unwrap_or_default());
        let body = self.out.body();
        self.out.event(self.number, at, who, body);
    }

    fn name(&mut self, event: &Event<'_>, enter: Option<&Enter>) -> &'static str {
        let Some(side) = self.sides.get(usize::from(event.kind)) else { return NAMELESS };
        let native = match event.kind {
            GENERIC_ENTER => {
                let native = event.u64(1);
                // 0 is sysdig's number for all calls that it does not know.
                if let (Some(code @ 1..), Some(native)) = (event.u64(0), native)
                    && self.natives.len() < 4096
                {
                    self.natives.insert(code, native);
                }
                native
            }
            GENERIC_EXIT => {
                let known = enter.and_then(|enter| enter.native);
                known.or_else(|| self.natives.get(&event.u64(0)?).copied())
            }
            _ => return side.name,
        };
        let known = native.and_then(|native| Sysno::new(usize::try_from(native).ok()?));
        match known {
            Some(Sysno::rt_sigreturn) => "sigreturn", // as sysdig's users know it
            Some(call) => call.name(),
            None => side.name,
        }
    }
}

/// Which file or socket a descriptor is.
fn what(body: &mut BytesMut, state: &State, tid: i64, fd: i64) {
    match state.fd(tid, fd).map(|descriptor| &descriptor.what) {
        Some(Fd::File { path, .. }) => text(body, "file", path.as_bytes()),
        Some(Fd::Socket(cookie)) => {
            let Some(socket) = state.socket(*cookie) else { return };
            let _ = match (socket.local, socket.remote) {
                (Some(local), Some(remote)) => write!(body, "socket={local}->{remote}\0"),
                (Some(local), None) => write!(body, "socket={local}\0"),
                _ => return,
            };
        }
        _ => {}
    }
}

fn text(body: &mut BytesMut, name: &str, value: &[u8]) {
    body.put_slice(name.as_bytes());
    body.put_u8(b'=');
    let value = value.get(..TEXT_MAX).unwrap_or(value);
    body.extend(value.iter().take_while(|byte| **byte != 0));
    body.put_u8(0);
}

fn argument(body: &mut BytesMut, name: &str, show: Show, value: &[u8]) {
    let number = || unsigned(value).unwrap_or_default();
    let _ = match show {
        Show::Text => {
            text(body, name, c_text(value));
            Ok(())
        }
        Show::Signed => write!(body, "{name}={}\0", signed(value).unwrap_or_default()),
        Show::Unsigned => write!(body, "{name}={}\0", number()),
        Show::Hex => write!(body, "{name}={:#x}\0", number()),
        Show::Tuple => match tuple(value) {
            Some((from, to)) => write!(body, "{name}={from}->{to}\0"),
            None => Ok(()),
        },
        Show::Address => match address(value) {
            Some(address) => write!(body, "{name}={address}\0"),
            None => Ok(()),
        },
        Show::Polled => {
            body.put_slice(name.as_bytes());
            body.put_u8(b'=');
            for (number, (fd, events)) in polled(value).take(POLLED_MAX).enumerate() {
                let space = if number == 0 { "" } else { " " };
                let _ = write!(body, "{space}{fd}:{events:x}");
            }
            body.put_u8(0);
            Ok(())
        }
        Show::Not | Show::Result | Show::Fd => Ok(()),
    };
}

/// Descriptors of a poll with their event bits.
pub(super) fn polled(value: &[u8]) -> impl Iterator<Item = (i64, u16)> {
    let mut fields = Fields(value);
    let count = fields.u16().unwrap_or_default();
    (0..count).map_while(move |_| Some((fields.i64()?, fields.u16()?)))
}
