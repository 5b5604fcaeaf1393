//! Words that name nobody and stay as they are: Kubernetes' and DNS's own, top-level domains,
//! well-known programs and directories. The lists are documented in docs/capture-format.md.

/// Labels of DNS names that stay, wherever they stand. Lower case, sorted.
const LABELS: &[&str] = &[
    "any",
    "arpa",
    "au",
    "biz",
    "ca",
    "ch",
    "cluster",
    "cn",
    "co",
    "com",
    "coredns",
    "de",
    "default",
    "dns",
    "dns-tcp",
    "edu",
    "es",
    "eu",
    "example",
    "fr",
    "gov",
    "grpc",
    "home",
    "http",
    "https",
    "in-addr",
    "info",
    "int",
    "internal",
    "invalid",
    "io",
    "ip6",
    "it",
    "jp",
    "kube-dns",
    "kube-system",
    "kubernetes",
    "lan",
    "local",
    "localdomain",
    "localhost",
    "metrics",
    "mil",
    "net",
    "nl",
    "org",
    "pod",
    "ru",
    "sctp",
    "se",
    "svc",
    "tcp",
    "test",
    "tls",
    "udp",
    "uk",
    "us",
    "www",
];

/// Words of paths, unit names and thread names that stay. Lower case, sorted.
const WORDS: &[&str] = &[
    "aarch64",
    "amd64",
    "amzn2",
    "amzn2023",
    "apps",
    "arm64",
    "aws",
    "azure",
    "besteffort",
    "bin",
    "boot",
    "burstable",
    "cloud",
    "conf",
    "conmon",
    "container",
    "containers",
    "cri",
    "deleted",
    "dev",
    "eks",
    "el7",
    "el8",
    "el9",
    "etc",
    "exe",
    "fd",
    "gcp",
    "generic",
    "gke",
    "guaranteed",
    "hosts",
    "init",
    "jar",
    "js",
    "json",
    "kubelet",
    "kubepods",
    "lib",
    "lib32",
    "lib64",
    "libexec",
    "libpod",
    "linuxkit",
    "local",
    "log",
    "lts",
    "lxc",
    "machine",
    "microsoft",
    "mnt",
    "mount",
    "netns",
    "ns",
    "null",
    "opt",
    "payload",
    "pid",
    "pod",
    "pods",
    "private",
    "proc",
    "py",
    "rb",
    "resolv",
    "resolve",
    "root",
    "rt",
    "run",
    "sbin",
    "scope",
    "self",
    "service",
    "session",
    "sh",
    "share",
    "slice",
    "snap",
    "so",
    "socket",
    "srv",
    "sys",
    "system",
    "task",
    "tcp",
    "thread",
    "tmp",
    "udp",
    "uek",
    "user",
    "usr",
    "var",
    "virtual",
    "worker",
    "wsl2",
    "x86",
    "yaml",
    "yml",
];

/// Programs that everybody has. Lower case, sorted.
const PROGRAMS: &[&str] = &[
    "apache2",
    "ash",
    "bash",
    "bird",
    "busybox",
    "caddy",
    "calico-node",
    "cat",
    "chronyd",
    "cilium-agent",
    "containerd",
    "containerd-shim",
    "coredns",
    "cri-dockerd",
    "crio",
    "cron",
    "crond",
    "crun",
    "curl",
    "dash",
    "dbus-daemon",
    "dig",
    "dnsmasq",
    "docker",
    "docker-init",
    "docker-proxy",
    "dockerd",
    "dotnet",
    "envoy",
    "etcd",
    "falco",
    "felix",
    "flanneld",
    "fluent-bit",
    "fluentd",
    "getent",
    "git",
    "go",
    "grafana",
    "haproxy",
    "host",
    "httpd",
    "java",
    "journald",
    "k3s",
    "kindnetd",
    "ksoftirqd",
    "kube-apiserver",
    "kube-controller",
    "kube-dns",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
    "kworker",
    "linkerd2-proxy",
    "memcached",
    "mongod",
    "mono",
    "mysql",
    "mysqld",
    "named",
    "nc",
    "ncat",
    "netcat",
    "nginx",
    "node",
    "node_exporter",
    "npm",
    "nscd",
    "nslookup",
    "ntpd",
    "pause",
    "perl",
    "php",
    "php-fpm",
    "pilot-agent",
    "ping",
    "ping6",
    "postgres",
    "prometheus",
    "psql",
    "pwsh",
    "python",
    "python2",
    "python3",
    "redis-cli",
    "redis-server",
    "rsyslogd",
    "ruby",
    "runc",
    "sh",
    "sleep",
    "socat",
    "ssh",
    "sshd",
    "sssd",
    "stubby",
    "svctrace",
    "swapper",
    "sysdig",
    "systemd",
    "systemd-journal",
    "systemd-network",
    "systemd-networkd",
    "systemd-resolve",
    "systemd-resolved",
    "tcpdump",
    "telnet",
    "tini",
    "tokio-runtime-w",
    "traefik",
    "unbound",
    "wget",
    "zsh",
];

/// Kinds of owners that stay.
const KINDS: &[&str] = &[
    "CronJob",
    "DaemonSet",
    "Deployment",
    "Job",
    "Node",
    "Pod",
    "ReplicaSet",
    "ReplicationController",
    "StatefulSet",
];

/// Option names of resolv.conf(5).
const OPTIONS: &[&str] = &[
    "attempts",
    "debug",
    "edns0",
    "inet6",
    "ndots",
    "no-aaaa",
    "no-check-names",
    "no-reload",
    "no-tld-query",
    "rotate",
    "single-request",
    "single-request-reopen",
    "timeout",
    "trust-ad",
    "use-vc",
];

/// Reasons for an unreadable file that stay.
const REASONS: &[&str] = &[
    "No such file or directory (os error 2)",
    "No such process (os error 3)",
    "Permission denied (os error 13)",
    "no such file",
    "not a regular file",
];

fn within(list: &[&str], word: &str) -> bool {
    list.binary_search(&word).is_ok()
}

/// Whether a label of a name stays; `label` is in lower case.
pub(super) fn is_label(label: &[u8]) -> bool {
    std::str::from_utf8(label).is_ok_and(|label| within(LABELS, label))
}

/// Whether a word of a path or of a thread's name stays; `word` is in lower case.
pub(super) fn is_word(word: &str) -> bool {
    within(WORDS, word) || within(PROGRAMS, word)
}

/// Whether an owner's kind stays.
pub(super) fn is_kind(kind: &str) -> bool {
    within(KINDS, kind)
}

/// Whether an option of resolv.conf stays.
pub(super) fn is_option(option: &str) -> bool {
    within(OPTIONS, option)
}

/// Whether the reason for an unreadable file stays.
pub(super) fn is_reason(reason: &str) -> bool {
    within(REASONS, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_is_documented() {
        let document = include_str!("../../../docs/capture-format.md");
        for word in LABELS.iter().chain(PROGRAMS) {
            assert!(document.contains(&format!("`{word}`")), "{word}");
        }
    }

    #[test]
    fn lists_are_sorted_and_short_enough_to_read() {
        for list in [LABELS, WORDS, PROGRAMS, KINDS, OPTIONS, REASONS] {
            assert!(list.is_sorted_by(|a, b| a < b), "{list:?}");
        }
        assert!(is_label(b"svc") && !is_label(b"backend") && is_word("curl") && is_word("usr"));
    }
}
