//! `cargo xtask bench`: measurements, each against its peer in one run. What is measured is in the
//! files beside this one.

mod attach;
mod dns;
mod identity;
mod instructions;
mod live;
mod load;
mod measure;
mod page;
mod replay;
mod tracing;

use anyhow::Result;

/// What to measure.
#[derive(clap::Subcommand)]
pub(crate) enum What {
    /// Start to `svctrace: attached`, with and without the API endpoint
    Attach(attach::Options),
    /// DNS messages a second on one core, against tcpdump
    Dns(dns::Options),
    /// Time and memory for the names of a large cluster
    Identity(identity::Options),
    /// Instructions of small replays, against those that docs/performance.md has
    Instructions(instructions::Options),
    /// What tracing costs a pod, its neighbours and the node, against tcpdump
    Live(live::Options),
    /// Replays against sysdig, tcpdump and tshark, and of captures a hundred times as long
    Replay(replay::Options),
}

impl What {
    /// Only what traces needs root.
    pub(crate) fn needs_root(&self) -> bool {
        matches!(self, Self::Attach(_) | Self::Identity(_) | Self::Live(_))
    }
}

/// Measures it.
pub(crate) fn run(what: &What) -> Result<()> {
    match what {
        What::Attach(options) => attach::run(options),
        What::Dns(options) => dns::run(options),
        What::Instructions(options) => instructions::run(options),
        What::Identity(options) => identity::run(options),
        What::Live(options) => live::run(options),
        What::Replay(options) => replay::run(options),
    }
}
