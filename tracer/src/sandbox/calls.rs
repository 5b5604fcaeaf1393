//! The system calls that are left to the sandboxed process (seccomp): those of reading and writing
//! what is open, of memory, time and its own end. Everything else fails with EPERM.

use std::collections::BTreeMap;
use std::io;

use nix::libc;
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

use super::checked;

/// Calls whose arguments do not matter. What names a path, an address, a process or a new
/// descriptor is not among them.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_recvfrom,
    libc::SYS_ppoll,
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// What a terminal is asked, and whether a descriptor blocks. Not: what types into a terminal.
const IOCTLS: [libc::Ioctl; 4] = [libc::TCGETS, libc::TCGETS2, libc::TIOCGWINSZ, libc::FIONBIO];
const FCNTLS: [libc::c_int; 3] = [libc::F_GETFD, libc::F_GETFL, libc::F_SETFL];

/// In words, or why it is not in force.
pub(super) fn restrict() -> Result<String, String> {
    let program = program().map_err(|error| format!("seccomp ({error})"))?;
    load(&program).map_err(|error| format!("seccomp ({error})"))?;
    Ok("seccomp".to_owned())
}

fn program() -> Result<BpfProgram, BackendError> {
    let refuse = SeccompAction::Errno(libc::EPERM as u32);
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules()?, refuse, SeccompAction::Allow, arch)?.try_into()
}

fn rules() -> Result<BTreeMap<i64, Vec<SeccompRule>>, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    // Memory is never code.
    let no_code = vec![rule(2, Dword, MaskedEq(libc::PROT_EXEC as u64), 0)?];
    rules.insert(libc::SYS_mmap, no_code.clone());
    rules.insert(libc::SYS_mprotect, no_code);
    // To where the socket is connected, and nowhere else.
    rules.insert(libc::SYS_sendto, vec![rule(4, Qword, Eq, 0)?]);
    // abort() signals its own process.
    rules.insert(libc::SYS_tgkill, vec![rule(0, Dword, Eq, std::process::id().into())?]);
    let ioctls = IOCTLS.iter().map(|request| rule(1, Dword, Eq, u64::from(*request as u32)));
    rules.insert(libc::SYS_ioctl, ioctls.collect::<Result<_, _>>()?);
    let fcntls = FCNTLS.iter().map(|command| rule(1, Dword, Eq, *command as u64));
    rules.insert(libc::SYS_fcntl, fcntls.collect::<Result<_, _>>()?);
    Ok(rules)
}

fn rule(
    argument: u8,
    length: SeccompCmpArgLen,
    how: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, length, how, value)?])
}

/// Installs it. Not with the crate's own function, which leaves no choice of flags: kernels before
/// 5.16 would slow all memory access down (they take a filter for a guest's code in this process).
fn load(program: &BpfProgram) -> io::Result<()> {
    let filter: Vec<libc::sock_filter> = program
        .iter()
        .map(|at| libc::sock_filter { code: at.code, jt: at.jt, jf: at.jf, k: at.k })
        .collect();
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel copies the program, which outlives the call, and writes to none of it.
    checked(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const program,
        )
    })
    .map(drop)
}
