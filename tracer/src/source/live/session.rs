//! A running trace on the agent's side: attaches scopes, seeds the kernel with what is older than
//! they are, and tells the pipeline what it learns. Decides nothing about targets.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use tracer_common::bodies::role;
use tracer_common::limits::TARGET_DIRS_MAX;
use tracer_common::maps::{Counters, SOCKET_DNS, SOCKET_SEEDED, Socket};

use super::cgroups::{self, Directory, Mount};
use super::clock::{self, Clock};
use super::conntrack::Watch;
use super::convert;
use super::link::{Message, Sender};
use super::probes::{Attachment, Probes, table};
use super::resolv_conf::{self, ResolvConfs};
use super::wire::Doors;
use super::{processes, sockets};
use crate::context::{self, Loss, LossStage, Role, Scope};
use crate::record::{RecordKind, Timestamp};

/// Probes, line to the pipeline, and what was told so far.
pub(super) struct Session {
    /// The probes.
    pub(super) probes: Probes,
    /// The cgroup tree.
    pub(super) mount: Mount,
    /// The line to the pipeline process.
    pub(super) link: Sender,
    /// The pipeline process is gone.
    pub(super) gone: bool,
    /// Addresses in the resolv.conf files of the targets.
    pub(super) servers: HashSet<IpAddr>,
    /// A process of a target, once one is known.
    pub(super) process: Option<u32>,
    clock: Clock,
    dns_ports: Vec<u16>,
    keep_payload: bool,
    host_root: PathBuf,
    scopes: Vec<Attached>,
    doors: Doors,
    nameless: Vec<Directory>,
    resolver_inside: bool,
    resolv_confs: ResolvConfs,
    complaints: u32,
    told: HashSet<u32>,
    seeded: Option<Seeded>,
    conntrack: Watch,
    counters: HashMap<u16, Counters>,
    counted_ns: u64,
}

/// Unusable resolv.conf files that are told of; more say nothing new.
const COMPLAINTS_MAX: u32 = 4;

/// What was told before the probes record: these processes may open more sockets until then.
#[derive(Default)]
struct Seeded {
    processes: HashMap<u32, context::Process>,
    cookies: HashSet<u64>,
}

struct Attached {
    attachment: Attachment,
    directory: Directory,
    scope: Scope,
}

impl Session {
    /// Nothing attached yet but what is global.
    pub(super) fn new(
        probes: Probes,
        mount: Mount,
        link: Sender,
        clock: Clock,
        options: &super::Options,
    ) -> Self {
        Self {
            probes,
            mount,
            link,
            gone: false,
            servers: HashSet::new(),
            process: None,
            clock,
            dns_ports: options.dns_ports.clone(),
            keep_payload: options.keep_payload,
            host_root: options.host_root.clone(),
            scopes: Vec::new(),
            doors: Doors::default(),
            nameless: Vec::new(),
            resolver_inside: false,
            resolv_confs: ResolvConfs::default(),
            complaints: 0,
            told: HashSet::new(),
            seeded: Some(Seeded::default()),
            conntrack: Watch::new(),
            counters: HashMap::new(),
            counted_ns: clock::boot_ns(),
        }
    }

    /// Attaches to a cgroup and tells all about it. False when one around it is attached already.
    pub(super) fn attach(
        &mut self,
        directory: &Directory,
        role: Role,
        only_pid: Option<u32>,
    ) -> anyhow::Result<bool> {
        let near = |at: &Attached| match role {
            Role::Target => {
                at.scope.role == Role::Target && directory.dir.starts_with(&at.directory.dir)
            }
            Role::Resolver => {
                directory.dir.starts_with(&at.directory.dir)
                    || at.directory.dir.starts_with(&directory.dir)
            }
        };
        // In the place of one that is gone, as when kubelet makes a pod's anew.
        self.end_scopes(|at| at.directory.dir == directory.dir && at.directory.id != directory.id);
        if let Some(at) = self.scopes.iter().find(|at| near(at)) {
            let around = directory.dir.starts_with(&at.directory.dir);
            self.resolver_inside |= role == Role::Resolver && around;
            return Ok(false);
        }
        let path = self.mount.relative(&directory.dir);
        let file = File::open(&directory.dir).with_context(|| format!("cgroup {path} is gone"))?;
        let bits = if role == Role::Target { role::TARGET } else { role::RESOLVER };
        let attachment = self.probes.attach_target(&file, bits)?;
        let scope = Scope { cgroup: directory.id, path, role, only_pid, ended: false };
        self.tell(RecordKind::Scope, &scope);
        self.scopes.push(Attached { attachment, directory: directory.clone(), scope });
        for group in self.mount.above(&directory.dir) {
            self.tell_cgroup(&group);
        }
        for group in cgroups::below(&directory.dir) {
            self.tell_cgroup(&group);
        }
        self.tell_processes(directory, role, only_pid);
        let first = self.conntrack.first(self.now());
        self.tell_conntrack(&first);
        if role == Role::Target {
            self.nameless.push(directory.clone());
        }
        Ok(true)
    }

