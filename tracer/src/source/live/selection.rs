//! Which pods the user means: a rule for pods known now and later, and the API's (or, without it,
//! the node's) answer to which there are. Attaches to nothing.

use std::time::Duration;

use anyhow::{anyhow, bail};
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{self, Pod as ApiPod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{ListParams, PartialObjectMeta};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use super::kubernetes::Cluster;
use super::node_files::NodeFiles;
use super::resolver::Services;
use super::selector::Selector;
use super::targets::{in_one_line, similar};
use super::workload::Kind;
use super::{Namespace, Which, objects};
use crate::context::{Origin, Pod};

/// Objects asked for at a time.
const PAGE: u32 = 250;
/// Most pages read.
const PAGES_MAX: usize = 40;
/// Label of a slice with its Service's name.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
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

    /// The one name it is about.
    pub(super) fn name(&self) -> Option<&str> {
        match &self.rule {
            Rule::Name(name) => Some(name),
            _ => None,
        }
    }

    /// What to ask the API for when its pods are awaited anywhere.
    pub(super) fn labels(&self) -> Option<String> {
        match &self.rule {
            Rule::Labels(selector) => Some(selector.to_string()),
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
        let listed = cluster.map(|at| at.pods(selection.namespace.as_deref(), None, self.within));
        let (pods, note) = match listed {
            Some(Ok(pods)) => return Ok(Asked { selection, pods, note: None }),
            Some(Err(error)) => {
                let why = why(&error);
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
                "{label}: only the Kubernetes API knows labels, and there is none: name the pods"
            );
        };
        let listed = cluster.pods(namespace.as_deref(), Some(&selector), self.within);
        let pods = listed.map_err(|error| self.no_pods(&label, &error))?;
        let selection = Selection { label, namespace, rule: Rule::Labels(selector) };
        Ok(Asked { selection, pods, note: None })
    }

    fn no_pods(&self, label: &str, error: &anyhow::Error) -> anyhow::Error {
        match is_forbidden(error) {
            true => anyhow!("{label}: {}", rule(Kind::Pod, "list")),
            false => anyhow!("{label}: the Kubernetes API gave no pods: {}", why(error)),
        }
    }

    fn workload(&self, namespace: String, kind: Kind, name: &str) -> anyhow::Result<Asked> {
        let label = format!("{}/{name} in namespace {namespace}", kind.short());
        let Some(cluster) = self.cluster else {
            return self.guess(label, namespace, kind, name, "there is no Kubernetes API");
        };
        let within = self.within;
        let client = cluster.client();
        let question = async { behind(client, kind, &namespace, name).await };
        match cluster.ask(within, question) {
            Ok(Behind::Labels(selector)) => self.selected(label, Some(namespace), selector),
            Ok(Behind::Slices(uids)) => {
                let listed = cluster.pods(Some(&namespace), None, within);
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
                let client = cluster.client();
                let names = cluster.ask(within, async { names(client, kind).await });
                let hint = similar(&names.unwrap_or_default(), &namespace, name);
                bail!("no {} {name} in namespace {namespace}{hint}", kind.name())
            }
            Err(error) if is_forbidden(&error) && kind == Kind::Service => {
                bail!("{label}: {}; or select its pods with -l key=value", rule(kind, "get"))
            }
            Err(error) if is_forbidden(&error) => {
                let missing = rule(kind, "get");
                let listed = cluster.pods(Some(&namespace), None, within);
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
                let why = format!("the Kubernetes API gave no answer ({})", why(&error));
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
    matches!(error.downcast_ref(), Some(kube::Error::Api(at)) if at.code == 403 || at.code == 401)
}

/// The server's own word without the object around it.
fn why(error: &anyhow::Error) -> String {
    match error.downcast_ref() {
        Some(kube::Error::Api(status)) => format!("{} ({})", status.reason, status.code),
        _ => in_one_line(error),
    }
}

impl Cluster {
    /// Pods by labels, without those that have ended.
    fn pods(
        &self,
        namespace: Option<&str>,
        selector: Option<&Selector>,
        within: Duration,
    ) -> anyhow::Result<Vec<Pod>> {
        let api: Api<ApiPod> = match namespace {
            Some(namespace) => Api::namespaced(self.client(), namespace),
            None => Api::all(self.client()),
        };
        let mut params = ListParams::default().limit(PAGE);
        if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
            params = params.labels(&selector.to_string());
        }
        self.ask(within, async {
            let mut pods = Vec::new();
            for _ in 0..PAGES_MAX {
                let page = api.list(&params).await?;
                pods.extend(page.items.iter().filter(|pod| !has_ended(pod)).map(objects::pod));
                match page.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => params = params.continue_token(&token),
                    None => break,
                }
            }
            Ok(pods)
        })
    }
}

fn has_ended(pod: &ApiPod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// What stands behind an object.
enum Behind {
    Labels(Selector),
    /// UIDs of pods.
    Slices(Vec<String>),
    External(String),
    Nothing,
}

async fn behind(client: Client, kind: Kind, namespace: &str, name: &str) -> anyhow::Result<Behind> {
    macro_rules! selector_of {
        ($kind:ty) => {{
            let api: Api<$kind> = Api::namespaced(client, namespace);
            let Some(found) = api.get_opt(name).await? else { return Ok(Behind::Nothing) };
            found.spec.map(|spec| spec.selector)
        }};
    }
    let selector: Option<LabelSelector> = match kind {
        Kind::Pod => return Ok(Behind::Nothing),
        Kind::Service => return behind_service(client, namespace, name).await,
        Kind::Deployment => selector_of!(Deployment),
        Kind::StatefulSet => selector_of!(StatefulSet),
        Kind::DaemonSet => selector_of!(DaemonSet),
        Kind::ReplicaSet => selector_of!(ReplicaSet),
        Kind::Job => selector_of!(Job).flatten(),
    };
    let selector = Selector::from(kube::core::Selector::try_from(selector.unwrap_or_default())?);
    if selector.is_empty() {
        bail!("{}/{name} has no selector", kind.short());
    }
    Ok(Behind::Labels(selector))
}

async fn behind_service(client: Client, namespace: &str, name: &str) -> anyhow::Result<Behind> {
    let api: Api<v1::Service> = Api::namespaced(client.clone(), namespace);
    let Some(found) = api.get_opt(name).await? else { return Ok(Behind::Nothing) };
    let spec = found.spec.unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        let host = spec.external_name.unwrap_or_default();
        return Ok(Behind::External(super::convert::escape(host.as_bytes())));
    }
    if let Some(labels) = spec.selector.filter(|labels| !labels.is_empty()) {
        return Ok(Behind::Labels(Selector::of_labels(labels)));
    }
    let api: Api<EndpointSlice> = Api::namespaced(client, namespace);
    let of_service = ListParams::default().labels(&format!("{SERVICE_NAME}={name}"));
    let slices = api.list(&of_service).await?;
    let endpoints = slices.items.iter().flat_map(|slice| objects::slice(slice).endpoints);
    Ok(Behind::Slices(endpoints.filter_map(|endpoint| endpoint.pod_uid).collect()))
}

/// Namespaces and names of all objects of a kind, for finding similar ones.
async fn names(client: Client, kind: Kind) -> anyhow::Result<Vec<(String, String)>> {
    match kind {
        Kind::Pod => names_of::<ApiPod>(client).await,
        Kind::Service => names_of::<v1::Service>(client).await,
        Kind::Deployment => names_of::<Deployment>(client).await,
        Kind::StatefulSet => names_of::<StatefulSet>(client).await,
        Kind::DaemonSet => names_of::<DaemonSet>(client).await,
        Kind::ReplicaSet => names_of::<ReplicaSet>(client).await,
        Kind::Job => names_of::<Job>(client).await,
    }
}

async fn names_of<K>(client: Client) -> anyhow::Result<Vec<(String, String)>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let page = Api::<K>::all(client).list_metadata(&ListParams::default().limit(PAGE)).await?;
    let name =
        |found: &PartialObjectMeta<K>| (found.namespace().unwrap_or_default(), found.name_any());
    Ok(page.items.iter().map(name).collect())
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
