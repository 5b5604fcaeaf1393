//! The Kubernetes API: asks for pods by name, and follows Pods of this node, Services and
//! EndpointSlices in the background. Whatever it answers, or does not, costs names, never events.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ListParams, PartialObjectMeta};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Config, Resource, ResourceExt as _};
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use super::invoker::Invoker;
use super::kubeconfig::{self, read};
use super::objects;
use crate::context;

/// Objects asked for at a time.
const PAGE: u32 = 250;
/// Most pages read when looking for this node's name or for similar names.
const PAGES_MAX: usize = 40;
/// A silent watch is renewed after this many seconds.
const WATCH_S: u32 = 120;
/// First pause after a failure, then doubled.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Pause after the server said that we may not.
const PAUSE_FORBIDDEN: Duration = Duration::from_secs(300);

/// What the background learned.
#[derive(Debug)]
pub(super) enum Fact {
    /// A pod appeared, changed or went.
    Pod(context::Pod),
    /// A Service appeared, changed or went.
    Service(context::Service),
    /// An EndpointSlice appeared, changed or went.
    EndpointSlice(context::EndpointSlice),
    /// The first list of Services or EndpointSlices is complete.
    Listed,
    /// The name of this node in the cluster.
    Node(String),
    /// Something is wrong; for the user, once.
    Trouble(String),
}

/// A connection to the API server and a thread that follows it.
pub(super) struct Cluster {
    client: Client,
    runtime: Runtime,
    facts: Receiver<Fact>,
    reporter: Reporter,
}

#[derive(Clone)]
struct Reporter {
    facts: Sender<Fact>,
    wake: Arc<EventFd>,
}

impl Reporter {
    fn tell(&self, fact: Fact) {
        if self.facts.send(fact).is_ok() {
            let _ = self.wake.write(1);
        }
    }
}

/// Where to find the credentials.
#[derive(Clone, Debug, Default)]
pub(super) struct Access {
    /// A kubeconfig that the user named.
    pub(super) kubeconfig: Option<PathBuf>,
    /// A context in it.
    pub(super) context: Option<String>,
    /// The files that `KUBECONFIG` names; the first to say something wins.
    pub(super) environment: Vec<PathBuf>,
    /// The user who ran us through sudo: their kubeconfig comes first, and programs that a
    /// kubeconfig names run as them.
    pub(super) invoker: Option<Invoker>,
    /// Our own home.
    pub(super) home: Option<PathBuf>,
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
        let Some(config) = runtime.block_on(config(access))? else { return Ok(None) };
        let client = {
            let _inside = runtime.enter();
            Client::try_from(config).context("cannot use the kubeconfig")?
        };
        let (sender, facts) = channel();
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let reporter = Reporter { facts: sender, wake: Arc::new(wake) };
        Ok(Some(Self { client, runtime, facts, reporter }))
    }

    /// The pod, if the server knows it.
    pub(super) fn pod(
        &self,
        namespace: &str,
        name: &str,
        within: Duration,
    ) -> anyhow::Result<Option<context::Pod>> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let pod = self.ask(within, async { api.get_opt(name).await.map_err(short) })?;
        Ok(pod.map(|pod| objects::pod(&pod)))
    }

    /// Namespaces and names of all pods, for finding similar ones.
    pub(super) fn pod_names(&self, within: Duration) -> anyhow::Result<Vec<(String, String)>> {
        let api: Api<Pod> = Api::all(self.client.clone());
        self.ask(within, async {
            let mut names = Vec::new();
            let mut params = ListParams::default().limit(PAGE);
            for _ in 0..PAGES_MAX {
                let page = api.list_metadata(&params).await.map_err(short)?;
                let name = |pod: &PartialObjectMeta<Pod>| {
                    (pod.namespace().unwrap_or_default(), pod.name_any())
                };
                names.extend(page.items.iter().map(name));
                match page.metadata.continue_.filter(|token| !token.is_empty()) {
                    Some(token) => params = params.continue_token(&token),
                    None => break,
                }
            }
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
        question: impl Future<Output = anyhow::Result<T>>,
    ) -> anyhow::Result<T> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(within, question).await });
        answer.map_err(|_| anyhow!("no answer within {} ms", within.as_millis()))?
    }

    /// Follows Services and EndpointSlices of the cluster.
    pub(super) fn follow_services(&self) {
        let services: Api<Service> = Api::all(self.client.clone());
        self.follow(services, "services", watcher::Config::default(), |service, deleted| {
            Fact::Service(context::Service { deleted, ..objects::service(service) })
        });
        let slices: Api<EndpointSlice> = Api::all(self.client.clone());
        self.follow(slices, "endpointslices", watcher::Config::default(), |slice, deleted| {
            Fact::EndpointSlice(context::EndpointSlice { deleted, ..objects::slice(slice) })
        });
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
                Some(node) => Some(node),
                None => find_node(&client, &hostname, &uids).await,
            };
            let Some(node) = node else { return };
            reporter.tell(Fact::Node(node.clone()));
            let pods: Api<Pod> = Api::all(client);
            let only = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
            keep_following(pods, "pods", only, told_pod, reporter).await;
        });
    }

    /// The namespace of the context (or of the service account), else `default`.
    pub(super) fn default_namespace(&self) -> &str {
        self.client.default_namespace()
    }

    /// Follows one pod by name, wherever it is or will be.
    pub(super) fn follow_pod(&self, namespace: &str, name: &str) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
        self.follow(pods, "pods", only, told_pod);
    }

    fn follow<K>(
        &self,
        api: Api<K>,
        what: &'static str,
        config: watcher::Config,
        fact: fn(&K, bool) -> Fact,
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    {
        self.runtime.spawn(keep_following(api, what, config, fact, self.reporter.clone()));
    }

    /// Readable when there are facts.
    pub(super) fn wake(&self) -> &EventFd {
        &self.reporter.wake
    }

    /// What was learned since the last call.
    pub(super) fn facts(&self) -> Vec<Fact> {
        let _ = self.reporter.wake.read();
        self.facts.try_iter().collect()
    }

    /// Ends the background work without waiting for it.
    pub(super) fn shutdown(self) {
        self.runtime.shutdown_background();
    }
}

