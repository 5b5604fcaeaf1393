//! Names without the API, found in the background: kubelet's and the runtime's folders, the
//! runtime's socket, kubelet's list, /proc as last resort. Nobody waits for it; a source that hangs
//! costs names for a while, nothing else.

use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::cgroups::{self, Directory, Mount};
use super::node_files::{NodeFiles, Others};
use super::{bundles, cri, guesses, kubelet, processes, runtime_sockets};
use crate::cgroup_path::{self, PathFacts};
use crate::context::{Origin, Pod};

/// Questions that may wait; more are dropped, and everything is looked at again.
const QUEUE: usize = 1024;
/// Containers without a name that are asked about at a time.
const WANTED_MAX: usize = 4096;
/// Pods remembered as told.
const TOLD_MAX: usize = 8192;
/// Pauses between looks for one container's name; after the last it is given up.
const PAUSES_MS: [u64; 9] = [20, 40, 80, 160, 300, 600, 1200, 2400, 4800];
/// Least time between two questions to the runtime, and after it failed.
const RUNTIME_PAUSE: Duration = Duration::from_millis(40);
const RUNTIME_FAILED: Duration = Duration::from_secs(5);
/// Least time between two questions to kubelet, and after it failed.
const KUBELET_PAUSE: Duration = Duration::from_secs(1);
const KUBELET_FAILED: Duration = Duration::from_secs(30);
/// A guess is told when better sources had this time and said nothing.
const GUESS_AFTER: Duration = Duration::from_millis(300);

/// What the agent came across.
enum Seen {
    /// A cgroup by its path.
    Path(String),
    /// A process that runs a new program.
    Process(u32),
    /// A traced cgroup: with all that is below it.
    Tree(Directory),
    /// The trace ends: guesses wait no longer.
    End(Sender<()>),
}

/// How to look for names.
pub(super) struct How {
    /// The node's root file system.
    pub(super) host_root: PathBuf,
    /// The cgroup tree.
    pub(super) mount: Mount,
    /// Kubelet's folders.
    pub(super) node_files: NodeFiles,
    /// The host's name.
    pub(super) hostname: String,
    /// There is no API: kubelet is asked too.
    pub(super) kubelet: bool,
}

/// The agent's side of the background work.
pub(super) struct Names {
    seen: mpsc::Sender<Seen>,
    dropped: Arc<AtomicBool>,
    found: Receiver<Pod>,
    first: Receiver<()>,
    wake: Arc<EventFd>,
}

impl Names {
    /// Starts the thread; it asks the runtime for all it has at once.
    pub(super) fn start(how: How) -> anyhow::Result<Self> {
        let (seen, questions) = mpsc::channel(QUEUE);
        let (tell, found) = channel();
        let (answered, first) = channel();
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let dropped = Arc::new(AtomicBool::new(false));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let reporter = Reporter {
            tell,
            wake: Arc::clone(&wake),
            others: how.node_files.others(),
            told: HashMap::new(),
        };
        let work = Work {
            reporter,
            dropped: Arc::clone(&dropped),
            wanted: HashMap::new(),
            named: HashSet::new(),
            addressed: HashSet::new(),
            bundles: bundles::places(&how.host_root),
            runtime: Asking::default(),
            kubelet: Asking { off: !how.kubelet, ..Asking::default() },
            how,
        };
        std::thread::Builder::new()
            .name("names".into())
            .spawn(move || runtime.block_on(work.run(questions, answered)))
            .context("cannot start a thread")?;
        Ok(Self { seen, dropped, found, first, wake })
    }

    /// Waits until the runtime has answered, failed or is known to be missing, but not longer.
    pub(super) fn wait_first(&self, within: Duration) {
        let _ = self.first.recv_timeout(within);
    }

    /// A cgroup was made.
    pub(super) fn cgroup(&self, path: String) {
        self.see(Seen::Path(path));
    }

    /// A process of a target runs a new program.
    pub(super) fn process(&self, pid: u32) {
        self.see(Seen::Process(pid));
    }

