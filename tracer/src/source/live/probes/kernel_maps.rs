//! The maps through which user space steers the probes and reads what they know. Records are read
//! elsewhere.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::maps::{Array, CgroupArray, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use tracer_common::limits::{DNS_PORTS_MAX, PROBES_MAX, TARGET_DIRS_MAX};
use tracer_common::maps::{
    self, CONFIG_GENERATION_SHIFT, CONFIG_ON, Call, Config, Counters, PeerKey, Socket,
};

use super::{Probes, ProbesError, error};

impl Probes {
    /// Changes the configuration and writes it to the kernel.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn set_config(&mut self, change: impl FnOnce(&mut Config)) -> Result<(), ProbesError> {
        change(&mut self.config);
        let config = self.config;
        let map = self.map_mut(maps::CONFIG)?;
        let mut array: Array<_, Config> =
            map.try_into().map_err(|e| error::map(maps::CONFIG, &e))?;
        array.set(0, config, 0).map_err(|e| error::map(maps::CONFIG, &e))
    }

    /// Starts or stops the writing of records.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn set_recording(&mut self, on: bool) -> Result<(), ProbesError> {
        self.set_config(|config| {
            config.flags = config.flags & !CONFIG_ON | if on { CONFIG_ON } else { 0 };
        })
    }

    /// Tells the kernel a socket older than the attach; what the probes know already stays.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn seed_socket(&mut self, cookie: u64, socket: Socket) -> Result<(), ProbesError> {
        self.seed(maps::SOCKETS, cookie, socket)
    }

    /// Ties a descriptor of a process to a socket; what the probes know already stays.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn seed_fd(&mut self, tgid: u32, fd: i32, cookie: u64) -> Result<(), ProbesError> {
        self.seed(maps::FDS, maps::fd_key(tgid, fd), cookie)
    }

    /// Tells the kernel an address of a target. `port` counts for loopback addresses only.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn seed_address(&mut self, address: IpAddr, port: u16) -> Result<(), ProbesError> {
        self.seed(maps::TARGET_ADDRESSES, peer_key(address, port), 1_u32)
    }

    /// Counters by probe number, summed over the processors; probes that counted nothing are left
    /// out.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> Result<Vec<(u16, Counters)>, ProbesError> {
        let map = self.map(maps::COUNTERS)?;
        let array: PerCpuArray<_, Counters> =
            map.try_into().map_err(|e| error::map(maps::COUNTERS, &e))?;
        let mut all = Vec::new();
        for number in 0..PROBES_MAX {
            let values = array.get(&number, 0).map_err(|e| error::map(maps::COUNTERS, &e))?;
            let sum = values.iter().fold(Counters::default(), |mut sum, c| {
                sum.seen = sum.seen.wrapping_add(c.seen);
                sum.lost = sum.lost.wrapping_add(c.lost);
                sum.map_full = sum.map_full.wrapping_add(c.map_full);
                sum.cut = sum.cut.wrapping_add(c.cut);
                sum.unreadable = sum.unreadable.wrapping_add(c.unreadable);
                sum
            });
            if sum.seen | sum.lost | sum.map_full | sum.cut | sum.unreadable != 0 {
                all.push((number as u16, sum));
            }
        }
        Ok(all)
    }

    /// Calls of targets that have not returned yet, by `pid_tgid` (process in the upper half).
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn open_calls(&self) -> Result<Vec<(u64, Call)>, ProbesError> {
        let map = self.map(maps::CALLS)?;
        let calls: HashMap<_, u64, Call> =
            map.try_into().map_err(|e| error::map(maps::CALLS, &e))?;
        // Entries come and go while we read: one that vanishes is no error.
        Ok(calls.iter().filter_map(Result::ok).take(1 << 16).collect())
    }

    /// The ring buffer's map, to be passed to the process that reads it.
    ///
    /// # Errors
    /// When the object has no such map.
    pub fn events_fd(&self) -> Result<BorrowedFd<'_>, ProbesError> {
        match self.map(maps::EVENTS)? {
            Map::RingBuf(data) => Ok(data.fd().as_fd()),
            _ => Err(ProbesError::Map(maps::EVENTS, "not a ring buffer".to_owned())),
        }
    }

    /// The small ring buffer with copies of EXEC, CGROUP_MADE and CGROUP_REMOVED; once.
    ///
    /// # Errors
    /// When it was taken before or cannot be mapped.
    pub fn take_lifecycle(&mut self) -> Result<RingBuf<MapData>, ProbesError> {
        let map = self.ebpf.take_map(maps::LIFECYCLE).ok_or_else(|| no_map(maps::LIFECYCLE))?;
        RingBuf::try_from(map).map_err(|e| error::map(maps::LIFECYCLE, &e))
    }

    /// The probes' own log, to be flushed now and then; once, and only if switched on.
    pub fn take_log(&mut self) -> Option<aya_log::EbpfLogger<&'static dyn log::Log>> {
        aya_log::EbpfLogger::init(&mut self.ebpf).ok()
    }

    pub(super) fn add_dir(&mut self, cgroup: &File) -> Result<u32, ProbesError> {
        let free = self.dirs.iter().position(|used| !used).unwrap_or(self.dirs.len());
        let slot = u32::try_from(free).unwrap_or(u32::MAX);
        if slot >= TARGET_DIRS_MAX {
            return Err(ProbesError::TooManyTargets(TARGET_DIRS_MAX));
        }
        self.dir_array()?
            .set(slot, cgroup.as_fd(), 0)
            .map_err(|e| error::map(maps::TARGET_DIRS, &e))?;
        if free == self.dirs.len() {
            self.dirs.push(true);
        } else {
            self.dirs[free] = true;
        }
        self.dirs_changed()?;
        Ok(slot)
    }

    pub(super) fn remove_dir(&mut self, slot: u32) -> Result<(), ProbesError> {
        self.dir_array()?.unset(slot).map_err(|e| error::map(maps::TARGET_DIRS, &e))?;
        if let Some(used) = self.dirs.get_mut(slot as usize) {
            *used = false;
        }
        self.dirs_changed()
    }

    /// In two steps: a probe that sees the new generation must see the new slots, and the kernel
    /// does not copy the configuration in one piece.
    fn dirs_changed(&mut self) -> Result<(), ProbesError> {
        let used = u16::try_from(self.dirs.len()).unwrap_or(u16::MAX);
        self.set_config(|config| config.target_dirs = used)?;
        self.set_config(|config| {
            config.flags = config.flags.wrapping_add(1 << CONFIG_GENERATION_SHIFT);
        })
    }

    fn dir_array(&mut self) -> Result<CgroupArray<&mut MapData>, ProbesError> {
        let map = self.map_mut(maps::TARGET_DIRS)?;
        map.try_into().map_err(|e| error::map(maps::TARGET_DIRS, &e))
    }

    pub(super) fn hash<K: aya::Pod, V: aya::Pod>(
        &mut self,
        name: &'static str,
    ) -> Result<HashMap<&mut MapData, K, V>, ProbesError> {
        let map = self.map_mut(name)?;
        map.try_into().map_err(|e| error::map(name, &e))
    }

    fn seed<K: aya::Pod, V: aya::Pod>(
        &mut self,
        name: &'static str,
        key: K,
        value: V,
    ) -> Result<(), ProbesError> {
        const BPF_NOEXIST: u64 = 1;
        const EEXIST: i32 = nix::errno::Errno::EEXIST as i32;
        match self.hash::<K, V>(name)?.insert(key, value, BPF_NOEXIST) {
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(EEXIST) => Ok(()),
            Err(e) => Err(error::map(name, &e)),
            Ok(()) => Ok(()),
        }
    }

    fn map(&self, name: &'static str) -> Result<&Map, ProbesError> {
        self.ebpf.map(name).ok_or_else(|| no_map(name))
    }

    fn map_mut(&mut self, name: &'static str) -> Result<&mut Map, ProbesError> {
        self.ebpf.map_mut(name).ok_or_else(|| no_map(name))
    }
}

