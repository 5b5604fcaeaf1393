//! Which pods the user means: a rule for pods known now and later, and the API's (or, without it,
//! the node's) answer to which there are. Attaches to nothing.

use std::time::Duration;

use anyhow::{anyhow, bail};

use super::api::Failure;
use super::kubernetes::Cluster;
use super::lookup::{self, Behind};
use super::node_files::NodeFiles;
use super::resolver::Services;
use super::selector::Selector;
use super::targets::{in_one_line, similar};
use super::workload::Kind;
use super::{Namespace, Which};
use crate::context::{Origin, Pod};

/// Label of a Deployment's pods with the end of their ReplicaSet's name.
const TEMPLATE_HASH: &str = "pod-template-hash";

/// A rule that takes pods.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    /// In words, as the user wrote it.
    pub(super) label: String,
    /// Of this namespace only.
    pub(super) namespace: Option<String>,
    rule: Rule,
}

#[derive(Clone, Debug)]
enum Rule {
    All,
    Name(String),
    Labels(Selector),
    /// By who owns them: exact, but only the API knows owners.
    Owner(Kind, String),
    /// By names that look generated for this owner: a guess.
    Pattern(Kind, String),
    /// In the EndpointSlices of this Service.
    Behind(String),
}

/// What there is at the start.
#[derive(Debug)]
pub(super) struct Asked {
    /// The rule, for pods to come.
    pub(super) selection: Selection,
    /// Pods that it takes, on all nodes; those that have ended are left out.
    pub(super) pods: Vec<Pod>,
    /// What the user should know about how they were found.
    pub(super) note: Option<String>,
}

impl Selection {
    /// One pod.
    pub(super) fn named(namespace: &str, name: &str) -> Self {
        Self {
            label: format!("pod {namespace}/{name}"),
            namespace: Some(namespace.to_owned()),
            rule: Rule::Name(name.to_owned()),
        }
    }

    /// Whether `pod` is one of them; as far as is known.
    pub(super) fn takes(&self, pod: &Pod, services: &Services) -> bool {
        if self.namespace.as_ref().is_some_and(|namespace| *namespace != pod.namespace) {
            return false;
        }
        match &self.rule {
            Rule::All => true,
            Rule::Name(name) => pod.name == *name,
            Rule::Labels(selector) => knows_labels(pod) && selector.matches(&pod.labels),
            Rule::Owner(kind, name) => owned(pod, *kind, name),
            Rule::Pattern(kind, name) => match pod.owner {
                Some(_) => owned(pod, *kind, name),
                None => kind.generates(name, &pod.name),
            },
            Rule::Behind(service) => services.is_behind(&pod.namespace, service, &pod.uid),
        }
    }

    /// Whether it takes pods of which nothing but the UID is known.
    pub(super) fn takes_all(&self) -> bool {
        self.namespace.is_none() && matches!(self.rule, Rule::All)
    }

    /// Whether many pods are meant, svctrace's own hardly among them.
    pub(super) fn is_broad(&self) -> bool {
        matches!(self.rule, Rule::All | Rule::Labels(_))
    }

    /// A pod's absence from it means something: it was taken by what may change.
    pub(super) fn may_let_go(&self) -> bool {
        matches!(self.rule, Rule::Labels(_) | Rule::Behind(_))
    }

    /// Endpoints decide about it.
    pub(super) fn is_by_endpoints(&self) -> bool {
        matches!(self.rule, Rule::Behind(_))
    }

    /// The one name it is about.
    pub(super) fn name(&self) -> Option<&str> {
        match &self.rule {
            Rule::Name(name) => Some(name),
            _ => None,
        }
    }
}

fn knows_labels(pod: &Pod) -> bool {
    pod.origin == Origin::Api || !pod.labels.is_empty()
}

fn owned(pod: &Pod, kind: Kind, name: &str) -> bool {
    let Some((owner_kind, owner)) = pod.owner.as_deref().and_then(|at| at.split_once('/')) else {
        return false;
    };
    if kind == Kind::ReplicaSet && owner_kind == "Deployment" {
        let hash = pod.labels.get(TEMPLATE_HASH);
        return hash.is_some_and(|hash| name == format!("{owner}-{hash}"));
    }
    owner_kind == kind.name() && owner == name
}

/// Where to ask.
pub(super) struct Sources<'a> {
    /// The API, if there is one.
    pub(super) cluster: Option<&'a Cluster>,
    /// kubelet's folders.
    pub(super) node_files: &'a NodeFiles,
    /// Time for an answer.
    pub(super) within: Duration,
}