    /// A cgroup is traced.
    pub(super) fn tree(&self, directory: Directory) {
        self.see(Seen::Tree(directory));
    }

    /// Has the guesses told that still waited for something better; takes no longer than `within`.
    pub(super) fn end(&self, within: Duration) {
        let (done, wait) = channel();
        self.see(Seen::End(done));
        let _ = wait.recv_timeout(within);
    }

    fn see(&self, seen: Seen) {
        if self.seen.try_send(seen).is_err() {
            self.dropped.store(true, Ordering::Relaxed);
        }
    }

    /// Readable when there are names.
    pub(super) fn wake(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// What was found since the last call.
    pub(super) fn found(&self) -> Vec<Pod> {
        let _ = self.wake.read();
        self.found.try_iter().collect()
    }
}

struct Reporter {
    tell: Sender<Pod>,
    wake: Arc<EventFd>,
    others: Others,
    told: HashMap<(Origin, String), Pod>,
}

impl Reporter {
    /// Tells what was not told yet.
    fn tell(&mut self, mut pod: Pod) {
        let key = (pod.origin, pod.uid.clone());
        if let Some(told) = self.told.get(&key) {
            if pod.ips.is_empty() && !told.ips.is_empty() {
                pod.ips.clone_from(&told.ips); // they are asked for once
                pod.host_network = told.host_network;
            }
            if *told == pod {
                return;
            }
        }
        if self.told.len() >= TOLD_MAX {
            self.told.clear();
        }
        self.told.insert(key, pod.clone());
        // A guess names events, but nobody traces a pod by a guess.
        if pod.origin > Origin::Proc {
            let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
            let known = others.get(&pod.uid).is_some_and(|known| known.origin > pod.origin);
            if !known && (others.len() < TOLD_MAX || others.contains_key(&pod.uid)) {
                others.insert(pod.uid.clone(), pod.clone());
            }
        }
        if self.tell.send(pod).is_ok() {
            let _ = self.wake.write(1);
        }
    }
}

/// A pod, and perhaps container, without a name.
struct Want {
    facts: PathFacts,
    since: Instant,
    next: Instant,
    tries: usize,
    guess: Option<Pod>,
}

/// One source that is asked over a socket: never twice at the same time.
#[derive(Default)]
struct Asking {
    off: bool,
    busy: bool,
    due: bool,
    not_before: Option<Instant>,
    // Said once that something was left out.
    told: bool,
}

impl Asking {
    fn ready(&self, now: Instant) -> bool {
        !self.off && self.due && !self.busy && self.not_before.is_none_or(|at| at <= now)
    }

    fn done(&mut self, pause: Duration, now: Instant) {
        self.busy = false;
        self.not_before = Some(now + pause);
    }

    /// `who` told `count` things that Kubernetes would not have accepted, or that are too many.
    fn left_out(&mut self, who: &str, count: u64) {
        if count > 0 && !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                "{who} tells {count} pods or containers that are none, or too many; they stay unnamed"
            );
        }
    }
}

/// What a socket answered.
enum Answer {
    Runtime(anyhow::Result<cri::Answer>),
    Kubelet(anyhow::Result<kubelet::Pods>),
}

