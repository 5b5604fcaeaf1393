//! One target's run: libFuzzer's options, what it prints, and a smaller input when it found something.
//! On a machine that others use, or that sleeps, an input may take long for no fault of its own: it is
//! tried again before it counts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use xtask::usage::{self, Usage};
use xtask::{cmd, repo};

/// More resident memory than this is a finding, in MiB; the sanitizer needs most of it.
const RSS_MAX_MIB: u32 = 2048;
/// An input that takes longer is a finding, in seconds.
const INPUT_WITHIN_S: u32 = 20;
/// So often a run goes on: because it did not get its time of a processor, or after an input that took
/// long only once.
const LIVES_MAX: u32 = 100;
/// A life shorter than this would only read its corpus again.
const LIFE_MIN: Duration = Duration::from_secs(10);
/// Time to make a found input smaller, in seconds.
const SMALLER_WITHIN_S: u32 = 60;
/// Most bytes of an input: of captures, of what is text, of a filter, of others.
const LENGTHS: [(&[&str], u32); 3] = [
    (&["pcap", "pcapng", "scap", "capture", "pipeline"], 65_536),
    (&["cgroup_path", "filter"], 2304),
    (&["dns", "ring", "context", "resolv_conf"], 4096),
];
const LENGTH: u32 = 16_384;
/// Words of the formats, for several targets each.
const DICTIONARIES: [(&str, &[&str]); 5] = [
    ("dns", &["dns", "packet", "tcp", "redact", "pipeline"]),
    ("pcapng", &["pcap", "pcapng", "capture"]),
    ("scap", &["scap"]),
    ("text", &["kubernetes", "context", "resolv_conf", "cgroup_path"]),
    ("filter", &["filter"]),
];

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) target: String,
    pub(crate) executions: u64,
    /// Edges of the control flow that were reached, and all that the program has.
    pub(crate) edges: (u64, u64),
    /// Inputs worth keeping.
    pub(crate) corpus: u64,
    pub(crate) peak_mib: u64,
    /// Start to end.
    pub(crate) time: Duration,
    /// What it got of a processor in that time.
    pub(crate) cpu: Duration,
    pub(crate) found: Option<Found>,
}

/// An input that something does not hold for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    /// First line of the panic, or what the sanitizer said.
    pub(crate) what: String,
    pub(crate) input: Option<PathBuf>,
    pub(crate) smaller: Option<PathBuf>,
    /// It only took too long, by the clock on the wall.
    late: bool,
}

impl Outcome {
    /// One more life of the same run.
    fn add(&mut self, told: &Told, time: Duration, cpu: Duration) {
        self.executions += told.executions;
        self.edges = (self.edges.0.max(told.edges.0), self.edges.1.max(told.edges.1));
        self.corpus = self.corpus.max(told.corpus);
        self.peak_mib = self.peak_mib.max(told.peak_mib);
        self.time += time;
        self.cpu += cpu;
    }

    /// What was found, and what to do with it.
    pub(crate) fn story(&self) -> String {
        let Some(found) = &self.found else { return String::new() };
        let target = &self.target;
        let mut story = format!("\n{target}: {}\n", found.what);
        let Some(input) = &found.input else { return story };
        let smaller = found.smaller.as_ref().unwrap_or(input);
        story += &format!("  input:     {}\n", input.display());
        if let Some(smaller) = &found.smaller {
            story += &format!("  minimised: {}\n", smaller.display());
        }
        story += &format!(
            "  again:     cargo +nightly fuzz run {target} {}\n  once fixed: keep it as fuzz/seeds/{target}/found-WHAT; the tests run it from then on\n",
            smaller.display()
        );
        story
    }
}

/// What one target's run needs.
struct Place {
    program: PathBuf,
    corpus: PathBuf,
    seeds: PathBuf,
    artifacts: PathBuf,
    dictionary: Option<PathBuf>,
    log: PathBuf,
    length: u32,
    nice: u8,
}

