//! What calls on processes, descriptors and files mean, before and after the event itself is told.

use bytes::{BufMut, BytesMut};
use tracer_common::bodies::data;

use super::bytes::c_text;
use super::events::Event;
use super::out::Who;
use super::state::{CHILD_IN_PIDNS, CLONE_FILES, CLONE_THREAD, Enter, Fd, Thread};
use super::{Engine, cgroup, file, process};
use crate::context;
use crate::record::RecordKind;
use crate::text;

const RESOLV_CONF: &str = "/etc/resolv.conf";
const RESOLV_CONF_MAX: usize = 64 * 1024;
/// Place of the arguments in the parameters of execve, all versions.
const ARGUMENTS: usize = 2;
const O_CLOEXEC: u64 = 0x1000;
const F_DUPFD: u64 = 1;
const F_DUPFD_CLOEXEC: u64 = 26;

/// What happened to the thread itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Born {
    /// A new program.
    Program,
    /// A new process, at its own side of the clone.
    Process,
}

/// Positions in the parameters of clone and execve, by version.
struct Positions {
    comm: Option<usize>,
    cgroups: Option<usize>,
    flags: usize,
}

fn clone_positions(kind: u16) -> Option<Positions> {
    Some(match kind {
        15 => Positions { comm: None, cgroups: None, flags: 8 },
        157 | 183 | 185 => Positions { comm: None, cgroups: None, flags: 13 },
        217 | 219 | 221 => Positions { comm: Some(13), cgroups: None, flags: 14 },
        223 | 225 | 227 | 335 => Positions { comm: Some(13), cgroups: Some(14), flags: 15 },
        _ => return None,
    })
}

fn exec_positions(kind: u16) -> Option<Positions> {
    Some(match kind {
        13 | 155 | 173 => Positions { comm: None, cgroups: None, flags: 0 },
        215 => Positions { comm: Some(13), cgroups: None, flags: 0 },
        231 | 283 | 289 | 293 | 331 => Positions { comm: Some(13), cgroups: Some(14), flags: 0 },
        _ => return None,
    })
}

/// The program's name out of its path.
fn base(exe: &[u8]) -> &[u8] {
    exe.rsplit(|byte| *byte == b'/').next().unwrap_or(exe)
}

impl Engine {
    /// What changes who the event's thread is: the event is told with the new facts.
    pub(super) fn before(&mut self, event: &Event<'_>, _enter: Option<&Enter>) -> Option<Born> {
        let result = event.i64(0)?;
        if let Some(at) = exec_positions(event.kind).filter(|_| result >= 0) {
            self.program(event, &at);
            return Some(Born::Program);
        }
        let at = clone_positions(event.kind)?;
        match result {
            0 => self.child(event, &at),
            1.. => {
                self.announce(event, &at, result);
                None
            }
            _ => None,
        }
    }

    fn program(&mut self, event: &Event<'_>, at: &Positions) {
        let cgroup = self.cgroup_at(event, at);
        let Some(thread) = self.state.thread_mut(event.tid) else { return };
        if let Some(pid) = event.i64(4) {
            thread.pid = pid;
        }
        name(thread, event, at);
        thread.cgroup = cgroup.or(thread.cgroup);
        thread.dns = None;
    }

    fn cgroup_at(&mut self, event: &Event<'_>, at: &Positions) -> Option<u64> {
        let list = event.get(at.cgroups?)?;
        cgroup(list, &mut self.cgroups, &mut self.next_cgroup, &mut self.metadata, &mut self.out)
    }

