//! Remedies to paste: parts of a pod's template, commands for its owner, lines for kubelet and
//! CoreDNS. Names come from the wire and the cluster: what is not plainly a name is left out of
//! them, and strings are quoted.

use serde_json::{Value, json};

use crate::identify::ResolverConfig;
use crate::report::Identity;

use super::words;

/// Kubernetes' own limits.
const SERVERS_MAX: usize = 3;
const SEARCH_MAX: usize = 32;

/// Something to paste.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snippet {
    /// Part of a pod's spec, with a comment that says where it goes.
    pub(super) yaml: String,
    /// The same as a command.
    pub(super) command: Option<String>,
}

impl Snippet {
    /// `sentence` with the snippet beneath it.
    pub(super) fn beneath(&self, sentence: &str) -> String {
        let command = self.command.as_ref().map(|c| format!("\n{c}")).unwrap_or_default();
        format!("{sentence}\n{}{command}", self.yaml)
    }
}

/// Where a pod's spec stands in its owner.
struct Template {
    kind: &'static str,
    path: &'static [&'static str],
}

fn template(kind: &str) -> Option<Template> {
    const POD: &[&str] = &["spec", "template", "spec"];
    let kind = match kind {
        "Deployment" => "deployment",
        "StatefulSet" => "statefulset",
        "DaemonSet" => "daemonset",
        "CronJob" => {
            let path = &["spec", "jobTemplate", "spec", "template", "spec"];
            return Some(Template { kind: "cronjob", path });
        }
        _ => return None, // a Job's template and a pod's dnsConfig cannot be changed
    };
    Some(Template { kind, path: POD })
}

/// As Kubernetes names objects (RFC 1123), so that it needs no quotes anywhere.
fn plain(name: &str) -> bool {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= 253
        && name.bytes().all(fine)
}

/// A domain name as people write it; what else may be in DNS is not for pasting.
pub(super) fn is_domain(name: &str) -> bool {
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let label = |label: &str| !label.is_empty() && !label.starts_with('-');
    name.len() <= 253 && name.bytes().all(fine) && name.split('.').all(label)
}

/// A YAML string that is a string, whatever is in it: JSON's are, and everything that is not plain
/// ASCII is escaped.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    for c in Value::from(text).to_string().chars() {
        if c.is_ascii() && !c.is_ascii_control() {
            out.push(c);
        } else {
            let mut units = [0; 2];
            let units = c.encode_utf16(&mut units);
            units.iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        }
    }
    out
}

/// `Deployment/client in critical-app`, or what else is known.
pub(super) fn subject(identity: &Identity) -> String {
    match (&identity.owner, &identity.namespace) {
        (Some(owner), Some(namespace)) => format!("{owner} in {namespace}"),
        (Some(owner), None) => owner.clone(),
        _ => words::who(identity),
    }
}

fn snippet(identity: &Identity, spec: &Value, yaml: &str, note: &str) -> Snippet {
    let owner = identity.owner.as_deref().and_then(|owner| owner.split_once('/'));
    let known = owner.zip(identity.namespace.as_deref()).and_then(|((kind, name), namespace)| {
        let safe = plain(name) && plain(namespace);
        template(kind).filter(|_| safe).map(|template| (template, kind, name, namespace))
    });
    let Some((template, kind, name, namespace)) = known else {
        let whose = match (&identity.namespace, &identity.pod) {
            (Some(namespace), Some(pod)) if plain(namespace) && plain(pod) => {
                format!("spec of pod {namespace}/{pod}, which has to be made anew")
            }
            _ => "the pod's spec; a pod has to be made anew".to_owned(),
        };
        return Snippet { yaml: format!("# {whose}{note}\n{yaml}"), command: None };
    };
    let path = template.path.join(".");
    let patch = template.path.iter().rev().fold(spec.clone(), |inner, key| json!({ *key: inner }));
    // No apostrophe can be in it: `spec` holds plain names and addresses only.
    let command = format!("kubectl -n {namespace} patch {} {name} -p '{patch}'", template.kind);
    Snippet {
        yaml: format!("# {kind}/{name} in {namespace}: {path}{note}\n{yaml}"),
        command: (!patch.to_string().contains('\'')).then_some(command),
    }
}

