//! Seeds of the fuzz targets, made from the suite's own scenarios. What the targets do with them is in
//! `tests/hostile`.

use std::fs;
use std::path::{Path, PathBuf};

use etherparse::PacketBuilder;
use serde_json::json;
use tests::capture;
use tests::frames::{FORMATS, Frame, file, framed};
use tests::fuzz::{TARGETS, stream, whole::MARK};
use tests::records::*;
use tests::wire::Dns;
use tracer::capture::Options;
use tracer::context;
use tracer::record::{Record, RecordKind};
use tracer_common::bodies;
use tracer_common::record::{RecordHeader, WIRE_VERSION};

use crate::scenarios;

const PLAIN: Options = Options { compress: false, rotate_bytes: None, rotate_ns: None };
/// All seeds together; they are in the repository.
const BYTES_MAX: u64 = 1_000_000;

type Seeds = Vec<(String, Vec<u8>)>;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds")
}

/// Writes `fuzz/seeds`; found inputs that once failed (`found-*`) stay.
#[test]
#[ignore = "writes the seeds"]
fn make_the_seeds() {
    for target in TARGETS {
        let folder = folder().join(target.name);
        fs::create_dir_all(&folder).unwrap();
        for file in fs::read_dir(&folder).unwrap() {
            let file = file.unwrap();
            if !file.file_name().to_string_lossy().starts_with("found-") {
                fs::remove_file(file.path()).unwrap();
            }
        }
        for (name, bytes) in seeds(target.name) {
            fs::write(folder.join(name), bytes).unwrap();
        }
    }
}

#[test]
fn every_target_has_seeds_and_all_are_small() {
    let mut bytes = 0;
    for target in TARGETS {
        let files = fs::read_dir(folder().join(target.name)).expect(target.name);
        let sizes: Vec<u64> = files.map(|file| file.unwrap().metadata().unwrap().len()).collect();
        assert!(!sizes.is_empty(), "{}", target.name);
        bytes += sizes.iter().sum::<u64>();
    }
    assert!(bytes < BYTES_MAX, "{bytes} bytes");
}

#[test]
fn every_target_has_its_program() {
    for target in TARGETS {
        let programs = folder().join("../fuzz_targets");
        let program = fs::read_to_string(programs.join(format!("{}.rs", target.name))).unwrap();
        let path = format!("::{}(data)", target.name);
        assert!(program.contains(&path), "{}: {program}", target.name);
    }
}

fn seeds(target: &str) -> Seeds {
    match target {
        "ring" => ring(),
        "packet" => packet(),
        "dns" => dns(),
        "tcp" => tcp(),
        "pcap" => FORMATS[..4]
            .iter()
            .enumerate()
            .map(|(n, f)| named(n, file(*f, 1, 200, &frames(1))))
            .collect(),
        "pcapng" => FORMATS[4..]
            .iter()
            .enumerate()
            .map(|(n, f)| named(n, file(*f, 113, 200, &frames(113))))
            .collect(),
        "scap" => vec![named("story", tests::scap::story(&query_bytes(), &response_bytes()))],
        "capture" => captures(),
        "cgroup_path" => paths(),
        "resolv_conf" => resolv_conf(),
        "kubernetes" => kubernetes(),
        "context" => contexts(),
        "filter" => filters(),
        "redact" => [("marked", marked()), ("hostile-name", scenarios::hostile_name())]
            .map(|(name, records)| named(name, stream::encode(&records)))
            .into(),
        "pipeline" => pipeline(),
        other => panic!("no seeds for {other}"),
    }
}

fn named(name: impl ToString, bytes: Vec<u8>) -> (String, Vec<u8>) {
    (name.to_string(), bytes)
}

fn message(id: u16, name: &str, rcode: Option<u8>, answers: &[&str]) -> Vec<u8> {
    let answers = answers.iter().map(|ip| ip.parse().unwrap()).collect();
    tests::wire::dns(&Dns { id, name: name.into(), qtype: "A", rcode, answers })
}

fn query_bytes() -> Vec<u8> {
    message(7, "web.shop.svc.cluster.local", None, &[])
}

fn response_bytes() -> Vec<u8> {
    message(7, "web.shop.svc.cluster.local", Some(0), &["10.0.0.7", "10.0.0.8"])
}

