//! Who is at an address, when that changes while a recording runs, and who put a suffix there: the
//! same live, replayed, and from what is left of a ring.

use bytes::Bytes;
use serde_json::{Value, json};
use tests::capture::{file, replay, ring};
use tests::records::*;
use tests::{Output, run_default};
use tracer::capture::Options;
use tracer::context::{Endpoint, EndpointSlice, Origin, Pod, Port, Service};
use tracer::record::{Record, RecordKind};

use crate::scenarios;

const PLAIN: Options = Options { compress: false, rotate_bytes: None, rotate_ns: None };
const SERVICE: &str = "10.96.7.7:80";
const POD: &str = "10.244.1.20:8080";

fn port(number: u16) -> Port {
    Port { protocol: "TCP".into(), port: number, ..Port::default() }
}

fn service(name: &str, deleted: bool) -> Fact {
    let service = Service {
        namespace: "shop".into(),
        name: name.into(),
        cluster_ips: vec!["10.96.7.7".parse().unwrap()],
        ports: vec![port(80)],
        deleted,
        ..Service::default()
    };
    fact(RecordKind::Service, &service)
}

/// The endpoint of `shop/db`, which is headless; or none.
fn slice(pod: Option<(&str, bool)>) -> Fact {
    let endpoint = |(name, terminating): (&str, bool)| Endpoint {
        addresses: vec!["10.244.1.20".parse().unwrap()],
        ready: Some(!terminating),
        terminating: Some(terminating),
        pod: Some(format!("shop/{name}")),
        pod_uid: Some(format!("uid-{name}")),
        ..Endpoint::default()
    };
    let slice = EndpointSlice {
        namespace: "shop".into(),
        name: "db-x".into(),
        service: Some("db".into()),
        ports: vec![port(8080)],
        endpoints: pod.into_iter().map(endpoint).collect(),
        deleted: false,
    };
    fact(RecordKind::EndpointSlice, &slice)
}

fn pod(name: &str, deleted: bool) -> Fact {
    let pod = Pod {
        uid: format!("uid-{name}"),
        namespace: "shop".into(),
        name: name.into(),
        ips: vec!["10.244.1.20".parse().unwrap()],
        origin: Origin::Api,
        deleted,
        ..Pod::default()
    };
    fact(RecordKind::Pod, &pod)
}

/// Connects once a second, to the Service and to the pod, while both become others.
fn changes() -> Vec<Record> {
    let mut stream = Stream::default();
    let headless = Service { namespace: "shop".into(), name: "db".into(), ..Service::default() };
    stream.add([
        fact(RecordKind::Service, &headless).at_ms(1.0),
        service("old", false).at_ms(1.0),
        slice(Some(("db-0", false))).at_ms(1.0),
        pod("db-0", false).at_ms(1.0),
        slice(Some(("db-0", true))).at_ms(3500.0),
        slice(None).at_ms(5500.0),
        service("old", true).at_ms(5500.0),
        pod("db-0", true).at_ms(6500.0),
        pod("db-1", false).at_ms(7500.0),
        service("new", false).at_ms(7500.0),
        slice(Some(("db-1", false))).at_ms(7500.0),
    ]);
    let client = Process::target(4711, "curl", 101);
    for second in 1..=10_u32 {
        let at = f64::from(second) * 1000.0;
        for (n, remote) in [SERVICE, POD].into_iter().enumerate() {
            let cookie = u64::from(second) * 10 + n as u64;
            let local = format!("10.244.1.10:{}", 41_000 + cookie);
            let socket = client.tcp(cookie, &local, remote);
            stream.add([
                connect(&socket).at_ms(at),
                established(&socket).at_ms(at + 0.4),
                close(&socket).at_ms(at + 3.0),
            ]);
        }
    }
    stream.beat_until_ms(20_000);
    stream.records()
}

/// What the connections of a recording were named, by second: of the Service, then of the pod.
fn names(output: &Output) -> Vec<(u64, String)> {
    let told = |line: Value| {
        let time = line["ts"].as_str().unwrap()[17..19].parse().unwrap();
        let words = |key: &str| line[key].as_str().unwrap_or("-").to_owned();
        (time, format!("{} = {}", words("service"), words("peer")))
    };
    output.lines("connection").into_iter().map(told).collect()
}

fn expected() -> Vec<(u64, String)> {
    let web = |second| if second < 8 { "old" } else { "new" };
    let db = |second| match second {
        1..=3 => "svc/db.shop:8080 = pod shop/db-0",
        4..=5 => "svc/db.shop:8080 = pod shop/db-0, terminating",
        6..=7 => "- = pod shop/db-0, no longer listed",
        _ => "svc/db.shop:8080 = pod shop/db-1",
    };
    let both = |second| {
        let web = format!("svc/{0}.shop:80 = svc/{0}.shop", web(second));
        [(second, web), (second, db(second).to_owned())]
    };
    (1..=10).flat_map(both).collect()
}

