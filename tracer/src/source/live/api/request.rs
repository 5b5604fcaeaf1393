//! One request to the API server, with limits on time and size. Knows no objects.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::split::OBJECT_MAX;

/// Time until an answer begins; a server that waits for a version it has not seen takes 3 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// Longest silence within an answer that is not a watch.
pub(super) const PIECE_WITHIN: Duration = Duration::from_secs(15);
/// Most bytes of a refusal that are read.
const REFUSAL_MAX: usize = 64 << 10;
/// Longest pause that a server may ask for.
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Why a request has no answer, or only half of one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::source::live) enum Failure {
    /// The server said so.
    #[error("{reason} ({code})")]
    Refused {
        /// HTTP status, or that of an ERROR event.
        code: u16,
        /// Its word for it.
        reason: String,
        /// Pause that it asks for.
        after: Option<Duration>,
    },
    /// Nothing came for this long.
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// The connection, or what came over it, is no good.
    #[error("{0}")]
    Broken(String),
}

impl Failure {
    /// The HTTP status of a refusal, else 0.
    pub(in crate::source::live) fn code(&self) -> u16 {
        match self {
            Self::Refused { code, .. } => *code,
            _ => 0,
        }
    }
}

/// A `Status` object, as far as it matters.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    code: u16,
    reason: String,
    details: Option<Details>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Details {
    retry_after_seconds: u64,
}

impl Status {
    pub(super) fn failure(self) -> Failure {
        let after = self.details.map(|details| details.retry_after_seconds);
        refused(self.code, &self.reason, after)
    }
}

fn refused(code: u16, reason: &str, after: Option<u64>) -> Failure {
    let plain = reason.bytes().all(|byte| byte.is_ascii_alphanumeric()) && reason.len() <= 64;
    let reason = match plain && !reason.is_empty() {
        true => reason.to_owned(),
        false => "HTTP status".to_owned(),
    };
    let after = after.filter(|seconds| *seconds > 0).map(Duration::from_secs);
    Failure::Refused { code, reason, after: after.map(|pause| pause.min(RETRY_MAX)) }
}

/// An answer that is being read.
pub(super) struct Answer(Body);

/// Sends a GET; an answer has come when its head has.
pub(super) async fn get(client: &Client, target: &str) -> Result<Answer, Failure> {
    let request = Request::get(target)
        .header(header::ACCEPT, "application/json")
        .body(Body::empty())
        .map_err(|error| Failure::Broken(error.to_string()))?;
    let sent = timeout(ANSWER_WITHIN, client.send(request)).await;
    let response = sent.map_err(|_| Failure::Silent(ANSWER_WITHIN))?.map_err(broken)?;
    let status = response.status();
    let after = response.headers().get(header::RETRY_AFTER);
    let after = after.and_then(|value| value.to_str().ok()?.parse().ok());
    let mut answer = Answer(response.into_body());
    if status.is_success() {
        return Ok(answer);
    }
    let mut text = Vec::new();
    while text.len() < REFUSAL_MAX
        && let Ok(Some(piece)) = answer.piece(Duration::from_secs(2)).await
    {
        text.extend_from_slice(&piece);
    }
    let told: Status = serde_json::from_slice(&text).unwrap_or_default();
    let after = after.or(told.details.map(|details| details.retry_after_seconds));
    Err(refused(status.as_u16(), &told.reason, after))
}

/// The cause rather than the wrapping, in one line.
fn broken(error: impl std::error::Error + 'static) -> Failure {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    let line: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    Failure::Broken(line)
}

impl Answer {
    /// The next bytes; `None` at the end.
    pub(super) async fn piece(&mut self, within: Duration) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = timeout(within, self.0.frame()).await;
            match frame.map_err(|_| Failure::Silent(within))? {
                None => return Ok(None),
                Some(Err(error)) => return Err(broken(error)),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

/// One object; `None` when the server knows none.
pub(in crate::source::live) async fn object<K: DeserializeOwned>(
    client: &Client,
    target: &str,
) -> Result<Option<K>, Failure> {
    let mut answer = match get(client, target).await {
        Err(failure) if failure.code() == 404 => return Ok(None),
        other => other?,
    };
    let mut text = Vec::new();
    while let Some(piece) = answer.piece(PIECE_WITHIN).await? {
        text.extend_from_slice(&piece);
        if text.len() > OBJECT_MAX {
            return Err(Failure::Broken("the object is too large".into()));
        }
    }
    let parsed = serde_json::from_slice(&text);
    parsed.map(Some).map_err(|_| Failure::Broken("not the object that was asked for".into()))
}
