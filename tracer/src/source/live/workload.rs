//! Kinds of objects that stand for pods: how people write them, where the API keeps them, and how
//! the names of their pods look. Asks nobody.

/// A kind that svctrace takes as a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One pod.
    Pod,
    /// The pods of a Deployment.
    Deployment,
    /// The pods of a StatefulSet.
    StatefulSet,
    /// The pods of a DaemonSet.
    DaemonSet,
    /// The pods of a Job.
    Job,
    /// The pods of a ReplicaSet.
    ReplicaSet,
    /// The pods behind a Service.
    Service,
}

/// Characters of the random parts of generated names (no vowels, nothing that looks alike).
const SAFE: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

impl Kind {
    /// All, in the order people are told of them.
    pub const ALL: [Self; 7] = [
        Self::Pod,
        Self::Deployment,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::Job,
        Self::ReplicaSet,
        Self::Service,
    ];

    /// Kind, plural, group, and the short forms that kubectl takes.
    const fn words(self) -> (&'static str, &'static str, &'static str, &'static [&'static str]) {
        match self {
            Self::Pod => ("Pod", "pods", "", &["po"]),
            Self::Deployment => ("Deployment", "deployments", "apps", &["deploy"]),
            Self::StatefulSet => ("StatefulSet", "statefulsets", "apps", &["sts"]),
            Self::DaemonSet => ("DaemonSet", "daemonsets", "apps", &["ds"]),
            Self::Job => ("Job", "jobs", "batch", &[]),
            Self::ReplicaSet => ("ReplicaSet", "replicasets", "apps", &["rs"]),
            Self::Service => ("Service", "services", "", &["svc"]),
        }
    }

    /// As in manifests.
    pub fn name(self) -> &'static str {
        self.words().0
    }

    /// As in paths of the API.
    pub fn plural(self) -> &'static str {
        self.words().1
    }

    /// Its API group, empty for the core's.
    pub fn group(self) -> &'static str {
        self.words().2
    }

    /// The shortest form people write.
    pub fn short(self) -> &'static str {
        match self {
            Self::Pod => "pod",
            Self::Job => "job",
            _ => self.words().3.first().copied().unwrap_or_default(),
        }
    }

    /// From what somebody wrote: singular, plural, short, with or without the group.
    pub fn parse(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        Self::ALL.into_iter().find(|kind| {
            let (name, plural, group, short) = kind.words();
            let plain = match word.split_once('.') {
                Some((plain, rest)) if !group.is_empty() => {
                    let fits = rest == group || rest == format!("v1.{group}");
                    if fits { plain } else { return false }
                }
                Some(_) => return false,
                None => &word,
            };
            plain == name.to_ascii_lowercase() || plain == plural || short.contains(&plain)
        })
    }

    /// Whether a pod of this name looks like one that this kind's `owner` generated. Two owners can
    /// look alike: a guess.
    pub(super) fn generates(self, owner: &str, pod: &str) -> bool {
        let Some(rest) = pod.strip_prefix(owner).and_then(|rest| rest.strip_prefix('-')) else {
            return false;
        };
        let safe = |text: &str| text.bytes().all(|byte| SAFE.contains(&byte));
        let random = |text: &str| text.len() == 5 && safe(text);
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match self {
            Self::Pod | Self::Service => false,
            Self::Deployment => rest.split_once('-').is_some_and(|(hash, end)| {
                (1..=10).contains(&hash.len()) && safe(hash) && random(end)
            }),
            Self::StatefulSet => digits(rest),
            Self::ReplicaSet | Self::DaemonSet => random(rest),
            Self::Job => {
                random(rest)
                    || rest.split_once('-').is_some_and(|(n, end)| digits(n) && random(end))
            }
        }
    }
}

/// `KIND/NAME`, or a pod's bare name.
///
/// # Errors
/// The kinds there are, or what else is wrong.
pub fn parse(text: &str) -> Result<(Kind, String), String> {
    let (kind, name) = text.split_once('/').unwrap_or(("pod", text));
    let Some(found) = Kind::parse(kind) else {
        let kinds: Vec<&str> = Kind::ALL.into_iter().map(Kind::short).collect();
        let kinds = kinds.join(", ");
        return Err(format!("{text:?}: unknown kind {kind:?}; known are {kinds}"));
    };
    let plain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    if name.is_empty() || name.len() > 253 || !name.bytes().all(plain) {
        return Err(format!("{text:?}: {name:?} is no name of a {}", found.name()));
    }
    Ok((found, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_as_kubectl_has_them() {
        for (text, kind) in [
            ("client", Kind::Pod),
            ("po/client", Kind::Pod),
            ("Pods/client", Kind::Pod),
            ("deploy/client", Kind::Deployment),
            ("deployments.apps/client", Kind::Deployment),
            ("deployment.v1.apps/client", Kind::Deployment),
            ("sts/client", Kind::StatefulSet),
            ("daemonset/client", Kind::DaemonSet),
            ("jobs.batch/client", Kind::Job),
            ("rs/client", Kind::ReplicaSet),
            ("services/client", Kind::Service),
        ] {
            assert_eq!(parse(text), Ok((kind, "client".to_owned())), "{text}");
        }
        for kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.short()), Some(kind));
        }
        let told = parse("depoy/client").unwrap_err();
        assert!(told.contains("deploy, sts, ds, job, rs, svc"), "{told}");
        for wrong in ["deployments.batch/x", "pod/", "pod/a b", "http://x/", "svc.apps/x", "/x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn generated_names() {
        for (kind, pod, fits) in [
            (Kind::Deployment, "web-6f7bd8c9d5-4kq8z", true),
            (Kind::Deployment, "web-api-6f7bd8c9d5-4kq8z", false),
            (Kind::Deployment, "web-6f7bd8c9d5", false),
            (Kind::StatefulSet, "web-12", true),
            (Kind::StatefulSet, "web-4kq8z", false),
            (Kind::DaemonSet, "web-4kq8z", true),
            (Kind::DaemonSet, "web-admin", false),
            (Kind::Job, "web-3-4kq8z", true),
            (Kind::ReplicaSet, "web-4kq8z", true),
            (Kind::Service, "web-4kq8z", false),
        ] {
            assert_eq!(kind.generates("web", pod), fits, "{kind:?} {pod}");
        }
    }
}
