//! From what the user named to rules and the pods there are at the start; a sentence where there is
//! nothing to trace. Attaches to nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::bail;

use super::Following;
use crate::context::{Origin, Pod};
use crate::source::live::kubernetes::Cluster;
use crate::source::live::selection::{Asked, Selection, Sources};
use crate::source::live::targets::{self, Known};
use crate::source::live::{Kind, Namespace, Which};

impl Following {
    /// Finds the pods that the user means; later ones join. An error is the sentence why there is
    /// nothing to trace, unless it is all right to `wait`.
    pub(in crate::source::live) fn select(
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
            say!("svctrace: {note}");
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
            say!("svctrace: {label}: on this node only; not traced: {count} on {nodes}");
        }
        self.selections.push(selection);
        for pod in pods.iter().filter(|pod| !elsewhere.iter().any(|at| at.uid == pod.uid)) {
            self.expect(pod);
            self.pods.insert(pod.uid.clone(), pod.clone());
        }
        if !any {
            self.wait_for(self.selections.len() - 1);
            return Ok(());
        }
        self.check_containers(&found)
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
        if found.is_empty() {
            self.wait_for(self.selections.len() - 1);
            return Ok(());
        }
        self.check_containers(&found)
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

    /// Notes that pods of a selection are to be waited for.
    pub(super) fn wait_for(&mut self, at: usize) {
        if let (Some(cluster), Some(selection)) = (&self.cluster, self.selections.get(at))
            && let (Some(namespace), Some(name)) = (&selection.namespace, selection.name())
        {
            cluster.follow_pod(namespace, name);
        }
        self.awaited.insert(at);
    }
}
