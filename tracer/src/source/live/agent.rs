//! The agent process: from the user's targets to a running trace, and its end. Reads nothing that a
//! traced program wrote, but names from the kernel.

use std::ffi::OsString;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use aya::maps::{MapData, RingBuf};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};

use super::clock::Clock;
use super::command::{self, Running, Waiting};
use super::convert::{self, Lifecycle};
use super::following::{self, Following};
use super::invoker::{Invoker, environment};
use super::kubelet_config;
use super::kubernetes::{Access, Cluster};
use super::link::Sender;
use super::names::{self, Names};
use super::node_files::NodeFiles;
use super::pipeline_process::{PipelineProcess, REFUSED};
use super::probes::{self, Probes, ProbesError};
use super::session::Session;
use super::targets::{self, Found};
use super::{Options, Target, preconditions, processes, rights};
use crate::context::{Host, Kubelet, Role};
use crate::record::RecordKind;

/// Heartbeats and loss figures.
const BEAT: Duration = Duration::from_millis(100);
/// While a pod is awaited, its folder is looked for this often.
const AWAIT: Duration = Duration::from_millis(25);
/// Everything that may have changed on disk.
const LOOK: Duration = Duration::from_secs(1);
/// The API's time to answer, counted from the start.
const API_TIME: Duration = Duration::from_millis(1500);
/// And at least that for each question.
const API_TIME_MIN: Duration = Duration::from_millis(300);
/// The container runtime's time to answer, where nobody else names the pods that were asked for.
const RUNTIME_TIME: Duration = Duration::from_millis(200);
/// Time for the last names at the end.
const NAMES_TIME: Duration = Duration::from_millis(100);
/// Records of the small ring taken before signals and the pipeline are looked at again.
const NEWS: usize = 256;
/// After this time somebody should be told why nothing ends.
const PATIENCE: Duration = Duration::from_secs(3);
/// `SI_KERNEL`: a signal that the terminal sent to all of its foreground group.
const FROM_KERNEL: i32 = 0x80;
/// Incomplete: ended by force.
const FORCED: u8 = 3;

/// Traces what `options` say until the end; the process's exit code. `pipeline_args` go to the
/// pipeline process as they are, and so do the descriptors `inherited` under their numbers.
pub fn agent(
    options: Options,
    pipeline_args: Vec<OsString>,
    inherited: Vec<OwnedFd>,
) -> anyhow::Result<u8> {
    let started = now();
    preconditions::check()?;
    if probes::object().is_none() {
        return Err(ProbesError::NotBuilt.into());
    }
    super::cgroups::join_host_namespace();
    let mount = super::cgroups::Mount::find()?;
    command::remove_leftovers(&mount);
    let signals = block_signals()?;
    let invoker = Invoker::find(environment);
    // Both are made with the rights that this process has now, before it gives up what it can.
    let command = options.targets.iter().find_map(|target| match target {
        Target::Command(words) => Some(command::prepare(&mount, words, invoker.as_ref())),
        _ => None,
    });
    let waiting = command.transpose()?;
    // The pipeline process inherits it; the command, whose child is made, does not.
    super::spare_memory();
    let mut process = PipelineProcess::start(pipeline_args, inherited)?;
    rights::give_up(&options, invoker.as_ref())?;
    // Loading takes the longest and depends on nothing else.
    let loading = Loading::start(&options)?;
    let cluster = connect(&options, invoker.as_ref())?;
    if let Some(cluster) = &cluster {
        cluster.follow_services();
    }
    let node_files = NodeFiles::new(&options.host_root);
    let names = Names::start(names::How {
        host_root: options.host_root.clone(),
        mount: mount.clone(),
        node_files: node_files.clone(),
        hostname: following::hostname(),
        kubelet: cluster.is_none(),
    })?;
    let pods = options.targets.iter().any(|at| matches!(at, Target::Pods { .. }));
    if cluster.is_none() && pods && node_files.names().is_empty() {
        names.wait_first(RUNTIME_TIME);
    }
    let mut following = Following::new(mount.clone(), cluster, node_files, &options);
    let goals = Goals::find(&options, &mount, &mut following, started)?;
    let mut probes = loading.finish()?;
    let only = goals.found.iter().find_map(|at| at.only_pid);
    probes.set_config(|config| config.only_tgid = only.unwrap_or(0))?;
    let lifecycle = probes.take_lifecycle()?;
    let clock = Clock::new();
    let link = Sender::open(process.socket()?, probes.events_fd()?, clock.offset_ns)
        .context("the pipeline process is gone")?;
    let session = Session::new(probes, mount, link, clock, &options);
    let mut agent = Agent {
        options: &options,
        session,
        following,
        names,
        process,
        signals,
        lifecycle,
        command: None,
        only_processes: goals.only_processes,
        interrupts: 0,
        host: Host::default(),
        kubelet: kubelet_config::find(&options.host_root),
    };
    agent.session.read_too(agent.kubelet.as_ref().and_then(|at| at.resolv_conf.as_deref()));
    if let Err(error) = agent.begin(&goals.found, waiting, started) {
        // It has said why.
        if agent.process.refused() {
            return Ok(REFUSED);
        }
        agent.process.kill();
        return Err(error);
    }
    agent.run()
}

