//! The one table of probes: what each is called, where it hooks, how much we need it.

use tracer_common::{bodies::role, record::probe};

/// How much a probe is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Without it svctrace does not start.
    Mandatory,
    /// On by default, can be switched off; its absence is reported.
    Detail,
    /// Used where the kernel has it; its absence is reported.
    Optional,
}

/// What a probe is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Each target's cgroup.
    Target,
    /// Each resolver's cgroup.
    Resolver,
    /// The root of the cgroup v2 tree.
    Root,
    /// The whole kernel.
    Global,
    /// Each target's network namespace.
    Namespace,
}

/// The kind of hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// cgroup connect/sendmsg/recvmsg.
    SocketAddress,
    /// cgroup socket release.
    SocketRelease,
    /// cgroup packets towards sockets.
    Ingress,
    /// cgroup packets from sockets.
    Egress,
    /// cgroup TCP callbacks.
    SocketOps,
    /// The filter of a packet socket.
    SocketFilter,
    /// A tracepoint: category and name.
    Tracepoint(&'static str, &'static str),
}

/// One kernel program and where it goes.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Name of the program in the object.
    pub program: &'static str,
    /// Number in the records and counters (`tracer_common::record::probe`).
    pub number: u16,
    /// The hook.
    pub hook: Hook,
    /// How much it is needed.
    pub level: Level,
    /// What it is attached to.
    pub place: Place,
}

impl Probe {
    /// The hook as kernel people write it.
    pub fn hook_name(&self) -> String {
        match self.hook {
            Hook::SocketAddress => format!("cgroup/{}", self.program),
            Hook::SocketRelease => "cgroup/sock_release".to_owned(),
            Hook::Ingress => "cgroup_skb/ingress".to_owned(),
            Hook::Egress => "cgroup_skb/egress".to_owned(),
            Hook::SocketOps => "sock_ops".to_owned(),
            Hook::SocketFilter => "socket/AF_PACKET".to_owned(),
            Hook::Tracepoint(category, name) => format!("{category}:{name}"),
        }
    }

    /// The role under which a cgroup carries this probe; 0 for probes that no cgroup's role asks for.
    pub fn role(&self) -> u8 {
        match self.place {
            Place::Target => role::TARGET,
            Place::Resolver => role::RESOLVER,
            Place::Root | Place::Global | Place::Namespace => 0,
        }
    }
}

const fn cgroup(
    program: &'static str,
    number: u16,
    hook: Hook,
    place: Place,
    level: Level,
) -> Probe {
    Probe { program, number, hook, level, place }
}

const fn tracepoint(
    program: &'static str,
    number: u16,
    at: (&'static str, &'static str),
    level: Level,
) -> Probe {
    Probe { program, number, hook: Hook::Tracepoint(at.0, at.1), level, place: Place::Global }
}

macro_rules! syscalls {
    ($($number:ident $enter:literal $on_enter:literal $exit:literal $on_exit:literal)*) => {
        [$(
            tracepoint($enter, probe::$number, ("syscalls", $on_enter), Level::Detail),
            tracepoint($exit, probe::$number, ("syscalls", $on_exit), Level::Detail),
        )*]
    };
}

