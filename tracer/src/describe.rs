//! An event and who is behind it as one line of the JSON contract. Draws no conclusions; layout for
//! people is the text sink's.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use nix::errno::Errno;
use serde::Serialize;
use serde_json::{Value, json};
use tracer_common::record::probe;

use crate::event::{
    AddressCall, Body, CallSide, Data, DataKind, Direction, Dns, Event, Icmp, Protocol,
    SocketAddress, SocketClosed, Syscall, Tcp, TcpChange, TcpState, extended_error_name,
};
use crate::identify::Identifier;
use crate::report::{EventLine, Ts};
use crate::text;

/// Version of the JSON contract.
const SCHEMA: u32 = 1;

type Args = BTreeMap<String, Value>;

/// What a kind of event adds to the line.
#[derive(Default)]
struct Parts {
    kind: Cow<'static, str>,
    direction: Option<&'static str>,
    result: Option<i64>,
    args: Args,
}

/// `event` with the identity known now.
pub fn event_line(event: &Event, who: &Identifier) -> EventLine {
    let parts = parts(event);
    EventLine {
        schema: SCHEMA,
        n: event.number,
        ts: Ts(event.at),
        cpu: event.cpu,
        identity: who.identity(&event.actor),
        kind: parts.kind.into_owned(),
        direction: parts.direction.map(str::to_owned),
        result: parts.result,
        errno: parts.result.and_then(errno_name),
        args: parts.args,
        payload: None,
    }
}

/// Adds the bytes of a DNS message or of kept data, in hex, as far as they were captured.
pub fn add_payload(event: &Event, line: &mut EventLine) {
    let bytes = match &event.body {
        Body::Dns(dns) | Body::Passing(dns) => &dns.payload,
        Body::Data(data) => &data.bytes,
        _ => return,
    };
    let mut hex = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(hex, "{byte:02x}"); // writing to a String cannot fail
    }
    line.payload = Some(hex);
}

/// Name of the error in a system call's result (`-111` is `ECONNREFUSED`); `None` without one.
pub fn errno_name(result: i64) -> Option<String> {
    let number = i32::try_from(result.checked_neg()?).ok().filter(|n| (1..4096).contains(n))?;
    Some(match number {
        // Never returned to programs, but seen by tracepoints when a signal interrupts a call.
        512 => "ERESTARTSYS".to_owned(),
        513 => "ERESTARTNOINTR".to_owned(),
        514 => "ERESTARTNOHAND".to_owned(),
        516 => "ERESTART_RESTARTBLOCK".to_owned(),
        _ => match Errno::from_raw(number) {
            Errno::UnknownErrno => format!("E{number}"),
            known => format!("{known:?}"),
        },
    })
}

/// The hook's name as loaders write it.
fn hook_name(number: u16) -> Option<&'static str> {
    Some(match number {
        probe::CONNECT4 => "cgroup/connect4",
        probe::CONNECT6 => "cgroup/connect6",
        probe::SENDMSG4 => "cgroup/sendmsg4",
        probe::SENDMSG6 => "cgroup/sendmsg6",
        probe::RECVMSG4 => "cgroup/recvmsg4",
        probe::RECVMSG6 => "cgroup/recvmsg6",
        _ => return None,
    })
}

fn parts(event: &Event) -> Parts {
    let plain = |kind: &'static str, args| Parts { kind: kind.into(), args, ..Parts::default() };
    let context = |kind, body: Value| plain(kind, object(body));
    match &event.body {
        Body::Syscall(call) => syscall(event, call),
        Body::SocketAddress(hook) => socket_address(event, hook),
        Body::SocketClosed(closed) => plain("close", socket_closed(closed)),
        Body::Dns(message) => Parts {
            kind: "dns".into(),
            direction: Some(direction(message.direction)),
            args: {
                let mut args = dns(message);
                if event.probe == Some(probe::RECOVERED) {
                    // Nobody saw it leave: told from the far side, or from its response.
                    args.insert("recovered".to_owned(), json!(true));
                }
                args
            },
            ..Parts::default()
        },
        Body::Passing(message) => Parts {
            kind: "wire".into(),
            direction: Some(direction(message.direction)),
            args: dns(message),
            ..Parts::default()
        },
        Body::Icmp(error) => Parts { direction: Some("in"), ..plain("icmp", icmp(error)) },
        Body::Tcp(packet) => Parts {
            kind: "tcp".into(),
            direction: Some(direction(packet.direction)),
            args: tcp(packet),
            ..Parts::default()
        },
        Body::TcpState(state) => plain("tcp-state", tcp_state(state)),
        Body::Exec { filename } => plain("exec", args([("filename", json!(filename))])),
        Body::Exit => plain("exit", Args::new()),
        Body::CgroupMade(cgroup) => context("cgroup-mkdir", value(cgroup)),
        Body::CgroupRemoved(cgroup) => context("cgroup-rmdir", value(cgroup)),
        Body::Call(side) => call_side(side),
        Body::Data(body) => data(body),
        Body::Host(body) => context("context-host", value(body)),
        Body::Heartbeat => plain("context-heartbeat", Args::new()),
        Body::Loss(body) => context("context-loss", value(body)),
        Body::Scope(body) => context("context-scope", value(body)),
        Body::Cgroup(body) => context("context-cgroup", value(body)),
        Body::Process(body) => context("context-process", value(body)),
        Body::Socket(body) => context("context-socket", value(body)),
        Body::ResolvConf(body) => context("context-resolv-conf", value(body)),
        Body::NodeFile(body) => context("context-node-file", value(body)),
        Body::Conntrack(body) => context("context-conntrack", value(body)),
        Body::Pod(body) => context("context-pod", value(body)),
        Body::Service(body) => context("context-service", value(body)),
        Body::EndpointSlice(body) => context("context-endpoint-slice", value(body)),
    }
}