struct Agent<'a> {
    options: &'a Options,
    session: Session,
    following: Following,
    names: Names,
    process: PipelineProcess,
    signals: SignalFd,
    lifecycle: RingBuf<MapData>,
    command: Option<Running>,
    // All targets are these processes: the trace ends with them.
    only_processes: Vec<u32>,
    interrupts: u32,
    host: Host,
    kubelet: Option<Kubelet>,
}

struct Goals {
    found: Vec<Found>,
    only_processes: Vec<u32>,
}

impl Goals {
    fn find(
        options: &Options,
        mount: &super::cgroups::Mount,
        following: &mut Following,
        started: Instant,
    ) -> anyhow::Result<Self> {
        let mut goals = Self { found: Vec::new(), only_processes: Vec::new() };
        for target in &options.targets {
            match target {
                Target::Cgroup(path) => goals.found.push(targets::cgroup(mount, path)?),
                Target::Container(id) => goals.found.push(targets::container(mount, id)?),
                Target::Pid(pid) => {
                    goals.found.push(targets::process(mount, *pid)?);
                    goals.only_processes.push(*pid);
                }
                Target::Command(_) => {}
                Target::Pods { namespace, which } => {
                    let within = API_TIME.saturating_sub(since(started)).max(API_TIME_MIN);
                    following.select(namespace, which, options.wait, within)?;
                }
            }
        }
        if options.targets.len() != goals.only_processes.len() {
            goals.only_processes.clear();
        }
        if options.targets.is_empty() {
            bail!("nothing to trace: name a pod, container, cgroup, process or command");
        }
        if options.targets.len() > 1 && goals.found.iter().any(|at| at.only_pid.is_some()) {
            bail!("--pid of a process that shares its cgroup goes with no other target");
        }
        Ok(goals)
    }
}

