//! A small Kubernetes API endpoint: lists and watches with the selectors svctrace and kubectl use,
//! plain or with TLS, and the faults that a script asks for. It follows the lab's lab.json, or holds
//! what a test put in; it writes nothing. Lists are of now: older versions of them are not kept.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::watch;

use self::faults::{Asked, Faults};
use self::request::{KINDS, Kind, Refusal, Selection};
use self::store::Store;
use super::state;

pub mod cluster;
pub mod faults;
mod page;
mod request;
pub mod server;
mod store;
mod table;
mod watch_stream;
mod workloads;

pub use super::objects::Object;

/// The port it listens on.
pub const PORT: u16 = 6443;
/// The port it listens on with TLS.
pub const TLS_PORT: u16 = 6444;
/// The one token it accepts.
pub const TOKEN: &str = "svctrace-lab-token";
const FOLLOW_EVERY: Duration = Duration::from_millis(5);

/// A kubeconfig for the endpoint at `listen`.
pub fn kubeconfig(listen: SocketAddr) -> String {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "clusters": [{ "name": "lab", "cluster": { "server": format!("http://{listen}") } }],
        "users": [{ "name": "svctrace", "user": { "token": TOKEN } }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "svctrace" } }],
    });
    format!("{config:#}\n")
}

type Shared = Arc<watch::Sender<Store>>;
type Params = HashMap<String, String>;

/// What answers: the objects, what is wrong, and what was asked.
#[derive(Clone)]
struct Endpoint {
    store: Shared,
    faults: Arc<Faults>,
    log: Arc<server::Log>,
    /// Callers without credentials are let in, as kubectl sends none over plain HTTP.
    open: bool,
}

/// The caller showed a certificate of ours.
#[derive(Clone, Copy, Debug)]
struct Certified(bool);

fn router(endpoint: Endpoint) -> Router {
    Router::new().fallback(answer).with_state(endpoint)
}

/// Serves the lab whose folder is `folder` until killed: plain at `listen`, with TLS at another port.
pub fn serve(folder: &Path, listen: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let world = state::read(folder)?;
        // No version of an earlier start, or of an earlier lab, is used again.
        let first = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(1000);
        let store: Shared = Arc::new(watch::Sender::new(Store::new(&world, first)));
        tokio::spawn(follow(folder.to_path_buf(), Arc::clone(&store)));
        let bound = |at: SocketAddr| async move {
            let listener = tokio::net::TcpListener::bind(at).await;
            listener.with_context(|| format!("cannot listen on {at}"))
        };
        let endpoint = Endpoint { store, faults: Arc::default(), log: Arc::default(), open: true };
        let tls = server::Tls::new(Some(listen.ip()))?;
        // As a pod finds it beside its token.
        std::fs::write(state::authority(folder), &tls.authority)?;
        let closed = Endpoint { open: false, ..endpoint.clone() };
        let over_tls =
            tls.serve(bound(SocketAddr::new(listen.ip(), TLS_PORT)).await?, router(closed));
        let plain = bound(listen).await?;
        tokio::spawn(over_tls);
        axum::serve(plain, router(endpoint)).await?;
        Ok(())
    })
}