fn syscall(event: &Event, call: &Syscall) -> Parts {
    Parts {
        kind: call.call.name().into(),
        // A call that had not returned is told by its entry alone.
        direction: Some(if call.result.is_some() { "exit" } else { "enter" }),
        result: call.result,
        args: args([
            ("fd", json!(call.fd)),
            ("peer", shown(call.peer)),
            ("size", json!(call.size)),
            ("entered", json!(Ts(call.entered).rfc3339())),
            ("blocked_ns", json!(event.at.since(call.entered))),
        ]),
    }
}

fn socket_address(event: &Event, hook: &SocketAddress) -> Parts {
    let (kind, direction) = match hook.call {
        AddressCall::Connect => ("connect", "enter"),
        AddressCall::Sendmsg => ("sendmsg", "enter"),
        AddressCall::Recvmsg => ("recvmsg", "exit"),
    };
    Parts {
        kind: kind.into(),
        direction: Some(direction),
        result: None,
        args: args([
            ("fd", json!(hook.fd)),
            ("peer", shown(Some(hook.remote))),
            ("protocol", protocol(hook.protocol)),
            ("hook", json!(event.probe.and_then(hook_name))),
        ]),
    }
}

fn call_side(side: &CallSide) -> Parts {
    let mut args: Args = side
        .args
        .split(|byte| *byte == 0)
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let (key, value) = pair.split_at(at);
            (text::escape(key), json!(text::escape(value.get(1..).unwrap_or_default())))
        })
        .collect();
    if let Some(fd) = side.fd {
        args.insert("fd".to_owned(), json!(fd));
    }
    Parts {
        kind: text::escape(&side.name).into(),
        direction: Some(if side.exit { "exit" } else { "enter" }),
        result: side.result,
        args,
    }
}

fn data(data: &Data) -> Parts {
    let (kind, way) = match data.kind {
        DataKind::Arguments => ("arguments", None),
        DataKind::Sent => ("data", Some(Direction::Out)),
        DataKind::Received => ("data", Some(Direction::In)),
    };
    Parts {
        kind: kind.into(),
        direction: way.map(direction),
        result: None,
        args: args([("size", json!(data.original_len))]),
    }
}

fn socket_closed(closed: &SocketClosed) -> Args {
    args([
        ("protocol", protocol(closed.protocol)),
        ("local", shown(closed.local)),
        ("peer", shown(closed.remote)),
    ])
}

fn dns(dns: &Dns) -> Args {
    let message = &dns.message;
    let answers: Vec<Value> = message
        .answers
        .iter()
        .map(|a| json!({ "name": a.name, "type": a.rtype, "ttl": a.ttl, "data": a.data }))
        .collect();
    let question = message.question.as_ref();
    let undecoded = message.undecoded.as_ref();
    let mut all = args([
        ("protocol", protocol(dns.protocol)),
        ("local", shown(Some(dns.local))),
        ("peer", shown(Some(dns.remote))),
        ("intended_port", json!(dns.intended_port)),
        ("size", json!(dns.original_len)),
        ("id", json!(message.id)),
        ("response", json!(message.response)),
        ("opcode", json!(message.opcode)),
        ("question", json!(question.map(|q| &q.name))),
        ("qtype", json!(question.map(|q| &q.qtype))),
        ("rcode", json!(message.response.then(|| message.rcode_name()))),
        ("truncated", json!(message.truncated)),
        ("edns", json!(message.edns)),
        ("answers", Value::Array(answers)),
        ("undecoded", json!(undecoded.map(|(at, why)| json!({ "offset": at, "reason": why })))),
    ]);
    if message.edns {
        all.insert("udp_size".into(), json!(message.udp_size));
        all.insert("dnssec_ok".into(), json!(message.dnssec_ok));
    }
    if let Some(options) = &message.options {
        all.insert("options".into(), json!(options.codes));
        let error = |(code, text): &(u16, String)| json!({ "code": code, "name": extended_error_name(*code), "text": text });
        let errors: Vec<Value> = options.errors.iter().map(error).collect();
        all.insert("extended_errors".into(), Value::Array(errors));
    }
    if let Some(ttl) = message.negative_ttl {
        all.insert("negative_ttl_s".into(), json!(ttl));
    }
    all
}

