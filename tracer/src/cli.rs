//! The command line as typed. What it means, and which combinations mean nothing, is in `settings`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use tracer::sandbox;
use tracer::sink::filter::{self, Filter};
use tracer::source::live;

/// Says why a service in Kubernetes is slow: traces DNS lookups and connections of a pod with eBPF and
/// names the cause of what takes long.
#[derive(Debug, Parser)]
#[command(
    name = "svctrace",
    version,
    args_conflicts_with_subcommands = true,
    max_term_width = 100,
    after_help = "Examples:\n  \
        svctrace --pod client -n critical-app\n  \
        svctrace deploy/backend -n critical-app -c http\n  \
        svctrace -l 'app in (backend,client)' -A\n  \
        svctrace -- curl http://backend.critical-app.svc.cluster.local/\n  \
        svctrace --pid 4711 --duration 30s -o json\n  \
        svctrace --pod client -w incident.pcapng.zst\n  \
        svctrace -r incident.pcapng.zst\n\n\
        Exit codes: 0 done, 1 a finding that --fail-on names, 2 usage or environment,\n\
        3 result incomplete (records lost or not understood, capture damaged). 2 before 3 before 1."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
    #[command(flatten)]
    pub(crate) trace: Trace,
}

/// Everything but tracing.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Print the JSON Schema of -o json
    Schema,
    /// Load and attach every probe once, and say which of them this kernel takes
    Probes,
    /// Say what is in a capture: times, hosts, pods, counts, loss, and whether its tail is there
    Info {
        /// The capture; - is standard input
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// Format: text or json
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
        /// Rights that svctrace gives up before it reads a byte, as with -r
        #[arg(long, value_name = "strict|auto|off", default_value = "auto")]
        sandbox: sandbox::Mode,
    },
    /// Say what a finding's code means, what it does not mean, and what to do; without one: all codes
    Explain {
        /// The code, as findings have it
        #[arg(value_name = "CODE", value_parser = codes())]
        code: Option<String>,
    },
    /// Do nothing until told to end: for a pod that is entered with `kubectl exec`
    Idle,
    /// The unprivileged half of a trace; started by svctrace itself
    #[command(hide = true)]
    Pipeline {
        /// Socket to the agent
        #[arg(long)]
        fd: i32,
        /// User to become
        #[arg(long)]
        user: Option<sandbox::User>,
        #[command(flatten)]
        capture: Handed,
        #[command(flatten)]
        output: Output,
    },
}

/// A trace.
#[derive(Debug, Args)]
pub(crate) struct Trace {
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(flatten)]
    pub(crate) how: How,
    #[command(flatten)]
    pub(crate) capture: Capture,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Whom to trace; several at once are fine.
#[derive(Debug, Args)]
#[command(next_help_heading = "Target (several at once are fine)")]
pub(crate) struct Target {
    /// Pods as kubectl names them: deploy/NAME, sts/, ds/, job/, rs/, svc/, pod/ (or a pod's bare name)
    #[arg(value_name = "KIND/NAME", value_parser = live::workload::parse)]
    pub(crate) objects: Vec<(live::Kind, String)>,
    /// A pod
    #[arg(long, value_name = "NAME")]
    pub(crate) pod: Vec<String>,
    /// Pods with these labels: key=value, !=, in (a,b), notin (…), key, !key, joined by commas
    #[arg(short = 'l', long, value_name = "LABELS", value_parser = live::Selector::parse)]
    pub(crate) selector: Vec<live::Selector>,
    /// Namespace of the pods; alone: all of its pods on this node [default: that of the
    /// kubeconfig's context, else "default"]
    #[arg(short, long, value_name = "NS")]
    pub(crate) namespace: Option<String>,
    /// -l in every namespace; alone: every pod of this node
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub(crate) all_namespaces: bool,
    /// Of the pods only this container, by name or runtime id; alone: a container by the beginning
    /// of its runtime id
    #[arg(short, long, value_name = "NAME|ID")]
    pub(crate) container: Vec<String>,
    /// A cgroup and all below it
    #[arg(long, value_name = "PATH")]
    pub(crate) cgroup: Option<PathBuf>,
    /// A process
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    /// A command to run, traced from its first instruction
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// How to trace.
#[derive(Debug, Args)]
#[command(next_help_heading = "Tracing")]
pub(crate) struct How {
    /// Don't trace the cluster's DNS server on this node along
    #[arg(long)]
    pub(crate) no_resolver: bool,
    /// Don't attach to system calls (they slow every call of the node by some 60 ns)
    #[arg(long)]
    pub(crate) no_syscalls: bool,
    /// Also look at what comes to the target's network namespace and reaches no socket: answers from
    /// another address, late ones, ICMP errors (takes CAP_NET_RAW)
    #[arg(long)]
    pub(crate) wire: bool,
    /// Wait for pods that do not exist yet
    #[arg(long)]
    pub(crate) wait: bool,
    /// Stop after this time, such as 30s or 5m
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) duration: Option<Duration>,
    /// Ports that mean DNS besides 53; for -r, in captures of other tools
    #[arg(long, value_name = "PORT", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) dns_port: Vec<u16>,
    /// Most bytes of a DNS packet to keep
    #[arg(long, value_name = "BYTES", default_value = "4096", value_parser = parse_size)]
    pub(crate) snaplen: u32,
    /// Buffer between kernel and user space; a power of two
    #[arg(long, value_name = "SIZE", default_value = "8M", value_parser = parse_size)]
    pub(crate) ring_size: u32,
    /// kubeconfig to use instead of the usual places
    #[arg(long, value_name = "FILE", conflicts_with = "no_api")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context in the kubeconfig
    #[arg(long, value_name = "NAME", conflicts_with = "no_api")]
    pub(crate) context: Option<String>,
    /// Don't ask the Kubernetes API; what the node knows must do
    #[arg(long)]
    pub(crate) no_api: bool,
    /// Where the node's file system is, when svctrace runs in a container
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) host_root: PathBuf,
}

