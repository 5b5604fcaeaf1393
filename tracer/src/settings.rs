//! What the command line means: checked, with defaults filled in, in the words of the parts that
//! get it. Touches nothing but the terminal's size and colour ability.

use std::ffi::OsString;
use std::io;
use std::time::Duration;

use anyhow::{Result, ensure};
use tracer::capture::Writer;
use tracer::pipeline::{self, Pipeline, Verdict};
use tracer::sandbox;
use tracer::sink::Sink;
use tracer::sink::beside::Beside;
use tracer::sink::capture::Capture;
use tracer::sink::filter::{Filter, Filtered};
use tracer::sink::json::Json;
use tracer::sink::text::{Style, Text, Times};
use tracer::source::{self, live};
use tracer_common::limits::{DNS_PORTS_MAX, SNAP_MAX};

use crate::cli::{FailOn, Format, How, Output, Target, Time, When};
use crate::{cli, files, progress};

/// Least and most bytes of the ring buffer.
const RING_BYTES: std::ops::RangeInclusive<u32> = (64 << 10)..=(1 << 30);
/// Least snap length: headers and a question.
const SNAP_MIN: u32 = 128;

/// What to trace, and how.
pub(crate) fn trace(
    target: Target,
    how: How,
    keep_payload: bool,
    output: &Output,
) -> Result<live::Options> {
    let wait = how.wait;
    let (targets, containers) = targets(target, wait)?;
    ensure!(
        !targets.is_empty(),
        "nothing to trace: name a pod, container, cgroup, process or command, for example \
         `svctrace --pod client -n critical-app`, `svctrace deploy/backend` or `svctrace -- curl \
         http://backend/`"
    );
    ensure!(how.duration != Some(Duration::ZERO), "--duration is zero: nothing would be traced");
    ensure!(
        how.ring_size.is_power_of_two() && RING_BYTES.contains(&how.ring_size),
        "--ring-size must be a power of two from 64K to 1G, such as 16M"
    );
    ensure!(
        (SNAP_MIN..=SNAP_MAX as u32).contains(&how.snaplen),
        "--snaplen must be from {SNAP_MIN} to {SNAP_MAX} bytes"
    );
    let dns_ports = dns_ports(&how.dns_port)?;
    Ok(live::Options {
        targets,
        containers,
        resolver: !how.no_resolver,
        syscalls: !how.no_syscalls,
        wire: how.wire,
        ring_bytes: how.ring_size,
        dns_ports,
        snap_len: how.snaplen,
        kubeconfig: how.kubeconfig,
        context: how.context,
        no_api: how.no_api,
        host_root: how.host_root,
        wait,
        duration: how.duration,
        probe_log: output.verbose >= 3,
        keep_payload,
        sandbox: output.sandbox,
    })
}

/// What to make of captures of other tools.
pub(crate) fn source(more_ports: &[u16], keep_payload: bool) -> Result<source::Options> {
    Ok(source::Options { dns_ports: dns_ports(more_ports)?, keep_payload })
}

/// 53 and those that the user named.
fn dns_ports(more: &[u16]) -> Result<Vec<u16>> {
    let mut ports = vec![53];
    for port in more {
        if !ports.contains(port) {
            ports.push(*port);
        }
    }
    let most = DNS_PORTS_MAX - 1;
    ensure!(ports.len() <= DNS_PORTS_MAX, "--dns-port takes at most {most} ports besides 53");
    Ok(ports)
}

/// Whether recording so makes sense beside this trace.
pub(crate) fn capture(capture: &cli::Capture, options: &live::Options) -> Result<()> {
    let shared = options.targets.iter().any(|target| matches!(target, live::Target::Command(_)));
    ensure!(
        !(shared && files::is_standard(capture.write.as_deref())),
        "-w - needs standard output for itself; the command writes there too"
    );
    Ok(())
}