#[test]
fn names_follow_time_live_and_in_a_replay() {
    let records = changes();
    let live = run_default(&records);
    assert_eq!(names(&live), expected());
    let (read, error) = replay(&[file(&records, PLAIN)]);
    assert!(error.is_none(), "{error:?}");
    assert_eq!(run_default(&read).json, live.json);
    assert!(live.text.contains("pod shop/db-0, terminating"), "{}", live.text);
}

#[test]
fn what_is_left_of_a_ring_names_the_rest_alike() {
    let records = changes();
    let options = Options { rotate_ns: Some(2_000_000_000), ..PLAIN };
    let files = ring(&records, 16, options);
    let files: Vec<_> = files.into_iter().filter(|file| !file.is_empty()).collect();
    assert!(files.len() >= 5, "{} files", files.len());
    for dropped in 1..4 {
        let (read, _) = replay(&files[dropped..]);
        let left = names(&run_default(&read));
        assert!(left.len() >= 4 && left.len() < 20, "{dropped}: {left:?}");
        let all = expected();
        let tail = &all[all.len() - left.len()..];
        // What had ended before the file began is in no snapshot of it.
        let known = |(second, _): &&(u64, String)| !(6..=7).contains(second);
        let kept: Vec<_> = left.iter().filter(known).collect();
        assert_eq!(kept, tail.iter().filter(known).collect::<Vec<_>>(), "{dropped} dropped");
    }
}

/// `story` with other facts about its client pod, its kubelet and its files.
fn story(pod: &Value, kubelet: &Value, file: Option<&str>) -> Vec<Record> {
    let mut changed = Vec::new();
    for record in scenarios::story(true) {
        let mut body: Value = match record.kind {
            RecordKind::Pod | RecordKind::Host | RecordKind::NodeFile => {
                serde_json::from_slice(&record.body).unwrap()
            }
            _ => {
                changed.push(record);
                continue;
            }
        };
        let news = match record.kind {
            RecordKind::Pod if body["name"] == "client" => pod.clone(),
            RecordKind::Host => json!({ "kubelet": kubelet }),
            RecordKind::NodeFile => json!({ "text": file.unwrap_or("nameserver 10.99.0.53\n") }),
            _ => json!({}),
        };
        body.as_object_mut().unwrap().extend(news.as_object().unwrap().clone());
        let body = Bytes::from(serde_json::to_vec(&body).unwrap());
        changed.push(Record { body, ..record });
    }
    changed
}

fn foreign(records: &[Record]) -> Value {
    let output = run_default(records);
    let found: Vec<_> =
        output.lines("finding").into_iter().filter(|f| f["code"] == "foreign-suffix").collect();
    assert_eq!(found.len(), 1, "{}", output.json);
    found[0].clone()
}

#[test]
fn a_suffix_has_the_origin_that_its_policy_gives_it() {
    let file = Some("nameserver 10.99.0.53\nsearch localdomain\n");
    let told = json!({ "read_from": ["/var/lib/kubelet/config.yaml"],
        "cluster_domain": "cluster.local", "cluster_dns": ["10.96.0.10"],
        "resolv_conf": "/etc/resolv.conf" });
    let known = json!({ "dns_config_known": true });
    let config = json!({ "dns_config_known": true, "dns_searches": ["localdomain"] });
    let none = json!({ "dns_config_known": true, "dns_policy": "None" });
    let rows = [
        (
            &known,
            &told,
            file,
            "node-file",
            "/etc/resolv.conf:2 on the node, which kubelet was told",
        ),
        (&config, &told, None, "dns-config", "the pod's dnsConfig.searches."),
        (&config, &told, file, "dns-config", "/etc/resolv.conf:2 on the node has it, too"),
        (&known, &told, None, "image", "something in the image wrote it"),
        (&none, &told, file, "image", "dnsPolicy None leaves nothing"),
        (&json!({}), &told, None, "unknown", "the pod's dnsConfig was not read"),
        (&known, &Value::Null, None, "unknown", "kubelet's configuration was not read"),
    ];
    for (pod, kubelet, file, kind, words) in rows {
        let found = foreign(&story(pod, kubelet, file));
        assert_eq!(found["details"]["origin"]["kind"], kind, "{found}");
        assert!(found["cause"].as_str().unwrap().contains(words), "{found}");
    }
}