/// A record of each kind that probes make, as the ring buffer holds it.
fn ring() -> Seeds {
    let mut seen = std::collections::BTreeSet::new();
    let records = scenarios::story(true).into_iter().chain(scenarios::stranger());
    let kernel = records.filter(|record| !record.kind.is_context());
    let first = kernel.filter(|record| seen.insert((record.kind, record.probe)));
    let mut seeds: Seeds = first.enumerate().map(|(n, record)| named(n, raw(&record))).collect();
    let text = |kind: RecordKind, fixed: usize, text: &[u8]| {
        let mut body = vec![0; fixed];
        body[fixed - 4..].copy_from_slice(&u32::try_from(text.len()).unwrap().to_ne_bytes());
        body.extend(text);
        raw(&Record::bare(1, tracer::record::Timestamp(1), kind, body))
    };
    let path = b"/kubepods/pod4d2e7b1a-9c3f-4e5d-8a6b-1c2d3e4f5a6b\0";
    seeds.push(named("exec", text(RecordKind::Exec, size_of::<bodies::Exec>(), b"/bin/sh\0")));
    seeds.push(named("cgroup", text(RecordKind::CgroupMade, size_of::<bodies::Cgroup>(), path)));
    seeds
}

/// [`RecordHeader`] and the body.
fn raw(record: &Record) -> Vec<u8> {
    let task = record.task.as_ref();
    let len = size_of::<RecordHeader>() + record.body.len();
    let mut raw = vec![WIRE_VERSION, u8::from(record.cut)];
    raw.extend((record.kind as u16).to_ne_bytes());
    raw.extend(u32::try_from(len).unwrap().to_ne_bytes());
    for value in [1_000_000, record.cgroup.unwrap_or(0), record.cookie.unwrap_or(0)] {
        raw.extend(value.to_ne_bytes());
    }
    for value in [task.map_or(0, |t| t.pid), task.map_or(0, |t| t.tid), record.cpu.unwrap_or(0)] {
        raw.extend(value.to_ne_bytes());
    }
    raw.extend(record.probe.unwrap_or(0).to_ne_bytes());
    raw.extend([0; 2]);
    raw.extend(task.map_or("", |t| &t.comm).as_bytes());
    raw.resize(size_of::<RecordHeader>(), 0);
    raw.extend(&record.body);
    raw
}

/// The packets of a short story, from their IP headers on.
fn packets() -> Vec<(u64, Vec<u8>)> {
    let records = scenarios::cut_short().into_iter().chain(scenarios::stranger());
    let packets = records.filter(|record| record.kind == RecordKind::Packet);
    let start = START_NS;
    packets
        .map(|r| (r.at.0 - start, r.body[size_of::<bodies::Packet>()..].to_vec()))
        .take(12)
        .collect()
}

fn frames(link: u16) -> Vec<Frame> {
    packets().iter().map(|(at, packet)| (*at, framed(link, packet))).collect()
}

fn packet() -> Seeds {
    let links = [1_u16, 0, 12, 101, 108, 113, 276];
    let mut seeds: Seeds = Vec::new();
    for (n, link) in (0..).zip(links) {
        let mut bytes = vec![n, n % 6, 0xff, 0xff];
        for (_, frame) in frames(link).iter().take(6).chain(&fragments(link)) {
            bytes.push(9);
            bytes.extend(u16::try_from(frame.len()).unwrap().to_le_bytes());
            bytes.extend(frame);
        }
        seeds.push(named(link, bytes));
    }
    seeds
}

/// A response in two fragments, the later one first.
fn fragments(link: u16) -> Vec<Frame> {
    let mut whole = Vec::new();
    let builder = PacketBuilder::ipv4([10, 96, 0, 10], [10, 0, 0, 1], 64).udp(53, 4000);
    builder.write(&mut whole, &response_bytes()).unwrap();
    let (head, payload) = whole.split_at(20);
    let part = |from: usize, to: usize, more: bool| {
        let mut packet = [head, &payload[from..to]].concat();
        let len = u16::try_from(packet.len()).unwrap();
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        let field = u16::try_from(from / 8).unwrap() | if more { 0x2000 } else { 0 };
        packet[6..8].copy_from_slice(&field.to_be_bytes());
        (0, framed(link, &packet))
    };
    vec![part(40, payload.len(), false), part(0, 40, true)]
}

