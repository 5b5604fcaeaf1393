//! Who put a search suffix there, in words, and how to get rid of it.

use serde_json::{Value, json};

use crate::identify::{OriginKind, SuffixOrigin};

/// For a finding's details.
pub(crate) fn details(origin: &SuffixOrigin) -> Value {
    json!({ "kind": origin.kind.word(), "place": origin.place, "line": origin.line,
        "missing": origin.missing })
}

/// Where `suffix` comes from, and what to do.
pub(crate) fn words(suffix: &str, origin: &SuffixOrigin) -> (String, String) {
    match origin.kind {
        OriginKind::DnsConfig => dns_config(suffix, origin),
        OriginKind::NodeFile => node_file(suffix, origin),
        OriginKind::Image => image(suffix, origin),
        OriginKind::Unknown => unknown(suffix, origin),
    }
}

fn place(origin: &SuffixOrigin) -> String {
    let place = origin.place.as_deref().unwrap_or("a file");
    origin.line.map_or_else(|| place.to_owned(), |line| format!("{place}:{line}"))
}

fn dns_config(suffix: &str, origin: &SuffixOrigin) -> (String, String) {
    let cause = "It comes from the pod's dnsConfig.searches.";
    let remedy = format!("remove `{suffix}` from the pod's dnsConfig.searches");
    match &origin.also {
        Some((path, line)) => (
            format!("{cause} {path}:{line} on the node has it, too."),
            format!("{remedy}, and from {path}:{line} on the node"),
        ),
        None => (cause.to_owned(), remedy),
    }
}

fn node_file(suffix: &str, origin: &SuffixOrigin) -> (String, String) {
    let place = place(origin);
    let how = match (origin.kubelets, origin.whole_file) {
        (_, Some(why)) => format!("which this pod has as it is ({why})"),
        (true, None) => "which kubelet was told to copy into every pod (resolvConf)".to_owned(),
        (false, None) => "which kubelet copies into every pod".to_owned(),
    };
    (
        format!("It comes from {place} on the node, {how}."),
        format!(
            "remove `{suffix}` from the search list in {place} on the node, or give kubelet a file without it (`resolvConf` in its configuration, or --resolv-conf); pods take it up when they are made anew"
        ),
    )
}

fn image(suffix: &str, origin: &SuffixOrigin) -> (String, String) {
    let cause = if origin.only_config {
        "dnsPolicy None leaves nothing but the pod's dnsConfig, which does not have it: something in the image wrote it."
    } else {
        "Neither the node's files nor the pod's dnsConfig has it: something in the image wrote it."
    };
    let remedy = format!(
        "find what writes `{suffix}` into /etc/resolv.conf in the container (its entrypoint, a start script, a mounted file), and let kubelet's file stand; what the pod needs besides goes into dnsConfig"
    );
    (cause.to_owned(), remedy)
}

fn unknown(suffix: &str, origin: &SuffixOrigin) -> (String, String) {
    let mut cause = "Who put it into the pod's resolv.conf is not known".to_owned();
    if !origin.missing.is_empty() {
        cause.push_str(&format!(": {}", origin.missing.join("; ")));
    }
    cause.push('.');
    if origin.place.is_some() {
        cause.push_str(&format!(" {} on the node has it.", place(origin)));
    }
    (
        cause,
        format!(
            "find `{suffix}` in the node's resolv.conf (kubelet's `resolvConf`) or the pod's dnsConfig.searches, and remove it"
        ),
    )
}
