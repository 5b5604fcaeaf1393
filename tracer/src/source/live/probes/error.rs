//! What can go wrong with probes, in words that say what to do.

use std::{error::Error as StdError, io};

use aya::{
    EbpfError,
    maps::MapError,
    programs::{ProgramError, TracePointError},
};
use thiserror::Error;

/// Why tracing cannot start or go on.
#[derive(Debug, Error)]
pub enum ProbesError {
    /// This build has no probes in it.
    #[error(
        "this svctrace was built without an eBPF toolchain and cannot trace live \
         (run `cargo xtask setup`, then build again)"
    )]
    NotBuilt,
    /// The kernel refused the maps or the object.
    #[error("cannot create the eBPF maps: {0}")]
    Object(String),
    /// A mandatory probe failed.
    #[error("{0}")]
    Probe(Failure),
    /// A map could not be read or written.
    #[error("eBPF map {0}: {1}")]
    Map(&'static str, String),
    /// tracefs cannot be reached or lacks a field.
    #[error("tracefs: {0}")]
    Tracefs(String),
    /// Too many targets at one time.
    #[error("more than {0} target cgroups at one time")]
    TooManyTargets(u32),
    /// The cgroup v2 tree or a directory of it.
    #[error("cgroup: {0}")]
    Cgroup(#[from] io::Error),
}

/// One probe that the kernel did not take.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Program name.
    pub program: &'static str,
    /// Hook it was meant for.
    pub hook: String,
    /// `load` or `attach`.
    pub step: &'static str,
    /// The kernel's reason, in one line, with a hint where we have one.
    pub reason: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { program, hook, step, reason } = self;
        write!(f, "the kernel refused to {step} probe {program} ({hook}): {reason}")
    }
}

pub(super) fn object(error: &EbpfError) -> ProbesError {
    let errno = errno_in(error);
    ProbesError::Object(with_hint(chain(error), errno))
}

pub(super) fn map(name: &'static str, error: &MapError) -> ProbesError {
    ProbesError::Map(name, with_hint(chain(error), errno_in(error)))
}

/// One line for a refused program: the verifier's last words when it spoke.
pub(super) fn program(error: &ProgramError) -> String {
    let errno = errno_in(error);
    let text = match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            match last_words(&verifier_log.to_string()) {
                // What the verifier refuses is no matter of permission, whatever the error says.
                Some(words) => return format!("{io_error}; verifier: {words}"),
                None => io_error.to_string(),
            }
        }
        ProgramError::TracePointError(TracePointError::FileError { filename, io_error }) => {
            format!("{}: {io_error}", filename.display())
        }
        // It was loaded: the right to do so is there.
        ProgramError::SyscallError(call)
            if call.call == "bpf_link_create" && errno == Some(libc_errno::EPERM) =>
        {
            return format!(
                "{} (another program may have this hook to itself, attached without \
                 BPF_F_ALLOW_MULTI: `bpftool cgroup tree` shows it)",
                chain(error)
            );
        }
        _ => chain(error),
    };
    with_hint(text, errno)
}

/// The verifier ends with statistics; its verdict is the line before them.
fn last_words(log: &str) -> Option<String> {
    let statistic = |l: &&str| {
        l.starts_with("processed ")
            || l.starts_with("verification time")
            || l.starts_with("stack depth")
            || l.starts_with("peak_states")
    };
    log.lines()
        .map(|l| l.trim_matches(|c: char| c.is_whitespace() || c == '\0'))
        .filter(|l| !l.is_empty())
        .rfind(|l| !statistic(l))
        .map(|l| l.chars().filter(|c| !c.is_control()).take(200).collect())
}

fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

fn errno_in(error: &(dyn StdError + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(code) = cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(code);
        }
        next = cause.source();
    }
    None
}

fn with_hint(text: String, errno: Option<i32>) -> String {
    match errno {
        Some(libc_errno::EPERM | libc_errno::EACCES) => format!(
            "{text} (needs root, or CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN; on \
             Linux before 5.11 also a high RLIMIT_MEMLOCK; kernel lockdown in mode \
             \"confidentiality\" forbids it, see /sys/kernel/security/lockdown)"
        ),
        Some(libc_errno::ENOMEM) => format!("{text} (out of memory: try a smaller ring buffer)"),
        Some(libc_errno::ENOSYS) => format!("{text} (this kernel has no BPF)"),
        _ => text,
    }
}

mod libc_errno {
    pub(super) const EPERM: i32 = nix::errno::Errno::EPERM as i32;
    pub(super) const EACCES: i32 = nix::errno::Errno::EACCES as i32;
    pub(super) const ENOMEM: i32 = nix::errno::Errno::ENOMEM as i32;
    pub(super) const ENOSYS: i32 = nix::errno::Errno::ENOSYS as i32;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_stands_before_the_statistics() {
        let log = "0: (bf) r6 = r1\nunknown func bpf_get_current_pid_tgid#14\nprocessed 3 insns (limit 1000000) max_states_per_insn 0\n\n\0";
        assert_eq!(last_words(log).as_deref(), Some("unknown func bpf_get_current_pid_tgid#14"));
        assert_eq!(last_words("processed 3 insns"), None);
    }

    #[test]
    fn permission_gets_a_hint() {
        assert!(with_hint("x".into(), Some(1)).contains("CAP_BPF"));
        assert_eq!(with_hint("x".into(), None), "x");
    }
}
