//! The Kubernetes API: asks for pods by name, and follows Pods of this node, Services and
//! EndpointSlices in the background. Whatever it answers, or does not, costs names, never events.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use kube::Client;
use nix::sys::eventfd::EventFd;
use tokio::runtime::Runtime;

pub(super) use super::api::access::Access;
use super::api::slim::{EndpointSlice, Meta, Named, Placed, Pod, Service};
use super::api::{
    self, Cut, Facts, Failure, Followed, Health, Identity, Pace, Page, Place, Reporter,
};
use super::api::{Trouble, Watch};
use super::{objects, plain};
use crate::context;

/// Objects asked for at a time.
const PAGE: u32 = 250;
/// Most pages read when looking for this node's name or for similar names.
const PAGES_MAX: usize = 40;
/// Pause before this node's name is looked for again, when no pod here is known to the API.
const NAMELESS: Duration = Duration::from_secs(60);

/// What the background learned.
#[derive(Debug)]
pub(super) enum Fact {
    /// A pod appeared, changed or went.
    Pod(context::Pod),
    /// A Service appeared, changed or went.
    Service(context::Service),
    /// An EndpointSlice appeared, changed or went.
    EndpointSlice(context::EndpointSlice),
    /// The first list of this resource is complete.
    Listed(&'static str),
    /// The name of this node in the cluster.
    Node(String),
    /// Something is wrong, and a sentence about it.
    Trouble(Trouble, String),
}

/// A connection to the API server and a thread that follows it.
pub(super) struct Cluster {
    client: Client,
    runtime: Runtime,
    facts: Facts,
    reporter: Reporter,
    health: Arc<Health>,
}

impl Cluster {
    /// Connects with the first credentials found; `None` when there are none. Asks the server
    /// nothing yet.
    pub(super) fn connect(access: &Access) -> anyhow::Result<Option<Self>> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("kubernetes")
            .enable_all()
            .build()
            .context("cannot start a thread for the Kubernetes API")?;
        let config = runtime.block_on(api::access::config(access))?;
        let Some(config) = config else { return Ok(None) };
        let client = {
            let _inside = runtime.enter();
            Client::try_from(config).context("cannot use the kubeconfig")?
        };
        let (reporter, facts) = api::line()?;
        Ok(Some(Self { client, runtime, facts, reporter, health: Arc::default() }))
    }

    /// The pod, if the server knows it.
    pub(super) fn pod(
        &self,
        namespace: &str,
        name: &str,
        within: Duration,
    ) -> anyhow::Result<Option<context::Pod>> {
        let place = Place { namespace: Some(namespace.to_owned()), fields: None };
        let target = api::target("", &format!("pods/{}", api::escaped(name)), &place);
        let pod: Option<Pod> = self.ask(within, api::object(&self.client, &target))?;
        let Some(mut pod) = pod.map(|pod| objects::pod(&pod)) else { return Ok(None) };
        api::bounded_pod(&mut pod).ok_or_else(|| anyhow!("the answer is no pod"))?;
        Ok(Some(pod))
    }

    /// Namespaces and names of all pods, for finding similar ones.
    pub(super) fn pod_names(&self, within: Duration) -> anyhow::Result<Vec<(String, String)>> {
        self.ask(within, async {
            let mut names = Vec::new();
            pages(&self.client, &all_pods(), |pod: Named| {
                names.extend(api::names_of(&pod.metadata));
                true
            })
            .await?;
            Ok(names)
        })
    }

    /// The connection itself.
    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    /// Waits for what `question` gives, not longer than `within`.
    pub(super) fn wait_for<T>(
        &self,
        within: Duration,
        question: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(within, question).await });
        answer.map_err(|_| anyhow!("no answer within {} ms", within.as_millis()))?
    }

    fn ask<T>(
        &self,
        within: Duration,
        question: impl Future<Output = Result<T, Failure>>,
    ) -> anyhow::Result<T> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(within, question).await });
        let Ok(answer) = answer else {
            self.health.first(&Trouble::Unavailable);
            return Err(anyhow!("no answer within {} ms", within.as_millis()));
        };
        answer.map_err(|failure| {
            // The caller says so; the watches need not.
            self.health.first(&api::trouble(&failure, "pods"));
            failure.into()
        })
    }

    /// Follows Services and EndpointSlices of the cluster.
    pub(super) fn follow_services(&self) {
        self.follow::<Service>(&Place::default());
        self.follow::<EndpointSlice>(&Place::default());
    }

    /// Follows the pods of this node: `node` if it is known, else found by host name or by the UIDs
    /// of pods that have cgroups here.
    pub(super) fn follow_node(
        &self,
        node: Option<String>,
        hostname: String,
        uids: HashSet<String>,
    ) {
        let (client, reporter) = (self.client.clone(), self.reporter.clone());
        self.runtime.spawn(async move {
            let node = match node {
                Some(node) => node,
                None => node_name(&client, &reporter, &hostname, &uids).await,
            };
            reporter.tell(Fact::Node(node.clone()), 0).await;
            let fields = Some(format!("spec.nodeName={node}"));
            let place = Place { namespace: None, fields };
            Watch::<Pod>::new(client, &place, reporter).follow().await;
        });
    }

    /// The namespace of the context (or of the service account), else `default`.
    pub(super) fn default_namespace(&self) -> &str {
        self.client.default_namespace()
    }

    /// Follows one pod by name, wherever it is or will be.
    pub(super) fn follow_pod(&self, namespace: &str, name: &str) {
        let fields = Some(format!("metadata.name={name}"));
        self.follow::<Pod>(&Place { namespace: Some(namespace.to_owned()), fields });
    }

    fn follow<K: Followed>(&self, place: &Place) {
        let _inside = self.runtime.enter();
        let watch = Watch::<K>::new(self.client.clone(), place, self.reporter.clone());
        self.runtime.spawn(watch.follow());
    }

    /// Readable when there are facts.
    pub(super) fn wake(&self) -> &EventFd {
        self.facts.wake()
    }

    /// What was learned since the last call.
    pub(super) fn facts(&self) -> Vec<Fact> {
        self.facts.take()
    }

    /// Whether nobody has told the user of this trouble yet.
    pub(super) fn is_news(&self, trouble: &Trouble) -> bool {
        self.health.first(trouble)
    }

    /// Ends the background work without waiting for it.
    pub(super) fn shutdown(self) {
        self.runtime.shutdown_background();
    }
}