impl Sources<'_> {
    /// Everything but a pod by its name; an error is a sentence for the user.
    pub(super) fn ask(&self, namespace: &Namespace, which: &Which) -> anyhow::Result<Asked> {
        let default = || self.cluster.map_or("default", Cluster::default_namespace).to_owned();
        let namespace = match namespace {
            Namespace::Default => Some(default()),
            Namespace::Named(name) => Some(name.clone()),
            Namespace::All => None,
        };
        let place =
            namespace.as_ref().map_or("all namespaces".into(), |at| format!("namespace {at}"));
        match which {
            Which::All => self.all(namespace, &place),
            Which::Labels(selector) => {
                let label = format!("-l {selector:?} in {place}", selector = selector.to_string());
                self.selected(label, namespace, selector.clone())
            }
            Which::Named(kind, name) => self.workload(namespace.unwrap_or_default(), *kind, name),
        }
    }

    fn all(&self, namespace: Option<String>, place: &str) -> anyhow::Result<Asked> {
        let label = format!("pods of {place}");
        let selection = Selection { label, namespace, rule: Rule::All };
        // A whole cluster's list says nothing that this node's cgroups do not.
        let cluster = self.cluster.filter(|_| selection.namespace.is_some());
        let listed =
            cluster.map(|at| lookup::pods(at, selection.namespace.as_deref(), None, self.within));
        let (pods, note) = match listed {
            Some(Ok(pods)) => return Ok(Asked { selection, pods, note: None }),
            Some(Err(error)) => {
                let why = in_one_line(&error);
                (
                    self.node_files.all(),
                    Some(format!("Kubernetes API: {why}; going by this node's own files")),
                )
            }
            None => (self.node_files.all(), None),
        };
        let takes = |pod: &Pod| selection.takes(pod, &Services::default());
        let pods = pods.into_iter().filter(takes).collect();
        Ok(Asked { selection, pods, note })
    }

    fn selected(
        &self,
        label: String,
        namespace: Option<String>,
        selector: Selector,
    ) -> anyhow::Result<Asked> {
        let Some(cluster) = self.cluster else {
            bail!(
                "{label}: there is no Kubernetes API, and nothing else knows labels: name the pods"
            );
        };
        let listed = lookup::pods(cluster, namespace.as_deref(), Some(&selector), self.within);
        let pods = listed.map_err(|error| self.no_pods(&label, &error))?;
        let selection = Selection { label, namespace, rule: Rule::Labels(selector) };
        Ok(Asked { selection, pods, note: None })
    }

    fn no_pods(&self, label: &str, error: &anyhow::Error) -> anyhow::Error {
        match is_forbidden(error) {
            true => anyhow!("{label}: {}", rule(Kind::Pod, "list")),
            false => anyhow!("{label}: the Kubernetes API gave no pods: {}", in_one_line(error)),
        }
    }

    fn workload(&self, namespace: String, kind: Kind, name: &str) -> anyhow::Result<Asked> {
        let label = format!("{}/{name} in namespace {namespace}", kind.short());
        let Some(cluster) = self.cluster else {
            return self.guess(label, namespace, kind, name, "there is no Kubernetes API");
        };
        let within = self.within;
        match lookup::behind(cluster, (kind, &namespace, name), within) {
            Ok(Behind::Labels(selector)) => self.selected(label, Some(namespace), selector),
            Ok(Behind::Slices(uids)) => {
                let listed = lookup::pods(cluster, Some(&namespace), None, within);
                let mut pods = listed.map_err(|error| self.no_pods(&label, &error))?;
                pods.retain(|pod| uids.contains(&pod.uid));
                let rule = Rule::Behind(name.to_owned());
                let selection = Selection { label, namespace: Some(namespace), rule };
                Ok(Asked { selection, pods, note: None })
            }
            Ok(Behind::External(host)) => {
                bail!("{label} is another name for {host} (ExternalName): no pods are behind it")
            }
            Ok(Behind::Nothing) => {
                let names = lookup::names(cluster, kind, within);
                let hint = similar(&names, &namespace, name);
                bail!("no {} {name} in namespace {namespace}{hint}", kind.name())
            }
            Err(error) if is_forbidden(&error) && kind == Kind::Service => {
                bail!("{label}: {}; or select its pods with -l key=value", rule(kind, "get"))
            }
            Err(error) if is_forbidden(&error) => {
                let missing = rule(kind, "get");
                let listed = lookup::pods(cluster, Some(&namespace), None, within);
                let mut pods = listed.map_err(|error| self.no_pods(&label, &error))?;
                pods.retain(|pod| owned(pod, kind, name));
                if pods.is_empty() {
                    bail!(
                        "{label}: {missing}, and no pod has it as owner; -l key=value selects pods"
                    );
                }
                let note = format!("{missing}; going by the pods' owners (or use -l key=value)");
                let rule = Rule::Owner(kind, name.to_owned());
                let selection = Selection { label, namespace: Some(namespace), rule };
                Ok(Asked { selection, pods, note: Some(note) })
            }
            Err(error) => {
                let why = format!("the Kubernetes API gave no answer ({})", in_one_line(&error));
                self.guess(label, namespace, kind, name, &why)
            }
        }
    }

    /// By the names of this node's pods.
    fn guess(
        &self,
        label: String,
        namespace: String,
        kind: Kind,
        name: &str,
        why: &str,
    ) -> anyhow::Result<Asked> {
        if kind == Kind::Service {
            bail!("{label}: {why}, and nothing else knows what is behind a Service: name the pods");
        }
        let rule = Rule::Pattern(kind, name.to_owned());
        let selection = Selection { label, namespace: Some(namespace), rule };
        let takes = |pod: &Pod| selection.takes(pod, &Services::default());
        let pods: Vec<Pod> = self.node_files.names().into_iter().filter(takes).collect();
        let note = format!(
            "{}: {why}; its pods on this node are guessed from their names",
            selection.label
        );
        Ok(Asked { selection, pods, note: Some(note) })
    }
}

