//! Sockets that are older than the trace: sock_diag asked inside the target's network namespace,
//! and the owners' descriptors from /proc.

use std::collections::HashMap;
use std::fs::{self, File};
use std::net::SocketAddr;

use anyhow::Context as _;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags,
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket as Netlink, SocketAddr as NetlinkAddr};
use nix::sched::{CloneFlags, setns};

/// Most sockets taken from one namespace.
const SOCKETS_MAX: usize = 100_000;
/// Most descriptors looked at in one process.
const DESCRIPTORS_MAX: usize = 100_000;

/// A socket as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Cookie.
    pub(super) cookie: u64,
    /// `IPPROTO_*`.
    pub(super) protocol: u8,
    /// Local end.
    pub(super) local: SocketAddr,
    /// Remote end, when connected.
    pub(super) remote: Option<SocketAddr>,
    /// Inode; 0 when no descriptor is left.
    pub(super) inode: u64,
}

/// All TCP and UDP sockets of `pid`'s network namespace.
pub(super) fn list(pid: u32) -> anyhow::Result<Vec<Found>> {
    inside(pid, list_here)
}

/// Asks or does something in `pid`'s network namespace.
pub(super) fn inside<T: Send + 'static>(
    pid: u32,
    ask: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let path = format!("/proc/{pid}/ns/net");
    let namespace = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    // A namespace belongs to a thread; this one ends right after.
    let thread = std::thread::Builder::new().name("namespace".into()).spawn(move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)
            .context("cannot enter the network namespace")?;
        ask()
    });
    let joined = thread.context("cannot start a thread")?.join();
    joined.map_err(|_| anyhow::anyhow!("a thread in the network namespace failed"))?
}

fn list_here() -> anyhow::Result<Vec<Found>> {
    let mut socket = Netlink::new(NETLINK_SOCK_DIAG).context("no sock_diag")?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    let mut found = Vec::new();
    for protocol in [IPPROTO_UDP, IPPROTO_TCP] {
        for (family, socket_id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            let request = InetRequest {
                family,
                protocol,
                extensions: ExtensionFlags::empty(),
                states: StateFlags::all(),
                socket_id,
            };
            if let Err(error) = dump(&socket, request, protocol, &mut found) {
                tracing::debug!("sock_diag, family {family}, protocol {protocol}: {error:#}");
            }
        }
    }
    Ok(found)
}

fn dump(
    socket: &Netlink,
    request: InetRequest,
    protocol: u8,
    found: &mut Vec<Found>,
) -> anyhow::Result<()> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut packet = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let size = socket.recv(&mut buffer.as_mut_slice(), 0)?;
        let mut rest = buffer.get(..size).unwrap_or_default();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)?;
            let len = (message.header.length as usize).next_multiple_of(4).max(16);
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(()),
                NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response))
                    if found.len() < SOCKETS_MAX =>
                {
                    found.push(understand(&response, protocol));
                }
                _ => {}
            }
            rest = rest.get(len..).unwrap_or_default();
        }
    }
}

fn understand(response: &InetResponse, protocol: u8) -> Found {
    let id = &response.header.socket_id;
    let canonical = |ip: std::net::IpAddr, port| SocketAddr::new(ip.to_canonical(), port);
    let remote = canonical(id.destination_address, id.destination_port);
    Found {
        cookie: u64::from_ne_bytes(id.cookie),
        protocol,
        local: canonical(id.source_address, id.source_port),
        remote: (remote.port() != 0).then_some(remote),
        inode: u64::from(response.header.inode),
    }
}

/// Which processes hold a socket: inode to (process, descriptor).
pub(super) fn owners(pids: &[u32]) -> HashMap<u64, Vec<(u32, i32)>> {
    let mut owners: HashMap<u64, Vec<(u32, i32)>> = HashMap::new();
    for pid in pids {
        let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for entry in entries.take(DESCRIPTORS_MAX) {
            let inode =
                fs::read_link(entry.path()).ok().and_then(|link| socket_inode(link.to_str()?));
            let fd = entry.file_name().to_str().and_then(|name| name.parse().ok());
            if let (Some(inode), Some(fd)) = (inode, fd) {
                owners.entry(inode).or_default().push((*pid, fd));
            }
        }
    }
    owners
}

fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    #[test]
    fn finds_a_socket_and_its_owner() {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(peer.local_addr().unwrap()).unwrap();
        let found = match list(std::process::id()) {
            Ok(found) => found,
            Err(error) => {
                say!("skipped: {error:#}");
                return;
            }
        };
        let local = socket.local_addr().unwrap();
        let mine = found.iter().find(|found| found.local == local).unwrap();
        assert_eq!(mine.remote, Some(peer.local_addr().unwrap()));
        assert!(mine.cookie != 0);
        let owners = owners(&[std::process::id()]);
        assert_eq!(owners[&mine.inode], [(std::process::id(), socket.as_raw_fd())]);
    }
}