/// Options of a trace that mean nothing for a capture.
const LIVE_ONLY: [&str; 20] = [
    "objects",
    "pod",
    "selector",
    "namespace",
    "all_namespaces",
    "container",
    "cgroup",
    "pid",
    "command",
    "no_resolver",
    "no_syscalls",
    "wire",
    "wait",
    "duration",
    "snaplen",
    "ring_size",
    "kubeconfig",
    "context",
    "no_api",
    "host_root",
];

/// Captures.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Captures")]
pub(crate) struct Capture {
    /// Record into a file that Wireshark opens too; compressed if it ends in .zst, - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
    /// Replay a capture instead of tracing, - is standard input; repeatable for the files of one recording
    #[arg(short, long, value_name = "FILE", conflicts_with_all = LIVE_ONLY)]
    pub(crate) read: Vec<PathBuf>,
    /// Keep the arguments of commands and, from a capture that has them, payloads other than DNS; they
    /// show with --events -x
    #[arg(long)]
    pub(crate) keep_payload: bool,
    /// Replace names by stable pseudonyms, in what is recorded and printed; addresses, ports, times and
    /// the lengths of names stay
    #[arg(long, value_enum, value_name = "names", hide_possible_values = true)]
    pub(crate) redact: Option<Redact>,
    /// Key of the pseudonyms, for the same ones in several captures [default: a new one each time]
    #[arg(long, value_name = "FILE", requires = "redact")]
    pub(crate) redact_key: Option<PathBuf>,
    /// Overwrite the file that -w names
    #[arg(long, requires = "write")]
    pub(crate) force: bool,
    /// Record into a ring of files of about this size each
    #[arg(long, value_name = "SIZE", requires = "write", value_parser = parse_bytes)]
    pub(crate) rotate_size: Option<u64>,
    /// Record into a ring of files of this time each
    #[arg(long, value_name = "TIME", requires = "write", value_parser = parse_duration)]
    pub(crate) rotate_time: Option<Duration>,
    /// Files in the ring [default: 10]
    #[arg(long, value_name = "N", requires = "write", value_parser = clap::value_parser!(u16).range(2..=1000))]
    pub(crate) rotate_count: Option<u16>,
}

/// `--redact`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Redact {
    /// Names of hosts, pods, processes and all else.
    Names,
}

/// The capture that the agent opened for the pipeline process.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub(crate) struct Handed {
    /// Descriptors of its files
    #[arg(long, hide = true)]
    pub(crate) write_fd: Vec<i32>,
    /// Wrapped in zstd
    #[arg(long, hide = true)]
    pub(crate) write_zstd: bool,
    /// Bytes of one file
    #[arg(long, hide = true)]
    pub(crate) write_bytes: Option<u64>,
    /// Nanoseconds of one file
    #[arg(long, hide = true)]
    pub(crate) write_ns: Option<u64>,
    /// What to replace
    #[arg(long, value_enum, hide = true)]
    pub(crate) redact: Option<Redact>,
    /// Descriptor of the key
    #[arg(long, hide = true)]
    pub(crate) redact_key_fd: Option<i32>,
}

