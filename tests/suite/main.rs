//! The whole suite in one binary.
#![expect(clippy::disallowed_methods, reason = "tests run processes and measure real time")]
#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test")]

mod api;
mod captures;
mod cli;
mod clocks;
mod faults;
mod fuzz;
mod healthy;
mod hostile;
mod incidents;
mod lab;
mod lab_tcp;
mod layers;
mod libraries;
mod licenses;
mod lookups;
mod manifests;
mod names;
mod nodes;
mod pcap;
mod peers;
mod progress;
mod redact;
mod sandbox;
mod scap;
mod scenarios;
mod schema;
mod targets;
mod tcp_dns;
