//! A small scap file made by hand: a client that reads resolv.conf, makes a DNS socket, asks and is
//! answered, in blocks of several versions. Says less than the format can.

mod file;

use file::{File, ID, ends, n, w};

/// Block types: processes of version 6, events of three versions.
const PROCESSES: (u32, u8) = (0x212, 6);
const EVENT: u32 = 0x204;
const EVENT_V2: u32 = 0x216;
const EVENT_V2_LARGE: u32 = 0x221;
/// Times of events are far apart enough for a timeout.
const STEP_NS: u64 = 700_000_000;
const THREAD: i64 = 10;

/// The file, with `query` and `response` as what the socket carries.
pub fn story(query: &[u8], response: &[u8]) -> Vec<u8> {
    let mut file = File::new();
    file.processes(PROCESSES, &[(THREAD, THREAD, "curl")]);
    let mut events = 0;
    let mut event = |kind, number, parameters: &[&[u8]]| {
        file.event(kind, events * STEP_NS, THREAD, number, parameters);
        events += 1;
    };
    // open, read and close of resolv.conf
    event(EVENT, 3, &[&n(4), b"/etc/resolv.conf\0", &w(1), &w(0)]);
    event(EVENT_V2, 6, &[&n(4), &w(99)]);
    event(EVENT_V2, 7, &[&n(27), b"nameserver 10.0.2.15\nsearch x\n"]);
    event(EVENT, 4, &[&n(4)]);
    // socket, connect
    event(EVENT, 18, &[&w(2), &w(2), &w(0)]);
    event(EVENT, 19, &[&n(3)]);
    event(EVENT_V2, 22, &[&n(3)]);
    event(EVENT_V2, 23, &[&n(0), &ends("172.17.0.7:4000", "10.0.2.15:53")]);
    // write, then read on the socket
    let len = |message: &[u8]| i64::try_from(message.len()).unwrap();
    event(EVENT, 8, &[&n(3), &w(u32::try_from(query.len()).unwrap())]);
    event(EVENT, 9, &[&n(len(query)), query]);
    event(EVENT, 6, &[&n(3), &w(2048)]);
    event(EVENT_V2_LARGE, 7, &[&n(len(response)), response]);
    // what a container is
    let id = &ID[..12];
    let json = format!("{{\"container\":{{\"id\":\"{id}\",\"name\":\"k8s_a.1_b_c_d_2\"}}}}\0");
    event(EVENT_V2_LARGE, 324, &[json.as_bytes()]);
    event(EVENT, 186, &[&n(0)]);
    file.0
}
