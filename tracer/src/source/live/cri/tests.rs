//! Answers made by hand, and a real containerd where one is installed (skipped by name elsewhere).

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::super::cgroups::Mount;
use super::super::names::{How, Names};
use super::super::node_files::NodeFiles;
use super::super::{bundles, processes};
use super::*;

fn sandbox(id: &str, uid: &str, name: &str) -> PodSandbox {
    let (name, uid, namespace) = (name.to_owned(), uid.to_owned(), "shop".to_owned());
    let labels = [("app", "x"), ("io.kubernetes.pod.name", "y"), ("bad\u{1b}", "z")];
    PodSandbox {
        id: id.into(),
        metadata: Some(PodSandboxMetadata { name, uid, namespace }),
        state: READY,
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
    }
}

#[test]
fn only_plain_names_are_taken_over() {
    let (a, b, c) = ("a".repeat(64), "b".repeat(64), "c".repeat(64));
    let uid = "4d2e7b1a-9c3f-4e5d-8a6b-1c2d3e4f5a6b";
    let items = vec![
        sandbox(&a, uid, "client-0"),
        sandbox(&b, "../../etc", "client-1"),
        sandbox("short", uid, "client-2"),
        sandbox(&c, "aa7be809be48ec01ab43fd4f1ca22e9e", "evil\u{1b}[2J"),
    ];
    let container = |id: &str, sandbox: &str, name: &str| RuntimeContainer {
        id: id.into(),
        sandbox: sandbox.into(),
        metadata: Some(ContainerMetadata { name: name.into() }),
    };
    let containers = Containers {
        items: vec![
            container(&b, &a, "app"),
            container(&c, "unknown", "x"),
            container(&c, &a, "A B"),
        ],
    };
    let (answer, ready) = understood(Sandboxes { items }, containers);
    assert_eq!((answer.pods.len(), answer.left_out), (1, 4));
    let pod = &answer.pods[0];
    assert_eq!((pod.namespace.as_str(), pod.name.as_str()), ("shop", "client-0"));
    assert_eq!(pod.containers, [Container { name: "app".into(), id: Some(b) }]);
    assert_eq!(pod.labels, BTreeMap::from([("app".into(), "x".into())]));
    assert_eq!((answer.sandboxes, ready), (vec![a.clone()], [(uid.into(), a)].into()));
}

/// A socket that takes connections and never answers.
#[tokio::test]
async fn a_hung_runtime_costs_its_time_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cri.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = list(&path, |_| true).await.unwrap_err();
    assert!(error.to_string().contains("does not answer"), "{error:#}");
    assert!(list(&folder.path().join("none"), |_| true).await.is_err());
}

// What a kubelet sends to start a pod, as far as this test needs it.