/// The server's own words without the object around them.
fn short(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => anyhow!("{} ({})", status.reason, status.code),
        other => other.into(),
    }
}

fn told_pod(pod: &Pod, deleted: bool) -> Fact {
    Fact::Pod(context::Pod { deleted, ..objects::pod(pod) })
}

/// Follows one kind of object for ever. The watcher's own back-off starts again with each attempt
/// to list, so the pauses here are ours.
async fn keep_following<K>(
    api: Api<K>,
    what: &'static str,
    config: watcher::Config,
    fact: fn(&K, bool) -> Fact,
    reporter: Reporter,
) where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    let mut events = watcher(api, config.page_size(PAGE).timeout(WATCH_S)).boxed();
    let mut known = Known::default();
    let (mut pause, mut told) = (PAUSE_MIN, false);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => known.begin(),
            Ok(Event::InitApply(object) | Event::Apply(object)) => {
                pause = PAUSE_MIN;
                reporter.tell(fact(&known.see(object), false));
            }
            Ok(Event::Delete(object)) => {
                known.forget(&object);
                reporter.tell(fact(&object, true));
            }
            Ok(Event::InitDone) => {
                // From here on failures are ordinary: connections end, servers restart.
                (pause, told) = (PAUSE_MIN, true);
                for gone in known.gone() {
                    reporter.tell(fact(&gone, true));
                }
                reporter.tell(Fact::Listed);
            }
            Err(error) => {
                let forbidden = is_forbidden(&error);
                tracing::debug!("Kubernetes API, {what}: {error}");
                if !told {
                    told = true;
                    let why = match forbidden {
                        true => format!("the Kubernetes API does not let us list {what}"),
                        false => format!("the Kubernetes API gives no {what} now; trying again"),
                    };
                    reporter.tell(Fact::Trouble(why));
                }
                tokio::time::sleep(if forbidden { PAUSE_FORBIDDEN } else { pause }).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// Identities told so far: a deletion that happened while the watch was away shows only as
/// absence from the next list.
struct Known<K> {
    told: HashMap<String, K>,
    listed: HashSet<String>,
}

impl<K> Default for Known<K> {
    fn default() -> Self {
        Self { told: HashMap::new(), listed: HashSet::new() }
    }
}

impl<K: Resource<DynamicType = ()> + Clone + DeserializeOwned> Known<K> {
    fn begin(&mut self) {
        self.listed.clear();
    }

    fn see(&mut self, object: K) -> K {
        let key = key(&object);
        if let Some(slim) = slim(&object) {
            self.told.insert(key.clone(), slim);
        }
        self.listed.insert(key);
        object
    }

    fn forget(&mut self, object: &K) {
        self.told.remove(&key(object));
    }

    fn gone(&mut self) -> Vec<K> {
        let listed = std::mem::take(&mut self.listed);
        let gone: Vec<String> =
            self.told.keys().filter(|key| !listed.contains(*key)).cloned().collect();
        gone.iter().filter_map(|key| self.told.remove(key)).collect()
    }
}

fn key<K: Resource<DynamicType = ()>>(object: &K) -> String {
    let meta = object.meta();
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}/{}", part(&meta.namespace), part(&meta.name), part(&meta.uid))
}

/// The object's names and nothing else: what a deletion is told with.
fn slim<K: Resource<DynamicType = ()> + DeserializeOwned>(object: &K) -> Option<K> {
    let meta = object.meta();
    let hash = meta.annotations.as_ref().and_then(|all| all.get_key_value(objects::CONFIG_HASH));
    serde_json::from_value(serde_json::json!({ "metadata": {
        "name": meta.name, "namespace": meta.namespace, "uid": meta.uid,
        "annotations": hash.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
    }}))
    .ok()
}

fn is_forbidden(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    let code = match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status)) => status.code,
        WatchError(status) => status.code,
        _ => 0,
    };
    code == 401 || code == 403
}

