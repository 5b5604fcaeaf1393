//! Lists in pages, and the resource versions that a caller may ask for.

use std::time::Duration;

use serde_json::{Value, json};

use super::request::{Refusal, Selection};
use super::store::Store;
use super::{Params, Shared};
use crate::lab::objects::Object;

/// How long the server waits for a version that it has not seen yet.
const TOO_NEW_AFTER: Duration = Duration::from_secs(3);

/// Waits for the version that is asked for; the refusal when it does not come.
pub(super) async fn too_new(shared: &Shared, params: &Params) -> Option<Refusal> {
    let asked: u64 = params.get("resourceVersion")?.parse().ok()?;
    let mut changes = shared.subscribe();
    let reached = changes.wait_for(|store| store.version() >= asked);
    match tokio::time::timeout(TOO_NEW_AFTER, reached).await {
        Ok(_) => None,
        Err(_) => Some(Refusal::TooNew(asked, shared.borrow().version())),
    }
}

/// A part of a list.
pub(super) struct Page<'a> {
    pub(super) objects: Vec<&'a Object>,
    next: Option<String>,
    remaining: Option<usize>,
}

impl<'a> Page<'a> {
    pub(super) fn of(
        store: &'a Store,
        selection: &Selection,
        params: &Params,
    ) -> Result<Self, Refusal> {
        let given = params.get("resourceVersion").map(String::as_str).unwrap_or_default();
        let version: u64 = match given {
            "" => 0,
            text => text.parse().map_err(|_| {
                Refusal::BadRequest(format!("Invalid value: \"{text}\": invalid resource version"))
            })?,
        };
        let exact = params.get("resourceVersionMatch").is_some_and(|kind| kind == "Exact");
        if exact && version != store.version() {
            let oldest = store.oldest();
            return Err(Refusal::Expired(format!(
                "too old resource version: {version} ({oldest})"
            )));
        }
        let after = params.get("continue").map(|token| start(token, store)).transpose()?;
        let wanted = store.objects().filter(|object| selection.wants(object));
        let mut objects: Vec<&Object> = wanted
            .filter(|object| after.as_ref().is_none_or(|after| place(object) > *after))
            .collect();
        let limit = params.get("limit").and_then(|text| text.parse().ok()).filter(|at| *at > 0);
        let left = limit.map_or(0, |limit: usize| objects.len().saturating_sub(limit));
        objects.truncate(objects.len() - left);
        let last = objects.last().filter(|_| left > 0);
        let next = last.map(|last| {
            let token =
                json!({ "v": "meta.k8s.io/v1", "rv": store.version(), "start": place(last) });
            token.to_string().bytes().map(|byte| format!("{byte:02x}")).collect()
        });
        let selects = params.contains_key("fieldSelector") || params.contains_key("labelSelector");
        Ok(Self { objects, next, remaining: (left > 0 && !selects).then_some(left) })
    }

    /// Adds to the list where its next page is.
    pub(super) fn describe(&self, list: &mut Value) {
        if let Some(next) = &self.next {
            list["metadata"]["continue"] = json!(next);
        }
        if let Some(remaining) = self.remaining {
            list["metadata"]["remainingItemCount"] = json!(remaining);
        }
    }
}

fn place(object: &Object) -> String {
    let (_, namespace, name) = object.key();
    format!("{namespace}/{name}")
}

/// Where a token says that the page begins.
fn start(token: &str, store: &Store) -> Result<String, Refusal> {
    let invalid = || Refusal::BadRequest("continue key is not valid".to_owned());
    let digits: Vec<u8> = (0..token.len() / 2)
        .map(|at| token.get(at * 2..at * 2 + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok()))
        .collect::<Option<_>>()
        .ok_or_else(invalid)?;
    let token: Value = serde_json::from_slice(&digits).map_err(|_| invalid())?;
    if token["rv"].as_u64().is_none_or(|version| version < store.oldest()) {
        return Err(Refusal::Expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.".to_owned(),
        ));
    }
    token["start"].as_str().map(str::to_owned).ok_or_else(invalid)
}