fn dns() -> Seeds {
    let whole = |bytes: &[u8]| [&[0], bytes].concat();
    let mut rich = b"\0\x07\x85\x83\0\x01\0\x05\0\x01\0\x01\x03www\x04shop\0\0\x41\0\x01".to_vec();
    let records: [(u16, &[u8]); 7] = [
        (5, b"\x05alias\xc0\x10"),
        (33, b"\0\x01\0\x02\0\x50\x03web\xc0\x10"),
        (16, b"\x05hello\0\x02\xff\xfe"),
        (65, b"\0\x01\0\0\x01\0\x03\x02h2\0\x04\0\x04\x0a\0\0\x01"),
        (35, b"\0\x01\0\x02\x01S\x03SIP\0\x03web\0"),
        (6, b"\x02ns\xc0\x10\x05admin\xc0\x10\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x1e"),
        (41, b"\0\x0f\0\x06\0\x16fail\0\x0a\0\x08cookies!"),
    ];
    for (rtype, data) in records {
        rich.extend(if rtype == 41 { &b"\0"[..] } else { b"\xc0\x0c" });
        rich.extend(rtype.to_be_bytes());
        rich.extend(b"\0\x01\x01\0\0\x1e");
        rich.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        rich.extend(data);
    }
    let looping = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\xc0\x0c\0\x01\0\x01";
    vec![
        named("query", whole(&query_bytes())),
        named("response", whole(&response_bytes())),
        named("rich", whole(&rich)),
        named("loop", whole(looping)),
        named("cut", [&[1], &rich[..60]].concat()),
    ]
}

