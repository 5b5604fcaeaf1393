//! What comes and goes while a trace runs: facts from the API and the node's folders, awaited and
//! re-created pods, the resolver. Passes all on to the session.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use tracer_common::limits::TARGET_DIRS_MAX;

use super::bundle::Bundles;
use super::cgroups::{self, Directory, Mount};
use super::kubernetes::{Cluster, Fact};
use super::node_files::NodeFiles;
use super::resolver::{Search, Services};
use super::selection::{Asked, Selection, Sources};
use super::session::Session;
use super::targets::{self, Known};
use super::{Kind, Namespace, Which};
use crate::context::{EndpointSlice, Origin, Pod, Role};
use crate::record::RecordKind;

/// Most pods named in one line.
const MENTIONED: usize = 5;
/// Fewer characters of a container's id are no prefix of it.
const ID_MIN: usize = 6;

/// The world around the targets.
pub(super) struct Following {
    /// This node's name in the cluster, once known.
    pub(super) node: Option<String>,
    /// This host's name.
    pub(super) hostname: String,
    mount: Mount,
    cluster: Option<Cluster>,
    node_files: NodeFiles,
    bundles: Bundles,
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
    // Resolvers may have come: Services changed; and which servers were known then.
    services_changed: bool,
    servers: Option<HashSet<IpAddr>>,
    pods: HashMap<String, Pod>,
    troubles: HashSet<String>,
}

/// A pod that belongs to the trace.
#[derive(Debug, Default)]
struct Member {
    /// In words.
    label: String,
    /// Directories that are attached to.
    traced: Vec<PathBuf>,
    /// It was traced once.
    was_traced: bool,
    /// The API says it is gone.
    deleted: bool,
}

impl Following {
    /// Knows nothing yet.
    pub(super) fn new(mount: Mount, cluster: Option<Cluster>, options: &super::Options) -> Self {
        let own = mount.of_process(std::process::id());
        let own = own.and_then(|own| Some(mount.pod_around(&own.dir)?.0));
        let hostname = nix::unistd::gethostname();
        Self {
            node: None,
            hostname: hostname.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
            mount,
            cluster,
            node_files: NodeFiles::new(&options.host_root),
            bundles: Bundles::new(&options.host_root),
            services: Services::default(),
            selections: Vec::new(),
            awaited: HashSet::new(),
            containers: options.containers.clone(),
            members: HashMap::new(),
            fresh: HashSet::new(),
            own,
            full: false,
            services_changed: true,
            servers: None,
            pods: HashMap::new(),
            troubles: HashSet::new(),
        }
    }

