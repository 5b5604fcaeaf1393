//! Threads, their descriptors and sockets, as far as the events so far tell. Turns nothing into
//! records.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt};

use super::bytes::Ends;

const THREADS_MAX: usize = 262_144;
/// Descriptors of one table, and of all.
const FDS_MAX: usize = 65_536;
const ALL_FDS_MAX: usize = 262_144;
/// Bytes of resolv.conf files that are being read, of all descriptors.
const TEXTS_MAX: usize = 16 << 20;

/// clone(2): the descriptor table is shared.
pub(super) const CLONE_FILES: u64 = 1;
/// clone(2): a thread of the same process.
pub(super) const CLONE_THREAD: u64 = 1 << 13;
/// The child lives in a pid namespace of its own.
pub(super) const CHILD_IN_PIDNS: u64 = 1 << 29;

/// A call under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Enter {
    pub(super) kind: u16,
    pub(super) at: u64,
    pub(super) fd: Option<i64>,
    pub(super) size: u64,
    pub(super) ends: Option<Ends>,
    /// openat of old: the name stands in the entry.
    pub(super) path: Option<Arc<str>>,
    /// sendmmsg: what waits for its questions.
    pub(super) hold: Option<u64>,
    /// socket: its arguments.
    pub(super) socket: Option<(u64, u64, u64)>,
    /// fcntl: the command.
    pub(super) command: u64,
    /// Kernel's number of a call that has no event type of its own.
    pub(super) native: Option<u64>,
}

/// A thread.
#[derive(Clone, Debug, Default)]
pub(super) struct Thread {
    pub(super) pid: i64,
    pub(super) ptid: i64,
    pub(super) vtid: i64,
    pub(super) comm: String,
    pub(super) exe: String,
    pub(super) cgroup: Option<u64>,
    pub(super) table: u64,
    pub(super) enter: Option<Enter>,
    /// Made by its parent's side of clone; its own side is still to come.
    pub(super) announced: bool,
    /// DNS socket it polled for writing, or connected, last.
    pub(super) dns: Option<u64>,
}

/// What a descriptor is.
#[derive(Clone, Debug)]
pub(super) enum Fd {
    /// Its cookie.
    Socket(u64),
    /// Path; what was read of a resolv.conf so far.
    File {
        path: Arc<str>,
        text: Vec<u8>,
    },
    Other,
}

#[derive(Clone, Debug)]
pub(super) struct Descriptor {
    pub(super) what: Fd,
    pub(super) close_on_exec: bool,
}

/// How far a TCP connect got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Connect {
    #[default]
    None,
    Begun,
    Done,
}

/// An IPv4 or IPv6 socket, from its making until the last descriptor of it is closed.
#[derive(Clone, Debug, Default)]
pub(super) struct Socket {
    pub(super) v6: bool,
    /// `IPPROTO_*`, where known.
    pub(super) protocol: Option<u8>,
    pub(super) local: Option<SocketAddr>,
    pub(super) remote: Option<SocketAddr>,
    pub(super) connect: Connect,
    /// A record named it: its end is worth one too.
    pub(super) told: bool,
    /// What came in on it may not have been written down: its end says nothing about answers.
    pub(super) unheard: bool,
    /// Descriptors that hold it.
    pub(super) refs: u32,
}

#[derive(Debug, Default)]
struct Table {
    refs: u32,
    fds: BTreeMap<i64, Descriptor>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct State {
    threads: HashMap<i64, Thread>,
    tables: HashMap<u64, Table>,
    sockets: HashMap<u64, Socket>,
    /// While descriptor lists are read: sockets that several processes hold.
    inodes: HashMap<u64, u64>,
    next_table: u64,
    next_cookie: u64,
    /// Descriptors in all tables, and bytes of text in them.
    descriptors: usize,
    texts: usize,
    /// Threads and descriptors for which there was no room.
    pub(super) refused: u64,
}

impl Descriptor {
    /// For another table; what is being read stays with the first.
    pub(super) fn copied(&self) -> Self {
        let what = match &self.what {
            Fd::File { path, .. } => Fd::File { path: Arc::clone(path), text: Vec::new() },
            other => other.clone(),
        };
        Self { what, close_on_exec: self.close_on_exec }
    }
}

impl State {
    /// Another section begins: everything but the numbering is void.
    pub(super) fn clear(&mut self) {
        self.threads.clear();
        self.tables.clear();
        self.sockets.clear();
        self.inodes.clear();
        (self.descriptors, self.texts) = (0, 0);
    }

    /// Events begin.
    pub(super) fn lists_end(&mut self) {
        self.inodes = HashMap::new();
    }

    pub(super) fn thread(&self, tid: i64) -> Option<&Thread> {
        self.threads.get(&tid)
    }

