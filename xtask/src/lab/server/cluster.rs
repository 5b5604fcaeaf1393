//! The cluster's DNS server with CoreDNS's timing: an upstream is asked again after 2 s until 5 s have
//! passed, then the client is told SERVFAIL; one that fails its health checks is asked once. No cache.
//! Below `example` two zones are this server's own misbehaviour: `swallowed` gets no answer to AAAA,
//! answers for `elsewhere` come from another address.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::zones::{answered, bytes, cluster_address, said, understood};
use super::{Over, Reply, Server};

const TRY: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(5);
const CHECK: Duration = Duration::from_secs(1);
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// More failed checks than this, and an upstream is taken for dead.
const FAILS: u32 = 2;
const FIRST_SUFFIX: &str = ".critical-app.svc.cluster.local";
const TTL: u32 = 30;

/// A server in the cluster.
pub struct Cluster {
    upstream: Arc<Health>,
    force_tcp: bool,
    knows_nothing: bool,
    autopath: bool,
}

/// What the checks of an upstream say.
struct Health {
    server: SocketAddr,
    fails: AtomicU32,
    checked: AtomicBool,
}

impl Cluster {
    /// Forwards to `server`: all that is not the cluster's, and that, too, if it `knows_nothing`.
    pub fn new(server: SocketAddr, force_tcp: bool, knows_nothing: bool, autopath: bool) -> Self {
        let upstream = Health { server, fails: AtomicU32::new(0), checked: AtomicBool::new(false) };
        Self { upstream: Arc::new(upstream), force_tcp, knows_nothing, autopath }
    }

    /// What the upstream answers, or nothing after all tries.
    fn forward(&self, query: &[u8], over: Over) -> Option<Vec<u8>> {
        let over = if self.force_tcp { Over::Tcp } else { over };
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE {
            let dead = self.upstream.fails.load(Ordering::Relaxed) > FAILS;
            if let Ok(answer) = ask(self.upstream.server, query, over, TRY) {
                return Some(answer);
            }
            Arc::clone(&self.upstream).check();
            if dead {
                break;
            }
        }
        None
    }

    /// CoreDNS's autopath: the name without the pod's first suffix, if it exists.
    fn walked(&self, query: &Message, name: &str, over: Over) -> Option<Message> {
        let short = name.strip_suffix(FIRST_SUFFIX).filter(|_| self.autopath)?;
        let target = Name::from_ascii(format!("{short}.")).ok()?;
        let mut other = query.clone();
        let qtype = query.queries.first()?.query_type();
        other.queries = vec![Query::query(target.clone(), qtype)];
        let answer = self.forward(&other.to_vec().ok()?, over)?;
        let answer = Message::from_vec(&answer).ok()?;
        (!answer.answers.is_empty()).then(|| {
            answered(query, |owner| {
                let alias = RData::CNAME(CNAME(target.clone()));
                let alias = Record::from_rdata(owner.clone(), TTL, alias);
                std::iter::once(alias).chain(answer.answers.iter().cloned()).collect()
            })
        })
    }
}

impl Server for Cluster {
    fn reply(&self, query: &[u8], over: Over) -> Reply {
        let Some((message, name, qtype)) = understood(query) else { return Reply::Silence };
        if name.ends_with(".swallowed.example") && qtype == RecordType::AAAA {
            return Reply::Silence;
        }
        if !self.knows_nothing && (name == "cluster.local" || name.ends_with(".cluster.local")) {
            if let Some(ip) = cluster_address(&name) {
                return bytes(&answered(&message, |owner| {
                    let record = Record::from_rdata(owner.clone(), TTL, RData::A(A(ip)));
                    if qtype == RecordType::A { vec![record] } else { Vec::new() }
                }));
            }
            return match self.walked(&message, &name, over) {
                Some(found) => bytes(&found),
                None => said(&message, ResponseCode::NXDomain),
            };
        }
        match self.forward(query, over) {
            None => said(&message, ResponseCode::ServFail),
            Some(answer) if name.ends_with(".elsewhere.example") => Reply::Elsewhere(answer),
            Some(answer) => Reply::Message(answer),
        }
    }
}

impl Health {
    /// Asks for the root's servers until that is answered, unless somebody is at it.
    fn check(self: Arc<Self>) {
        if self.checked.swap(true, Ordering::Relaxed) {
            return;
        }
        thread::spawn(move || {
            let mut query = Message::query();
            query.add_query(Query::query(Name::root(), RecordType::NS));
            while let Ok(query) = query.to_vec()
                && ask(self.server, &query, Over::Udp, CHECK).is_err()
            {
                self.fails.fetch_add(1, Ordering::Relaxed);
                sleep(CHECK_EVERY);
            }
            self.fails.store(0, Ordering::Relaxed);
            self.checked.store(false, Ordering::Relaxed);
        });
    }
}

/// One question from a socket of its own, with the id it has.
fn ask(
    server: SocketAddr,
    query: &[u8],
    over: Over,
    patience: Duration,
) -> std::io::Result<Vec<u8>> {
    if over == Over::Tcp {
        let stream = TcpStream::connect_timeout(&server, patience)?;
        stream.set_read_timeout(Some(patience))?;
        super::write(&stream, query)?;
        return super::read(&stream);
    }
    let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(patience))?;
    socket.send(query)?;
    let mut buffer = vec![0; 65_535];
    let length = socket.recv(&mut buffer)?;
    buffer.truncate(length);
    Ok(buffer)
}