/// Takes over changes of lab.json.
async fn follow(folder: PathBuf, shared: Shared) {
    let file = folder.join("lab.json");
    let modified = || -> Option<SystemTime> { std::fs::metadata(&file).ok()?.modified().ok() };
    let mut seen = None;
    loop {
        let now = modified();
        if now != seen
            && let Ok(world) = state::read(&folder)
        {
            seen = now;
            shared.send_if_modified(|store| store.update(&world));
        }
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

async fn answer(
    State(endpoint): State<Endpoint>,
    Query(params): Query<Params>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let path: Vec<&str> = parts.uri.path().split('/').filter(|part| !part.is_empty()).collect();
    let certified = parts.extensions.get::<axum::extract::ConnectInfo<Certified>>();
    let certified = certified.is_some_and(|info| info.0.0);
    let flag = |key: &str| params.get(key).is_some_and(|value| value == "1" || value == "true");
    let plural = KINDS.iter().map(|kind| kind.plural).find(|plural| path.contains(plural));
    let asked = Asked {
        resource: plural.unwrap_or_default(),
        watch: flag("watch"),
        streaming: flag("sendInitialEvents"),
        continued: params.contains_key("continue"),
    };
    endpoint.log.note(&parts.uri);
    let wrong = if plural.is_some() { endpoint.faults.of(asked.resource) } else { Vec::new() };
    if let Some(response) = faults::before(&wrong, &asked).await {
        return response;
    }
    if let Err(refusal) = request::authorized(&parts.headers, certified || endpoint.open, &path) {
        return refuse(&refusal);
    }
    if let Some(refusal) = page::too_new(&endpoint.store, &params).await {
        return refuse(&refusal);
    }
    match respond(endpoint.store, &path, &parts.headers, &params, &wrong) {
        Ok(response) => faults::spoiled(response, &wrong, &asked),
        Err(refusal) => refuse(&refusal),
    }
}

fn refuse(refusal: &Refusal) -> Response {
    json_response(refusal.code(), &refusal.body())
}

fn respond(
    shared: Shared,
    path: &[&str],
    headers: &HeaderMap,
    params: &Params,
    wrong: &[faults::Fault],
) -> Result<Response, Refusal> {
    if let ["version" | "healthz" | "livez" | "readyz"] = path {
        return Ok(json_response(StatusCode::OK, &version()));
    }
    if let Some(found) = request::discovery(path) {
        return Ok(json_response(StatusCode::OK, &found));
    }
    let (kind, namespace, name) = request::resource(path)?;
    let selection = Selection::new(kind, namespace, name, params)?;
    let format = Format::of(headers);
    let flag = |key: &str| params.get(key).is_some_and(|value| value == "1" || value == "true");
    if flag("watch") {
        return watch_stream::start(shared, selection, params, format, wrong);
    }
    let store = shared.borrow();
    if name.is_some() {
        let found = store.objects().find(|object| selection.wants(object));
        let found = found.ok_or_else(|| selection.not_found())?;
        return Ok(json_response(StatusCode::OK, &format.one(kind, store.version(), found, true)));
    }
    let page = page::Page::of(&store, &selection, params)?;
    let mut body = match format {
        Format::Table => table::of(kind, store.version(), &page.objects, true),
        Format::Partial => {
            let items: Vec<Value> = page.objects.iter().map(|object| partial(object)).collect();
            json!({ "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "items": items,
                "metadata": { "resourceVersion": store.version().to_string() } })
        }
        Format::Whole => json!({
            "kind": format!("{}List", kind.name), "apiVersion": kind.api_version(),
            "metadata": { "resourceVersion": store.version().to_string() },
            "items": page.objects.iter().map(|object| &object.body).collect::<Vec<_>>(),
        }),
    };
    page.describe(&mut body);
    Ok(json_response(StatusCode::OK, &body))
}

/// How the caller wants objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Whole,
    Partial,
    Table,
}

impl Format {
    fn of(headers: &HeaderMap) -> Self {
        let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let accept = accept.unwrap_or_default();
        if accept.contains("as=Table") {
            Self::Table
        } else if accept.contains("as=PartialObjectMetadata") {
            Self::Partial
        } else {
            Self::Whole
        }
    }

    /// One object, in a table with or without the columns' heads.
    fn one(self, kind: &Kind, version: u64, object: &Object, heads: bool) -> Value {
        match self {
            Self::Table => table::of(kind, version, &[object], heads),
            Self::Partial => partial(object),
            Self::Whole => kind.whole(&object.body),
        }
    }
}

/// An object's metadata and nothing else.
fn partial(object: &Object) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object.body.get("metadata"),
    })
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": "v1.33.0-svctrace-lab", "gitCommit": "",
        "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": "linux",
    })
}

fn json_response(code: StatusCode, body: &Value) -> Response {
    (code, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// The kinds it knows, for other files of this folder.
fn kind_of(plural: &str) -> Option<&'static Kind> {
    KINDS.iter().chain(&workloads::KINDS).find(|kind| kind.plural == plural)
}
