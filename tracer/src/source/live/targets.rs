//! From what the user named to cgroups, with a clear sentence where that cannot be done.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;

use super::cgroups::{self, Directory, Mount};
use super::kubernetes::Cluster;
use super::node_files::NodeFiles;
use super::processes;
use crate::context::Pod;
use crate::text::visible;

/// How alike two names must be to be worth mentioning.
const ALIKE: f64 = 0.85;
/// Most names mentioned.
const MENTIONED: usize = 5;
/// Most pods named in a command.
const NAMED: usize = 10;
/// Time for finding similar names once the answer is "no such pod" anyway.
const SIMILAR: Duration = Duration::from_millis(1000);

/// A cgroup to trace.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Where.
    pub(super) directory: Directory,
    /// Only this process in it.
    pub(super) only_pid: Option<u32>,
    /// In words, for the user.
    pub(super) label: String,
}

/// `--cgroup`.
pub(super) fn cgroup(mount: &Mount, path: &Path) -> anyhow::Result<Found> {
    let directory = mount.directory(path)?;
    let label = format!("cgroup {}", mount.relative(&directory.dir));
    Ok(Found { directory, only_pid: None, label })
}

/// `--pid`.
pub(super) fn process(mount: &Mount, pid: u32) -> anyhow::Result<Found> {
    if !processes::exists(pid) {
        bail!("no process has the id {pid}");
    }
    let Some(directory) = mount.of_process(pid) else {
        bail!("process {pid} is in no cgroup below {}", mount.root().display());
    };
    let shared = directory.dir == mount.root()
        || cgroups::processes(&directory.dir).iter().any(|other| *other != pid);
    let comm = processes::comm(pid).unwrap_or_default();
    let label = format!("process {pid} ({comm})");
    Ok(Found { directory, only_pid: shared.then_some(pid), label })
}

