//! sysdig's .scap files, of every version, to records. State is kept only as far as it says who did
//! what on which socket; what a record means is the pipeline's business.
//!
//! Each event becomes one `Call` record with sysdig's own number, and behind it the facts it stands
//! for: payloads, connects, accepts, closes, programs, resolv.conf as it was read. Environment
//! variables never leave this module; arguments of commands and payloads other than DNS only if
//! `keep_payload` is set.

mod blocks;
mod bytes;
mod call;
mod events;
mod facts;
mod metadata;
mod network;
mod out;
mod sections;
mod state;
mod stream;
mod types;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::Read;

use self::blocks::{Block, Blocks, is_event, kind};
use self::events::Event;
use self::metadata::Metadata;
use self::out::{Out, Who};
use self::sections::{FdKind, Machine};
use self::state::{Enter, Fd, Socket, State, Thread};
use self::stream::Streams;
use crate::context;
use crate::record::{Record, RecordKind, Task};
use crate::source::{CaptureError, CaptureErrorKind, Options, Records};
use crate::text;

/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `IPPROTO_UDP`.
const UDP: u8 = 17;
/// Blocks read between two looks at the queue.
const BATCH: usize = 64;
const CGROUPS_MAX: usize = 32_768;
/// Bytes kept of texts that a file repeats as often as it likes: cgroup's path, name and path of a
/// program, path of an open file.
const CGROUP_PATH_MAX: usize = 1024;
const COMM_MAX: usize = 64;
const EXE_MAX: usize = 256;
const PATH_MAX: usize = 256;
/// A process of which nothing is known, as sysdig shows it.
const NOBODY: &str = "<NA>";

/// Records of the scap file in `reader`, raw or gzip; the error of a damaged file is the last item.
pub fn open(reader: Box<dyn Read + Send>) -> Result<Records, CaptureError> {
    open_with(reader, &Options::default())
}

/// The same with these options.
pub fn open_with(reader: Box<dyn Read + Send>, options: &Options) -> Result<Records, CaptureError> {
    let mut blocks = Blocks::new(reader)?;
    let mut engine = Engine::new(options.clone());
    let foreign = || {
        let what = "this is no scap file: it does not begin with a section header";
        CaptureError::new(0, CaptureErrorKind::Unsupported(what.to_owned()))
    };
    match blocks.next() {
        Ok(Some(block)) if block.kind == kind::SECTION => engine.block(&block)?,
        Ok(_) => return Err(foreign()),
        Err(error) if matches!(error.kind, CaptureErrorKind::Damaged(_)) => return Err(foreign()),
        Err(error) => return Err(error),
    }
    Ok(Box::new(Reader { blocks, engine, error: None, ended: false }))
}

struct Reader {
    blocks: Blocks,
    engine: Engine,
    error: Option<CaptureError>,
    ended: bool,
}

impl Iterator for Reader {
    type Item = Result<Record, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.engine.out.pop() {
                return Some(Ok(record));
            }
            if self.ended {
                return self.error.take().map(Err);
            }
            for _ in 0..BATCH {
                // One event can say much (the objects of a cluster).
                if self.engine.out.is_full() {
                    break;
                }
                let done = match self.blocks.next() {
                    Ok(Some(block)) => self.engine.block(&block),
                    Ok(None) => {
                        self.ended = true;
                        self.engine.complete(self.blocks.offset())
                    }
                    Err(error) => Err(error),
                };
                if let Err(error) = done {
                    self.error = Some(error);
                    self.ended = true;
                }
                if self.ended {
                    self.engine.out.finish();
                    self.engine.tell_refused();
                    break;
                }
            }
        }
    }
}

/// From blocks to records.
struct Engine {
    options: Options,
    out: Out,
    state: State,
    metadata: Metadata,
    sides: Vec<types::Side>,
    /// Of the last event block.
    number: u64,
    events: bool,
    cgroups: HashMap<String, u64>,
    next_cgroup: u64,
    /// The kernel's numbers of calls without an event type, by sysdig's.
    natives: HashMap<u64, u64>,
    streams: Streams,
}

impl Engine {
    fn new(options: Options) -> Self {
        Self {
            options,
            out: Out::default(),
            state: State::default(),
            metadata: Metadata::default(),
            sides: types::sides(),
            number: 0,
            events: false,
            cgroups: HashMap::new(),
            next_cgroup: 1, // the root's id says nothing, and ours begin after it
            natives: HashMap::new(),
            streams: Streams::default(),
        }
    }

