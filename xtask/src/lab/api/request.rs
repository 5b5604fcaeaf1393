//! What a request asks for: paths, selectors, discovery documents, and Status objects for errors.

use axum::http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};

use super::{Params, kind_of};
use crate::lab::objects::Object;

/// A kind of object.
pub(super) struct Kind {
    pub(super) group: &'static str,
    pub(super) plural: &'static str,
    pub(super) singular: &'static str,
    pub(super) name: &'static str,
    pub(super) short: &'static [&'static str],
    pub(super) namespaced: bool,
    pub(super) fields: &'static [&'static str],
}

/// Every kind the endpoint serves.
pub(super) const KINDS: [Kind; 5] = [
    Kind {
        group: "",
        plural: "pods",
        singular: "pod",
        name: "Pod",
        short: &["po"],
        namespaced: true,
        fields: &[
            "metadata.name",
            "metadata.namespace",
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "status.phase",
            "status.podIP",
        ],
    },
    Kind {
        group: "",
        plural: "services",
        singular: "service",
        name: "Service",
        short: &["svc"],
        namespaced: true,
        fields: &["metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"],
    },
    Kind {
        group: "",
        plural: "nodes",
        singular: "node",
        name: "Node",
        short: &["no"],
        namespaced: false,
        fields: &["metadata.name"],
    },
    Kind {
        group: "",
        plural: "namespaces",
        singular: "namespace",
        name: "Namespace",
        short: &["ns"],
        namespaced: false,
        fields: &["metadata.name", "status.phase"],
    },
    Kind {
        group: "discovery.k8s.io",
        plural: "endpointslices",
        singular: "endpointslice",
        name: "EndpointSlice",
        short: &[],
        namespaced: true,
        fields: &["metadata.name", "metadata.namespace"],
    },
];

impl Kind {
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() { "v1".to_owned() } else { format!("{}/v1", self.group) }
    }

    /// The object with its kind, as everywhere but in lists.
    pub(super) fn whole(&self, body: &Value) -> Value {
        let mut whole = json!({ "kind": self.name, "apiVersion": self.api_version() });
        if let (Some(into), Some(from)) = (whole.as_object_mut(), body.as_object()) {
            into.extend(from.clone());
        }
        whole
    }
}

/// What went wrong with a request.
pub(super) enum Refusal {
    Unauthorized,
    Forbidden(String),
    NotFound(String, Value),
    BadRequest(String),
    Invalid(String),
    Expired(String),
    TooNew(u64, u64),
}

impl Refusal {
    pub(super) fn code(&self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(..) => StatusCode::NOT_FOUND,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Expired(_) => StatusCode::GONE,
            Self::TooNew(..) => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    pub(super) fn body(&self) -> Value {
        match self {
            Self::Unauthorized => status(401, "Unauthorized", "Unauthorized", json!(null)),
            Self::Forbidden(message) => status(403, "Forbidden", message, json!({})),
            Self::NotFound(message, details) => status(404, "NotFound", message, details.clone()),
            Self::BadRequest(message) => status(400, "BadRequest", message, json!(null)),
            Self::Invalid(message) => status(422, "Invalid", message, json!({})),
            Self::Expired(message) => status(410, "Expired", message, json!(null)),
            Self::TooNew(asked, current) => {
                let cause = json!({ "reason": "ResourceVersionTooLarge",
                    "message": "Too large resource version" });
                let message =
                    format!("Timeout: Too large resource version: {asked}, current: {current}");
                let details = json!({ "causes": [cause], "retryAfterSeconds": 1 });
                status(504, "Timeout", &message, details)
            }
        }
    }
}

/// A failure as the API server reports it.
pub(super) fn status(code: u16, reason: &str, message: &str, details: Value) -> Value {
    let mut body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    });
    if details.is_object() {
        body["details"] = details;
    }
    body
}

