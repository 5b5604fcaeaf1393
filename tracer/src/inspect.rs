//! `svctrace info`: prints what is in a capture. Finds nothing out itself.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tracer::capture::info::Info;
use tracer::context::Role;
use tracer::report::Ts;
use tracer::sandbox::Mode;
use tracer::source::{self, Format};

use crate::files::{self, Input};
use crate::{cli, confinement};

type File<'a> = (&'a PathBuf, Info);

/// Prints all of them; 3 when one is damaged or its tail missing.
pub(crate) fn run(paths: &[PathBuf], output: cli::Format, mode: Mode) -> Result<u8> {
    let inputs = paths.iter().map(|path| files::open(path)).collect::<Result<Vec<_>>>()?;
    confinement::enter_alone(mode)?;
    let infos = paths.iter().zip(inputs).map(|(path, input)| Ok((path, read(path, input)?)));
    let infos = infos.collect::<Result<Vec<_>>>()?;
    let code = if infos.iter().all(|(_, info)| info.complete) { 0 } else { 3 };
    for (n, (path, info)) in apart(infos).into_iter().enumerate() {
        let out = &mut io::stdout().lock();
        match output {
            cli::Format::Json => {
                let mut value = serde_json::to_value(&info)?;
                value["file"] = path.to_string_lossy().into();
                writeln!(out, "{value}")?;
            }
            cli::Format::Text | cli::Format::Wide => {
                if n > 0 {
                    writeln!(out)?;
                }
                print(out, path, &info)?;
            }
        }
    }
    Ok(code)
}

/// Files of one recording stand together, in its order; else as they were named.
fn apart(infos: Vec<File<'_>>) -> Vec<File<'_>> {
    let mut recordings: Vec<(Option<Ts>, Vec<File<'_>>)> = Vec::new();
    for (path, info) in infos {
        let same = |(id, _): &&mut (Option<Ts>, _)| id.is_some() && *id == info.recording;
        match recordings.iter_mut().find(same) {
            Some((_, files)) => files.push((path, info)),
            None => recordings.push((info.recording, vec![(path, info)])),
        }
    }
    for (_, files) in &mut recordings {
        files.sort_by_key(|(_, info)| info.index);
    }
    recordings.into_iter().flat_map(|(_, files)| files).collect()
}

fn read(path: &Path, input: Input) -> Result<Info> {
    let name = || files::names(&[path.to_owned()]);
    let capture = source::recognise(input.reader).with_context(name)?;
    let format = match capture.format {
        Format::Svctrace(_) | Format::Empty => return Ok(Info::read(capture.reader)),
        Format::Pcapng => "pcapng",
        Format::Pcap => "pcap",
        Format::Scap => "scap",
    };
    let records = source::open(capture.reader).with_context(name)?;
    Ok(Info::of_records(format, records))
}

fn print(out: &mut impl Write, path: &Path, info: &Info) -> io::Result<()> {
    let mut row = |name: &str, value: String| writeln!(out, "{name:<10} {value}");
    row("file", files::names(&[path.to_owned()]))?;
    let version = info.format_version.as_deref().unwrap_or_default();
    row("format", format!("{} {version}", info.format).trim_end().to_owned())?;
    if let (Some(recording), Some(index)) = (info.recording, info.index) {
        row("recording", format!("{}, file {index}", recording.rfc3339()))?;
    }
    if let (Some(Ts(first)), Some(Ts(last))) = (info.first_ts, info.last_ts) {
        let seconds = last.since(first) as f64 / 1e9;
        let (first, last) = (Ts(first).rfc3339(), Ts(last).rfc3339());
        row("time", format!("{first} to {last} ({seconds:.1} s)"))?;
    }
    for host in &info.hosts {
        let node = host.node.as_deref().map(|node| format!(", node {node}")).unwrap_or_default();
        let (name, kernel, arch, by) = (&host.hostname, &host.kernel, &host.arch, &host.version);
        // Other tools tell the name alone.
        let linux = format!("{kernel} {arch}");
        let linux = if linux == " " { String::new() } else { format!(", Linux {linux}") };
        let by = if by.is_empty() { String::new() } else { format!(", recorded by svctrace {by}") };
        row("host", format!("{name}{node}{linux}{by}"))?;
    }
    for (path, role) in &info.scopes {
        let role = if *role == Role::Target { "target" } else { "resolver" };
        row(role, path.clone())?;
    }
    for pod in &info.pods {
        row("pod", pod.clone())?;
    }
    let total: u64 = info.records.values().sum();
    let kinds: Vec<_> =
        info.records.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    row("records", format!("{total} ({})", kinds.join(", ")))?;
    let lost: Vec<_> =
        info.lost.iter().map(|(stage, count)| format!("{stage:?} {count}")).collect();
    row("lost", if lost.is_empty() { "nothing".to_owned() } else { lost.join(", ") })?;
    if info.skipped > 0 {
        row("unknown", format!("{} records and blocks of a later version", info.skipped))?;
    }
    let alone = if info.stands_alone { "yes" } else { "no, its beginning is elsewhere" };
    row("alone", alone.to_owned())?;
    row(
        "end",
        match (&info.damage, info.continues) {
            (Some(damage), _) => format!("at byte {}: {}", damage.offset, damage.what),
            (None, true) => "goes on in the next file".to_owned(),
            (None, false) => "complete".to_owned(),
        },
    )
}
