//! Loading the probes and attaching them, and the maps through which user space steers and reads
//! them. Reading records is not done here. Nothing is pinned: when the process dies, all goes.

mod attach;
mod cgroup;
mod error;
mod object;
pub mod table;
pub mod tracefs;

use std::{
    any::Any,
    fs::File,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, CgroupArray, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
    programs::ProgramError,
};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use tracer_common::{
    bodies::role,
    limits::{DNS_PORTS_MAX, PROBES_MAX, SNAP_MAX, TARGET_DIRS_MAX},
    maps::{self, CONFIG_GENERATION_SHIFT, CONFIG_ON, Call, Config, Counters, PeerKey, Socket},
};

use self::{
    attach::{attach_program, load_programs},
    table::{Level, PROBES, Place, Probe, SYSCALLS},
};
pub use self::{
    cgroup::cgroup_root,
    error::{Failure, ProbesError},
    object::object,
};

/// How to load.
#[derive(Clone, Debug)]
pub struct Options {
    /// Size of the ring buffer in bytes: a power of two, at least a page.
    pub ring_bytes: u32,
    /// Whether to trace system calls (each costs every process of the node some 50 ns).
    pub syscalls: bool,
    /// Whether the probes write their own debugging log.
    pub log: bool,
    /// Ports that mean DNS; the first eight count.
    pub dns_ports: Vec<u16>,
    /// Most bytes of a DNS packet to copy, at most `SNAP_MAX`.
    pub snap_len: u32,
    /// Only this process is a target; 0 = every process in the target cgroups.
    pub only_tgid: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ring_bytes: 8 << 20,
            syscalls: true,
            log: false,
            dns_ports: vec![53],
            snap_len: SNAP_MAX as u32,
            only_tgid: 0,
        }
    }
}

/// The probes in the kernel.
pub struct Probes {
    ebpf: Ebpf,
    config: Config,
    loaded: Vec<Probe>,
    missing: Vec<Failure>,
    dirs: Vec<bool>,
    // Links of probes that belong to no target.
    global: Vec<Box<dyn Any + Send>>,
}

/// Linux before 5.11 charges maps to this limit; elsewhere it does not matter. Needs
/// CAP_SYS_RESOURCE the first time, if at all.
pub(super) fn lift_memory_limit() {
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
}

/// Probes attached to one cgroup. Dropping it detaches them; [`Probes::detach`] also forgets the
/// cgroup in the kernel's maps.
#[must_use = "dropping it detaches the probes"]
pub struct Attachment {
    links: Vec<Box<dyn Any + Send>>,
    cgroup_id: u64,
    slot: Option<u32>,
}

impl Attachment {
    /// Id of the cgroup (inode of its directory).
    pub fn cgroup_id(&self) -> u64 {
        self.cgroup_id
    }
}

impl Probes {
    /// Loads all programs; recording stays off. Detail and optional probes that the kernel refuses
    /// are listed by [`Self::missing`].
    ///
    /// # Errors
    /// When a mandatory probe or a map is refused.
    pub fn load(options: &Options) -> Result<Self, ProbesError> {
        let (probes, failures) = Self::load_what_goes(options)?;
        match failures.into_iter().next() {
            Some(failure) => Err(ProbesError::Probe(failure)),
            None => Ok(probes),
        }
    }

