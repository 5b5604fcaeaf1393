//! What followed a truncated answer (RFC 7766 section 5): the question again over TCP, and what came
//! of that, or nothing. Watches the connects of a lookup's client to its servers; judges nothing.

use std::net::SocketAddr;

use foldhash::HashSet;
use smallvec::SmallVec;

use crate::record::Timestamp;
use crate::report::{ConnectionOutcome, Followed, TransactionOutcome, Transport};

use super::transaction::{Asked, GaveUp, Transaction};

/// A client that asks again over TCP begins within this time.
const BEGIN_NS: u64 = 1_000_000_000;
/// Longest wait for a connect: Linux gives up a SYN after 127 s.
const CONNECT_NS: u64 = 150_000_000_000;
/// Connects kept of one lookup.
const CONNECTS_MAX: usize = 8;

/// What followed the truncated answer of one transaction.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequel {
    /// What.
    pub followed: Followed,
    /// When it was decided; `None` if it was not, or nothing followed.
    pub at: Option<Timestamp>,
    /// Numbers of the events that show it, of the connect; the transaction over TCP has its own.
    pub events: Vec<u64>,
}

impl Sequel {
    /// The client got the whole answer.
    pub fn is_good(&self) -> bool {
        self.followed == Followed::TcpAnswered
    }

    /// TCP was tried in vain.
    pub fn tcp_failed(&self) -> bool {
        use Followed::{TcpRefused, TcpReset, TcpTimeout, TcpUnanswered, TcpUnreachable};
        matches!(self.followed, TcpRefused | TcpTimeout | TcpReset | TcpUnreachable | TcpUnanswered)
    }
}

/// A connect to a DNS server that has come to its outcome.
#[derive(Clone, Debug)]
pub(crate) struct Connected {
    pub(crate) server: SocketAddr,
    pub(crate) outcome: ConnectionOutcome,
    pub(crate) at: Timestamp,
    pub(crate) events: Vec<u64>,
}

/// Connects to DNS servers while a lookup is open.
#[derive(Debug, Default)]
pub(crate) struct Connects {
    /// Under way, and since when.
    open: SmallVec<[(SocketAddr, Timestamp); 1]>,
    done: Vec<Connected>,
}

impl Connects {
    pub(crate) fn begun(&mut self, server: SocketAddr, at: Timestamp) {
        if self.open.len() < CONNECTS_MAX {
            self.open.push((server, at));
        }
    }

    pub(crate) fn ended(&mut self, connected: Connected) {
        if let Some(index) = self.open.iter().position(|(server, _)| *server == connected.server) {
            self.open.remove(index);
        }
        if self.done.len() < CONNECTS_MAX {
            self.done.push(connected);
        }
    }

    /// Until when something may follow truncated answers among `last`; `None` if there are none.
    pub(crate) fn expected<'a>(
        &self,
        last: impl DoubleEndedIterator<Item = &'a Transaction> + Clone,
    ) -> Option<Timestamp> {
        if last.clone().all(|t| t.cut_at().is_none()) {
            return None;
        }
        // The last of each question: whatever was cut before it was asked again.
        let mut asked: HashSet<&Asked> = HashSet::default();
        let pending = last.rev().filter(|t| asked.insert(&t.asked));
        let answered = pending.filter_map(Transaction::cut_at).max()?;
        let open = self.open.iter().map(|(_, since)| since.plus(CONNECT_NS));
        let done = self.done.iter().map(|connected| connected.at.plus(BEGIN_NS));
        open.chain(done).chain([answered.plus(BEGIN_NS)]).max()
    }

    /// Says of each truncated answer of one attempt what followed. `cut`: the input ended before the
    /// lookup did. `over`: its client ended, or went on to something else.
    pub(crate) fn follow(&self, tried: &mut [Transaction], cut: bool, over: bool) {
        for index in 0..tried.len() {
            let (before, later) = tried.split_at_mut(index + 1);
            let Some(t) = before.last_mut() else { continue };
            if let Some(since) = t.cut_at() {
                t.sequel = Some(Box::new(self.sequel(t, since, later, cut, over)));
            }
        }
    }

    fn sequel(
        &self,
        t: &Transaction,
        since: Timestamp,
        later: &[Transaction],
        cut: bool,
        over: bool,
    ) -> Sequel {
        let again = || later.iter().filter(|l| l.asked == t.asked);
        let tcp = || again().filter(|l| l.transport == Transport::Tcp);
        let answered = tcp().find(|l| l.outcome() == TransactionOutcome::Answered);
        if let Some(best) = answered.or_else(|| tcp().next_back()) {
            return Sequel { followed: over_tcp(best), at: best.ended(), events: Vec::new() };
        }
        let mut connected =
            self.done.iter().filter(|c| c.at >= since && c.server.ip() == t.server.ip());
        if let Some(connected) = connected.next_back() {
            let followed = match connected.outcome {
                ConnectionOutcome::Refused => Followed::TcpRefused,
                ConnectionOutcome::Timeout => Followed::TcpTimeout,
                ConnectionOutcome::Reset => Followed::TcpReset,
                ConnectionOutcome::Unreachable => Followed::TcpUnreachable,
                ConnectionOutcome::Undecided if cut => Followed::Undecided,
                ConnectionOutcome::Undecided | ConnectionOutcome::Established => Followed::GivenUp,
            };
            let at = (followed != Followed::Undecided).then_some(connected.at);
            return Sequel { followed, at, events: connected.events.clone() };
        }
        let followed = if again().next().is_some() {
            Followed::AskedAgain
        } else if cut {
            Followed::Undecided
        } else if self.open.is_empty() {
            Followed::NotRetried
        } else if over {
            Followed::GivenUp
        } else {
            Followed::TcpTimeout
        };
        Sequel { followed, at: None, events: Vec::new() }
    }
}

fn over_tcp(t: &Transaction) -> Followed {
    match (t.outcome(), t.gave_up) {
        (TransactionOutcome::Answered, _) => Followed::TcpAnswered,
        (TransactionOutcome::Undecided, _) => Followed::Undecided,
        (TransactionOutcome::Unreachable, Some((_, GaveUp::Errno(104) | GaveUp::ServerClosed))) => {
            Followed::TcpReset
        }
        (TransactionOutcome::Unreachable, _) => Followed::TcpUnreachable,
        (TransactionOutcome::Timeout, _) => Followed::TcpUnanswered,
    }
}
