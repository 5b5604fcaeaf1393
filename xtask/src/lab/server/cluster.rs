//! The cluster's DNS server with CoreDNS's timing: an upstream is asked again after 2 s until 5 s have
//! passed, then the client is told SERVFAIL; one that fails its health checks is asked once. No cache.
//! Below `example` two zones are this server's own misbehaviour: `swallowed` gets no answer to AAAA,
//! answers for `elsewhere` come from another address.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
    how: How,
    kept: Mutex<Vec<Link>>,
}

/// What it does with what is not its own.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct How {
    /// Ask the upstream over TCP
    #[arg(long)]
    force_tcp: bool,
    /// Ask it for the cluster's names, too
    #[arg(long)]
    knows_nothing: bool,
    /// Walk the search list of the pods of critical-app for them
    #[arg(long)]
    autopath: bool,
    /// Keep the sockets to it
    #[arg(long)]
    keep: bool,
}

/// A socket that is connected to an upstream.
enum Link {
    Udp(UdpSocket),
    Tcp(TcpStream),
}

/// What the checks of an upstream say.
struct Health {
    server: SocketAddr,
    fails: AtomicU32,
    checked: AtomicBool,
}

impl Cluster {
    /// Forwards to `server`: all that is not the cluster's, and that, too, if it `knows_nothing`.
    pub fn new(server: SocketAddr, how: How) -> Self {
        let upstream = Health { server, fails: AtomicU32::new(0), checked: AtomicBool::new(false) };
        Self { upstream: Arc::new(upstream), how, kept: Mutex::default() }
    }

    /// What the upstream answers, or nothing after all tries.
    fn forward(&self, query: &[u8], over: Over) -> Option<Vec<u8>> {
        let over = if self.how.force_tcp { Over::Tcp } else { over };
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE {
            let dead = self.upstream.fails.load(Ordering::Relaxed) > FAILS;
            if let Ok(answer) = self.ask(query, over) {
                return Some(answer);
            }
            Arc::clone(&self.upstream).check();
            if dead {
                break;
            }
        }
        None
    }

    fn ask(&self, query: &[u8], over: Over) -> std::io::Result<Vec<u8>> {
        let server = self.upstream.server;
        if !self.how.keep {
            return Link::open(server, over, TRY)?.ask(query, TRY);
        }
        let fits = |link: &Link| matches!(link, Link::Tcp(_)) == (over == Over::Tcp);
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let link = {
            let mut kept = kept();
            kept.iter().position(fits).map(|at| kept.swap_remove(at))
        };
        let link = match link {
            Some(link) => link,
            None => Link::open(server, over, TRY)?,
        };
        let answer = link.ask(query, TRY);
        kept().push(link);
        answer
    }

    /// CoreDNS's autopath: the name without the pod's first suffix, if it exists.
    fn walked(&self, query: &Message, name: &str, over: Over) -> Option<Message> {
        let short = name.strip_suffix(FIRST_SUFFIX).filter(|_| self.how.autopath)?;
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
        if !self.how.knows_nothing && (name == "cluster.local" || name.ends_with(".cluster.local"))
        {
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
                && Link::open(self.server, Over::Udp, CHECK)
                    .and_then(|link| link.ask(&query, CHECK))
                    .is_err()
            {
                self.fails.fetch_add(1, Ordering::Relaxed);
                sleep(CHECK_EVERY);
            }
            self.fails.store(0, Ordering::Relaxed);
            self.checked.store(false, Ordering::Relaxed);
        });
    }
}

impl Link {
    fn open(server: SocketAddr, over: Over, patience: Duration) -> std::io::Result<Self> {
        if over == Over::Tcp {
            return TcpStream::connect_timeout(&server, patience).map(Self::Tcp);
        }
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        Ok(Self::Udp(socket))
    }

    /// One question, with the id it has. Answers to earlier ones may come first.
    fn ask(&self, query: &[u8], patience: Duration) -> std::io::Result<Vec<u8>> {
        let begun = Instant::now();
        let name = |message: &[u8]| understood(message).map(|(_, name, qtype)| (name, qtype));
        let asked = name(query);
        match self {
            Self::Udp(socket) => socket.send(query).map(drop)?,
            Self::Tcp(stream) => super::write(stream, query)?,
        }
        loop {
            let left = patience.saturating_sub(begun.elapsed()).max(Duration::from_millis(1));
            let answer = match self {
                Self::Udp(socket) => {
                    socket.set_read_timeout(Some(left))?;
                    let mut buffer = vec![0; 65_535];
                    let length = socket.recv(&mut buffer)?;
                    buffer.truncate(length);
                    buffer
                }
                Self::Tcp(stream) => {
                    stream.set_read_timeout(Some(left))?;
                    super::read(stream)?
                }
            };
            if answer.get(..2) == query.get(..2) && name(&answer) == asked {
                return Ok(answer);
            }
        }
    }
}
