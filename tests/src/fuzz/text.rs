//! What is text: paths of cgroups, resolv.conf, objects of Kubernetes and its node, bodies of context
//! records, filters.

use std::sync::LazyLock;
use std::thread;

use tracer::context;
use tracer::decode::Decoder;
use tracer::event::{Actor, Body};
use tracer::identify::Identifier;
use tracer::record::{HostId, Record, RecordKind, Timestamp};
use tracer::redact::Redactor;
use tracer::report::Output;
use tracer::sink::filter::{COMPILE_STACK, Filter};
use tracer::source::live::foreign::{self, Resource};

use super::{Input, assert_visible};

/// A cgroup's path.
pub fn cgroup_path(data: &[u8]) {
    let path = String::from_utf8_lossy(data);
    let (pod, container) = foreign::cgroup_path(&path);
    let hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if let Some(pod) = pod {
        assert!(matches!(pod.len(), 32 | 36) && hex(&pod.replace('-', "")), "{pod}");
    }
    if let Some(container) = container {
        assert!(container.len() == 64 && hex(&container), "{container}");
        assert!(path.contains(&container));
    }
    if let Some(pod) = foreign::log_folder(&path) {
        assert_eq!(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid), path);
    }
}

/// A resolv.conf, and settings of a kubelet.
pub fn resolv_conf(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let kubelet = foreign::kubelet_config(&text);
    assert!(kubelet.cluster_dns.len() <= 8);
    kubelet.cluster_domain.iter().for_each(|domain| assert_visible(domain));
    let fact = context::ResolvConf {
        cgroup: Some(1),
        path: "/etc/resolv.conf".to_owned(),
        text: Some(text),
        ..context::ResolvConf::default()
    };
    let mut who = Identifier::default();
    learn(&mut who, &fact_record(RecordKind::ResolvConf, &fact));
    let actor = Actor { cgroup: Some(1), ..Actor::default() };
    let Some(config) = who.resolver_config(&actor) else { panic!("it was told") };
    assert!((1..=3).contains(&config.servers.len()) && config.search.len() <= 64);
    assert!(config.ndots <= 15 && config.timeout_s <= 30 && config.attempts <= 5);
    config.search.iter().chain(&config.strange).for_each(|text| assert_visible(text));
    config.lines.iter().chain(&config.options).for_each(|text| assert_visible(text));
}

fn fact_record(kind: RecordKind, fact: &impl serde::Serialize) -> Record {
    let body = serde_json::to_vec(fact).unwrap_or_default();
    Record::bare(1, Timestamp(1), kind, body)
}

fn learn(who: &mut Identifier, record: &Record) {
    for event in super::decode(&mut Decoder::default(), record) {
        who.learn(&event);
    }
}

/// Lines of a watch, a page of a list, a kubelet's list, a runtime's answers; the first two bytes say
/// which, and in pieces of how many bytes it comes.
pub fn kubernetes(data: &[u8]) {
    let mut input = Input(data);
    let (which, piece) = (input.u8(), usize::from(input.u8()) + 1);
    let resource = [Resource::Pods, Resource::Services, Resource::EndpointSlices];
    let resource = resource[usize::from(which >> 2) % 3];
    let bytes = input.0;
    let records = match which % 4 {
        0 => same(
            foreign::watch(resource, bytes, piece),
            foreign::watch(resource, bytes, usize::MAX),
        ),
        1 => {
            same(foreign::list(resource, bytes, piece), foreign::list(resource, bytes, usize::MAX))
        }
        2 => foreign::kubelet(bytes),
        _ => {
            let mut part = || {
                let len = usize::from(input.u16());
                input.piece(len)
            };
            foreign::runtime(part(), part(), part())
        }
    };
    let mut who = Identifier::default();
    for record in &records {
        learn(&mut who, record);
        for event in super::decode(&mut Decoder::default(), record) {
            check_object(&event.body);
        }
    }
}

/// What comes in pieces says what it says at once.
fn same(pieces: Vec<Record>, whole: Vec<Record>) -> Vec<Record> {
    assert!(pieces == whole, "{pieces:?}\n{whole:?}");
    whole
}