fn tcp() -> Seeds {
    let framed = |message: Vec<u8>| {
        [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat()
    };
    let stream = [framed(query_bytes()), framed(response_bytes()), framed(query_bytes())].concat();
    let len = u16::try_from(stream.len()).unwrap();
    let plan = |name: &str, pieces: &[[u16; 2]]| {
        let mut bytes = vec![u8::try_from(pieces.len()).unwrap()];
        bytes.extend(pieces.iter().flatten().flat_map(|number| number.to_le_bytes()));
        bytes.extend(&stream);
        named(name, bytes)
    };
    vec![
        plan("whole", &[[0, len]]),
        plan("cut", &[[0, 1], [1, 40], [41, 60], [101, len - 101]]),
        plan("order", &[[60, 50], [0, 60], [110, len - 110]]),
        plan("twice", &[[0, 80], [40, 60], [0, 80], [100, len - 100]]),
        plan("gap", &[[0, 30], [70, len - 70]]),
    ]
}

fn captures() -> Seeds {
    let records = scenarios::cut_short();
    let zstd = Options { compress: true, ..PLAIN };
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("captures");
    vec![
        named("plain", capture::file(&records, PLAIN)),
        named("zstd", capture::file(&records, zstd)),
        named("v1.1", fs::read(old.join("v1.1.pcapng")).unwrap()),
        named("hosts", fs::read(old.join("v1.1-hosts.pcapng")).unwrap()),
    ]
}

fn paths() -> Seeds {
    let (uid, cid) = ("4d2e7b1a-9c3f-4e5d-8a6b-1c2d3e4f5a6b", "b3a7".repeat(16));
    let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
    [
        format!("/kubepods/burstable/pod{uid}/{cid}"),
        format!("/kubepods.slice/{slice}/cri-containerd-{cid}.scope"),
        format!("/system.slice/containerd.service/{slice}:cri-containerd:{cid}"),
        format!("/kubepods/podaa7be809be48ec01ab43fd4f1ca22e9e/crio-conmon-{cid}"),
        format!("shop_client-0_{uid}"),
    ]
    .into_iter()
    .enumerate()
    .map(|(n, path)| named(n, path.into_bytes()))
    .collect()
}

fn resolv_conf() -> Seeds {
    let pod = "search shop.svc.cluster.local svc.cluster.local cluster.local\n\
               nameserver 10.96.0.10\noptions ndots:5 timeout:2 attempts:3 rotate use-vc\n";
    let odd = "domain a.b\nnameserver fe80::1%eth0\nnameserver x\n# no\n;\noptions ndots:99999999999 edns0\nsortlist 1.2.3.4\n\u{202e}\n";
    let kubelet = "apiVersion: kubelet.config.k8s.io/v1beta1\nclusterDNS:\n- 10.96.0.10\nclusterDomain: cluster.local\nresolvConf: /run/x.conf\n";
    let json = "{\"clusterDNS\":[\"10.96.0.10\"],\"clusterDomain\":\"cluster.local\"}";
    let flags = "KUBELET_ARGS=\"--cluster-dns=10.0.0.1,::1 --cluster-domain x.y --config /a\"";
    [("pod", pod), ("odd", odd), ("kubelet", kubelet), ("json", json), ("flags", flags)]
        .map(|(name, text)| named(name, text.as_bytes().to_vec()))
        .into()
}

fn kubernetes() -> Seeds {
    let pod = json!({ "metadata": { "name": "web-7f9c-x", "namespace": "shop", "uid": "4d2e7b1a-9c3f-4e5d-8a6b-1c2d3e4f5a6b",
            "resourceVersion": "12", "labels": { "app": "web", "pod-template-hash": "7f9c" },
            "annotations": { "kubernetes.io/config.hash": "aa7be809be48ec01ab43fd4f1ca22e9e" },
            "ownerReferences": [{ "kind": "ReplicaSet", "name": "web-7f9c", "controller": true }] },
        "spec": { "nodeName": "n1", "dnsPolicy": "ClusterFirst", "dnsConfig": { "searches": ["a.b"] } },
        "status": { "phase": "Running", "hostIP": "192.0.2.1", "podIPs": [{ "ip": "10.0.0.7" }],
            "containerStatuses": [{ "name": "web", "containerID": format!("containerd://{}", "b3a7".repeat(16)) }] } });
    let service = json!({ "metadata": { "name": "web", "namespace": "shop" }, "spec": {
        "clusterIPs": ["10.96.0.7"], "externalIPs": ["203.0.113.7"], "externalName": "db.example.com",
        "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080 }] },
        "status": { "loadBalancer": { "ingress": [{ "ip": "198.51.100.1" }] } } });
    let slice = json!({ "metadata": { "name": "web-x", "namespace": "shop",
        "labels": { "kubernetes.io/service-name": "web" } }, "ports": [{ "port": 8080 }],
        "endpoints": [{ "addresses": ["10.0.0.7"], "conditions": { "ready": true }, "nodeName": "n1",
            "targetRef": { "kind": "Pod", "namespace": "shop", "name": "web-7f9c-x", "uid": "u" } }] });
    let mut seeds: Seeds = Vec::new();
    for (n, object) in (0_u8..).zip([&pod, &service, &slice]) {
        let line = |kind: &str, object: &serde_json::Value| {
            format!("{}\n", json!({ "type": kind, "object": object }))
        };
        let end = json!({ "metadata": { "resourceVersion": "13",
            "annotations": { "k8s.io/initial-events-end": "true" } } });
        let error =
            json!({ "code": 410, "reason": "Expired", "details": { "retryAfterSeconds": 1 } });
        let watch = line("ADDED", object)
            + &line("MODIFIED", object)
            + &line("BOOKMARK", &end)
            + &line("DELETED", object)
            + &line("ERROR", &error);
        let list = json!({ "kind": "List", "metadata": { "continue": "x" }, "items": [object, {}, object] });
        seeds.push(named(format!("watch-{n}"), [&[n << 2, 60], watch.as_bytes()].concat()));
        seeds.push(named(
            format!("list-{n}"),
            [&[n << 2 | 1, 20], list.to_string().as_bytes()].concat(),
        ));
    }
    let list = json!({ "kind": "PodList", "items": [pod] }).to_string();
    seeds.push(named("kubelet", [&[2, 0], list.as_bytes()].concat()));
    seeds.push(named("runtime", [&[3, 0], &runtime()[..]].concat()));
    seeds
}

/// Three protobuf messages, each behind its length.
fn runtime() -> Vec<u8> {
    let field = |tag: u8, value: &[u8]| {
        [&[tag << 3 | 2, u8::try_from(value.len()).unwrap()], value].concat()
    };
    let (id, uid) = ("b3a7".repeat(16), b"4d2e7b1a-9c3f-4e5d-8a6b-1c2d3e4f5a6b");
    let long = |tag: u8, value: Vec<u8>| {
        let len = u16::try_from(value.len()).unwrap();
        [&[tag << 3 | 2, (len & 0x7f) as u8 | 0x80, (len >> 7) as u8], &value[..]].concat()
    };
    let meta = [field(1, b"web"), field(2, uid), field(3, b"shop")].concat();
    let label = [field(1, b"app"), field(2, b"web")].concat();
    let sandbox = [field(1, id.as_bytes()), field(2, &meta), field(5, &label)].concat();
    let other = "c0de".repeat(16);
    let container =
        [field(1, other.as_bytes()), field(2, id.as_bytes()), field(3, &field(1, b"app"))].concat();
    let network = [field(1, b"10.0.0.7"), field(2, &field(1, b"fd00::7"))].concat();
    let linux = field(1, &field(2, &[8, 2]));
    let status = field(1, &[field(5, &network), field(6, &linux)].concat());
    [long(1, sandbox), long(1, container), status]
        .iter()
        .flat_map(|part| [&u16::try_from(part.len()).unwrap().to_le_bytes()[..], part].concat())
        .collect()
}

fn contexts() -> Seeds {
    let kinds: Vec<RecordKind> =
        RecordKind::ALL.into_iter().filter(|kind| kind.is_context()).collect();
    let mut seen = std::collections::BTreeSet::new();
    let stories = scenarios::story(true).into_iter().chain(scenarios::loss_in_between());
    let all = stories.chain(marked()).filter(|record| record.kind.is_context());
    all.filter(|record| seen.insert(record.body.clone()))
        .take(40)
        .enumerate()
        .map(|(n, record)| {
            let kind = kinds.iter().position(|kind| *kind == record.kind).unwrap();
            named(n, [&[u8::try_from(kind).unwrap()], &record.body[..]].concat())
        })
        .collect()
}

fn filters() -> Seeds {
    [
        "type == 'finding' && cost_ns > 1000000000 && code != 'search-expansion'",
        "identity.pod.startsWith('cli') || args.question.matches('^web[.]')",
        "has(args.answers) && args.answers.exists(a, a.type == 'A' && a.ttl < 30)",
        "kind == 'dns' ? direction in ['in', 'out'] : n * 2 + 1 > 10.5",
        "attempts.map(a, a.duration_ns / 1000).filter(n, n > 5u).size() > 0",
        "!(name == null) && transactions[0].answers == ['10.0.0.1', \"\\u00e9\"]",
        "duration_ns % 0 == 1 || -duration_ns < 9223372036854775807",
    ]
    .into_iter()
    .enumerate()
    .map(|(n, text)| named(n, text.as_bytes().to_vec()))
    .collect()
}

fn pipeline() -> Seeds {
    (0_u8..)
        .zip(scenarios::all())
        .map(|(n, (name, records))| {
            let all = [&[7 | n << 3], &stream::encode(&records)[..]].concat();
            named(name, all)
        })
        .collect()
}

/// Names that must not come through the redactor, wherever one can stand.
fn marked() -> Vec<Record> {
    let name = format!("{MARK}.{MARK}-shop.svc.{MARK}.local");
    let process = Process::target(100, MARK, 1);
    let socket = process.socket(1, "10.0.0.1:40000", "10.96.0.10:53");
    let conf = context::ResolvConf {
        cgroup: Some(1),
        path: format!("/{MARK}/resolv.conf"),
        text: Some(format!("search {MARK}.local\n# {MARK}\nnameserver 10.96.0.10\n")),
        ..context::ResolvConf::default()
    };
    let pod = context::Pod {
        uid: "4d2e7b1a-9c3f-4e5d-8a6b-1c2d3e4f5a6b".to_owned(),
        namespace: format!("{MARK}-shop"),
        name: MARK.to_owned(),
        labels: [(MARK.to_owned(), MARK.to_owned())].into(),
        owner: Some(format!("Deployment/{MARK}")),
        ips: vec!["10.0.0.1".parse().unwrap()],
        ..context::Pod::default()
    };
    let service = context::Service {
        namespace: MARK.to_owned(),
        name: MARK.to_owned(),
        cluster_ips: vec!["10.96.0.10".parse().unwrap()],
        external_name: Some(format!("{MARK}.example.com")),
        ..context::Service::default()
    };
    let cgroup = context::Cgroup { id: 1, path: format!("/{MARK}.slice/{MARK}.scope") };
    let unit = context::Process {
        pid: 100,
        comm: MARK.to_owned(),
        exe: Some(format!("/{MARK}")),
        ..Default::default()
    };
    let mut stream = Stream::default();
    stream
        .add([
            fact(RecordKind::Cgroup, &cgroup),
            fact(RecordKind::Pod, &pod),
            fact(RecordKind::Service, &service),
            fact(RecordKind::ResolvConf, &conf),
            fact(RecordKind::Process, &unit),
            connect(&socket).at_ms(0.5),
            query(&socket, 1, &name, "A").at_ms(1.0),
            response(&socket, 1, &name, "A", 3, &[]).at_ms(2.0),
            query(&socket, 2, format!("{MARK}.example"), "AAAA").at_ms(3.0),
            close(&socket).at_ms(5004.0),
        ])
        .beat_until_ms(6000);
    stream.records()
}