    /// Targets attached since the last call, whose names somebody should look for.
    pub(super) fn take_nameless(&mut self) -> Vec<Directory> {
        std::mem::take(&mut self.nameless)
    }

    /// Whether one more target can be attached.
    pub(super) fn has_room(&self) -> bool {
        let targets = self.scopes.iter().filter(|at| at.scope.role == Role::Target);
        targets.count() < TARGET_DIRS_MAX as usize
    }

    /// Detaches from a target, and says so.
    pub(super) fn release(&mut self, dir: &Path) {
        self.end_scopes(|at| at.scope.role == Role::Target && at.directory.dir == dir);
    }

    /// Whether a resolver is traced, for itself or as part of a target.
    pub(super) fn has_resolver(&self) -> bool {
        self.resolver_inside || self.scopes.iter().any(|at| at.scope.role == Role::Resolver)
    }

    /// Looks once more for processes and sockets that came between reading the lists and recording.
    pub(super) fn tell_newcomers(&mut self) {
        let scopes: Vec<_> =
            self.scopes.iter().map(|at| (at.directory.clone(), at.scope.clone())).collect();
        for (directory, scope) in scopes {
            self.tell_processes(&directory, scope.role, scope.only_pid);
        }
        self.seeded = None;
        self.read_conntrack();
    }

    fn now(&self) -> Timestamp {
        self.unix(clock::boot_ns())
    }

    fn unix(&self, boot_ns: u64) -> Timestamp {
        Timestamp(boot_ns.saturating_add_signed(self.clock.offset_ns))
    }

    fn read_conntrack(&mut self) {
        let news = self.conntrack.read(self.now());
        self.tell_conntrack(&news);
    }

    fn tell_conntrack(&mut self, news: &[context::Conntrack]) {
        for reading in news {
            self.tell(RecordKind::Conntrack, reading);
        }
    }

    /// Sends a context record.
    pub(super) fn tell(&mut self, kind: RecordKind, fact: &impl Serialize) {
        match serde_json::to_vec(fact) {
            Ok(body) => {
                let boot_ns = clock::boot_ns();
                self.send(&Message::Context { boot_ns, kind: kind as u16, body: body.into() });
            }
            Err(error) => tracing::warn!("a context record cannot be written: {error}"),
        }
    }

    /// Sends a message; notes when nobody hears it.
    pub(super) fn send(&mut self, message: &Message) {
        if self.link.send(message).is_err() {
            self.gone = true;
        }
    }

    /// Tells the kernel and nobody else a pod's addresses.
    pub(super) fn seed_pod(&mut self, pod: &context::Pod) {
        if pod.host_network {
            return;
        }
        for ip in &pod.ips {
            self.note(|probes| probes.seed_address(*ip, 0));
        }
    }

    /// A process of a target runs a new program.
    pub(super) fn exec(&mut self, pid: u32) {
        self.told.remove(&pid);
        self.tell_process(pid, true);
    }

    /// A cgroup was made; told when it lies in a scope. True when it is on this tree.
    pub(super) fn cgroup_made(&mut self, id: u64, path: &Path) -> Option<Directory> {
        let found = self.mount.directory(path).ok().filter(|found| found.id == id)?;
        if self.scopes.iter().any(|at| found.dir.starts_with(&at.directory.dir)) {
            self.tell_cgroup(&found);
        }
        Some(found)
    }

    /// Ten times a second: heartbeat and losses.
    pub(super) fn beat(&mut self) {
        self.tell_losses();
        if self.link.flush().is_err() {
            self.gone = true;
        }
        if !self.link.is_behind() {
            self.send(&Message::Heartbeat { boot_ns: clock::boot_ns() });
        }
    }

    /// Counts a file that kubelet copies from among the node's own.
    pub(super) fn read_too(&mut self, path: Option<&str>) {
        self.resolv_confs.read_too(path);
    }

