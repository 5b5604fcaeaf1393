//! The line between the agent and the pipeline process: framed messages over a stream socket, and
//! the ring buffer's descriptor with the first one. Neither side blocks on it.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Most bytes of one message; the largest are API objects.
const MESSAGE_MAX: usize = 8 << 20;
/// Most bytes waiting for the pipeline; what does not fit is dropped and counted.
const QUEUE_MAX: usize = 64 << 20;
/// Length and kind.
const HEAD: usize = 5;

/// What the agent tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// First: the line's version; the ring buffer's descriptor comes with it.
    Hello {
        /// [`LINK_VERSION`].
        version: u32,
        /// Unix time minus boot time, nanoseconds.
        offset_ns: i64,
    },
    /// A context record.
    Context {
        /// When it became known.
        boot_ns: u64,
        /// `RecordKind` number.
        kind: u16,
        /// JSON.
        body: Bytes,
    },
    /// A kernel record that user space made: header and body as in the ring.
    Kernel(Bytes),
    /// Time has passed.
    Heartbeat {
        /// Now.
        boot_ns: u64,
    },
    /// The trace is over; nothing follows.
    End,
}

/// Version of the messages; agent and pipeline are the same binary, so any difference is a fault.
pub(super) const LINK_VERSION: u32 = 1;

impl Message {
    fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u32(0);
        match self {
            Self::Hello { version, offset_ns } => {
                bytes.put_u8(1);
                bytes.put_u32(*version);
                bytes.put_i64(*offset_ns);
            }
            Self::Context { boot_ns, kind, body } => {
                bytes.put_u8(2);
                bytes.put_u64(*boot_ns);
                bytes.put_u16(*kind);
                bytes.put_slice(body);
            }
            Self::Kernel(raw) => {
                bytes.put_u8(3);
                bytes.put_slice(raw);
            }
            Self::Heartbeat { boot_ns } => {
                bytes.put_u8(4);
                bytes.put_u64(*boot_ns);
            }
            Self::End => bytes.put_u8(5),
        }
        let len = (bytes.len() - HEAD) as u32;
        bytes[..4].copy_from_slice(&len.to_be_bytes());
        bytes.freeze()
    }

    fn decode(kind: u8, mut bytes: Bytes) -> io::Result<Self> {
        let short = |_| io::Error::new(io::ErrorKind::InvalidData, "a message of the agent is cut");
        Ok(match kind {
            1 => Self::Hello {
                version: bytes.try_get_u32().map_err(short)?,
                offset_ns: bytes.try_get_i64().map_err(short)?,
            },
            2 => Self::Context {
                boot_ns: bytes.try_get_u64().map_err(short)?,
                kind: bytes.try_get_u16().map_err(short)?,
                body: bytes,
            },
            3 => Self::Kernel(bytes),
            4 => Self::Heartbeat { boot_ns: bytes.try_get_u64().map_err(short)? },
            5 => Self::End,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "unknown message of the agent",
                ));
            }
        })
    }
}

/// The agent's end.
#[derive(Debug)]
pub(super) struct Sender {
    socket: UnixStream,
    queue: VecDeque<Bytes>,
    queued: usize,
    dropped: u64,
}

impl Sender {
    /// Sends the greeting with `ring`; the socket must be connected and is made non-blocking.
    pub(super) fn open(
        socket: UnixStream,
        ring: BorrowedFd<'_>,
        offset_ns: i64,
    ) -> io::Result<Self> {
        let hello = Message::Hello { version: LINK_VERSION, offset_ns }.encode();
        let descriptors = [ring.as_raw_fd()];
        let sent = sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(&hello)],
            &[ControlMessage::ScmRights(&descriptors)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        if sent != hello.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        socket.set_nonblocking(true)?;
        Ok(Self { socket, queue: VecDeque::new(), queued: 0, dropped: 0 })
    }

    /// Queues `message` and sends what the pipeline takes now. An error means that it is gone.
    pub(super) fn send(&mut self, message: &Message) -> io::Result<()> {
        let bytes = message.encode();
        if bytes.len() > MESSAGE_MAX || self.queued + bytes.len() > QUEUE_MAX {
            self.dropped += 1;
            return Ok(());
        }
        self.queued += bytes.len();
        self.queue.push_back(bytes);
        self.flush()
    }