struct Work {
    how: How,
    reporter: Reporter,
    dropped: Arc<AtomicBool>,
    wanted: HashMap<(Option<String>, Option<String>), Want>,
    // Pods whose addresses the runtime was asked for.
    addressed: HashSet<String>,
    // Containers and sandboxes with a name or known to have none, and pods with a name.
    named: HashSet<String>,
    bundles: Vec<(PathBuf, &'static str)>,
    runtime: Asking,
    kubelet: Asking,
}

impl Work {
    async fn run(mut self, mut questions: mpsc::Receiver<Seen>, first: Sender<()>) {
        let (answered, mut answers) = mpsc::channel(4);
        for pod in self.how.node_files.all() {
            self.note(&pod); // told by the agent already
        }
        self.runtime.due = true;
        self.kubelet.due = true;
        loop {
            self.ask(&answered, &first);
            let next = self.wanted.values().map(|want| want.next).min();
            let again = [&self.runtime, &self.kubelet].into_iter().filter(|at| at.due && !at.off);
            let again = again.filter(|at| !at.busy).filter_map(|at| at.not_before).min();
            let next = [next, again].into_iter().flatten().min();
            let next = next.unwrap_or_else(|| now() + Duration::from_secs(60));
            tokio::select! {
                seen = questions.recv() => match seen {
                    Some(seen) => self.see(seen),
                    None => return, // the agent has ended
                },
                Some(answer) = answers.recv() => {
                    self.answered(answer);
                    let _ = first.send(());
                }
                () = tokio::time::sleep_until(next) => {}
            }
            if self.dropped.swap(false, Ordering::Relaxed) {
                let all = self.how.mount.containers();
                for (_, directory) in all.into_iter().take(WANTED_MAX) {
                    self.want_path(&self.how.mount.relative(&directory.dir));
                }
            }
            self.look();
        }
    }

    fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Path(path) => self.want_path(&path),
            Seen::Tree(directory) => {
                for below in cgroups::below(&directory.dir).into_iter().take(WANTED_MAX) {
                    self.want_path(&self.how.mount.relative(&below.dir));
                    if let Some(pid) = cgroups::own_processes(&below.dir).first() {
                        self.guess(*pid);
                    }
                }
            }
            Seen::End(done) => {
                self.look();
                for (_, want) in std::mem::take(&mut self.wanted) {
                    let unnamed = want.facts.pod.is_some_and(|uid| !self.named.contains(&uid));
                    if let Some(guess) = want.guess.filter(|_| unnamed) {
                        self.reporter.tell(guess);
                    }
                }
                let _ = done.send(());
            }
            Seen::Process(pid) => {
                if let Some(path) = processes::cgroup_path(pid, &self.how.mount) {
                    self.want_path(&path);
                }
                self.guess(pid);
            }
        }
    }

    fn want_path(&mut self, path: &str) {
        let facts = cgroup_path::parse(path);
        let known = |id: &Option<String>| id.as_ref().is_none_or(|id| self.named.contains(id));
        let nothing = facts.pod.is_none() && facts.container.is_none();
        if nothing || (known(&facts.pod) && known(&facts.container)) {
            return;
        }
        if self.wanted.len() >= WANTED_MAX {
            return;
        }
        let key = (facts.pod.clone(), facts.container.clone());
        let now = now();
        self.wanted.entry(key).or_insert_with(|| Want {
            facts,
            since: now,
            next: now,
            tries: 0,
            guess: None,
        });
    }

    /// While the process lives, what it says about itself is noted for later.
    fn guess(&mut self, pid: u32) {
        let Some(path) = processes::cgroup_path(pid, &self.how.mount) else { return };
        let facts = cgroup_path::parse(&path);
        let (Some(uid), key) = (&facts.pod, (facts.pod.clone(), facts.container.clone())) else {
            return;
        };
        if let Some(want) = self.wanted.get_mut(&key).filter(|want| want.guess.is_none()) {
            want.guess = guesses::pod(pid, uid, &self.how.hostname);
        }
    }

    /// Looks into the folders for what is due, and asks for the rest.
    fn look(&mut self) {
        let now = now();
        let due = self.wanted.iter().filter(|(_, want)| want.next <= now);
        let keys: Vec<_> = due.map(|(key, _)| key.clone()).collect();
        for key in keys {
            let Some(mut want) = self.wanted.remove(&key) else { continue };
            self.look_for(&want.facts);
            let known = |id: &Option<String>| id.as_ref().is_none_or(|id| self.named.contains(id));
            if known(&want.facts.pod) && known(&want.facts.container) {
                continue;
            }
            self.runtime.due = true;
            self.kubelet.due = true;
            let unnamed = want.facts.pod.as_ref().is_some_and(|uid| !self.named.contains(uid));
            if unnamed
                && now >= want.since + GUESS_AFTER
                && let Some(guess) = want.guess.take()
            {
                self.reporter.tell(guess);
            }
            let Some(pause) = PAUSES_MS.get(want.tries) else {
                // Nobody names it: not asked again for each of its programs.
                [want.facts.pod, want.facts.container]
                    .iter()
                    .flatten()
                    .for_each(|id| self.remember(id));
                continue;
            };
            want.tries += 1;
            want.next = now + Duration::from_millis(*pause);
            self.wanted.insert(key, want);
        }
    }

    fn look_for(&mut self, facts: &PathFacts) {
        if let Some(bundle) =
            facts.container.as_deref().and_then(|id| bundles::find(&self.bundles, id))
        {
            if let Some(id) = facts.container.as_ref().filter(|_| bundle.sandbox) {
                self.remember(id);
            }
            self.found(bundle.pod);
        }
        let known = |id: &Option<String>| id.as_ref().is_none_or(|id| self.named.contains(id));
        if !(known(&facts.pod) && known(&facts.container))
            && let Some(pod) = facts.pod.as_deref().and_then(|uid| self.how.node_files.by_uid(uid))
        {
            self.found(pod);
        }
    }

    fn found(&mut self, pod: Pod) {
        self.note(&pod);
        self.reporter.tell(pod);
    }

    fn note(&mut self, pod: &Pod) {
        self.remember(&pod.uid);
        for id in pod.containers.iter().filter_map(|container| container.id.as_ref()) {
            self.remember(id);
        }
    }

    fn remember(&mut self, id: &str) {
        if self.named.len() >= 4 * TOLD_MAX {
            self.named.clear();
        }
        self.named.insert(id.to_owned());
    }

    /// Asks runtime and kubelet where that is due; the answers come later.
    fn ask(&mut self, answered: &mpsc::Sender<Answer>, first: &Sender<()>) {
        let now = now();
        if self.runtime.ready(now) {
            self.runtime.due = false;
            let sockets = runtime_sockets::find(&self.how.host_root);
            if sockets.is_empty() {
                self.runtime.done(RUNTIME_FAILED, now);
                let _ = first.send(());
            } else {
                self.runtime.busy = true;
                let answered = answered.clone();
                let known = self.addressed.clone();
                tokio::spawn(async move {
                    let mut result = Err(anyhow::anyhow!("no runtime"));
                    for socket in sockets {
                        result = cri::list(&socket, |uid| !known.contains(uid)).await;
                        if result.is_ok() {
                            break;
                        }
                    }
                    let _ = answered.send(Answer::Runtime(result)).await;
                });
            }
        }
        if self.kubelet.ready(now) {
            self.kubelet.due = false;
            self.kubelet.busy = true;
            let (answered, root) = (answered.clone(), self.how.host_root.clone());
            tokio::spawn(async move {
                let _ = answered.send(Answer::Kubelet(kubelet::list(&root).await)).await;
            });
        }
    }

    fn answered(&mut self, answer: Answer) {
        let now = now();
        match answer {
            Answer::Runtime(Ok(answer)) => {
                self.runtime.done(RUNTIME_PAUSE, now);
                self.runtime.left_out("the container runtime", answer.left_out);
                for id in answer.sandboxes {
                    self.remember(&id);
                }
                for pod in answer.pods {
                    if !pod.ips.is_empty() && self.addressed.len() < TOLD_MAX {
                        self.addressed.insert(pod.uid.clone());
                    }
                    self.found(pod);
                }
            }
            Answer::Kubelet(Ok(answer)) => {
                self.kubelet.done(KUBELET_PAUSE, now);
                self.kubelet.left_out("kubelet", answer.left_out);
                answer.pods.into_iter().for_each(|pod| self.found(pod));
            }
            Answer::Runtime(Err(error)) => {
                tracing::debug!("container runtime: {error:#}");
                self.runtime.done(RUNTIME_FAILED, now);
            }
            Answer::Kubelet(Err(error)) => {
                tracing::debug!("{error:#}");
                self.kubelet.done(KUBELET_FAILED, now);
            }
        }
    }
}

fn now() -> Instant {
    Instant::now()
}
