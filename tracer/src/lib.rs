//! svctrace: says why the service is slow.
pub mod source;