async fn find_node(client: &Client, hostname: &str, uids: &HashSet<String>) -> Option<String> {
    let api: Api<Pod> = Api::all(client.clone());
    let named = ListParams::default().limit(1).fields(&format!("spec.nodeName={hostname}"));
    if api.list_metadata(&named).await.is_ok_and(|page| !page.items.is_empty()) {
        return Some(hostname.to_owned());
    }
    if uids.is_empty() {
        return None;
    }
    let mut params = ListParams::default().limit(PAGE);
    for _ in 0..PAGES_MAX {
        let page = api.list(&params).await.ok()?;
        let here = page.items.iter().map(objects::pod).find(|pod| uids.contains(&pod.uid));
        if let Some(pod) = here {
            return pod.node;
        }
        params = params.continue_token(&page.metadata.continue_.filter(|token| !token.is_empty())?);
    }
    None
}

async fn config(access: &Access) -> anyhow::Result<Option<Config>> {
    let options = KubeConfigOptions { context: access.context.clone(), ..Default::default() };
    match kubeconfig(access)? {
        Some(kubeconfig) => Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .map(Some)
            .context("cannot use the kubeconfig"),
        None if access.context.is_some() => Err(anyhow!("--context needs a kubeconfig")),
        None => Ok(Config::incluster().ok()),
    }
}

/// The first kubeconfig there is. Only root's own may name programs that run as root.
fn kubeconfig(access: &Access) -> anyhow::Result<Option<Kubeconfig>> {
    let in_home = |home: &Path| Some(home.join(".kube/config")).filter(|path| path.is_file());
    let invoker = access.invoker.as_ref();
    let theirs = invoker.and_then(|invoker| in_home(invoker.home()?));
    let own = access.home.as_deref().and_then(in_home);
    let home = invoker.and_then(Invoker::home).or(access.home.as_deref());
    let found = match (&access.kubeconfig, access.environment.as_slice(), theirs, own) {
        (Some(path), ..) => Some(read(&kubeconfig::at_home(path, home))?),
        (None, paths @ [_, ..], ..) => kubeconfig::merged(paths, home)?,
        (None, [], Some(path), _) => Some(read(&path)?),
        (None, [], None, Some(path)) => return read(&path).map(Some),
        (None, [], None, None) => None,
    };
    Ok(found.map(|kubeconfig| match invoker {
        Some(invoker) => running_as(kubeconfig, invoker),
        None => kubeconfig,
    }))
}

/// The same credentials, but the programs that fetch some of them run as `invoker`.
fn running_as(mut kubeconfig: Kubeconfig, invoker: &Invoker) -> Kubeconfig {
    let Some(prefix) = invoker.prefix() else { return kubeconfig };
    let Some((program, arguments)) = prefix.split_first() else { return kubeconfig };
    for info in kubeconfig.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
        if let Some(exec) = &mut info.exec
            && let Some(command) = exec.command.replace(program.clone())
        {
            let rest = exec.args.take().unwrap_or_default();
            exec.args = Some(arguments.iter().cloned().chain([command]).chain(rest).collect());
            let variable = |(name, value): &(&str, OsString)| {
                HashMap::from([
                    ("name".to_owned(), (*name).to_owned()),
                    ("value".to_owned(), value.to_string_lossy().into_owned()),
                ])
            };
            let theirs = invoker.environment().iter().map(variable);
            exec.env = Some(theirs.chain(exec.env.take().unwrap_or_default()).collect());
        }
        if let Some(provider) = &mut info.auth_provider
            && let Some(command) = provider.config.remove("cmd-path")
        {
            let rest = provider.config.remove("cmd-args").unwrap_or_default();
            let words = format!("{} {command} {rest}", arguments.join(" "));
            provider.config.insert("cmd-args".into(), words);
            provider.config.insert("cmd-path".into(), program.clone());
        }
    }
    kubeconfig
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_a_kubeconfig_run_as_the_invoker() {
        let text = "users: [
            {name: a, user: {exec: {command: aws, args: [eks], env: [{name: HOME, value: /x}]}}},
            {name: b, user: {auth-provider: {name: gcp, config: {cmd-path: gcloud, cmd-args: c}}}},
            {name: c, user: {token: t}}]";
        let invoker = Invoker::find(|name| (name == "SUDO_UID").then(|| "4000000000".into()));
        let changed = running_as(Kubeconfig::from_yaml(text).unwrap(), &invoker.unwrap());
        let infos: Vec<_> = changed.auth_infos.iter().flat_map(|a| &a.auth_info).collect();
        let exec = infos[0].exec.as_ref().unwrap();
        assert_eq!(exec.command.as_deref(), Some("setpriv"));
        let args = exec.args.as_ref().unwrap();
        assert_eq!(args[0], "--reuid=4000000000");
        assert_eq!(args[args.len() - 3..], ["--", "aws", "eks"]);
        // The kubeconfig's own variables come last and win.
        assert_eq!(exec.env.as_ref().unwrap().last().unwrap()["value"], "/x");
        let config = &infos[1].auth_provider.as_ref().unwrap().config;
        assert_eq!(config["cmd-path"], "setpriv");
        assert!(config["cmd-args"].ends_with("-- gcloud c"));
        assert!(infos[2].exec.is_none() && infos[2].auth_provider.is_none());
    }
}