    /// Sends what the pipeline takes now.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while let Some(first) = self.queue.front_mut() {
            match self.socket.write(first) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.queued -= count;
                    first.advance(count);
                    if first.is_empty() {
                        self.queue.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Something still waits to be sent.
    pub(super) fn is_behind(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Messages that did not fit, since the last call.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// Whether the pipeline said that it is ready: `None` while it has not, an error when it is gone.
    pub(super) fn ready(&mut self) -> io::Result<Option<()>> {
        match self.socket.read(&mut [0; 1]) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(Some(())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Sender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The pipeline's end.
#[derive(Debug)]
pub(super) struct Receiver {
    socket: UnixStream,
    buffer: BytesMut,
}

impl Receiver {
    /// Waits for the greeting: the ring buffer's descriptor and the clock offset.
    pub(super) fn open(socket: OwnedFd) -> io::Result<(Self, OwnedFd, i64)> {
        let socket = UnixStream::from(socket);
        socket.set_nonblocking(false)?;
        let mut space = [0; HEAD + 12];
        let mut control = nix::cmsg_space!([i32; 1]);
        let mut slices = [IoSliceMut::new(&mut space)];
        let message = recvmsg::<()>(
            socket.as_raw_fd(),
            &mut slices,
            Some(&mut control),
            MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_WAITALL,
        )?;
        let mut ring = None;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(descriptors) = control {
                // SAFETY: the kernel just installed these descriptors for us; nobody else owns them.
                ring = descriptors.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).next();
            }
        }
        let bytes = message.bytes;
        let gone = || io::Error::new(io::ErrorKind::UnexpectedEof, "the agent said nothing");
        let (Some(ring), true) = (ring, bytes == space.len()) else { return Err(gone()) };
        match Message::decode(space[4], Bytes::copy_from_slice(&space[HEAD..]))? {
            Message::Hello { version: LINK_VERSION, offset_ns } => {
                Ok((Self { socket, buffer: BytesMut::new() }, ring, offset_ns))
            }
            other => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("not a greeting: {other:?}"),
            )),
        }
    }

    /// Tells the agent that the ring buffer is mapped; from now on reading never blocks.
    pub(super) fn ready(&mut self) -> io::Result<()> {
        self.socket.write_all(&[1])?;
        self.socket.set_nonblocking(true)
    }

    /// Takes what has arrived; false when the agent is gone.
    pub(super) fn fill(&mut self) -> io::Result<bool> {
        let mut chunk = [0; 1 << 16];
        while self.buffer.len() <= MESSAGE_MAX {
            match self.socket.read(&mut chunk) {
                Ok(0) => return Ok(false),
                Ok(count) => self.buffer.put_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The next whole message that has arrived.
    pub(super) fn next(&mut self) -> io::Result<Option<Message>> {
        let Some((head, rest)) = self.buffer.split_at_checked(HEAD) else { return Ok(None) };
        let len = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let kind = head[4];
        if len > MESSAGE_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a message of the agent is too long",
            ));
        }
        if rest.len() < len {
            return Ok(None);
        }
        self.buffer.advance(HEAD);
        Message::decode(kind, self.buffer.split_to(len).freeze()).map(Some)
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_cross_the_line() {
        let (agent, pipeline) = UnixStream::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let mut sender = Sender::open(agent, file.as_fd(), -5).unwrap();
        let (mut receiver, _ring, offset) = Receiver::open(pipeline.into()).unwrap();
        assert_eq!(offset, -5);
        assert!(sender.ready().unwrap().is_none());
        receiver.ready().unwrap();
        assert!(sender.ready().unwrap().is_some());
        let messages = [
            Message::Context { boot_ns: 7, kind: 0x8003, body: vec![b'x'; 3 << 20].into() },
            Message::Kernel(Bytes::from_static(b"raw")),
            Message::Heartbeat { boot_ns: 9 },
            Message::End,
        ];
        for message in &messages {
            sender.send(message).unwrap();
        }
        assert!(sender.is_behind());
        let mut got = Vec::new();
        while got.len() < messages.len() {
            sender.flush().unwrap();
            assert!(receiver.fill().unwrap());
            while let Some(message) = receiver.next().unwrap() {
                got.push(message);
            }
        }
        assert_eq!(got, messages);
        drop(sender);
        assert!(!receiver.fill().unwrap());
    }
}
