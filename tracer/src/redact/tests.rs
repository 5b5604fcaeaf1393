//! Records of every kind and messages of every shape through the redactor: what is concluded from
//! them stays, what they name goes.

use bytes::BufMut as _;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::EdnsOption;
use hickory_proto::rr::rdata::svcb::{Alpn, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{
    A, CAA, CNAME, HINFO, MX, NAPTR, NS, NULL, PTR, SOA, SRV, SVCB, TXT,
};
use hickory_proto::rr::{Name, RData, Record as Resource, RecordType};
use proptest::prelude::*;

use super::*;
use crate::context::*;
use crate::decode::{self, Decoder};
use crate::event::Body;
use crate::record::Timestamp;

/// In every text that must not come through.
const MARK: &str = "zqmarker";

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// A response with every kind of data that we take apart.
fn response() -> Vec<u8> {
    let mut message = Message::response(4711, OpCode::Query);
    let owner = name("wWw-zQmarker.Shop.Example.Org.");
    message.add_query(Query::query(owner.clone(), RecordType::A));
    let other = name("zqmarker-2.shop.example.org.");
    let text = |n: u8| format!("{MARK}-{n}").into_bytes();
    let svcb = || {
        let alpn = Alpn(vec!["h2".into(), MARK.into()]);
        let unknown = hickory_proto::rr::rdata::svcb::Unknown(text(1));
        SVCB::new(
            1,
            other.clone(),
            vec![
                (SvcParamKey::Alpn, SvcParamValue::Alpn(alpn)),
                (SvcParamKey::Key(700), SvcParamValue::Unknown(unknown)),
            ],
        )
    };
    for data in [
        RData::CNAME(CNAME(other.clone())),
        RData::A(A::new(192, 0, 2, 7)),
        RData::NS(NS(other.clone())),
        RData::PTR(PTR(other.clone())),
        RData::MX(MX::new(10, other.clone())),
        RData::SOA(SOA::new(other.clone(), name("zqmarker.mail.example."), 1, 2, 3, 4, 5)),
        RData::SRV(SRV::new(1, 2, 80, other.clone())),
        RData::TXT(TXT::from_bytes(vec![&text(2), b"", &text(3)])),
        RData::HINFO(HINFO::new(MARK.into(), MARK.into())),
        RData::NAPTR(NAPTR::new(
            1,
            2,
            b"S"[..].into(),
            text(4).into(),
            text(5).into(),
            other.clone(),
        )),
        RData::CAA(CAA::new_issue(false, Some(name("zqmarker.example.")), vec![])),
        RData::SVCB(svcb()),
        RData::Unknown { code: RecordType::Unknown(65_333), rdata: NULL::with(text(6)) },
    ] {
        message.add_answer(Resource::from_rdata(owner.clone(), 30, data));
    }
    let mut edns = Edns::new();
    for code in [3, 10, 15, 65_001] {
        edns.options_mut().insert(EdnsOption::Unknown(code, text(7)));
    }
    message.set_edns(edns);
    message.metadata.response_code = ResponseCode::BADVERS;
    message.to_vec().unwrap()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text.as_bytes()))
}

fn pseudonyms() -> Pseudonyms {
    Pseudonyms::new(b"key")
}

#[test]
fn a_message_loses_its_names_and_nothing_else() {
    let mut names = pseudonyms();
    let original = response();
    assert!(holds(&original, MARK));
    let (redacted, whole) = dns::message(&original, &mut names);
    assert!(whole && !holds(&redacted, MARK) && !holds(&redacted, "shop"));
    let (before, after) =
        (decode::dns::message(&original, false), decode::dns::message(&redacted, false));
    assert_eq!(before.undecoded, None);
    assert_eq!(after.undecoded, None);
    assert_eq!((after.id, after.rcode, after.edns), (4711, 16, true));
    let types = |message: &crate::event::Message| {
        message.answers.iter().map(|a| (a.rtype.clone(), a.ttl)).collect::<Vec<_>>()
    };
    assert_eq!(types(&before), types(&after));
    assert_eq!(after.answers[1].data, "192.0.2.7");
    for (before, after) in before.answers.iter().zip(&after.answers) {
        assert_eq!(after.name, names.name(&before.name));
        if matches!(&*before.rtype, "CNAME" | "NS" | "PTR") {
            assert_eq!(after.data, names.name(&before.data));
        }
    }
    assert_eq!(after.question.unwrap().name, names.name("wWw-zQmarker.Shop.Example.Org"));
    assert!(after.answers[6].data.starts_with("1 2 80 "), "{}", after.answers[6].data);
}