/// `--container`, by id or a prefix of it.
pub(super) fn container(mount: &Mount, wanted: &str) -> anyhow::Result<Found> {
    let id = wanted.rsplit("://").next().unwrap_or(wanted).to_ascii_lowercase();
    let hex = id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !hex || !(6..=64).contains(&id.len()) {
        bail!("{wanted:?} is not a container id: 6 to 64 hexadecimal digits are needed");
    }
    let all = mount.containers();
    let mut hits: Vec<&(String, Directory)> =
        all.iter().filter(|at| at.0.starts_with(&id)).collect();
    // The same id deeper in the tree is the same container.
    hits.dedup_by(|later, first| later.0 == first.0 && later.1.dir.starts_with(&first.1.dir));
    let mut ids: Vec<&str> = hits.iter().map(|at| at.0.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    match (ids.as_slice(), hits.first()) {
        ([one], Some((_, directory))) => {
            let label = format!("container {}", short(one));
            Ok(Found { directory: directory.clone(), only_pid: None, label })
        }
        ([], _) | (_, None) if all.is_empty() => {
            bail!("no container {wanted}: no container has a cgroup on this node")
        }
        ([], _) | (_, None) => {
            let mut near: Vec<&str> = all.iter().map(|at| at.0.as_str()).collect();
            near.sort_by_key(|other| std::cmp::Reverse(common_prefix(other, &id)));
            near.dedup();
            near.truncate(MENTIONED);
            let near: Vec<&str> = near.into_iter().map(short).collect();
            bail!("no container {wanted} has a cgroup on this node; there are {}", near.join(", "))
        }
        (several, _) => {
            let several: Vec<&str> = several.iter().take(MENTIONED).map(|id| short(id)).collect();
            bail!("several containers begin with {wanted}: {}", several.join(", "))
        }
    }
}

fn short(id: &str) -> &str {
    id.get(..16).unwrap_or(id)
}

fn common_prefix(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count()
}

/// What is known about a pod that the user named.
#[derive(Clone, Debug)]
pub(super) enum Known {
    /// It has cgroups here.
    Here(Pod),
    /// It exists, but has no cgroup here (yet).
    NotHere(Pod),
    /// Nobody knows it.
    Unknown,
    /// The API did not answer, and the node's folders do not know it.
    Unanswered,
}

/// Asks the API, else the node's folders.
pub(super) fn pod(
    mount: &Mount,
    cluster: Option<&Cluster>,
    node_files: &NodeFiles,
    (namespace, name): (&str, &str),
    within: Duration,
) -> Known {
    let mut known = Known::Unknown;
    if let Some(cluster) = cluster {
        match cluster.pod(namespace, name, within) {
            Ok(Some(pod)) => {
                return match mount.pods(&pod.uid).is_empty() {
                    true => Known::NotHere(pod),
                    false => Known::Here(pod),
                };
            }
            Ok(None) => return Known::Unknown,
            Err(error) => {
                let why = in_one_line(&error);
                say!("svctrace: Kubernetes API: {why}; going by this node's own files");
                known = Known::Unanswered;
            }
        }
    }
    for pod in node_files.names() {
        if pod.namespace != namespace || pod.name != name {
            continue;
        }
        if !mount.pods(&pod.uid).is_empty() {
            return Known::Here(node_files.details(pod));
        }
        known = Known::NotHere(pod);
    }
    known
}

/// An error and its causes, without line breaks.
pub(super) fn in_one_line(error: &anyhow::Error) -> String {
    let text = visible(&format!("{error:#}").replace('\n', " "));
    text.chars().take(300).collect()
}

/// The sentence for a pod that cannot be traced; `more` are the other options it was asked with.
pub(super) fn why_not(
    cluster: Option<&Cluster>,
    node_files: &NodeFiles,
    (namespace, name): (&str, &str),
    known: &Known,
    (hostname, more): (&str, &str),
) -> String {
    match known {
        Known::NotHere(Pod { node: Some(node), .. }) if node != hostname => {
            let there = there(node, &format!("--pod {name} -n {namespace}{more}"));
            format!(
                "pod {namespace}/{name} runs on node {node} and has no cgroup here ({hostname}); \
                 to trace it there:\n  {there}"
            )
        }
        Known::NotHere(Pod { node: None, origin: crate::context::Origin::Api, .. }) => {
            format!("pod {namespace}/{name} is not assigned to a node yet; --wait waits for it")
        }
        Known::NotHere(_) => format!(
            "pod {namespace}/{name} has no cgroup here: it has not started or has ended; --wait \
             waits for it"
        ),
        Known::Unanswered => {
            let all = node_files.names().into_iter().map(|pod| (pod.namespace, pod.name));
            let hint = similar(&all.collect::<Vec<_>>(), namespace, name);
            format!(
                "this node's files know no pod {name} in namespace {namespace}, and the Kubernetes \
                 API gave no answer{hint}"
            )
        }
        Known::Here(_) | Known::Unknown => {
            let mut all =
                cluster.and_then(|cluster| cluster.pod_names(SIMILAR).ok()).unwrap_or_default();
            all.extend(node_files.names().into_iter().map(|pod| (pod.namespace, pod.name)));
            let hint = similar(&all, namespace, name);
            let place = match (cluster, node_files.exist()) {
                (None, false) => {
                    "; neither the Kubernetes API (a kubeconfig, without --no-api) nor kubelet's \
                     /var/log/pods could be asked on this machine"
                }
                (None, true) => " on this node",
                (Some(_), _) => "",
            };
            format!("no pod {name} in namespace {namespace}{place}{hint}")
        }
    }
}

/// The command that traces on another node what `words` name. kubectl's debugging pod has the
/// node's file system at /host.
fn there(node: &str, words: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "kubectl debug node/{node} -it --profile=sysadmin --image=svctrace:{version} -- svctrace \
         --host-root /host {words}"
    )
}

/// `worker-2 (3), worker-3 (1)`; not more than some.
pub(super) fn on_nodes(elsewhere: &[&Pod]) -> String {
    let counted = by_node(elsewhere);
    let mut words: Vec<String> = counted
        .iter()
        .take(MENTIONED)
        .map(|(node, pods)| format!("{node} ({})", pods.len()))
        .collect();
    if counted.len() > MENTIONED {
        words.push(format!("{} more nodes", counted.len() - MENTIONED));
    }
    words.join(", ")
}

fn by_node<'a>(pods: &[&'a Pod]) -> BTreeMap<&'a str, Vec<&'a Pod>> {
    let mut counted: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for pod in pods {
        counted.entry(pod.node.as_deref().unwrap_or("no node yet")).or_default().push(pod);
    }
    counted
}

/// The sentence for a selection of which nothing is here: where it is instead, and how to go there.
pub(super) fn none_here(label: &str, elsewhere: &[&Pod], here: usize, more: &str) -> String {
    if elsewhere.is_empty() {
        return match here {
            0 => format!("{label}: there is no pod; --wait waits for one"),
            _ => format!("{label}: none of its pods has a cgroup here yet; --wait waits for one"),
        };
    }
    let assigned: Vec<&Pod> = elsewhere.iter().filter(|pod| pod.node.is_some()).copied().collect();
    let (count, verb) = (elsewhere.len(), if elsewhere.len() == 1 { "is" } else { "are" });
    let pods = if count == 1 { "pod" } else { "pods" };
    let mut text = format!(
        "{label}: no pod is on this node; {count} {pods} {verb} on {}",
        on_nodes(elsewhere)
    );
    if assigned.is_empty() {
        return format!("{text}; --wait waits for one");
    }
    text += "; to trace there:";
    for (node, pods) in by_node(&assigned).into_iter().take(MENTIONED) {
        // By name: the debugging pod's account may not read what the selection needs.
        let mut words = String::new();
        let namespace = pods.first().map_or("", |pod| pod.namespace.as_str());
        let same = pods.iter().filter(|pod| pod.namespace == namespace);
        for pod in same.take(NAMED) {
            words += &format!("--pod {} ", pod.name);
        }
        text += &format!("\n  {}", there(node, &format!("{words}-n {namespace}{more}")));
    }
    text
}

