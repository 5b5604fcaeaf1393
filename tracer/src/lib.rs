//! svctrace as a library: sources make records, one pipeline turns them into lookups, connections
//! and findings, sinks print them. See ARCHITECTURE.md.

/// Says a line on stderr. A stderr that is gone (a closed terminal, a reader that left) is no reason to
/// stop, where `eprintln!` would panic.
#[macro_export]
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}

pub mod capture;
pub mod capture_error;
mod cgroup_path;
pub mod context;
pub mod correlate;
pub mod decode;
pub mod describe;
pub mod diagnose;
mod digits;
pub mod event;
pub mod explain;
mod fragment;
mod framing;
mod hold;
pub mod identify;
pub mod pipeline;
pub mod record;
pub mod redact;
pub mod report;
pub mod sandbox;
pub mod sink;
pub mod source;
pub mod text;
pub mod words;