/// Targets, and the containers that those of them that are pods are narrowed to.
fn targets(target: Target, wait: bool) -> Result<(Vec<live::Target>, Vec<String>)> {
    let other = target.cgroup.is_some() || target.pid.is_some() || !target.command.is_empty();
    let mut targets = pods(&target, other)?;
    ensure!(
        target.namespace.is_none() || !targets.is_empty(),
        "--namespace says where pods are; add --pod NAME, KIND/NAME or -l"
    );
    ensure!(
        !target.all_namespaces || !targets.is_empty(),
        "--all-namespaces is about pods; add -l, or let it stand alone for every pod of this node"
    );
    ensure!(!wait || !targets.is_empty(), "--wait waits for pods; add --pod NAME, KIND/NAME or -l");
    // kubectl shows ids with the runtime in front: containerd://…
    let plain = |id: String| id.split_once("://").map_or(id.clone(), |(_, id)| id.to_owned());
    let mut containers: Vec<String> = target.container.into_iter().map(plain).collect();
    ensure!(containers.iter().all(|name| !name.is_empty()), "--container is empty");
    if targets.is_empty() {
        for id in std::mem::take(&mut containers) {
            ensure!(
                id.len() <= 64 && id.bytes().all(|b| b.is_ascii_hexdigit()),
                "--container {id:?} alone takes a runtime's id (up to 64 hex digits), as `crictl ps` \
                 shows it; for a name say of which pods: --pod NAME, KIND/NAME or -l"
            );
            targets.push(live::Target::Container(id.to_ascii_lowercase()));
        }
    }
    if let Some(path) = target.cgroup {
        targets.push(live::Target::Cgroup(path));
    }
    if let Some(pid) = target.pid {
        ensure!(pid > 0, "--pid 0 is no process");
        targets.push(live::Target::Pid(pid));
    }
    if !target.command.is_empty() {
        targets.push(live::Target::Command(target.command));
    }
    Ok((targets, containers))
}

/// The targets that are pods; `other`: there are targets that are not.
fn pods(target: &Target, other: bool) -> Result<Vec<live::Target>> {
    let namespace = match &target.namespace {
        Some(name) => live::Namespace::Named(name.clone()),
        None if target.all_namespaces => live::Namespace::All,
        None => live::Namespace::Default,
    };
    let plain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-');
    if let Some(name) = &target.namespace {
        let named = !name.is_empty() && name.bytes().all(plain);
        ensure!(named, "--namespace {name:?} is no name of a namespace");
    }
    ensure!(target.pod.iter().all(|name| !name.is_empty()), "--pod is empty");
    let names = target.pod.iter().map(|name| (live::Kind::Pod, name.clone()));
    let mut wanted: Vec<live::Which> = names
        .chain(target.objects.iter().cloned())
        .map(|(kind, name)| live::Which::Named(kind, name))
        .collect();
    ensure!(
        !target.all_namespaces || wanted.is_empty(),
        "a name is one namespace's: say -n NAMESPACE instead of -A, or select with -l"
    );
    wanted.extend(target.selector.iter().cloned().map(live::Which::Labels));
    let anything = target.all_namespaces || target.namespace.is_some();
    if wanted.is_empty() && !other && anything {
        wanted.push(live::Which::All);
    }
    let pods =
        wanted.into_iter().map(|which| live::Target::Pods { namespace: namespace.clone(), which });
    Ok(pods.collect())
}

/// What to print, and what makes the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Print {
    format: Format,
    style: Style,
    events: bool,
    payload: bool,
    filter: Option<Filter>,
    walk_threshold: Duration,
    slow_threshold: Duration,
    fail_on: Vec<FailOn>,
    verbose: u8,
    quiet: bool,
    sandbox: sandbox::Mode,
    /// Standard output is the capture's.
    aside: bool,
}

