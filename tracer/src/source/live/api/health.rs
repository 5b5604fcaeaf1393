//! What goes wrong with the API, told to the user once each and not once per watch.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use super::request::Failure;

/// Something that costs names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::source::live) enum Trouble {
    /// No answer, or none that helps.
    Unavailable,
    /// The credentials are not accepted.
    Unauthorized,
    /// A rule is missing, for this resource.
    Forbidden(&'static str),
    /// Objects of this resource that are none.
    Malformed(&'static str),
    /// Objects of this resource, or parts of them, that are beyond all limits.
    Oversize(&'static str),
    /// More of this resource than is kept.
    TooMany(&'static str),
}

/// What was told.
#[derive(Debug, Default)]
pub(in crate::source::live) struct Health {
    told: Mutex<HashSet<Trouble>>,
}

impl Health {
    /// Whether this is the first time.
    pub(in crate::source::live) fn first(&self, trouble: &Trouble) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.insert(trouble.clone())
    }
}

/// What a failure of a request for `resource` is.
pub(in crate::source::live) fn of(failure: &Failure, resource: &'static str) -> Trouble {
    match failure.code() {
        401 => Trouble::Unauthorized,
        403 => Trouble::Forbidden(resource),
        _ => Trouble::Unavailable,
    }
}

/// The sentence for it; `detail` is the failure, or a number.
pub(super) fn words(trouble: &Trouble, group: &str, detail: &str) -> String {
    match trouble {
        Trouble::Unavailable => {
            format!(
                "no answer from the Kubernetes API ({detail}); trying again, names may be missing"
            )
        }
        Trouble::Unauthorized => {
            "the Kubernetes API does not accept our credentials (401); names may be missing".into()
        }
        Trouble::Forbidden(resource) => format!(
            "the Kubernetes API does not let us read {resource} (403); the role lacks: \
             - {{apiGroups: [\"{group}\"], resources: [\"{resource}\"], verbs: [\"get\", \"list\", \"watch\"]}}"
        ),
        Trouble::Malformed(resource) => {
            format!(
                "the Kubernetes API sends {resource} that are none ({detail}); they are left out"
            )
        }
        Trouble::Oversize(resource) => format!(
            "the Kubernetes API sends {resource} larger than Kubernetes allows; {detail} parts were left out"
        ),
        Trouble::TooMany(resource) => {
            format!(
                "the cluster has more {resource} than svctrace keeps ({detail}); others stay unnamed"
            )
        }
    }
}
