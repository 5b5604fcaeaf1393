//! The order of the modules, read from their sources as text: who may name whom, which outside
//! crates each may name, and what nothing behind a source may touch. Misses macros and re-exports.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules from the bottom up; one line is one level, and a module may name only what is below it
/// and itself.
const LEVELS: [&[&str]; 14] = [
    &["text", "words", "digits", "cgroup_path", "fragment", "framing", "sandbox"],
    &["record", "capture_error"],
    &["context"],
    &["event"],
    &["report"],
    &["decode"],
    &["identify"],
    &["describe", "explain"],
    &["correlate"],
    &["diagnose"],
    &["capture", "redact"],
    &["sink", "source"],
    &["hold"],
    &["pipeline"],
];

/// The program around the library.
const PROGRAM: [&str; 10] = [
    "main",
    "cli",
    "confinement",
    "files",
    "handover",
    "inspect",
    "log",
    "progress",
    "redaction",
    "settings",
];

/// Outside crates that only these places may name.
const RESERVED: [(&str, &[&str]); 15] = [
    ("hickory_proto", &["decode/dns.rs"]),
    (
        "etherparse",
        &[
            "capture/shown.rs",
            "decode/packet.rs",
            "decode/wire",
            "fragment.rs",
            "redact/packet.rs",
            "source/pcap",
        ],
    ),
    ("pcap_file", &["capture", "source/pcap"]),
    ("cel", &["sink/filter"]),
    ("tokio", &["source/live", "main.rs"]),
    ("aya", &["source/live"]),
    ("kube", &["source/live"]),
    ("k8s_openapi", &["source/live"]),
    ("procfs", &["source/live"]),
    ("tonic", &["source/live/cri"]),
    ("hyper", &["source/live/kubelet.rs"]),
    ("tokio_rustls", &["source/live/kubelet.rs"]),
    ("landlock", &["sandbox"]),
    ("seccompiler", &["sandbox"]),
    // describe: errno names, a table; main: waiting for signals.
    ("nix", &["source/live", "sandbox", "confinement.rs", "files.rs", "describe.rs", "main.rs"]),
];

/// What asks the host; only sources and the program may.
const FORBIDDEN: [&str; 12] = [
    "std::fs",
    "std::env",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "ToSocketAddrs",
    "Zoned::now",
];

struct Source {
    path: String,
    module: String,
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tracer/src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    let read = |file: PathBuf| {
        let path = file.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        let module = path.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        Source { code: code(&fs::read_to_string(&file).unwrap()), module, path }
    };
    let skip =
        |path: &Path| ["tests.rs", "testing.rs", "lib.rs"].iter().any(|name| path.ends_with(name));
    files.into_iter().filter(|file| !skip(file)).map(read).collect()
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Without comments and the unit tests at the end.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    let lines = text[..end].lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.collect::<Vec<_>>().join("\n")
}

/// Every `word` in `crate::word`, also inside `use crate::{…}`.
fn named(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if code[..at].ends_with('$') || code[..at].ends_with(|c: char| c.is_alphanumeric()) {
            continue;
        }
        let Some(group) = rest.strip_prefix('{') else {
            names.push(word(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = true;
        for (at, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if start && (c.is_alphabetic() || c == '_') => {
                    names.push(word(&group[at..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    names
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Whether `name` stands in `code` as a path's first part.
fn names_crate(code: &str, name: &str) -> bool {
    let path = format!("{name}::");
    code.match_indices(&path)
        .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
}

fn level(module: &str) -> Option<usize> {
    LEVELS.iter().position(|level| level.contains(&module))
}

#[test]
fn modules_name_only_what_is_below_them() {
    let mut wrong = Vec::new();
    for source in sources() {
        if PROGRAM.contains(&source.module.as_str()) {
            continue;
        }
        let Some(own) = level(&source.module) else {
            wrong.push(format!("{} has no level; give it one in layers.rs", source.path));
            continue;
        };
        for name in named(&source.code) {
            let allowed = name == source.module || level(&name).is_some_and(|other| other < own);
            if !allowed {
                wrong.push(format!("{} names crate::{name}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn outside_crates_stay_in_their_places() {
    let mut wrong = Vec::new();
    for source in sources() {
        for (name, places) in RESERVED {
            let allowed = places.iter().any(|place| source.path.starts_with(place));
            if !allowed && names_crate(&source.code, name) {
                wrong.push(format!("{} names {name}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn nothing_behind_a_source_asks_the_host() {
    let mut wrong = Vec::new();
    for source in sources() {
        // The sandbox stands around the pipeline, not in it.
        let outside = ["source", "sandbox"].contains(&source.module.as_str());
        if outside || PROGRAM.contains(&source.module.as_str()) {
            continue;
        }
        for name in FORBIDDEN.iter().filter(|name| source.code.contains(**name)) {
            wrong.push(format!("{} names {name}", source.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_paths_sees_groups_and_skips_comments() {
    let code = code("use crate::{a::{b, c}, d::E};\n// crate::x\nlet y = crate::f::g();\n");
    assert_eq!(named(&code), ["a", "d", "f"]);
    assert!(names_crate("use tokio::net;", "tokio") && !names_crate("my_tokio::x", "tokio"));
}
