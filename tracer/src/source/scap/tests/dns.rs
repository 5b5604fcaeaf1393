//! DNS in all the ways files of different ages tell of it, and what they do not tell.

use std::net::SocketAddr;

use super::*;
use crate::context::{Loss, LossStage};
use crate::event::Protocol;

fn losses(records: &[Record]) -> Vec<(u64, String)> {
    let losses = records.iter().filter(|r| r.kind == RecordKind::Loss);
    let loss = |r: &Record| {
        let loss: Loss = serde_json::from_slice(&r.body).unwrap();
        assert_eq!((loss.stage, loss.count), (LossStage::Payload, 1));
        (r.number, loss.source)
    };
    losses.map(loss).collect()
}

fn size(bytes: &[u8]) -> [u8; 8] {
    n(i64::try_from(bytes.len()).unwrap())
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

/// A TCP socket towards a DNS server, and a resolver that accepts one.
fn streams(kind: u32) -> File {
    let mut file = File::new();
    file.processes((0x212, 6), &[(10, 10, "curl"), (20, 20, "coredns")]);
    let tuple = ends("172.17.0.7:4000", "10.0.2.15:53");
    file.event(kind, 0, 10, 18, &[&w(2), &w(1), &w(0)]);
    file.event(kind, 10, 10, 19, &[&n(3)]);
    file.event(kind, 20, 10, 22, &[&n(3)]);
    file.event(kind, 30, 10, 23, &[&n(0), &tuple]);
    file.event(kind, 40, 20, 248, &[&w(0)]);
    file.event(kind, 50, 20, 249, &[&n(8), &tuple, &[0]]);
    file
}

#[test]
fn over_tcp_whole_and_in_two_reads() {
    let mut file = streams(0x204);
    let (query, response) = (dns(7, false, "a.test", 1), dns(7, true, "a.test", 1));
    let (sent, back) = (framed(&query), framed(&response));
    file.event(0x204, 60, 10, 8, &[&n(3), &w(26)]);
    file.event(0x204, 70, 10, 9, &[&size(&sent), &sent]);
    for (at, part) in [(80, &sent[..2]), (90, &sent[2..])] {
        file.event(0x204, at, 20, 6, &[&n(8), &w(999)]);
        file.event(0x204, at + 5, 20, 7, &[&size(part), part]);
    }
    // The answer's end was not kept.
    file.event(0x204, 100, 10, 34, &[&n(3), &w(999)]);
    file.event(0x204, 110, 10, 35, &[&size(&back), &back[..20]]);
    file.event(0x204, 120, 10, 4, &[&n(3)]);
    let (records, end) = file.read();
    assert!(end.is_none());
    let told: Vec<_> = messages(&records)
        .into_iter()
        .map(|(r, d)| {
            assert_eq!((d.protocol, d.message.id), (Protocol::Tcp, 7));
            (r.number, d.direction, d.local.port(), d.message.response, r.cut)
        })
        .collect();
    use Direction::{In, Out};
    let want =
        [(8, Out, 4000, false, false), (12, In, 53, false, false), (14, In, 4000, true, true)];
    assert_eq!(told, want);
    assert!(losses(&records).is_empty());
    let closed = records.iter().find(|r| r.kind == RecordKind::SocketClosed).unwrap();
    assert_eq!(closed.number, 15);
}

#[test]
fn over_tcp_what_ends_inside_a_message_is_counted() {
    let mut file = streams(0x204);
    let sent = framed(&dns(7, false, "a.test", 1));
    file.event(0x204, 60, 10, 8, &[&n(3), &w(26)]);
    file.event(0x204, 70, 10, 9, &[&n(9), &sent[..9]]);
    file.event(0x204, 80, 10, 4, &[&n(3)]);
    let (records, _) = file.read();
    assert!(messages(&records).is_empty());
    assert_eq!(losses(&records), [(9, "DNS over TCP that ends inside a message".to_owned())]);
}

#[test]
fn writers_without_entries_say_all_at_the_return() {
    for (kind, wide) in
        [(0x216, true), (0x216, false), (0x217, true), (0x221, false), (0x222, true)]
    {
        let mut file = File::new();
        file.processes((0x215, 9), &[(10, 10, "curl")]);
        let fd = if wide { n(3).to_vec() } else { w(3).to_vec() };
        let (query, response) = (dns(7, false, "a.test", 1), dns(7, true, "a.test", 1));
        let server = [&[2, 10, 0, 2, 15][..], &53_u16.to_le_bytes()].concat();
        let out = ends("172.17.0.7:4000", "10.0.2.15:53");
        let back = ends("10.0.2.15:53", "172.17.0.7:4000");
        file.event(kind, 0, 10, 19, &[&fd, &w(2), &w(0x802), &w(0)]);
        file.event(kind, 10, 10, 23, &[&n(0), &out, &fd, &server]);
        file.event(kind, 20, 10, 31, &[&size(&query), &query, &fd, &w(24), &[]]);
        file.event(kind, 30, 10, 35, &[&size(&response), &response, &back, &fd, &w(2048)]);
        file.event(kind, 40, 10, 51, &[&size(&query), &fd, &w(24), &query, &out]);
        file.event(kind, 50, 10, 53, &[&size(&query), &w(99), &response, &back, &[], &fd]);
        file.event(kind, 60, 10, 55, &[&size(&query), &fd, &w(99), &response, &back, &[]]);
        file.event(kind, 70, 10, 5, &[&n(0), &fd]);
        let (records, end) = file.read();
        assert!(end.is_none(), "{end:?}");
        let told: Vec<_> = messages(&records)
            .into_iter()
            .map(|(r, d)| (r.number, d.direction, d.remote.to_string(), d.message.id))
            .collect();
        use Direction::{In, Out};
        let server = || "10.0.2.15:53".to_owned();
        let want = [(3, Out), (4, In), (5, Out), (6, In), (7, In)];
        assert_eq!(told, want.map(|(number, way)| (number, way, server(), 7)), "{kind:x} {wide}");
        assert_eq!(calls(&records)[0], (1, "socket".to_owned(), true, None, Some(3)));
        let closed = records.iter().find(|r| r.kind == RecordKind::SocketClosed).unwrap();
        assert_eq!(closed.number, 8);
    }
}

#[test]
fn a_query_that_nothing_tells_is_a_loss() {
    let mut file = client(0x204);
    file.event(0x204, 40, 10, 50, &[]);
    file.event(0x204, 50, 10, 51, &[]);
    file.event(0x204, 60, 10, 4, &[&n(3)]);
    let (records, _) = file.read();
    assert!(messages(&records).is_empty());
    assert_eq!(losses(&records), [(6, "sendmmsg without parameters".to_owned())]);
}

#[test]
fn what_a_silent_recvmmsg_took_is_not_silence() {
    let mut file = client(0x204);
    let query = dns(7, false, "a.test", 1);
    file.event(0x204, 40, 10, 30, &[&n(3), &w(24), &[]]);
    file.event(0x204, 50, 10, 31, &[&size(&query), &query]);
    file.event(0x204, 60, 10, 54, &[]);
    file.event(0x204, 70, 10, 55, &[]);
    file.event(0x204, 80, 10, 4, &[&n(3)]);
    // A process without such a socket loses nothing by it.
    file.event(0x204, 90, 20, 54, &[]);
    file.event(0x204, 95, 20, 55, &[]);
    let (records, _) = file.read();
    assert_eq!(losses(&records), [(8, "recvmmsg without parameters".to_owned())]);
    assert!(records.iter().all(|r| r.kind != RecordKind::SocketClosed));
}

#[test]
fn resolv_conf_as_musl_and_others_read_it() {
    let mut file = File::new();
    file.processes((0x212, 6), &[(10, 10, "sh")]);
    file.event(0x204, 0, 10, 3, &[&n(3), b"/etc/resolv.conf\0", &w(1), &w(0)]);
    file.event(0x204, 10, 10, 116, &[&n(3)]);
    file.event(0x204, 20, 10, 117, &[&n(7), &w(1024), b"search "]);
    file.event(0x204, 30, 10, 6, &[&n(3), &w(1024)]);
    file.event(0x204, 40, 10, 7, &[&n(2), b"x\n"]);
    // Cut by the snap length: not the file's text.
    file.event(0x204, 50, 10, 6, &[&n(3), &w(1024)]);
    file.event(0x204, 60, 10, 7, &[&n(500), b"y\n"]);
    let (records, _) = file.read();
    let texts: Vec<_> = bodies(&records)
        .into_iter()
        .filter_map(|(_, b)| if let Body::ResolvConf(c) = b { c.text } else { None })
        .collect();
    assert_eq!(texts, ["search ", "search x\n"]);
}

#[test]
fn datagrams_over_ipv6_and_mapped_ones() {
    let six = |end: &str| {
        let SocketAddr::V6(end) = end.parse().unwrap() else { panic!() };
        [&end.ip().octets()[..], &end.port().to_le_bytes()].concat()
    };
    for (from, to, want) in [
        ("[fd00::7]:4000", "[fd00::a]:53", ("[fd00::a]:53", "[fd00::7]:4000")),
        ("[::ffff:10.0.0.7]:4000", "[::]:53", ("0.0.0.0:53", "10.0.0.7:4000")),
    ] {
        let mut file = File::new();
        file.processes((0x212, 6), &[(20, 20, "coredns")]);
        let query = dns(7, false, "a.test", 1);
        let tuple = [&[10][..], &six(from), &six(to)].concat();
        file.event(0x204, 0, 20, 18, &[&w(10), &w(2), &w(0)]);
        file.event(0x204, 10, 20, 19, &[&n(6)]);
        file.event(0x204, 20, 20, 20, &[&n(6)]);
        let bound = [&[10][..], &six("[::]:53")].concat();
        file.event(0x204, 30, 20, 21, &[&n(0), &bound]);
        file.event(0x204, 40, 20, 52, &[&n(6)]);
        file.event(0x204, 50, 20, 53, &[&size(&query), &w(24), &query, &tuple]);
        let (records, _) = file.read();
        let [(record, got)] = &messages(&records)[..] else { panic!() };
        assert_eq!((got.local.to_string().as_str(), got.remote.to_string().as_str()), want);
        assert!(record.cookie.is_some());
    }
}