    /// The child's own side.
    fn child(&mut self, event: &Event<'_>, at: &Positions) -> Option<Born> {
        let tid = event.tid;
        let flags = event.u64(at.flags).unwrap_or_default();
        let (pid, ptid) = (event.i64(4).unwrap_or(tid), event.i64(5).unwrap_or_default());
        let parent = if flags & CLONE_THREAD != 0 { pid } else { ptid };
        let cgroup = self.cgroup_at(event, at);
        let inherited = self.state.thread(parent).and_then(|thread| thread.cgroup);
        let announced = self.state.thread(tid).is_some_and(|thread| thread.announced);
        if !announced {
            self.add_child(tid, parent, flags);
        }
        let thread = self.state.thread_mut(tid)?;
        thread.announced = false;
        (thread.pid, thread.ptid) = (pid, ptid);
        thread.vtid = event.i64(at.flags + 3).unwrap_or(tid);
        name(thread, event, at);
        thread.cgroup = cgroup.or(inherited);
        (tid == pid).then_some(Born::Process)
    }

    /// The parent's side: worth something only where both see the same ids.
    fn announce(&mut self, event: &Event<'_>, at: &Positions, child: i64) {
        let flags = event.u64(at.flags).unwrap_or_default();
        let vtid = event.i64(at.flags + 3);
        if flags & CHILD_IN_PIDNS != 0 || vtid.is_some_and(|vtid| vtid != event.tid) {
            return;
        }
        let Some(parent) = self.state.thread(event.tid).cloned() else { return };
        if parent.vtid != event.tid || self.state.thread(child).is_some_and(|t| !t.announced) {
            // A thread with this id lives: its own side came first, unless its end was lost.
            return;
        }
        self.add_child(child, event.tid, flags);
        if let Some(thread) = self.state.thread_mut(child) {
            thread.announced = true;
            thread.pid = if flags & CLONE_THREAD != 0 { parent.pid } else { child };
            thread.ptid = parent.pid;
            thread.vtid = child;
            thread.comm = parent.comm;
            thread.exe = parent.exe;
            thread.cgroup = parent.cgroup;
        }
    }

    fn add_child(&mut self, tid: i64, parent: i64, flags: u64) {
        let shared = flags & (CLONE_FILES | CLONE_THREAD) != 0;
        self.state.add(tid, Thread::default(), shared.then_some(parent));
        if !shared {
            self.state.copy_fds(tid, parent);
        }
    }

    /// What the event just told means.
    pub(super) fn after(
        &mut self,
        event: &Event<'_>,
        who: &Who,
        enter: Option<Enter>,
        born: Option<Born>,
    ) {
        if let Some(born) = born {
            self.tell_born(event, who, born);
        }
        if !event.is_exit() {
            match event.kind {
                16 | 186 => self.ended(event, who),
                4 | 50 | 80 | 254 => self.network_enter(event, who),
                _ => {}
            }
            return;
        }
        let enter = enter.unwrap_or_default();
        match event.kind {
            3 => self.file_opened(event, event.get(1).map(|n| file(c_text(n))), event.u64(2)),
            59 => self.file_opened(event, event.get(1).map(|n| file(c_text(n))), None),
            103 => {
                let what = enter.path.map(|path| Fd::File { path, text: Vec::new() });
                self.file_opened(event, what, None);
            }
            307 | 327 => {
                self.file_opened(event, event.get(2).map(|n| file(c_text(n))), event.u64(3));
            }
            61 | 393 => {
                for fd in [event.i64(1), event.i64(2)].into_iter().flatten() {
                    self.opened(event.tid, fd, Fd::Other, false);
                }
            }
            125 | 363 | 365 | 367 => {
                let old = event.i64(1).or(enter.fd);
                self.duplicated(event, old, false);
            }
            151 => {
                let command = event.u64(2).unwrap_or(enter.command);
                if matches!(command, F_DUPFD | F_DUPFD_CLOEXEC) {
                    let old = event.i64(1).or(enter.fd);
                    self.duplicated(event, old, command == F_DUPFD_CLOEXEC);
                }
            }
            _ => self.network_exit(event, who, &enter),
        }
    }

