//! Synthetic files of every block version: what they say, what damage costs, what never leaves.

mod damage;
mod dns;
// A file of the tests crate, which depends on this one.
#[path = "../../../../../tests/src/scap/file.rs"]
mod file;
mod hostile;
mod versions;

use std::io::Cursor;

use self::file::{File, ID, T0, ends, n, text, w};
use super::*;
use crate::decode::Decoder;
use crate::event::{Body, Direction, Dns};

const PROCESS_LISTS: [(u32, u8); 11] = [
    (0x202, 1),
    (0x8000_ABCD, 1),
    (0x207, 2),
    (0x209, 3),
    (0x8014_ABCD, 3),
    (0x210, 4),
    (0x211, 5),
    (0x212, 6),
    (0x213, 7),
    (0x214, 8),
    (0x215, 9),
];
const EVENTS: [u32; 7] = [0x204, 0x8010_ABCD, 0x208, 0x216, 0x217, 0x221, 0x222];
impl File {
    fn read(&self) -> (Vec<Record>, Option<CaptureError>) {
        read(self.0.clone())
    }
}

fn read(bytes: Vec<u8>) -> (Vec<Record>, Option<CaptureError>) {
    let (mut records, mut end) = (Vec::new(), None);
    match open(Box::new(Cursor::new(bytes))) {
        Ok(all) => {
            for record in all {
                assert!(end.is_none(), "the error comes last");
                match record {
                    Ok(record) => records.push(record),
                    Err(error) => end = Some(error),
                }
            }
        }
        Err(error) => end = Some(error),
    }
    assert!(records.windows(2).all(|pair| pair[0].number <= pair[1].number));
    (records, end)
}

fn bodies(records: &[Record]) -> Vec<(Record, Body)> {
    let mut decoder = Decoder::default();
    let mut all = Vec::new();
    for record in records {
        let mut events = Vec::new();
        decoder.decode(&mut record.clone(), &mut events).unwrap();
        all.extend(events.into_iter().map(|event| (record.clone(), event.body)));
    }
    all
}

/// Number, name, whether it is the return, descriptor, result.
type Line = (u64, String, bool, Option<i64>, Option<i64>);

fn calls(records: &[Record]) -> Vec<Line> {
    let call = |(record, body)| match (record, body) {
        (Record { number, .. }, Body::Call(side)) => {
            let name = String::from_utf8(side.name.to_vec()).unwrap();
            Some((number, name, side.exit, side.fd, side.result))
        }
        _ => None,
    };
    bodies(records).into_iter().filter_map(call).collect()
}

fn messages(records: &[Record]) -> Vec<(Record, Dns)> {
    let message = |(record, body)| match body {
        Body::Dns(dns) => Some((record, dns)),
        _ => None,
    };
    bodies(records).into_iter().filter_map(message).collect()
}

fn dns(id: u16, response: bool, name: &str, qtype: u8) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([if response { 0x81 } else { 0x01 }, if response { 0x83 } else { 0 }]);
    message.extend([0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap());
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, qtype, 0, 1]);
    message
}

/// A client that made and connected a DNS socket, in blocks of this kind.
fn client(kind: u32) -> File {
    let mut file = File::new();
    file.processes((0x212, 6), &[(10, 10, "curl"), (20, 20, "skydns")]);
    file.event(kind, 0, 10, 18, &[&w(2), &w(2), &w(0)]);
    file.event(kind, 10, 10, 19, &[&n(3)]);
    file.event(kind, 20, 10, 22, &[&n(3)]);
    file.event(kind, 30, 10, 23, &[&n(0), &ends("172.17.0.7:4000", "10.0.2.15:53")]);
    file
}

#[test]
fn every_version_says_the_same() {
    for list in PROCESS_LISTS {
        for kind in EVENTS {
            let mut file = File::new();
            file.processes(list, &[(10, 10, "curl"), (11, 10, "curl")]);
            file.event(kind, 0, 10, 6, &[&n(3), &w(100)]);
            file.event(kind, 1_000, 10, 7, &[&n(5), b"hello"]);
            let (records, end) = file.read();
            assert!(end.is_none(), "{list:x?} {kind:x}: {end:?}");
            let want = [
                (1, "read".to_owned(), false, Some(3), None),
                (2, "read".to_owned(), true, None, Some(5)),
            ];
            assert_eq!(calls(&records), want, "{list:x?} {kind:x}");
            let last = records.last().unwrap();
            assert_eq!((last.at.0, last.cpu), (T0 + 1_000, Some(1)));
            let task = last.task.as_ref().unwrap();
            assert_eq!((task.pid, task.tid, task.comm.as_str()), (10, 10, "curl"));
            assert_eq!(last.cgroup.is_some(), list.1 >= 4);
            for record in &records {
                let body = String::from_utf8_lossy(&record.body);
                for secret in ["SECRET", "hunter2", "hello"] {
                    assert!(!body.contains(secret), "{body}");
                }
            }
        }
    }
}