    pub(super) fn thread_mut(&mut self, tid: i64) -> Option<&mut Thread> {
        self.threads.get_mut(&tid)
    }

    /// Processes: threads that lead their group.
    pub(super) fn leaders(&self) -> impl Iterator<Item = (i64, &Thread)> {
        self.threads.iter().filter(|(tid, thread)| **tid == thread.pid).map(|(tid, t)| (*tid, t))
    }

    pub(super) fn socket(&self, cookie: u64) -> Option<&Socket> {
        self.sockets.get(&cookie)
    }

    pub(super) fn socket_mut(&mut self, cookie: u64) -> Option<&mut Socket> {
        self.sockets.get_mut(&cookie)
    }

    /// A thread that exists; sharing the table of `with`, or with one of its own.
    pub(super) fn add(&mut self, tid: i64, mut thread: Thread, with: Option<i64>) {
        let mut closed = Vec::new();
        self.remove(tid, &mut closed);
        for cookie in closed {
            self.bury(cookie);
        }
        if self.threads.len() >= THREADS_MAX {
            self.refused += 1;
            return;
        }
        let shared = with.and_then(|with| self.threads.get(&with)).map(|other| other.table);
        thread.table = match shared.filter(|id| self.tables.contains_key(id)) {
            Some(id) => id,
            None => {
                self.next_table += 1;
                self.tables.insert(self.next_table, Table::default());
                self.next_table
            }
        };
        if let Some(table) = self.tables.get_mut(&thread.table) {
            table.refs += 1;
        }
        self.threads.insert(tid, thread);
    }

    /// `tid` gets a copy of the descriptors of `from`.
    pub(super) fn copy_fds(&mut self, tid: i64, from: i64) {
        let Some(fds) = self.copies(from) else { return };
        if self.table(tid).is_none() {
            return;
        }
        for descriptor in fds.values() {
            self.refer(descriptor);
        }
        if let Some(table) = self.table_mut(tid) {
            table.fds = fds;
        }
    }

    /// The descriptors of `tid` for another table; none where there is no room for as many.
    fn copies(&mut self, tid: i64) -> Option<BTreeMap<i64, Descriptor>> {
        let fds = &self.table(tid)?.fds;
        if self.descriptors + fds.len() > ALL_FDS_MAX {
            self.refused += fds.len() as u64;
            return None;
        }
        Some(fds.iter().map(|(fd, descriptor)| (*fd, descriptor.copied())).collect())
    }

    /// A new program: its table is its own, and some descriptors are closed.
    pub(super) fn exec(&mut self, tid: i64, closed: &mut Vec<u64>) {
        if self.table(tid).is_some_and(|table| table.refs > 1) {
            let Some(thread) = self.threads.get(&tid).cloned() else { return };
            let fds = self.copies(tid).unwrap_or_default();
            for descriptor in fds.values() {
                self.refer(descriptor);
            }
            self.add(tid, thread, None);
            if let Some(table) = self.table_mut(tid) {
                table.fds = fds;
            }
        }
        let doomed: Vec<i64> = self
            .table(tid)
            .into_iter()
            .flat_map(|table| &table.fds)
            .filter(|(_, descriptor)| descriptor.close_on_exec)
            .map(|(fd, _)| *fd)
            .collect();
        for fd in doomed {
            closed.extend(self.close(tid, fd));
        }
    }

    /// The thread is gone; appends sockets that went with it.
    pub(super) fn remove(&mut self, tid: i64, closed: &mut Vec<u64>) {
        let Some(thread) = self.threads.remove(&tid) else { return };
        let Some(table) = self.tables.get_mut(&thread.table) else { return };
        table.refs -= 1;
        if table.refs == 0
            && let Some(table) = self.tables.remove(&thread.table)
        {
            closed.extend(table.fds.into_values().filter_map(|d| self.release(&d)));
        }
    }

    fn table(&self, tid: i64) -> Option<&Table> {
        self.tables.get(&self.threads.get(&tid)?.table)
    }

    fn table_mut(&mut self, tid: i64) -> Option<&mut Table> {
        self.tables.get_mut(&self.threads.get(&tid)?.table)
    }

    fn refer(&mut self, descriptor: &Descriptor) {
        self.descriptors += 1;
        if let Fd::Socket(cookie) = descriptor.what
            && let Some(socket) = self.sockets.get_mut(&cookie)
        {
            socket.refs += 1;
        }
    }

