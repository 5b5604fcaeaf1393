//! A small scap file made by hand: a client that reads resolv.conf, makes a DNS socket, asks and is
//! answered, in blocks of several versions. Says less than the format can.

use std::net::SocketAddr;

/// Block types: section, machine, processes of version 6, events of three versions.
const SECTION: u32 = 0x0a0d_0d0a;
const MACHINE: u32 = 0x201;
const PROCESSES: u32 = 0x212;
const EVENT: u32 = 0x204;
const EVENT_V2: u32 = 0x216;
const EVENT_V2_LARGE: u32 = 0x221;
const START_NS: u64 = 1_481_211_698_000_000_000;
/// Times of events are far apart enough for a timeout.
const STEP_NS: u64 = 700_000_000;
const THREAD: i64 = 10;

/// Blocks one behind the other.
#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    events: u64,
}

impl File {
    fn block(&mut self, kind: u32, body: &[u8]) {
        let len = u32::try_from(body.len().next_multiple_of(4) + 12).unwrap();
        let end = self.bytes.len() + len as usize;
        self.bytes.extend([kind.to_le_bytes(), len.to_le_bytes()].concat());
        self.bytes.extend(body);
        self.bytes.resize(end - 4, 0);
        self.bytes.extend(len.to_le_bytes());
    }

    fn head(&mut self) {
        let mut section = 0x1a2b_3c4d_u32.to_le_bytes().to_vec();
        section.extend([1, 0, 2, 0]);
        section.extend([0xff; 8]);
        self.block(SECTION, &section);
        let mut machine = 2_u32.to_le_bytes().to_vec();
        machine.extend([0; 16]);
        machine.extend(b"host-1");
        machine.resize(180, 0);
        self.block(MACHINE, &machine);
    }

    /// One thread, in a container.
    fn process(&mut self, comm: &str) {
        let mut entry = Vec::new();
        for number in [THREAD, THREAD, 1, 7] {
            entry.extend(number.to_le_bytes());
        }
        for part in [comm.as_bytes(), b"/usr/bin/exe", b"--flag\0", b"/"] {
            entry.extend(text(part));
        }
        entry.extend(1024_i64.to_le_bytes());
        entry.extend([0; 12 + 28]);
        entry.extend(text(b"HOME=/\0"));
        entry.extend([THREAD.to_le_bytes(), THREAD.to_le_bytes()].concat());
        entry.extend(text(format!("cpu=/docker/{}\0memory=/\0", "b3a7".repeat(16)).as_bytes()));
        entry.extend(text(b"/"));
        self.block(PROCESSES, &entry);
    }

    fn event(&mut self, kind: u32, event: u16, parameters: &[&[u8]]) {
        let (old, large) = (kind == EVENT, kind == EVENT_V2_LARGE);
        let mut rest = Vec::new();
        for parameter in parameters {
            let len = u32::try_from(parameter.len()).unwrap().to_le_bytes();
            rest.extend(&len[..if large { 4 } else { 2 }]);
        }
        rest.extend(parameters.concat());
        let mut body = 1_u16.to_le_bytes().to_vec();
        body.extend((START_NS + self.events * STEP_NS).to_le_bytes());
        body.extend(THREAD.to_le_bytes());
        let head = if old { 22 } else { 26 };
        body.extend(u32::try_from(head + rest.len()).unwrap().to_le_bytes());
        body.extend(event.to_le_bytes());
        if !old {
            body.extend(u32::try_from(parameters.len()).unwrap().to_le_bytes());
        }
        body.extend(rest);
        self.events += 1;
        self.block(kind, &body);
    }
}

fn text(text: &[u8]) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_le_bytes(), text].concat()
}

fn ends(from: &str, to: &str) -> Vec<u8> {
    let mut bytes = vec![2];
    for end in [from, to] {
        let SocketAddr::V4(end) = end.parse().unwrap() else { panic!("IPv4 only") };
        bytes.extend(end.ip().octets());
        bytes.extend(end.port().to_le_bytes());
    }
    bytes
}

/// The file, with `query` and `response` as what the socket carries.
pub fn story(query: &[u8], response: &[u8]) -> Vec<u8> {
    let n = |number: i64| number.to_le_bytes();
    let w = |number: u32| number.to_le_bytes();
    let mut file = File::default();
    file.head();
    file.process("curl");
    // open, read and close of resolv.conf
    file.event(EVENT, 3, &[&n(4), b"/etc/resolv.conf\0", &w(1), &w(0)]);
    file.event(EVENT_V2, 6, &[&n(4), &w(99)]);
    file.event(EVENT_V2, 7, &[&n(27), b"nameserver 10.0.2.15\nsearch x\n"]);
    file.event(EVENT, 4, &[&n(4)]);
    // socket, connect
    file.event(EVENT, 18, &[&w(2), &w(2), &w(0)]);
    file.event(EVENT, 19, &[&n(3)]);
    file.event(EVENT_V2, 22, &[&n(3)]);
    file.event(EVENT_V2, 23, &[&n(0), &ends("172.17.0.7:4000", "10.0.2.15:53")]);
    // write, then read on the socket
    let len = |message: &[u8]| i64::try_from(message.len()).unwrap();
    file.event(EVENT, 8, &[&n(3), &w(u32::try_from(query.len()).unwrap())]);
    file.event(EVENT, 9, &[&n(len(query)), query]);
    file.event(EVENT, 6, &[&n(3), &w(2048)]);
    file.event(EVENT_V2_LARGE, 7, &[&n(len(response)), response]);
    // what a container is
    let json = format!(
        "{{\"container\":{{\"id\":\"b3a7b3a7b3a7\",\"name\":\"k8s_{}\"}}}}\0",
        "a.1_b_c_d_2"
    );
    file.event(EVENT_V2_LARGE, 324, &[json.as_bytes()]);
    file.event(EVENT, 186, &[&n(0)]);
    file.bytes
}