fn identity(meta: &Meta, uid: &str) -> Identity {
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
    Identity { namespace: text(&meta.namespace), name: text(&meta.name), uid: uid.into() }
}

impl Followed for Pod {
    const PLURAL: &'static str = "pods";
    const GROUP: &'static str = "";

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn identity(&self) -> Identity {
        identity(&self.metadata, objects::uid(self))
    }

    fn fact(&self, deleted: bool) -> (Fact, usize, Cut) {
        let mut pod = context::Pod { deleted, ..objects::pod(self) };
        let cut = api::bounded_pod(&mut pod);
        (Fact::Pod(pod), 1, cut)
    }

    fn gone(identity: &Identity) -> Fact {
        Fact::Pod(context::Pod {
            uid: identity.uid.to_string(),
            namespace: identity.namespace.to_string(),
            name: identity.name.to_string(),
            origin: context::Origin::Api,
            deleted: true,
            ..context::Pod::default()
        })
    }
}

impl Followed for Service {
    const PLURAL: &'static str = "services";
    const GROUP: &'static str = "";

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn identity(&self) -> Identity {
        identity(&self.metadata, "")
    }

    fn fact(&self, deleted: bool) -> (Fact, usize, Cut) {
        let mut service = context::Service { deleted, ..objects::service(self) };
        let cut = api::bounded_service(&mut service);
        (Fact::Service(service), 1, cut)
    }

    fn gone(identity: &Identity) -> Fact {
        Fact::Service(context::Service {
            namespace: identity.namespace.to_string(),
            name: identity.name.to_string(),
            deleted: true,
            ..context::Service::default()
        })
    }
}

impl Followed for EndpointSlice {
    const PLURAL: &'static str = "endpointslices";
    const GROUP: &'static str = "discovery.k8s.io";

    fn meta(&self) -> &Meta {
        &self.metadata
    }

    fn identity(&self) -> Identity {
        identity(&self.metadata, "")
    }

    fn fact(&self, deleted: bool) -> (Fact, usize, Cut) {
        let mut slice = context::EndpointSlice { deleted, ..objects::slice(self) };
        let cut = api::bounded_slice(&mut slice);
        let addresses: usize = slice.endpoints.iter().map(|at| at.addresses.len()).sum();
        let weight = addresses.saturating_mul(slice.ports.len().max(1));
        (Fact::EndpointSlice(slice), weight, cut)
    }

    fn gone(identity: &Identity) -> Fact {
        Fact::EndpointSlice(context::EndpointSlice {
            namespace: identity.namespace.to_string(),
            name: identity.name.to_string(),
            deleted: true,
            ..context::EndpointSlice::default()
        })
    }
}

fn all_pods() -> String {
    api::target("", "pods", &Place::default())
}

/// Goes through the objects at `target` (path, `?`, selectors), page by page, until `each` says false.
pub(super) async fn pages<K: serde::de::DeserializeOwned>(
    client: &Client,
    target: &str,
    mut each: impl FnMut(K) -> bool,
) -> Result<(), Failure> {
    let first = format!("{target}limit={PAGE}");
    let mut target = first.clone();
    for _ in 0..PAGES_MAX {
        let mut page = Page::get(client, &target).await?;
        while let Some(objects) = page.next().await? {
            if !objects.into_iter().all(|(object, _)| each(object)) {
                return Ok(());
            }
        }
        match page.end()?.r#continue {
            Some(token) => target = format!("{first}&continue={}", api::escaped(&token)),
            None => break,
        }
    }
    Ok(())
}

/// Looks for this node's name until it is found.
async fn node_name(
    client: &Client,
    reporter: &Reporter,
    hostname: &str,
    uids: &HashSet<String>,
) -> String {
    let mut pace = Pace::default();
    let mut told = false;
    loop {
        let pause = match find_node(client, hostname, uids).await {
            Ok(Some(node)) => return node,
            Ok(None) => NAMELESS,
            Err(failure) => {
                tracing::debug!("Kubernetes API, this node's name: {failure}");
                if !std::mem::replace(&mut told, true) {
                    let (trouble, words) = api::say::<Pod>(&failure);
                    reporter.tell(Fact::Trouble(trouble, words), 0).await;
                }
                pace.after(&failure)
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn find_node(
    client: &Client,
    hostname: &str,
    uids: &HashSet<String>,
) -> Result<Option<String>, Failure> {
    let mut found = None;
    let fields = Some(format!("spec.nodeName={hostname}"));
    let named = api::target("", "pods", &Place { namespace: None, fields });
    pages(client, &named, |_: Named| {
        found = Some(hostname.to_owned());
        false
    })
    .await?;
    if found.is_none() && !uids.is_empty() {
        pages(client, &all_pods(), |pod: Placed| {
            let uid = objects::uid_of(&pod.metadata);
            if uids.contains(uid) {
                found = pod.spec.and_then(|spec| spec.node_name);
            }
            found.is_none()
        })
        .await?;
    }
    // As a name it goes into selectors and lines.
    Ok(found.filter(|name| plain::name(name)))
}
