//! What the upstream knows: `www.example.com`, and zones below `example` whose first label says how
//! they are served. Names of the cluster that leak there do not exist. Also the cluster's own names.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::thread::sleep;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::{Over, Reply, Server};
use crate::lab::services::SERVICES;

/// Services `svc-00` to `svc-99` of critical-app have the address of `backend`: each client of a lab
/// can ask for a name of its own.
pub(crate) const CLUSTER_NAMES: u8 = 100;
const SLOW: Duration = Duration::from_millis(1500);
/// What a chain of 32 of them makes visible.
const SLUGGISH: Duration = Duration::from_millis(40);
const TTL: u32 = 30;
/// As many addresses as make an answer of about 2,000 bytes.
const MANY: u8 = 122;

/// The server outside the cluster.
pub(crate) struct Upstream;

impl Server for Upstream {
    fn reply(&self, query: &[u8], over: Over) -> Reply {
        let Some((query, name, qtype)) = understood(query) else { return Reply::Silence };
        let leaked = name.contains(".svc.");
        match zone(&name) {
            Some("silent") => return Reply::Silence,
            Some("aaaa-silent") if qtype == RecordType::AAAA => return Reply::Silence,
            Some("servfail") => return said(&query, ResponseCode::ServFail),
            Some("refused") => return said(&query, ResponseCode::Refused),
            Some("slow") => sleep(SLOW),
            Some("sluggish") => sleep(SLUGGISH),
            _ => {}
        }
        if leaked || !(name.ends_with(".example") || name == "www.example.com") {
            return said(&query, ResponseCode::NXDomain);
        }
        let count = if zone(&name) == Some("big") { MANY } else { 1 };
        let always_cut = zone(&name) == Some("truncated");
        let alias = zone(&name) == Some("alias");
        let mut message = answered(&query, |owner| {
            let (mut records, mut owner) = (Vec::new(), owner.clone());
            if alias && let Ok(real) = Name::from_ascii("real.alias-target.example.") {
                records.push(Record::from_rdata(owner, TTL, RData::CNAME(CNAME(real.clone()))));
                owner = real;
            }
            records.extend((0..count).filter_map(|n| address(&owner, qtype, n)));
            records
        });
        let limit = usize::from(query.max_payload());
        let long = message.to_vec().is_ok_and(|bytes| bytes.len() > limit);
        if over == Over::Udp && (always_cut || long) {
            message = message.truncate();
        }
        bytes(&message)
    }
}

/// The label before `example`.
fn zone(name: &str) -> Option<&str> {
    name.strip_suffix(".example")?.rsplit('.').next()
}

/// The query, its name in small letters without the last dot, and its type.
pub(super) fn understood(query: &[u8]) -> Option<(Message, String, RecordType)> {
    let message = Message::from_vec(query).ok()?;
    let question = message.queries.first()?;
    let name = question.name().to_ascii().to_lowercase();
    let (name, qtype) = (name.trim_end_matches('.').to_owned(), question.query_type());
    Some((message, name, qtype))
}

/// An empty response to `query`.
fn response(query: &Message) -> Message {
    let mut message =
        Message::new(query.metadata.id, MessageType::Response, query.metadata.op_code);
    message.metadata.recursion_desired = query.metadata.recursion_desired;
    message.metadata.recursion_available = true;
    message.add_queries(query.queries.iter().cloned());
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(4096);
        message.set_edns(edns);
    }
    message
}

/// A response with what `records` makes for the name that was asked for.
pub(super) fn answered(query: &Message, records: impl Fn(&Name) -> Vec<Record>) -> Message {
    let mut message = response(query);
    if let Some(question) = query.queries.first() {
        message.add_answers(records(question.name()));
    }
    if message.answers.is_empty() {
        message.add_authorities(authority());
    }
    message
}

/// A response that is only a code.
pub(super) fn said(query: &Message, code: ResponseCode) -> Reply {
    let mut message = response(query);
    message.metadata.response_code = code;
    if code == ResponseCode::NXDomain {
        message.add_authorities(authority());
    }
    bytes(&message)
}

pub(super) fn bytes(message: &Message) -> Reply {
    message.to_vec().map_or(Reply::Silence, Reply::Message)
}

/// What lets negative answers be cached, shortly.
fn authority() -> Option<Record> {
    let (zone, server) = (Name::root(), Name::from_ascii("ns.example.").ok()?);
    let soa = SOA::new(server.clone(), server, 1, 7200, 1800, 86400, 5);
    Some(Record::from_rdata(zone, 5, RData::SOA(soa)))
}

/// The `number`th address of the outside.
fn address(owner: &Name, qtype: RecordType, number: u8) -> Option<Record> {
    let data = match qtype {
        RecordType::A => RData::A(A(Ipv4Addr::new(203, 0, 113, 80 + number))),
        RecordType::AAAA => RData::AAAA(AAAA(Ipv6Addr::from_bits(
            0x2001_0db8_0000_0000_0000_0000_0000_0080 + u128::from(number),
        ))),
        _ => return None,
    };
    Some(Record::from_rdata(owner.clone(), TTL, data))
}

/// The address of a cluster's name, if there is such a Service.
pub(crate) fn cluster_address(name: &str) -> Option<Ipv4Addr> {
    let known = |service: &&crate::lab::services::Service| {
        name == format!("{}.{}.svc.cluster.local", service.name, service.namespace)
    };
    if let Some(service) = SERVICES.iter().find(known) {
        return service.address.parse().ok();
    }
    let number = name.strip_suffix(".critical-app.svc.cluster.local")?.strip_prefix("svc-")?;
    let number: u8 = number.parse().ok()?;
    (number < CLUSTER_NAMES).then_some(Ipv4Addr::new(10, 96, 100, 50))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;

    fn ask(name: &str, over: Over) -> Option<Message> {
        let mut query = Message::query();
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        match Upstream.reply(&query.to_vec().unwrap(), over) {
            Reply::Message(bytes) => Some(Message::from_vec(&bytes).unwrap()),
            _ => None,
        }
    }

    #[test]
    fn each_zone_in_its_own_way() {
        assert!(ask("a.silent.example.", Over::Udp).is_none());
        let code = |name| ask(name, Over::Udp).unwrap().metadata.response_code;
        assert_eq!(code("a.servfail.example."), ResponseCode::ServFail);
        assert_eq!(code("a.refused.example."), ResponseCode::Refused);
        assert_eq!(code("a.b.svc.cluster.local.fine.example."), ResponseCode::NXDomain);
        assert_eq!(code("a.fine.example."), ResponseCode::NoError);
        let big = |over| ask("a.big.example.", over).unwrap();
        assert!(big(Over::Udp).metadata.truncation && big(Over::Udp).answers.is_empty());
        assert!((1950..2100).contains(&big(Over::Tcp).to_vec().unwrap().len()));
        assert_eq!(ask("a.truncated.example.", Over::Tcp).unwrap().answers.len(), 1);
        assert_eq!(ask("a.alias.example.", Over::Udp).unwrap().answers.len(), 2);
    }

    #[test]
    fn names_of_the_cluster() {
        let address = |name| cluster_address(name).map(|ip| ip.to_string());
        assert_eq!(address("svc-07.critical-app.svc.cluster.local").unwrap(), "10.96.100.50");
        assert_eq!(address("backend.critical-app.svc.cluster.local").unwrap(), "10.96.100.50");
        assert_eq!(address("svc-07.default.svc.cluster.local"), None);
    }
}