/// An option of resolv.conf: name and value.
type Setting = (String, Option<String>);

/// `options: […]` and the same for a patch.
fn options(all: &[Setting]) -> (String, Value) {
    let one = |(name, value): &Setting| match value {
        Some(value) => {
            let json = json!({ "name": name, "value": value });
            (format!("{{name: {name}, value: {}}}", quoted(value)), json)
        }
        None => (format!("{{name: {name}}}"), json!({ "name": name })),
    };
    let (yaml, json): (Vec<String>, Vec<Value>) = all.iter().map(one).unzip();
    (format!("options: [{}]", yaml.join(", ")), Value::Array(json))
}

/// One option of resolv.conf through dnsConfig.
pub(super) fn option(identity: &Identity, name: &str, value: Option<&str>) -> Snippet {
    let (yaml, json) = options(&[(name.to_owned(), value.map(str::to_owned))]);
    let spec = json!({ "dnsConfig": { "options": json } });
    let note = " (keep other options it has)";
    snippet(identity, &spec, &format!("dnsConfig:\n  {yaml}"), note)
}

/// The options in force, as far as they are plain words.
fn settings(config: &ResolverConfig) -> Vec<Setting> {
    let number = |name: &str, value: u32| (name.to_owned(), Some(value.to_string()));
    let mut all = vec![number("ndots", config.ndots)];
    if config.timeout_s != 5 {
        all.push(number("timeout", config.timeout_s));
    }
    if config.attempts != 2 {
        all.push(number("attempts", config.attempts));
    }
    let word = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|b| b.is_ascii_lowercase() || b"-0123456789".contains(&b))
    };
    for option in &config.options {
        let (name, value) = match option.split_once(':') {
            Some((name, value)) => (name, Some(value)),
            None => (option.as_str(), None),
        };
        if word(name) && value.is_none_or(word) {
            all.push((name.to_owned(), value.map(str::to_owned)));
        }
    }
    all
}

/// The resolver configuration as it is, without `suffix`: for an owner who cannot change the node.
pub(super) fn without_suffix(
    identity: &Identity,
    config: &ResolverConfig,
    suffix: &str,
) -> Option<Snippet> {
    let search: Vec<String> = config.search.iter().filter(|s| *s != suffix).cloned().collect();
    let sane = search.iter().all(|s| is_domain(s))
        && search.len() <= SEARCH_MAX
        && search.len() < config.search.len()
        && (1..=SERVERS_MAX).contains(&config.servers.len());
    if !sane {
        return None;
    }
    let servers: Vec<String> = config.servers.iter().map(ToString::to_string).collect();
    let (options, json) = options(&settings(config));
    let spec = json!({ "dnsPolicy": "None",
        "dnsConfig": { "nameservers": servers, "searches": search, "options": json } });
    let listed = |items: &[String]| {
        let items: Vec<String> = items.iter().map(|item| quoted(item)).collect();
        items.join(", ")
    };
    let yaml = format!(
        "dnsPolicy: \"None\"\ndnsConfig:\n  nameservers: [{}]\n  searches: [{}]\n  {options}",
        listed(&servers),
        listed(&search),
    );
    Some(snippet(identity, &spec, &yaml, ""))
}

/// CoreDNS answers a zone itself instead of forwarding it.
pub(super) fn corefile(zone: &str) -> Option<String> {
    is_domain(zone).then(|| {
        format!("# Corefile, in the server block `.:53 {{`\ntemplate ANY ANY {zone} {{\n    rcode NXDOMAIN\n}}")
    })
}

