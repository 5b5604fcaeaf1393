//! The whole suite in one binary.
#![expect(clippy::disallowed_methods, reason = "tests run processes and measure real time")]
#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test")]

mod captures;
mod cli;
mod hostile;
mod lab;
mod layers;
mod lookups;
mod pcap;
mod progress;
mod scap;
mod scenarios;
mod schema;