fn check_object(body: &Body) {
    let plain = |text: &str| assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?}");
    match body {
        Body::Pod(pod) => {
            plain(&pod.name);
            plain(&pod.namespace);
            plain(&pod.uid);
            pod.owner.iter().chain(&pod.node).for_each(|text| plain(text));
            pod.labels.iter().flat_map(|(key, value)| [key, value]).for_each(|text| plain(text));
            pod.containers.iter().for_each(|container| plain(&container.name));
            assert!(pod.ips.len() <= 16 && pod.labels.len() <= 128);
        }
        Body::Service(service) => {
            plain(&service.name);
            plain(&service.namespace);
            service.external_name.iter().for_each(|text| plain(text));
        }
        Body::EndpointSlice(slice) => {
            plain(&slice.name);
            assert!(slice.endpoints.len() <= 1000);
        }
        other => panic!("{other:?}"),
    }
}

/// The body of a context record; the first byte says of which kind.
pub fn context(data: &[u8]) {
    let mut input = Input(data);
    let kinds: Vec<RecordKind> =
        RecordKind::ALL.into_iter().filter(|kind| kind.is_context()).collect();
    let kind = kinds[usize::from(input.u8()) % kinds.len()];
    let record = Record::bare(1, Timestamp(1), kind, input.0.to_vec());
    let mut who = Identifier::default();
    learn(&mut who, &record);
    let events = super::decode(&mut Decoder::default(), &record);
    for event in &events {
        let Some(body) = written(&event.body) else { continue };
        let again = Record::bare(1, Timestamp(1), kind, body);
        let again = super::decode(&mut Decoder::default(), &again);
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].body, event.body);
    }
    let hidden = Redactor::new(b"key").record(&record);
    let after = super::decode(&mut Decoder::default(), &hidden);
    assert_eq!(events.len(), after.len(), "{kind:?}: a pseudonym is as readable as the name");
    learn(&mut who, &hidden);
}

fn written(body: &Body) -> Option<Vec<u8>> {
    let json = match body {
        Body::Host(fact) => serde_json::to_vec(fact),
        Body::Loss(fact) => serde_json::to_vec(fact),
        Body::Scope(fact) => serde_json::to_vec(fact),
        Body::Cgroup(fact) => serde_json::to_vec(fact),
        Body::Process(fact) => serde_json::to_vec(fact),
        Body::Socket(fact) => serde_json::to_vec(fact),
        Body::ResolvConf(fact) => serde_json::to_vec(fact),
        Body::NodeFile(fact) => serde_json::to_vec(fact),
        Body::Conntrack(fact) => serde_json::to_vec(fact),
        Body::Pod(fact) => serde_json::to_vec(fact),
        Body::Service(fact) => serde_json::to_vec(fact),
        Body::EndpointSlice(fact) => serde_json::to_vec(fact),
        _ => return None,
    };
    json.ok()
}

/// A filter; behind a zero byte records whose lines it looks at, else some of our own.
pub fn filter(data: &[u8]) {
    let at = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (text, rest) = data.split_at(at);
    let Ok(text) = std::str::from_utf8(text) else { return };
    let text = text.to_owned();
    let work = move || Filter::compile(&text);
    // As the program compiles it: on a stack of its own.
    let compiled = thread::Builder::new().stack_size(COMPILE_STACK).spawn(work).ok();
    let compiled = compiled.and_then(|thread| thread.join().ok()).unwrap_or(Err(String::new()));
    let filter = match compiled {
        Ok(filter) => filter,
        Err(why) => {
            why.lines().for_each(assert_visible);
            return;
        }
    };
    let foreign = rest.get(1..).map(outputs).unwrap_or_default();
    for output in LINES.iter().chain(&foreign) {
        assert_eq!(filter.takes(output), filter.takes(output), "{output:?}");
    }
}

/// Lines that stay the same from input to input.
static LINES: LazyLock<Vec<Output>> =
    LazyLock::new(|| super::whole::outputs(&super::whole::story()));

/// What a few records say.
fn outputs(bytes: &[u8]) -> Vec<Output> {
    let mut records = super::stream::decode(bytes);
    records.truncate(64);
    records.iter_mut().for_each(|record| record.host = HostId::default());
    super::whole::outputs(&records)
}
