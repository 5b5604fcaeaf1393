//! Watches: what there is at the start where that is asked for, then every change, then a proper end.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::faults::Fault;
use super::request::{self, Kind, Refusal, Selection};
use super::store::Store;
use super::{Format, Params, Shared};

const LONGEST_WATCH: Duration = Duration::from_secs(3600);

/// A watch as it goes on: what was sent, what is still to be sent.
struct Watch {
    changes: watch::Receiver<Store>,
    selection: Selection,
    format: Format,
    sent: u64,
    end: Instant,
    bookmarks: bool,
    over: bool,
    heads: bool,
    first: Option<Bytes>,
}

pub(super) fn start(
    shared: Shared,
    selection: Selection,
    params: &Params,
    format: Format,
    wrong: &[Fault],
) -> Result<Response, Refusal> {
    let flag = |key: &str| params.get(key).is_some_and(|value| value == "true" || value == "1");
    let given = params.get("resourceVersion").map(String::as_str).unwrap_or_default();
    let streaming = flag("sendInitialEvents");
    let matching = params.get("resourceVersionMatch").map(String::as_str);
    match (streaming, matching) {
        (true, Some("NotOlderThan")) | (false, None) => {}
        (true, _) => {
            return Err(Refusal::Invalid(
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan".into(),
            ));
        }
        (false, Some(_)) => {
            return Err(Refusal::Invalid(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided".into(),
            ));
        }
    }
    let wanted = params.get("timeoutSeconds").and_then(|value| value.parse().ok());
    let short = wrong.iter().find_map(|fault| match fault {
        Fault::ShortWatch(length) => Some(*length),
        _ => None,
    });
    let length = wanted.map_or(LONGEST_WATCH, Duration::from_secs).min(LONGEST_WATCH);
    let length = short.map_or(length, |short| short.min(length));
    let changes = shared.subscribe();
    let mut heads = true;
    let (first, sent, over) = {
        let store = changes.borrow();
        let since = given.parse().unwrap_or(0);
        if streaming || matches!(given, "" | "0") {
            let lines = initial_lines(&store, &selection, format, streaming, &mut heads);
            (lines, store.version(), false)
        } else if since < store.oldest() {
            (expired(since, store.oldest()), since, true)
        } else {
            (Bytes::new(), since, false)
        }
    };
    let bookmarks = flag("allowWatchBookmarks");
    let end = Instant::now() + length;
    let first = Some(first);
    let watch = Watch { changes, selection, format, sent, end, bookmarks, over, heads, first };
    let stream = futures_util::stream::unfold(watch, |mut watch| async move {
        let bytes = watch.next().await?;
        Some((Ok::<_, Infallible>(bytes), watch))
    });
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from_stream(stream)).into_response())
}

fn initial_lines(
    store: &Store,
    selection: &Selection,
    format: Format,
    mark_end: bool,
    heads: &mut bool,
) -> Bytes {
    let mut lines = String::new();
    for object in store.objects().filter(|object| selection.wants(object)) {
        let heads = std::mem::take(heads);
        lines += &line("ADDED", &format.one(selection.kind, store.version(), object, heads));
    }
    if mark_end {
        let end = json!({ "k8s.io/initial-events-end": "true" });
        lines += &bookmark(selection.kind, store.version(), end);
    }
    Bytes::from(lines)
}

fn expired(since: u64, oldest: u64) -> Bytes {
    Bytes::from(expired_line(since, oldest))
}

fn expired_line(since: u64, oldest: u64) -> String {
    let message = format!("too old resource version: {since} ({oldest})");
    line("ERROR", &request::status(410, "Expired", &message, json!(null)))
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
        let mut lines = String::new();
        if since < store.forgotten() {
            // It was too slow for what is gone; the real one never leaves a change out in silence.
            self.over = true;
            return expired_line(since, store.oldest());
        }
        for change in store.changes_after(since) {
            // What begins to fit the selector is new to this watch, what ceases to is gone.
            let before = change.before.as_ref().is_some_and(|old| self.selection.wants(old));
            let kind = match (before, self.selection.wants(&change.object), change.kind) {
                (_, true, "DELETED") | (true, false, _) => "DELETED",
                (false, true, _) => "ADDED",
                (true, true, _) => "MODIFIED",
                (false, false, _) => continue,
            };
            let heads = std::mem::take(&mut self.heads);
            let (of, version) = (self.selection.kind, store.version());
            lines += &line(kind, &self.format.one(of, version, &change.object, heads));
        }
        lines
    }
}
