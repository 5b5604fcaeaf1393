//! Pseudonyms in text: names with dots, paths, threads' names, cgroup paths, resolv.conf. Every text
//! keeps its length and what separates its words.

use std::net::{IpAddr, SocketAddr};

use super::pseudonyms::Pseudonyms;
use super::public;

/// Digits that are taken for a number (a port, a version, a user id), not for a name.
const DIGITS_MAX: usize = 6;
/// Endings of systemd's units.
const UNITS: [&str; 5] = [".slice", ".scope", ".service", ".socket", ".mount"];

/// Whether the labels of a name that ends so are an address (RFC 1035 section 3.5, RFC 3596).
pub(super) fn is_reverse<'a>(mut labels_from_the_end: impl Iterator<Item = &'a [u8]>) -> bool {
    let arpa = labels_from_the_end.next().is_some_and(|label| label.eq_ignore_ascii_case(b"arpa"));
    arpa && labels_from_the_end.next().is_some_and(|label| {
        label.eq_ignore_ascii_case(b"in-addr") || label.eq_ignore_ascii_case(b"ip6")
    })
}

/// A label of a reverse name that is part of the address.
pub(super) fn is_part_of_address(label: &[u8]) -> bool {
    matches!(label, [digit] if digit.is_ascii_hexdigit())
        || label.len() <= 3 && label.iter().all(u8::is_ascii_digit)
}

impl Pseudonyms {
    /// A name with dots; a name without is a label.
    pub(super) fn name(&mut self, name: &str) -> String {
        let whole = name.strip_suffix('.').unwrap_or(name);
        let reverse = is_reverse(whole.rsplit('.').map(str::as_bytes));
        let label = |label: &str| match reverse && is_part_of_address(label.as_bytes()) {
            true => label.to_owned(),
            false => self.text(label),
        };
        name.split('.').map(label).collect::<Vec<_>>().join(".")
    }

    /// Names separated by slashes, as in `namespace/pod`.
    pub(super) fn names(&mut self, names: &str) -> String {
        names.split('/').map(|name| self.name(name)).collect::<Vec<_>>().join("/")
    }

    /// `Kind/name`.
    pub(super) fn owner(&mut self, owner: &str) -> String {
        match owner.split_once('/') {
            Some((kind, name)) if public::is_kind(kind) => format!("{kind}/{}", self.names(name)),
            _ => self.names(owner),
        }
    }

    /// An id that a machine made up stays; anything else is a name.
    pub(super) fn id(&mut self, id: &str) -> String {
        if is_id(id) { id.to_owned() } else { self.name(id) }
    }

    /// A path or a thread's name: well-known words and numbers stay.
    pub(super) fn words(&mut self, text: &str) -> String {
        self.apart(text, |c| !(c.is_alphanumeric() || matches!(c, '-' | '_')), Self::word)
    }

    /// A kernel's release: numbers and what distributions call theirs stay.
    pub(super) fn release(&mut self, release: &str) -> String {
        self.apart(release, |c| !c.is_alphanumeric(), Self::word)
    }

    /// A figure or an address stays; other text is words.
    pub(super) fn value(&mut self, value: &str) -> String {
        if is_figure(value) { value.to_owned() } else { self.words(value) }
    }

    /// A cgroup's path: pods' and containers' ids and what runtimes put around them stay.
    pub(super) fn cgroup(&mut self, path: &str) -> String {
        self.apart(path, |c| matches!(c, '/' | ':'), Self::cgroup_segment)
    }

    fn cgroup_segment(&mut self, segment: &str) -> String {
        let unit = UNITS.into_iter().find_map(|unit| Some((segment.strip_suffix(unit)?, unit)));
        let (stem, unit) = unit.unwrap_or((segment, ""));
        let Some((front, id)) = id_at_end(stem) else { return self.words(stem) + unit };
        self.apart(front, |c| !c.is_alphanumeric(), Self::word) + id + unit
    }

    /// Why a file could not be read.
    pub(super) fn reason(&mut self, reason: &str) -> String {
        if public::is_reason(reason) { reason.to_owned() } else { self.words(reason) }
    }