#[test]
fn a_cut_message_stays_cut_at_the_same_place() {
    let mut names = pseudonyms();
    let original = response();
    for len in 0..original.len() {
        for cut in [true, false] {
            let before = decode::dns::message(&original[..len], cut);
            let (redacted, whole) = dns::message(&original[..len], &mut names);
            let after = decode::dns::message(&redacted, cut);
            assert!(!whole && !holds(&redacted, MARK), "{len}");
            assert_eq!(before.undecoded, after.undecoded, "{len}");
            assert_eq!(before.answers.len(), after.answers.len(), "{len}");
            assert_eq!(
                before.question.map(|q| names.name(&q.name)),
                after.question.map(|q| q.name)
            );
        }
    }
}

/// Pointers into data, labels shared by names, reverse names.
#[test]
fn pointers_lead_to_the_same_names() {
    let mut bytes = vec![0, 1, 0x81, 0x80, 0, 1, 0, 2, 0, 0, 0, 0];
    bytes.extend(b"\x0210\x03244\x07in-addr\x04arpa\0\0\x0c\0\x01");
    // The target stands in unknown data; the next record's name points into it.
    bytes.extend(b"\xc0\x0c\xff\x01\0\x01\0\0\0\x09\0\x0a");
    let target = u8::try_from(bytes.len()).unwrap();
    bytes.extend(b"\x08zqmarker\0");
    bytes.extend([0xc0, target]);
    bytes.extend(b"\0\x0c\0\x01\0\0\0\x09\0\x0b\x08ZQmarker\xc0\x13");
    let before = decode::dns::message(&bytes, false);
    assert_eq!(before.answers[1].name, MARK);
    let mut names = pseudonyms();
    let (redacted, whole) = dns::message(&bytes, &mut names);
    let after = decode::dns::message(&redacted, false);
    assert!(whole && !holds(&redacted, MARK));
    assert_eq!(after.question.unwrap().name, "10.244.in-addr.arpa");
    assert_eq!(after.answers[1].name, names.name(MARK));
    assert_eq!(before.answers[1].data, "ZQmarker.in-addr.arpa");
    assert_eq!(after.answers[1].data.to_lowercase(), names.name("zqmarker.in-addr.arpa"));
}

/// Found by fuzzing: the name of the second answer lies in the header, that of the third across the
/// first one's type, time and length.
#[test]
fn names_that_point_at_numbers_do_not_change_them() {
    let mut bytes = b"\x03\x07\x85\x80\0\x01\0\x03\0\0\0\0\x01a\0\0\x01\0\x01".to_vec();
    let first = u8::try_from(bytes.len()).unwrap();
    bytes.extend(b"\xc0\x0c\0\x01\0\x01\x09\0\0\x09\0\x04\x0a\0\0\x07");
    bytes.extend(b"\xc0\x01\0\x01\0\x01\0\0\0\x09\0\x04\x0a\0\0\x08");
    bytes.extend([0xc0, first + 6]);
    bytes.extend(b"\0\x01\0\x01\0\0\0\x09\0\x04\x0a\0\0\x09");
    let before = decode::dns::message(&bytes, false);
    assert_eq!((before.answers.len(), before.undecoded.clone()), (3, None));
    let (redacted, whole) = dns::message(&bytes, &mut pseudonyms());
    let after = decode::dns::message(&redacted, false);
    assert!(whole);
    assert_eq!(
        (before.id, before.rcode, before.truncated),
        (after.id, after.rcode, after.truncated)
    );
    let data = |message: &crate::event::Message| {
        message.answers.iter().map(|a| (a.ttl, a.data.clone())).collect::<Vec<_>>()
    };
    assert_eq!(data(&before), data(&after));
    assert_ne!(before.question, after.question);
}

fn packet_record(packet: &[u8], original: usize) -> Record {
    let mut body = vec![bodies::DIRECTION_OUT, 4, 17, bodies::role::TARGET];
    body.put_u16_ne(bodies::PACKET_DNS);
    body.put_u16_ne(20);
    body.put_u32_ne(u32::try_from(original).unwrap());
    body.put_u32_ne(u32::try_from(packet.len()).unwrap());
    body.put_bytes(0, 8);
    body.extend(packet);
    Record::bare(1, Timestamp(1), RecordKind::Packet, body)
}

fn bytes_of(record: &Record) -> &[u8] {
    &record.body[size_of::<bodies::Packet>()..]
}

