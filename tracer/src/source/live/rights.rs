//! What the agent may still do once its probes are to be loaded, and whom the pipeline process becomes.
//! How rights are given up is the sandbox's business.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Uid;

use super::invoker::{self, Invoker};
use super::{Options, Target, probes};
use crate::sandbox::capabilities::{self, Capability};
use crate::sandbox::{self, NOBODY, User};

/// Needed to the end: pods come and go.
const KEPT: [Capability; 7] = [
    // Probes for new pods, tracepoints, and the cgroups they attach to.
    capabilities::BPF,
    capabilities::PERFMON,
    capabilities::NET_ADMIN,
    // Other pods' processes: resolv.conf, sockets, network namespaces.
    capabilities::SYS_PTRACE,
    capabilities::SYS_ADMIN,
    capabilities::DAC_READ_SEARCH,
    // The pipeline process and the traced command are other users'.
    capabilities::KILL,
];

/// Also, with `--wire`: a packet socket in each target's network namespace.
const KEPT_FOR_WIRE: [Capability; 1] = [capabilities::NET_RAW];

/// Also, where somebody else is behind sudo: plugins of the kubeconfig run as them, and the empty
/// file of a recording that came to nothing is removed as them.
const KEPT_FOR_USER: [Capability; 2] = [capabilities::SETUID, capabilities::SETGID];

/// Also, with a COMMAND: its cgroup is removed from the tree's root, where not even root may write.
const KEPT_FOR_COMMAND: [Capability; 1] = [capabilities::DAC_OVERRIDE];

/// Needed to start the pipeline process as another user, and to end it by force.
const ANOTHER_USER: [Capability; 3] =
    [capabilities::SETUID, capabilities::SETGID, capabilities::KILL];

/// Each target has a dozen descriptors, a full node some hundred targets. Not for what was started before.
fn lift_file_limit() {
    let _ = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
}

/// Gives up, in this thread and all that follow, what no later part of a trace needs.
pub(super) fn give_up(options: &Options, invoker: Option<&Invoker>) -> anyhow::Result<()> {
    probes::lift_memory_limit();
    lift_file_limit();
    let mut kept = KEPT.to_vec();
    if options.wire {
        kept.extend(KEPT_FOR_WIRE);
    }
    if invoker.is_some_and(Invoker::is_another) {
        kept.extend(KEPT_FOR_USER);
    }
    if options.targets.iter().any(|target| matches!(target, Target::Command(_))) {
        kept.extend(KEPT_FOR_COMMAND);
    }
    let confined = sandbox::keep(options.sandbox, &kept)?;
    tracing::info!("sandbox of the agent: {confined}");
    Ok(())
}

/// Whom the pipeline process becomes: the user behind sudo, else nobody; as it is where that is not
/// to be had, or this process is not root's.
pub(super) fn pipeline_user() -> Option<User> {
    let needed = capabilities::mask(&ANOTHER_USER);
    let able = capabilities::permitted().is_ok_and(|has| has & needed == needed);
    let (uid, gid) = invoker::owner().unwrap_or((NOBODY, NOBODY));
    (able && Uid::effective().is_root()).then_some(User { uid, gid })
}
