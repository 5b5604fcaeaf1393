//! `cargo xtask bench replay`: whole processes, svctrace against what people use today. All files it
//! makes lie in one temporary folder, at most about 1 GB, removed however the bench ends.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail, ensure};
use tempfile::TempDir;
use xtask::{cmd, interrupt, repo};

use super::measure::{Contender, Measured, in_turn};
use super::page::{self, Table};

/// DNS messages of the packet capture.
pub(super) const MESSAGES: u64 = 500_000;
/// How many times as long the long captures are. The incident of the lab has 200 events, the real
/// capture 146,038.
const OWN: [u64; 2] = [500, 5_000];
const SCAP: [u64; 2] = [10, 100];
/// What sysdig prints: events of IP sockets in containers.
const SYSDIG_FORMAT: &str = "%evt.num %evt.time %evt.cpu %container.name %proc.name %thread.tid %evt.dir %evt.type %evt.args";
const SYSDIG_FILTER: &str = "(fd.type=ipv4 or fd.type=ipv6) and container.id!=host";
/// Most resident memory of a replay, MiB, however long.
const MEMORY_MAX_MIB: u64 = 150;
/// svctrace's codes for a result, complete or not.
pub(super) const RESULT: &[i32] = &[0, 3];
pub(super) const SUCCESS: &[i32] = &[0];

/// How to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A scap file to compare on; default: what SVCTRACE_SCAP names
    #[arg(long, value_name = "FILE")]
    capture: Option<PathBuf>,
    /// Rounds of each comparison
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// The svctrace to measure; default: the optimised one of this tree
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Put the results into docs/performance.md
    #[arg(long)]
    write: bool,
}

struct Bench {
    svctrace: PathBuf,
    generator: PathBuf,
    folder: TempDir,
    rounds: usize,
    text: String,
    missed: Vec<String>,
}

/// Measures it; an error when something is over its limit.
pub(crate) fn run(options: &Options) -> Result<()> {
    interrupt::catch()?;
    let mut bench = Bench {
        svctrace: match &options.program {
            Some(program) => program.clone(),
            None => repo::svctrace(true)?,
        },
        generator: generator()?,
        folder: tempfile::Builder::new().prefix("svctrace-bench-").tempdir()?,
        rounds: options.rounds,
        text: String::new(),
        missed: Vec::new(),
    };
    bench.say(&format!("{}.\n", page::machine()));
    let capture = real_capture(options.capture.as_ref());
    match &capture {
        Some(capture) => bench.real(capture)?,
        None => bench.say("The real capture: skipped, no file (set SVCTRACE_SCAP).\n"),
    }
    bench.packets()?;
    bench.long("own", OWN, &repo::root().join("demo/incident.pcapng.zst"))?;
    if let Some(capture) = &capture {
        bench.long("scap", SCAP, capture)?;
    }
    if options.write {
        page::write("replay", &bench.text)?;
    }
    ensure!(bench.missed.is_empty(), "over the limit: {}", bench.missed.join("; "));
    Ok(())
}

/// The capture that started the project: the one named, else what SVCTRACE_SCAP names.
pub(super) fn real_capture(named: Option<&PathBuf>) -> Option<PathBuf> {
    let by_variable = || std::env::var_os("SVCTRACE_SCAP").map(PathBuf::from);
    named.cloned().or_else(by_variable).or_else(|| {
        let beside = repo::root().join("../shared/captures/critical-app.scap");
        beside.is_file().then_some(beside)
    })
}

/// The program that makes captures, built as the tests are.
pub(super) fn generator() -> Result<PathBuf> {
    let mut build = cmd::command("cargo");
    build.args(["build", "--quiet", "--package", "tests", "--example", "long"]);
    cmd::show(build.current_dir(repo::root()))?;
    Ok(repo::target_dir().join("debug/examples/long"))
}