/// The RBAC rule that is missing, and that it is.
fn rule(kind: Kind, verb: &str) -> String {
    format!(
        "the Kubernetes API does not let us {verb} {plural} (the role lacks: apiGroups: [{group:?}], \
         resources: [{plural:?}], verbs: [{verb:?}])",
        plural = kind.plural(),
        group = kind.group(),
    )
}

fn is_forbidden(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(|failure: &Failure| failure.code() == 403)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, owner: Option<&str>) -> Pod {
        Pod {
            uid: format!("uid-{name}"),
            namespace: "shop".into(),
            name: name.into(),
            owner: owner.map(str::to_owned),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            origin: Origin::Api,
            ..Pod::default()
        }
    }

    fn selection(rule: Rule) -> Selection {
        Selection { label: String::new(), namespace: Some("shop".into()), rule }
    }

    #[test]
    fn rules_take_pods() {
        let none = Services::default();
        let labels = || Rule::Labels(Selector::parse("app in (web,api),!canary").unwrap());
        let web = pod("web-6f7bd8c9d5-4kq8z", Some("Deployment/web"));
        assert!(selection(labels()).takes(&web, &none));
        assert!(
            !selection(labels()).takes(&Pod { namespace: "test".into(), ..web.clone() }, &none)
        );
        let unknown = Pod { origin: Origin::NodeFiles, labels: [].into(), ..web.clone() };
        let only_not = Rule::Labels(Selector::parse("!canary").unwrap());
        assert!(!selection(only_not).takes(&unknown, &none), "labels that nobody knows");
        assert!(selection(Rule::Owner(Kind::Deployment, "web".into())).takes(&web, &none));
        assert!(!selection(Rule::Owner(Kind::StatefulSet, "web".into())).takes(&web, &none));
        assert!(selection(Rule::All).takes(&unknown, &none));
        let guess = selection(Rule::Pattern(Kind::Deployment, "web".into()));
        assert!(guess.takes(&Pod { owner: None, ..web.clone() }, &none));
        // What the API says about the owner beats the look of the name.
        assert!(!guess.takes(&Pod { owner: Some("Job/web".into()), ..web }, &none));
    }

    #[test]
    fn a_replica_sets_pods_by_their_hash() {
        let mut web = pod("web-6f7bd8c9d5-4kq8z", Some("Deployment/web"));
        web.labels.insert(TEMPLATE_HASH.into(), "6f7bd8c9d5".into());
        assert!(owned(&web, Kind::ReplicaSet, "web-6f7bd8c9d5"));
        assert!(!owned(&web, Kind::ReplicaSet, "web-1"));
    }

    #[test]
    fn the_missing_rule_is_spelt_out() {
        let told = rule(Kind::Deployment, "get");
        assert!(
            told.contains(r#"apiGroups: ["apps"], resources: ["deployments"], verbs: ["get"]"#)
        );
    }
}