/// What to print.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct Output {
    /// Format
    #[arg(short, long = "output", value_enum, default_value_t)]
    pub(crate) output: Format,
    /// Print every event as well
    #[arg(long)]
    pub(crate) events: bool,
    /// Time column of text: h time of day (UTC), a seconds since 1970, r since the start, d own
    /// duration, D since the line before
    #[arg(
        short,
        long,
        value_enum,
        value_name = "h|a|r|d|D",
        default_value_t,
        hide_possible_values = true
    )]
    pub(crate) time: Time,
    /// Print only the lines (and the summary) that this CEL expression over the fields of -o json
    /// takes, such as 'type == "lookup" && duration_ns > 1000000000'
    #[arg(long, value_name = "EXPR", value_parser = parse_filter)]
    pub(crate) filter: Option<Filter>,
    /// Show DNS messages decoded and in hex beneath their events (with --events)
    #[arg(short = 'x', long, requires = "events")]
    pub(crate) payload: bool,
    /// Colours; auto is on a terminal without NO_COLOR
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    pub(crate) color: When,
    /// Exit with 1 on findings of this code or of at least this severity (info, warning, error); repeatable
    #[arg(long, value_name = "CODE|SEVERITY", value_parser = FailOn::parse)]
    pub(crate) fail_on: Vec<FailOn>,
    /// A search walk that costs at least this is a finding
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = parse_duration)]
    pub(crate) walk_threshold: Duration,
    /// A DNS answer that takes at least this is slow; servers that often are become a finding
    #[arg(long, value_name = "TIME", default_value = "100ms", value_parser = parse_duration)]
    pub(crate) slow_threshold: Duration,
    /// Say more about what svctrace itself does; -vvv includes the probes' own log
    #[arg(short, long, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Say only errors besides the results
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Rights that svctrace gives up before it looks at what comes from others: all that it can
    /// (auto), all or refuse to run (strict), none (off); -v says which
    #[arg(long, value_name = "strict|auto|off", default_value = "auto")]
    pub(crate) sandbox: sandbox::Mode,
    /// Columns of the terminal; the agent measures, the pipeline is told
    #[arg(long, hide = true)]
    pub(crate) width: Option<u16>,
}

/// `-o`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Lines for people
    #[default]
    Text,
    /// Lines for people, with more columns
    Wide,
    /// One JSON object a line, see `svctrace schema`
    Json,
}

/// `-t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Time {
    #[default]
    #[value(name = "h")]
    Human,
    #[value(name = "a")]
    Absolute,
    #[value(name = "r")]
    Relative,
    #[value(name = "d")]
    Own,
    #[value(name = "D")]
    Delta,
}

/// `--color`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    #[default]
    Auto,
    Always,
    Never,
}

/// `--fail-on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailOn {
    /// This code.
    Code(tracer::report::Code),
    /// This severity or worse.
    Severity(tracer::report::Severity),
}

impl FailOn {
    const SEVERITIES: [(&'static str, tracer::report::Severity); 3] = [
        ("info", tracer::report::Severity::Info),
        ("warning", tracer::report::Severity::Warning),
        ("error", tracer::report::Severity::Error),
    ];

    fn parse(text: &str) -> Result<Self, String> {
        let code = tracer::report::Code::ALL.into_iter().find(|code| code.name() == text);
        let severity = Self::SEVERITIES.into_iter().find(|(name, _)| *name == text);
        match (code, severity) {
            (Some(code), _) => Ok(Self::Code(code)),
            (None, Some((_, severity))) => Ok(Self::Severity(severity)),
            (None, None) => {
                let codes: Vec<_> = tracer::report::Code::ALL.iter().map(|c| c.name()).collect();
                Err(format!("not a severity (info, warning, error) or code ({})", codes.join(", ")))
            }
        }
    }

    /// As typed.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Code(code) => code.name(),
            Self::Severity(of) => Self::SEVERITIES
                .into_iter()
                .find_map(|(name, severity)| (severity == of).then_some(name))
                .unwrap_or("error"),
        }
    }
}

fn codes() -> PossibleValuesParser {
    PossibleValuesParser::new(tracer::report::Code::ALL.map(tracer::report::Code::name))
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let spoken: jiff::SignedDuration =
        text.parse().map_err(|_| "not a time; write it like 500ms, 30s or 5m".to_owned())?;
    Duration::try_from(spoken).map_err(|_| "a time cannot be negative".to_owned())
}

fn parse_filter(text: &str) -> Result<Filter, String> {
    let (text, thread) = (text.to_owned(), std::thread::Builder::new());
    let compiling = thread.stack_size(filter::COMPILE_STACK).spawn(move || Filter::compile(&text));
    let compiled = compiling.map_err(|error| error.to_string())?.join();
    compiled.unwrap_or_else(|_| Err("not an expression".to_owned()))
}

fn parse_size(text: &str) -> Result<u32, String> {
    u32::try_from(parse_bytes(text)?).map_err(|_| "too large; it must be less than 4G".to_owned())
}

fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..).unwrap_or_default().to_ascii_lowercase().as_str() {
        "" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        _ => return Err("not a size; write it like 4096, 512K or 16M".to_owned()),
    };
    let number: u64 =
        digits.parse().map_err(|_| "not a size; write it like 4096, 512K or 16M".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(parse_size("16M"), Ok(16 << 20));
        assert_eq!(parse_size("512KiB"), Ok(512 << 10));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert!(parse_size("5G").is_err());
        assert!(parse_size("M").is_err());
        assert!(parse_size("16X").is_err());
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("100ms"), Ok(Duration::from_millis(100)));
        assert!(parse_duration("30").is_err());
        assert!(parse_duration("-3s").is_err());
    }
}