/// Maps the ring buffer behind a descriptor that [`Probes::events_fd`] gave. Linux before 5.19
/// refuses this to processes without CAP_BPF where unprivileged BPF is off: do it before privileges
/// are dropped.
///
/// # Errors
/// When the descriptor is no ring buffer, or the kernel refuses.
pub fn events_from_fd(fd: OwnedFd) -> Result<RingBuf<MapData>, ProbesError> {
    let data = MapData::from_fd(fd).map_err(|e| error::map(maps::EVENTS, &e))?;
    RingBuf::try_from(Map::RingBuf(data)).map_err(|e| error::map(maps::EVENTS, &e))
}

/// The key under which the probes know an address.
fn peer_key(address: IpAddr, port: u16) -> PeerKey {
    let v6: Ipv6Addr = match address {
        IpAddr::V4(v4) => Ipv4Addr::to_ipv6_mapped(&v4),
        IpAddr::V6(v6) => v6,
    };
    let port = if address.to_canonical().is_loopback() { port } else { 0 };
    PeerKey { addr: v6.octets(), port, pad: 0 }
}

pub(super) fn set_ports(config: &mut Config, ports: &[u16]) {
    config.dns_ports = [0; DNS_PORTS_MAX];
    for (slot, port) in config.dns_ports.iter_mut().zip(ports.iter().filter(|p| **p != 0)) {
        *slot = *port;
    }
}

fn no_map(name: &'static str) -> ProbesError {
    ProbesError::Map(name, "not in the object".to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::{Options, object};
    use super::*;

    #[test]
    fn loopback_keys_carry_the_port() {
        assert_eq!(peer_key([127, 0, 0, 1].into(), 9).port, 9);
        assert_eq!(peer_key(Ipv6Addr::LOCALHOST.into(), 9).port, 9);
        let key = peer_key([10, 1, 2, 3].into(), 9);
        assert_eq!(key.port, 0);
        assert_eq!(key.addr, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3]);
    }

    #[test]
    fn maps_can_be_seeded_and_read() {
        if !nix::unistd::Uid::effective().is_root() || object().is_none() {
            println!("skipped: loading probes needs root and an eBPF toolchain at build time");
            return;
        }
        let options = Options { ring_bytes: 1 << 16, syscalls: false, ..Options::default() };
        let mut probes = Probes::load(&options).expect("loads");
        let socket = Socket { tgid: 7, port: 53, ..Socket::default() };
        probes.seed_socket(1, socket).expect("new");
        probes.seed_socket(1, Socket::default()).expect("known already, kept");
        let kept: HashMap<_, u64, Socket> =
            probes.map(maps::SOCKETS).expect("there").try_into().expect("a hash");
        assert_eq!(kept.get(&1, 0).expect("there").tgid, 7);
        probes.seed_fd(7, 3, 1).expect("new");
        probes.seed_address([10, 0, 0, 1].into(), 0).expect("new");
        assert!(probes.counters().expect("readable").is_empty());
        assert!(probes.open_calls().expect("readable").is_empty());
        assert!(probes.take_lifecycle().expect("once").next().is_none());
        assert!(probes.take_lifecycle().is_err());
        let fd = probes.events_fd().expect("there").try_clone_to_owned().expect("cloned");
        assert!(events_from_fd(fd).expect("mapped").next().is_none());
        assert!(probes.missing().is_empty(), "{:?}", probes.missing());
    }
}