/// Probes on cgroups and processes.
pub const PROBES: [Probe; 18] = {
    use Hook::{Egress, Ingress, SocketAddress, SocketOps, SocketRelease};
    use Level::{Mandatory, Optional};
    use Place::{Resolver, Root, Target};
    [
        cgroup("connect4", probe::CONNECT4, SocketAddress, Target, Mandatory),
        cgroup("connect6", probe::CONNECT6, SocketAddress, Target, Mandatory),
        cgroup("sendmsg4", probe::SENDMSG4, SocketAddress, Target, Mandatory),
        cgroup("sendmsg6", probe::SENDMSG6, SocketAddress, Target, Mandatory),
        cgroup("recvmsg4", probe::RECVMSG4, SocketAddress, Target, Mandatory),
        cgroup("recvmsg6", probe::RECVMSG6, SocketAddress, Target, Mandatory),
        cgroup("sock_release", probe::SOCK_RELEASE, SocketRelease, Target, Optional),
        cgroup("resolver_sock_release", probe::SOCK_RELEASE, SocketRelease, Resolver, Optional),
        cgroup("target_egress", probe::TARGET_EGRESS, Egress, Target, Mandatory),
        cgroup("target_ingress", probe::TARGET_INGRESS, Ingress, Target, Mandatory),
        cgroup("resolver_egress", probe::RESOLVER_EGRESS, Egress, Resolver, Mandatory),
        cgroup("resolver_ingress", probe::RESOLVER_INGRESS, Ingress, Resolver, Mandatory),
        cgroup("target_sock_ops", probe::TARGET_SOCK_OPS, SocketOps, Target, Mandatory),
        cgroup("peer_sock_ops", probe::PEER_SOCK_OPS, SocketOps, Root, Optional),
        tracepoint("process_exec", probe::PROCESS_EXEC, ("sched", "sched_process_exec"), Mandatory),
        tracepoint("process_exit", probe::PROCESS_EXIT, ("sched", "sched_process_exit"), Mandatory),
        tracepoint("cgroup_mkdir", probe::CGROUP_MKDIR, ("cgroup", "cgroup_mkdir"), Mandatory),
        tracepoint("cgroup_rmdir", probe::CGROUP_RMDIR, ("cgroup", "cgroup_rmdir"), Mandatory),
    ]
};

/// Probes on system calls: they cost every call of the node, so they can be switched off.
pub const SYSCALLS: [Probe; 14] = syscalls! {
    SYS_CONNECT "enter_connect" "sys_enter_connect" "exit_connect" "sys_exit_connect"
    SYS_SENDTO "enter_sendto" "sys_enter_sendto" "exit_sendto" "sys_exit_sendto"
    SYS_SENDMSG "enter_sendmsg" "sys_enter_sendmsg" "exit_sendmsg" "sys_exit_sendmsg"
    SYS_SENDMMSG "enter_sendmmsg" "sys_enter_sendmmsg" "exit_sendmmsg" "sys_exit_sendmmsg"
    SYS_RECVFROM "enter_recvfrom" "sys_enter_recvfrom" "exit_recvfrom" "sys_exit_recvfrom"
    SYS_RECVMSG "enter_recvmsg" "sys_enter_recvmsg" "exit_recvmsg" "sys_exit_recvmsg"
    SYS_RECVMMSG "enter_recvmmsg" "sys_enter_recvmmsg" "exit_recvmmsg" "sys_exit_recvmmsg"
};

/// What comes to a target's network namespace (`--wire`).
pub const WIRE: Probe = Probe {
    program: "wire",
    number: probe::WIRE,
    hook: Hook::SocketFilter,
    level: Level::Optional,
    place: Place::Namespace,
};

/// Name of a probe number, for loss reports; `None` for numbers that this version does not know.
pub fn name(number: u16) -> Option<&'static str> {
    if number == probe::SOCK_RELEASE {
        return Some("sock_release");
    }
    PROBES
        .iter()
        .map(|p| (p.number, p.program))
        .chain([(WIRE.number, WIRE.program)])
        .chain(SYSCALLS.iter().map(|p| (p.number, p.program.trim_start_matches("enter_"))))
        .find(|(n, _)| *n == number)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn programs_are_unique_and_numbers_fit_the_counters() {
        let all: Vec<_> = PROBES.iter().chain(&SYSCALLS).chain([&WIRE]).collect();
        let names: HashSet<_> = all.iter().map(|p| p.program).collect();
        assert_eq!(names.len(), all.len());
        assert!(all.iter().all(|p| u32::from(p.number) < tracer_common::limits::PROBES_MAX));
    }

    #[test]
    fn names_by_number() {
        assert_eq!(name(probe::SYS_SENDMMSG), Some("sendmmsg"));
        assert_eq!(name(probe::TARGET_INGRESS), Some("target_ingress"));
        assert_eq!(name(63), None);
    }
}