/// `; did you mean …` for names that are like the wanted one.
pub(super) fn similar(all: &[(String, String)], namespace: &str, name: &str) -> String {
    let mut elsewhere: Vec<&str> =
        all.iter().filter(|at| at.1 == name).map(|at| at.0.as_str()).collect();
    elsewhere.sort_unstable();
    elsewhere.dedup();
    if !elsewhere.is_empty() {
        elsewhere.truncate(MENTIONED);
        return format!("; it exists in namespace {}", elsewhere.join(", "));
    }
    let mut near: Vec<(f64, String)> = all
        .iter()
        .map(|(at, other)| {
            let closeness = strsim::jaro_winkler(other, name);
            let begins = if other.starts_with(name) { 1.0 } else { 0.0 };
            let same = at == namespace;
            let shown = if same { other.clone() } else { format!("{at}/{other}") };
            (closeness.max(begins) - if same { 0.0 } else { 0.05 }, shown)
        })
        .filter(|(closeness, _)| *closeness >= ALIKE)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    near.dedup_by(|a, b| a.1 == b.1);
    near.truncate(MENTIONED);
    if !near.is_empty() {
        let near: Vec<String> = near.into_iter().map(|(_, name)| name).collect();
        return format!("; did you mean {}?", near.join(", "));
    }
    if all.iter().any(|at| at.0 == namespace) {
        return String::new();
    }
    let mut namespaces: Vec<&str> = all.iter().map(|at| at.0.as_str()).collect();
    namespaces.sort_unstable();
    namespaces.dedup();
    match namespaces.iter().find(|at| strsim::jaro_winkler(at, namespace) >= ALIKE) {
        Some(near) => format!("; did you mean namespace {near}?"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods() -> Vec<(String, String)> {
        [("shop", "client-0"), ("shop", "backend-1"), ("test", "client-9")]
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .to_vec()
    }

    #[test]
    fn similar_names() {
        assert_eq!(similar(&pods(), "shop", "client-1"), "; did you mean client-0, test/client-9?");
        assert_eq!(similar(&pods(), "shop", "client-9"), "; it exists in namespace test");
        assert_eq!(similar(&pods(), "shopp", "zzz"), "; did you mean namespace shop?");
        assert_eq!(similar(&pods(), "shop", "zzz"), "");
        assert_eq!(similar(&[], "shop", "zzz"), "");
    }

    #[test]
    fn elsewhere_comes_with_a_command() {
        let pod = |name: &str, node: Option<&str>| Pod {
            namespace: "shop".into(),
            name: name.into(),
            node: node.map(str::to_owned),
            ..Pod::default()
        };
        let pods = [pod("a", Some("n2")), pod("b", Some("n2")), pod("c", Some("n3"))];
        let told = none_here("deploy/x", &pods.iter().collect::<Vec<_>>(), 0, " -c app");
        let first =
            "deploy/x: no pod is on this node; 3 pods are on n2 (2), n3 (1); to trace there:";
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines[0], first);
        assert!(
            lines[1]
                .starts_with("  kubectl debug node/n2 -it --profile=sysadmin --image=svctrace:")
        );
        assert!(lines[1].ends_with("svctrace --host-root /host --pod a --pod b -n shop -c app"));
        assert!(lines[2].contains("node/n3") && lines.len() == 3, "{told}");
        let told = none_here("deploy/x", &[&pod("a", None)], 0, "");
        assert!(
            told.contains("no node yet (1)") && told.ends_with("--wait waits for one"),
            "{told}"
        );
        assert!(none_here("x", &[], 0, "").contains("there is no pod"));
    }

    #[test]
    fn missing_things_are_named() {
        let Ok(mount) = Mount::find() else {
            say!("skipped: no cgroup2 mount");
            return;
        };
        let error = container(&mount, "xyz").unwrap_err().to_string();
        assert!(error.contains("not a container id"), "{error}");
        let error = container(&mount, "0123456789abcdef").unwrap_err().to_string();
        assert!(error.starts_with("no container 0123456789abcdef"), "{error}");
        assert!(process(&mount, u32::MAX).is_err());
        assert!(cgroup(&mount, Path::new("/no/such/cgroup")).is_err());
        assert!(cgroup(&mount, Path::new("../../../etc")).is_err());
    }
}
