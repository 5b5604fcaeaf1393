//! What kubelet was told about DNS: its command line, else the files its options and its
//! configuration stand in. Three settings are taken over; nothing else of these files is kept.

use std::net::IpAddr;
use std::path::{Component, Path};

use serde::Deserialize;

use super::bounded;
use super::plain;
use super::runtime_sockets::{READ_MAX, command_lines};
use crate::context::Kubelet;

/// kubelet's configuration, by kubeadm and by others.
const CONFIGS: [&str; 2] = ["/var/lib/kubelet/config.yaml", "/etc/kubernetes/kubelet/config.yaml"];
/// Files with options, which win over the configuration.
const OPTIONS: [&str; 4] = [
    "/var/lib/kubelet/kubeadm-flags.env",
    "/etc/default/kubelet",
    "/etc/rancher/k3s/config.yaml",
    "/etc/rancher/rke2/config.yaml",
];
/// Stands in every configuration of a kubelet.
const API_GROUP: &str = "kubelet.config.k8s.io/";
/// What kubelet itself takes where nothing else is said.
const DEFAULT_FILE: &str = "/etc/resolv.conf";
/// Most addresses and the longest path taken over.
const SERVERS_MAX: usize = 8;
const PATH_MAX: usize = 4096;

/// What is known of this node's kubelet, if anything.
pub(super) fn find(host_root: &Path) -> Option<Kubelet> {
    of(host_root, &command_lines())
}

fn of(host_root: &Path, command_lines: &[String]) -> Option<Kubelet> {
    let below = |path: &str| bounded::text(&host_root.join(path.trim_start_matches('/')), READ_MAX);
    let mut known = Kubelet::default();
    let mut configs: Vec<String> = Vec::new();
    for line in command_lines {
        let told = options(line);
        if merge(&mut known, &told) {
            place(&mut known, "command line");
        }
        configs.extend(told.config.filter(|path| inside(path)));
    }
    for path in OPTIONS {
        if merge(&mut known, &options(&below(path))) {
            place(&mut known, path);
        }
    }
    configs.extend(CONFIGS.map(str::to_owned));
    let mut config = configs.iter().map(|path| (path, below(path)));
    if let Some((path, text)) = config.find(|(_, text)| text.contains(API_GROUP)) {
        merge(&mut known, &configuration(&text));
        place(&mut known, path);
        known.resolv_conf.get_or_insert_with(|| DEFAULT_FILE.to_owned());
    }
    (!known.read_from.is_empty()).then_some(known)
}

fn place(known: &mut Kubelet, path: &str) {
    if !known.read_from.iter().any(|place| place == path) {
        known.read_from.push(path.to_owned());
    }
}

fn inside(path: &str) -> bool {
    path.starts_with('/')
        && path.len() <= PATH_MAX
        && !Path::new(path).components().any(|part| part == Component::ParentDir)
}

/// What one text says, read as options and as a configuration.
pub(super) fn told_by(text: &str) -> Kubelet {
    let mut known = Kubelet::default();
    merge(&mut known, &options(text));
    merge(&mut known, &configuration(text));
    known
}

/// One place's settings.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Told {
    cluster_domain: Option<String>,
    #[serde(rename = "clusterDNS")]
    cluster_dns: Vec<String>,
    resolv_conf: Option<String>,
    #[serde(skip)]
    config: Option<String>,
}

/// Adds what was not known yet; whether there was anything.
fn merge(known: &mut Kubelet, told: &Told) -> bool {
    let before = known.clone();
    let domain = told.cluster_domain.as_deref().map(|name| name.trim_end_matches('.'));
    let domain = domain.filter(|name| plain::label(name) && !name.is_empty());
    known.cluster_domain = known.cluster_domain.take().or(domain.map(str::to_owned));
    if known.cluster_dns.is_empty() {
        let servers = told.cluster_dns.iter().filter_map(|ip| ip.trim().parse::<IpAddr>().ok());
        known.cluster_dns = servers.take(SERVERS_MAX).collect();
    }
    let file = told.resolv_conf.as_ref().filter(|path| path.is_empty() || inside(path));
    known.resolv_conf = known.resolv_conf.take().or(file.cloned());
    *known != before
}

/// `--key value` and `--key=value` of a command line or an environment file, `key: value` and
/// `- key=value` of k3s.
fn options(text: &str) -> Told {
    let mut told = Told::default();
    let quotes = |c: char| c.is_whitespace() || matches!(c, '"' | '\'');
    let mut words = text.split(quotes).filter(|word| !word.is_empty()).peekable();
    while let Some(word) = words.next() {
        let key = word.trim_start_matches('-');
        let (key, value) = match key.split_once('=') {
            // A=--x=y of an environment file
            Some((_, rest)) if rest.starts_with("--") => {
                let rest = rest.trim_start_matches('-');
                rest.split_once('=').map_or((rest, None), |(key, value)| (key, Some(value)))
            }
            Some((key, value)) => (key, Some(value)),
            None => (key.strip_suffix(':').unwrap_or(key), None),
        };
        if !matches!(key, "cluster-domain" | "cluster-dns" | "resolv-conf" | "config") {
            continue;
        }
        let next = words.peek().filter(|next| !next.starts_with("--")).copied();
        let Some(value) = value.or(next) else { continue };
        match key {
            "cluster-domain" => told.cluster_domain = Some(value.to_owned()),
            "cluster-dns" => told.cluster_dns = value.split(',').map(str::to_owned).collect(),
            "resolv-conf" => told.resolv_conf = Some(value.to_owned()),
            _ => told.config = Some(value.to_owned()),
        }
    }
    told
}

