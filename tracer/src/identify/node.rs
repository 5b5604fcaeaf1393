//! What the machine told: cgroups, traced scopes, processes, sockets. Knows nothing of Kubernetes
//! but what stands in a cgroup's path.

use std::net::SocketAddr;

use foldhash::HashMap;

use super::table::Table;
use crate::cgroup_path::{self, PathFacts};
use crate::context::{self, Role};
use crate::event::{Actor, AddressCall, Body, Event};
use crate::record::{HostId, Task, Timestamp};
use crate::text;

const CGROUP_CAP: usize = 32_768;
const SCOPE_CAP: usize = 4096;
const PROCESS_CAP: usize = 65_536;
const SOCKET_CAP: usize = 65_536;
/// Destinations remembered by socket: resolvers ask several servers through one.
const ASKED_MAX: usize = 4;
/// An event that much after a process's exit belongs to another with the same id.
const REUSE_NS: u64 = 1_000_000_000;
/// A question older than that is waited for by nobody.
const EARLY_NS: u64 = 15_000_000_000;
/// The root cgroup, which says nothing about who.
const ROOT: u64 = 1;

/// A cgroup path with what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Path {
    /// Starting with `/`, without a final one.
    pub(super) text: String,
    pub(super) facts: PathFacts,
}

impl Path {
    fn new(text: &str) -> Self {
        Self { text: normal(text), facts: cgroup_path::parse(text) }
    }
}

/// `/a/b` for `/a/b/`; the root is empty, so that every path starts with it and a slash.
fn normal(path: &str) -> String {
    let path = path.trim_end_matches('/');
    if path.is_empty() || path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

#[derive(Clone, Debug, Default)]
struct Process {
    comm: Option<String>,
    cgroup: Option<u64>,
    path: Option<Path>,
    mnt_ns: Option<u64>,
    net_ns: Option<u64>,
    /// Whether its program began while it was traced; unknown where nobody told.
    young: Option<bool>,
}

impl Process {
    /// In another cgroup it may be another process, whose exit was not seen.
    fn move_to(&mut self, cgroup: Option<u64>) {
        let Some(cgroup) = cgroup else { return };
        if self.cgroup.is_some_and(|old| old > ROOT && old != cgroup) {
            *self = Self::default();
        }
        self.cgroup = Some(cgroup);
    }
}

#[derive(Clone, Debug, Default)]
struct Socket {
    pid: Option<u32>,
    tid: Option<u32>,
    comm: Option<String>,
    cgroup: Option<u64>,
    /// Latest last.
    asked: Vec<SocketAddr>,
    /// It was there before the trace.
    older: bool,
}

impl Socket {
    /// It is known as `actor`'s, and `asked` as its latest destination.
    fn is(&self, actor: &Actor, asked: Option<SocketAddr>) -> bool {
        let task = actor.task.as_ref().is_none_or(|task| {
            self.pid == Some(task.pid)
                && self.tid == Some(task.tid)
                && self.comm.as_deref() == Some(task.comm.as_str())
        });
        let cgroup = actor.cgroup.is_none_or(|id| id <= ROOT || self.cgroup == Some(id));
        task && cgroup && asked.is_none_or(|asked| self.asked.last() == Some(&asked))
    }
}

/// Why a cgroup path is traced.
#[derive(Clone, Debug)]
struct Traced {
    cgroup: u64,
    role: Role,
    only_pid: Option<u32>,
    /// When that began.
    since: Timestamp,
}

/// Everything known about an actor without asking Kubernetes.
#[derive(Debug, Default)]
pub(super) struct Place<'a> {
    pub(super) host: HostId,
    pub(super) pid: Option<u32>,
    pub(super) tid: Option<u32>,
    pub(super) comm: Option<&'a str>,
    pub(super) cgroup: Option<u64>,
    pub(super) path: Option<&'a Path>,
    pub(super) mnt_ns: Option<u64>,
}

