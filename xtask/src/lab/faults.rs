//! What can be broken in a running lab. Each fault can be lifted again, but for a killed server.

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Lab, Role, dns, pause};

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The upstream DNS server answers nothing.
    UpstreamSilent,
    /// Questions to the cluster's DNS server vanish on the node before they reach it.
    ResolverSilent,
    /// The cluster's DNS server has died; its pod's kernel refuses.
    ResolverDown,
    /// The first AAAA question vanishes on the node, as the loser of a conntrack race does.
    AaaaLost,
    /// The cluster's DNS server gets the first AAAA question, and its answer never leaves its pod.
    AaaaSwallowed,
}

impl Fault {
    /// Makes it so.
    pub fn apply(self, lab: &Lab) -> Result<()> {
        match self {
            Self::UpstreamSilent => dns::set_upstream_silent(true),
            Self::ResolverSilent => dns::set_resolver_silent(true),
            Self::ResolverDown => kill_resolver(lab),
            Self::AaaaLost => dns::set_aaaa_lost(true),
            Self::AaaaSwallowed => dns::set_aaaa_swallowed(true),
        }
    }

    /// Ends it; a dead resolver stays dead.
    pub fn lift(self) -> Result<()> {
        match self {
            Self::UpstreamSilent => dns::set_upstream_silent(false),
            Self::ResolverSilent => dns::set_resolver_silent(false),
            Self::ResolverDown => Ok(()),
            Self::AaaaLost => dns::set_aaaa_lost(false),
            Self::AaaaSwallowed => dns::set_aaaa_swallowed(false),
        }
    }
}

fn kill_resolver(lab: &Lab) -> Result<()> {
    for pod in lab.world.pods.iter().filter(|pod| pod.role == Role::Resolver) {
        kill(Pid::from_raw(pod.main_pid), Signal::SIGKILL)?;
        // Its socket is closed when its cgroup is empty.
        while !super::cgroups::processes(&pod.cgroup).is_empty() {
            pause();
        }
    }
    Ok(())
}
