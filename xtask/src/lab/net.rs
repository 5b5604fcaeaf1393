//! Network namespaces, bridge, veth pairs and addresses; the kernel settings the lab depends on.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::spawn;
use crate::cmd;

/// Every name of ours begins with this.
pub const PREFIX: &str = "svct-";
/// The node: bridge, routing, kube-proxy's rules, the API endpoint.
pub const NODE: &str = "svct-node";
/// The world outside: the DNS server the node was told to use.
pub const UPSTREAM: &str = "svct-upstream";
/// The node's address on the pod bridge.
pub const NODE_IP: &str = "10.244.1.1";
/// The address of the upstream DNS server.
pub const UPSTREAM_IP: &str = "10.99.0.53";

/// The file behind a namespace's name.
pub fn path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// The name of a pod's namespace.
pub(crate) fn of_pod(key: &str) -> String {
    format!("{PREFIX}{key}")
}

fn batch(netns: Option<&str>, lines: &str) -> Result<()> {
    let mut ip = cmd::command("ip");
    if let Some(name) = netns {
        ip.args(["-n", name]);
    }
    cmd::run_with_input(ip.args(["-batch", "-"]), lines).map(drop)
}

/// Makes node and upstream, joined by a veth pair of their own.
pub(crate) fn make_node() -> Result<()> {
    batch(None, &format!("netns add {NODE}\nnetns add {UPSTREAM}\n"))?;
    // The bridge's address is fixed, else it changes with each port and neighbours go stale.
    batch(
        Some(NODE),
        &format!(
            "link set lo up\n\
             link add cni0 address 0a:58:0a:f4:01:01 type bridge\n\
             addr add {NODE_IP}/24 dev cni0\n\
             link set cni0 up\n\
             link add vethup type veth peer name eth0 netns {UPSTREAM}\n\
             addr add 10.99.0.1/24 dev vethup\n\
             link set vethup up\n\
             route add default via {UPSTREAM_IP}\n"
        ),
    )?;
    batch(
        Some(UPSTREAM),
        &format!(
            "link set lo up\n\
             addr add {UPSTREAM_IP}/24 dev eth0\n\
             link set eth0 up\n\
             route add default via 10.99.0.1\n"
        ),
    )?;
    if !Path::new("/proc/sys/net/bridge").exists() {
        // A module on most kernels; where it is missing, writing the setting below says so.
        let _ = cmd::run("modprobe", ["br_netfilter"]);
    }
    settings(
        NODE,
        &[
            ("net/ipv4/ip_forward", "1"),
            ("net/bridge/bridge-nf-call-iptables", "1"),
            ("net/ipv4/icmp_ratelimit", "0"),
        ],
    )?;
    settings(UPSTREAM, &[("net/ipv4/icmp_ratelimit", "0")])
}

/// Makes the pods' namespaces and plugs them into the bridge; each is a key and a last byte.
pub(crate) fn make_pods(pods: &[(&str, u8)]) -> Result<()> {
    let mut names = String::new();
    let mut ports = String::new();
    for (key, host) in pods {
        let name = of_pod(key);
        // Writing to a String cannot fail.
        let _ = writeln!(names, "netns add {name}");
        let _ = writeln!(
            ports,
            "link add veth{key} type veth peer name eth0 address 0a:58:0a:f4:01:{host:02x} netns {name}\n\
             link set veth{key} master cni0\n\
             link set veth{key} type bridge_slave hairpin on\n\
             link set veth{key} up"
        );
    }
    batch(None, &names)?;
    batch(Some(NODE), &ports)?;
    for (key, host) in pods {
        let inside = format!(
            "link set lo up\n\
             addr add 10.244.1.{host}/24 dev eth0\n\
             link set eth0 up\n\
             route add default via {NODE_IP}\n"
        );
        batch(Some(&of_pod(key)), &inside)?;
        // The kernel's ICMP rate limit would make refusals look like timeouts now and then.
        settings(&of_pod(key), &[("net/ipv4/icmp_ratelimit", "0")])?;
    }
    Ok(())
}

/// The node's IPv6 address on the pod bridge is `::1` behind this, a pod's is its last byte of IPv4.
pub(crate) const PODS_IPV6: &str = "fd00:10:244:1:";

/// Gives the node, or these pods, IPv6 addresses.
pub(crate) fn add_ipv6(pods: &[(&str, u8)]) -> Result<()> {
    if pods.is_empty() {
        batch(Some(NODE), &format!("addr add {PODS_IPV6}:1/64 dev cni0 nodad\n"))?;
    }
    for (key, host) in pods {
        let line = format!("addr add {PODS_IPV6}:{host:x}/64 dev eth0 nodad\n");
        batch(Some(&of_pod(key)), &line)?;
    }
    Ok(())
}

/// One more address for something.
pub(crate) fn add_address(netns: &str, address: &str, device: &str) -> Result<()> {
    batch(Some(netns), &format!("addr add {address} dev {device}\n"))
}

/// Takes the IPv4 addresses of a pod away.
pub(crate) fn remove_ipv4(netns: &str) -> Result<()> {
    let mut ip = cmd::command("ip");
    ip.args(["-n", netns, "-4", "addr", "flush", "dev", "eth0"]);
    cmd::run_with_input(&mut ip, "").map(drop)
}

/// Runs a program of the node's tools inside a namespace.
pub(crate) fn tool(netns: &str, program: &str, args: &[&str]) -> Result<()> {
    inside(netns, program, args, "")
}

/// Writes kernel settings inside a namespace.
pub(crate) fn settings(netns: &str, values: &[(&str, &str)]) -> Result<()> {
    spawn::in_netns(&path(netns), || {
        for (key, value) in values {
            let file = Path::new("/proc/sys").join(key);
            fs::write(&file, value)
                .with_context(|| format!("cannot set {} in {netns}", file.display()))?;
        }
        Ok(())
    })
}

/// Names of the namespaces that are ours.
pub(crate) fn existing() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(PREFIX)).collect()
}

/// Deletes namespaces; the links in them go with them.
pub(crate) fn delete(names: &[String]) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = names.iter().map(|name| format!("netns del {name}\n")).collect();
    batch(None, &lines.concat())
}

/// Runs iptables inside a namespace.
pub(crate) fn iptables(netns: &str, args: &[&str]) -> Result<()> {
    inside(netns, "iptables", args, "")
}

/// Runs a program that changes the node's network.
pub fn on_node(program: &str, args: &[&str]) -> Result<()> {
    inside(NODE, program, args, "")
}

/// Writes kernel settings of the node's network namespace: paths below /proc/sys and values.
pub fn node_settings(values: &[(&str, &str)]) -> Result<()> {
    settings(NODE, values)
}

/// Loads kube-proxy's rules into the node.
pub(crate) fn load_rules(rules: &str) -> Result<()> {
    inside(NODE, "iptables-restore", &[], rules)
}

fn inside(netns: &str, program: &str, args: &[&str], input: &str) -> Result<()> {
    let mut command = cmd::command(program);
    command.args(args);
    let place = spawn::Place { cgroup: None, netns: path(netns), mounts: spawn::Mounts::Own };
    spawn::enter(&mut command, &place)?;
    cmd::run_with_input(&mut command, input).map(drop)
}