fn checksum_is_right(packet: &[u8]) -> bool {
    let sliced = SlicedPacket::from_ip(packet).unwrap();
    match (sliced.net.unwrap(), sliced.transport.unwrap()) {
        (NetSlice::Ipv4(ip), TransportSlice::Udp(udp)) => {
            let header = ip.header().to_header();
            udp.to_header().calc_checksum_ipv4(&header, udp.payload()).unwrap() == udp.checksum()
        }
        (NetSlice::Ipv6(ip), TransportSlice::Udp(udp)) => {
            let header = ip.header().to_header();
            udp.to_header().calc_checksum_ipv6(&header, udp.payload()).unwrap() == udp.checksum()
        }
        (NetSlice::Ipv4(ip), TransportSlice::Tcp(tcp)) => {
            tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination()).unwrap()
                == tcp.checksum()
        }
        _ => false,
    }
}

#[test]
fn checksums_stay_right() {
    let mut redactor = Redactor::new(b"key");
    let message = response();
    for len in [0, 1, 13, message.len() - 1, message.len()] {
        let (mut four, mut six, mut stream) = (Vec::new(), Vec::new(), Vec::new());
        let v4 = || PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        v4().udp(9, 53).write(&mut four, &message[..len]).unwrap();
        PacketBuilder::ipv6([1; 16], [2; 16], 64)
            .udp(9, 53)
            .write(&mut six, &message[..len])
            .unwrap();
        let framed =
            [&u16::try_from(message.len()).unwrap().to_be_bytes(), &message[..len]].concat();
        v4().tcp(9, 53, 7, 100).write(&mut stream, &framed).unwrap();
        for packet in [four, six, stream] {
            assert!(checksum_is_right(&packet));
            let redacted = redactor.record(&packet_record(&packet, packet.len()));
            let bytes = bytes_of(&redacted);
            assert!(checksum_is_right(bytes) && bytes.len() == packet.len(), "{len}");
            assert!(!holds(bytes, MARK), "{len}");
        }
    }
    let mut stream = Vec::new();
    let framed = [&u16::try_from(message.len()).unwrap().to_be_bytes(), &*message].concat();
    PacketBuilder::ipv4([1; 4], [2; 4], 9).tcp(9, 53, 7, 9).write(&mut stream, &framed).unwrap();
    let redacted = redactor.record(&packet_record(&stream, stream.len()));
    let read = decode::dns::message(&bytes_of(&redacted)[42..], false);
    assert_eq!((read.undecoded, read.id, read.answers.len()), (None, 4711, 13));
}

/// The query that an ICMP error quotes has no name any more; what the error says stays.
#[test]
fn quoted_queries_lose_their_names() {
    let head = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x08";
    let query = [&head[..], MARK.as_bytes(), b"\0\0\x01\0\x01"].concat();
    let mut quoted = Vec::new();
    let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(9, 53);
    builder.write(&mut quoted, &query).unwrap();
    let sum = |packet: &[u8]| {
        let words = packet[20..]
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from));
        let sum: u32 = words.sum();
        (sum & 0xffff) + (sum >> 16)
    };
    for len in [quoted.len(), quoted.len() - 3, 28, 9] {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 0, 9], [10, 0, 0, 1], 64);
        builder.icmpv4_raw(3, 13, [0; 4]).write(&mut packet, &quoted[..len]).unwrap();
        assert_eq!(sum(&packet), 0xffff);
        let record = packet_record(&packet, packet.len());
        let record = Record { kind: RecordKind::Wire, ..record };
        let redacted = Redactor::new(b"key").record(&record);
        let bytes = bytes_of(&redacted);
        assert!(bytes.len() == packet.len() && !holds(bytes, MARK), "{len}");
        assert_eq!(sum(bytes), 0xffff, "{len}");
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let told = Decoder::default().decode(&mut record.clone(), &mut before).is_ok();
        assert_eq!(Decoder::default().decode(&mut redacted.clone(), &mut after).is_ok(), told);
        assert_eq!(told, len >= 28, "{len}");
        if let (Some(before), Some(after)) = (before.first(), after.first()) {
            let (Body::Icmp(before), Body::Icmp(after)) = (&before.body, &after.body) else {
                panic!("{before:?} {after:?}");
            };
            assert_eq!((before.error, before.from), (after.error, after.from));
            assert_eq!(before.query.remote, after.query.remote);
        }
    }
}

#[test]
fn what_is_no_dns_becomes_zero() {
    let mut redactor = Redactor::new(b"key");
    let mut packet = Vec::new();
    let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(9, 9);
    builder.write(&mut packet, MARK.as_bytes()).unwrap();
    let mut record = packet_record(&packet, packet.len());
    let mut body = record.body.to_vec();
    body[4..6].fill(0); // not DNS
    body.extend(MARK.as_bytes()); // behind the packet
    record.body = body.into();
    let redacted = redactor.record(&record);
    assert!(!holds(&redacted.body, MARK) && checksum_is_right(bytes_of(&redacted)));
    let garbage = packet_record(MARK.as_bytes(), 8);
    assert!(!holds(&redactor.record(&garbage).body, MARK));
}