fn icmp(icmp: &Icmp) -> Args {
    let query = &icmp.query;
    let question = query.message.question.as_ref();
    let mut all = args([
        ("from", shown(Some(icmp.from))),
        ("error", json!(icmp.error.name())),
        ("type", json!(icmp.code.0)),
        ("code", json!(icmp.code.1)),
        ("local", shown(Some(query.local))),
        ("peer", shown(Some(query.remote))),
        ("id", json!(query.message.id)),
        ("question", json!(question.map(|q| &q.name))),
        ("qtype", json!(question.map(|q| &q.qtype))),
    ]);
    if let Some(mtu) = icmp.mtu {
        all.insert("mtu".into(), json!(mtu));
    }
    all
}

fn tcp(packet: &Tcp) -> Args {
    let bits = [(packet.syn, "SYN"), (packet.fin, "FIN"), (packet.rst, "RST"), (packet.ack, "ACK")];
    let flags: Vec<&str> = bits.into_iter().filter_map(|(set, name)| set.then_some(name)).collect();
    args([
        ("local", shown(Some(packet.local))),
        ("peer", shown(Some(packet.remote))),
        ("flags", json!(flags)),
    ])
}

fn tcp_state(state: &TcpState) -> Args {
    let (change, old, new) = match state.change {
        TcpChange::Connect => ("connect", None, None),
        TcpChange::ActiveEstablished => ("active-established", None, None),
        TcpChange::PassiveEstablished => ("passive-established", None, None),
        TcpChange::State { old, new } => ("state", Some(old), Some(new)),
        TcpChange::Retransmit => ("retransmit", None, None),
    };
    args([
        ("change", json!(change)),
        ("old", json!(old.map(tcp_state_name))),
        ("new", json!(new.map(tcp_state_name))),
        ("peer_side", json!(state.peer_side)),
        ("local", shown(Some(state.local))),
        ("peer", shown(Some(state.remote))),
        ("srtt_ns", json!(state.srtt_us.map(|us| u64::from(us) * 1000))),
        ("retransmits", json!(state.retransmits)),
    ])
}

/// Names of the kernel's `TCP_*` numbers.
fn tcp_state_name(number: u8) -> String {
    const NAMES: [&str; 12] = [
        "ESTABLISHED",
        "SYN_SENT",
        "SYN_RECV",
        "FIN_WAIT1",
        "FIN_WAIT2",
        "TIME_WAIT",
        "CLOSE",
        "CLOSE_WAIT",
        "LAST_ACK",
        "LISTEN",
        "CLOSING",
        "NEW_SYN_RECV",
    ];
    let name = usize::from(number).checked_sub(1).and_then(|at| NAMES.get(at));
    name.map_or_else(|| number.to_string(), ToString::to_string)
}

fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "in",
        Direction::Out => "out",
    }
}

fn protocol(protocol: Protocol) -> Value {
    match protocol {
        Protocol::Udp => json!("udp"),
        Protocol::Tcp => json!("tcp"),
        Protocol::Other(number) => json!(number.to_string()),
    }
}

fn shown(thing: Option<impl Display>) -> Value {
    json!(thing.map(|thing| thing.to_string()))
}