/// The tables, of all hosts.
#[derive(Debug)]
pub(super) struct Node {
    cgroups: Table<(HostId, u64), Path>,
    /// By path, of each host.
    scopes: HashMap<HostId, Table<String, Traced>>,
    processes: Table<(HostId, u32), Process>,
    sockets: Table<(HostId, u64), Socket>,
    /// The network namespace of processes by scope: those of a pod share one.
    net_spaces: Table<(HostId, u64), u64>,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            cgroups: Table::new(CGROUP_CAP),
            scopes: HashMap::default(),
            processes: Table::new(PROCESS_CAP),
            sockets: Table::new(SOCKET_CAP),
            net_spaces: Table::new(SCOPE_CAP),
        }
    }
}

impl Node {
    pub(super) fn learn(&mut self, event: &Event) {
        if !matches!(event.body, Body::Exec { .. } | Body::Exit)
            && let Some(task) = &event.actor.task
        {
            self.seen(task, event);
        }
        let host = event.actor.host;
        match &event.body {
            Body::Scope(scope) => self.scope(host, scope, event.at),
            Body::Cgroup(cgroup) | Body::CgroupMade(cgroup) => {
                self.cgroup((host, cgroup.id), &cgroup.path);
            }
            Body::CgroupRemoved(cgroup) => self.cgroups.retire(&(host, cgroup.id), event.at),
            Body::Process(process) => self.process(host, process),
            Body::Exec { .. } => self.exec(event),
            Body::Exit => {
                if let Some(task) = &event.actor.task {
                    self.processes.retire(&(host, task.pid), event.at);
                }
            }
            Body::Socket(socket) => self.socket(host, socket),
            Body::SocketAddress(hook) => {
                let asked = (hook.call != AddressCall::Recvmsg).then_some(hook.remote);
                self.owner(&event.actor, asked);
            }
            Body::Syscall(_) => self.owner(&event.actor, None),
            Body::SocketClosed(_) => {
                if let Some(socket) = event.actor.socket() {
                    self.sockets.retire(&socket, event.at);
                }
            }
            _ => {}
        }
    }

    /// Any event of a process says that it lives, and where.
    fn seen(&mut self, task: &Task, event: &Event) {
        let key = (event.actor.host, task.pid);
        if self.processes.gone(&key).is_some_and(|gone| event.at.since(gone) > REUSE_NS) {
            self.processes.remove(&key);
        }
        let cgroup = event.actor.cgroup.filter(|id| *id > ROOT);
        let known = self.processes.get(&key);
        if known.is_none_or(|process| cgroup.is_some() && process.cgroup != cgroup) {
            let gone = self.processes.gone(&key);
            self.processes.change(key, |process| {
                process.move_to(cgroup);
                if process.comm.is_none() && task.pid == task.tid {
                    process.comm = Some(task.comm.clone());
                }
            });
            if let Some(gone) = gone {
                self.processes.retire(&key, gone);
            }
        }
    }

    fn exec(&mut self, event: &Event) {
        let Some(task) = &event.actor.task else { return };
        let key = (event.actor.host, task.pid);
        let alive = self.processes.gone(&key).is_none();
        let old = self.processes.remove(&key).filter(|_| alive);
        let mut process = old.unwrap_or_default();
        process.move_to(event.actor.cgroup.filter(|id| *id > ROOT));
        process.comm = Some(task.comm.clone());
        process.young = Some(true);
        self.processes.insert(key, process);
    }

    fn process(&mut self, host: HostId, process: &context::Process) {
        if let (Some(id), Some(path)) = (process.cgroup, &process.cgroup_path)
            && id > ROOT
            && self.cgroups.get(&(host, id)).is_none()
        {
            self.cgroup((host, id), path);
        }
        let known = self.processes.get(&(host, process.pid));
        let facts = Process {
            comm: (!process.comm.is_empty()).then(|| text::visible(&process.comm)),
            cgroup: process.cgroup,
            path: process.cgroup_path.as_deref().map(Path::new),
            mnt_ns: process.mnt_ns,
            net_ns: process.net_ns,
            // Told again after its exec, and in every snapshot.
            young: known.and_then(|known| known.young).or(Some(false)),
        };
        let net_ns = facts.net_ns;
        self.processes.insert((host, process.pid), facts);
        let task = Some(Task { pid: process.pid, tid: process.pid, comm: String::new() });
        let actor = Actor { host, task, ..Actor::default() };
        if let (Some(unit), Some(net_ns)) = (self.unit(&self.place(&actor)), net_ns) {
            self.net_spaces.insert((host, unit), net_ns);
        }
    }