impl Agent<'_> {
    /// Attaches, seeds, records, and says so.
    fn begin(
        &mut self,
        found: &[Found],
        waiting: Option<Waiting>,
        started: Instant,
    ) -> anyhow::Result<()> {
        self.tell_host();
        let mut labels = Vec::new();
        for goal in found {
            self.session.attach(&goal.directory, Role::Target, goal.only_pid)?;
            if !labels.contains(&goal.label) {
                labels.push(goal.label.clone());
            }
        }
        let pods = self.following.attach_pods(&mut self.session);
        if !pods.is_empty() {
            labels.push(self.following.in_words(&pods));
        }
        if let Some(waiting) = &waiting {
            self.session.attach(&waiting.group.directory, Role::Target, None)?;
            labels.push(format!("command {}", waiting.name));
        }
        self.following.tell_node_files(&mut self.session);
        self.take_names();
        self.session.look_again();
        self.following.begin(&mut self.session);
        if self.options.resolver {
            self.find_resolver(started);
        }
        self.process.wait_ready(&mut self.session.link)?;
        self.session.probes.set_recording(true)?;
        self.session.tell_newcomers();
        self.tell_host();
        let count = self.session.probes.loaded().len();
        let ms = since(started).as_millis();
        if labels.is_empty() && !self.following.is_waiting() {
            bail!("none of the pods could be attached to");
        }
        if labels.is_empty() {
            let what = self.following.awaited();
            say!("svctrace: waiting for {what} ({count} probes, {ms} ms)…");
        } else {
            let what = labels.join(", ");
            say!("svctrace: attached to {what} ({count} probes, {ms} ms)…");
        }
        for missing in self.session.probes.missing() {
            tracing::warn!("{missing}");
        }
        self.command = waiting.map(Waiting::go).transpose()?;
        super::return_memory();
        Ok(())
    }

    /// Attaches to the resolver; gives the API a moment to tell who that is.
    fn find_resolver(&mut self, started: Instant) {
        while self.following.expects_resolver(&self.session.servers) && since(started) < API_TIME {
            self.following.take_facts(&mut self.session);
            std::thread::sleep(Duration::from_millis(5));
        }
        self.following.attach_resolvers(&mut self.session);
        let known = !self.session.servers.is_empty();
        if known && !self.session.has_resolver() {
            say!("svctrace: the resolver was not found on this node; it is not traced along");
        }
    }

    fn tell_host(&mut self) {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let name = nix::sys::utsname::uname();
        let text = |text: Option<&std::ffi::OsStr>| {
            text.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
        };
        let host = Host {
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            node: self.following.node.clone(),
            hostname: self.following.hostname.clone(),
            kernel: text(name.as_ref().ok().map(|name| name.release())),
            arch: text(name.as_ref().ok().map(|name| name.machine())),
            cpus: std::thread::available_parallelism().map_or(0, |count| count.get() as u32),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            dns_ports: self.options.dns_ports.clone(),
            resolver_traced: self.session.has_resolver(),
            syscalls: self.options.syscalls,
            missing_probes: self
                .session
                .probes
                .missing()
                .iter()
                .map(|missing| missing.program.to_owned())
                .collect(),
            ended: false,
            kubelet: self.kubelet.clone(),
        };
        if host != self.host {
            self.session.tell(RecordKind::Host, &host);
            self.host = host;
        }
    }

    /// Until something ends it; the exit code.
    fn run(mut self) -> anyhow::Result<u8> {
        let end = self.options.duration.map(|duration| now() + duration);
        let (mut beat, mut look) = (now(), now() + LOOK);
        let mut log = if self.options.probe_log { self.session.probes.take_log() } else { None };
        loop {
            let pause = if self.following.is_waiting() { AWAIT } else { BEAT };
            self.wait(pause)?;
            if let Some(code) = self.is_over(end) {
                return Ok(code);
            }
            self.take_lifecycle();
            self.following.take_facts(&mut self.session);
            self.take_names();
            let came = self.following.attach_pods(&mut self.session);
            self.following.say_attached(&came);
            if self.options.resolver && self.following.is_resolver_new() {
                self.following.attach_resolvers(&mut self.session);
            }
            if now() >= beat {
                beat = now() + BEAT;
                self.session.beat();
                if let Some(log) = &mut log {
                    log.flush();
                }
            }
            if now() >= look {
                look = now() + LOOK;
                self.session.look_again();
                self.following.look_again(&self.session);
                if self.options.resolver {
                    self.following.attach_resolvers(&mut self.session);
                }
                self.tell_host();
            }
        }
    }

    fn wait(&self, pause: Duration) -> anyhow::Result<()> {
        let mut line = PollFlags::POLLIN;
        if self.session.link.is_behind() {
            line |= PollFlags::POLLOUT;
        }
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.lifecycle.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.session.link.as_fd(), line),
            PollFd::new(self.names.wake(), PollFlags::POLLIN),
        ];
        fds.extend(self.following.wake().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::try_from(pause).unwrap_or(PollTimeout::ZERO)) {
            Err(error) if error != nix::Error::EINTR => Err(error).context("poll failed"),
            _ => Ok(()),
        }
    }

    fn is_over(&mut self, end: Option<Instant>) -> Option<u8> {
        if let Err(error) = self.session.link.ready() {
            tracing::debug!("the line to the pipeline process: {error}");
            self.session.gone = true;
        }
        if self.session.gone || self.session.link.flush().is_err() {
            return Some(self.after_pipeline());
        }
        while let Ok(Some(signal)) = self.signals.read_signal() {
            if self.interrupted(&signal) {
                return Some(self.finish());
            }
        }
        let ended = self.command.as_mut().and_then(Running::ended);
        if let Some(how) = &ended {
            say!("svctrace: {how}");
        }
        let processes_gone = !self.only_processes.is_empty()
            && !self.only_processes.iter().any(|pid| processes::exists(*pid));
        let time_is_up = end.is_some_and(|end| now() >= end);
        (ended.is_some() || processes_gone || time_is_up).then(|| self.finish())
    }

    /// Whether a signal ends the trace. A command gets the first one for itself: from the terminal
    /// it has it already, else from us.
    fn interrupted(&mut self, info: &siginfo) -> bool {
        let Ok(signal) = Signal::try_from(info.ssi_signo as i32) else { return false };
        if signal == Signal::SIGCHLD {
            return false;
        }
        self.interrupts += 1;
        let Some(command) = self.command.as_ref().filter(|_| self.interrupts == 1) else {
            return true;
        };
        if info.ssi_code != FROM_KERNEL {
            command.signal(signal);
        }
        false
    }

    /// Stops the probes, lets the pipeline process conclude, and passes its exit code on.
    fn finish(&mut self) -> u8 {
        self.say_untraced();
        self.take_lifecycle();
        self.following.take_facts(&mut self.session);
        self.names.end(NAMES_TIME);
        self.take_names();
        self.session.finish();
        let mut silent = Some(now() + PATIENCE);
        loop {
            if let Some(code) = self.process.ended() {
                return code;
            }
            let _ = self.session.link.flush();
            while let Ok(Some(signal)) = self.signals.read_signal() {
                if signal.ssi_signo as i32 != Signal::SIGCHLD as i32 {
                    self.process.kill();
                    return FORCED;
                }
            }
            if silent.is_some_and(|until| now() > until) {
                silent = None;
                say!("svctrace: the output is not read; Ctrl-C ends at once");
            }
            let _ = self.wait(BEAT.min(AWAIT));
        }
    }

    fn say_untraced(&mut self) {
        if self.command.as_mut().is_some_and(|command| command.ended().is_none()) {
            say!("svctrace: the command goes on untraced");
        }
    }

    /// The pipeline process ended first: because nobody reads its output, or it was killed.
    fn after_pipeline(&mut self) -> u8 {
        self.say_untraced();
        let patience = now() + LOOK;
        loop {
            if let Some(code) = self.process.ended() {
                return code;
            }
            if now() > patience {
                self.process.kill();
                return FORCED;
            }
            std::thread::sleep(AWAIT);
        }
    }

    /// Tells the names that were found in the background.
    fn take_names(&mut self) {
        for directory in self.session.take_nameless() {
            self.names.tree(directory);
        }
        for pod in self.names.found() {
            self.session.tell(RecordKind::Pod, &pod);
        }
    }

    fn take_lifecycle(&mut self) {
        for _ in 0..NEWS {
            let Some(item) = self.lifecycle.next() else { return };
            let Some(news) = convert::lifecycle(&item) else { continue };
            drop(item);
            match news {
                Lifecycle::Exec { pid } => {
                    self.names.process(pid);
                    self.session.exec(pid);
                }
                Lifecycle::CgroupMade { id, path } => {
                    if let Some(directory) = self.session.cgroup_made(id, &path) {
                        self.following.cgroup_made(&mut self.session, &directory);
                        if self.session.traces(&directory) {
                            self.names.cgroup(self.session.mount.relative(&directory.dir));
                        }
                    }
                }
            }
        }
    }
}

