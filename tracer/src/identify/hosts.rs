//! The machines of the stream: what each said of itself, its name among several, its files. Knows
//! nothing of what runs on them.

use std::collections::BTreeMap;

use crate::context;
use crate::record::HostId;
use crate::text;

const HOSTS_MAX: usize = 1024;
/// Files of one host.
const FILES_MAX: usize = 16;

#[derive(Debug, Default)]
struct Facts {
    host: Option<context::Host>,
    /// Unlike that of every other.
    name: String,
    /// Text by path.
    files: BTreeMap<String, String>,
}

/// All hosts.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    hosts: BTreeMap<HostId, Facts>,
    evicted: u64,
}

impl Hosts {
    pub(super) fn learn(&mut self, id: HostId, host: &context::Host) {
        let Some(facts) = self.facts(id) else { return };
        let mut host = host.clone();
        host.node = host.node.map(|name| text::escape(name.as_bytes()));
        let name = match (host.hostname.as_str(), &host.node) {
            ("", Some(node)) => node.clone(),
            ("", None) => format!("host-{}", id.0),
            (name, _) => text::escape(name.as_bytes()),
        };
        facts.host = Some(host);
        let taken = self.hosts.iter().any(|(other, facts)| *other != id && facts.name == name);
        let name = if taken { format!("{name}#{}", id.0) } else { name };
        if let Some(facts) = self.hosts.get_mut(&id) {
            facts.name = name;
        }
    }

    pub(super) fn learn_file(&mut self, id: HostId, file: &context::NodeFile) {
        let Some(Facts { files, .. }) = self.facts(id) else { return };
        if files.contains_key(&file.path) || files.len() < FILES_MAX {
            files.insert(file.path.clone(), file.text.clone());
        }
    }

    fn facts(&mut self, id: HostId) -> Option<&mut Facts> {
        if self.hosts.len() >= HOSTS_MAX && !self.hosts.contains_key(&id) {
            self.evicted += 1;
            return None;
        }
        Some(self.hosts.entry(id).or_default())
    }

    pub(super) fn get(&self, id: HostId) -> Option<&context::Host> {
        self.hosts.get(&id)?.host.as_ref()
    }

    /// All kubelets whose settings are known.
    pub(super) fn kubelets(&self) -> impl Iterator<Item = &context::Kubelet> {
        self.hosts.values().filter_map(|facts| facts.host.as_ref()?.kubelet.as_ref())
    }

    pub(super) fn several(&self) -> bool {
        self.hosts.len() > 1
    }

    /// What to call it; `None` where there is only one.
    pub(super) fn name(&self, id: HostId) -> Option<&str> {
        let facts = self.hosts.get(&id).filter(|_| self.several())?;
        Some(facts.name.as_str()).filter(|name| !name.is_empty())
    }

    pub(super) fn files(&self, id: HostId) -> Option<&BTreeMap<String, String>> {
        Some(&self.hosts.get(&id)?.files)
    }

    /// Facts given up because there were too many hosts.
    pub(super) fn evicted(&self) -> u64 {
        self.evicted
    }
}