    /// Like [`Self::load`], but goes on after a mandatory probe failed and returns those failures.
    ///
    /// # Errors
    /// When the maps are refused, so that no probe can be tried.
    pub fn load_what_goes(options: &Options) -> Result<(Self, Vec<Failure>), ProbesError> {
        let bytes = object().ok_or(ProbesError::NotBuilt)?;
        lift_memory_limit();
        let log_level: u8 = if options.log { u8::MAX } else { 0 };
        let ebpf = EbpfLoader::new()
            .btf(None)
            .verifier_log_level(VerifierLogLevel::DEBUG)
            .map_max_entries(maps::EVENTS, options.ring_bytes)
            .override_global(aya_log::LEVEL, &log_level, true)
            .load(bytes)
            .map_err(|e| error::object(&e))?;
        let mut probes = Self {
            ebpf,
            config: Config::default(),
            loaded: Vec::new(),
            missing: Vec::new(),
            dirs: Vec::new(),
            global: Vec::new(),
        };
        let detail: &[Probe] = if options.syscalls { &SYSCALLS } else { &[] };
        let mut failures = Vec::new();
        let wanted: Vec<Probe> = PROBES.iter().chain(detail).copied().collect();
        for (probe, result) in load_programs(&mut probes.ebpf, &wanted) {
            match result {
                Ok(()) => probes.loaded.push(probe),
                Err(e) => probes.fail(&probe, "load", &e, &mut failures),
            }
        }
        probes.resolve_offsets()?;
        probes.set_config(|config| {
            set_ports(config, &options.dns_ports);
            config.snap_len = options.snap_len.min(SNAP_MAX as u32);
            config.only_tgid = options.only_tgid;
        })?;
        Ok((probes, failures))
    }

    /// Attaches what belongs to no target: tracepoints, and at the root of the cgroup tree.
    ///
    /// # Errors
    /// When a mandatory probe is refused.
    pub fn attach_global(&mut self) -> Result<(), ProbesError> {
        match self.attach_global_what_goes()?.into_iter().next() {
            Some(failure) => Err(ProbesError::Probe(failure)),
            None => Ok(()),
        }
    }

    /// Like [`Self::attach_global`], but goes on and returns the failures of mandatory probes.
    ///
    /// # Errors
    /// When tracefs or the cgroup tree cannot be reached.
    pub fn attach_global_what_goes(&mut self) -> Result<Vec<Failure>, ProbesError> {
        let root = File::open(cgroup_root()?)?;
        let mut failures = Vec::new();
        let wanted: Vec<Probe> = self.loaded.clone();
        for probe in wanted.iter().filter(|p| p.place == Place::Root) {
            match attach_program(&mut self.ebpf, probe, Some(&root)) {
                Ok(link) => self.global.push(link),
                Err(e) => self.fail(probe, "attach", &e, &mut failures),
            }
        }
        let ebpf = &mut self.ebpf;
        let results = tracefs::within(move |_| {
            wanted
                .into_iter()
                .filter(|p| p.place == Place::Global)
                .map(|p| (p, attach_program(ebpf, &p, None)))
                .collect::<Vec<_>>()
        })
        .map_err(|e| ProbesError::Tracefs(e.to_string()))?;
        for (probe, result) in results {
            match result {
                Ok(link) => self.global.push(link),
                Err(e) => self.fail(&probe, "attach", &e, &mut failures),
            }
        }
        Ok(failures)
    }

    /// Attaches to the cgroup of a target or resolver (`cgroup`: its directory in the v2 tree) and
    /// to all below it. Cgroups inside one that is attached already need no attachment of their own
    /// and would report everything twice.
    ///
    /// # Errors
    /// When a mandatory probe is refused; then nothing stays attached.
    pub fn attach_target(&mut self, cgroup: &File, role: u8) -> Result<Attachment, ProbesError> {
        let (attachment, failures) = self.attach_target_what_goes(cgroup, role)?;
        match failures.into_iter().next() {
            Some(failure) => {
                self.detach(attachment)?;
                Err(ProbesError::Probe(failure))
            }
            None => Ok(attachment),
        }
    }

    /// Like [`Self::attach_target`], but goes on and returns the failures of mandatory probes.
    ///
    /// # Errors
    /// When the maps cannot be written.
    pub fn attach_target_what_goes(
        &mut self,
        cgroup: &File,
        role: u8,
    ) -> Result<(Attachment, Vec<Failure>), ProbesError> {
        let cgroup_id = cgroup.metadata()?.ino();
        let slot = if role == role::TARGET { Some(self.add_dir(cgroup)?) } else { None };
        self.hash::<u64, u32>(maps::TARGETS)?
            .insert(cgroup_id, u32::from(role), 0)
            .map_err(|e| error::map(maps::TARGETS, &e))?;
        let mut attachment = Attachment { links: Vec::new(), cgroup_id, slot };
        let mut failures = Vec::new();
        let wanted: Vec<Probe> =
            self.loaded.iter().filter(|p| p.role() & role != 0).copied().collect();
        for probe in &wanted {
            match attach_program(&mut self.ebpf, probe, Some(cgroup)) {
                Ok(link) => attachment.links.push(link),
                Err(e) => self.fail(probe, "attach", &e, &mut failures),
            }
        }
        Ok((attachment, failures))
    }