/// Whether the caller may ask: with the right token, a certificate, or where all may.
pub(super) fn authorized(headers: &HeaderMap, known: bool, path: &[&str]) -> Result<(), Refusal> {
    match headers.get(header::AUTHORIZATION).map(|value| value.as_bytes()) {
        Some(token) if token == format!("Bearer {}", super::TOKEN).as_bytes() => Ok(()),
        Some(_) => Err(Refusal::Unauthorized),
        None if known || matches!(path, ["version" | "healthz" | "livez" | "readyz"]) => Ok(()),
        None => {
            let resource = path.last().copied().unwrap_or_default();
            Err(Refusal::Forbidden(format!(
                "{resource} is forbidden: User \"system:anonymous\" cannot list resource \"{resource}\" in API group \"\" at the cluster scope"
            )))
        }
    }
}

/// Kind, namespace and name that a path asks for.
pub(super) fn resource<'a>(
    path: &[&'a str],
) -> Result<(&'static Kind, Option<&'a str>, Option<&'a str>), Refusal> {
    let missing = || {
        Refusal::NotFound("the server could not find the requested resource".to_owned(), json!({}))
    };
    let (group, rest) = match path {
        ["api", "v1", rest @ ..] => ("", rest),
        ["apis", group, "v1", rest @ ..] => (*group, rest),
        _ => return Err(missing()),
    };
    let (namespace, plural, name) = match rest {
        ["namespaces", namespace, plural] => (Some(*namespace), *plural, None),
        ["namespaces", namespace, plural, name] => (Some(*namespace), *plural, Some(*name)),
        [plural] => (None, *plural, None),
        [plural, name] => (None, *plural, Some(*name)),
        _ => return Err(missing()),
    };
    match kind_of(plural) {
        Some(kind) if kind.group == group => Ok((kind, namespace, name)),
        _ => Err(Refusal::Forbidden(format!(
            "{plural} is forbidden: User \"svctrace\" cannot list resource \"{plural}\" in API group \"{group}\" at the cluster scope"
        ))),
    }
}

/// Which objects are meant: kind, namespace, name, field and label selectors.
pub(super) struct Selection {
    pub(super) kind: &'static Kind,
    namespace: Option<String>,
    name: Option<String>,
    tests: Vec<Test>,
}

struct Test {
    pointer: String,
    value: Option<String>,
    equal: bool,
}

impl Selection {
    pub(super) fn new(
        kind: &'static Kind,
        namespace: Option<&str>,
        name: Option<&str>,
        params: &Params,
    ) -> Result<Self, Refusal> {
        let mut tests = Vec::new();
        for word in words(params, "fieldSelector") {
            let test = comparison(word).ok_or_else(|| invalid(word))?;
            let (field, value, equal) = test;
            if !kind.fields.contains(&field) {
                return Err(Refusal::BadRequest(format!("field label not supported: {field}")));
            }
            let pointer = format!("/{}", field.replace('.', "/"));
            tests.push(Test { pointer, value: Some(value.to_owned()), equal });
        }
        for word in words(params, "labelSelector") {
            let (label, value, equal) = match (comparison(word), word.strip_prefix('!')) {
                (Some((label, value, equal)), _) => (label, Some(value.to_owned()), equal),
                (None, Some(label)) => (label, None, false),
                (None, None) if !word.contains([' ', '(']) => (word, None, true),
                (None, None) => return Err(invalid(word)),
            };
            let label = label.replace('~', "~0").replace('/', "~1");
            tests.push(Test { pointer: format!("/metadata/labels/{label}"), value, equal });
        }
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Ok(Self { kind, namespace: owned(namespace), name: owned(name), tests })
    }

    pub(super) fn wants(&self, object: &Object) -> bool {
        let fits = |wanted: &Option<String>, pointer| {
            wanted.as_deref().is_none_or(|wanted| wanted == object.field(pointer))
        };
        object.resource == self.kind.plural
            && fits(&self.namespace, "/metadata/namespace")
            && fits(&self.name, "/metadata/name")
            && self.tests.iter().all(|test| test.holds(object))
    }

    pub(super) fn not_found(&self) -> Refusal {
        let name = self.name.as_deref().unwrap_or_default();
        let plural = self.kind.plural;
        Refusal::NotFound(
            format!("{plural} \"{name}\" not found"),
            json!({ "name": name, "kind": plural }),
        )
    }
}