fn fact<T: Serialize>(kind: RecordKind, fact: &T) -> Record {
    Record::bare(1, Timestamp(1), kind, serde_json::to_vec(fact).unwrap())
}

fn front<const N: usize>(parts: [&[u8]; N]) -> Vec<u8> {
    parts.concat()
}

/// One record of each kind that can hold names, with the mark wherever one can stand.
fn marked() -> Vec<Record> {
    let mark = || MARK.to_owned();
    let some = || Some(mark());
    let dotted = || format!("{MARK}-a.svc.{MARK}.local");
    let path = || format!("/opt/{MARK}/bin/{MARK}.py");
    let unit = || format!("/system.slice/{MARK}.service/{MARK}-{}.scope", "ab".repeat(32));
    let text = || {
        format!(
            "# {MARK}\nsearch {0} {MARK}.corp #{MARK}\nnameserver 1.1.1.1\n;{MARK}\n{MARK} {MARK}\noptions {MARK}:1 ndots:5\n",
            dotted()
        )
    };
    let port = || Port { name: mark(), protocol: mark(), port: 80, node_port: None };
    let labels = || [(mark(), mark())].into();
    let container = Container { name: mark(), id: some() };
    let endpoint = Endpoint {
        addresses: vec![],
        ready: Some(true),
        pod: Some(format!("{MARK}/{MARK}")),
        pod_uid: some(),
        node: some(),
        ..Endpoint::default()
    };
    let kubelet = Kubelet {
        read_from: vec![path()],
        cluster_domain: Some(dotted()),
        cluster_dns: vec![],
        resolv_conf: Some(path()),
    };
    let host = Host {
        kubelet: Some(kubelet),
        node: some(),
        hostname: dotted(),
        kernel: format!("6.12.0-{MARK}"),
        ..Host::default()
    };
    let process = Process {
        comm: mark(),
        exe: Some(path()),
        cgroup_path: Some(unit()),
        ..Process::default()
    };
    let socket = Socket {
        cookie: 1,
        protocol: 17,
        local: "1.1.1.1:1".parse().unwrap(),
        remote: None,
        pid: None,
        comm: some(),
        fd: None,
        cgroup: None,
        net_ns: None,
    };
    let conf = ResolvConf {
        path: path(),
        text: Some(text()),
        error: Some(format!("no {MARK}")),
        ..ResolvConf::default()
    };
    let pod = Pod {
        uid: mark(),
        namespace: mark(),
        name: dotted(),
        node: some(),
        dns_policy: some(),
        dns_searches: vec![dotted()],
        labels: labels(),
        owner: Some(format!("{MARK}/{MARK}")),
        created: some(),
        containers: vec![container],
        ..Pod::default()
    };
    let service = Service {
        namespace: mark(),
        name: mark(),
        external_name: Some(dotted()),
        ports: vec![port()],
        labels: labels(),
        ..Service::default()
    };
    let slice = EndpointSlice {
        namespace: mark(),
        name: mark(),
        service: some(),
        ports: vec![port()],
        endpoints: vec![endpoint],
        deleted: false,
    };
    let len = |text: &str| u32::try_from(text.len()).unwrap().to_ne_bytes();
    let exec = front([&len(&path()), &[0; 4], path().as_bytes()]);
    let cgroup = front([&[7; 16], &len(&unit()), &[0; 4], unit().as_bytes()]);
    let args = format!("name={}\0fd=80\0{MARK}\0socket=1.1.1.1:1->2.2.2.2:2\0", path());
    let call = front([&[0; 18], &4u16.to_ne_bytes(), &len(&args), b"open", args.as_bytes()]);
    let message = response();
    let payload = front([
        &[2, 0, 1, 0],
        &[1; 16],
        &[2, 0, 53, 0],
        &[2; 16],
        &[17, 0, 0, 0],
        &u32::try_from(message.len()).unwrap().to_ne_bytes(),
        &u32::try_from(message.len()).unwrap().to_ne_bytes(),
        &message,
    ]);
    let bare = |kind, body: Vec<u8>| Record::bare(1, Timestamp(1), kind, body);
    let mut records = vec![
        fact(RecordKind::Host, &host),
        fact(RecordKind::Scope, &Scope { path: unit(), ..Scope::default() }),
        fact(RecordKind::Cgroup, &Cgroup { id: 3, path: unit() }),
        fact(RecordKind::Process, &process),
        fact(RecordKind::Socket, &socket),
        fact(RecordKind::ResolvConf, &conf),
        fact(RecordKind::NodeFile, &NodeFile { path: path(), text: text() }),
        fact(RecordKind::Pod, &pod),
        fact(RecordKind::Service, &service),
        fact(RecordKind::EndpointSlice, &slice),
        bare(RecordKind::Exec, exec),
        bare(RecordKind::CgroupMade, cgroup.clone()),
        bare(RecordKind::CgroupRemoved, cgroup),
        bare(RecordKind::Call, call),
        bare(RecordKind::Payload, payload),
        bare(RecordKind::Exit, MARK.into()),
        bare(RecordKind::Heartbeat, MARK.into()),
    ];
    for record in &mut records {
        record.task = Some(Task { pid: 1, tid: 1, comm: format!("{MARK}: 7") });
    }
    records
}

