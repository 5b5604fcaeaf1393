//! The incident lab: on one machine, without Kubernetes, what a node looks like. This file brings
//! it up and down and starts programs in it; the parts live beside it, the incidents in `incidents`.

pub mod api;
pub mod cgroups;
pub mod clients;
mod dns;
pub mod faults;
mod host;
mod http;
pub mod incidents;
mod leftovers;
pub mod matrix;
pub mod net;
mod objects;
pub mod pods;
mod ready;
pub mod server;
pub mod services;
mod setup;
mod spawn;
pub mod state;
pub mod trace;
pub mod workloads;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use host::FOREIGN_SUFFIX;
pub use leftovers::list as leftovers;
pub use pods::{Pod, PodSpec, Qos, Role};
pub use setup::{Resolver, Setup, Upstream};
pub use state::World;

use crate::{cmd, interrupt, repo};
use spawn::{Mounts, Place};

/// Between a pod's appearance in the API and its first process; measured on a real node.
const ANNOUNCED: Duration = Duration::from_millis(150);
/// Where NodeLocal DNSCache listens.
pub(crate) const NODE_LOCAL: &str = "169.254.20.10";
const READY_WITHIN: Duration = Duration::from_secs(10);

/// Programs the lab cannot do without.
pub const PROGRAMS: [&str; 5] = ["ip", "iptables-restore", "dnsmasq", "nginx", "curl"];

/// A container that was added to a pod.
#[derive(Clone, Debug)]
pub struct Container {
    /// Its runtime id, 64 hex digits.
    pub id: String,
    /// Its cgroup folder.
    pub cgroup: PathBuf,
}

impl Container {
    /// Removes its folder, once no process is left in it.
    pub fn remove(&self) -> Result<()> {
        fs::remove_dir(&self.cgroup).with_context(|| self.cgroup.display().to_string())
    }
}

/// The machine's one lab.
#[derive(Debug)]
pub struct Lab {
    /// Its pods and names.
    pub world: World,
    setup: Setup,
    children: Vec<Child>,
    api: i32,
    /// Held while the lab belongs to this process, which then takes it down at the end.
    owner: Option<File>,
}

impl Lab {
    /// Makes a fresh, working lab, after removing what an earlier one left; dropping it takes it
    /// down. With `leak` the node's resolv.conf has a search suffix of its own, which every pod gets.
    pub fn up(leak: bool) -> Result<Self> {
        Self::up_with(Setup { leak, ..Setup::default() })
    }

    /// The same, with other servers.
    pub fn up_with(setup: Setup) -> Result<Self> {
        let leak = setup.leak;
        check_machine()?;
        let lock = state::lock()?;
        leftovers::remove()?;
        let node = nix::unistd::gethostname()?.to_string_lossy().to_lowercase();
        let started = now();
        let world = World { node, started, revision: 1, leak, pods: Vec::new() };
        let mut lab = Self { world, setup, children: Vec::new(), api: 0, owner: Some(lock) };
        lab.build()?;
        Ok(lab)
    }

    /// The lab that is up.
    pub fn open() -> Result<Self> {
        let world = state::read(&state::folder())?;
        let setup = Setup { leak: world.leak, ..Setup::default() };
        Ok(Self { world, setup, children: Vec::new(), api: 0, owner: None })
    }

    /// Leaves the lab up.
    pub fn keep(mut self) {
        self.owner = None;
    }

    /// Takes the lab down and says so if that fails; dropping does the same in silence.
    pub fn down(mut self) -> Result<()> {
        let lock = self.owner.take();
        let done = leftovers::remove();
        self.reap();
        drop(lock);
        done
    }

