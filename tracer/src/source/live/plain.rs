//! What names and ids from runtimes, kubelet and files must look like to be taken over: the rules
//! of Kubernetes, so that nothing of them needs escaping or cutting later.

/// Most labels of one pod.
pub(super) const LABELS_MAX: usize = 64;

/// A pod's, namespace's or container's name (RFC 1123 subdomain, at most 253 bytes).
pub(super) fn name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
}

/// A pod's UID as in cgroup paths: a UUID, or the 32 digits of a static pod.
pub(super) fn uid(text: &str) -> bool {
    matches!(text.len(), 32 | 36)
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'f' | b'0'..=b'9' | b'-'))
}

/// A runtime's container or sandbox id.
pub(super) fn id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'a'..=b'f' | b'0'..=b'9'))
}

/// A label's key or value.
pub(super) fn label(text: &str) -> bool {
    text.len() <= 317
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'))
}
