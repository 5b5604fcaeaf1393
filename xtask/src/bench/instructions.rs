//! `cargo xtask bench instructions`: how many instructions small replays take, which other work on the
//! machine does not change, against what docs/performance.md has. Measures no time.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use xtask::{cmd, interrupt, repo};

use super::page::{self, Table};
use super::replay::{generator, real_capture};

/// More than this above what is written down is a regression, and that much below is worth writing
/// down, in percent. Hash keys differ from run to run, and with them the counts, a little.
const TOLERANCE: f64 = 4.0;
/// DNS messages of the small packet capture, and rounds of the lab's incident.
const MESSAGES: u64 = 20_000;
const ROUNDS: u64 = 50;

/// How to count.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The svctrace to measure; default: the optimised one of this tree
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Put the counts into docs/performance.md
    #[arg(long)]
    write: bool,
}

/// What counts.
#[derive(Clone, Copy)]
enum Counter {
    /// The processor.
    Perf,
    /// A processor in software, where the real one counts nothing (virtual machines).
    Callgrind,
}

/// Counts; an error when a replay takes more instructions than written down.
pub(crate) fn run(options: &Options) -> Result<()> {
    interrupt::catch()?;
    let Some(counter) = counter() else {
        println!("skipped: `perf stat` counts no instructions here, and valgrind is not installed");
        return Ok(());
    };
    let svctrace = match &options.program {
        Some(program) => program.clone(),
        None => repo::svctrace(true)?,
    };
    let folder = tempfile::Builder::new().prefix("svctrace-bench-").tempdir()?;
    let make = |kind: &str, args: &[&str]| -> Result<PathBuf> {
        let file = folder.path().join(kind);
        cmd::show(Command::new(generator()?).arg(kind).arg(&file).args(args))?;
        Ok(file)
    };
    let seed = repo::root().join("demo/incident.pcapng.zst");
    let mut inputs = vec![
        ("pcap, 20,000 DNS messages", make("pcap", &[&MESSAGES.to_string()])?),
        (
            "own capture, 50 incidents",
            make("own", &[&seed.to_string_lossy(), &ROUNDS.to_string()])?,
        ),
    ];
    inputs.extend(real_capture(None).map(|capture| ("the real capture, scap", capture)));
    let known = page::read("instructions").unwrap_or_default();
    let mut table =
        Table::new("Instructions of a replay, -o json", &["input", "millions", "before"]);
    let mut more = Vec::new();
    for (name, file) in &inputs {
        let count = count(counter, &svctrace, file)? as f64 / 1e6;
        let before = before(&known, name);
        let change = before.map(|before| 100.0 * (count - before) / before);
        table.row([
            (*name).to_owned(),
            format!("{count:.1}"),
            change.map_or_else(|| "-".to_owned(), |change| format!("{change:+.1} %")),
        ]);
        if change.is_some_and(|change| change > TOLERANCE) {
            more.push(format!("{name}: {count:.1} million"));
        }
    }
    let by = match counter {
        Counter::Perf => "perf stat",
        Counter::Callgrind => "valgrind",
    };
    let text = format!("{}; counted by {by}.\n\n{}", page::machine(), table.text());
    println!("{text}");
    if options.write {
        return page::write("instructions", &text);
    }
    ensure!(
        more.is_empty(),
        "more than {TOLERANCE} % above docs/performance.md: {}",
        more.join("; ")
    );
    Ok(())
}

fn counter() -> Option<Counter> {
    let works = |counter| count(counter, Path::new("/bin/true"), Path::new("/dev/null")).is_ok();
    [Counter::Perf, Counter::Callgrind].into_iter().find(|counter| works(*counter))
}

/// Instructions in user space of `svctrace -r FILE -o json`, start and end included.
fn count(counter: Counter, svctrace: &Path, file: &Path) -> Result<u64> {
    interrupt::check()?;
    let mut command = match counter {
        Counter::Perf => {
            let mut perf = cmd::command("perf");
            perf.args(["stat", "--field-separator", ",", "--event", "instructions:u", "--"]);
            perf
        }
        Counter::Callgrind => {
            let mut valgrind = cmd::command("valgrind");
            valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
            valgrind
        }
    };
    command.arg(svctrace).arg("-r").arg(file).args(["-o", "json"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let output =
        command.output().with_context(|| format!("cannot start `{}`", cmd::line(&command)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let Some(count) = counted(counter, &said) else {
        bail!("`{}` counted nothing: {said}", cmd::line(&command));
    };
    Ok(count)
}

/// The count in what the counter said.
fn counted(counter: Counter, said: &str) -> Option<u64> {
    let mut lines = said.lines();
    match counter {
        Counter::Perf => {
            lines.find(|line| line.contains("instructions"))?.split(',').next()?.parse().ok()
        }
        // ==123== Collected : 4567
        Counter::Callgrind => {
            lines.find_map(|line| line.split_once("Collected :"))?.1.trim().parse().ok()
        }
    }
}

/// The count of `name` as the page has it.
fn before(page: &str, name: &str) -> Option<f64> {
    let mut rows = page.lines().map(|line| line.split('|').map(str::trim));
    let mut row = rows.find(|row| row.clone().nth(1) == Some(name))?;
    row.nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_found() {
        let valgrind = "==7== Events    : Ir\n==7== Collected : 146735\n==7==";
        assert_eq!(counted(Counter::Callgrind, valgrind), Some(146_735));
        let perf = "1234,,instructions:u,5678,100.00,,";
        assert_eq!(counted(Counter::Perf, perf), Some(1234));
        let none = "<not supported>,,instructions:u,0,100.00,,";
        assert_eq!(counted(Counter::Perf, none), None);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let mut table = Table::new("t", &["input", "millions", "before"]);
        table.row(["pcap, 20,000".to_owned(), "61.5".to_owned(), "-".to_owned()]);
        assert_eq!(before(&table.text(), "pcap, 20,000"), Some(61.5));
        assert_eq!(before(&table.text(), "other"), None);
    }
}
