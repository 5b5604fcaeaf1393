//! `cargo xtask fuzz`: runs the fuzz targets of `fuzz/`, one after the other or side by side, and
//! prints what came of each. What a target does is in `tests::fuzz`; the suite runs the seeds without
//! any of this.

mod run;
mod table;

use std::fs;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use xtask::{cmd, repo};

use self::run::Outcome;

/// Variables in which cargo describes the program that it runs.
const OUR_OWN: [&str; 3] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_"];

/// What to fuzz.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Targets; none: all of them
    targets: Vec<String>,
    /// Processor time that each gets, like 90s, 10m or 2h
    #[arg(long = "for", value_name = "DURATION", default_value = "1m", value_parser = duration)]
    time: Duration,
    /// Targets run side by side
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
    jobs: u8,
    /// How far each steps back behind other programs, as nice(1) counts
    #[arg(long, default_value_t = 19, value_parser = clap::value_parser!(u8).range(..=19))]
    nice: u8,
    /// Sanitizer that cargo-fuzz builds with: address, none, ...
    #[arg(long, default_value = "address")]
    sanitizer: String,
    /// Put the rows of these targets into docs/fuzzing.md
    #[arg(long)]
    write: bool,
    /// Make fuzz/seeds anew from the suite's scenarios, and fuzz nothing
    #[arg(long)]
    seeds: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration =
        text.parse().map_err(|error: jiff::Error| error.to_string())?;
    let time = Duration::try_from(span).map_err(|error| error.to_string())?;
    if time < Duration::from_secs(1) { Err("at least a second".to_owned()) } else { Ok(time) }
}

/// Runs them; an error when one of them found something.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.seeds {
        let words =
            ["test", "-p", "tests", "--test", "suite", "fuzz::make_the_seeds", "--", "--ignored"];
        return cmd::show(cmd::command("cargo").args(words).current_dir(repo::root()));
    }
    let targets = targets(&options.targets)?;
    check_tools()?;
    let mut build = nightly(&["fuzz", "build", "--fuzz-dir", "fuzz", "-s", &options.sanitizer]);
    if let [one] = &targets[..] {
        build.arg(one);
    }
    let commit = table::commit()?;
    println!("fuzz: $ {}", cmd::line(&build));
    cmd::show(&mut build)?;
    let triple = triple()?;
    let one = |target: &String| -> Result<Outcome> {
        let outcome = run::target(&triple, target, options.time, options.nice)?;
        // At once: a run of hours that is interrupted keeps what was done.
        if options.write {
            table::write(std::slice::from_ref(&outcome), &commit)?;
        }
        Ok(outcome)
    };
    let queue = Mutex::new(targets.iter());
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some(target) = next else { break };
                    let outcome = one(target);
                    if let Ok(mut outcomes) = outcomes.lock() {
                        outcomes.push(outcome);
                    }
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().map_err(|_| anyhow::anyhow!("a run panicked"))?;
    report(&outcomes.into_iter().collect::<Result<Vec<Outcome>>>()?)
}

fn report(outcomes: &[Outcome]) -> Result<()> {
    println!("\n{}", table::text(outcomes));
    let found: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.found.is_some()).collect();
    for outcome in &found {
        print!("{}", outcome.story());
    }
    ensure!(found.is_empty(), "{} of {} targets found something", found.len(), outcomes.len());
    Ok(())
}

/// Those named, all by default.
fn targets(named: &[String]) -> Result<Vec<String>> {
    let folder = repo::root().join("fuzz/fuzz_targets");
    let mut all = Vec::new();
    for file in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = file?.path();
        all.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    all.sort();
    if let Some(unknown) = named.iter().find(|name| !all.contains(name)) {
        bail!("no target {unknown}; there are {}", all.join(", "));
    }
    Ok(if named.is_empty() { all } else { named.to_vec() })
}

fn check_tools() -> Result<()> {
    ensure!(
        cmd::run("cargo", ["+nightly", "--version"]).is_ok(),
        "fuzzing needs rustup's nightly toolchain: `rustup toolchain install nightly`"
    );
    ensure!(
        cmd::run("cargo", ["fuzz", "--version"]).is_ok(),
        "fuzzing needs cargo-fuzz: `cargo install --locked cargo-fuzz`"
    );
    ensure!(
        cmd::find("c++").is_some() || cmd::find("g++").is_some() || cmd::find("clang++").is_some(),
        "fuzzing needs a C++ compiler for libFuzzer (on Debian: `apt-get install g++`)"
    );
    Ok(())
}

/// cargo with the nightly toolchain, without the probes: no target loads them. cargo-fuzz asks for
/// one codegen unit; several build on several cores (what comes later counts). What cargo told us of
/// ourselves goes: some build scripts look at it, and all would be built again after a build by hand.
fn nightly(words: &[&str]) -> Command {
    let mut command = cmd::command("cargo");
    command.arg("+nightly").args(words).current_dir(repo::root());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| OUR_OWN.iter().any(|own| name.starts_with(own))) {
            command.env_remove(&name);
        }
    }
    command.env("AYA_BUILD_SKIP", "1").env("RUSTFLAGS", "-Ccodegen-units=4");
    command
}

/// The machine's own target triple: cargo-fuzz builds into a folder of that name.
fn triple() -> Result<String> {
    let text = cmd::run("rustc", ["+nightly", "-vV"])?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not tell its host")?.to_owned())
}