    /// Finds the pods that the user means; later ones join. An error is the sentence why there is
    /// nothing to trace, unless it is all right to `wait`.
    pub(super) fn select(
        &mut self,
        namespace: &Namespace,
        which: &Which,
        wait: bool,
        within: Duration,
    ) -> anyhow::Result<()> {
        let here = self.mount.by_pod();
        if let (Which::Named(Kind::Pod, name), Namespace::Default | Namespace::Named(_)) =
            (which, namespace)
        {
            let namespace = match namespace {
                Namespace::Named(namespace) => namespace.clone(),
                _ => self.cluster.as_ref().map_or("default", Cluster::default_namespace).to_owned(),
            };
            return self.select_pod((&namespace, name), wait, within);
        }
        let sources =
            Sources { cluster: self.cluster.as_ref(), node_files: &self.node_files, within };
        let Asked { selection, pods, note } = sources.ask(namespace, which)?;
        if let Some(note) = note {
            eprintln!("svctrace: {note}");
        }
        let (label, broad) = (selection.label.clone(), selection.is_broad());
        let own = |pod: &&Pod| broad && self.own.as_ref() == Some(&pod.uid);
        let (found, absent): (Vec<&Pod>, Vec<&Pod>) =
            pods.iter().filter(|pod| !own(pod)).partition(|pod| here.contains_key(&pod.uid));
        let found: Vec<Pod> = found.into_iter().cloned().collect();
        if let Some(node) = found.iter().find_map(|pod| pod.node.clone()) {
            self.node = Some(node);
        }
        let this = self.node.as_ref().unwrap_or(&self.hostname);
        let (elsewhere, unstarted): (Vec<&Pod>, Vec<&Pod>) = absent
            .into_iter()
            .partition(|pod| pod.origin == Origin::Api && pod.node.as_ref() != Some(this));
        let unstarted = unstarted.len();
        let more = self.more();
        let mut any = !found.is_empty();
        if selection.takes_all() {
            let unnamed = here.keys().filter(|uid| self.own.as_ref() != Some(*uid));
            let unnamed: Vec<String> = unnamed.cloned().collect();
            any |= !unnamed.is_empty();
            unnamed.iter().for_each(|uid| self.join(uid, format!("pod {uid}")));
        }
        if !any && !wait {
            bail!(targets::none_here(&label, &elsewhere, unstarted, &more));
        }
        if any && !elsewhere.is_empty() {
            let (count, nodes) = (elsewhere.len(), targets::on_nodes(&elsewhere));
            eprintln!("svctrace: {label}: on this node only; not traced: {count} on {nodes}");
        }
        self.selections.push(selection);
        for pod in pods.iter().filter(|pod| !elsewhere.iter().any(|at| at.uid == pod.uid)) {
            self.expect(pod);
            self.pods.insert(pod.uid.clone(), pod.clone());
        }
        match any {
            true => self.check_containers(&found),
            false => Ok(self.wait_for(self.selections.len() - 1)),
        }
    }

    fn select_pod(
        &mut self,
        name: (&str, &str),
        wait: bool,
        within: Duration,
    ) -> anyhow::Result<()> {
        let known =
            targets::pod(&self.mount, self.cluster.as_ref(), &self.node_files, name, within);
        if !wait && !matches!(known, Known::Here(..)) {
            let (cluster, about) = (self.cluster.as_ref(), (self.hostname.as_str(), &*self.more()));
            bail!(targets::why_not(cluster, &self.node_files, name, &known, about));
        }
        self.selections.push(Selection::named(name.0, name.1));
        let mut found = Vec::new();
        if let Known::Here(pod) | Known::NotHere(pod) = &known {
            if matches!(known, Known::Here(..)) {
                found.push(pod.clone());
                self.node = pod.node.clone().or(self.node.take());
            }
            self.pods.insert(pod.uid.clone(), pod.clone());
            self.expect(pod);
        }
        match found.is_empty() {
            true => Ok(self.wait_for(self.selections.len() - 1)),
            false => self.check_containers(&found),
        }
    }

    /// What of the user's other options belongs into a command for another node.
    fn more(&self) -> String {
        self.containers.iter().map(|name| format!(" -c {name}")).collect()
    }

    /// An error unless one of the pods has one of the wanted containers.
    fn check_containers(&self, pods: &[Pod]) -> anyhow::Result<()> {
        let mut names = BTreeSet::new();
        for pod in pods {
            let more = self.node_files.details(Pod { containers: Vec::new(), ..pod.clone() });
            for container in pod.containers.iter().chain(&more.containers) {
                if self.is_wanted(Some(&container.name), container.id.as_deref().unwrap_or("")) {
                    return Ok(());
                }
                names.insert(container.name.clone());
            }
        }
        if self.containers.is_empty() || names.is_empty() {
            return Ok(());
        }
        let (wanted, names) = (self.containers.join(", "), Vec::from_iter(names).join(", "));
        bail!("no container {wanted} in these pods; their containers are {names}")
    }

    /// Whether a container belongs to the trace; `None` where its name is needed and unknown.
    fn wants(&self, name: Option<&str>, id: &str) -> Option<bool> {
        match name {
            None if !self.is_wanted(None, id) => None,
            name => Some(self.is_wanted(name, id)),
        }
    }

