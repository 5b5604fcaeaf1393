//! What can be broken around one pod, without the others noticing: rules for its address.

use anyhow::Result;

use crate::lab::{Pod, net};

/// Something wrong between one pod and its resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodFault {
    /// Its first query of this type is lost on the way to the resolver; the next ones are not.
    FirstLost(Qtype),
    /// All its queries are lost on the way.
    AllLost,
    /// Its TCP to port 53 is dropped on the way.
    TcpDropped,
}

/// A type of query, as bytes of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qtype {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
}

impl PodFault {
    /// Makes it so.
    pub fn apply(self, pod: &Pod) -> Result<()> {
        let before_routing = ["-t", "raw", "-I", "PREROUTING", "-s", &pod.ip];
        let rule: &[&str] = match self {
            Self::FirstLost(qtype) => {
                // Type and class, as they end a question; `nth` with a long period hits the first only.
                let question = match qtype {
                    Qtype::A => "|0000010001|",
                    Qtype::Aaaa => "|00001c0001|",
                };
                &[
                    "-p",
                    "udp",
                    "--dport",
                    "53",
                    "-m",
                    "string",
                    "--algo",
                    "bm",
                    "--hex-string",
                    question,
                    "-m",
                    "statistic",
                    "--mode",
                    "nth",
                    "--every",
                    "100000",
                    "--packet",
                    "0",
                ]
            }
            Self::AllLost => &["-p", "udp", "--dport", "53"],
            Self::TcpDropped => &["-p", "tcp", "--dport", "53"],
        };
        let rule = [&before_routing[..], rule, &["-j", "DROP"]].concat();
        net::iptables(net::NODE, &rule)
    }
}
