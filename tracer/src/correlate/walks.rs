//! For tests: what each resolver library does to resolve a name, as measured, told as events, with
//! what it then returns. Only what getaddrinfo does for both address types.

use crate::event::Call;
use crate::record::Task;

use super::testing::*;

const US: u64 = 1_000;
const MS: u64 = 1_000_000;
const S: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Library {
    Glibc,
    Musl,
    Go,
    CAres,
}

impl Library {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Glibc => "glibc",
            Self::Musl => "musl",
            Self::Go => "go",
            Self::CAres => "c-ares",
        }
    }
}

/// What the server does with the query for one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    Addr,
    NoData,
    Nx,
    Servfail,
    Refused,
    Silent,
}

use Server::{Addr, NoData, Nx, Refused, Servfail, Silent};

/// What it does with both queries of a candidate, where the libraries' reaction was measured.
pub(crate) const PAIRS: [[Server; 2]; 11] = [
    [Nx, Nx],
    [Addr, NoData],
    [Addr, Nx],
    [NoData, Addr],
    [Addr, Addr],
    [NoData, NoData],
    [Silent, Silent],
    [Servfail, Servfail],
    [Refused, Refused],
    [Addr, Silent],
    [Addr, Servfail],
];

/// A lookup to play.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) library: Library,
    pub(crate) typed: String,
    pub(crate) pid: u32,
    pub(crate) tid: u32,
    /// What the server does with each candidate; the last also with all further ones.
    pub(crate) script: Vec<[Server; 2]>,
    /// First query.
    pub(crate) start: u64,
    /// `start` counts from the end of the plan before, in the same thread.
    pub(crate) follows: bool,
    /// Time of an answer.
    pub(crate) latency: u64,
    /// Sockets, ports and ids come from here: plans that play together keep apart.
    pub(crate) base: u64,
    /// c-ares: time-out of its first try.
    pub(crate) first_wait: u64,
}

/// What a lookup was and what its library returned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Told {
    pub(crate) pid: u32,
    /// One name alone does not tell.
    pub(crate) typed: Option<String>,
    pub(crate) found: bool,
    /// Names, and how many datagrams went out for each.
    pub(crate) attempts: Vec<(String, u64)>,
    /// First query to the last answer or to giving up.
    pub(crate) duration: u64,
}

/// What a candidate comes to in a library.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    Found,
    Next,
    /// The name as typed, without the suffixes between.
    AsTyped,
    Fail,
}

/// Plays a plan.
pub(crate) struct Player<'a> {
    plan: &'a Plan,
    now: u64,
    sockets: u64,
    ids: u16,
    /// c-ares keeps it.
    kept: Option<Socket>,
    event_thread: bool,
    ended: u64,
    pub(crate) steps: Vec<Step>,
    told: Told,
}

fn says(server: Server, qtype: &str) -> Option<Says> {
    Some(match server {
        Addr if qtype == "A" => Says::Addr("192.0.2.1"),
        Addr => Says::Addr("2001:db8::1"),
        NoData => Says::NoData,
        Nx => Says::Nx,
        Servfail => Says::Rcode(2),
        Refused => Says::Rcode(5),
        Silent => return None,
    })
}

const TYPES: [&str; 2] = ["A", "AAAA"];

impl<'a> Player<'a> {
    /// Events of `plan` and what must be seen.
    pub(crate) fn play(plan: &'a Plan, search: &str, ndots: usize) -> (Vec<Step>, Told) {
        let told =
            Told { pid: plan.pid, typed: None, found: false, attempts: Vec::new(), duration: 0 };
        let mut player = Self {
            plan,
            now: plan.start,
            sockets: 0,
            ids: 0,
            kept: None,
            event_thread: false,
            ended: 0,
            steps: Vec::new(),
            told,
        };
        player.walk(search, ndots);
        if player.told.attempts.len() > 1 {
            player.told.typed = Some(plan.typed.clone());
        }
        player.told.duration = player.ended - player.steps_began();
        (player.steps, player.told)
    }

    fn steps_began(&self) -> u64 {
        let dns = |s: &&Step| matches!(s.body, crate::event::Body::Dns(_));
        self.steps.iter().filter(dns).map(|s| s.at).min().unwrap()
    }