#[derive(Clone, PartialEq, prost::Message)]
struct RunSandbox {
    #[prost(message, optional, tag = "1")]
    config: Option<SandboxConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodSandboxMetadata>,
    #[prost(string, tag = "3")]
    log_directory: String,
    #[prost(map = "string, string", tag = "6")]
    labels: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LinuxConfig {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security: Option<Security>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Security {
    #[prost(message, optional, tag = "1")]
    namespaces: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CreateContainer {
    #[prost(string, tag = "1")]
    sandbox: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<SandboxConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<Id>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    #[prost(string, tag = "11")]
    log_path: String,
}

/// Where a node has it.
const SOCKET: &str = "run/containerd/containerd.sock";

/// A containerd of our own; ends with the test.
struct Containerd {
    child: Child,
    folder: tempfile::TempDir,
}

impl Containerd {
    /// `None`, with a note, where it cannot run.
    fn start(test: &str) -> Option<Self> {
        let skip = |why: &str| say!("skipped: {test}: {why}");
        let all = ["containerd", "ctr", "runc", "busybox"];
        let there = |name: &str| {
            let folders = ["/usr/bin", "/usr/sbin", "/usr/local/bin", "/bin"];
            folders.iter().any(|folder| Path::new(folder).join(name).exists())
        };
        if let Some(missing) = all.iter().find(|name| !there(name)) {
            skip(&format!("{missing} is not installed"));
            return None;
        }
        if !nix::unistd::geteuid().is_root() {
            skip("not root");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let config = format!(
            r#"version = 2
root = "{root}"
state = "{state}"
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
"#,
            root = at("root").display(),
            state = at("state").display(),
            socket = at(SOCKET).display(),
        );
        std::fs::write(at("config.toml"), config).unwrap();
        let log = std::fs::File::create(at("log")).unwrap();
        let child = Command::new("containerd")
            .arg("--config")
            .arg(at("config.toml"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let this = Self { child, folder };
        let mut tries = 0;
        while !this.at(SOCKET).exists() {
            tries += 1;
            assert!(tries < 200, "{}", this.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        this.import_image();
        Some(this)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.at("log")).unwrap_or_default()
    }

    fn ctr(&self, args: &str) -> bool {
        let mut command = Command::new("ctr");
        command.arg("-a").arg(self.at(SOCKET)).args(["-n", "k8s.io"]);
        command.args(args.split(' ')).current_dir(self.folder.path());
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    }

    /// An image that is busybox and what it needs, made here.
    fn import_image(&self) {
        let script = r#"set -e
mkdir -p fs/bin; cp "$(command -v busybox)" fs/bin/busybox
for lib in $(ldd fs/bin/busybox 2>/dev/null | grep -o '/[^ )]*'); do mkdir -p "fs$(dirname $lib)"; cp -L $lib fs$lib; done
tar -C fs -cf layer.tar .
sum=$(sha256sum layer.tar | cut -d' ' -f1)
printf '{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/bin/busybox","sleep","600"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' $sum > config.json
printf '[{"Config":"config.json","RepoTags":["localhost/pause:1"],"Layers":["layer.tar"]}]' > manifest.json
tar -cf image.tar manifest.json config.json layer.tar"#;
        let made =
            Command::new("sh").arg("-c").arg(script).current_dir(self.folder.path()).status();
        assert!(made.unwrap().success());
        assert!(self.ctr("images import --snapshotter native image.tar"), "{}", self.log());
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let tasks = self.at("state/io.containerd.runtime.v2.task/k8s.io");
        for entry in std::fs::read_dir(tasks).into_iter().flatten().flatten() {
            let id = entry.file_name().to_string_lossy().into_owned();
            self.ctr(&format!("tasks delete --force {id}"));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // In each hierarchy; what still has a process stays.
        let find = "for top in /sys/fs/cgroup /sys/fs/cgroup/*; do \
            find \"$top/svct-names-test\" -depth -type d -exec rmdir {} + 2>/dev/null; done";
        let _ = Command::new("sh").arg("-c").arg(find).status();
    }
}

#[tokio::test]
async fn a_real_containerd() {
    let Some(containerd) = Containerd::start("a_real_containerd") else { return };
    let uid = "4d2e7b1a-9c3f-4e5d-8a6b-1c2d3e4f5a6b";
    let socket = containerd.at(SOCKET);
    let mut runtime = Runtime::connect(&socket).await.unwrap();
    let metadata =
        PodSandboxMetadata { name: "client-0".into(), uid: uid.into(), namespace: "shop".into() };
    let namespaces = Some(NamespaceOption { network: NODE });
    let config = SandboxConfig {
        metadata: Some(metadata),
        log_directory: containerd.at("logs").display().to_string(),
        labels: [("app".to_owned(), "client".to_owned())].into(),
        linux: Some(LinuxConfig {
            cgroup_parent: format!("/svct-names-test/pod{uid}"),
            security: Some(Security { namespaces }),
        }),
    };
    let question = RunSandbox { config: Some(config.clone()) };
    let sandbox: Id = match runtime.ask("RunPodSandbox", question).await {
        Ok(id) => id,
        Err(error) => panic!("{error:#}\n{}", containerd.log()),
    };
    let question = CreateContainer {
        sandbox: sandbox.id.clone(),
        config: Some(ContainerConfig {
            metadata: Some(ContainerMetadata { name: "app".into() }),
            image: Some(Id { id: "localhost/pause:1".into() }),
            command: ["/bin/busybox", "sleep", "600"].map(str::to_owned).to_vec(),
            log_path: "app.log".into(),
        }),
        sandbox_config: Some(config),
    };
    let container: Id = runtime.ask("CreateContainer", question).await.unwrap();
    let _: Nothing = runtime.ask("StartContainer", container.clone()).await.unwrap();

    let answer = list(&socket, |_| true).await.unwrap();
    assert_eq!(answer.sandboxes, std::slice::from_ref(&sandbox.id));
    assert_eq!(answer.pods.len(), 1);
    let pod = &answer.pods[0];
    assert_eq!((pod.uid.as_str(), pod.origin), (uid, Origin::Cri));
    assert_eq!((pod.namespace.as_str(), pod.name.as_str()), ("shop", "client-0"));
    let id = Some(container.id.clone());
    assert_eq!(pod.containers, [Container { name: "app".into(), id }]);
    assert_eq!(pod.labels["app"], "client");
    assert!(pod.host_network, "as it was asked for");

    // Its bundles say the same, and so does the path of its cgroup.
    let tasks = vec![(containerd.at("state/io.containerd.runtime.v2.task/k8s.io"), "config.json")];
    let bundle = bundles::find(&tasks, &container.id).unwrap();
    assert_eq!(
        (&bundle.pod.uid, &bundle.pod.name, &bundle.pod.namespace),
        (&pod.uid, &pod.name, &pod.namespace)
    );
    assert_eq!(bundle.pod.containers, pod.containers);
    assert!(bundles::find(&tasks, &sandbox.id).unwrap().sandbox);
    let pid = std::fs::read_to_string(tasks[0].0.join(&container.id).join("init.pid")).unwrap();
    let mount = Mount::find().unwrap();
    let path = processes::cgroup_path(pid.trim().parse().unwrap(), &mount).unwrap();
    let facts = crate::cgroup_path::parse(&path);
    assert_eq!((facts.pod.as_deref(), facts.container), (Some(uid), Some(container.id)), "{path}");

    // And so it is found from the node's root, in the background.
    let how = How {
        host_root: containerd.folder.path().to_owned(),
        node_files: NodeFiles::new(containerd.folder.path()),
        mount,
        hostname: "n1".into(),
        kubelet: false,
    };
    let node_files = how.node_files.clone();
    let names = Names::start(how).unwrap();
    names.wait_first(TIME);
    let found = names.found();
    assert!(found.contains(pod), "{found:?}");
    assert!(node_files.names().iter().any(|known| known.uid == uid), "targets find it too");
}
