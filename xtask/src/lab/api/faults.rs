//! What an API server can do wrong, on demand: a script of faults, each for one resource or all, in
//! force until it is taken back.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::request::status;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Requests are taken and never answered.
    BlackHole,
    /// Watches begin and then say nothing more, not even their end.
    SilentWatch,
    /// Every answer begins this much later.
    Slow(Duration),
    /// Answers break off in the middle of an object.
    Cut,
    /// Answers are not JSON, but for every second line of a watch.
    Malformed,
    /// This status and reason, with `Retry-After` in seconds.
    Refused(u16, &'static str, Option<u64>),
    /// Nobody may read it.
    Forbidden,
    /// A watch from a version is told with HTTP 410 that it is too old.
    GoneStatus,
    /// The same as an ERROR event in a watch that began well.
    GoneEvent,
    /// Every page but the first has expired.
    ExpiredContinue,
    /// Every watch ends properly after this time.
    ShortWatch(Duration),
    /// Lists cannot be streamed, as before Kubernetes 1.32.
    NoStreaming,
    /// This many EndpointSlices with 1000 endpoints each, in place of the real ones.
    Million(usize),
}

/// The faults in force, with the resource (plural) that each is for.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Vec<(Option<String>, Fault)>>);

impl Faults {
    /// From now on this goes wrong, for one resource or for all requests.
    pub fn set(&self, resource: Option<&str>, fault: Fault) {
        self.lock().push((resource.map(str::to_owned), fault));
    }

    /// All is well again; what hangs goes on hanging.
    pub fn clear(&self) {
        self.lock().clear();
    }

    pub(super) fn of(&self, resource: &str) -> Vec<Fault> {
        let all = self.lock();
        let fits = |at: &&(Option<String>, Fault)| at.0.as_deref().is_none_or(|of| of == resource);
        all.iter().filter(fits).map(|at| at.1.clone()).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Option<String>, Fault)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the request is, as far as faults care.
pub(super) struct Asked<'a> {
    pub(super) resource: &'a str,
    pub(super) watch: bool,
    pub(super) streaming: bool,
    pub(super) continued: bool,
}

/// The answer in place of the right one.
pub(super) async fn before(faults: &[Fault], asked: &Asked<'_>) -> Option<Response> {
    for fault in faults {
        let answer = match fault {
            Fault::BlackHole => std::future::pending().await,
            Fault::Slow(pause) => {
                tokio::time::sleep(*pause).await;
                None
            }
            Fault::Refused(code, reason, after) => Some(refused(*code, reason, "no", *after)),
            Fault::Forbidden => {
                let resource = asked.resource;
                let group = if resource == "endpointslices" { "discovery.k8s.io" } else { "" };
                let message = format!(
                    "{resource} is forbidden: User \"svctrace\" cannot list resource \"{resource}\" in API group \"{group}\" at the cluster scope"
                );
                Some(refused(403, "Forbidden", &message, None))
            }
            Fault::GoneStatus if asked.watch && !asked.streaming => {
                Some(refused(410, "Expired", "too old resource version: 1 (2)", None))
            }
            Fault::GoneEvent if asked.watch && !asked.streaming => {
                let gone = status(410, "Expired", "too old resource version: 1 (2)", json!(null));
                let line = json!({ "type": "ERROR", "object": gone });
                Some(
                    ([(header::CONTENT_TYPE, "application/json")], format!("{line}\n"))
                        .into_response(),
                )
            }
            Fault::ExpiredContinue if asked.continued => Some(refused(
                410,
                "Expired",
                "The provided continue parameter is too old to display a consistent list result.",
                None,
            )),
            Fault::NoStreaming if asked.streaming => Some(refused(
                422,
                "Invalid",
                "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
                None,
            )),
            Fault::Million(slices) if asked.resource == "endpointslices" => {
                Some(million(*slices, asked.watch))
            }
            _ => None,
        };
        if answer.is_some() {
            return answer;
        }
    }
    None
}

/// The right answer, spoiled.
pub(super) fn spoiled(response: Response, faults: &[Fault], asked: &Asked<'_>) -> Response {
    let mut response = response;
    for fault in faults {
        response = match fault {
            Fault::Cut => cut(response),
            Fault::Malformed => malformed(response),
            Fault::SilentWatch if asked.watch => silent(response),
            _ => response,
        };
    }
    response
}