/// Probes being loaded, and attached where no target is needed, on a thread of their own.
struct Loading(JoinHandle<Result<Probes, ProbesError>>);

impl Loading {
    fn start(options: &Options) -> anyhow::Result<Self> {
        let options = probes::Options {
            ring_bytes: options.ring_bytes,
            syscalls: options.syscalls,
            log: options.probe_log,
            dns_ports: options.dns_ports.clone(),
            snap_len: options.snap_len,
            only_tgid: 0,
        };
        let work = move || {
            let mut probes = Probes::load(&options)?;
            probes.attach_global()?;
            Ok(probes)
        };
        let thread = std::thread::Builder::new().name("probes".into()).spawn(work);
        Ok(Self(thread.context("cannot start a thread")?))
    }

    fn finish(self) -> anyhow::Result<Probes> {
        let Self(thread) = self;
        Ok(thread.join().map_err(|_| anyhow!("the probes could not be loaded"))??)
    }
}

fn block_signals() -> anyhow::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD] {
        set.add(signal);
    }
    set.thread_block().context("cannot block signals")?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    SignalFd::with_flags(&set, flags).context("cannot wait for signals")
}

fn connect(options: &Options, invoker: Option<&Invoker>) -> anyhow::Result<Option<Cluster>> {
    if options.no_api {
        return Ok(None);
    }
    let access = Access {
        kubeconfig: options.kubeconfig.clone(),
        context: options.context.clone(),
        environment: environment("KUBECONFIG").iter().flat_map(paths).collect(),
        invoker: invoker.cloned(),
        home: environment("HOME").map(Into::into),
    };
    match Cluster::connect(&access) {
        Err(error) if options.kubeconfig.is_none() && options.context.is_none() => {
            let why = targets::in_one_line(&error);
            say!("svctrace: no Kubernetes API: {why}; going by this node's own files");
            Ok(None)
        }
        other => other,
    }
}

fn paths(list: &OsString) -> impl Iterator<Item = PathBuf> {
    std::env::split_paths(list).filter(|path| !path.as_os_str().is_empty())
}

#[expect(clippy::disallowed_methods, reason = "the agent reads the host's clock")]
fn now() -> Instant {
    Instant::now()
}

fn since(started: Instant) -> Duration {
    now().saturating_duration_since(started)
}
