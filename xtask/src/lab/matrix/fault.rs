//! What can be broken, or only be different, around one pod without the others noticing.

use anyhow::Result;

use crate::lab::services::DNS_ADDRESS;
use crate::lab::{Lab, Pod, net, setup};

/// Something about one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodFault {
    /// Its first query of this type is lost on the way to the resolver; the next ones are not.
    FirstLost(Qtype),
    /// All its queries are lost on the way.
    AllLost,
    /// The same of the first AAAA query, but it is conntrack that refuses it, in the resolver's pod: another
    /// flow has the place of its replies.
    Refused,
    /// Its TCP to port 53 is dropped on the way, and its kernel gives a connect up after 3 s.
    TcpDropped,
    /// Its TCP to port 53 is refused in the resolver's pod.
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
            Self::FirstLost(qtype) => drop(&first(qtype)),
            Self::AllLost => drop(&["-p", "udp", "--dport", "53"]),
            Self::TcpDropped => {
                net::settings(&netns, &[("net/ipv4/tcp_syn_retries", "1")])?;
                drop(&["-p", "tcp", "--dport", "53"])
            }
            Self::Prohibited => {
                let to = ["-I", "FORWARD", "-s", &pod.ip, "-p", "udp", "--dport", "53"];
                let refuse = ["-j", "REJECT", "--reject-with", "icmp-admin-prohibited"];
                net::iptables(net::NODE, &[&to[..], &refuse].concat())
            }
            Self::AnswersDropped => {
                net::iptables(&netns, &["-I", "INPUT", "-p", "udp", "--sport", "53", "-j", "DROP"])
            }
            Self::TcpRefused => {
                let to = ["-I", "INPUT", "-s", &pod.ip, "-p", "tcp", "--dport", "53"];
                let refuse = ["-j", "REJECT", "--reject-with", "tcp-reset"];
                net::iptables(&net::of_pod("dns"), &[&to[..], &refuse].concat())
            }
            Self::Refused => refused(&pod, &netns),
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

/// Its first query of this type. The statistic's period is so long that there is no second.
fn first(qtype: Qtype) -> Vec<&'static str> {
    // Type and class, as they end a question.
    let question = if qtype == Qtype::A { "|0000010001|" } else { "|00001c0001|" };
    let text = ["-m", "string", "--algo", "bm", "--hex-string", question];
    let once = ["-m", "statistic", "--mode", "nth", "--every", "100000", "--packet", "0"];
    [&["-p", "udp", "--dport", "53"][..], &text, &once].concat()
}

/// The query gets a zone of its own in the resolver's pod, where its replies would be taken for another flow's.
fn refused(pod: &Pod, netns: &str) -> Result<()> {
    one_port(netns)?;
    let (dns, resolver) = (net::of_pod("dns"), "10.244.1.20");
    let zone = pod.ip.rsplit('.').next().unwrap_or("1").to_owned();
    let from = ["-t", "raw", "-I", "PREROUTING", "-s", &pod.ip];
    let there = ["-j", "CT", "--zone", &zone];
    net::iptables(&dns, &[&from[..], &first(Qtype::Aaaa), &there].concat())?;
    let other = ["-I", "-w", &zone, "-p", "udp", "-t", "120", "-s", &pod.ip, "-d", GONE];
    let ports = ["--sport", PORT, "--dport", "53"];
    let back = ["-r", resolver, "-q", &pod.ip, "--reply-port-src", "53", "--reply-port-dst", PORT];
    net::tool(&dns, "conntrack", &[&other[..], &ports, &back].concat())
}

fn one_port(netns: &str) -> Result<()> {
    net::settings(netns, &[("net/ipv4/ip_local_port_range", "5353 5353")])
}
