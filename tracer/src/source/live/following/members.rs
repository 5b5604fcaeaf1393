//! The pods of the trace: they join when their cgroups appear, leave when those go or when they are
//! no longer meant, and wait where there is no room. Which pods are meant is decided elsewhere.

use std::path::PathBuf;

use tracer_common::limits::TARGET_DIRS_MAX;

use super::Following;
use crate::context::{EndpointSlice, Origin, Pod, Role};
use crate::record::RecordKind;
use crate::source::live::bundles;
use crate::source::live::cgroups::{self, Directory};
use crate::source::live::resolver::answers_at;
use crate::source::live::selection::Selection;
use crate::source::live::session::Session;

/// Most pods named in one line.
const MENTIONED: usize = 5;
/// Fewer characters of a container's id are no prefix of it.
const ID_MIN: usize = 6;

/// A pod that belongs to the trace.
#[derive(Debug, Default)]
pub(super) struct Member {
    /// In words.
    pub(super) label: String,
    /// Directories that are attached to.
    pub(super) traced: Vec<PathBuf>,
    /// It was traced once.
    pub(super) was_traced: bool,
    /// The API says it is gone.
    pub(super) deleted: bool,
}

impl Following {
    pub(super) fn is_traced(&self, uid: &str) -> bool {
        self.members.get(uid).is_some_and(|member| member.was_traced)
    }

    /// Endpoints came or went: pods behind a Service without selector join or leave.
    pub(super) fn behind(&mut self, session: &mut Session, slice: &EndpointSlice) {
        let matters = self.selections.iter().any(Selection::is_by_endpoints);
        if !matters || !self.services.complete() {
            return;
        }
        let of = |pod: &&Pod| pod.namespace == slice.namespace;
        let pods: Vec<Pod> = self.pods.values().filter(of).cloned().collect();
        for pod in pods {
            self.expect(&pod);
            self.let_go(session, &pod);
        }
    }

    pub(super) fn pod(&mut self, session: &mut Session, pod: Pod) {
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
        let known = self.pods.get(&pod.uid).is_some_and(|known| known.ips == pod.ips);
        self.asked_came |= !known && answers_at(&pod, &session.servers);
        self.pods.insert(pod.uid.clone(), pod);
    }

    pub(super) fn takes(&self, pod: &Pod) -> bool {
        let own = self.own.as_ref() == Some(&pod.uid);
        self.selections.iter().any(|at| !(own && at.is_broad()) && at.takes(pod, &self.services))
    }

    /// A pod that the user means and that is not traced yet joins when its cgroup is there.
    pub(super) fn expect(&mut self, pod: &Pod) {
        let elsewhere = pod.node.is_some() && self.node.is_some() && pod.node != self.node;
        if !elsewhere && self.takes(pod) {
            self.join(&pod.uid, format!("pod {}/{}", pod.namespace, pod.name));
        }
    }

    pub(super) fn join(&mut self, uid: &str, label: String) {
        let fresh = &mut self.fresh;
        let member = self.members.entry(uid.to_owned()).or_insert_with(|| {
            fresh.insert(uid.to_owned());
            Member::default()
        });
        member.label = label;
    }

    /// A traced pod that is no longer meant (its labels changed, its Service dropped it) leaves.
    pub(super) fn let_go(&mut self, session: &mut Session, pod: &Pod) {
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
            say!("svctrace: {} is no longer selected; it is not traced any more", member.label);
        }
    }

    /// Whether a container belongs to the trace; no, where its name is needed and unknown.
    pub(super) fn is_wanted(&self, name: Option<&str>, id: &str) -> bool {
        let by_id = |wanted: &str| wanted.len() >= ID_MIN && id.starts_with(wanted);
        self.containers.is_empty()
            || self.containers.iter().any(|wanted| Some(wanted.as_str()) == name || by_id(wanted))
    }

    /// A cgroup was made: a pod's that belongs to the trace is attached before a process runs in it.
    pub(in crate::source::live) fn cgroup_made(
        &mut self,
        session: &mut Session,
        directory: &Directory,
    ) {
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
    pub(in crate::source::live) fn attach_pods(&mut self, session: &mut Session) -> Vec<String> {
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
    pub(in crate::source::live) fn in_words(&self, uids: &[String]) -> String {
        let names: Vec<String> = uids.iter().take(MENTIONED).map(|uid| self.label(uid)).collect();
        let names = names.join(", ");
        match uids.len().saturating_sub(MENTIONED) {
            0 => names,
            more => format!("{} pods: {names} and {more} more", uids.len()),
        }
    }

    /// Says that these pods have joined.
    pub(in crate::source::live) fn say_attached(&self, uids: &[String]) {
        if !uids.is_empty() {
            say!("svctrace: attached to {}…", self.in_words(uids));
        }
    }

    /// Once a second: pods that have left, pods that were re-created, cgroups whose making was
    /// missed, pods that found no room.
    pub(in crate::source::live) fn look_again(&mut self, session: &Session) {
        if self.selections.is_empty() {
            return;
        }
        for member in self.members.values_mut().filter(|member| !member.traced.is_empty()) {
            member.traced.retain(|dir| dir.is_dir());
            if member.traced.is_empty() {
                say!("svctrace: {} has left this node", member.label);
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

    pub(super) fn look_for_members(&mut self) {
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
                        say!("svctrace: cannot attach to {}: {error:#}", self.label(uid));
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
        let (selections, services) = (&self.selections, &self.services);
        self.awaited.retain(|at| !selections.get(*at).is_some_and(Selection::takes_all));
        let known = self.pods.get(uid).cloned();
        let pod = known.or_else(|| {
            let found = self.node_files.names().into_iter().find(|pod| pod.uid == uid)?;
            let pod = self.node_files.details(found);
            session.tell(RecordKind::Pod, &pod);
            Some(pod)
        });
        let Some(pod) = pod else { return };
        session.seed_pod(&pod);
        let takes = |at: &usize| selections.get(*at).is_some_and(|at| at.takes(&pod, services));
        self.awaited.retain(|at| !takes(at));
        if let Some(member) = self.members.get_mut(uid) {
            member.label = format!("pod {}/{}", pod.namespace, pod.name);
        }
    }

    fn say_full(&mut self) {
        if !std::mem::replace(&mut self.full, true) {
            let untraced = self.members.values().filter(|at| at.traced.is_empty()).count();
            say!(
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
                fresh.then(|| bundles::container_name(&self.host_root, id)).flatten()
            })
        };
        let wanted = |at: &&(String, Directory)| self.is_wanted(name(&at.0).as_deref(), &at.0);
        all.iter().filter(wanted).map(|at| at.1.clone()).collect()
    }
}