    fn cgroup(&mut self, id: (HostId, u64), path: &str) {
        self.cgroups.insert(id, Path::new(path));
    }

    fn scope(&mut self, host: HostId, scope: &context::Scope, at: Timestamp) {
        let path = normal(&scope.path);
        if self.cgroups.get(&(host, scope.cgroup)).is_none() {
            self.cgroup((host, scope.cgroup), &scope.path);
        }
        let scopes = self.scopes.entry(host).or_insert_with(|| Table::new(SCOPE_CAP));
        let known = scopes.get(&path);
        if scope.ended {
            if known.is_some_and(|known| known.role == scope.role) {
                scopes.retire(&path, at);
            }
            return;
        }
        // What the user asked for stays a target when it happens to be the resolver too.
        let target = known.is_some_and(|known| known.role == Role::Target);
        if scope.role == Role::Resolver && target && scopes.gone(&path).is_none() {
            return;
        }
        // Told again in every snapshot.
        let known = known.filter(|known| known.cgroup == scope.cgroup);
        let since = known.filter(|_| scopes.gone(&path).is_none()).map_or(at, |known| known.since);
        let context::Scope { cgroup, role, only_pid, .. } = *scope;
        scopes.insert(path, Traced { cgroup, role, only_pid, since });
    }

    /// What sock_diag found out; a hook knows better.
    fn socket(&mut self, host: HostId, socket: &context::Socket) {
        self.sockets.change((host, socket.cookie), |facts| {
            facts.older = true;
            if facts.pid.is_none() {
                facts.pid = socket.pid;
                facts.comm = socket.comm.as_deref().map(text::visible);
            }
            facts.cgroup = facts.cgroup.or(socket.cgroup);
            if facts.asked.is_empty() {
                facts.asked.extend(socket.remote);
            }
        });
    }

    fn owner(&mut self, actor: &Actor, asked: Option<SocketAddr>) {
        let Some(key) = actor.socket() else { return };
        // Nearly every call: on a socket that is known so already.
        if self.sockets.fresh(&key).is_some_and(|socket| socket.is(actor, asked)) {
            return;
        }
        let gone = self.sockets.gone(&key); // a call may return after the close
        self.sockets.change(key, |socket| {
            if let Some(task) = &actor.task {
                socket.pid = Some(task.pid);
                socket.tid = Some(task.tid);
                socket.comm = Some(task.comm.clone());
            }
            socket.cgroup = actor.cgroup.filter(|id| *id > ROOT).or(socket.cgroup);
            if let Some(asked) = asked {
                socket.asked.retain(|known| *known != asked);
                socket.asked.push(asked);
                if socket.asked.len() > ASKED_MAX {
                    socket.asked.remove(0);
                }
            }
        });
        if let Some(gone) = gone {
            self.sockets.retire(&key, gone);
        }
    }

