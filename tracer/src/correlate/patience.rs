//! How long each resolver library waits, how often it asks and what it does after a silence: from its
//! documentation, its source and measurements, with the options of resolv.conf that it honours.

use std::net::IpAddr;

use smallvec::SmallVec;

use crate::identify::ResolverConfig;

const S: u64 = 1_000_000_000;
/// c-ares without orders: seconds for the first try, and tries.
const CARES_TIMEOUT_S: u64 = 2;
const CARES_TRIES: u32 = 3;
/// Options that some libraries do not know.
const OPTIONS: [&str; 6] =
    ["no-aaaa", "rotate", "single-request", "single-request-reopen", "use-vc", "edns0"];

/// What a resolver configuration orders. Defaults where none is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// Empty if not known.
    pub(crate) servers: SmallVec<[IpAddr; 3]>,
    /// `timeout`, in nanoseconds.
    pub(crate) timeout_ns: u64,
    /// `attempts`.
    pub(crate) tries: u32,
    /// Of [`OPTIONS`], in that order.
    options: [bool; OPTIONS.len()],
}

impl Settings {
    pub(crate) fn of(config: Option<&ResolverConfig>) -> Self {
        let has = |name: &str| config.is_some_and(|c| c.options.iter().any(|o| o == name));
        Self {
            servers: config.into_iter().flat_map(|c| &c.servers).copied().collect(),
            timeout_ns: u64::from(config.map_or(5, |c| c.timeout_s).max(1)) * S,
            tries: config.map_or(2, |c| c.attempts).max(1),
            options: OPTIONS.map(has),
        }
    }

    /// It has this option, one of those that say yes or no.
    pub(crate) fn has(&self, option: &str) -> bool {
        OPTIONS.iter().zip(self.options).any(|(name, set)| *name == option && set)
    }

    /// musl's time between two sends of a query, in nanoseconds; `None` where it sends only once.
    pub(crate) fn musl_interval_ns(&self) -> Option<u64> {
        (self.tries > 1).then(|| self.timeout_ns / u64::from(self.tries))
    }

    /// `timeout` or `attempts` are not the defaults.
    fn orders(&self) -> bool {
        (self.timeout_ns, self.tries) != (5 * S, 2)
    }
}

/// When a library gives a candidate up that nobody answers, and what it does then.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Patience {
    /// As in `resolver_library`.
    pub library: &'static str,
    /// Times it asks each server.
    pub tries: u32,
    /// Wait of its first try, in nanoseconds.
    pub try_ns: u64,
    /// Until it gives up, in nanoseconds; for c-ares the most.
    pub gives_up_ns: u64,
    /// Servers it asks.
    pub servers: u32,
    /// Options of its resolv.conf that it does not know.
    pub ignored: Vec<&'static str>,
}

impl Patience {
    /// Of a library that was recognised.
    pub(crate) fn of(library: Option<&'static str>, settings: &Settings) -> Option<Self> {
        let library = library?;
        let servers = u32::try_from(settings.servers.len().clamp(1, 3)).unwrap_or(1);
        let (timeout, tries) = (settings.timeout_ns, settings.tries);
        let (tries, try_ns, gives_up_ns) = match library {
            "glibc" => (tries, timeout, glibc_round_ns(timeout, servers) * u64::from(tries)),
            "musl" => (tries, settings.musl_interval_ns().unwrap_or(timeout), timeout),
            "go" => (tries, timeout, timeout * u64::from(tries) * u64::from(servers)),
            "c-ares" => {
                let (first, tries) = match settings.orders() {
                    true => (timeout, tries),
                    false => (CARES_TIMEOUT_S * S, CARES_TRIES),
                };
                // Each further round waits up to twice as long.
                let rounds = (1u64 << tries.min(8)) - 1;
                (tries, first, first * rounds * u64::from(servers))
            }
            _ => return None,
        };
        let options = OPTIONS.into_iter().zip(settings.options);
        let ignored = options.filter(|(name, set)| *set && !honours(library, name));
        let ignored = ignored.map(|(name, _)| name).collect();
        Some(Self { library, tries, try_ns, gives_up_ns, servers, ignored })
    }

    /// What it does once it has given a candidate up.
    pub fn after_silence(&self) -> &'static str {
        match self.library {
            "glibc" => "after a silent suffix it goes on with the name as typed",
            "go" => "it then goes on with the next candidate, if there is one",
            _ => "the lookup then fails",
        }
    }
}

/// The library knows this option of resolv.conf.
fn honours(library: &str, option: &str) -> bool {
    match library {
        "glibc" => true,
        "musl" => false,
        "go" => option != "no-aaaa",
        // It uses EDNS anyway.
        _ => matches!(option, "rotate" | "use-vc" | "edns0"),
    }
}

/// One round of glibc over all servers: the second and third get a share of a doubled time.
fn glibc_round_ns(timeout_ns: u64, servers: u32) -> u64 {
    let seconds = timeout_ns / S;
    let of = |n: u32| match n {
        0 => seconds,
        _ => ((seconds << n) / u64::from(servers)).max(1),
    };
    (0..servers).map(of).sum::<u64>() * S
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(servers: usize, options: &str) -> Settings {
        let mut config = ResolverConfig {
            servers: vec![IpAddr::from([10, 96, 0, 10]); servers],
            timeout_s: 5,
            attempts: 2,
            ..ResolverConfig::default()
        };
        for option in options.split_whitespace() {
            match option.split_once(':') {
                Some(("timeout", n)) => config.timeout_s = n.parse().unwrap(),
                Some((_, n)) => config.attempts = n.parse().unwrap(),
                None => config.options.push(option.to_owned()),
            }
        }
        Settings::of(Some(&config))
    }

    fn gives_up_s(library: &'static str, servers: usize, options: &str) -> u64 {
        Patience::of(Some(library), &settings(servers, options)).unwrap().gives_up_ns / S
    }

    /// As measured.
    #[test]
    fn times() {
        assert_eq!(gives_up_s("glibc", 1, ""), 10);
        assert_eq!(gives_up_s("glibc", 3, ""), 28);
        assert_eq!(gives_up_s("glibc", 1, "timeout:1 attempts:1"), 1);
        assert_eq!(gives_up_s("musl", 1, ""), 5);
        assert_eq!(gives_up_s("musl", 3, "timeout:8 attempts:4"), 8);
        assert_eq!(gives_up_s("go", 1, ""), 10);
        assert_eq!(gives_up_s("c-ares", 1, ""), 14);
        assert_eq!(gives_up_s("c-ares", 1, "timeout:1 attempts:2"), 3);
        let musl = Patience::of(Some("musl"), &settings(1, "")).unwrap();
        assert_eq!((musl.tries, musl.try_ns), (2, 2_500_000_000));
        assert_eq!(Patience::of(None, &settings(1, "")), None);
    }

    #[test]
    fn options_without_effect() {
        let set = settings(1, "single-request-reopen rotate trust-ad no-aaaa");
        let ignored = |library| Patience::of(Some(library), &set).unwrap().ignored;
        assert!(ignored("glibc").is_empty());
        assert_eq!(ignored("musl"), ["no-aaaa", "rotate", "single-request-reopen"]);
        assert_eq!(ignored("go"), ["no-aaaa"]);
        assert_eq!(ignored("c-ares"), ["no-aaaa", "single-request-reopen"]);
    }
}
