//! The two DNS servers: the cluster's (standing in for CoreDNS) and the upstream outside.
//! Both are dnsmasq; whether the upstream answers or stays silent is a fault, not its setup.

use std::fmt::Write;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::Result;

use super::net;
use super::server::{CLUSTER_NAMES, cluster_address};
use super::services::SERVICES;

/// Addresses of the name `crowd`.
const CROWD: u32 = 300;
const COMMON: &str =
    "port=53\nuser=root\nno-hosts\nbind-interfaces\ninterface=eth0\nno-poll\npid-file=\n";

/// The cluster's server: knows cluster.local, forwards the rest to what its resolv.conf says.
pub(crate) fn cluster_config() -> String {
    let mut text =
        format!("{COMMON}resolv-file=/etc/resolv.conf\nlocal=/cluster.local/\nlocal-ttl=30\n");
    for service in &SERVICES {
        let (name, namespace) = (service.name, service.namespace);
        // Writing to a String cannot fail.
        let _ =
            writeln!(text, "host-record={name}.{namespace}.svc.cluster.local,{}", service.address);
    }
    for number in 0..CLUSTER_NAMES {
        let name = format!("svc-{number:02}.critical-app.svc.cluster.local");
        if let Some(address) = cluster_address(&name) {
            let _ = writeln!(text, "host-record={name},{address}");
        }
    }
    // An answer of almost 5,000 bytes.
    for n in 0..CROWD {
        let (high, low) = (n / 250, n % 250 + 1);
        let _ = writeln!(
            text,
            "host-record=crowd.critical-app.svc.cluster.local,10.244.{}.{low}",
            100 + high
        );
    }
    text
}

/// The upstream: knows one name of the outside, everything else does not exist.
pub(crate) fn upstream_config() -> String {
    format!("{COMMON}no-resolv\nhost-record=www.example.com,203.0.113.80\naddress=/#/\n")
}

/// unbound that knows the same.
pub(crate) fn unbound_config() -> String {
    let mut text = String::from(
        "server:\n username: \"\"\n chroot: \"\"\n directory: \"/\"\n pidfile: \"\"\n use-syslog: no\n \
         do-daemonize: no\n interface: 0.0.0.0\n access-control: 0.0.0.0/0 allow\n \
         module-config: \"iterator\"\n num-threads: 1\n so-rcvbuf: 0\n \
         local-zone: \"cluster.local.\" static\n",
    );
    let mut record = |name: &str| {
        if let Some(address) = cluster_address(name) {
            let _ = writeln!(text, " local-data: \"{name}. 30 IN A {address}\"");
        }
    };
    for service in &SERVICES {
        record(&format!("{}.{}.svc.cluster.local", service.name, service.namespace));
    }
    for number in 0..CLUSTER_NAMES {
        record(&format!("svc-{number:02}.critical-app.svc.cluster.local"));
    }
    let _ = writeln!(text, "forward-zone:\n name: \".\"\n forward-addr: {}", net::UPSTREAM_IP);
    text
}

/// Makes the upstream silent, or lets it answer again.
pub(crate) fn set_upstream_silent(silent: bool) -> Result<()> {
    let flag = if silent { "-A" } else { "-D" };
    for protocol in ["udp", "tcp"] {
        net::iptables(
            net::UPSTREAM,
            &[flag, "INPUT", "-p", protocol, "--dport", "53", "-j", "DROP"],
        )?;
    }
    Ok(())
}

/// Drops the client pods' questions in the node, before they reach the resolver; or no longer.
pub(crate) fn set_resolver_silent(silent: bool) -> Result<()> {
    let flag = if silent { "-I" } else { "-D" };
    for protocol in ["udp", "tcp"] {
        let to = ["-p", protocol, "-d", "10.244.1.20", "--dport", "53", "-j", "DROP"];
        net::iptables(net::NODE, &[&[flag, "FORWARD"], &to[..]].concat())?;
    }
    Ok(())
}

/// One packet with a question for AAAA, the first of each thousand, is dropped.
const ONE_AAAA: [&str; 16] = [
    "-m",
    "string",
    "--algo",
    "bm",
    "--hex-string",
    "|00001c0001|",
    "-m",
    "statistic",
    "--mode",
    "nth",
    "--every",
    "1000",
    "--packet",
    "0",
    "-j",
    "DROP",
];

/// Drops the first AAAA question in the node, before it reaches the resolver; or no longer.
pub(crate) fn set_aaaa_lost(lost: bool) -> Result<()> {
    let flag = if lost { "-I" } else { "-D" };
    let to = ["-p", "udp", "-d", "10.244.1.20", "--dport", "53"];
    net::iptables(net::NODE, &[&[flag, "FORWARD"], &to[..], &ONE_AAAA[..]].concat())
}

/// Drops the resolver's first answer about AAAA inside its pod, before it counts as sent.
pub(crate) fn set_aaaa_swallowed(swallowed: bool) -> Result<()> {
    let flag = if swallowed { "-I" } else { "-D" };
    let from = ["-p", "udp", "--sport", "53"];
    net::iptables(&net::of_pod("dns"), &[&[flag, "OUTPUT"], &from[..], &ONE_AAAA[..]].concat())
}

/// Whether a DNS server at `server` answers a question, asked from the current namespace.
pub(crate) fn answers(server: SocketAddr) -> bool {
    // id 1, recursion desired, one question: kubernetes.default.svc.cluster.local A IN
    let mut query = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["kubernetes", "default", "svc", "cluster", "local"] {
        query.push(label.len() as u8);
        query.extend_from_slice(label.as_bytes());
    }
    query.extend_from_slice(&[0, 0, 1, 0, 1]);
    let ask = || -> std::io::Result<usize> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        socket.connect(server)?;
        socket.send(&query)?;
        socket.recv(&mut [0; 512])
    };
    ask().is_ok()
}