    pub(super) fn place<'a>(&'a self, actor: &'a Actor) -> Place<'a> {
        let socket = actor.socket().and_then(|key| self.sockets.get(&key));
        let own = actor.task.as_ref();
        let pid = own.map(|task| task.pid).or_else(|| socket?.pid);
        let process = pid.and_then(|pid| self.processes.get(&(actor.host, pid)));
        let some = |id: &u64| *id > ROOT;
        let cgroup = (actor.cgroup.filter(some))
            .or_else(|| socket?.cgroup.filter(some))
            .or_else(|| process?.cgroup.filter(some))
            .or(actor.cgroup.filter(|id| *id == ROOT));
        let path = cgroup.and_then(|id| self.cgroups.get(&(actor.host, id)));
        // In hybrid trees the v2 path is the root, or a unit's, and only a v1 path tells.
        let of_process = process.and_then(|process| process.path.as_ref());
        let better = of_process.is_some_and(|own| own.facts.pod.is_some());
        let says = |path: &&Path| path.facts.pod.is_some() || !path.text.is_empty() && !better;
        let path = match path.filter(says) {
            Some(path) => Some(path),
            None => of_process.or(path),
        };
        Place {
            host: actor.host,
            pid,
            tid: own.map(|task| task.tid).or_else(|| socket?.tid),
            cgroup,
            path,
            mnt_ns: process.and_then(|process| process.mnt_ns),
            comm: own
                .map(|task| task.comm.as_str())
                .or_else(|| socket?.comm.as_deref())
                .or_else(|| process?.comm.as_deref()),
        }
    }

    /// The nearest traced scope at or above it, for this process.
    fn scope_above(&self, place: &Place<'_>) -> Option<&Traced> {
        let scopes = self.scopes.get(&place.host)?;
        let mut path = place.path?.text.as_str();
        loop {
            let scope = scopes.get(path).filter(|scope| {
                // An unknown process got here through the kernel's own filter.
                scope.only_pid.is_none_or(|only| place.pid.is_none_or(|pid| pid == only))
            });
            if scope.is_some() {
                return scope;
            }
            path = path.get(..path.rfind('/')?)?;
        }
    }

    pub(super) fn role(&self, place: &Place<'_>) -> Option<Role> {
        Some(self.scope_above(place)?.role)
    }

    /// The attach point above, else the cgroup itself.
    pub(super) fn unit(&self, place: &Place<'_>) -> Option<u64> {
        self.scope_above(place).map(|scope| scope.cgroup).or(place.cgroup)
    }

    /// Inode of the network namespace it is in.
    pub(super) fn net_ns(&self, actor: &Actor) -> Option<u64> {
        let place = self.place(actor);
        let process = place.pid.and_then(|pid| self.processes.get(&(actor.host, pid)));
        let by_scope = || self.net_spaces.get(&(actor.host, self.unit(&place)?)).copied();
        process.and_then(|process| process.net_ns).or_else(by_scope)
    }

    pub(super) fn asked(&self, actor: &Actor) -> &[SocketAddr] {
        let socket = actor.socket().and_then(|key| self.sockets.get(&key));
        socket.map(|socket| socket.asked.as_slice()).unwrap_or_default()
    }

    /// Since when its scope is traced.
    fn since(&self, actor: &Actor) -> Option<Timestamp> {
        Some(self.scope_above(&self.place(actor))?.since)
    }

    /// What comes at `at` over a socket that was there before the trace may have been asked before, too.
    pub(super) fn asked_before(&self, actor: &Actor, at: Timestamp) -> bool {
        let socket = actor.socket().and_then(|key| self.sockets.get(&key));
        socket.is_some_and(|socket| socket.older)
            && self.since(actor).is_some_and(|since| at.since(since) < EARLY_NS)
    }

    /// Before `resolver` was traced `client`, which is older, may have asked it what it asked at `at`.
    pub(super) fn repeats(&self, client: &Actor, resolver: &Actor, at: Timestamp) -> bool {
        let pid = self.place(client).pid;
        let process = pid.and_then(|pid| self.processes.get(&(client.host, pid)));
        process.is_some_and(|process| process.young == Some(false))
            && self.since(resolver).is_some_and(|since| at.since(since) < EARLY_NS)
    }

    pub(super) fn sweep(&mut self, now: Timestamp) {
        self.cgroups.sweep(now);
        self.scopes.values_mut().for_each(|scopes| scopes.sweep(now));
        self.processes.sweep(now);
        self.sockets.sweep(now);
    }

    pub(super) fn evicted(&self) -> u64 {
        self.cgroups.evicted()
            + self.scopes.values().map(Table::evicted).sum::<u64>()
            + self.processes.evicted()
            + self.sockets.evicted()
            + self.net_spaces.evicted()
    }
}
