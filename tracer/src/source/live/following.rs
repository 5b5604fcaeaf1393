//! What comes and goes while a trace runs: facts from the API and the node's folders, awaited and
//! re-created pods, the resolver. Passes all on to the session.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use super::cgroups::{self, Directory, Mount};
use super::kubernetes::{Cluster, Fact};
use super::node_files::NodeFiles;
use super::resolver::{Search, Services};
use super::session::Session;
use super::targets::{self, Known};
use crate::context::{Origin, Pod, Role};
use crate::record::RecordKind;

/// The world around the targets.
pub(super) struct Following {
    /// This node's name in the cluster, once known.
    pub(super) node: Option<String>,
    /// This host's name.
    pub(super) hostname: String,
    mount: Mount,
    cluster: Option<Cluster>,
    node_files: NodeFiles,
    services: Services,
    // Pods that the user named.
    named: HashSet<(String, String)>,
    // Of those, the ones that never appeared yet.
    awaited: HashSet<(String, String)>,
    // UIDs of named pods that are traced, and of those that have no cgroup yet.
    attached: HashSet<String>,
    pending: HashMap<String, (String, String)>,
    // Of these, the ones whose cgroup was not looked for yet.
    fresh: HashSet<String>,
    // Resolvers may have come: Services changed; and which servers were known then.
    services_changed: bool,
    servers: Option<HashSet<IpAddr>>,
    pods: HashMap<String, Pod>,
    troubles: HashSet<String>,
}

impl Following {
    /// Knows nothing yet.
    pub(super) fn new(
        mount: Mount,
        cluster: Option<Cluster>,
        node_files: NodeFiles,
        hostname: String,
    ) -> Self {
        Self {
            node: None,
            hostname,
            mount,
            cluster,
            node_files,
            services: Services::default(),
            named: HashSet::new(),
            awaited: HashSet::new(),
            attached: HashSet::new(),
            pending: HashMap::new(),
            fresh: HashSet::new(),
            services_changed: true,
            servers: None,
            pods: HashMap::new(),
            troubles: HashSet::new(),
        }
    }

    /// Finds a pod that the user named; later ones of the same name join.
    pub(super) fn find_pod(&mut self, name: (&str, &str), within: Duration) -> Known {
        self.named.insert((name.0.to_owned(), name.1.to_owned()));
        let known =
            targets::pod(&self.mount, self.cluster.as_ref(), &self.node_files, name, within);
        if let Known::Here(pod, _) | Known::NotHere(pod) = &known {
            if matches!(known, Known::Here(..)) && pod.node.is_some() {
                self.node.clone_from(&pod.node);
            }
            self.pods.insert(pod.uid.clone(), pod.clone());
        }
        known
    }

    /// The sentence for a pod that cannot be traced.
    pub(super) fn why_not(&self, name: (&str, &str), known: &Known) -> String {
        targets::why_not(self.cluster.as_ref(), &self.node_files, name, known, &self.hostname)
    }

    /// The namespace of a pod that was named without one.
    pub(super) fn default_namespace(&self) -> &str {
        self.cluster.as_ref().map_or("default", Cluster::default_namespace)
    }

    /// Notes that this pod is traced.
    pub(super) fn attached(&mut self, uid: &str) {
        self.attached.insert(uid.to_owned());
    }

    /// Notes that a named pod is to be waited for.
    pub(super) fn wait_for(&mut self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(cluster) = &self.cluster {
            cluster.follow_pod(namespace, name);
        }
        let known = self.pods.values().filter(|pod| pod.namespace == namespace && pod.name == name);
        let uids: Vec<String> = known.map(|pod| pod.uid.clone()).collect();
        self.fresh.extend(uids.iter().cloned());
        self.pending.extend(uids.into_iter().map(|uid| (uid, key.clone())));
        self.awaited.insert(key);
    }

    /// Some named pod has not appeared yet.
    pub(super) fn is_waiting(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// The awaited pods in words.
    pub(super) fn awaited(&self) -> String {
        let names: Vec<String> = self
            .awaited
            .iter()
            .map(|(namespace, name)| format!("pod {namespace}/{name}"))
            .collect();
        names.join(", ")
    }

    /// Tells the pods that were found before the session existed, and starts the watches.
    pub(super) fn begin(&mut self, session: &mut Session) {
        for pod in self.pods.values() {
            session.tell(RecordKind::Pod, pod);
            if self.attached.contains(&pod.uid) {
                session.seed_pod(pod);
            }
        }
        if let Some(cluster) = &self.cluster {
            let uids = self.mount.pod_uids().into_iter().collect();
            cluster.follow_node(self.node.clone(), self.hostname.clone(), uids);
        }
    }

    /// Tells all pods that the node's folders know.
    pub(super) fn tell_node_files(&mut self, session: &mut Session) {
        for pod in self.node_files.all() {
            session.tell(RecordKind::Pod, &pod);
            self.pods.entry(pod.uid.clone()).or_insert(pod);
        }
    }

    /// The API was asked for Services and has not told all of them.
    pub(super) fn expects_services(&self) -> bool {
        self.cluster.is_some() && self.troubles.is_empty() && !self.services.complete()
    }

    /// Readable when the API told something.
    pub(super) fn wake(&self) -> Option<BorrowedFd<'_>> {
        self.cluster.as_ref().map(|cluster| cluster.wake().as_fd())
    }

