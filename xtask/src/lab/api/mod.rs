//! A small Kubernetes API endpoint over plain HTTP: lists and watches of the lab's objects with
//! the selectors svctrace and kubectl use. It follows lab.json; it writes nothing, has no TLS.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use self::request::{Fault, KINDS, Kind, Selection};
use self::store::Store;
use super::state;

mod request;
mod store;
mod table;
mod workloads;

/// The port it listens on.
pub const PORT: u16 = 6443;
/// The one token it accepts.
const TOKEN: &str = "svctrace-lab-token";
const FOLLOW_EVERY: Duration = Duration::from_millis(5);
const LONGEST_WATCH: Duration = Duration::from_secs(3600);

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

/// Serves the lab whose folder is `folder` until killed.
pub fn serve(folder: &Path, listen: SocketAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let world = state::read(folder)?;
        let shared: Shared = Arc::new(watch::Sender::new(Store::new(&world)));
        tokio::spawn(follow(folder.to_path_buf(), Arc::clone(&shared)));
        let listener = tokio::net::TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}"))?;
        let router = Router::new().fallback(answer).with_state(shared);
        axum::serve(listener, router).await?;
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
    State(shared): State<Shared>,
    uri: Uri,
    headers: HeaderMap,
    Query(params): Query<Params>,
) -> Response {
    let path: Vec<&str> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
    match respond(shared, &path, &headers, &params) {
        Ok(response) => response,
        Err(fault) => json_response(fault.code(), &fault.body()),
    }
}

fn respond(
    shared: Shared,
    path: &[&str],
    headers: &HeaderMap,
    params: &Params,
) -> Result<Response, Fault> {
    if let ["version" | "healthz" | "livez" | "readyz"] = path {
        return Ok(json_response(StatusCode::OK, &version()));
    }
    // No token at all is let in: kubectl sends none over plain HTTP.
    let token = headers.get(header::AUTHORIZATION).map(|value| value.as_bytes());
    if token.is_some_and(|token| token != format!("Bearer {TOKEN}").as_bytes()) {
        return Err(Fault::Unauthorized);
    }
    if let Some(found) = request::discovery(path) {
        return Ok(json_response(StatusCode::OK, &found));
    }
    let (kind, namespace, name) = request::resource(path)?;
    let selection = Selection::new(kind, namespace, name, params)?;
    let flag = |key: &str| params.get(key).is_some_and(|value| value == "1" || value == "true");
    if flag("watch") {
        return Ok(start_watch(shared, selection, params));
    }
    let store = shared.borrow();
    if name.is_some() {
        let found = store.objects().find(|object| selection.wants(object));
        let found = found.ok_or_else(|| selection.not_found())?;
        let body = if wants_table(headers) {
            table::of(kind, store.version(), &[found])
        } else {
            kind.whole(&found.body)
        };
        return Ok(json_response(StatusCode::OK, &body));
    }
    let found: Vec<_> = store.objects().filter(|object| selection.wants(object)).collect();
    let body = if wants_table(headers) {
        table::of(kind, store.version(), &found)
    } else {
        json!({
            "kind": format!("{}List", kind.name), "apiVersion": kind.api_version(),
            "metadata": { "resourceVersion": store.version().to_string() },
            "items": found.iter().map(|object| &object.body).collect::<Vec<_>>(),
        })
    };
    Ok(json_response(StatusCode::OK, &body))
}

fn wants_table(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|value| value.contains("as=Table"))
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

/// A watch as it goes on: what was sent, what is still to be sent.
struct Watch {
    changes: watch::Receiver<Store>,
    selection: Selection,
    sent: u64,
    end: Instant,
    bookmarks: bool,
    over: bool,
    first: Option<Bytes>,
}

fn start_watch(shared: Shared, selection: Selection, params: &Params) -> Response {
    let flag = |key: &str| params.get(key).is_some_and(|value| value == "true" || value == "1");
    let wanted = params.get("timeoutSeconds").and_then(|value| value.parse().ok());
    let length = wanted.map_or(LONGEST_WATCH, Duration::from_secs).min(LONGEST_WATCH);
    let changes = shared.subscribe();
    let given = params.get("resourceVersion").map(String::as_str).unwrap_or_default();
    let from_start = matches!(given, "" | "0");
    let initial = flag("sendInitialEvents") || from_start;
    let (first, sent, over) = {
        let store = changes.borrow();
        let since = given.parse().unwrap_or(0);
        if initial {
            (initial_lines(&store, &selection, flag("sendInitialEvents")), store.version(), false)
        } else if since < store.oldest() {
            (expired(since, store.oldest()), since, true)
        } else {
            (Bytes::new(), since, false)
        }
    };
    let bookmarks = flag("allowWatchBookmarks");
    let watch = Watch {
        changes,
        selection,
        sent,
        end: Instant::now() + length,
        bookmarks,
        over,
        first: Some(first),
    };
    let stream = futures_util::stream::unfold(watch, |mut watch| async move {
        let bytes = watch.next().await?;
        Some((Ok::<_, Infallible>(bytes), watch))
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(stream)).into_response()
}

fn initial_lines(store: &Store, selection: &Selection, mark_end: bool) -> Bytes {
    let mut lines = String::new();
    for object in store.objects().filter(|object| selection.wants(object)) {
        lines += &line("ADDED", &selection.kind.whole(&object.body));
    }
    if mark_end {
        let end = json!({ "k8s.io/initial-events-end": "true" });
        lines += &bookmark(selection.kind, store.version(), end);
    }
    Bytes::from(lines)
}

fn expired(since: u64, oldest: u64) -> Bytes {
    let message = format!("too old resource version: {since} ({oldest})");
    Bytes::from(line("ERROR", &request::status(410, "Expired", &message, json!(null))))
}

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({ "type": kind, "object": object }))
}

fn bookmark(kind: &Kind, version: u64, annotations: Value) -> String {
    let mut metadata = json!({ "resourceVersion": version.to_string() });
    if annotations.is_object() {
        metadata["annotations"] = annotations;
    }
    let mut object =
        json!({ "kind": kind.name, "apiVersion": kind.api_version(), "metadata": metadata });
    if kind.plural == "pods" {
        object["spec"] = json!({ "containers": null });
        object["status"] = json!({});
    }
    line("BOOKMARK", &object)
}

impl Watch {
    async fn next(&mut self) -> Option<Bytes> {
        // The headers leave with the first piece of the body, so an empty one is sent at once.
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        if self.over {
            return None;
        }
        loop {
            let lines = self.news();
            if !lines.is_empty() {
                return Some(Bytes::from(lines));
            }
            let changed = tokio::time::timeout_at(self.end, self.changes.changed()).await;
            if !matches!(changed, Ok(Ok(()))) {
                self.over = true;
                let last = bookmark(self.selection.kind, self.sent, json!(null));
                return self.bookmarks.then(|| Bytes::from(last));
            }
        }
    }

    /// Lines for what changed since the last call.
    fn news(&mut self) -> String {
        let store = self.changes.borrow_and_update();
        let since = std::mem::replace(&mut self.sent, store.version());
        let fresh =
            store.changes_after(since).filter(|change| self.selection.wants(&change.object));
        fresh
            .map(|change| line(change.kind, &self.selection.kind.whole(&change.object.body)))
            .collect()
    }
}

/// The kinds it knows, for other files of this folder.
fn kind_of(plural: &str) -> Option<&'static Kind> {
    KINDS.iter().chain(&workloads::KINDS).find(|kind| kind.plural == plural)
}
