//! Waits until the lab's servers answer, by asking them; no fixed sleeps.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::pods::{Pod, Role};
use super::{READY_WITHIN, api, dns, net, pause, spawn, state};
use crate::interrupt;

/// Polls until every server answers; on the way every pod's address becomes known on the bridge.
pub(super) fn wait(pods: &[Pod], servers: &mut [Child]) -> Result<()> {
    let deadline = Instant::now() + READY_WITHIN;
    for (name, probe) in probes(pods)? {
        while !spawn::in_netns(&net::path(net::NODE), || Ok(probe.ready()))? {
            interrupt::check()?;
            check_alive(servers)?;
            if Instant::now() > deadline {
                bail!(
                    "{name} is not ready after {READY_WITHIN:?}; see {}",
                    state::log_folder().display()
                );
            }
            pause();
        }
    }
    Ok(())
}

fn probes(pods: &[Pod]) -> Result<Vec<(String, Probe)>> {
    let mut probes = vec![
        ("the API endpoint".to_owned(), Probe::Tcp(address(net::NODE_IP, api::PORT)?)),
        ("the upstream DNS server".to_owned(), Probe::Dns(address(net::UPSTREAM_IP, 53)?)),
    ];
    for pod in pods {
        let probe = match pod.role {
            Role::Resolver => Probe::Dns(address(&pod.ip, 53)?),
            Role::Backend => Probe::Tcp(address(&pod.ip, 8080)?),
            Role::Client => Probe::Refusal(address(&pod.ip, 1)?),
        };
        probes.push((format!("pod {}", pod.name), probe));
    }
    Ok(probes)
}

fn check_alive(servers: &mut [Child]) -> Result<()> {
    for child in servers {
        if let Some(status) = child.try_wait()? {
            bail!(
                "a server of the lab ended ({status}): {}",
                last_words(&state::log_folder()).unwrap_or_default()
            );
        }
    }
    Ok(())
}

enum Probe {
    Tcp(SocketAddr),
    Dns(SocketAddr),
    /// Nothing listens there, but the pod's kernel answers.
    Refusal(SocketAddr),
}

impl Probe {
    fn ready(&self) -> bool {
        let patience = Duration::from_millis(100);
        match self {
            Self::Tcp(to) => TcpStream::connect_timeout(to, patience).is_ok(),
            Self::Dns(to) => dns::answers(*to),
            Self::Refusal(to) => TcpStream::connect_timeout(to, patience)
                .is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused),
        }
    }
}

fn address(ip: &str, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(ip.parse()?, port))
}

/// The last line of every log that has one.
fn last_words(logs: &Path) -> Result<String> {
    let mut words = Vec::new();
    for entry in fs::read_dir(logs)?.flatten() {
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        if let Some(last) = text.lines().last() {
            words.push(format!("{}: {last}", entry.file_name().to_string_lossy()));
        }
    }
    Ok(words.join("; "))
}
