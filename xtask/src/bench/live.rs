//! `cargo xtask bench live`: what tracing a pod costs it, its neighbours and the node, in the lab: DNS
//! through the resolver's Service with svctrace, with tcpdump and with nothing, in turn. The load and
//! what is read of the processes are in files of their own.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use xtask::lab::Lab;
use xtask::{cmd, interrupt, repo};

use super::load::{self, Asked, Tcpdump};
use super::measure::middle;
use super::page::{self, Table};
use super::tracing::{self, Memory, Told, Tracing};

/// Questions a second in the comparison of processor time, and in the search for loss.
const RATES: [u64; 4] = [5_000, 10_000, 20_000, 40_000];
const COMPARED: u64 = 10_000;
const BYSTANDER_MIN: f64 = 0.95;
const CPU_MAX: f64 = 3.0;
const MEMORY_MAX_MIB: u64 = 64;
/// When memory is read, before the load ends.
const EARLIER: Duration = Duration::from_millis(500);

/// How to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds of each comparison
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of load in each
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// The svctrace to measure; default: the optimised one of this tree
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Put the results into docs/performance.md
    #[arg(long)]
    write: bool,
    /// More options for svctrace
    #[arg(last = true, value_name = "OPTION")]
    more: Vec<String>,
}

/// What watches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watcher {
    Nobody,
    Svctrace,
    NoSyscalls,
    Tcpdump,
}

impl Watcher {
    fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Svctrace => "svctrace",
            Self::NoSyscalls => "svctrace --no-syscalls",
            Self::Tcpdump => "tcpdump -w",
        }
    }
}

/// What one round showed.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    asked: Asked,
    cpu: Duration,
    memory: Memory,
    told: Told,
}

impl Round {
    /// Seconds of processor time for 100,000 transactions.
    fn cpu_of_100k(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e5 / self.asked.answered.max(1) as f64
    }
}

struct Bench<'a> {
    svctrace: PathBuf,
    options: &'a Options,
    lab: Lab,
    folder: TempDir,
    questions: PathBuf,
    text: String,
    missed: Vec<String>,
}

/// Measures it; an error when something is over its limit.
pub(crate) fn run(options: &Options) -> Result<()> {
    interrupt::catch()?;
    for program in ["dnsperf", "tcpdump", "wrk"] {
        ensure!(cmd::find(program).is_some(), "{program} is not installed: `cargo xtask setup`");
    }
    let svctrace = match &options.program {
        Some(program) => program.canonicalize().with_context(|| program.display().to_string())?,
        None => repo::svctrace(true)?,
    };
    let lab = Lab::up(false)?;
    // In memory, as far as a machine has such a folder: a disk is none of the contenders.
    let folder =
        tempfile::Builder::new().prefix("bench-").tempdir_in(xtask::lab::state::folder())?;
    let questions = load::questions(folder.path())?;
    let (text, missed) = (String::new(), Vec::new());
    let mut bench = Bench { svctrace, options, lab, folder, questions, text, missed };
    bench.say(&format!("{}.\n", page::machine()));
    if !options.more.is_empty() {
        bench.say(&format!("svctrace with {}.\n", options.more.join(" ")));
    }
    bench.throughput()?;
    bench.bystander()?;
    bench.processor_time()?;
    bench.loss()?;
    let Bench { lab, folder, text, missed, .. } = bench;
    folder.close()?;
    lab.down()?;
    if options.write {
        page::write("live", &text)?;
    }
    ensure!(missed.is_empty(), "over the limit: {}", missed.join("; "));
    Ok(())
}

