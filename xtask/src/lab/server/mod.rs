//! DNS servers of the lab's own, for behaviour that dnsmasq and unbound cannot be asked for: an
//! upstream that treats each zone in its own way, and a cluster server with CoreDNS's timing.
//! This file listens; one thread a question, no limits: a lab asks little.

mod cluster;
mod zones;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result};

pub use cluster::{Cluster, How};
pub(crate) use zones::{CLUSTER_NAMES, Upstream, cluster_address};

/// How a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Udp,
    Tcp,
}

/// What a server makes of a question.
pub(crate) enum Reply {
    /// Nothing.
    Silence,
    /// This message.
    Message(Vec<u8>),
    /// This message, from the server's other address.
    Elsewhere(Vec<u8>),
}

pub(crate) trait Server: Send + Sync + 'static {
    /// May take its time.
    fn reply(&self, query: &[u8], over: Over) -> Reply;
}

/// What `cargo xtask lab-dns` is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Forward to this server, as a cluster's own; without it, be the upstream
    #[arg(long)]
    forward: Option<SocketAddr>,
    #[command(flatten)]
    how: How,
    /// Another address of this host, from which some answers go
    #[arg(long)]
    other_address: Option<IpAddr>,
}

/// Serves until it is killed.
pub fn serve(options: &Options) -> Result<()> {
    match options.forward {
        None => listen(options, Arc::new(Upstream)),
        Some(to) => listen(options, Arc::new(Cluster::new(to, options.how))),
    }
}

fn listen(options: &Options, server: Arc<impl Server>) -> Result<()> {
    let at = options.listen;
    let tcp = TcpListener::bind(at).with_context(|| format!("cannot listen on {at}"))?;
    let udp = UdpSocket::bind(at).with_context(|| format!("cannot listen on {at}"))?;
    let other = match options.other_address {
        Some(address) => Some(UdpSocket::bind((address, at.port()))?),
        None => None,
    };
    let streams = Arc::clone(&server);
    thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            let server = Arc::clone(&streams);
            thread::spawn(move || converse(&stream, &*server));
        }
    });
    let mut buffer = [0; 65_535];
    loop {
        let Ok((length, from)) = udp.recv_from(&mut buffer) else { continue };
        let query = buffer.get(..length).unwrap_or_default().to_vec();
        let (server, udp) = (Arc::clone(&server), udp.try_clone()?);
        let other = other.as_ref().map(UdpSocket::try_clone).transpose()?;
        thread::spawn(move || match (server.reply(&query, Over::Udp), other) {
            (Reply::Silence, _) => Ok(0),
            (Reply::Elsewhere(message), Some(other)) => other.send_to(&message, from),
            (Reply::Message(message) | Reply::Elsewhere(message), _) => udp.send_to(&message, from),
        });
    }
}

/// Answers what comes over one connection, one after the other, until the client is gone.
fn converse(stream: &TcpStream, server: &impl Server) {
    while let Ok(query) = read(stream) {
        let sent = match server.reply(&query, Over::Tcp) {
            Reply::Silence => Ok(()),
            Reply::Message(message) | Reply::Elsewhere(message) => write(stream, &message),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// A message with its length in front, as RFC 7766 has it.
fn read(mut stream: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn write(mut stream: &TcpStream, message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat())
}
