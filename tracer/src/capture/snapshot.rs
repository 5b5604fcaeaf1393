//! The facts that a file needs to stand alone: the latest of each, under their own numbers, so that
//! a reader that has seen them skips them. Keeps a bounded number of bytes.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::context;
use crate::event::{AddressCall, Body, Event, Protocol, SocketAddress};
use crate::record::{HostId, Record, RecordKind};

/// Most bytes of bodies kept.
const BYTES_MAX: usize = 32 << 20;
/// What a fact costs besides its body, about.
const OVERHEAD: usize = 256;

/// What a fact is about; a later one replaces it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum About {
    Host,
    /// By path; of a target or not.
    Scope(String, bool),
    Cgroup(u64),
    Process(u32),
    Socket(u64),
    ResolvConf(Option<u64>, Option<u64>),
    NodeFile(String),
    Conntrack(u64),
    Pod(String),
    Service(String, String),
    EndpointSlice(String, String),
}

impl About {
    /// What Kubernetes says is the same on all hosts.
    fn scope(&self, host: HostId) -> HostId {
        match self {
            Self::Pod(..) | Self::Service(..) | Self::EndpointSlice(..) => HostId::default(),
            _ => host,
        }
    }
}

/// What a fact is about, and on which host.
type Subject = (HostId, About);

/// A fact's number, and which of all facts it is: an event may say several.
type Place = (u64, u64);

/// The facts.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    facts: BTreeMap<Place, (Subject, Record)>,
    places: HashMap<Subject, Place>,
    kept: u64,
    bytes: usize,
    missing: u64,
}

impl Snapshot {
    /// Takes in what `record`, which says `event`, adds to the facts or ends.
    pub(super) fn learn(&mut self, record: &Record, event: &Event) {
        use About as A;
        let (about, ended) = match &event.body {
            Body::Host(_) => (A::Host, false),
            Body::Scope(scope) => {
                let target = scope.role == context::Role::Target;
                (A::Scope(scope.path.clone(), target), scope.ended)
            }
            Body::Cgroup(cgroup) => (A::Cgroup(cgroup.id), false),
            Body::CgroupRemoved(cgroup) => (A::Cgroup(cgroup.id), true),
            Body::Process(process) => (A::Process(process.pid), false),
            Body::Exit => match &event.actor.task {
                Some(task) => (A::Process(task.pid), true),
                None => return,
            },
            Body::Socket(socket) => (A::Socket(socket.cookie), false),
            Body::SocketAddress(hook) if hook.call != AddressCall::Recvmsg => {
                return self.socket(record, event, hook);
            }
            Body::SocketClosed(_) => match event.actor.cookie {
                Some(cookie) => (A::Socket(cookie), true),
                None => return,
            },
            Body::ResolvConf(conf) => (A::ResolvConf(conf.mnt_ns, conf.cgroup), false),
            Body::NodeFile(file) => (A::NodeFile(file.path.clone()), false),
            Body::Conntrack(of) => (A::Conntrack(of.net_ns), false),
            Body::Pod(pod) => (A::Pod(pod.uid.clone()), pod.deleted),
            Body::Service(of) => (A::Service(of.namespace.clone(), of.name.clone()), of.deleted),
            Body::EndpointSlice(of) => {
                (A::EndpointSlice(of.namespace.clone(), of.name.clone()), of.deleted)
            }
            _ => return,
        };
        if ended {
            self.forget(&(about.scope(record.host), about));
        } else {
            self.keep(about, record.clone());
        }
    }

    /// The records of the snapshot, in order.
    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.facts.values().map(|(_, record)| record)
    }

    /// How many records that is.
    pub(super) fn count(&self) -> u32 {
        self.facts.len() as u32
    }

    /// Bytes of them, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Facts given up because there were too many.
    pub(super) fn missing(&self) -> u64 {
        self.missing
    }

    /// Who opened a socket, and towards what, as the fact about the socket that it is.
    fn socket(&mut self, record: &Record, event: &Event, hook: &SocketAddress) {
        let Some(cookie) = event.actor.cookie else { return };
        let unspecified: IpAddr = match hook.remote {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let task = event.actor.task.as_ref();
        let socket = context::Socket {
            cookie,
            protocol: match hook.protocol {
                Protocol::Udp => 17,
                Protocol::Tcp => 6,
                Protocol::Other(number) => number,
            },
            local: SocketAddr::new(unspecified, 0),
            remote: Some(hook.remote),
            pid: task.map(|task| task.pid),
            comm: task.map(|task| task.comm.clone()),
            fd: hook.fd,
            cgroup: event.actor.cgroup,
            net_ns: None,
        };
        if let Ok(body) = serde_json::to_vec(&socket) {
            let kind = RecordKind::Socket;
            let fact = Record { kind, probe: None, body: body.into(), ..record.clone() };
            self.keep(About::Socket(cookie), fact);
        }
    }

    fn keep(&mut self, about: About, record: Record) {
        let about = (about.scope(record.host), about);
        self.forget(&about);
        self.bytes += record.body.len() + OVERHEAD;
        self.kept += 1;
        let place = (record.number, self.kept);
        self.places.insert(about.clone(), place);
        self.facts.insert(place, (about, record));
        while self.bytes > BYTES_MAX
            && let Some((_, (oldest, record))) = self.facts.pop_first()
        {
            self.bytes -= record.body.len() + OVERHEAD;
            self.places.remove(&oldest);
            self.missing += 1;
        }
    }

    fn forget(&mut self, about: &Subject) {
        if let Some((_, record)) =
            self.places.remove(about).and_then(|place| self.facts.remove(&place))
        {
            self.bytes -= record.body.len() + OVERHEAD;
        }
    }
}