    /// Once a second: the clock, the files that may have changed, cgroups that went.
    pub(super) fn look_again(&mut self) {
        self.clock.check();
        for file in self.resolv_confs.node_files(&self.host_root.clone()) {
            self.tell(RecordKind::NodeFile, &file);
        }
        for conf in self.resolv_confs.look_again() {
            self.tell_resolv_conf(&conf);
        }
        self.read_conntrack();
        self.told.retain(|pid| processes::exists(*pid));
        self.end_scopes(|at| !at.directory.exists());
        if self.doors.seem_empty() {
            self.close_doors();
        }
    }

    /// Looks no more at network namespaces in which no process of a target is left.
    fn close_doors(&mut self) {
        let targets = self.scopes.iter().filter(|at| at.scope.role == Role::Target);
        let pids = targets.flat_map(|at| match at.scope.only_pid {
            Some(pid) => vec![pid],
            None => cgroups::processes(&at.directory.dir),
        });
        self.doors.keep(pids);
    }

    /// Detaches from scopes and says so.
    fn end_scopes(&mut self, over: impl Fn(&Attached) -> bool) {
        let (gone, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.scopes).into_iter().partition(over);
        self.scopes = kept;
        let over = gone.iter().any(|at| at.scope.role == Role::Target);
        if over && !self.doors.is_empty() {
            self.close_doors();
        }
        for at in gone {
            let Attached { attachment, scope, .. } = at;
            self.note(|probes| probes.detach(attachment));
            self.tell(RecordKind::Scope, &Scope { ended: true, ..scope });
        }
    }

    /// Whether this cgroup or one around it is a target.
    pub(super) fn traces(&self, directory: &Directory) -> bool {
        self.scopes.iter().any(|at| {
            let around = directory.dir.starts_with(&at.directory.dir);
            let other = at.directory.dir == directory.dir && at.directory.id != directory.id;
            at.scope.role == Role::Target && around && !other
        })
    }

    /// Stops the probes and sends what is left: open calls, last losses, the end.
    pub(super) fn finish(&mut self) {
        self.note(|probes| probes.set_recording(false));
        // A probe that was running on another processor ends within this time.
        std::thread::sleep(std::time::Duration::from_millis(2));
        let calls = self.probes.open_calls().unwrap_or_default();
        let now = clock::boot_ns();
        for (pid_tgid, call) in calls {
            let comm = fs::read(format!("/proc/{}/comm", pid_tgid as u32)).unwrap_or_default();
            let comm = comm.strip_suffix(b"\n").unwrap_or(&comm);
            self.send(&Message::Kernel(convert::open_call(pid_tgid, &call, comm, now)));
        }
        self.read_conntrack();
        self.tell_losses();
        self.send(&Message::Heartbeat { boot_ns: clock::boot_ns() });
        self.send(&Message::End);
        if self.link.flush().is_err() {
            self.gone = true;
        }
        // Nothing is recorded any more; the pipeline concludes while the probes go.
        self.scopes.clear();
        self.doors.close();
        self.probes.detach_global();
    }

    fn tell_cgroup(&mut self, group: &Directory) {
        let path = self.mount.relative(&group.dir);
        self.tell(RecordKind::Cgroup, &context::Cgroup { id: group.id, path });
    }

    fn tell_processes(&mut self, directory: &Directory, role: Role, only_pid: Option<u32>) {
        let pids = match only_pid {
            Some(pid) => vec![pid],
            None => cgroups::processes(&directory.dir),
        };
        let mut by_namespace: HashMap<u64, Vec<(u32, context::Process)>> = HashMap::new();
        for pid in pids {
            let earlier = self.seeded.as_ref().and_then(|seeded| seeded.processes.get(&pid));
            let process = match earlier.cloned() {
                Some(process) => Some(process),
                None if self.told.contains(&pid) => None,
                None => self.tell_process(pid, role == Role::Target),
            };
            let Some(process) = process else { continue };
            if let Some(seeded) = &mut self.seeded {
                seeded.processes.insert(pid, process.clone());
            }
            let namespace = process.net_ns.unwrap_or_default();
            by_namespace.entry(namespace).or_default().push((pid, process));
        }
        for (namespace, processes) in by_namespace {
            self.tell_sockets(namespace, &processes);
        }
    }

