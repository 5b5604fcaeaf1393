//! Names that came after a line was made: who may still get one, and filling it in. Goes by what the
//! line says about itself, so it can be done when the actor is long gone.

use super::Identifier;
use crate::cgroup_path;
use crate::report::Identity;

/// What an identity lacks a name for: its cgroup, or its container. `None` when nothing is missing
/// or it belongs to no container.
pub(crate) fn nameless(identity: &Identity) -> Option<&str> {
    if identity.pod.is_none() {
        let path = identity.cgroup.as_deref()?;
        let facts = cgroup_path::parse(path);
        return (facts.pod.is_some() || facts.container.is_some()).then_some(path);
    }
    identity.container_id.as_deref().filter(|_| identity.container.is_none())
}

impl Identifier {
    /// Fills in what is known now and was not when `identity` was made.
    pub(crate) fn name_again(&self, identity: &mut Identity) {
        if nameless(identity).is_none() {
            return;
        }
        let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let by_id = identity.container_id.as_deref().and_then(|id| self.cluster.container(id));
        if identity.container.is_none() {
            identity.container = by_id.and_then(|(_, name)| known(name));
        }
        if identity.pod.is_some() {
            return;
        }
        let facts = cgroup_path::parse(identity.cgroup.as_deref().unwrap_or_default());
        let uid = facts.pod.as_deref().or(by_id.map(|(uid, _)| uid));
        let Some(pod) = uid.and_then(|uid| self.cluster.pod(uid)) else { return };
        identity.namespace = known(&pod.namespace);
        identity.pod = known(&pod.name);
        identity.named_by = Some(pod.origin);
        identity.owner.clone_from(&pod.owner);
        identity.node = pod.node.clone().or_else(|| identity.node.take());
        identity.cgroup = None;
    }
}