#[test]
fn hidden_events_keep_their_number() {
    let mut file = File::new();
    file.event(0x204, 0, 10, 4, &[&n(3)]);
    file.flagged(0x208, 1, 1, 10, 5, &[&n(0)]);
    file.event(0x204, 2, 10, 4, &[&n(4)]);
    let (records, _) = file.read();
    let numbers: Vec<u64> = calls(&records).into_iter().map(|call| call.0).collect();
    assert_eq!(numbers, [1, 3]);
}

#[test]
fn payloads_become_messages_and_cut_ones_say_so() {
    for kind in [0x204, 0x216] {
        let mut file = client(kind);
        let (query, response) = (dns(7, false, "a.test", 1), dns(7, true, "a.test", 1));
        let size = i64::try_from(query.len()).unwrap();
        file.event(kind, 40, 10, 30, &[&n(3), &w(24), &[]]);
        file.event(kind, 50, 10, 31, &[&n(size), &query]);
        file.event(kind, 60, 10, 34, &[&n(3), &w(2048)]);
        let tuple = ends("10.0.2.15:53", "172.17.0.7:4000");
        file.event(kind, 70, 10, 35, &[&n(size), &response[..20], &tuple]);
        file.event(kind, 80, 10, 4, &[&n(3)]);
        file.event(kind, 90, 10, 5, &[&n(0)]);
        let (records, end) = file.read();
        assert!(end.is_none());
        let all = messages(&records);
        let (out, sent) = &all[0];
        assert_eq!((out.number, out.cut, sent.direction), (6, false, Direction::Out));
        assert_eq!(
            (sent.local.to_string(), sent.remote.to_string()),
            ("172.17.0.7:4000".to_owned(), "10.0.2.15:53".to_owned())
        );
        assert_eq!(sent.message.question.as_ref().unwrap().name, "a.test");
        let (cut, got) = &all[1];
        assert_eq!((cut.number, cut.cut, got.direction), (8, true, Direction::In));
        assert_eq!(u64::from(got.original_len), query.len() as u64);
        let closed = records.iter().find(|r| r.kind == RecordKind::SocketClosed).unwrap();
        assert_eq!((closed.number, closed.cookie), (9, out.cookie));
    }
}

#[test]
fn invisible_queries_come_back_from_the_response() {
    let mut file = client(0x204);
    file.event(0x204, 40, 10, 50, &[]);
    let sent = 6;
    file.event(0x204, 50, 10, 51, &[]);
    file.event(0x204, 55, 99, 4, &[&n(1)]);
    for (at, id, qtype) in [(60, 7, 1), (70, 8, 28)] {
        let response = dns(id, true, "a.test", qtype);
        file.event(0x204, at, 10, 34, &[&n(3), &w(2048)]);
        let size = i64::try_from(response.len()).unwrap();
        let tuple = ends("10.0.2.15:53", "172.17.0.7:4000");
        file.event(0x204, at + 5, 10, 35, &[&n(size), &response, &tuple]);
    }
    let (records, end) = file.read();
    assert!(end.is_none());
    let recovered: Vec<_> = messages(&records)
        .into_iter()
        .filter(|(record, _)| record.probe == Some(tracer_common::record::probe::RECOVERED))
        .map(|(record, dns)| (record.number, dns.message.id, dns.message.question.unwrap().qtype))
        .collect();
    assert_eq!(recovered, [(sent, 7, "A".into()), (sent, 8, "AAAA".into())]);
}

#[test]
fn invisible_queries_come_back_from_the_resolver_and_wait_no_longer() {
    let mut file = client(0x204);
    file.event(0x204, 40, 10, 50, &[]);
    // Received before the sender's call returned; the call itself began before the capture.
    for (at, id, qtype) in [(45, 7, 1), (60, 8, 28)] {
        let query = dns(id, false, "a.test", qtype);
        let size = n(i64::try_from(query.len()).unwrap());
        let tuple = ends("172.17.0.7:4000", "10.0.2.15:53");
        file.event(0x204, at, 20, 53, &[&size, &w(24), &query, &tuple]);
        if id == 7 {
            file.event(0x204, 50, 10, 51, &[]);
        }
    }
    let (records, _) = file.read();
    let found = messages(&records);
    assert_eq!(
        found.iter().filter(|(r, d)| r.number == 7 && d.direction == Direction::Out).count(),
        2
    );
}