/// A KubeletConfiguration: the three keys of its first level, in YAML or JSON.
fn configuration(text: &str) -> Told {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text).unwrap_or_default();
    }
    let mut told = Told::default();
    let mut in_list = false;
    for line in text.lines() {
        let line = line.split(" #").next().unwrap_or_default().trim_end();
        let clean = |text: &str| text.trim().trim_matches(['"', '\'']).to_owned();
        if in_list && let Some(item) = line.trim_start().strip_prefix('-') {
            told.cluster_dns.push(clean(item));
            continue;
        }
        in_list &= line.trim().is_empty() || line.trim_start().starts_with('#');
        let Some((key, value)) = line.split_once(':') else { continue };
        match key {
            "clusterDomain" => told.cluster_domain = Some(clean(value)),
            "resolvConf" => told.resolv_conf = Some(clean(value)),
            "clusterDNS" if value.trim().is_empty() => in_list = true,
            "clusterDNS" => {
                let inner = value.trim().trim_start_matches('[').trim_end_matches(']');
                told.cluster_dns = inner.split(',').map(clean).collect();
            }
            _ => {}
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const YAML: &str = "apiVersion: kubelet.config.k8s.io/v1beta1\n\
        authentication:\n  x509:\n    clientCAFile: /etc/x\n\
        clusterDNS:\n- 10.3.0.10\n# more\n- \"fd00::a\"\n\
        clusterDomain: one.test # ours\ncontainerRuntimeEndpoint: \"\"\n\
        resolvConf: /run/systemd/resolve/resolv.conf\n";

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    #[test]
    fn three_settings_of_a_configuration() {
        let root = root(&[(CONFIGS[0], YAML)]);
        let known = of(root.path(), &[]).unwrap();
        assert_eq!(known.cluster_domain.as_deref(), Some("one.test"));
        assert_eq!(
            known.cluster_dns,
            ["10.3.0.10", "fd00::a"].map(|ip| ip.parse::<IpAddr>().unwrap())
        );
        assert_eq!(known.resolv_conf.as_deref(), Some("/run/systemd/resolve/resolv.conf"));
        assert_eq!(known.read_from, [CONFIGS[0]]);
        let json = r#"{"clusterDNS":["10.3.0.10"],"clusterDomain":"one.test.","resolvConf":""}"#;
        let known = Told { config: None, ..configuration(json) };
        assert_eq!(known.resolv_conf.as_deref(), Some(""));
        assert_eq!(configuration("clusterDNS: [10.0.0.1, 10.0.0.2]").cluster_dns.len(), 2);
        assert_eq!(configuration("a:\n  clusterDomain: no\n").cluster_domain, None);
    }

    #[test]
    fn options_win_and_name_the_configuration() {
        let odd = "apiVersion: kubelet.config.k8s.io/v1beta1\nclusterDomain: two.test\n";
        let root = root(&[("/etc/odd.yaml", odd), (CONFIGS[0], YAML)]);
        let line = "kubelet\n--config\n/etc/odd.yaml\n--resolv-conf=/etc/kubelet.conf\n--v=2";
        let known = of(root.path(), &[line.into()]).unwrap();
        assert_eq!(known.cluster_domain.as_deref(), Some("two.test"));
        assert_eq!(known.resolv_conf.as_deref(), Some("/etc/kubelet.conf"));
        assert_eq!(known.read_from, ["command line", "/etc/odd.yaml"]);
    }

    #[test]
    fn kubelets_own_default_counts_only_where_its_configuration_was_read() {
        let known = of(root(&[(CONFIGS[0], "apiVersion: kubelet.config.k8s.io/v1\n")]).path(), &[])
            .unwrap();
        assert_eq!(known.resolv_conf.as_deref(), Some(DEFAULT_FILE));
        let known = of(root(&[(OPTIONS[2], "cluster-domain: three.test\n")]).path(), &[]).unwrap();
        assert_eq!(
            (known.cluster_domain.as_deref(), known.resolv_conf),
            (Some("three.test"), None)
        );
        assert_eq!(of(root(&[]).path(), &[]), None);
    }

    #[test]
    fn ways_of_options() {
        let domain = |text: &str| options(text).cluster_domain;
        for text in [
            "KUBELET_KUBEADM_ARGS=\"--cluster-domain=a.test --x\"",
            "KUBELET_EXTRA_ARGS=--cluster-domain=a.test",
            "kubelet\n--cluster-domain\na.test",
            "cluster-domain: \"a.test\"",
            "kubelet-arg:\n  - \"cluster-domain=a.test\"",
        ] {
            assert_eq!(domain(text).as_deref(), Some("a.test"), "{text}");
        }
        assert_eq!(options("--resolv-conf=\"\" --x").resolv_conf, Some(String::new()));
        let evil = Told { resolv_conf: Some("/../x".into()), ..Told::default() };
        assert!(!merge(&mut Kubelet::default(), &evil));
    }
}
