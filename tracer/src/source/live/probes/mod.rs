//! Loading the probes and attaching them. The maps through which user space steers and reads them are
//! in `kernel_maps`; reading records is not done here. Nothing is pinned: when the process dies, all goes.

mod attach;
mod cgroup;
mod error;
mod kernel_maps;
mod object;
pub mod table;
pub mod tracefs;

use std::any::Any;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt as _;

use aya::maps::MapError;
use aya::programs::{ProgramError, SocketFilter};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use tracer_common::bodies::role;
use tracer_common::limits::SNAP_MAX;
use tracer_common::maps::{self, CONFIG_WIRE, Config};

use self::{
    attach::{attach_program, load_programs},
    kernel_maps::set_ports,
    table::{Level, PROBES, Place, Probe, SYSCALLS, WIRE},
};
pub use self::{
    cgroup::cgroup_root,
    error::{Failure, ProbesError},
    kernel_maps::events_from_fd,
    object::object,
};

/// Answers that can be awaited at one time with `--wire`; and the smallest map that says that none is.
const AWAITED_MAX: u32 = 32_768;
const UNUSED: u32 = 64;

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
    /// Whether to look at what comes to the targets' network namespaces.
    pub wire: bool,
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
            wire: false,
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
        let awaited = if options.wire { AWAITED_MAX } else { UNUSED };
        let log_level: u8 = if options.log { u8::MAX } else { 0 };
        let ebpf = EbpfLoader::new()
            .btf(None)
            .verifier_log_level(VerifierLogLevel::DEBUG)
            .map_max_entries(maps::EVENTS, options.ring_bytes)
            .map_max_entries(maps::AWAITED, awaited)
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
        let wire = options.wire.then_some(&WIRE);
        let wanted: Vec<Probe> = PROBES.iter().chain(detail).chain(wire).copied().collect();
        for (probe, result) in load_programs(&mut probes.ebpf, &wanted) {
            match result {
                Ok(()) => probes.loaded.push(probe),
                Err(e) => probes.fail(&probe, "load", &e, &mut failures),
            }
        }
        probes.resolve_offsets()?;
        let watched = probes.watches_wire();
        probes.set_config(|config| {
            set_ports(config, &options.dns_ports);
            config.snap_len = options.snap_len.min(SNAP_MAX as u32);
            config.only_tgid = options.only_tgid;
            config.flags |= if watched { CONFIG_WIRE } else { 0 };
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

    /// What comes to network namespaces can be looked at.
    pub fn watches_wire(&self) -> bool {
        self.loaded.iter().any(|probe| probe.program == WIRE.program)
    }

    /// Makes the probe look at what a packet socket gets; it does until the socket is closed.
    ///
    /// # Errors
    /// When the probe is not loaded or the kernel refuses it.
    pub fn attach_to_socket(&self, socket: BorrowedFd<'_>) -> Result<(), ProbesError> {
        let program = self.ebpf.program(WIRE.program).ok_or(ProgramError::NotLoaded);
        let attached = program.and_then(|program| {
            let program: &SocketFilter = program.try_into()?;
            program.attach(socket)
        });
        attached.map_err(|e| {
            let (program, hook) = (WIRE.program, WIRE.hook_name());
            ProbesError::Probe(Failure {
                program,
                hook,
                step: "attach",
                reason: error::program(&e),
            })
        })
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
}
