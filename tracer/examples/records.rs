//! Prints the records of a live trace, one a line: `records [--OPTION VALUE]... TARGET`.
#![expect(clippy::disallowed_methods, reason = "an example's command line")]

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tracer::source::live::{Ending, Options, Target, agent, receive};

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(std::env::var("SVCTRACE_LOG").unwrap_or_else(|_| "warn".into()))
        .with_writer(io::stderr)
        .init();
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let code = if words.first().is_some_and(|word| word == "pipeline") {
        pipeline(&words)
    } else {
        options(words).and_then(|options| agent(options, Vec::new(), Vec::new()))
    };
    ExitCode::from(code.unwrap_or_else(|error| {
        eprintln!("svctrace: {error:#}");
        2
    }))
}

fn pipeline(words: &[OsString]) -> anyhow::Result<u8> {
    let fd = words.get(2).and_then(|fd| fd.to_str()?.parse().ok()).unwrap_or(0);
    // SAFETY: the agent passed this descriptor to us and to nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut out = io::BufWriter::new(io::stdout());
    let mut count = 0_u64;
    let ending = receive(fd, &mut |record| {
        count += 1;
        let body = if record.kind.is_context() {
            String::from_utf8_lossy(&record.body).into_owned()
        } else {
            format!("{} bytes", record.body.len())
        };
        let task =
            record.task.as_ref().map(|task| format!("{}/{} {}", task.pid, task.tid, task.comm));
        writeln!(
            out,
            "{} {} {:?} probe={:?} cg={:?} cookie={:?} {} {}",
            record.number,
            record.at.0,
            record.kind,
            record.probe,
            record.cgroup,
            record.cookie,
            task.unwrap_or_default(),
            body
        )?;
        out.flush()
    })?;
    eprintln!("{count} records, {ending:?}");
    Ok(if ending == Ending::Clean { 0 } else { 3 })
}

fn options(words: Vec<OsString>) -> anyhow::Result<Options> {
    let mut options = Options {
        targets: Vec::new(),
        resolver: true,
        syscalls: true,
        ring_bytes: 16 << 20,
        dns_ports: vec![53],
        snap_len: 4096,
        kubeconfig: None,
        context: None,
        no_api: false,
        host_root: PathBuf::from("/"),
        wait: false,
        duration: None,
        probe_log: false,
    };
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let word = word.to_string_lossy().into_owned();
        let mut value = || words.next().unwrap_or_default();
        match word.as_str() {
            "--cgroup" => options.targets.push(Target::Cgroup(value().into())),
            "--pid" => options.targets.push(Target::Pid(value().to_string_lossy().parse()?)),
            "--container" => {
                options.targets.push(Target::Container(value().to_string_lossy().into_owned()))
            }
            "--pod" => {
                let pod = value().to_string_lossy().into_owned();
                let (namespace, name) = pod.split_once('/').unwrap_or(("default", &pod));
                options
                    .targets
                    .push(Target::Pod { namespace: namespace.into(), name: name.into() });
            }
            "--duration" => {
                let seconds = value().to_string_lossy().parse()?;
                options.duration = Some(Duration::from_secs_f64(seconds));
            }
            "--host-root" => options.host_root = value().into(),
            "--kubeconfig" => options.kubeconfig = Some(value().into()),
            "--no-api" => options.no_api = true,
            "--no-resolver" => options.resolver = false,
            "--no-syscalls" => options.syscalls = false,
            "--wait" => options.wait = true,
            "--" => options.targets.push(Target::Command(words.by_ref().collect())),
            other => anyhow::bail!("unknown option {other}"),
        }
    }
    Ok(options)
}