    /// The pod with this name (or short name).
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        let found = self.world.pods.iter().find(|pod| pod.name == name || pod.key == name);
        found.with_context(|| {
            let names: Vec<&str> = self.world.pods.iter().map(|pod| pod.name.as_str()).collect();
            format!("the lab has no pod `{name}`; it has {}", names.join(", "))
        })
    }

    /// A command that will run in the pod, as `kubectl exec` would start it.
    pub fn command(&self, pod: &Pod, program: &str) -> Result<Command> {
        let place = Place {
            cgroup: Some(pod.cgroup.clone()),
            netns: pod.netns.clone(),
            mounts: Mounts::Of(pod.sandbox_pid),
        };
        let mut command = in_place(program, &place)?;
        command.envs(environment(&pod.name));
        Ok(command)
    }

    /// The same for a pod that uses its node's network.
    pub fn command_on_node(&self, pod: &Pod, program: &str) -> Result<Command> {
        let place = Place {
            cgroup: Some(pod.cgroup.clone()),
            netns: net::path(net::NODE),
            mounts: Mounts::Of(pod.sandbox_pid),
        };
        in_place(program, &place)
    }

    /// Starts a pod in the running lab; the API endpoint reports it.
    pub fn add_pod(&mut self, spec: &PodSpec) -> Result<&Pod> {
        net::make_pods(&[(spec.key.as_str(), spec.host)])?;
        let pod = self.start_pod(spec)?;
        self.world.pods.push(pod);
        self.changed()?;
        self.pod(&spec.key)
    }

    /// Starts several pods at once.
    pub fn add_pods(&mut self, specs: &[PodSpec]) -> Result<()> {
        let links: Vec<(&str, u8)> = specs.iter().map(|s| (s.key.as_str(), s.host)).collect();
        net::make_pods(&links)?;
        if self.setup.ipv6 {
            net::add_ipv6(&links)?;
        }
        for spec in specs {
            let pod = self.start_pod(spec)?;
            self.world.pods.push(pod);
        }
        self.changed()
    }

    /// The same, but as in a cluster the API tells of the pod before its node starts it.
    pub fn roll_out(&mut self, spec: &PodSpec) -> Result<&Pod> {
        net::make_pods(&[(spec.key.as_str(), spec.host)])?;
        let announced = self.plan(spec)?;
        self.world.pods.push(announced);
        self.changed()?;
        std::thread::sleep(ANNOUNCED);
        let pod = self.start_pod(spec)?;
        self.world.pods.retain(|other| other.uid != pod.uid);
        self.world.pods.push(pod);
        self.changed()?;
        self.pod(&spec.key)
    }

    /// Changes a pod's labels, as `kubectl label` would.
    pub fn label(&mut self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        let uid = self.pod(name)?.uid.clone();
        for pod in self.world.pods.iter_mut().filter(|pod| pod.uid == uid) {
            let pairs = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            pod.labels.extend(pairs);
        }
        self.changed()
    }

    /// One more container in a pod, called `name`: its folder, and what the runtime wrote about it.
    pub fn add_container(&self, pod: &Pod, name: &str) -> Result<Container> {
        let id = pod.id_of(name);
        let cgroup = pod.pod_cgroup().join(format!("cri-containerd-{id}.scope"));
        host::write_bundle(&state::host_root(), pod, &id, name)?;
        cgroups::make(&cgroup)?;
        Ok(Container { id, cgroup })
    }

    /// A command that will run as (part of) that container.
    pub fn command_in(&self, pod: &Pod, container: &Container, program: &str) -> Result<Command> {
        let place = Place {
            cgroup: Some(container.cgroup.clone()),
            netns: pod.netns.clone(),
            mounts: Mounts::Of(pod.sandbox_pid),
        };
        in_place(program, &place)
    }

    /// Stops a pod and removes everything of it.
    pub fn remove_pod(&mut self, name: &str) -> Result<()> {
        let pod = self.pod(name)?.clone();
        let folder = pod.pod_cgroup();
        let deadline = Instant::now() + READY_WITHIN;
        while !cgroups::remove(&folder) {
            for pid in cgroups::processes(&folder) {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
            if Instant::now() > deadline {
                bail!("pod {name} does not end");
            }
            pause();
        }
        net::delete(&[net::of_pod(&pod.key)])?;
        host::remove_pod(&state::host_root(), &pod)?;
        self.world.pods.retain(|other| other.uid != pod.uid);
        self.changed()
    }

    fn changed(&mut self) -> Result<()> {
        self.world.revision += 1;
        self.world.write()
    }

    fn build(&mut self) -> Result<()> {
        state::make_folder()?;
        host::write_node(&state::host_root(), self.world.leak)?;
        net::make_node()?;
        let specs = pods::standard();
        let links: Vec<(&str, u8)> = specs.iter().map(|s| (s.key.as_str(), s.host)).collect();
        net::make_pods(&links)?;
        if self.setup.ipv6 {
            net::add_ipv6(&[])?;
            net::add_ipv6(&links)?;
        }
        if self.setup.resolver == Resolver::Forwarder {
            net::add_address("svct-dns", &format!("{}/24", setup::OTHER_ADDRESS), "eth0")?;
        }
        net::load_rules(&services::iptables_rules())?;
        self.start_upstream()?;
        for spec in &specs {
            interrupt::check()?;
            let pod = self.start_pod(spec)?;
            self.world.pods.push(pod);
        }
        if self.setup.node_local {
            self.start_node_local()?;
        }
        self.world.write()?;
        self.start_api()?;
        ready::wait(&self.world.pods, &mut self.children)
    }

    fn start_upstream(&mut self) -> Result<()> {
        let words = self.setup.upstream.words()?;
        let place = service_place("upstream", net::UPSTREAM)?;
        self.start("upstream", in_place_words(&words, &place)?).map(drop)
    }

    /// NodeLocal DNSCache: a pod on the node's network whose process listens on an address of the node's.
    fn start_node_local(&mut self) -> Result<()> {
        let mut spec = PodSpec::client("node-local-dns-p7k2x", 21);
        spec.key = "nodelocal".to_owned();
        spec.namespace = "kube-system".to_owned();
        spec.labels.insert("k8s-app".to_owned(), "node-local-dns".to_owned());
        net::make_pods(&[(spec.key.as_str(), spec.host)])?;
        let pod = self.start_pod(&spec)?;
        net::add_address(net::NODE, &format!("{NODE_LOCAL}/32"), "lo")?;
        let listen = format!("{NODE_LOCAL}:53");
        let to = format!("{}:53", services::DNS_ADDRESS);
        let args = ["--listen", &listen, "--forward", &to, "--force-tcp", "--knows-nothing"];
        let words = setup::own(&args)?;
        let (program, args) = words.split_first().context("an empty command")?;
        let mut command = self.command_on_node(&pod, program)?;
        command.args(args);
        self.start("node-local-dns", command)?;
        self.world.pods.push(pod);
        Ok(())
    }

    /// Starts a program in a pod that runs until the lab goes down.
    pub fn start_in_pod(&mut self, pod: &str, words: &[String]) -> Result<()> {
        let (program, args) = words.split_first().context("an empty command")?;
        let mut command = self.command(self.pod(pod)?, program)?;
        command.args(args);
        self.start(&format!("{pod}-more"), command).map(drop)
    }

    /// Kills the API endpoint of a lab that this process brought up.
    pub fn stop_api(&mut self) -> Result<()> {
        let at = self.children.iter().position(|child| child.id().cast_signed() == self.api);
        let mut child = self.children.remove(at.context("the API endpoint does not run")?);
        let killed = child.kill();
        child.wait()?;
        Ok(killed?)
    }

    /// Starts the API endpoint, also again.
    pub fn start_api(&mut self) -> Result<()> {
        let listen = SocketAddr::new(net::NODE_IP.parse()?, api::PORT);
        fs::write(state::kubeconfig(), api::kubeconfig(listen))?;
        let place = service_place("kube-apiserver", net::NODE)?;
        let program = repo::xtask()?;
        let mut command = in_place(&program.to_string_lossy(), &place)?;
        command.arg("lab-api").arg("--state").arg(state::folder());
        command.arg("--listen").arg(listen.to_string());
        self.api = self.start("kube-apiserver", command)?;
        Ok(())
    }

    /// What is known of a pod before it starts.
    fn plan(&self, spec: &PodSpec) -> Result<Pod> {
        let (container_id, sandbox_id, uid) =
            (spec.id("container"), spec.id("sandbox"), spec.uid());
        let cgroup = cgroups::container(&cgroups::parent()?, spec.qos, &uid, &container_id);
        Ok(Pod {
            key: spec.key.clone(),
            name: spec.name.clone(),
            namespace: spec.namespace.clone(),
            uid,
            ip: format!("10.244.1.{}", spec.host),
            ipv6: self.setup.ipv6.then(|| format!("{}:{:x}", net::PODS_IPV6, spec.host)),
            qos: spec.qos,
            role: spec.role,
            owner: spec.owner.clone(),
            labels: spec.labels.clone(),
            container: spec.container().to_owned(),
            container_id,
            cgroup,
            cgroup_id: 0,
            sandbox_id,
            sandbox_pid: 0,
            main_pid: 0,
            netns: net::path(&net::of_pod(&spec.key)),
            resolv_conf: PathBuf::new(),
            started: now(),
        })
    }

    /// Starts a pod whose namespace is there: its sandbox, then its container's first process.
    fn start_pod(&mut self, spec: &PodSpec) -> Result<Pod> {
        let mut pod = self.plan(spec)?;
        let parent = cgroups::parent()?;
        let sandbox = cgroups::container(&parent, spec.qos, &pod.uid, &pod.sandbox_id);
        cgroups::make(&sandbox)?;
        // As kubelet does: the container's folders are there before its cgroup is.
        let (resolv_conf, mut binds) = host::write_pod(&state::host_root(), spec, self.world.leak)?;
        host::write_bundle(&state::host_root(), &pod, &pod.container_id, spec.container())?;
        pod.cgroup_id = cgroups::make(&pod.cgroup)?;
        pod.resolv_conf = resolv_conf;
        binds.extend(host::name_service_binds(&state::folder())?);
        let place = Place {
            cgroup: Some(sandbox),
            netns: pod.netns.clone(),
            mounts: Mounts::Private(binds),
        };
        let mut pause = in_place("sleep", &place)?;
        pause.arg("infinity");
        pod.sandbox_pid = self.start(&format!("{}-sandbox", spec.key), pause)?;
        pod.main_pid = self.start_main(&pod)?;
        Ok(pod)
    }

    fn start_main(&mut self, pod: &Pod) -> Result<i32> {
        let command = match pod.role {
            Role::Client => {
                let mut command = self.command(pod, "sleep")?;
                command.arg("infinity");
                command
            }
            Role::Resolver => {
                let words = self.setup.resolver.words()?;
                let (program, args) = words.split_first().context("an empty command")?;
                let mut command = self.command(pod, program)?;
                command.args(args);
                command
            }
            Role::Backend => {
                let config = http::config(&state::folder(), &pod.key, &pod.name)?;
                let mut command = self.command(pod, "nginx")?;
                command.arg("-c").arg(config);
                command
            }
        };
        self.start(&pod.key, command)
    }

    /// Starts a background program that logs to a file and survives Ctrl-C on our terminal.
    fn start(&mut self, name: &str, mut command: Command) -> Result<i32> {
        let log = File::create(state::log_folder().join(format!("{name}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let pid = child.id().cast_signed();
        self.children.push(child);
        Ok(pid)
    }

    fn reap(&mut self) {
        for child in &mut self.children {
            let _ = child.wait();
        }
        self.children.clear();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.owner.is_some() {
            if let Err(error) = leftovers::remove() {
                eprintln!("lab: {error:#}");
            }
            self.reap();
        }
    }
}

/// Takes down whatever lab is there.
pub fn down() -> Result<()> {
    check_root()?;
    let _lock = state::lock()?;
    leftovers::remove()
}

/// A command that will run on the node of the running lab: in its network namespace, with the
/// machine's own files.
pub fn node_command(program: &str) -> Result<Command> {
    in_place(program, &service_place("node", net::NODE)?)
}

/// An error unless this is root.
pub fn check_root() -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("the lab makes network namespaces and cgroups and needs root: run it with sudo");
    }
    Ok(())
}

/// An error that says why no lab can be made here, if so.
pub fn check_machine() -> Result<()> {
    check_root()?;
    let missing: Vec<&str> =
        PROGRAMS.into_iter().filter(|program| cmd::find(program).is_none()).collect();
    if !missing.is_empty() {
        bail!("not installed: {}; run `cargo xtask setup`", missing.join(", "));
    }
    if !Path::new("/etc/resolv.conf").exists() {
        bail!(
            "/etc/resolv.conf does not exist, so a pod's own cannot be put over it: create it (empty will do)"
        );
    }
    cgroups::mount_point().map(drop)
}

/// A cgroup of its own for something that is no pod, like a system service.
fn service_place(name: &str, netns: &str) -> Result<Place> {
    let cgroup = cgroups::parent()?.join("system.slice").join(format!("{name}.service"));
    cgroups::make(&cgroup)?;
    Ok(Place { cgroup: Some(cgroup), netns: net::path(netns), mounts: Mounts::Own })
}

fn in_place(program: &str, place: &Place) -> Result<Command> {
    let mut command = cmd::command(program);
    spawn::enter(&mut command, place)?;
    Ok(command)
}

fn in_place_words(words: &[String], place: &Place) -> Result<Command> {
    let (program, args) = words.split_first().context("an empty command")?;
    let mut command = in_place(program, place)?;
    command.args(args);
    Ok(command)
}

fn environment(pod: &str) -> [(&'static str, String); 3] {
    [
        ("HOSTNAME", pod.to_owned()),
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1".to_owned()),
        ("KUBERNETES_SERVICE_PORT", "443".to_owned()),
    ]
}

fn pause() {
    std::thread::sleep(Duration::from_millis(2));
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