/// kubelet copies another file.
pub(super) fn kubelet(path: &str, suffix: &str) -> Option<String> {
    let sane = is_domain(suffix) && path.bytes().all(|b| b.is_ascii_graphic());
    sane.then(|| {
        format!("# kubelet's configuration file; {path} without {suffix}; then restart kubelet\nresolvConf: \"/etc/kubernetes/resolv.conf\"")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(owner: Option<&str>, namespace: &str) -> Identity {
        Identity {
            namespace: Some(namespace.to_owned()),
            pod: Some("client".to_owned()),
            owner: owner.map(str::to_owned),
            ..Identity::default()
        }
    }

    #[test]
    fn an_owner_gets_a_command() {
        let ndots = option(&of(Some("Deployment/client"), "shop"), "ndots", Some("2"));
        assert_eq!(
            ndots.command.as_deref(),
            Some(
                r#"kubectl -n shop patch deployment client -p '{"spec":{"template":{"spec":{"dnsConfig":{"options":[{"name":"ndots","value":"2"}]}}}}}'"#
            )
        );
        assert_eq!(
            ndots.yaml,
            "# Deployment/client in shop: spec.template.spec (keep other options it has)\n\
             dnsConfig:\n  options: [{name: ndots, value: \"2\"}]"
        );
        let cron = option(&of(Some("CronJob/n"), "shop"), "single-request-reopen", None);
        assert!(cron.command.unwrap().contains(r#"{"jobTemplate":{"spec":{"template""#));
        assert!(!cron.yaml.contains("value"));
    }

    #[test]
    fn what_cannot_be_patched_gets_none() {
        for owner in [None, Some("Job/once"), Some("Widget/x")] {
            let ndots = option(&of(owner, "shop"), "ndots", Some("2"));
            assert_eq!(ndots.command, None, "{owner:?}");
            assert!(ndots.yaml.starts_with("# spec of pod shop/client"), "{}", ndots.yaml);
        }
    }

    #[test]
    fn hostile_names_stay_out_of_commands() {
        for owner in
            ["Deployment/x'; rm -rf /; '", "Deployment/$(id)", "Deployment/a\nb", "Deployment/"]
        {
            let ndots = option(&of(Some(owner), "shop"), "ndots", Some("2"));
            assert_eq!(ndots.command, None, "{owner}");
            assert!(!ndots.yaml.contains("rm -rf") && !ndots.yaml.contains("$("), "{}", ndots.yaml);
        }
        assert_eq!(option(&of(Some("Deployment/x"), "a b"), "ndots", Some("2")).command, None);
        assert_eq!(quoted("a\"b\n: #\u{202e}"), r##""a\"b\n: #\u202e""##);
        assert!(corefile("local}\nreload").is_none() && corefile("localdomain").is_some());
        assert!(kubelet("/etc/resolv.conf\nx", "localdomain").is_none());
    }

    #[test]
    fn a_list_without_the_suffix() {
        let mut config = ResolverConfig {
            servers: vec!["10.96.0.10".parse().unwrap()],
            search: ["svc.cluster.local", "localdomain"].map(str::to_owned).to_vec().into(),
            ndots: 5,
            timeout_s: 5,
            attempts: 2,
            options: vec!["edns0".to_owned(), "evil: {x".to_owned()],
            ..ResolverConfig::default()
        };
        let whom = of(Some("DaemonSet/a"), "shop");
        let snippet = without_suffix(&whom, &config, "localdomain").unwrap();
        assert!(snippet.yaml.contains("dnsPolicy: \"None\""), "{}", snippet.yaml);
        assert!(snippet.yaml.contains("searches: [\"svc.cluster.local\"]"), "{}", snippet.yaml);
        assert!(snippet.yaml.contains("{name: edns0}") && !snippet.yaml.contains("evil"));
        assert!(!snippet.yaml.contains("localdomain"));
        assert!(snippet.command.unwrap().contains(r#""searches":["svc.cluster.local"]"#));
        assert!(without_suffix(&whom, &config, "other").is_none(), "nothing to leave out");
        std::sync::Arc::make_mut(&mut config.search).push("evil'name".to_owned());
        assert!(without_suffix(&whom, &config, "localdomain").is_none());
    }
}