    fn block(&mut self, block: &Block<'_>) -> Result<(), CaptureError> {
        if is_event(block.kind) {
            if !self.events {
                self.events = true;
                self.state.lists_end();
                self.tell_processes();
            }
            let event = Event::parse(block)?;
            self.number += 1;
            self.event(&event);
            return Ok(());
        }
        if let Some(version) = sections::process_version(block.kind) {
            return sections::processes(block, version, |entry| {
                let cgroup = cgroup(
                    entry.cgroups,
                    &mut self.cgroups,
                    &mut self.next_cgroup,
                    &mut self.metadata,
                    &mut self.out,
                );
                let thread = Thread {
                    pid: entry.pid,
                    ptid: entry.ptid,
                    vtid: entry.vtid.unwrap_or(entry.tid),
                    comm: text::escape(first(entry.comm, COMM_MAX)),
                    exe: text::escape(first(entry.exe, EXE_MAX)),
                    cgroup,
                    ..Thread::default()
                };
                let shared = u64::from(entry.flags) & (state::CLONE_FILES | state::CLONE_THREAD);
                let with = (shared != 0 && entry.pid != entry.tid).then_some(entry.pid);
                self.state.add(entry.tid, thread, with);
            });
        }
        match block.kind {
            kind::SECTION => {
                sections::section(block)?;
                self.events = false;
                self.state.clear();
                self.streams = Streams::default();
                self.cgroups.clear();
                self.metadata = Metadata::default();
            }
            kind::MACHINE | kind::MACHINE_OLD => self.host(&sections::machine(block.body)),
            kind::FDS | kind::FDS_OLD | kind::FDS_V2 => self.descriptors(block)?,
            _ => {} // users, interfaces, and what later versions may add
        }
        Ok(())
    }

    /// The file ends well at `offset`.
    fn complete(&self, offset: u64) -> Result<(), CaptureError> {
        if self.number > 0 {
            Ok(())
        } else {
            Err(CaptureError::damaged(offset, "no events in this file"))
        }
    }

    /// There are bounds to what is remembered; past them events have no name or socket.
    fn tell_refused(&self) {
        let (refused, torn) = (self.state.refused, self.streams.given_up);
        if refused > 0 {
            tracing::warn!("{refused} threads or descriptors more than can be remembered");
        }
        if torn > 0 {
            tracing::warn!("{torn} TCP streams to port 53 could not be followed");
        }
    }

    fn host(&mut self, machine: &Machine) {
        let host = context::Host {
            hostname: machine.hostname.clone(),
            cpus: machine.cpus,
            dns_ports: self.options.dns_ports.clone(),
            syscalls: true,
            ..context::Host::default()
        };
        self.out.context(RecordKind::Host, &host);
    }

    fn descriptors(&mut self, block: &Block<'_>) -> Result<(), CaptureError> {
        let state = &mut self.state;
        sections::descriptors(block, |tid, entry| {
            let what = match entry.what {
                FdKind::Inet { local, remote, protocol } => {
                    let socket = Socket {
                        v6: local.is_ipv6(),
                        protocol,
                        local: Some(local),
                        remote,
                        connect: state::Connect::Done,
                        ..Socket::default()
                    };
                    Fd::Socket(state.listed_socket(entry.inode, socket))
                }
                FdKind::File(path) => file(path),
                FdKind::Other => Fd::Other,
            };
            state.open(tid, entry.fd, what, false);
        })
    }

    /// The processes that were there before the first event.
    fn tell_processes(&mut self) {
        let mut all: Vec<context::Process> =
            self.state.leaders().map(|(tid, thread)| process(tid, thread)).collect();
        all.sort_by_key(|process| process.pid);
        for process in &all {
            self.out.context(RecordKind::Process, process);
        }
    }

    fn event(&mut self, event: &Event<'_>) {
        let meta = metadata::is_meta(event.kind);
        if !meta {
            self.out.time(event.at);
        }
        let at = if meta { self.out.now() } else { event.at };
        self.out.muted = event.state_only;
        if meta {
            self.meta(event, at);
            return;
        }
        let tid = event.tid;
        let stranger = tid > 0 && self.state.thread(tid).is_none();
        if stranger {
            let comm = NOBODY.to_owned();
            let thread = Thread { pid: tid, vtid: tid, comm, ..Thread::default() };
            self.state.add(tid, thread, None);
        }
        let enter = self.pair(event);
        let born = self.before(event, enter.as_ref());
        let who = self.who(event);
        self.call(event, at, who.clone(), enter.as_ref());
        self.after(event, &who, enter, born);
        // The last switch of a thread comes after its end, and nothing of it needs to be remembered.
        if stranger && !has_sides(event.kind) {
            self.state.remove(tid, &mut Vec::new());
        }
    }