fn args<const N: usize>(pairs: [(&str, Value); N]) -> Args {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// A context body as JSON; bodies are plain data, for which this cannot fail.
fn value(body: &impl Serialize) -> Value {
    serde_json::to_value(body).unwrap_or(Value::Null)
}

fn object(value: Value) -> Args {
    match safe(value) {
        Value::Object(map) => map.into_iter().collect(),
        _ => Args::new(),
    }
}

/// Texts of context records come from files and APIs: nothing in them may reach a terminal raw.
fn safe(value: Value) -> Value {
    match value {
        Value::String(string) => Value::String(text::visible(&string)),
        Value::Array(items) => Value::Array(items.into_iter().map(safe).collect()),
        Value::Object(map) => {
            Value::Object(map.into_iter().map(|(k, v)| (text::visible(&k), safe(v))).collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use bytes::Bytes;

    use super::*;
    use crate::context;
    use crate::event::{Actor, Answer, Call, Message, Question};
    use crate::record::{Task, Timestamp};

    fn line(body: Body) -> EventLine {
        let task = Task { pid: 10, tid: 11, comm: "curl".into() };
        let actor = Actor { task: Some(task), ..Actor::default() };
        let event = Event {
            number: 3,
            at: Timestamp(5_000),
            cpu: Some(1),
            probe: Some(probe::CONNECT4),
            actor,
            body,
        };
        event_line(&event, &Identifier::default())
    }

    #[test]
    fn errnos() {
        let cases = [
            (-111, Some("ECONNREFUSED")),
            (-115, Some("EINPROGRESS")),
            (-512, Some("ERESTARTSYS")),
            (-4000, Some("E4000")),
            (0, None),
            (17, None),
            (i64::MIN, None),
        ];
        for (result, want) in cases {
            assert_eq!(errno_name(result).as_deref(), want);
        }
    }

    #[test]
    fn a_call_and_a_hook() {
        let peer = SocketAddr::from(([10, 0, 0, 1], 80));
        let call = Syscall {
            call: Call::Connect,
            entered: Timestamp(1_000),
            result: Some(-111),
            fd: 5,
            size: None,
            peer: Some(peer),
        };
        let got = line(Body::Syscall(call.clone()));
        assert_eq!((got.kind.as_str(), got.direction.as_deref()), ("connect", Some("exit")));
        assert_eq!((got.result, got.errno.as_deref()), (Some(-111), Some("ECONNREFUSED")));
        assert_eq!(got.args["blocked_ns"], 4_000);
        assert_eq!((&got.args["peer"], &got.args["size"]), (&json!("10.0.0.1:80"), &Value::Null));
        assert_eq!((got.identity.pid, got.identity.comm.as_deref()), (Some(10), Some("curl")));
        let open = line(Body::Syscall(Syscall { result: None, ..call }));
        assert_eq!((open.direction.as_deref(), open.errno), (Some("enter"), None));

        let hook = SocketAddress {
            call: AddressCall::Connect,
            protocol: Protocol::Tcp,
            remote: peer,
            fd: None,
        };
        assert_eq!(line(Body::SocketAddress(hook)).args["hook"], "cgroup/connect4");
    }

    #[test]
    fn a_message() {
        let end = SocketAddr::from(([10, 0, 0, 1], 53));
        let question = Question { name: "a.test".into(), qtype: "A".into() };
        let (name, rtype, data) = ("a.test".into(), "A".into(), "10.0.0.9".into());
        let message = Message {
            id: 7,
            response: true,
            rcode: 3,
            question: Some(question),
            answers: vec![Answer { name, rtype, ttl: 5, data }],
            undecoded: Some((40, "x".into())),
            ..Message::default()
        };
        let got = line(Body::Dns(Dns {
            direction: Direction::In,
            protocol: Protocol::Udp,
            local: end,
            remote: end,
            intended_port: None,
            message,
            payload: Bytes::new(),
            original_len: 50,
        }));
        assert_eq!((got.kind.as_str(), got.direction.as_deref()), ("dns", Some("in")));
        assert_eq!(
            (&got.args["rcode"], &got.args["question"]),
            (&json!("NXDOMAIN"), &json!("a.test"))
        );
        assert_eq!(got.args["answers"][0]["data"], "10.0.0.9");
        assert_eq!(got.args["undecoded"]["offset"], 40);
    }

    #[test]
    fn context_is_shown_safely() {
        let pod = context::Pod {
            name: "a\u{1b}[2J".into(),
            labels: [("k\u{7}".into(), "v".into())].into(),
            ..context::Pod::default()
        };
        let got = line(Body::Pod(pod));
        assert_eq!((got.kind.as_str(), &got.args["name"]), ("context-pod", &json!("a\\x1b[2J")));
        assert_eq!(got.args["labels"]["k\\x07"], "v");
    }

    #[test]
    fn tcp_states() {
        let end = SocketAddr::from(([10, 0, 0, 1], 53));
        let got = line(Body::TcpState(TcpState {
            change: TcpChange::State { old: 1, new: 99 },
            peer_side: false,
            local: end,
            remote: end,
            srtt_us: Some(3),
            retransmits: 0,
        }));
        assert_eq!((&got.args["old"], &got.args["new"]), (&json!("ESTABLISHED"), &json!("99")));
        assert_eq!(got.args["srtt_ns"], 3_000);
    }
}