    fn tell_process(&mut self, pid: u32, of_target: bool) -> Option<context::Process> {
        let process = processes::describe(pid, &self.mount)?;
        self.told.insert(pid);
        self.conntrack.note(process.net_ns, pid);
        self.tell(RecordKind::Process, &process);
        if self.keep_payload
            && of_target
            && let Some(words) = processes::arguments(pid)
        {
            let raw = convert::arguments(&process, &words, clock::boot_ns());
            self.send(&Message::Kernel(raw));
        }
        if of_target {
            self.process = Some(pid);
            self.watch_door(&process);
        }
        if let Some(conf) = self.resolv_confs.look(pid, process.cgroup, of_target) {
            self.tell_resolv_conf(&conf);
        }
        Some(process)
    }

    /// Looks at what comes to a target's network namespace, if that is wanted.
    fn watch_door(&mut self, process: &context::Process) {
        let Some(namespace) = process.net_ns.filter(|_| self.probes.watches_wire()) else { return };
        if let Err(error) = self.doors.lives(&self.probes, namespace, process.pid) {
            let comm = &process.comm;
            tracing::warn!("--wire: not at the network namespace of {comm}: {error:#}");
        }
    }

    fn tell_resolv_conf(&mut self, conf: &context::ResolvConf) {
        self.tell(RecordKind::ResolvConf, conf);
        self.servers = self.resolv_confs.servers();
        if self.complaints < COMPLAINTS_MAX
            && let Some(complaint) = resolv_conf::complaint(conf)
        {
            self.complaints += 1;
            say!("svctrace: {complaint}");
        }
    }

    fn tell_sockets(&mut self, namespace: u64, owners: &[(u32, context::Process)]) {
        let pids: Vec<u32> = owners.iter().map(|(pid, _)| *pid).collect();
        let holders = sockets::owners(&pids);
        if holders.is_empty() {
            return;
        }
        let Some(found) = pids.iter().find_map(|pid| sockets::list(*pid).ok()) else { return };
        for socket in found {
            let Some(holders) = holders.get(&socket.inode) else { continue };
            let Some(&(pid, fd)) = holders.first() else { continue };
            if self.seeded.as_mut().is_some_and(|seeded| !seeded.cookies.insert(socket.cookie)) {
                continue;
            }
            let port = socket.remote.map_or(0, |remote| remote.port());
            let dns = if self.dns_ports.contains(&port) { SOCKET_DNS } else { 0 };
            let seed = Socket { tgid: pid, tid: 0, fd, port, flags: SOCKET_SEEDED | dns };
            self.note(|probes| probes.seed_socket(socket.cookie, seed));
            for (pid, fd) in holders {
                self.note(|probes| probes.seed_fd(*pid, *fd, socket.cookie));
            }
            let owner = owners.iter().find(|(at, _)| *at == pid).map(|(_, process)| process);
            self.tell(
                RecordKind::Socket,
                &context::Socket {
                    cookie: socket.cookie,
                    protocol: socket.protocol,
                    local: socket.local,
                    remote: socket.remote,
                    pid: Some(pid),
                    comm: owner.map(|process| process.comm.clone()),
                    fd: Some(fd),
                    cgroup: owner.and_then(|process| process.cgroup),
                    net_ns: Some(namespace).filter(|inode| *inode != 0),
                },
            );
        }
    }

    fn tell_losses(&mut self) {
        let (first, last) = (self.unix(self.counted_ns), self.now());
        let dropped = self.link.take_dropped();
        let mut losses = vec![(LossStage::User, "agent", dropped)];
        for (number, now) in self.probes.counters().unwrap_or_default() {
            let before = self.counters.insert(number, now).unwrap_or_default();
            let source = table::name(number).unwrap_or("unknown");
            let kernel = now.lost.wrapping_add(now.map_full);
            let kernel = kernel.wrapping_sub(before.lost.wrapping_add(before.map_full));
            losses.push((LossStage::Kernel, source, kernel));
            losses.push((LossStage::Payload, source, now.cut.wrapping_sub(before.cut)));
            let unreadable = now.unreadable.wrapping_sub(before.unreadable);
            losses.push((LossStage::Decode, source, unreadable));
        }
        self.counted_ns = clock::boot_ns();
        for (stage, source, count) in losses.into_iter().filter(|(.., count)| *count != 0) {
            let source = source.to_owned();
            self.tell(RecordKind::Loss, &Loss { stage, source, count, first, last });
        }
    }

    /// Does something with the probes whose failure only costs detail.
    fn note<E: std::fmt::Display>(&mut self, work: impl FnOnce(&mut Probes) -> Result<(), E>) {
        if let Err(error) = work(&mut self.probes) {
            tracing::debug!("{error}");
        }
    }
}
