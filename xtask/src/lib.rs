//! The parts of the chores that tests share: the lab, its incidents, and how commands are run.
//! The verbs themselves live in the binary. Nothing here knows the tracer's code.
#![expect(clippy::disallowed_methods, reason = "chores live in real time and read the environment")]

pub mod cmd;
pub mod interrupt;
pub mod lab;
pub mod repo;
pub mod skips;
pub mod usage;