impl Test {
    fn holds(&self, object: &Object) -> bool {
        let found = object.body.pointer(&self.pointer).and_then(Value::as_str);
        let matches = match &self.value {
            Some(value) => found.unwrap_or_default() == value,
            None => found.is_some(),
        };
        matches == self.equal
    }
}

fn words<'a>(params: &'a Params, key: &str) -> impl Iterator<Item = &'a str> {
    params.get(key).into_iter().flat_map(|text| text.split(',')).filter(|word| !word.is_empty())
}

/// `a=b`, `a==b` or `a!=b`: the two sides, and whether they must be equal.
fn comparison(word: &str) -> Option<(&str, &str, bool)> {
    if let Some((left, right)) = word.split_once("!=") {
        return Some((left, right, false));
    }
    let (left, right) = word.split_once('=')?;
    Some((left, right.strip_prefix('=').unwrap_or(right), true))
}

fn invalid(word: &str) -> Refusal {
    Refusal::BadRequest(format!("unable to parse requirement: {word}"))
}

/// The documents by which clients find out what is served.
pub(super) fn discovery(path: &[&str]) -> Option<Value> {
    let group = "discovery.k8s.io";
    let version = json!({ "groupVersion": format!("{group}/v1"), "version": "v1" });
    let described = json!({ "name": group, "versions": [version], "preferredVersion": version });
    match path {
        ["api"] => Some(json!({ "kind": "APIVersions", "versions": ["v1"] })),
        ["apis"] => {
            Some(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": [described] }))
        }
        ["apis", asked] if *asked == group => {
            let mut one = described;
            one["kind"] = json!("APIGroup");
            one["apiVersion"] = json!("v1");
            Some(one)
        }
        ["api", "v1"] => Some(resources("")),
        ["apis", asked, "v1"] if *asked == group => Some(resources(group)),
        _ => None,
    }
}

fn resources(group: &str) -> Value {
    let kinds = KINDS.iter().filter(|kind| kind.group == group);
    let version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    let rows = kinds.map(|kind| {
        json!({
            "name": kind.plural, "singularName": kind.singular, "kind": kind.name,
            "namespaced": kind.namespaced, "shortNames": kind.short,
            "verbs": ["get", "list", "watch"],
        })
    });
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version,
        "resources": rows.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> Object {
        Object {
            resource: "pods",
            body: json!({
                "metadata": { "name": name, "namespace": "shop", "labels": { "app.kubernetes.io/name": "web" } },
                "spec": { "nodeName": "one" },
            }),
        }
    }

    fn selects(params: &[(&str, &str)]) -> bool {
        let params =
            params.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let kind = kind_of("pods").unwrap();
        match Selection::new(kind, Some("shop"), None, &params) {
            Ok(selection) => selection.wants(&pod("web-1")),
            Err(fault) => panic!("{}", fault.body()),
        }
    }

    #[test]
    fn selectors_choose_as_the_api_server_does() {
        assert!(selects(&[("fieldSelector", "spec.nodeName=one,metadata.name!=web-2")]));
        assert!(!selects(&[("fieldSelector", "spec.nodeName=two")]));
        assert!(selects(&[("labelSelector", "app.kubernetes.io/name==web")]));
        assert!(selects(&[("labelSelector", "app.kubernetes.io/name,!tier")]));
        assert!(!selects(&[("labelSelector", "tier")]));
    }

    #[test]
    fn unknown_fields_and_kinds_are_refused() {
        let params = [("fieldSelector".to_owned(), "metadata.uid=x".to_owned())].into();
        let refused = Selection::new(kind_of("pods").unwrap(), None, None, &params);
        assert_eq!(refused.err().unwrap().code(), StatusCode::BAD_REQUEST);
        let secrets = resource(&["api", "v1", "namespaces", "shop", "secrets"]);
        assert_eq!(secrets.err().unwrap().code(), StatusCode::FORBIDDEN);
        assert_eq!(resource(&["apis", "nowhere"]).err().unwrap().code(), StatusCode::NOT_FOUND);
    }
}