#[test]
fn connections_and_their_far_ends() {
    let mut file = File::new();
    file.processes((0x212, 6), &[(10, 10, "curl"), (30, 30, "nginx")]);
    file.event(0x216, 0, 10, 18, &[&w(2), &w(1), &w(6)]);
    file.event(0x216, 10, 10, 19, &[&n(3)]);
    file.event(0x216, 20, 10, 22, &[&n(3)]);
    file.event(0x216, 30, 10, 23, &[&n(-115), &ends("10.1.0.1:5000", "10.3.0.9:80")]);
    file.event(0x216, 40, 30, 248, &[&w(0)]);
    file.event(0x216, 50, 30, 249, &[&n(8), &ends("10.1.0.1:5000", "10.1.0.2:8080"), &[0]]);
    let ready = [&1_u16.to_le_bytes()[..], &n(3), &4_u16.to_le_bytes()].concat();
    file.event(0x216, 60, 10, 80, &[&ready, &n(0)]);
    file.event(0x216, 70, 10, 81, &[&n(1), &ready]);
    let (records, _) = file.read();
    let kinds: Vec<(u64, RecordKind)> = records
        .iter()
        .filter(|r| !r.kind.is_context() && r.kind != RecordKind::Call)
        .map(|r| (r.number, r.kind))
        .collect();
    use RecordKind::{SocketAddress, Syscall, TcpState};
    assert_eq!(
        kinds,
        [(4, SocketAddress), (4, TcpState), (4, Syscall), (6, TcpState), (8, TcpState)]
    );
}

#[test]
fn programs_pods_and_resolv_conf() {
    let mut file = File::new();
    file.processes((0x212, 6), &[(10, 10, "sh")]);
    let json = format!(
        "{{\"container\":{{\"id\":\"{}\",\"name\":\"k8s_web.1_client_shop_uid-1_2\",\"ip\":\"0.0.0.0\",\"env\":[\"SECRET=1\"]}}}}\n\0",
        &ID[..12]
    );
    file.event(0x221, 0, -1, 324, &[json.as_bytes()]);
    let exec: [&[u8]; 16] = [
        &n(0),
        b"/bin/curl\0",
        b"hunter2\0",
        &n(10),
        &n(10),
        &n(1),
        b"/\0",
        &n(1),
        &n(0),
        &n(0),
        &w(0),
        &w(0),
        &w(0),
        b"curl\0",
        b"",
        b"SECRET=1\0",
    ];
    file.event(0x204, 10, 10, 231, &exec);
    file.event(0x204, 20, 10, 3, &[&n(3), b"/etc/resolv.conf\0", &w(1), &w(0)]);
    file.event(0x204, 30, 10, 6, &[&n(3), &w(4096)]);
    file.event(0x204, 40, 10, 7, &[&n(9), b"search x\n"]);
    let (records, end) = file.read();
    assert!(end.is_none(), "{end:?}");
    let all = bodies(&records);
    let pod =
        all.iter().find_map(|(_, b)| if let Body::Pod(p) = b { Some(p) } else { None }).unwrap();
    assert_eq!((pod.namespace.as_str(), pod.name.as_str()), ("shop", "client"));
    assert_eq!(pod.containers[0].id.as_deref(), Some(ID));
    let conf =
        all.iter().find_map(|(_, b)| if let Body::ResolvConf(c) = b { Some(c) } else { None });
    assert_eq!(conf.unwrap().text.as_deref(), Some("search x\n"));
    let exec = records.iter().find(|r| r.kind == RecordKind::Exec).unwrap();
    assert_eq!(exec.task.as_ref().unwrap().comm, "curl");
    assert!(records.iter().all(|r| {
        let body = String::from_utf8_lossy(&r.body);
        !body.contains("SECRET") && !body.contains("hunter2")
    }));
}

