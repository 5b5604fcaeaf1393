//! Incidents × clients: which client, in which lab, must give which findings. Types only; the table is
//! in `rows` and `paths`, what makes it happen in `run`. Compares nothing: the suite does.

mod fault;
mod paths;
mod rows;
mod run;

pub use fault::{PodFault, Qtype};
pub use rows::scenes;
pub use run::{Ran, Stage};

use super::Setup;
use super::services::DNS_ADDRESS;

/// Label of every pod of a row, for svctrace's selector.
pub const LABEL: (&str, &str) = ("matrix", "row");

/// One lab, one svctrace, many clients at once.
#[derive(Clone, Debug)]
pub struct Scene {
    /// What is special about it.
    pub name: &'static str,
    /// The lab.
    pub setup: Setup,
    /// More options for svctrace.
    pub args: &'static [&'static str],
    /// Whether another pod floods the resolver meanwhile.
    pub neighbour: bool,
    /// The resolver dies this long after the clients began, in milliseconds.
    pub resolver_dies_ms: Option<u64>,
    /// Its clients.
    pub rows: Vec<Row>,
}

/// What happens to a client.
#[derive(Clone, Copy, Debug)]
pub struct Incident {
    /// In a few words; with the scene's name, it is unique.
    pub title: &'static str,
    /// The title of the incident of the same scene in which the same is in order; its own when this one is.
    pub twin: &'static str,
    /// The name as typed. `{}` becomes two digits of the row's own.
    pub name: &'static str,
    /// Suffixes behind the cluster's three.
    pub search: &'static str,
    /// The options of resolv.conf.
    pub options: &'static str,
    /// Its nameserver.
    pub nameserver: &'static str,
    /// What is broken around this pod only.
    pub fault: Option<PodFault>,
    /// How its client runs.
    pub how: How,
}

/// How a client runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum How {
    /// In its pod, started after svctrace.
    #[default]
    Ordinary,
    /// Started before svctrace, waiting; a pool with its socket open and in use.
    Older,
    /// A pool that asked before svctrace came, and waits for the answer.
    Asked,
    /// On the node's network.
    HostNetwork,
}

impl Incident {
    /// A name of the cluster, complete as typed, with kubelet's own resolv.conf: all is well.
    pub const fn healthy(title: &'static str) -> Self {
        Self {
            title,
            twin: title,
            name: "svc-{}.critical-app.svc.cluster.local",
            search: "",
            options: "ndots:5",
            nameserver: DNS_ADDRESS,
            fault: None,
            how: How::Ordinary,
        }
    }

    /// Nothing may be found in it.
    pub fn is_healthy(&self) -> bool {
        self.title == self.twin
    }
}

/// One incident and one client.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What happens.
    pub incident: Incident,
    /// To whom: one of [`super::clients::CLIENTS`] or [`super::clients::POOLS`].
    pub client: &'static str,
    /// What svctrace owes.
    pub expect: Expect,
}

/// The findings that a row must give, and no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    /// Codes; the first is the root of the others.
    pub codes: &'static [&'static str],
    /// Codes that may be there, too: the client's timing decides.
    pub may: &'static [&'static str],
    /// The first one's class, where it is compared.
    pub class: Option<&'static str>,
    /// `certain` or `inferred`: the first one's.
    pub confidence: &'static str,
    /// The code whose cost is what the client waited; `None` where the wait is too short to compare
    /// or is made of several things.
    pub cost: Option<&'static str>,
    /// The codes of a machine too slow to do what happens in time.
    pub slow_machine: &'static [&'static str],
    /// The codes stand beside each other: none caused the others.
    pub apart: bool,
    /// What the first one's cause must say.
    pub says: &'static str,
    /// Nothing was asked: there is no lookup, and no name.
    pub nameless: bool,
}

impl Expect {
    /// Silence.
    pub const NOTHING: Self = Self {
        codes: &[],
        may: &[],
        class: None,
        confidence: "certain",
        cost: None,
        slow_machine: &[],
        apart: false,
        says: "",
        nameless: false,
    };

    /// Certain findings whose costs are not compared.
    pub const fn codes(codes: &'static [&'static str]) -> Self {
        Self { codes, ..Self::NOTHING }
    }

    /// The cost of `code` is the client's wait.
    #[must_use]
    pub const fn costs(self, code: &'static str) -> Self {
        Self { cost: Some(code), ..self }
    }

    /// The root has this class.
    #[must_use]
    pub const fn class(self, class: &'static str) -> Self {
        Self { class: Some(class), ..self }
    }

    /// The root is inferred.
    #[must_use]
    pub const fn inferred(self) -> Self {
        Self { confidence: "inferred", ..self }
    }

    /// What is found instead where the machine is too slow.
    #[must_use]
    pub const fn or_slow(self, codes: &'static [&'static str]) -> Self {
        Self { slow_machine: codes, ..self }
    }

    /// The client gets no connection to ask on.
    #[must_use]
    pub const fn nameless(self) -> Self {
        Self { nameless: true, ..self }
    }

    /// The first one's cause says this.
    #[must_use]
    pub const fn says(self, says: &'static str) -> Self {
        Self { says, ..self }
    }

    /// None caused the others.
    #[must_use]
    pub const fn apart(self) -> Self {
        Self { apart: true, ..self }
    }

    /// `codes` may be found, too.
    #[must_use]
    pub const fn may(self, may: &'static [&'static str]) -> Self {
        Self { may, ..self }
    }
}
