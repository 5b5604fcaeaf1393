//! Which programs serve DNS in a lab: the cluster's server and the upstream outside.

use std::fs;

use anyhow::Result;

use super::{dns, net, state};
use crate::repo;

/// From here some answers of [`Resolver::Forwarder`] come.
pub(super) const OTHER_ADDRESS: &str = "10.244.1.22";

/// What a lab is made of, where it can differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// Whether the node's resolv.conf leaks its search suffix into the pods.
    pub leak: bool,
    /// The cluster's DNS server.
    pub resolver: Resolver,
    /// The upstream.
    pub upstream: Upstream,
    /// Whether node and pods have IPv6 addresses, too.
    pub ipv6: bool,
    /// Whether a cache runs on the node, at 169.254.20.10, that asks the cluster's server over TCP.
    pub node_local: bool,
}

/// The program that is the cluster's DNS server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resolver {
    /// dnsmasq.
    #[default]
    Dnsmasq,
    /// unbound.
    Unbound,
    /// A forwarder of ours with CoreDNS's timing.
    Forwarder,
    /// The same, walking the search list for its clients.
    Autopath,
    /// The same as the forwarder, keeping its sockets to the upstream.
    Keeping,
}

impl Resolver {
    /// The program that must be installed for it.
    pub fn program(self) -> Option<&'static str> {
        match self {
            Self::Dnsmasq => Some("dnsmasq"),
            Self::Unbound => Some("unbound"),
            Self::Forwarder | Self::Autopath | Self::Keeping => None,
        }
    }

    /// As people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dnsmasq => "dnsmasq",
            Self::Unbound => "unbound",
            Self::Forwarder => "CoreDNS's timing",
            Self::Autopath => "CoreDNS's timing, autopath",
            Self::Keeping => "CoreDNS's timing, sockets kept",
        }
    }

    pub(super) fn words(self) -> Result<Vec<String>> {
        match self {
            Self::Dnsmasq => dnsmasq("coredns.conf", &dns::cluster_config()),
            Self::Unbound => {
                let config = state::folder().join("unbound.conf");
                fs::write(&config, dns::unbound_config())?;
                Ok(["unbound", "-d", "-c", &config.display().to_string()].map(str::to_owned).into())
            }
            Self::Forwarder => own(&[
                "--forward",
                "10.99.0.53:53",
                "--listen",
                "10.244.1.20:53",
                "--other-address",
                OTHER_ADDRESS,
            ]),
            Self::Autopath => {
                own(&["--forward", "10.99.0.53:53", "--listen", "10.244.1.20:53", "--autopath"])
            }
            Self::Keeping => {
                own(&["--forward", "10.99.0.53:53", "--listen", "10.244.1.20:53", "--keep"])
            }
        }
    }
}

/// The DNS server outside the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Upstream {
    /// dnsmasq that knows one name.
    #[default]
    Plain,
    /// A server of ours that treats each zone below `example` in its own way.
    Zones,
}

impl Upstream {
    pub(super) fn words(self) -> Result<Vec<String>> {
        match self {
            Self::Plain => dnsmasq("upstream.conf", &dns::upstream_config()),
            Self::Zones => own(&["--listen", &format!("{}:53", net::UPSTREAM_IP)]),
        }
    }
}

fn dnsmasq(file: &str, config: &str) -> Result<Vec<String>> {
    let path = state::folder().join(file);
    fs::write(&path, config)?;
    let config = format!("--conf-file={}", path.display());
    Ok(vec!["dnsmasq".to_owned(), "--keep-in-foreground".to_owned(), config])
}

pub(super) fn own(args: &[&str]) -> Result<Vec<String>> {
    let program = repo::xtask()?.display().to_string();
    let words = [&program, "lab-dns"].into_iter().chain(args.iter().copied());
    Ok(words.map(str::to_owned).collect())
}
