//! The traffic of the self-test: a client, a "resolver", an "upstream" and a neighbour, all this
//! process, all on loopback; which cgroup a socket belongs to is decided when it is made.

use std::{
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    path::Path,
    process::{self, Command},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(2);

/// Sockets that must belong to the resolver's cgroup.
pub(super) struct Servers {
    listener: UdpSocket,
    forwarder: UdpSocket,
}

impl Servers {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self { listener: loopback()?, forwarder: loopback()? })
    }
}

/// What was done, to be found again in the records.
pub(super) struct Facts {
    pub(super) tgid: u32,
    pub(super) client_port: u16,
    pub(super) client_fd: i32,
    pub(super) server_port: u16,
    pub(super) upstream_port: u16,
    pub(super) query: Vec<u8>,
    pub(super) tcp_client_port: u16,
    pub(super) tcp_server_port: u16,
    pub(super) unconnected_port: u16,
    pub(super) v6: Option<u16>,
    pub(super) ran_program: bool,
    pub(super) inner_cgroup: u64,
    /// Questions of every length modulo a word, as sent to the upstream.
    pub(super) lengths: Vec<Vec<u8>>,
}

pub(super) struct Traffic {
    servers: Servers,
    upstream: UdpSocket,
    neighbour: UdpSocket,
    v6_server: Option<UdpSocket>,
    tcp: TcpListener,
}

impl Traffic {
    /// The sockets of everybody else.
    pub(super) fn open(servers: Servers) -> io::Result<Self> {
        let v6_server = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).ok();
        if let Some(socket) = &v6_server {
            socket.set_read_timeout(Some(PATIENCE))?;
        }
        Ok(Self {
            servers,
            upstream: loopback()?,
            neighbour: loopback()?,
            v6_server,
            tcp: TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?,
        })
    }

    pub(super) fn dns_ports(&self) -> Vec<u16> {
        let v6 = self.v6_server.as_ref();
        [Some(&self.servers.listener), Some(&self.upstream), v6]
            .into_iter()
            .flatten()
            .filter_map(|s| s.local_addr().ok())
            .map(|a| a.port())
            .collect()
    }

    /// Runs while this process is in the target's cgroup.
    pub(super) fn run(&self, target: &Path) -> io::Result<Facts> {
        let server = self.servers.listener.local_addr()?;
        let upstream = self.upstream.local_addr()?;
        let query = message("Probe.Selftest.example", false);

        let client = loopback()?;
        client.connect(server)?;
        client.send(&query)?;
        let from = receive(&self.servers.listener, &query)?;
        // Same question, other case: the resolver's own tries are tied to it all the same.
        let forwarded = message("probe.selftest.EXAMPLE", false);
        let forwarder_address = self.servers.forwarder.local_addr()?;
        self.servers.forwarder.send_to(&forwarded, upstream)?;
        receive(&self.upstream, &forwarded)?;
        let answer = message("probe.selftest.EXAMPLE", true);
        self.upstream.send_to(&answer, forwarder_address)?;
        receive(&self.servers.forwarder, &answer)?;
        let reply = message("Probe.Selftest.example", true);
        self.servers.listener.send_to(&reply, from)?;
        receive(&client, &reply)?;
        let (client_port, client_fd) = (client.local_addr()?.port(), client.as_raw_fd());
        drop(client);

        let lengths = self.lengths(server, upstream)?;
        self.neighbour(server, upstream)?;
        let unconnected_port = self.unconnected(server)?;
        let v6 = self.v6()?;
        let (tcp_client_port, tcp_server_port) = self.tcp()?;
        let inner = target.join("inner");
        fs::create_dir(&inner)?;
        let inner_cgroup = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&inner)?);
        fs::remove_dir(&inner)?;
        let ran_program = Command::new("/bin/true").status().is_ok_and(|s| s.success());
        Ok(Facts {
            tgid: process::id(),
            client_port,
            client_fd,
            server_port: server.port(),
            upstream_port: upstream.port(),
            query,
            tcp_client_port,
            tcp_server_port,
            unconnected_port,
            v6,
            ran_program,
            inner_cgroup,
            lengths,
        })
    }

    /// Messages that end with the question: the probes read it in words.
    fn lengths(&self, server: SocketAddr, upstream: SocketAddr) -> io::Result<Vec<Vec<u8>>> {
        let client = loopback()?;
        let mut asked = Vec::new();
        for label in ["a", "aa", "aaa", "aaaa"] {
            let query = message(&format!("{label}.length.selftest.example"), false);
            client.send_to(&query, server)?;
            receive(&self.servers.listener, &query)?;
            self.servers.forwarder.send_to(&query, upstream)?;
            receive(&self.upstream, &query)?;
            asked.push(query);
        }
        Ok(asked)
    }

    /// Somebody else asks the same resolver; it forwards that too. None of it is ours.
    fn neighbour(&self, server: SocketAddr, upstream: SocketAddr) -> io::Result<()> {
        let query = message("neighbour.selftest.example", false);
        self.neighbour.send_to(&query, server)?;
        let from = receive(&self.servers.listener, &query)?;
        self.servers.forwarder.send_to(&query, upstream)?;
        receive(&self.upstream, &query)?;
        let reply = message("neighbour.selftest.example", true);
        self.servers.listener.send_to(&reply, from)?;
        receive(&self.neighbour, &reply)?;
        Ok(())
    }

    /// As musl asks: no connect, an address with each message.
    fn unconnected(&self, server: SocketAddr) -> io::Result<u16> {
        let client = loopback()?;
        let query = message("unconnected.selftest.example", false);
        client.send_to(&query, server)?;
        let from = receive(&self.servers.listener, &query)?;
        let reply = message("unconnected.selftest.example", true);
        self.servers.listener.send_to(&reply, from)?;
        receive(&client, &reply)?;
        Ok(client.local_addr()?.port())
    }

    fn v6(&self) -> io::Result<Option<u16>> {
        let Some(server) = &self.v6_server else { return Ok(None) };
        let client = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0))?;
        let query = message("six.selftest.example", false);
        client.connect(server.local_addr()?)?;
        client.send(&query)?;
        receive(server, &query)?;
        Ok(Some(client.local_addr()?.port()))
    }

    fn tcp(&self) -> io::Result<(u16, u16)> {
        let stream = TcpStream::connect_timeout(&self.tcp.local_addr()?, PATIENCE)?;
        let ports = (stream.local_addr()?.port(), stream.peer_addr()?.port());
        drop(self.tcp.accept()?);
        Ok(ports)
    }
}

fn loopback() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn receive(socket: &UdpSocket, expected: &[u8]) -> io::Result<SocketAddr> {
    let mut buffer = [0; 512];
    let (len, from) = socket.recv_from(&mut buffer)?;
    if &buffer[..len] == expected { Ok(from) } else { Err(io::Error::other("foreign datagram")) }
}

/// A DNS message with one question for an A record.
fn message(name: &str, answer: bool) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, if answer { 0x81 } else { 0x01 }, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}
