//! Packet sockets at the doors of the targets' network namespaces (`--wire`): open while a process of a
//! target lives there. They carry nothing: the probe on them writes its own records and keeps all from
//! them. Only what comes in passes them, since nothing else makes the kernel copy what goes out.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use anyhow::Context as _;
use nix::libc;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::probes::Probes;
use super::{processes, sockets};

/// Namespaces looked at.
const DOORS_MAX: usize = 1_024;
/// Protocols of IP in a frame, each with a socket of its own.
const ETHERTYPES: [i32; 2] = [libc::ETH_P_IP, libc::ETH_P_IPV6];

/// By the inode of their namespace.
#[derive(Default)]
pub(super) struct Doors {
    open: HashMap<u64, Door>,
    refused: HashSet<u64>,
}

struct Door {
    _sockets: Vec<OwnedFd>,
    /// Processes of targets in it, as far as known.
    pids: HashSet<u32>,
}

impl Doors {
    /// A process of a target lives in `namespace`. An error is told once for each.
    pub(super) fn lives(
        &mut self,
        probes: &Probes,
        namespace: u64,
        pid: u32,
    ) -> anyhow::Result<()> {
        if let Some(door) = self.open.get_mut(&namespace) {
            door.pids.insert(pid);
            return Ok(());
        }
        if self.refused.contains(&namespace) {
            return Ok(());
        }
        if self.open.len() >= DOORS_MAX {
            self.refused.insert(namespace);
            anyhow::bail!("more than {DOORS_MAX} network namespaces");
        }
        let opened = open(probes, pid);
        if opened.is_err() {
            // It left meanwhile, or ended and was not waited for yet.
            if processes::namespace(pid, "net") != Some(namespace) {
                return Ok(());
            }
            if self.refused.len() < DOORS_MAX {
                self.refused.insert(namespace);
            }
        }
        let door = Door { _sockets: opened?, pids: HashSet::from([pid]) };
        self.open.insert(namespace, door);
        Ok(())
    }

    /// Whether all that is known of the processes behind some door is that they are gone.
    pub(super) fn seem_empty(&mut self) -> bool {
        for (namespace, door) in &mut self.open {
            door.pids.retain(|pid| processes::namespace(*pid, "net") == Some(*namespace));
        }
        self.open.values().any(|door| door.pids.is_empty())
    }

    /// Closes all but those of these processes. A socket that stayed would keep its namespace alive.
    pub(super) fn keep(&mut self, pids: impl IntoIterator<Item = u32>) {
        let mut living: HashMap<u64, HashSet<u32>> = HashMap::new();
        for pid in pids {
            if let Some(namespace) = processes::namespace(pid, "net") {
                living.entry(namespace).or_default().insert(pid);
            }
        }
        self.refused.retain(|namespace| living.contains_key(namespace));
        self.open.retain(|namespace, door| match living.remove(namespace) {
            Some(pids) => {
                door.pids = pids;
                true
            }
            None => false,
        });
    }

    /// Closes all.
    pub(super) fn close(&mut self) {
        self.open.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.refused.is_empty()
    }
}

/// The sockets of a namespace. Until they are bound nothing comes to them.
fn open(probes: &Probes, pid: u32) -> anyhow::Result<Vec<OwnedFd>> {
    let sockets = sockets::inside(pid, || {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let one = |_| socket(AddressFamily::Packet, SockType::Datagram, flags, None);
        let all: Result<Vec<OwnedFd>, _> = ETHERTYPES.iter().map(one).collect();
        all.context("cannot open a packet socket")
    })?;
    for (socket, ethertype) in sockets.iter().zip(ETHERTYPES) {
        probes.attach_to_socket(socket.as_fd())?;
        bind(socket, ethertype).context("cannot bind a packet socket")?;
    }
    Ok(sockets)
}

/// To packets of this protocol at every interface.
fn bind(socket: &OwnedFd, ethertype: i32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (ethertype as u16).to_be(),
        sll_ifindex: 0,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is a whole sockaddr_ll of that length, which the kernel only reads.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
