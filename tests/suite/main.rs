//! The whole suite in one binary.
#![expect(clippy::disallowed_methods, reason = "tests run processes and measure real time")]

mod cli;
mod hostile;
mod layers;
mod lookups;
mod scenarios;
mod schema;