impl Place {
    fn new(triple: &str, target: &str, nice: u8) -> Result<Self> {
        let fuzz = repo::root().join("fuzz");
        let place = Self {
            program: fuzz.join("target").join(triple).join("release").join(target),
            corpus: fuzz.join("corpus").join(target),
            seeds: fuzz.join("seeds").join(target),
            artifacts: fuzz.join("artifacts").join(target),
            dictionary: dictionary(&fuzz, target),
            log: fuzz.join("log").join(format!("{target}.log")),
            length: length(target),
            nice,
        };
        for folder in [&place.corpus, &place.artifacts, &fuzz.join("log")] {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        Ok(place)
    }

    /// One life of libFuzzer, and what it wrote.
    fn fuzz(&self, time: Duration) -> Result<(Usage, String)> {
        let mut command = libfuzzer(&self.program, self.nice);
        command
            .arg(&self.corpus)
            .arg(&self.seeds)
            .arg(format!("-artifact_prefix={}/", self.artifacts.display()))
            .arg(format!("-max_total_time={}", time.as_secs()))
            .arg(format!("-max_len={}", self.length))
            .arg("-print_final_stats=1");
        if let Some(dictionary) = &self.dictionary {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        command.stdout(Stdio::null()).stderr(fs::File::create(&self.log)?);
        let child = command.spawn();
        let child = child.with_context(|| format!("cannot start {}", self.program.display()))?;
        let usage = usage::wait(child)?;
        Ok((usage, String::from_utf8_lossy(&fs::read(&self.log)?).into_owned()))
    }

    /// The input once more, alone: whether it is done in time now.
    fn passes(&self, input: &Path) -> bool {
        let mut command = libfuzzer(&self.program, self.nice);
        command.arg(input).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

/// Fuzzes `target` until it had this much of a processor, or something is found.
pub(crate) fn target(triple: &str, target: &str, time: Duration, nice: u8) -> Result<Outcome> {
    let place = Place::new(triple, target, nice)?;
    println!("fuzz: {target} for {} s, log in {}", time.as_secs(), place.log.display());
    let mut all = Outcome { target: target.to_owned(), ..Outcome::default() };
    for _ in 0..LIVES_MAX {
        let begun = Instant::now();
        // libFuzzer ends by the clock on the wall: where others work too, it takes several lives.
        let (usage, text) = place.fuzz(time.saturating_sub(all.cpu).max(LIFE_MIN.min(time)))?;
        all.add(&understood(&text), begun.elapsed(), usage.cpu);
        if !usage.status.success() {
            let mut found = found(&text);
            let input = found.input.take_if(|input| found.late && place.passes(input));
            let Some(input) = input else {
                found.smaller = found.input.as_ref().and_then(|input| smaller(&place, input));
                all.found = Some(found);
                break;
            };
            println!("fuzz: {target}: {} took long only once; goes on", input.display());
            let _ = fs::remove_file(&input);
        }
        if all.cpu >= time {
            break;
        }
    }
    Ok(all)
}

fn libfuzzer(program: &Path, nice: u8) -> Command {
    let mut command = cmd::command("nice");
    command.args(["-n", &nice.to_string()]).arg(program);
    command
        .arg(format!("-rss_limit_mb={RSS_MAX_MIB}"))
        .arg(format!("-timeout={INPUT_WITHIN_S}"))
        .env("ASAN_OPTIONS", "detect_odr_violation=0:quarantine_size_mb=16")
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null());
    command
}

fn length(target: &str) -> u32 {
    let known = LENGTHS.iter().find(|(targets, _)| targets.contains(&target));
    known.map_or(LENGTH, |(_, length)| *length)
}

fn dictionary(fuzz: &Path, target: &str) -> Option<PathBuf> {
    let (name, _) = DICTIONARIES.iter().find(|(_, targets)| targets.contains(&target))?;
    Some(fuzz.join("dictionaries").join(format!("{name}.dict")))
}

/// The input again, as small as it gets in a minute.
fn smaller(place: &Place, input: &Path) -> Option<PathBuf> {
    let into = place.artifacts.join("minimised");
    let _ = fs::remove_file(&into);
    let mut command = libfuzzer(&place.program, place.nice);
    command
        .arg("-minimize_crash=1")
        .arg(format!("-exact_artifact_path={}", into.display()))
        .arg(format!("-max_total_time={SMALLER_WITHIN_S}"))
        .arg(input)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _ = command.status();
    into.is_file().then_some(into)
}

/// Figures of one life of libFuzzer.
struct Told {
    executions: u64,
    edges: (u64, u64),
    corpus: u64,
    peak_mib: u64,
}

/// What libFuzzer printed.
fn understood(text: &str) -> Told {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let stat = |name: &str| {
        text.lines().find_map(|line| number(line.strip_prefix("stat::")?.strip_prefix(name)?))
    };
    // `#4096  pulse  cov: 1234 ft: 5678 corp: 90/12Kb ...`
    let last = |key: &str| {
        let lines = text.lines().rev().filter(|line| line.starts_with('#'));
        let digits = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>();
        lines.filter_map(|line| number(&digits(line.split_once(key)?.1))).next()
    };
    let all = text.lines().find_map(|line| {
        number(line.strip_prefix("INFO: Loaded 1 modules   (")?.split_whitespace().next()?)
    });
    let done = text
        .lines()
        .rev()
        .find_map(|line| number(line.strip_prefix('#')?.split_whitespace().next()?));
    Told {
        executions: stat("number_of_executed_units:").or(done).unwrap_or(0),
        edges: (last("cov: ").unwrap_or(0), all.unwrap_or(0)),
        corpus: last("corp: ").unwrap_or(0),
        peak_mib: stat("peak_rss_mb:").unwrap_or(0),
    }
}

fn found(text: &str) -> Found {
    let panicked = text.lines().skip_while(|line| !line.contains("panicked at")).take(2);
    let said = text.lines().find(|line| line.contains("ERROR: ") || line.contains("SUMMARY: "));
    let what = panicked.chain(said).take(2).collect::<Vec<_>>().join(" ");
    let input =
        text.lines().find_map(|line| line.split_once("Test unit written to ")).map(|at| at.1);
    let cut = |text: String| text.chars().take(300).collect();
    let what = if what.is_empty() { "it ended early; see its log".to_owned() } else { what };
    let late = text.contains("ERROR: libFuzzer: timeout");
    Found { what: cut(what), input: input.map(|path| path.trim().into()), smaller: None, late }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "INFO: Loaded 1 modules   (412 inline 8-bit counters): 412 [0x1, 0x2),\n\
        #2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 40Mb\n\
        #4096\tpulse  cov: 123 ft: 456 corp: 7/1Kb lim: 4 exec/s: 2048 rss: 50Mb\n";

    #[test]
    fn figures_of_a_quiet_run() {
        let text = format!(
            "{LOG}Done 5000 runs in 3 second(s)\nstat::number_of_executed_units: 5000\nstat::peak_rss_mb:              52\n"
        );
        let told = understood(&text);
        assert_eq!((told.executions, told.edges, told.corpus), (5000, (123, 412), 7));
        let mut all = Outcome::default();
        for _ in 0..2 {
            all.add(&told, Duration::from_secs(4), Duration::from_secs(3));
        }
        assert_eq!((all.executions, all.edges, all.peak_mib), (10_000, (123, 412), 52));
        assert_eq!((all.time.as_secs(), all.cpu.as_secs()), (8, 6));
    }

    #[test]
    fn what_a_crash_says() {
        let text = format!(
            "{LOG}thread 'main' panicked at tests/src/fuzz/wire.rs:1:2:\nno such thing\n==1== ERROR: libFuzzer: deadly signal\nartifact_prefix='x/'; Test unit written to x/crash-abc\n"
        );
        assert_eq!(understood(&text).executions, 4096, "the last that was told");
        let found = found(&text);
        assert!(!found.late);
        assert!(found.what.ends_with("wire.rs:1:2: no such thing"), "{found:?}");
        assert_eq!(found.input, Some("x/crash-abc".into()));
    }

    #[test]
    fn what_takes_long_is_told_from_what_crashes() {
        let text = format!(
            "{LOG}ALARM: working on the last Unit for 21 seconds\nartifact_prefix='x/'; Test unit written to x/timeout-abc\n==1== ERROR: libFuzzer: timeout after 21 seconds\n"
        );
        let found = found(&text);
        assert!(found.late, "{found:?}");
        assert_eq!(found.input, Some("x/timeout-abc".into()));
    }

    #[test]
    fn every_dictionary_is_there_and_every_line_is_one() {
        let fuzz = repo::root().join("fuzz");
        for (name, targets) in DICTIONARIES {
            let path = dictionary(&fuzz, targets[0]).unwrap();
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
            let words = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
            for word in words {
                assert!(
                    word.starts_with('"') && word.ends_with('"') && word.len() > 2,
                    "{name}: {word}"
                );
            }
        }
    }
}
