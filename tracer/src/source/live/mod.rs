//! Records from the running kernel.
pub mod probes;
pub mod selftest;