    fn is_wanted(&self, name: Option<&str>, id: &str) -> bool {
        let by_id = |wanted: &str| wanted.len() >= ID_MIN && id.starts_with(wanted);
        self.containers.is_empty()
            || self.containers.iter().any(|wanted| Some(wanted.as_str()) == name || by_id(wanted))
    }

    /// Notes that pods of a selection are to be waited for.
    fn wait_for(&mut self, at: usize) {
        if let (Some(cluster), Some(selection)) = (&self.cluster, self.selections.get(at))
            && let (Some(namespace), Some(name)) = (&selection.namespace, selection.name())
        {
            cluster.follow_pod(namespace, name);
        }
        self.awaited.insert(at);
    }

    /// Some selection has no pod yet.
    pub(super) fn is_waiting(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// What is awaited, in words.
    pub(super) fn awaited(&self) -> String {
        let labels = self.awaited.iter().filter_map(|at| self.selections.get(*at));
        labels.map(|at| at.label.clone()).collect::<Vec<_>>().join(", ")
    }

    /// Tells the pods that were found before the session existed, and starts the watches.
    pub(super) fn begin(&mut self, session: &mut Session) {
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

    fn is_traced(&self, uid: &str) -> bool {
        self.members.get(uid).is_some_and(|member| member.was_traced)
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
                    self.behind(session, &slice);
                }
                Fact::Listed => self.services.listed(),
                Fact::Node(node) => self.node = Some(node),
                Fact::Trouble(why) => {
                    if !self.troubles.contains(&why) {
                        eprintln!("svctrace: {why}");
                        self.troubles.insert(why);
                    }
                }
            }
        }
    }

    /// Endpoints came or went: pods behind a Service without selector join or leave.
    fn behind(&mut self, session: &mut Session, slice: &EndpointSlice) {
        if !self.services.complete() {
            return;
        }
        let of = |pod: &&Pod| pod.namespace == slice.namespace;
        let pods: Vec<Pod> = self.pods.values().filter(of).cloned().collect();
        for pod in pods {
            self.expect(&pod);
            self.let_go(session, &pod);
        }
    }

    fn pod(&mut self, session: &mut Session, pod: Pod) {
        session.tell(RecordKind::Pod, &pod);
        if pod.deleted {
            self.pods.remove(&pod.uid);
            if let Some(member) = self.members.get_mut(&pod.uid) {
                member.deleted = true;
            }
            return;
        }
        if self.is_traced(&pod.uid) {
            session.seed_pod(&pod);
            if !self.containers.is_empty() {
                // Names of containers that started meanwhile.
                self.fresh.insert(pod.uid.clone());
            }
        }
        self.expect(&pod);
        self.let_go(session, &pod);
        self.pods.insert(pod.uid.clone(), pod);
    }

    fn takes(&self, pod: &Pod) -> bool {
        let own = self.own.as_ref() == Some(&pod.uid);
        self.selections.iter().any(|at| !(own && at.is_broad()) && at.takes(pod, &self.services))
    }

    /// A pod that the user means and that is not traced yet joins when its cgroup is there.
    fn expect(&mut self, pod: &Pod) {
        let elsewhere = pod.node.is_some() && self.node.is_some() && pod.node != self.node;
        if !elsewhere && self.takes(pod) {
            self.join(&pod.uid, format!("pod {}/{}", pod.namespace, pod.name));
        }
    }

    fn join(&mut self, uid: &str, label: String) {
        let fresh = &mut self.fresh;
        let member = self.members.entry(uid.to_owned()).or_insert_with(|| {
            fresh.insert(uid.to_owned());
            Member::default()
        });
        member.label = label;
    }

    /// A traced pod that is no longer meant (its labels changed, its Service dropped it) leaves.
    fn let_go(&mut self, session: &mut Session, pod: &Pod) {
        let may = pod.origin == Origin::Api && self.selections.iter().any(Selection::may_let_go);
        if !may || self.takes(pod) {
            return;
        }
        let Some(member) = self.members.remove(&pod.uid) else { return };
        self.fresh.remove(&pod.uid);
        for dir in &member.traced {
            session.release(dir);
        }
        if !member.traced.is_empty() {
            eprintln!(
                "svctrace: {} is no longer selected; it is not traced any more",
                member.label
            );
        }
    }

    /// A cgroup was made: a pod's that belongs to the trace is attached before a process runs in it.
    pub(super) fn cgroup_made(&mut self, session: &mut Session, directory: &Directory) {
        if self.selections.is_empty() {
            return;
        }
        let Some((uid, pod)) = self.mount.pod_around(&directory.dir) else { return };
        if !self.members.contains_key(&uid) && self.own.as_ref() != Some(&uid) {
            if self.selections.iter().any(Selection::takes_all) {
                let known = self.pods.get(&uid);
                let label = known.map(|pod| format!("pod {}/{}", pod.namespace, pod.name));
                self.join(&uid, label.unwrap_or_else(|| format!("pod {uid}")));
            } else {
                self.look_for_members();
            }
        }
        if self.members.contains_key(&uid)
            && (!self.containers.is_empty() || !session.traces(&pod))
            && self.attach_pod(session, &uid, &[pod], true)
        {
            self.say_attached(&[uid]);
        }
    }

    /// Attaches to pods whose cgroups have appeared; which ones for the first time, by UID.
    pub(super) fn attach_pods(&mut self, session: &mut Session) -> Vec<String> {
        if !self.awaited.is_empty() {
            self.look_for_members();
        }
        if self.fresh.is_empty() {
            return Vec::new();
        }
        let here = self.mount.by_pod();
        let fresh = std::mem::take(&mut self.fresh);
        let mut came: Vec<String> = fresh
            .into_iter()
            .filter(|uid| {
                let directories = here.get(uid).map(Vec::as_slice).unwrap_or_default();
                self.attach_pod(session, uid, directories, false)
            })
            .collect();
        came.sort_by_key(|uid| self.label(uid));
        came
    }

    fn label(&self, uid: &str) -> String {
        self.members.get(uid).map(|member| member.label.clone()).unwrap_or_default()
    }

    /// Pods in words; not more than some.
    pub(super) fn in_words(&self, uids: &[String]) -> String {
        let names: Vec<String> = uids.iter().take(MENTIONED).map(|uid| self.label(uid)).collect();
        let names = names.join(", ");
        match uids.len().saturating_sub(MENTIONED) {
            0 => names,
            more => format!("{} pods: {names} and {more} more", uids.len()),
        }
    }

    /// Says that these pods have joined.
    pub(super) fn say_attached(&self, uids: &[String]) {
        if !uids.is_empty() {
            eprintln!("svctrace: attached to {}…", self.in_words(uids));
        }
    }

    /// Once a second: pods that have left, pods that were re-created, cgroups whose making was
    /// missed, pods that found no room.
    pub(super) fn look_again(&mut self, session: &Session) {
        if self.selections.is_empty() {
            return;
        }
        for member in self.members.values_mut().filter(|member| !member.traced.is_empty()) {
            member.traced.retain(|dir| dir.is_dir());
            if member.traced.is_empty() {
                eprintln!("svctrace: {} has left this node", member.label);
            }
        }
        // A log folder outlives its pod: without a cgroup it is an old one.
        let (pods, awaited) = (&self.pods, !self.awaited.is_empty());
        self.members.retain(|uid, member| {
            let known = pods.get(uid).is_some_and(|pod| pod.origin == Origin::Api);
            !member.traced.is_empty() || !member.deleted && (member.was_traced || awaited || known)
        });
        if self.full && session.has_room() {
            self.full = false;
        }
        self.look_for_members();
        let untraced = |at: &(&String, &Member)| at.1.traced.is_empty();
        let narrow = !self.containers.is_empty();
        let again = self.members.iter().filter(|at| narrow || untraced(at));
        self.fresh.extend(again.map(|(uid, _)| uid.clone()));
    }

    fn look_for_members(&mut self) {
        for pod in self.node_files.names() {
            if !self.members.contains_key(&pod.uid) {
                self.expect(&pod);
            }
        }
    }

    /// True when the pod is traced for the first time (or again after its cgroup was gone).
    /// `started`: something in it is about to run.
    fn attach_pod(
        &mut self,
        session: &mut Session,
        uid: &str,
        directories: &[Directory],
        started: bool,
    ) -> bool {
        let mut traced = Vec::new();
        for pod in directories {
            let goals = match self.containers.is_empty() {
                true => vec![pod.clone()],
                false => self.wanted_containers(uid, pod, started),
            };
            for goal in goals {
                if session.traces(&goal) {
                    traced.push(goal.dir);
                    continue;
                }
                if !session.has_room() {
                    self.say_full();
                    continue;
                }
                match session.attach(&goal, Role::Target, None) {
                    Ok(_) => traced.push(goal.dir),
                    // Gone again meanwhile: nothing to say.
                    Err(error) if goal.exists() => {
                        eprintln!("svctrace: cannot attach to {}: {error:#}", self.label(uid));
                    }
                    Err(_) => {}
                }
            }
        }
        let Some(member) = self.members.get_mut(uid).filter(|_| !traced.is_empty()) else {
            return false;
        };
        let first = member.traced.is_empty();
        (member.traced, member.was_traced) = (traced, true);
        if first {
            self.tell_attached(session, uid);
        }
        first
    }

    fn tell_attached(&mut self, session: &mut Session, uid: &str) {
        let known = self.pods.get(uid).cloned();
        let pod = known.or_else(|| {
            let found = self.node_files.names().into_iter().find(|pod| pod.uid == uid)?;
            let pod = self.node_files.details(found);
            session.tell(RecordKind::Pod, &pod);
            Some(pod)
        });
        let Some(pod) = pod else { return };
        session.seed_pod(&pod);
        let arrived: Vec<usize> = self
            .awaited
            .iter()
            .filter(|at| self.selections.get(**at).is_some_and(|at| at.takes(&pod, &self.services)))
            .copied()
            .collect();
        self.awaited.retain(|at| !arrived.contains(at));
        if let Some(member) = self.members.get_mut(uid) {
            member.label = format!("pod {}/{}", pod.namespace, pod.name);
        }
    }

    fn say_full(&mut self) {
        if !std::mem::replace(&mut self.full, true) {
            let untraced = self.members.values().filter(|at| at.traced.is_empty()).count();
            eprintln!(
                "svctrace: {TARGET_DIRS_MAX} cgroups are traced, the most at one time; {untraced} \
                 selected pods wait for one of them to go"
            );
        }
    }

    /// The containers in a pod's cgroup that `-c` names.
    fn wanted_containers(&self, uid: &str, pod: &Directory, started: bool) -> Vec<Directory> {
        let all = cgroups::containers_of(&pod.dir);
        let known = self.pods.get(uid);
        let name = |id: &str| {
            let mut told = known.into_iter().flat_map(|pod| &pod.containers);
            let told = told.find(|at| at.id.as_deref() == Some(id)).map(|at| at.name.clone());
            told.or_else(|| self.node_files.container_name(id)).or_else(|| {
                // Read once: before the container runs, or at the start.
                let fresh = started || !self.is_traced(uid);
                fresh.then(|| self.bundles.container_name(id)).flatten()
            })
        };
        let wanted = |at: &&(String, Directory)| self.wants(name(&at.0).as_deref(), &at.0);
        all.iter().filter(|at| wanted(at) == Some(true)).map(|at| at.1.clone()).collect()
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