impl Bench {
    fn say(&mut self, text: &str) {
        println!("{text}");
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn table(&mut self, table: &Table) {
        self.say(&table.text());
    }

    fn svctrace(&self, file: &Path) -> Contender {
        let mut command = Command::new(&self.svctrace);
        command.arg("-r").arg(file).args(["-o", "json"]);
        Contender { name: "svctrace -r -o json".to_owned(), command, fine: RESULT }
    }

    /// The capture that started the project, and what sysdig does with it.
    fn real(&mut self, capture: &Path) -> Result<()> {
        let mut contenders = vec![self.svctrace(capture)];
        contenders.extend(installed("sysdig", "sysdig -r, IP events of containers", |command| {
            command.arg("-r").arg(capture).args(["-p", SYSDIG_FORMAT, SYSDIG_FILTER]);
        }));
        contenders.extend(installed("gunzip", "gunzip -c, the floor", |command| {
            command.arg("-c").arg("--suffix=.scap").arg(capture);
        }));
        let measured = in_turn(&mut contenders, self.rounds)?;
        let mut table = comparison("The real capture, 146,038 events", "");
        for one in &measured {
            table.row(cells(one, None));
        }
        self.table(&table);
        self.expect(&measured, "sysdig", 3.0);
        Ok(())
    }

    /// A node's DNS in a pcap.
    fn packets(&mut self) -> Result<()> {
        let file = self.make("pcap", &[&MESSAGES.to_string()], "dns.pcap")?;
        let mut contenders = vec![self.svctrace(&file)];
        contenders.extend(installed("tcpdump", "tcpdump -n -r", |command| {
            command.arg("-n").arg("-r").arg(&file);
        }));
        contenders.extend(installed("tshark", "tshark -z dns,tree -q", |command| {
            command.arg("-r").arg(&file).args(["-n", "-q", "-z", "dns,tree"]);
        }));
        let measured = in_turn(&mut contenders, self.rounds)?;
        let mut table = comparison("A pcap of 500,000 DNS messages", "messages/s");
        for one in &measured {
            table.row(cells(one, Some(MESSAGES)));
        }
        self.table(&table);
        self.expect(&measured, "tcpdump", 1.0);
        Ok(std::fs::remove_file(file)?)
    }

    /// Time must grow with the length, memory must not.
    fn long(&mut self, kind: &str, lengths: [u64; 2], seed: &Path) -> Result<()> {
        let title = match kind {
            "own" => "The lab's incident many times over, svctrace's own format",
            _ => "The real capture many times over, scap",
        };
        let columns = ["length", "file MB", "time s", "CPU s", "peak RSS MiB"];
        let mut table = Table::new(title, &columns);
        let mut costs = Vec::new();
        for length in lengths {
            let seed = seed.to_string_lossy();
            let file = self.make(kind, &[&seed, &length.to_string()], kind)?;
            let bytes = std::fs::metadata(&file)?.len();
            let measured = in_turn(&mut [self.svctrace(&file)], self.rounds.min(3))?;
            std::fs::remove_file(file)?;
            let Some(Measured { cost, .. }) = measured.first() else { continue };
            table.row([
                format!("{length} ×"),
                format!("{:.1}", bytes as f64 / 1e6),
                format!("{:.2}", cost.wall.as_secs_f64()),
                format!("{:.2}", cost.cpu.as_secs_f64()),
                format!("{:.1}", cost.rss_kib as f64 / 1024.0),
            ]);
            if cost.rss_kib / 1024 >= MEMORY_MAX_MIB {
                self.missed.push(format!("{kind} {length} ×: {} MiB", cost.rss_kib / 1024));
            }
            costs.push(*cost);
        }
        self.table(&table);
        if let [short, long] = costs.as_slice() {
            let time = long.cpu.as_secs_f64() / short.cpu.as_secs_f64().max(1e-9);
            let memory = long.rss_kib as f64 / short.rss_kib.max(1) as f64;
            self.say(&format!(
                "Ten times the length: {time:.1} times the CPU time, {memory:.2} times the memory.\n"
            ));
        }
        Ok(())
    }

    /// Has the generator write a file.
    fn make(&self, kind: &str, args: &[&str], name: &str) -> Result<PathBuf> {
        interrupt::check()?;
        let file = self.folder.path().join(name);
        let mut command = Command::new(&self.generator);
        cmd::show(command.arg(kind).arg(&file).args(args))?;
        if !file.is_file() {
            bail!("`{}` made nothing", cmd::line(&command));
        }
        Ok(file)
    }

    /// Notes when `peer` did not take at least `factor` times as long as svctrace.
    fn expect(&mut self, measured: &[Measured], peer: &str, factor: f64) {
        match measured.iter().find(|one| one.name.starts_with(peer)) {
            Some(one) if one.ratio < factor => {
                self.missed
                    .push(format!("{peer} takes {:.2} times as long, not {factor}", one.ratio));
            }
            Some(_) => {}
            None => self.say(&format!("{peer} is not installed: nothing to compare with.\n")),
        }
    }
}

fn installed(program: &str, name: &str, set: impl FnOnce(&mut Command)) -> Option<Contender> {
    let mut command = Command::new(cmd::find(program)?);
    set(&mut command);
    Some(Contender { name: name.to_owned(), command, fine: SUCCESS })
}

fn comparison(title: &str, rate: &str) -> Table {
    let columns = ["program", "time s", "CPU s", "× svctrace", "peak RSS MiB", rate];
    let count = if rate.is_empty() { columns.len() - 1 } else { columns.len() };
    Table::new(title, &columns[..count])
}

fn cells(one: &Measured, messages: Option<u64>) -> Vec<String> {
    let seconds = one.cost.wall.as_secs_f64();
    let mut cells = vec![
        one.name.clone(),
        format!("{seconds:.3}"),
        format!("{:.3}", one.cost.cpu.as_secs_f64()),
        format!("{:.2}", one.ratio),
        format!("{:.1}", one.cost.rss_kib as f64 / 1024.0),
    ];
    cells.extend(messages.map(|n| format!("{:.0}", n as f64 / seconds.max(1e-9))));
    cells
}