    /// The text of a resolv.conf: comments go, names in it get pseudonyms, lines stay where they are.
    pub(super) fn resolv_conf(&mut self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            match line.strip_prefix(['#', ';']) {
                Some(_) => {
                    out.extend(line.chars().take(1));
                    out.extend(line.ends_with('\n').then_some('\n'));
                }
                None => self.resolv_conf_line(line, &mut out),
            }
        }
        out
    }

    fn resolv_conf_line(&mut self, line: &str, out: &mut String) {
        let mut keyword = "";
        for part in parts(line, char::is_whitespace) {
            match part {
                Part::Between(blank) => out.push_str(blank),
                Part::Word(word) if keyword.is_empty() => {
                    keyword = word;
                    match word {
                        "nameserver" | "search" | "domain" | "options" | "sortlist" => {
                            out.push_str(word);
                        }
                        _ => out.push_str(&self.name(word)),
                    }
                }
                Part::Word(word) => out.push_str(&match keyword {
                    "nameserver" | "sortlist" => self.server(word),
                    "options" => self.option(word),
                    _ => self.marked_name(word),
                }),
            }
        }
    }

    /// An address, with its zone or mask.
    fn server(&mut self, word: &str) -> String {
        let end = word.find(['%', '/']).unwrap_or(word.len());
        let (address, rest) = word.split_at(end);
        match address.parse::<IpAddr>() {
            Ok(_) => format!("{address}{}", self.value(rest)),
            Err(_) => self.name(word),
        }
    }

    fn option(&mut self, word: &str) -> String {
        let (name, value) = word.split_at(word.find(':').unwrap_or(word.len()));
        let number = value.bytes().skip(1).all(|byte| byte.is_ascii_digit());
        match public::is_option(name) && number {
            true => word.to_owned(),
            false => self.words(word),
        }
    }

    /// glibc asks for names that begin with `#`.
    fn marked_name(&mut self, word: &str) -> String {
        let end = word.find(|c| !matches!(c, '#' | ';')).unwrap_or(word.len());
        let (mark, name) = word.split_at(end);
        format!("{mark}{}", self.name(name))
    }

    fn word(&mut self, word: &str) -> String {
        let plain = word.to_ascii_lowercase();
        let known = |word: &str| public::is_word(word) || is_number(word);
        if known(&plain) || plain.split(['-', '_']).all(|part| part.is_empty() || known(part)) {
            return word.to_owned();
        }
        self.text(word)
    }

    fn text(&mut self, label: &str) -> String {
        String::from_utf8_lossy(&self.label(label.as_bytes())).into_owned()
    }

    fn apart(
        &mut self,
        text: &str,
        separates: impl Fn(char) -> bool,
        map: impl Fn(&mut Self, &str) -> String,
    ) -> String {
        let mut out = String::with_capacity(text.len());
        for part in parts(text, separates) {
            match part {
                Part::Between(between) => out.push_str(between),
                Part::Word(word) => out.push_str(&map(self, word)),
            }
        }
        out
    }
}

enum Part<'a> {
    Word(&'a str),
    Between(&'a str),
}

fn parts(text: &str, separates: impl Fn(char) -> bool) -> impl Iterator<Item = Part<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let between = separates(rest.chars().next()?);
        let end = rest.find(|c| separates(c) != between).unwrap_or(rest.len());
        let (part, after) = rest.split_at(end);
        rest = after;
        Some(if between { Part::Between(part) } else { Part::Word(part) })
    })
}

fn is_number(word: &str) -> bool {
    word.len() <= DIGITS_MAX && !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit())
}

/// A UUID, or at least 32 hex digits.
fn is_id(text: &str) -> bool {
    id_at_end(text).is_some_and(|(front, _)| front.is_empty())
}

/// Splits off a UUID (systemd writes its dashes as `_`) or a run of at least 32 hex digits.
fn id_at_end(text: &str) -> Option<(&str, &str)> {
    let bytes = text.as_bytes();
    if let Some(at) = bytes.len().checked_sub(36)
        && bytes.get(at..).is_some_and(is_uuid)
    {
        return text.split_at_checked(at);
    }
    let digits = bytes.iter().rev().take_while(|byte| byte.is_ascii_hexdigit()).count();
    // "pod" and a hash: its `d` is a digit, too.
    let digits = if digits % 32 == 0 { digits } else { digits / 32 * 32 };
    if digits == 0 { None } else { text.split_at_checked(bytes.len() - digits) }
}

fn is_uuid(bytes: &[u8]) -> bool {
    bytes.iter().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => matches!(byte, b'-' | b'_'),
        _ => byte.is_ascii_hexdigit(),
    })
}