impl Print {
    /// Settles width and colour for this standard output.
    pub(crate) fn new(output: &Output) -> Self {
        let color = match output.color {
            When::Always => true,
            When::Never => false,
            When::Auto => {
                anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
            }
        };
        let measured = || terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| width.0);
        let times = match output.time {
            Time::Human => Times::Human,
            Time::Absolute => Times::Absolute,
            Time::Relative => Times::Relative,
            Time::Own => Times::Own,
            Time::Delta => Times::Delta,
        };
        let wide = output.output == Format::Wide;
        Self {
            format: output.output,
            style: Style { wide, color, width: output.width.or_else(measured), times },
            events: output.events,
            payload: output.payload,
            filter: output.filter.clone(),
            walk_threshold: output.walk_threshold,
            slow_threshold: output.slow_threshold,
            fail_on: output.fail_on.clone(),
            verbose: output.verbose,
            quiet: output.quiet,
            sandbox: output.sandbox,
            aside: false,
        }
    }

    /// The same on standard error, where standard output is not free.
    pub(crate) fn aside(self, aside: bool) -> Self {
        Self { aside, ..self }
    }

    /// The same as arguments of `svctrace pipeline`.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let format = match self.format {
            Format::Text => "text",
            Format::Wide => "wide",
            Format::Json => "json",
        };
        let time = match self.style.times {
            Times::Human => "h",
            Times::Absolute => "a",
            Times::Relative => "r",
            Times::Own => "d",
            Times::Delta => "D",
        };
        let color = if self.style.color { "always" } else { "never" };
        let mut arguments = vec![
            format!("--output={format}"),
            format!("--time={time}"),
            format!("--color={color}"),
            format!("--walk-threshold={}ns", self.walk_threshold.as_nanos()),
            format!("--slow-threshold={}ns", self.slow_threshold.as_nanos()),
            format!("--sandbox={}", self.sandbox.name()),
        ];
        arguments.extend(self.style.width.map(|width| format!("--width={width}")));
        arguments.extend(self.events.then(|| "--events".to_owned()));
        arguments.extend(self.payload.then(|| "--payload".to_owned()));
        arguments.extend(self.filter.as_ref().map(|filter| format!("--filter={}", filter.text())));
        arguments.extend(self.fail_on.iter().map(|on| format!("--fail-on={}", on.name())));
        arguments.extend((0..self.verbose).map(|_| "--verbose".to_owned()));
        arguments.extend(self.quiet.then(|| "--quiet".to_owned()));
        arguments.into_iter().map(OsString::from).collect()
    }

    /// A pipeline that prints so, to standard output, and records where `capture` says.
    pub(crate) fn pipeline(&self, capture: Option<Writer>) -> Pipeline {
        let out: Box<dyn io::Write> =
            if self.aside { Box::new(progress::stderr()) } else { progress::above(io::stdout()) };
        let print: Box<dyn Sink> = match self.format {
            Format::Json => Box::new(Json::new(out)),
            Format::Text | Format::Wide => Box::new(Text::new(out, self.style)),
        };
        let print = match &self.filter {
            Some(filter) => Box::new(Filtered::new(print, filter.clone())),
            None => print,
        };
        let print = if capture.is_some() { Box::new(Beside::new(print)) } else { print };
        let record = capture.map(|writer| Box::new(Capture::new(writer)) as Box<dyn Sink>);
        let options = pipeline::Options {
            events: self.events,
            payload: self.payload,
            transactions: self.events && self.format != Format::Text,
            walk_threshold_ns: u64::try_from(self.walk_threshold.as_nanos()).unwrap_or(u64::MAX),
            slow_threshold_ns: u64::try_from(self.slow_threshold.as_nanos()).unwrap_or(u64::MAX),
        };
        Pipeline::new(options, record.into_iter().chain([print]).collect())
    }

    /// 0 done, 1 a finding to fail on, 3 incomplete; `whole`: the input ended as it should.
    pub(crate) fn exit_code(&self, verdict: &Verdict, whole: bool) -> u8 {
        let fails = |on: &FailOn| {
            verdict.findings.iter().any(|(code, severity)| match on {
                FailOn::Code(wanted) => code == wanted,
                FailOn::Severity(least) => severity >= least,
            })
        };
        match verdict.incomplete {
            _ if !whole => 3,
            1.. => 3,
            0 if self.fail_on.iter().any(fails) => 1,
            0 => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tracer::report::{Code, Severity};

    use super::*;
    use crate::cli::{Cli, Verb};

    fn parse(words: &str) -> Cli {
        Cli::try_parse_from(words.split(' ')).unwrap()
    }

    fn meaning(words: &str) -> Result<live::Options, String> {
        let cli = parse(words);
        trace(cli.trace.target, cli.trace.how, cli.trace.capture.keep_payload, &cli.trace.output)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn the_pipeline_process_is_told_what_was_asked() {
        for words in [
            "svctrace",
            "svctrace -o json --events --fail-on nxdomain --fail-on warning",
            "svctrace --events -x --filter type=='event'&&n>5",
            "svctrace --sandbox strict -vv -o wide -t D --color always --walk-threshold 1500us --slow-threshold 2s --width 133",
        ] {
            let asked = Print::new(&parse(words).trace.output);
            let arguments = ["svctrace", "pipeline", "--fd=7"].map(OsString::from);
            let cli = Cli::try_parse_from(arguments.into_iter().chain(asked.arguments())).unwrap();
            let Some(Verb::Pipeline { fd: 7, output, .. }) = cli.verb else {
                panic!("{:?}", cli.verb)
            };
            assert_eq!(Print::new(&output), asked);
        }
    }

    #[test]
    fn targets_are_what_was_typed() {
        let options =
            meaning("svctrace deploy/web --pod a -n b -l app,!x --pid 7 -c app -- curl -v");
        let options = options.unwrap();
        let pods =
            |which| live::Target::Pods { namespace: live::Namespace::Named("b".into()), which };
        let named = |kind, name: &str| pods(live::Which::Named(kind, name.into()));
        assert_eq!(options.containers, ["app"]);
        assert_eq!(
            options.targets,
            [
                named(live::Kind::Pod, "a"),
                named(live::Kind::Deployment, "web"),
                pods(live::Which::Labels(live::Selector::parse("app,!x").unwrap())),
                live::Target::Pid(7),
                live::Target::Command(vec!["curl".into(), "-v".into()]),
            ]
        );
        assert!(options.resolver && options.syscalls && !options.no_api && !options.wait);
        assert_eq!((options.ring_bytes, options.snap_len), (8 << 20, 4096));
        let options = meaning("svctrace --container containerd://AB12 -c ff").unwrap();
        let id = |id: &str| live::Target::Container(id.into());
        assert_eq!((options.targets, options.containers), (vec![id("ab12"), id("ff")], vec![]));
        for (words, namespace) in [
            ("svctrace -A", live::Namespace::All),
            ("svctrace -A -c app", live::Namespace::All),
            ("svctrace -n b", live::Namespace::Named("b".into())),
        ] {
            let all = live::Target::Pods { namespace, which: live::Which::All };
            assert_eq!(meaning(words).unwrap().targets, [all], "{words}");
        }
        assert_eq!(meaning("svctrace --pid 7 --dns-port 5353,53").unwrap().dns_ports, [53, 5353]);
    }

    #[test]
    fn contradictions_are_refused_in_a_sentence() {
        for (words, says) in [
            ("svctrace", "nothing to trace"),
            ("svctrace -n b --pid 7", "--pod NAME"),
            ("svctrace -n a/b --pod c", "no name of a namespace"),
            ("svctrace -A --pid 7", "about pods"),
            ("svctrace -A deploy/web", "-n NAMESPACE"),
            ("svctrace --wait --pid 7", "--wait waits for pods"),
            ("svctrace --pid 0", "no process"),
            ("svctrace --pid 7 --ring-size 3M", "power of two"),
            ("svctrace --pid 7 --ring-size 4K", "64K"),
            ("svctrace --pid 7 --snaplen 9000", "--snaplen"),
            ("svctrace --pid 7 --duration 0s", "--duration"),
            ("svctrace --pid 7 --dns-port 1,2,3,4,5,6,7,8", "--dns-port"),
            ("svctrace --container nginx", "hex digits"),
        ] {
            let told = meaning(words).unwrap_err();
            assert!(told.contains(says) && !told.contains('\n'), "{words}: {told}");
        }
    }

    #[test]
    fn incomplete_comes_before_failed() {
        let print = Print::new(&parse("svctrace --fail-on warning").trace.output);
        let found = |severity, incomplete| Verdict {
            findings: vec![(Code::Nxdomain, severity)],
            incomplete,
        };
        assert_eq!(print.exit_code(&found(Severity::Info, 0), true), 0);
        assert_eq!(print.exit_code(&found(Severity::Error, 0), true), 1);
        assert_eq!(print.exit_code(&found(Severity::Error, 1), true), 3);
        assert_eq!(print.exit_code(&found(Severity::Error, 0), false), 3);
        let print = Print::new(&parse("svctrace --fail-on nxdomain").trace.output);
        assert_eq!(print.exit_code(&found(Severity::Info, 0), true), 1);
    }
}