    fn tell_born(&mut self, event: &Event<'_>, who: &Who, born: Born) {
        let Some(thread) = self.state.thread(event.tid) else { return };
        let facts = process(event.tid, thread);
        if born == Born::Program {
            let exe = c_text(event.get(1).unwrap_or_default());
            let mut body = BytesMut::with_capacity(8 + exe.len());
            body.put_u32_ne(u32::try_from(exe.len()).unwrap_or_default());
            body.put_u32_ne(0);
            body.put_slice(exe);
            self.out.fact(RecordKind::Exec, event.at, who.clone(), None, body.freeze());
            if let Some(words) = event.get(ARGUMENTS).filter(|_| self.options.keep_payload) {
                let size = u32::try_from(words.len()).unwrap_or(u32::MAX);
                self.out.data(event.at, who.clone(), data::ARGUMENTS, words, size);
            }
            let mut closed = Vec::new();
            self.state.exec(event.tid, &mut closed);
            for cookie in closed {
                self.socket_ended(cookie, event.at, who);
            }
        }
        self.out.context(RecordKind::Process, &facts);
    }

    /// The thread is gone, and with the last one its descriptors.
    fn ended(&mut self, event: &Event<'_>, who: &Who) {
        let leader = self.state.thread(event.tid).is_some_and(|thread| thread.pid == event.tid);
        let mut closed = Vec::new();
        self.state.remove(event.tid, &mut closed);
        for cookie in closed {
            self.socket_ended(cookie, event.at, who);
        }
        if leader {
            let nothing = bytes::Bytes::new();
            self.out.fact(RecordKind::Exit, event.at, who.clone(), None, nothing);
        }
    }

    fn file_opened(&mut self, event: &Event<'_>, what: Option<Fd>, flags: Option<u64>) {
        let Some(fd) = event.i64(0).filter(|fd| *fd >= 0) else { return };
        let close_on_exec = flags.unwrap_or_default() & O_CLOEXEC != 0;
        self.opened(event.tid, fd, what.unwrap_or(Fd::Other), close_on_exec);
    }

    fn duplicated(&mut self, event: &Event<'_>, old: Option<i64>, close_on_exec: bool) {
        let Some(new) = event.i64(0).filter(|fd| *fd >= 0) else { return };
        let Some(old) = old.filter(|old| *old != new) else { return };
        let what = self.state.fd(event.tid, old).map(|descriptor| descriptor.copied().what);
        self.opened(event.tid, new, what.unwrap_or(Fd::Other), close_on_exec);
    }

    /// A descriptor is new; what it was before must have been closed unseen.
    pub(super) fn opened(&mut self, tid: i64, fd: i64, what: Fd, close_on_exec: bool) {
        if let Some(lost) = self.state.open(tid, fd, what, close_on_exec) {
            self.state.bury(lost);
            self.out.closed(lost);
        }
    }

    /// A read of a file: resolv.conf is kept as its reader got it. What the snap length cut is not
    /// the file's text, and nothing is said.
    pub(super) fn file_read(&mut self, tid: i64, fd: i64, data: &[u8], result: i64) {
        let Some(Fd::File { path, .. }) = self.state.fd(tid, fd).map(|d| &d.what) else { return };
        let whole = usize::try_from(result).is_ok_and(|size| size == data.len());
        if &**path != RESOLV_CONF || !whole {
            return;
        }
        let Some(text) = self.state.more_text(tid, fd, data, RESOLV_CONF_MAX) else { return };
        let text = String::from_utf8_lossy(text).into_owned();
        let Some(thread) = self.state.thread(tid) else { return };
        let conf = context::ResolvConf {
            cgroup: thread.cgroup,
            pid: u32::try_from(thread.pid).ok(),
            path: RESOLV_CONF.to_owned(),
            text: Some(text),
            ..context::ResolvConf::default()
        };
        self.out.context(RecordKind::ResolvConf, &conf);
    }
}

/// Names of the program, as far as this version of the event tells them.
fn name(thread: &mut Thread, event: &Event<'_>, at: &Positions) {
    let exe = event.get(1).map(c_text);
    if let Some(exe) = exe {
        thread.exe = text::escape(super::first(exe, super::EXE_MAX));
    }
    let comm = at.comm.and_then(|index| event.get(index)).map(c_text).or(exe.map(base));
    if let Some(comm) = comm {
        thread.comm = text::escape(super::first(comm, super::COMM_MAX));
    }
}
