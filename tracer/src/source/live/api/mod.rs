//! How the Kubernetes API is spoken to: requests with time and size limits, lists and watches that
//! go on whatever the server does, and object types of our own. Decides nothing about traces.

pub(super) mod access;
mod bounds;
pub(super) mod foreign;
mod health;
mod known;
mod list;
mod pace;
mod reporter;
mod request;
pub(super) mod slim;
mod split;
#[cfg(test)]
mod tests;
mod watch;

pub(super) use bounds::{
    Cut, names_of, pod as bounded_pod, service as bounded_service, slice as bounded_slice,
};
pub(super) use health::{Health, Trouble, of as trouble};
pub(super) use known::Identity;
pub(super) use list::{Page, escaped};
pub(super) use pace::Pace;
pub(super) use reporter::{Facts, Reporter, line};
pub(super) use request::{Failure, object};
pub(super) use split::Items;
pub(super) use watch::{Followed, Place, Watch, target};

/// What a failure is, and the sentence for it.
pub(super) fn say<K: Followed>(failure: &Failure) -> (Trouble, String) {
    let trouble = health::of(failure, K::PLURAL);
    let words = health::words(&trouble, K::GROUP, &failure.to_string());
    (trouble, words)
}