impl Bench<'_> {
    fn say(&mut self, text: &str) {
        println!("{text}");
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn time(&self) -> Duration {
        Duration::from_secs(self.options.seconds.max(1))
    }

    fn start(&self, watcher: Watcher) -> Result<Tracing> {
        let mut args = self.options.more.clone();
        args.extend((watcher == Watcher::NoSyscalls).then(|| "--no-syscalls".to_owned()));
        Tracing::start(&self.svctrace, self.folder.path(), &args)
    }

    /// dnsperf under the eyes of `watcher`.
    fn round(&self, watcher: Watcher, at: Option<u64>) -> Result<Round> {
        interrupt::check()?;
        match watcher {
            Watcher::Nobody => {
                let asked = load::dnsperf(self.dnsperf(at)?)?;
                Ok(Round { asked, ..Round::default() })
            }
            Watcher::Tcpdump => {
                let to = self.folder.path().join("dns.pcap");
                let tcpdump = Tcpdump::start(&self.lab, self.folder.path(), &to)?;
                let mut round = self.watched(&[tcpdump.pid()], at)?;
                round.told.lost = tcpdump.finish(self.folder.path())?;
                std::fs::remove_file(to)?;
                Ok(round)
            }
            Watcher::Svctrace | Watcher::NoSyscalls => {
                let tracing = self.start(watcher)?;
                let mut round = self.watched(&tracing.processes(), at)?;
                round.told = tracing.finish()?;
                Ok(round)
            }
        }
    }

    fn dnsperf(&self, at: Option<u64>) -> Result<std::process::Child> {
        load::start_dnsperf(&self.lab, &self.questions, self.time(), at)
    }

    fn watched(&self, processes: &[u32], at: Option<u64>) -> Result<Round> {
        let before = tracing::cpu(processes)?;
        let child = self.dnsperf(at)?;
        std::thread::sleep(self.time().saturating_sub(EARLIER));
        let memory = tracing::memory(processes)?;
        let asked = load::dnsperf(child)?;
        let cpu = tracing::cpu(processes)?.saturating_sub(before);
        Ok(Round { asked, cpu, memory, told: Told::default() })
    }

    /// All in turn, a different one first each time.
    fn in_turn(&self, watchers: &[Watcher], at: Option<u64>) -> Result<Vec<Vec<Round>>> {
        let mut all = vec![Vec::new(); watchers.len()];
        for first in 0..self.options.rounds.max(1) {
            let mut round = vec![Round::default(); watchers.len()];
            for step in 0..watchers.len() {
                let number = (first + step) % watchers.len();
                round[number] = self.round(watchers[number], at)?;
            }
            all.iter_mut().zip(round).for_each(|(rounds, round)| rounds.push(round));
        }
        Ok(all)
    }

    /// What of its rate a pod keeps, and what the watchers take meanwhile.
    fn throughput(&mut self) -> Result<()> {
        let watchers = [Watcher::Nobody, Watcher::Svctrace, Watcher::NoSyscalls, Watcher::Tcpdump];
        let all = self.in_turn(&watchers, None)?;
        let columns =
            ["watched by", "queries/s", "kept", "CPU s per 100,000", "events lost of seen"];
        let mut table = Table::new("dnsperf as fast as it goes", &columns);
        let untraced = &all[0];
        let mut kept = Vec::new();
        for (watcher, rounds) in watchers.iter().zip(&all) {
            let pairs = rounds.iter().zip(untraced);
            let ratio = middle(pairs.map(|(own, free)| own.asked.rate / free.asked.rate.max(1.0)));
            kept.push(ratio);
            let sum = |of: fn(&Round) -> u64| rounds.iter().map(of).sum::<u64>();
            let (seen, lost) = (sum(|r| r.told.seen), sum(|r| r.told.lost));
            table.row([
                watcher.name().to_owned(),
                format!("{:.0}", middle(rounds.iter().map(|r| r.asked.rate))),
                format!("{:.1} %", 100.0 * ratio),
                match watcher {
                    Watcher::Nobody => "-".to_owned(),
                    _ => format!("{:.3}", middle(rounds.iter().map(Round::cpu_of_100k))),
                },
                match watcher {
                    Watcher::Nobody => "-".to_owned(),
                    Watcher::Tcpdump => lost.to_string(),
                    _ => format!("{lost} of {}", lost + seen),
                },
            ]);
        }
        self.say(&table.text());
        if kept[1] < kept[3] {
            let words = format!(
                "svctrace keeps {:.1} %, tcpdump {:.1} % of the rate",
                100.0 * kept[1],
                100.0 * kept[3]
            );
            self.missed.push(words);
        }
        self.memory(&all[1]);
        Ok(())
    }

    fn memory(&mut self, rounds: &[Round]) {
        let most = rounds.iter().map(|round| round.memory).max_by_key(|memory| memory.resident);
        let most = most.unwrap_or_default();
        let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
        let columns = ["resident", "own", "ring buffers", "program", "proportional"];
        let mut table = Table::new("Memory of both processes meanwhile, MiB", &columns);
        let parts =
            [most.resident, most.anonymous, most.maps, most.file, most.proportional].map(mib);
        table.row(parts);
        self.say(&table.text());
        if most.resident / 1024 > MEMORY_MAX_MIB {
            self.missed.push(format!("{} MiB resident", most.resident / 1024));
        }
    }

    /// What of its rate a pod keeps while its neighbour is traced.
    fn bystander(&mut self) -> Result<()> {
        let columns = ["its neighbour is watched by", "requests/s", "without", "kept"];
        let mut table = Table::new("A busy pod (wrk, nginx) that nobody watches", &columns);
        for watcher in [Watcher::Svctrace, Watcher::NoSyscalls] {
            let (mut with, mut without, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
            for number in 0..self.options.rounds.max(1) {
                let free_first = number % 2 == 0;
                let before = if free_first { load::wrk(&self.lab, self.time())? } else { 0.0 };
                let tracing = self.start(watcher)?;
                let traced = load::wrk(&self.lab, self.time())?;
                tracing.finish()?;
                let free = if free_first { before } else { load::wrk(&self.lab, self.time())? };
                ratios.push(traced / free.max(1.0));
                with.push(traced);
                without.push(free);
            }
            let kept = middle(ratios.into_iter());
            table.row([
                watcher.name().to_owned(),
                format!("{:.0}", middle(with.into_iter())),
                format!("{:.0}", middle(without.into_iter())),
                format!("{:.1} %", 100.0 * kept),
            ]);
            if kept < BYSTANDER_MIN {
                self.missed.push(format!(
                    "a bystander keeps {:.1} % beside {}",
                    100.0 * kept,
                    watcher.name()
                ));
            }
        }
        self.say(&table.text());
        Ok(())
    }

    /// Processor time at a rate that all keep up with.
    fn processor_time(&mut self) -> Result<()> {
        let watchers = [Watcher::Svctrace, Watcher::NoSyscalls, Watcher::Tcpdump];
        let all = self.in_turn(&watchers, Some(COMPARED))?;
        let columns = ["program", "CPU s per 100,000 transactions", "× tcpdump"];
        let title = format!("Processor time at {COMPARED} queries/s");
        let mut table = Table::new(&title, &columns);
        for (watcher, rounds) in watchers.iter().zip(&all) {
            let pairs = rounds.iter().zip(&all[2]);
            let ratio =
                middle(pairs.map(|(own, peer)| own.cpu_of_100k() / peer.cpu_of_100k().max(1e-6)));
            table.row([
                watcher.name().to_owned(),
                format!("{:.3}", middle(rounds.iter().map(Round::cpu_of_100k))),
                format!("{ratio:.1}"),
            ]);
            if *watcher == Watcher::Svctrace && ratio > CPU_MAX {
                self.missed.push(format!("svctrace takes {ratio:.1} times tcpdump's CPU time"));
            }
        }
        self.say(&table.text());
        Ok(())
    }

    /// Up to which rate nothing is lost.
    fn loss(&mut self) -> Result<()> {
        let columns = ["asked for, queries/s", "reached", "events seen", "lost"];
        let mut table = Table::new("Loss by rate, default settings", &columns);
        for at in RATES.into_iter().map(Some).chain([None]) {
            let round = self.round(Watcher::Svctrace, at)?;
            table.row([
                at.map_or_else(|| "all it can".to_owned(), |rate| rate.to_string()),
                format!("{:.0}", round.asked.rate),
                round.told.seen.to_string(),
                round.told.lost.to_string(),
            ]);
            if round.told.lost > 0 {
                self.missed.push(format!(
                    "{} events lost at {:.0} queries/s",
                    round.told.lost, round.asked.rate
                ));
            }
        }
        self.say(&table.text());
        Ok(())
    }
}