    fn walk(&mut self, search: &str, ndots: usize) {
        let typed = &self.plan.typed;
        let suffixed = search.split(' ').map(|suffix| format!("{typed}.{suffix}"));
        let mut names: Vec<String> = suffixed.collect();
        if typed.matches('.').count() < ndots {
            names.push(typed.clone());
        } else if self.plan.library == Library::Musl {
            names = vec![typed.clone()];
        } else {
            names.insert(0, typed.clone());
        }
        let mut skip = false;
        for (index, name) in names.iter().enumerate() {
            if skip && name != typed {
                continue;
            }
            let script = &self.plan.script;
            let does = script.get(index).or(script.last()).copied().unwrap();
            self.told.attempts.push((name.clone(), 0));
            let then = match self.plan.library {
                Library::Glibc => self.glibc(name, does),
                Library::Musl => self.musl(name, does),
                Library::Go => self.go(name, does),
                Library::CAres => self.c_ares(name, does),
            };
            match then {
                Then::Found => return self.told.found = true,
                Then::Fail => return,
                Then::AsTyped if index > 0 => skip = true,
                Then::AsTyped | Then::Next => {}
            }
            self.now += 30 * US;
        }
    }

    fn socket(&mut self) -> Socket {
        self.sockets += 1;
        let task = Task { pid: self.plan.pid, tid: self.plan.tid, comm: "app".into() };
        let library = self.plan.library;
        let client = Client {
            task: Some(task),
            edns: matches!(library, Library::Go | Library::CAres),
            connects: library != Library::Musl,
            ..curl()
        };
        let cookie = self.plan.base + self.sockets;
        Socket { client, cookie, port: cookie as u16 }
    }

    fn id(&mut self) -> u16 {
        self.ids += 1;
        (self.plan.base as u16).wrapping_mul(31).wrapping_add(self.ids)
    }

    fn ask(&mut self, socket: &Socket, at: u64, name: &str, qtype: &str, id: u16) {
        self.steps.push(socket.ask(at, name, qtype, id));
        self.told.attempts.last_mut().unwrap().1 += 1;
    }

    /// The answer, if there is one, `latency` after `at`; when it came.
    fn hear(
        &mut self,
        socket: &Socket,
        at: u64,
        name: &str,
        (qtype, id): (&str, u16),
        does: Server,
    ) -> Option<u64> {
        let at = at + self.plan.latency;
        self.steps.push(socket.told(at, name, qtype, id, says(does, qtype)?));
        self.ended = at;
        Some(at)
    }

    /// Both queries and their answers.
    fn both(&mut self, socket: &Socket, name: &str, ids: [u16; 2], does: [Server; 2]) {
        let at = self.now;
        for (i, qtype) in TYPES.into_iter().enumerate() {
            self.ask(socket, at + i as u64 * 5 * US, name, qtype, ids[i]);
        }
        for (i, qtype) in TYPES.into_iter().enumerate() {
            let at = at + i as u64 * 5 * US;
            if let Some(at) = self.hear(socket, at, name, (qtype, ids[i]), does[i]) {
                self.now = self.now.max(at + 10 * US);
            }
        }
    }

    fn open(&mut self) -> Socket {
        let socket = self.socket();
        self.steps.push(socket.open(self.now));
        self.now += 10 * US;
        socket
    }

    fn close(&mut self, socket: &Socket) {
        self.now += 10 * US;
        self.steps.push(socket.close(self.now));
    }

    fn glibc(&mut self, name: &str, does: [Server; 2]) -> Then {
        let ids = [self.id(), self.id()];
        let socket = self.open();
        self.steps.push(socket.sends_both(self.now + 6 * US, 2));
        let asked = self.now;
        self.both(&socket, name, ids, does);
        match does {
            [Silent, Silent] => {
                self.now = asked + 5 * S;
                self.both(&socket, name, ids, does);
                self.now = asked + 10 * S;
                self.ended = self.now + 10 * US;
                self.close(&socket);
                Then::AsTyped
            }
            [Addr, Silent] => {
                // One after the other from now on, on the same socket, then on further ones.
                self.now = asked + 5 * S;
                self.both(&socket, name, ids, does);
                self.now = asked + 10 * S;
                self.close(&socket);
                let socket = self.open();
                self.both(&socket, name, ids, does);
                self.now = asked + 15 * S;
                self.ended = self.now + 10 * US;
                self.close(&socket);
                Then::Found
            }
            [Servfail | Refused, _] => {
                self.close(&socket);
                let socket = self.open();
                self.both(&socket, name, ids, does);
                self.close(&socket);
                if does[0] == Servfail { Then::Next } else { Then::AsTyped }
            }
            _ => {
                self.close(&socket);
                if does.contains(&Addr) { Then::Found } else { Then::Next }
            }
        }
    }