    /// The cookie, if that was the last descriptor of the socket; take it out with [`Self::bury`].
    fn release(&mut self, descriptor: &Descriptor) -> Option<u64> {
        self.descriptors = self.descriptors.saturating_sub(1);
        if let Fd::File { text, .. } = &descriptor.what {
            self.texts = self.texts.saturating_sub(text.len());
        }
        let Fd::Socket(cookie) = descriptor.what else { return None };
        let socket = self.sockets.get_mut(&cookie)?;
        socket.refs = socket.refs.saturating_sub(1);
        (socket.refs == 0).then_some(cookie)
    }

    /// Takes out a socket that nobody holds.
    pub(super) fn bury(&mut self, cookie: u64) -> Option<Socket> {
        if self.sockets.get(&cookie).is_some_and(|socket| socket.refs == 0) {
            return self.sockets.remove(&cookie);
        }
        None
    }

    pub(super) fn fd(&self, tid: i64, fd: i64) -> Option<&Descriptor> {
        self.table(tid)?.fds.get(&fd)
    }

    /// The socket behind a descriptor.
    pub(super) fn socket_of(&self, tid: i64, fd: i64) -> Option<u64> {
        match self.fd(tid, fd)?.what {
            Fd::Socket(cookie) => Some(cookie),
            _ => None,
        }
    }

    /// The only socket of the process that `fits`.
    pub(super) fn only_socket(&self, tid: i64, fits: impl Fn(&Socket) -> bool) -> Option<u64> {
        let mut found = self.table(tid)?.fds.values().filter_map(|d| match d.what {
            Fd::Socket(cookie) => self.sockets.get(&cookie).filter(|s| fits(s)).map(|_| cookie),
            _ => None,
        });
        let first = found.next()?;
        found.all(|other| other == first).then_some(first)
    }

    /// Marks the sockets of the process that `fits`, as [`Socket::unheard`]; whether there are any.
    pub(super) fn not_heard(&mut self, tid: i64, fits: impl Fn(&Socket) -> bool) -> bool {
        let Some(id) = self.threads.get(&tid).map(|thread| thread.table) else { return false };
        let Some(table) = self.tables.get(&id) else { return false };
        let mut any = false;
        for descriptor in table.fds.values() {
            if let Fd::Socket(cookie) = descriptor.what
                && let Some(socket) = self.sockets.get_mut(&cookie).filter(|socket| fits(socket))
            {
                (socket.unheard, any) = (true, true);
            }
        }
        any
    }

    /// A new descriptor; returns the socket that lost its last one, if the old was never closed.
    pub(super) fn open(&mut self, tid: i64, fd: i64, what: Fd, close_on_exec: bool) -> Option<u64> {
        let lost = self.close(tid, fd);
        let descriptor = Descriptor { what, close_on_exec };
        self.refer(&descriptor);
        let room = self.descriptors <= ALL_FDS_MAX;
        match self.table_mut(tid).filter(|table| room && table.fds.len() < FDS_MAX) {
            Some(table) => {
                table.fds.insert(fd, descriptor);
            }
            None => {
                self.refused += 1;
                if let Some(cookie) = self.release(&descriptor) {
                    self.bury(cookie);
                }
            }
        }
        lost
    }

    /// The descriptor is gone; the cookie, if a socket lost its last one.
    pub(super) fn close(&mut self, tid: i64, fd: i64) -> Option<u64> {
        let old = self.table_mut(tid)?.fds.remove(&fd)?;
        self.release(&old)
    }

    /// More of a file that is being read; what is there of it now, unless that is too much.
    pub(super) fn more_text(
        &mut self,
        tid: i64,
        fd: i64,
        more: &[u8],
        most: usize,
    ) -> Option<&[u8]> {
        let room = self.texts + more.len() <= TEXTS_MAX;
        let Fd::File { text, .. } = &mut self.table_mut(tid)?.fds.get_mut(&fd)?.what else {
            return None;
        };
        if !room || text.len() + more.len() > most {
            return None;
        }
        text.extend_from_slice(more);
        self.texts += more.len();
        match &self.fd(tid, fd)?.what {
            Fd::File { text, .. } => Some(text),
            _ => None,
        }
    }

    /// A socket without descriptors yet.
    pub(super) fn new_socket(&mut self, socket: Socket) -> u64 {
        self.next_cookie += 1;
        self.sockets.insert(self.next_cookie, socket);
        self.next_cookie
    }

    /// A socket of the writer's list; the same inode is the same socket.
    pub(super) fn listed_socket(&mut self, inode: u64, socket: Socket) -> u64 {
        if inode == 0 {
            return self.new_socket(socket);
        }
        if let Some(cookie) = self.inodes.get(&inode) {
            return *cookie;
        }
        let cookie = self.new_socket(socket);
        if self.inodes.len() < ALL_FDS_MAX {
            self.inodes.insert(inode, cookie);
        }
        cookie
    }
}