#[test]
fn arguments_and_payload_only_if_asked() {
    let mut file = File::new();
    file.processes((0x212, 6), &[(10, 10, "sh")]);
    let mut exec = vec![n(0).to_vec(), b"/bin/curl\0".to_vec(), b"-u\0hunter2\0".to_vec()];
    exec.extend([n(10), n(10), n(1)].map(|number| number.to_vec()));
    exec.push(b"/\0".to_vec());
    exec.extend([vec![0; 8], vec![0; 8], vec![0; 8], vec![0; 4], vec![0; 4], vec![0; 4]]);
    exec.extend([b"curl\0".to_vec(), Vec::new(), b"SECRET=1\0".to_vec()]);
    let exec: Vec<&[u8]> = exec.iter().map(Vec::as_slice).collect();
    file.event(0x204, 10, 10, 231, &exec);
    file.event(0x204, 20, 10, 18, &[&w(2), &w(1), &w(0)]);
    file.event(0x204, 30, 10, 19, &[&n(3)]);
    file.event(0x204, 40, 10, 22, &[&n(3)]);
    file.event(0x204, 50, 10, 23, &[&n(0), &ends("172.17.0.7:4000", "10.3.0.214:80")]);
    file.event(0x204, 60, 10, 8, &[&n(3), &w(300)]);
    file.event(0x204, 70, 10, 9, &[&n(300), b"POST /login"]);
    let read = |keep_payload| {
        let options = Options { keep_payload, ..Options::default() };
        let records = open_with(Box::new(Cursor::new(file.0.clone())), &options).unwrap();
        records.map(Result::unwrap).collect::<Vec<_>>()
    };
    let (without, with) = (read(false), read(true));
    let has = |records: &[Record], text: &str| {
        records.iter().any(|r| String::from_utf8_lossy(&r.body).contains(text))
    };
    assert!(!has(&without, "hunter2") && !has(&without, "POST"));
    assert!(!has(&with, "SECRET"));
    let kept: Vec<_> = bodies(&with)
        .into_iter()
        .filter_map(|(r, b)| if let Body::Data(data) = b { Some((r.number, data)) } else { None })
        .collect();
    assert_eq!((kept[0].0, &kept[0].1.bytes[..]), (1, &b"-u\0hunter2\0"[..]));
    assert_eq!((kept[1].0, &kept[1].1.bytes[..]), (7, &b"POST /login"[..]));
    assert_eq!(kept[1].1.original_len, 300);
    let others: Vec<_> = with.into_iter().filter(|r| !r.kind.is_private()).collect();
    assert_eq!(others, without, "nothing else depends on it");
}

#[test]
fn ports_that_mean_dns_can_be_named() {
    let mut file = File::new();
    file.processes((0x212, 6), &[(10, 10, "curl")]);
    file.event(0x204, 0, 10, 18, &[&w(2), &w(2), &w(0)]);
    file.event(0x204, 10, 10, 19, &[&n(3)]);
    file.event(0x204, 20, 10, 22, &[&n(3)]);
    file.event(0x204, 30, 10, 23, &[&n(0), &ends("172.17.0.7:4000", "10.0.2.15:5353")]);
    let query = dns(7, false, "a.test", 1);
    file.event(0x204, 40, 10, 30, &[&n(3), &w(24), &[]]);
    file.event(0x204, 50, 10, 31, &[&n(24), &query]);
    for (ports, count) in [(vec![53], 0), (vec![53, 5353], 1)] {
        let options = Options { dns_ports: ports, ..Options::default() };
        let records = open_with(Box::new(Cursor::new(file.0.clone())), &options).unwrap();
        let records: Vec<_> = records.map(Result::unwrap).collect();
        assert_eq!(messages(&records).len(), count);
        let ports = bodies(&records).into_iter().find_map(|(_, body)| match body {
            Body::Host(host) => Some(host.dns_ports),
            _ => None,
        });
        assert_eq!(ports.unwrap(), options.dns_ports);
    }
}

#[test]
fn ended_threads_are_forgotten_although_their_last_switch_comes_later() {
    let mut file = File::new();
    for tid in 1..=100 {
        file.event(0x204, 1, tid, 2, &[]);
        file.event(0x204, 2, tid, 186, &[&n(0)]);
        file.event(0x204, 3, tid, 152, &[&n(1)]);
    }
    let mut blocks = Blocks::new(Box::new(Cursor::new(file.0))).unwrap();
    let mut engine = Engine::new(Options::default());
    while let Some(block) = blocks.next().unwrap() {
        engine.block(&block).unwrap();
    }
    assert_eq!(engine.number, 300);
    assert_eq!(engine.state.leaders().count(), 0);
}