    /// An event of the writer about containers or the cluster; no thread is behind it.
    fn meta(&mut self, event: &Event<'_>, at: u64) {
        let who = Who { cpu: Some(event.cpu.into()), ..Who::default() };
        self.call(event, at, who, None);
        let json = bytes::c_text(event.get(0).unwrap_or_default());
        match event.kind {
            // Newest writers leave containers to a plugin, which tells of them by name.
            metadata::ASYNC
                if event.get(1).map(bytes::c_text) == Some(b"container")
                    || event.get(1).map(bytes::c_text) == Some(b"container_added") =>
            {
                let json = bytes::c_text(event.get(2).unwrap_or_default());
                self.metadata.container_json(json, &mut self.out);
            }
            metadata::CONTAINER => {
                let name = bytes::c_text(event.get(2).unwrap_or_default());
                self.metadata.container_named(json, name, &mut self.out);
            }
            metadata::CONTAINER_JSON | metadata::CONTAINER_JSON_2 => {
                self.metadata.container_json(json, &mut self.out);
            }
            metadata::KUBERNETES => metadata::kubernetes_json(json, &mut self.out),
            _ => {}
        }
    }

    fn who(&self, event: &Event<'_>) -> Who {
        let thread = self.state.thread(event.tid);
        let task = thread.and_then(|thread| {
            Some(Task {
                pid: u32::try_from(thread.pid).ok()?,
                tid: u32::try_from(event.tid).ok()?,
                comm: thread.comm.clone(),
            })
        });
        let cgroup = thread.and_then(|thread| thread.cgroup);
        Who { task, cgroup, cpu: Some(event.cpu.into()), cookie: None }
    }

    /// Remembers an entry; for a return, gives the entry it belongs to.
    fn pair(&mut self, event: &Event<'_>) -> Option<Enter> {
        if !has_sides(event.kind) {
            return None;
        }
        let (state, kind) = (&mut self.state, event.kind);
        if event.is_exit() {
            return state
                .thread_mut(event.tid)?
                .enter
                .take()
                .filter(|enter| enter.kind == kind - 1);
        }
        let enter = network::enter(event);
        state.thread_mut(event.tid)?.enter = Some(enter);
        None
    }
}

/// Switches, signals and the like come between the two sides of a call.
fn has_sides(kind: u16) -> bool {
    !matches!(kind, 146..=149 | 152 | 196 | 228 | 232 | 234 | 244 | 290)
}

/// An open file.
fn file(path: &[u8]) -> Fd {
    Fd::File { path: String::from_utf8_lossy(first(path, PATH_MAX)).into(), text: Vec::new() }
}

/// At most `count` bytes of `text`.
fn first(text: &[u8], count: usize) -> &[u8] {
    text.get(..count).unwrap_or(text)
}

fn process(tid: i64, thread: &Thread) -> context::Process {
    context::Process {
        pid: u32::try_from(tid).unwrap_or_default(),
        ppid: u32::try_from(thread.ptid).ok(),
        comm: thread.comm.clone(),
        exe: (!thread.exe.is_empty()).then(|| thread.exe.clone()),
        cgroup: thread.cgroup,
        ..context::Process::default()
    }
}

/// The id we gave to the cgroup that a list of `subsystem=path` names; a container's path wins.
fn cgroup(
    list: &[u8],
    known: &mut HashMap<String, u64>,
    next: &mut u64,
    metadata: &mut Metadata,
    out: &mut Out,
) -> Option<u64> {
    let paths = || {
        let entries = list.split(|byte| *byte == 0);
        entries.filter_map(|entry| std::str::from_utf8(entry).ok()?.split_once('=')).map(|(_, p)| p)
    };
    let named = paths().find_map(|path| Some((path, Some(container(path)?))));
    let (path, container) =
        named.or_else(|| Some((paths().max_by_key(|path| path.len())?, None)))?;
    if let Some(id) = known.get(path) {
        return Some(*id);
    }
    if known.len() >= CGROUPS_MAX || path.len() > CGROUP_PATH_MAX {
        return None;
    }
    *next += 1;
    known.insert(path.to_owned(), *next);
    out.context(RecordKind::Cgroup, &context::Cgroup { id: *next, path: path.to_owned() });
    if let Some(id) = container {
        metadata.container(id, out);
    }
    Some(*next)
}

/// The container id in a cgroup path: 64 hexadecimal digits, perhaps between a runtime's name and
/// `.scope`.
fn container(path: &str) -> Option<&str> {
    path.rsplit(['/', ':']).find_map(|part| {
        let part = part.strip_suffix(".scope").unwrap_or(part);
        let id = part.rsplit_once('-').map_or(part, |(_, id)| id);
        (id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
    })
}