fn refused(code: u16, reason: &str, message: &str, after: Option<u64>) -> Response {
    let body = status(code, reason, message, json!({})).to_string();
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (code, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    if let Some(after) = after {
        response.headers_mut().insert(header::RETRY_AFTER, after.into());
    }
    response
}

fn with_body<S>(
    response: Response,
    change: impl FnOnce(axum::body::BodyDataStream) -> S,
) -> Response
where
    S: futures_util::Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
{
    let (mut parts, body) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from_stream(change(body.into_data_stream())))
}

/// Half of the first piece, then the end of the connection.
fn cut(response: Response) -> Response {
    with_body(response, |body| {
        let half = body.take(1).map(|piece| {
            let piece = piece.map_err(std::io::Error::other)?;
            Ok(piece.slice(..piece.len() / 2))
        });
        half.chain(futures_util::stream::iter([Err(std::io::ErrorKind::ConnectionReset.into())]))
    })
}

fn malformed(response: Response) -> Response {
    with_body(response, |body| {
        body.map(|piece| {
            let piece = piece.map_err(std::io::Error::other)?;
            let mut out = Vec::with_capacity(piece.len() + 64);
            for line in piece.split_inclusive(|byte| *byte == b'\n') {
                out.extend_from_slice(
                    b"{\"type\":\"ADDED\",\"object\":{\"metadata\":7}}\n{\"type\"",
                );
                out.push(b'\n');
                out.extend_from_slice(line);
            }
            Ok(Bytes::from(out))
        })
    })
}

fn silent(response: Response) -> Response {
    with_body(response, |body| {
        body.map(|piece| piece.map_err(std::io::Error::other))
            .take(1)
            .chain(futures_util::stream::pending())
    })
}

/// Slices made as they are sent.
fn million(slices: usize, watch: bool) -> Response {
    let piece = move |number: usize| {
        let one = slice(number);
        Ok::<_, Infallible>(Bytes::from(match (watch, number + 1 == slices) {
            (true, _) => format!("{}\n", json!({ "type": "ADDED", "object": one })),
            (false, true) => one.to_string(),
            (false, false) => format!("{one},"),
        }))
    };
    let middle = futures_util::stream::iter(0..slices).map(piece);
    let (first, last) = if watch {
        let end = json!({ "type": "BOOKMARK", "object": { "kind": "EndpointSlice",
            "metadata": { "resourceVersion": "7", "annotations": { "k8s.io/initial-events-end": "true" } } } });
        (String::new(), format!("{end}\n"))
    } else {
        let first = "{\"kind\":\"EndpointSliceList\",\"apiVersion\":\"discovery.k8s.io/v1\",\"metadata\":{\"resourceVersion\":\"7\"},\"items\":[";
        (first.to_owned(), "]}\n".to_owned())
    };
    let one = |text: String| futures_util::stream::iter([Ok(Bytes::from(text))]);
    let body = one(first).chain(middle).chain(one(last));
    let body: futures_util::stream::BoxStream<'static, _> = match watch {
        true => body.chain(futures_util::stream::pending()).boxed(),
        false => body.boxed(),
    };
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response()
}

fn slice(number: usize) -> Value {
    let endpoints: Vec<Value> = (0..1000u32)
        .map(|endpoint| {
            let [_, b, c, d] = (number as u32 * 1000 + endpoint).to_be_bytes();
            json!({ "addresses": [format!("10.{b}.{c}.{d}")],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "targetRef": { "kind": "Pod", "namespace": "load", "name": format!("p-{number}-{endpoint}"),
                    "uid": format!("00000000-0000-4000-8000-{:012x}", number * 1000 + endpoint as usize) },
                "nodeName": format!("node-{}", endpoint % 50) })
        })
        .collect();
    json!({
        "metadata": { "name": format!("huge-{number}"), "namespace": "load", "resourceVersion": "5",
            "uid": format!("00000000-0000-4000-9000-{number:012x}"),
            "labels": { "kubernetes.io/service-name": "huge" } },
        "addressType": "IPv4", "endpoints": endpoints,
        "ports": [{ "name": "http", "protocol": "TCP", "port": 8080 }],
    })
}
