//! What comes and goes while a trace runs: facts from the API and the node's folders, and the
//! resolver, passed on to the session. Which pods are meant is settled in `selecting`, their coming
//! and going in `members`.

mod members;
mod selecting;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;

use members::Member;

use crate::context::{Pod, Role};
use crate::record::RecordKind;
use crate::source::live::cgroups::{Directory, Mount};
use crate::source::live::kubernetes::{Cluster, Fact};
use crate::source::live::node_files::NodeFiles;
use crate::source::live::resolver::{Search, Services, answers_at, by_socket};
use crate::source::live::selection::Selection;
use crate::source::live::session::Session;

/// The world around the targets.
pub(in crate::source::live) struct Following {
    /// This node's name in the cluster, once known.
    pub(in crate::source::live) node: Option<String>,
    /// This host's name.
    pub(in crate::source::live) hostname: String,
    mount: Mount,
    cluster: Option<Cluster>,
    node_files: NodeFiles,
    host_root: PathBuf,
    services: Services,
    // Which pods belong to the trace, and of these rules the ones that took none yet and wait.
    selections: Vec<Selection>,
    awaited: HashSet<usize>,
    // Of the pods only these containers; empty: all.
    containers: Vec<String>,
    // Pods that belong to the trace, by UID.
    members: HashMap<String, Member>,
    // Of these, the ones whose cgroup was not looked for yet.
    fresh: HashSet<String>,
    // svctrace's own pod.
    own: Option<String>,
    full: bool,
    // Resolvers may have come: Services changed; a pod asked at its own address came; and which servers
    // were known then.
    services_changed: bool,
    asked_came: bool,
    // The API told this node's name, then a list of pods.
    named: bool,
    node_listed: bool,
    servers: Option<HashSet<IpAddr>>,
    // Those of `servers` that a process of this node answers for on the node's own network.
    on_node: Vec<Directory>,
    pods: HashMap<String, Pod>,
    troubles: HashSet<String>,
}

/// This host's name.
pub(in crate::source::live) fn hostname() -> String {
    let name = nix::unistd::gethostname();
    name.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

impl Following {
    /// Knows nothing yet.
    pub(in crate::source::live) fn new(
        mount: Mount,
        cluster: Option<Cluster>,
        node_files: NodeFiles,
        options: &crate::source::live::Options,
    ) -> Self {
        let own = mount.of_process(std::process::id());
        let own = own.and_then(|own| Some(mount.pod_around(&own.dir)?.0));
        Self {
            node: None,
            hostname: hostname(),
            mount,
            cluster,
            node_files,
            host_root: options.host_root.clone(),
            services: Services::default(),
            selections: Vec::new(),
            awaited: HashSet::new(),
            containers: options.containers.clone(),
            members: HashMap::new(),
            fresh: HashSet::new(),
            own,
            full: false,
            services_changed: true,
            asked_came: false,
            named: false,
            node_listed: false,
            servers: None,
            on_node: Vec::new(),
            pods: HashMap::new(),
            troubles: HashSet::new(),
        }
    }

    /// Some selection has no pod yet.
    pub(in crate::source::live) fn is_waiting(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// What is awaited, in words.
    pub(in crate::source::live) fn awaited(&self) -> String {
        let labels = self.awaited.iter().filter_map(|at| self.selections.get(*at));
        labels.map(|at| at.label.clone()).collect::<Vec<_>>().join(", ")
    }

    /// Tells the pods that were found before the session existed, and starts the watches.
    pub(in crate::source::live) fn begin(&mut self, session: &mut Session) {
        for pod in self.pods.values() {
            session.tell(RecordKind::Pod, pod);
            if self.is_traced(&pod.uid) {
                session.seed_pod(pod);
            }
        }
        if let Some(cluster) = &self.cluster {
            let uids = self.mount.pod_uids().into_iter().collect();
            cluster.follow_node(self.node.clone(), self.hostname.clone(), uids);
        }
    }

    /// Tells all pods that the node's folders know.
    pub(in crate::source::live) fn tell_node_files(&mut self, session: &mut Session) {
        for pod in self.node_files.all() {
            session.tell(RecordKind::Pod, &pod);
            self.pods.entry(pod.uid.clone()).or_insert(pod);
        }
    }

    /// The API has not told yet who answers at these addresses: its Services or, where none of those has
    /// them, this node's pods.
    pub(in crate::source::live) fn expects_resolver(&self, servers: &HashSet<IpAddr>) -> bool {
        let at_pod = || self.pods.values().any(|pod| answers_at(pod, servers));
        let found = || self.node_listed || self.services.answer_at(servers) || at_pod();
        self.cluster.is_some()
            && self.troubles.is_empty()
            && (!self.services.complete() || !found())
    }

    /// Readable when the API told something.
    pub(in crate::source::live) fn wake(&self) -> Option<BorrowedFd<'_>> {
        self.cluster.as_ref().map(|cluster| cluster.wake().as_fd())
    }

    /// Takes in what the API told.
    pub(in crate::source::live) fn take_facts(&mut self, session: &mut Session) {
        let Some(cluster) = &self.cluster else { return };
        for fact in cluster.facts() {
            match fact {
                Fact::Pod(pod) => self.pod(session, pod),
                Fact::Service(service) => {
                    self.services_changed = true;
                    self.services.service(&service);
                    session.tell(RecordKind::Service, &service);
                }
                Fact::EndpointSlice(slice) => {
                    self.services_changed = true;
                    self.services.slice(&slice);
                    session.tell(RecordKind::EndpointSlice, &slice);
                    self.behind(session, &slice);
                }
                Fact::Listed(resource) => {
                    if resource == "pods" {
                        self.node_listed = self.named;
                    } else {
                        self.services.listed();
                    }
                }
                Fact::Node(node) => {
                    self.node = Some(node);
                    self.named = true;
                }
                Fact::Trouble(trouble, why) => {
                    if self.cluster.as_ref().is_some_and(|cluster| cluster.is_news(&trouble)) {
                        say!("svctrace: {why}");
                    }
                    self.troubles.insert(why);
                }
            }
        }
    }

    /// A pod that the targets ask came to be known: waiting loses its answers.
    pub(in crate::source::live) fn is_resolver_new(&self) -> bool {
        self.asked_came
    }

    /// Attaches to the resolvers that the targets ask, as far as they are on this node and something
    /// is known that was not at the last call.
    pub(in crate::source::live) fn attach_resolvers(&mut self, session: &mut Session) {
        let servers = session.servers.clone();
        let asked_others = self.servers.as_ref() != Some(&servers);
        let changed = std::mem::take(&mut self.services_changed);
        if !std::mem::take(&mut self.asked_came) && !changed && !asked_others {
            return;
        }
        if let Some(process) = session.process.filter(|_| asked_others) {
            self.on_node = by_socket(&self.mount, &servers, process);
        }
        let at_servers = self.pods.values().filter(|pod| answers_at(pod, &servers));
        let found = Search {
            mount: &self.mount,
            node_files: &self.node_files,
            services: &self.services,
            at_servers: at_servers.map(|pod| pod.uid.clone()).collect(),
            servers: &servers,
            on_node: &self.on_node,
        }
        .find();
        self.servers = Some(servers);
        for directory in found.iter().filter(|at| at.dir != self.mount.root()) {
            if let Err(error) = session.attach(directory, Role::Resolver, None) {
                tracing::warn!("cannot attach to the resolver: {error:#}");
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if let Some(cluster) = self.cluster.take() {
            cluster.shutdown();
        }
    }
}
