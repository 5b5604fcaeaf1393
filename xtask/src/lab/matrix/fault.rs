//! What can be broken, or only be different, around one pod without the others noticing.

use anyhow::Result;

use crate::lab::services::DNS_ADDRESS;
use crate::lab::{Lab, net, setup};

/// Something about one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodFault {
    /// Its first query of this type is lost on the way to the resolver; the next ones are not.
    FirstLost(Qtype),
    /// All its queries are lost on the way.
    AllLost,
    /// Its TCP to port 53 is dropped on the way.
    TcpDropped,
    /// Its TCP to port 53 is refused on the way.
    TcpRefused,
    /// Its queries are refused on the way, as a firewall does that says so.
    Prohibited,
    /// Answers of port 53 are dropped inside the pod, in front of its sockets.
    AnswersDropped,
    /// It has no IPv4 address.
    NoIpv4,
    /// All its sockets get the same port, as long as there is one at a time.
    OnePort,
    /// The same, and the node still translates what comes from that port to a resolver that is gone.
    StaleConntrack,
    /// What it asks its nameserver goes to a proxy on another port in the pod.
    LocalProxy,
}

/// A type of query, as bytes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qtype {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
}

const PORT: &str = "5353";
/// Nobody has this address.
const GONE: &str = "10.244.1.77";
const PROXY: &str = "127.0.0.1:15053";

impl PodFault {
    /// Makes it so.
    pub fn apply(self, lab: &mut Lab, name: &str) -> Result<()> {
        let pod = lab.pod(name)?.clone();
        let netns = net::of_pod(&pod.key);
        let drop = |rule: &[&str]| {
            let from = ["-t", "raw", "-I", "PREROUTING", "-s", &pod.ip];
            net::iptables(net::NODE, &[&from[..], rule, &["-j", "DROP"]].concat())
        };
        match self {
            Self::FirstLost(qtype) => {
                // Type and class, as they end a question.
                let question = if qtype == Qtype::A { "|0000010001|" } else { "|00001c0001|" };
                let matching = ["-m", "string", "--algo", "bm", "--hex-string", question];
                // With a long period, the first only.
                let once =
                    ["-m", "statistic", "--mode", "nth", "--every", "100000", "--packet", "0"];
                drop(&[&["-p", "udp", "--dport", "53"][..], &matching, &once].concat())
            }
            Self::AllLost => drop(&["-p", "udp", "--dport", "53"]),
            Self::TcpDropped => drop(&["-p", "tcp", "--dport", "53"]),
            Self::TcpRefused => {
                let to = ["-I", "FORWARD", "-s", &pod.ip, "-p", "tcp", "--dport", "53"];
                let refuse = ["-j", "REJECT", "--reject-with", "tcp-reset"];
                net::iptables(net::NODE, &[&to[..], &refuse].concat())
            }
            Self::Prohibited => {
                let to = ["-I", "FORWARD", "-s", &pod.ip, "-p", "udp", "--dport", "53"];
                let refuse = ["-j", "REJECT", "--reject-with", "icmp-admin-prohibited"];
                net::iptables(net::NODE, &[&to[..], &refuse].concat())
            }
            Self::AnswersDropped => {
                net::iptables(&netns, &["-I", "INPUT", "-p", "udp", "--sport", "53", "-j", "DROP"])
            }
            Self::NoIpv4 => net::remove_ipv4(&netns),
            Self::OnePort => one_port(&netns),
            Self::StaleConntrack => {
                one_port(&netns)?;
                // Silence, as from a pod whose node is still there; not the kernel's "no such host".
                net::iptables(net::NODE, &["-I", "FORWARD", "-d", GONE, "-j", "DROP"])?;
                let from = ["-I", "-p", "udp", "-t", "120", "-s", &pod.ip, "-d", DNS_ADDRESS];
                let ports = ["--sport", PORT, "--dport", "53"];
                let back =
                    ["-r", GONE, "-q", &pod.ip, "--reply-port-src", "53", "--reply-port-dst", PORT];
                net::tool(net::NODE, "conntrack", &[&from[..], &ports, &back].concat())
            }
            Self::LocalProxy => {
                let args = ["--listen", PROXY, "--forward", "10.244.1.20:53", "--knows-nothing"];
                lab.start_in_pod(name, &setup::own(&args)?)?;
                let asked = ["-t", "nat", "-A", "OUTPUT", "-p", "udp", "-d", DNS_ADDRESS];
                let there = ["--dport", "53", "-j", "REDIRECT", "--to-ports", "15053"];
                net::iptables(&netns, &[&asked[..], &there].concat())
            }
        }
    }
}

fn one_port(netns: &str) -> Result<()> {
    net::settings(netns, &[("net/ipv4/ip_local_port_range", "5353 5353")])
}