/// Numbers, addresses, pairs of addresses, descriptors with their poll bits.
fn is_figure(value: &str) -> bool {
    let figure = |value: &str| {
        let hex = value.strip_prefix("0x").unwrap_or("-");
        value.parse::<i128>().is_ok()
            || value.parse::<IpAddr>().is_ok()
            || value.parse::<SocketAddr>().is_ok()
            || hex.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let polled = |word: &str| {
        word.split_once(':').is_some_and(|(fd, bits)| {
            fd.parse::<i64>().is_ok() && u16::from_str_radix(bits, 16).is_ok()
        })
    };
    value.is_empty() || value.split("->").all(figure) || value.split(' ').all(polled)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> Pseudonyms {
        Pseudonyms::new(b"key")
    }

    #[test]
    fn suffixes_stay_suffixes() {
        let mut names = names();
        let suffix = names.name("critical-app.svc.cluster.local");
        let full = names.name("backend.Critical-App.svc.cluster.local.");
        assert_eq!(full.to_ascii_lowercase(), format!("{}.{suffix}.", names.name("backend")));
        assert!(suffix.ends_with(".svc.cluster.local") && !suffix.starts_with("critical-app"));
        assert_eq!(names.names("critical-app/backend"), {
            let namespace = names.name("critical-app");
            format!("{namespace}/{}", names.name("backend"))
        });
        assert_eq!(
            names.owner("Deployment/backend"),
            format!("Deployment/{}", names.name("backend"))
        );
        assert!(!names.owner("SecretKind/backend").contains("Secret"));
    }

    #[test]
    fn reverse_names_stay() {
        let mut names = names();
        for name in ["10.1.244.10.in-addr.arpa", "b.a.9.8.ip6.ARPA."] {
            assert_eq!(names.name(name), name);
        }
        assert_ne!(names.name("10.1.example"), "10.1.example");
        assert!(!names.name("secret.10.in-addr.arpa").contains("secret"));
    }

    #[test]
    fn paths_and_threads() {
        let mut names = names();
        for same in
            ["/usr/bin/python3.11", "curl", "kworker/0:1", "/bin/sh", "systemd-resolve", "/"]
        {
            assert_eq!(names.words(same), same);
        }
        let app = names.name("my-app");
        assert_eq!(names.words("/opt/my-app/bin/my-app.py"), format!("/opt/{app}/bin/{app}.py"));
        assert_eq!(names.words("my-app"), app);
        assert!(!names.words("nginx: Müller").contains("ller"));
    }

    #[test]
    fn cgroups_keep_ids_and_lose_names() {
        let mut names = names();
        let uid = "6f0f0d63_0001_4000_8000_000000000001";
        let (hash, id) = ("deadbeef".repeat(4), "b3a7".repeat(16));
        for same in [
            format!(
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice/cri-containerd-{id}.scope"
            ),
            format!("/kubepods/besteffort/pod{hash}/{id}"),
            format!(
                "/system.slice/containerd.service/kubepods-besteffort-pod{uid}.slice:cri-containerd:{id}"
            ),
            format!("/docker/{id}/kubelet/kubepods/pod{hash}/crio-conmon-{id}.scope/container"),
            "/user.slice/user-1000.slice/user@1000.service".into(),
            "/".into(),
            String::new(),
        ] {
            assert_eq!(names.cgroup(&same), same);
        }
        let unit = names.name("payments");
        assert_eq!(
            names.cgroup("/system.slice/payments.service/a"),
            format!("/system.slice/{unit}.service/{}", names.name("a"))
        );
        assert!(!names.cgroup("/user.slice/app-org.Secret\\x2dthing.scope").contains("thing"));
        assert!(!names.cgroup(&format!("/secret-{id}.scope")).contains("secret"));
    }

    #[test]
    fn a_resolv_conf_keeps_its_lines() {
        let mut names = names();
        let text = "# made by Secret\nsearch ns.svc.cluster.local secret.corp #mark\n\
                    ; Secret\r\nnameserver 10.96.0.10\nnameserver fe80::1%eth0\n\
                    options ndots:5 edns0 secret:9\nbogus secret\n domain secret\nsortlist 10.0.0.0/255.0.0.0";
        let got = names.resolv_conf(text);
        let secret = names.name("secret");
        let want = format!(
            "#\nsearch {}.svc.cluster.local {secret}.{} #{}\n;\nnameserver 10.96.0.10\n\
             nameserver fe80::1%{}\noptions ndots:5 edns0 {secret}:9\n{} {secret}\n domain {secret}\n\
             sortlist 10.0.0.0/255.0.0.0",
            names.name("ns"),
            names.name("corp"),
            names.name("mark"),
            names.name("eth0"),
            names.name("bogus"),
        );
        assert_eq!(got, want);
    }

    #[test]
    fn figures() {
        let mut names = names();
        for same in ["-11", "0x7f", "10.0.0.1:53->[fd00::1]:9", "fd00::1", "3:1 4:5", "", "80"] {
            assert_eq!(names.value(same), same);
        }
        assert_eq!(names.value("/etc/resolv.conf"), "/etc/resolv.conf");
        assert_ne!(names.value("/etc/secret"), "/etc/secret");
    }

    proptest! {
        #[test]
        fn any_text_keeps_its_length(text in "(?s).{0,100}", plain in "([a-zA-Z0-9./:#%_-]| |\n){0,80}") {
            let mut names = names();
            for text in [text, plain] {
                prop_assert_eq!(names.name(&text).len(), text.len());
                prop_assert_eq!(names.words(&text).len(), text.len());
                prop_assert_eq!(names.cgroup(&text).len(), text.len());
                prop_assert_eq!(names.value(&text).len(), text.len());
                let lines = names.resolv_conf(&text);
                prop_assert_eq!(lines.matches('\n').count(), text.matches('\n').count());
            }
        }
    }
}