    /// Detaches and forgets the cgroup.
    ///
    /// # Errors
    /// When the maps cannot be written; the probes are detached all the same.
    pub fn detach(&mut self, attachment: Attachment) -> Result<(), ProbesError> {
        let Attachment { links, cgroup_id, slot } = attachment;
        drop(links);
        if let Some(slot) = slot {
            self.remove_dir(slot)?;
        }
        match self.hash::<u64, u32>(maps::TARGETS)?.remove(&cgroup_id) {
            Err(e) if !matches!(e, MapError::KeyNotFound) => Err(error::map(maps::TARGETS, &e)),
            _ => Ok(()),
        }
    }

    /// Detaches what belongs to no target. The kernel waits some ten milliseconds for each
    /// tracepoint, so they go side by side.
    pub fn detach_global(&mut self) {
        let links = std::mem::take(&mut self.global);
        std::thread::scope(|scope| {
            for link in links {
                scope.spawn(move || drop(link));
            }
        });
    }

    /// Probes that are wanted but not to be had, without the mandatory ones.
    pub fn missing(&self) -> &[Failure] {
        &self.missing
    }

    /// Probes that were loaded.
    pub fn loaded(&self) -> &[Probe] {
        &self.loaded
    }

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

    fn fail(
        &mut self,
        probe: &Probe,
        step: &'static str,
        error: &ProgramError,
        mandatory: &mut Vec<Failure>,
    ) {
        let failure = Failure {
            program: probe.program,
            hook: probe.hook_name(),
            step,
            reason: error::program(error),
        };
        if probe.level == Level::Mandatory {
            mandatory.push(failure);
        } else if !self.missing.iter().any(|m| m.program == probe.program) {
            self.missing.push(failure);
        }
    }

    fn resolve_offsets(&mut self) -> Result<(), ProbesError> {
        let (exec, cgroup) = tracefs::within(|place| {
            Ok::<_, io::Error>((
                tracefs::format(place, "sched", "sched_process_exec")?,
                tracefs::format(place, "cgroup", "cgroup_mkdir")?,
            ))
        })
        .and_then(|formats| formats)
        .map_err(|e| ProbesError::Tracefs(e.to_string()))?;
        let need = |format: &tracefs::Format, field: &str, size| {
            format.offset(field, size).ok_or_else(|| {
                ProbesError::Tracefs(format!("no field {field} of {size} bytes in a tracepoint"))
            })
        };
        self.config.exec_filename = need(&exec, "filename", 4)?;
        self.config.cgroup_root = need(&cgroup, "root", 4)?;
        self.config.cgroup_level = need(&cgroup, "level", 4)?;
        self.config.cgroup_id = need(&cgroup, "id", 8)?;
        self.config.cgroup_path = need(&cgroup, "path", 4)?;
        Ok(())
    }

    fn add_dir(&mut self, cgroup: &File) -> Result<u32, ProbesError> {
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

    fn remove_dir(&mut self, slot: u32) -> Result<(), ProbesError> {
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

    fn hash<K: aya::Pod, V: aya::Pod>(
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
pub fn peer_key(address: IpAddr, port: u16) -> PeerKey {
    let v6: Ipv6Addr = match address {
        IpAddr::V4(v4) => Ipv4Addr::to_ipv6_mapped(&v4),
        IpAddr::V6(v6) => v6,
    };
    let port = if address.to_canonical().is_loopback() { port } else { 0 };
    PeerKey { addr: v6.octets(), port, pad: 0 }
}

fn set_ports(config: &mut Config, ports: &[u16]) {
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