#[test]
fn no_kind_lets_a_name_through() {
    let mut redactor = Redactor::new(b"key");
    for record in marked() {
        let kind = record.kind;
        assert!(holds(&record.body, MARK), "{kind:?}");
        let redacted = redactor.record(&record);
        let shown = String::from_utf8_lossy(&redacted.body);
        assert!(!holds(&redacted.body, MARK), "{kind:?}: {shown}");
        assert!(!redacted.task.unwrap().comm.contains(MARK));
        let (mut before, mut after) = (Vec::new(), Vec::new());
        Decoder::default().decode(&mut record.clone(), &mut before).unwrap();
        let redacted = Record { task: None, ..redactor.record(&record) };
        Decoder::default().decode(&mut redacted.clone(), &mut after).unwrap();
        assert_eq!(before.len(), after.len(), "{kind:?}");
    }
    let made = redactor.record(&marked()[0]);
    assert_eq!(made, redactor.record(&marked()[0]));
    let host: Host = serde_json::from_slice(&made.body).unwrap();
    assert!(host.kernel.starts_with("6.12.0-"), "{}", host.kernel);
}

proptest! {
    #[test]
    fn any_body(kind in 0..RecordKind::ALL.len(), body in prop::collection::vec(any::<u8>(), 0..200)) {
        let record = Record::bare(1, Timestamp(1), RecordKind::ALL[kind], body);
        same_understanding(&record)?;
    }

    #[test]
    fn changed_bodies(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        value: u8,
    ) {
        let mut all = marked();
        let mut record = all.swap_remove(which.index(all.len()));
        let mut body = record.body.to_vec();
        let at = at.index(body.len());
        body[at] = value;
        record.body = body.into();
        same_understanding(&record)?;
    }

    #[test]
    fn any_packet(original in 0..300usize, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        same_understanding(&packet_record(&bytes, original))?;
    }

    #[test]
    fn changed_packets(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        len in any::<prop::sample::Index>(),
    ) {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(9, 53);
        builder.write(&mut packet, &response()).unwrap();
        for (at, value) in changes {
            let at = at.index(packet.len());
            packet[at] = value;
        }
        let whole = packet.len();
        packet.truncate(len.index(whole + 1));
        let record = packet_record(&packet, whole);
        let redacted = Redactor::new(b"key").record(&record);
        prop_assert_eq!(redacted.body.len(), record.body.len());
        same_understanding(&record)?;
    }

    #[test]
    fn any_message(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let (redacted, _) = dns::message(&bytes, &mut pseudonyms());
        prop_assert_eq!(redacted.len(), bytes.len());
    }

    /// Random data under every record type, inside a well-formed frame.
    #[test]
    fn any_data(rtype in 0u16..260, data in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut bytes = vec![0, 1, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, b'a', 0];
        bytes.extend(rtype.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 9]);
        bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend(data);
        let (redacted, whole) = dns::message(&bytes, &mut pseudonyms());
        prop_assert!(whole);
        prop_assert_eq!(redacted.len(), bytes.len());
    }
}

/// A record is as understandable as it was, and twice the same.
fn same_understanding(record: &Record) -> Result<(), TestCaseError> {
    let mut redactor = Redactor::new(b"key");
    let redacted = redactor.record(record);
    prop_assert_eq!(&redactor.record(record), &redacted);
    let count = |record: &Record| {
        let mut events = Vec::new();
        Decoder::default().decode(&mut record.clone(), &mut events).map(|()| events.len()).ok()
    };
    prop_assert_eq!(count(record), count(&redacted));
    Ok(())
}