    fn musl(&mut self, name: &str, does: [Server; 2]) -> Then {
        let ids = [self.id(), self.id()];
        let socket = self.open();
        let asked = self.now;
        let good = |d: Server| matches!(d, Addr | NoData | Nx);
        let resends = |player: &mut Self, all: bool| {
            let at = player.now;
            let mut waits = at;
            for (i, qtype) in TYPES.into_iter().enumerate() {
                if !all && good(does[i]) {
                    continue;
                }
                player.ask(&socket, at + i as u64 * 5 * US, name, qtype, ids[i]);
            }
            let failing = does.iter().filter(|d| **d == Servfail).count() as u64;
            for (i, qtype) in TYPES.into_iter().enumerate() {
                if !all && good(does[i]) {
                    continue;
                }
                let mut at = at + i as u64 * 5 * US;
                let again = if does[i] == Servfail { 4 / failing } else { 0 };
                for _ in 0..again {
                    at = player.hear(&socket, at, name, (qtype, ids[i]), does[i]).unwrap();
                    at += 7 * US;
                    player.ask(&socket, at, name, qtype, ids[i]);
                }
                let came = player.hear(&socket, at, name, (qtype, ids[i]), does[i]);
                waits = waits.max(came.unwrap_or(at));
            }
            player.now = waits + 10 * US;
        };
        resends(self, true);
        if !does.into_iter().all(good) {
            self.now = asked + 2_500 * MS;
            resends(self, false);
            self.now = asked + 5 * S;
            self.ended = self.now + 10 * US; // whatever it was told: errors are no answers to it
            self.close(&socket);
            return Then::Fail;
        }
        self.close(&socket);
        match does {
            _ if does.contains(&Nx) => Then::Next,
            [NoData, NoData] => Then::Fail,
            _ => Then::Found,
        }
    }

    fn go(&mut self, name: &str, does: [Server; 2]) -> Then {
        let began = self.now;
        let (mut over, mut ended) = (began, 0);
        for (i, qtype) in TYPES.into_iter().enumerate() {
            self.now = began + (i as u64 * 20 + self.plan.base % 7) * US;
            let tries = if matches!(does[i], Addr | NoData | Nx) { 1 } else { 2 };
            for _ in 0..tries {
                let (socket, id) = (self.open(), self.id());
                let at = self.now;
                self.ask(&socket, at, name, qtype, id);
                self.now = match self.hear(&socket, at, name, (qtype, id), does[i]) {
                    Some(came) => came + 10 * US,
                    None => at + 5 * S,
                };
                ended = ended.max(if does[i] == Silent { self.now + 10 * US } else { self.ended });
                self.close(&socket);
            }
            over = over.max(self.now);
        }
        (self.now, self.ended) = (over, ended);
        if does.contains(&Addr) { Then::Found } else { Then::Next }
    }

    /// What wakes its event thread, which then asks on.
    fn woken(&mut self, socket: &mut Socket) {
        if let Some(task) = &mut socket.client.task {
            task.tid = self.plan.tid + 1;
        }
        self.event_thread = true;
        self.now += 5 * US;
        self.steps.push(socket.fails(self.now, Call::Recvfrom, 11));
        self.now += 5 * US;
    }

    fn c_ares(&mut self, name: &str, does: [Server; 2]) -> Then {
        let ids = [self.id(), self.id()];
        let mut socket = match self.kept.take() {
            Some(socket) => socket,
            None => self.open(),
        };
        let asked = self.now;
        self.both(&socket, name, ids, does);
        let mut then = match does {
            _ if does.contains(&Addr) => Then::Found,
            [Silent | Servfail | Refused, _] => Then::Fail,
            _ => Then::Next,
        };
        if let [Servfail | Refused, _] = does {
            for _ in 0..2 {
                self.woken(&mut socket);
                self.both(&socket, name, ids, does);
            }
        }
        if does[1] == Silent {
            let mut wait = self.plan.first_wait;
            self.now = asked + wait;
            self.ended = self.now + 10 * US;
            for _ in 0..2 {
                if does[0] == Addr {
                    break;
                }
                let old = socket;
                socket = self.open();
                self.woken(&mut socket);
                self.both(&socket, name, ids, does);
                self.close(&old);
                wait = wait * 3 / 2;
                self.now += wait;
                self.ended = self.now + 10 * US;
            }
        } else if then == Then::Next {
            self.woken(&mut socket);
        }
        if then == Then::Next {
            self.kept = Some(socket);
        } else {
            self.close(&socket);
            then = if then == Then::Found { then } else { Then::Fail };
        }
        then
    }
}
