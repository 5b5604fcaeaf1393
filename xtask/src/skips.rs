//! A list of what a test run left out and why. A test appends a line; `cargo xtask test` prints them.

use std::fs::OpenOptions;
use std::io::Write;

/// Names the file, in the environment of the test processes.
pub const VARIABLE: &str = "SVCTRACE_SKIPPED";

/// Notes that `what` did not run, and why. Without `cargo xtask test` around it, only prints.
pub fn note(what: &str, why: &str) {
    println!("skipped: {what}: {why}");
    let Some(path) = std::env::var_os(VARIABLE) else { return };
    // One short write to a file opened for append stays whole among parallel tests.
    if let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path) {
        let _ = file.write_all(format!("{what}: {why}\n").as_bytes());
    }
}