    /// Takes in what the API told.
    pub(super) fn take_facts(&mut self, session: &mut Session) {
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
                }
                Fact::Listed(resource) => {
                    if resource != "pods" {
                        self.services.listed();
                    }
                }
                Fact::Node(node) => self.node = Some(node),
                Fact::Trouble(trouble, why) => {
                    if self.cluster.as_ref().is_some_and(|cluster| cluster.is_news(&trouble)) {
                        eprintln!("svctrace: {why}");
                    }
                    self.troubles.insert(why);
                }
            }
        }
    }

    fn pod(&mut self, session: &mut Session, pod: Pod) {
        session.tell(RecordKind::Pod, &pod);
        if pod.deleted {
            self.pods.remove(&pod.uid);
            self.pending.remove(&pod.uid);
            return;
        }
        if self.attached.contains(&pod.uid) {
            session.seed_pod(&pod);
        }
        self.expect(&pod);
        self.pods.insert(pod.uid.clone(), pod);
    }

    /// A pod that the user named and that is not traced yet joins when its cgroup is there.
    fn expect(&mut self, pod: &Pod) {
        let key = (pod.namespace.clone(), pod.name.clone());
        let elsewhere = pod.node.is_some() && self.node.is_some() && pod.node != self.node;
        if self.named.contains(&key)
            && !elsewhere
            && !self.attached.contains(&pod.uid)
            && self.pending.insert(pod.uid.clone(), key).is_none()
        {
            self.fresh.insert(pod.uid.clone());
        }
    }

    /// A cgroup was made: the pod's that we wait for is attached before a container can start.
    pub(super) fn cgroup_made(&mut self, session: &mut Session, directory: &Directory) {
        let uid = directory.dir.file_name().and_then(|name| cgroups::pod_uid(name.to_str()?));
        let Some(uid) = uid else { return };
        if !self.awaited.is_empty() && !self.pending.contains_key(&uid) {
            self.look_for_awaited();
        }
        let again = self.attached.contains(&uid) && !session.traces(directory);
        if again || self.pending.contains_key(&uid) {
            self.attach_pod(session, &uid, std::slice::from_ref(directory));
        }
    }

    /// Attaches to named pods whose cgroups have appeared.
    pub(super) fn attach_pods(&mut self, session: &mut Session) {
        if !self.awaited.is_empty() {
            self.look_for_awaited();
        }
        for uid in std::mem::take(&mut self.fresh) {
            let directories = self.mount.pods(&uid);
            if !directories.is_empty() {
                self.attach_pod(session, &uid, &directories);
            }
        }
    }

    /// Once a second: pods that were re-created under a traced name, cgroups whose making was missed.
    pub(super) fn look_again(&mut self) {
        if self.named.is_empty() {
            return;
        }
        // A log folder outlives its pod: without a cgroup it is an old one.
        self.pending.retain(|uid, key| {
            self.awaited.contains(key)
                || self.pods.get(uid).is_some_and(|pod| pod.origin == Origin::Api)
        });
        self.look_for_awaited();
        self.fresh.extend(self.pending.keys().cloned());
    }

    fn look_for_awaited(&mut self) {
        for pod in self.node_files.names() {
            self.expect(&pod);
        }
    }

    fn attach_pod(&mut self, session: &mut Session, uid: &str, directories: &[Directory]) {
        for directory in directories {
            if let Err(error) = session.attach(directory, Role::Target, None) {
                eprintln!("svctrace: cannot attach to a pod: {error:#}");
                return;
            }
        }
        let Some(key) = self.pending.remove(uid) else { return };
        eprintln!("svctrace: attached to pod {}/{}…", key.0, key.1);
        self.awaited.remove(&key);
        self.attached.insert(uid.to_owned());
        if let Some(pod) = self.pods.get(uid) {
            session.seed_pod(pod);
        } else if let Some(pod) = self.node_files.names().into_iter().find(|pod| pod.uid == uid) {
            let pod = self.node_files.details(pod);
            session.tell(RecordKind::Pod, &pod);
            session.seed_pod(&pod);
        }
    }

    /// Attaches to the resolvers that the targets ask, as far as they are on this node and something
    /// is known that was not at the last call.
    pub(super) fn attach_resolvers(&mut self, session: &mut Session) {
        let servers = session.servers.clone();
        let asked_others = self.servers.as_ref() != Some(&servers);
        if !std::mem::take(&mut self.services_changed) && !asked_others {
            return;
        }
        let found = Search {
            mount: &self.mount,
            node_files: &self.node_files,
            services: &self.services,
            servers: &servers,
            process: session.process.filter(|_| asked_others && !session.has_resolver()),
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
