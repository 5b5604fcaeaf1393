//! The lab's Services: one table, from which come the DNS names, kube-proxy's iptables rules and
//! the API objects. The rules have kube-proxy's shape (iptables mode); chain names are readable.

use std::fmt::Write;

/// A protocol of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// As the API writes it.
    pub(crate) fn upper(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// One port of a Service.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// The port's name.
    pub name: &'static str,
    /// Its protocol.
    pub protocol: Protocol,
    /// The Service's port.
    pub port: u16,
    /// The port at the endpoints.
    pub target: u16,
}

/// What stands behind a Service address.
#[derive(Clone, Copy, Debug)]
pub enum Backing {
    /// These addresses: last bytes in 10.244.1.0/24.
    Hosts(&'static [u8]),
    /// Nothing; kube-proxy rejects.
    None,
    /// Nothing on this node with `internalTrafficPolicy: Local`; kube-proxy drops.
    NotLocal,
}

/// A Service.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// Its namespace.
    pub namespace: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its cluster address.
    pub address: &'static str,
    /// Its ports.
    pub ports: &'static [Port],
    /// Its endpoints.
    pub backing: Backing,
    /// The label its selector asks for.
    pub selector: Option<(&'static str, &'static str)>,
}

const fn tcp(name: &'static str, port: u16, target: u16) -> Port {
    Port { name, protocol: Protocol::Tcp, port, target }
}

/// The address pods ask for names.
pub const DNS_ADDRESS: &str = "10.96.0.10";

/// Every Service of the lab.
pub const SERVICES: [Service; 6] = [
    Service {
        namespace: "default",
        name: "kubernetes",
        address: "10.96.0.1",
        ports: &[tcp("https", 443, 6443)],
        backing: Backing::Hosts(&[1]),
        selector: None,
    },
    Service {
        namespace: "kube-system",
        name: "kube-dns",
        address: DNS_ADDRESS,
        ports: &[
            Port { name: "dns", protocol: Protocol::Udp, port: 53, target: 53 },
            tcp("dns-tcp", 53, 53),
        ],
        backing: Backing::Hosts(&[20]),
        selector: Some(("k8s-app", "kube-dns")),
    },
    Service {
        namespace: "critical-app",
        name: "backend",
        address: "10.96.100.50",
        ports: &[tcp("http", 80, 8080)],
        backing: Backing::Hosts(&[31, 32, 33]),
        selector: Some(("app", "backend")),
    },
    Service {
        namespace: "critical-app",
        name: "refused",
        address: "10.96.100.97",
        ports: &[tcp("http", 80, 9999)],
        backing: Backing::Hosts(&[31]),
        selector: Some(("app", "backend")),
    },
    Service {
        namespace: "critical-app",
        name: "localonly",
        address: "10.96.100.98",
        ports: &[tcp("http", 80, 8080)],
        backing: Backing::NotLocal,
        selector: Some(("app", "elsewhere")),
    },
    Service {
        namespace: "critical-app",
        name: "noendpoints",
        address: "10.96.100.99",
        ports: &[tcp("http", 80, 8080)],
        backing: Backing::None,
        selector: Some(("app", "nowhere")),
    },
];

/// Input for iptables-restore: what kube-proxy would program for [`SERVICES`].
pub(crate) fn iptables_rules() -> String {
    let mut filter = String::new();
    let mut chains = String::new();
    let mut nat = String::new();
    for service in &SERVICES {
        for port in service.ports {
            match service.backing {
                Backing::Hosts(hosts) => destination(service, port, hosts, &mut chains, &mut nat),
                Backing::None => refusal(
                    service,
                    port,
                    "has no endpoints",
                    "REJECT --reject-with icmp-port-unreachable",
                    &mut filter,
                ),
                Backing::NotLocal => {
                    refusal(service, port, "has no local endpoints", "DROP", &mut filter);
                }
            }
        }
    }
    format!(
        "*filter\n{FILTER_HEAD}{filter}COMMIT\n*nat\n{NAT_CHAINS}{chains}{NAT_HEAD}{nat}{NAT_TAIL}COMMIT\n"
    )
}

const FILTER_HEAD: &str = "\
:KUBE-SERVICES - [0:0]
:KUBE-FORWARD - [0:0]
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
";

const NAT_CHAINS: &str = "\
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
";

const NAT_HEAD: &str = "\
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
";

const NAT_TAIL: &str = "\
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully
";

fn destination(
    service: &Service,
    port: &Port,
    hosts: &[u8],
    chains: &mut String,
    nat: &mut String,
) {
    let protocol = port.protocol.lower();
    let name = format!("{}-{}", service.name, port.name).to_uppercase();
    let (to, dport, target) = (service.address, port.port, port.target);
    let full = format!("{}/{}:{}", service.namespace, service.name, port.name);
    // Writing to a String cannot fail.
    let _ = writeln!(chains, ":KUBE-SVC-{name} - [0:0]");
    let _ = writeln!(
        nat,
        "-A KUBE-SERVICES -d {to}/32 -p {protocol} -m comment --comment \"{full} cluster IP\" -m {protocol} --dport {dport} -j KUBE-SVC-{name}\n\
         -A KUBE-SVC-{name} ! -s 10.244.0.0/16 -d {to}/32 -p {protocol} -m {protocol} --dport {dport} -j KUBE-MARK-MASQ"
    );
    for (index, host) in hosts.iter().enumerate() {
        let left = hosts.len() - index;
        let dice = match left {
            1 => String::new(),
            _ => format!(" -m statistic --mode random --probability {:.11}", 1.0 / left as f64),
        };
        let end = format!("KUBE-SEP-{name}-{host}");
        let _ = writeln!(chains, ":{end} - [0:0]");
        let _ = writeln!(
            nat,
            "-A KUBE-SVC-{name} -m comment --comment \"{full} -> 10.244.1.{host}:{target}\"{dice} -j {end}\n\
             -A {end} -s 10.244.1.{host}/32 -j KUBE-MARK-MASQ\n\
             -A {end} -p {protocol} -m {protocol} -j DNAT --to-destination 10.244.1.{host}:{target}"
        );
    }
}

fn refusal(service: &Service, port: &Port, why: &str, verdict: &str, filter: &mut String) {
    let protocol = port.protocol.lower();
    let _ = writeln!(
        filter,
        "-A KUBE-SERVICES -d {}/32 -p {protocol} -m comment --comment \"{}/{} {why}\" -m {protocol} --dport {} -j {verdict}",
        service.address, service.namespace, service.name, port.port
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_backends_share_evenly() {
        let rules = iptables_rules();
        assert!(rules.contains("--probability 0.33333333333 -j KUBE-SEP-BACKEND-HTTP-31"));
        assert!(rules.contains("--probability 0.50000000000 -j KUBE-SEP-BACKEND-HTTP-32"));
        assert!(rules.contains("10.244.1.33:8080\" -j KUBE-SEP-BACKEND-HTTP-33"));
    }

    #[test]
    fn chain_names_fit_iptables() {
        for line in iptables_rules().lines().filter(|line| line.starts_with(':')) {
            let name = line.trim_start_matches(':').split(' ').next().unwrap();
            assert!(name.len() <= 28, "{name}");
        }
    }
}
