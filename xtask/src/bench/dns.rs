//! `cargo xtask bench dns`: DNS messages of a packet capture a second, all programs on one and the same
//! core. svctrace decodes and correlates them and tells every lookup, as text as tcpdump does each
//! message, and with all details.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use xtask::{cmd, interrupt, repo};

use super::measure::{Contender, in_turn};
use super::page::{self, Table};
use super::replay::{MESSAGES, RESULT, SUCCESS, generator};

/// How to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Rounds of the comparison
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// The svctrace to measure; default: the optimised one of this tree
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Put the results into docs/performance.md
    #[arg(long)]
    write: bool,
}

/// Measures it; an error when svctrace is slower than tcpdump.
pub(crate) fn run(options: &Options) -> Result<()> {
    interrupt::catch()?;
    let svctrace = match &options.program {
        Some(program) => program.clone(),
        None => repo::svctrace(true)?,
    };
    let folder = tempfile::Builder::new().prefix("svctrace-bench-").tempdir()?;
    let file = folder.path().join("dns.pcap");
    cmd::show(Command::new(generator()?).arg("pcap").arg(&file).arg(MESSAGES.to_string()))?;
    stay_on_one_core()?;
    let ours = |name: &str, format: &str| {
        let mut command = Command::new(&svctrace);
        command.arg("-r").arg(&file).args(["-o", format]);
        Contender { name: name.to_owned(), command, fine: RESULT }
    };
    let mut contenders = vec![
        ours("svctrace -r, a line for every lookup", "text"),
        ours("svctrace -r -o json, all of every lookup", "json"),
    ];
    if let Some(tcpdump) = cmd::find("tcpdump") {
        let mut command = Command::new(tcpdump);
        command.arg("-n").arg("-r").arg(&file);
        contenders.push(Contender {
            name: "tcpdump -n -r, every message".to_owned(),
            command,
            fine: SUCCESS,
        });
    }
    let measured = in_turn(&mut contenders, options.rounds)?;
    let columns = ["program", "messages/s", "CPU s", "× svctrace", "peak RSS MiB"];
    let mut table = Table::new("500,000 DNS messages of a pcap, one core", &columns);
    for one in &measured {
        table.row([
            one.name.clone(),
            format!("{:.0}", MESSAGES as f64 / one.cost.wall.as_secs_f64().max(1e-9)),
            format!("{:.3}", one.cost.cpu.as_secs_f64()),
            format!("{:.2}", one.ratio),
            format!("{:.1}", one.cost.rss_kib as f64 / 1024.0),
        ]);
    }
    let text = format!("{}.\n\n{}", page::machine(), table.text());
    println!("{text}");
    if options.write {
        page::write("dns", &text)?;
    }
    let peer = measured.iter().find(|one| one.name.starts_with("tcpdump"));
    let ratio = peer.context("tcpdump is not installed: nothing to compare with")?.ratio;
    ensure!(ratio > 1.0, "tcpdump takes {ratio:.2} times as long, which is not longer");
    Ok(())
}

/// This process and those it starts from now on share the first core they may use.
fn stay_on_one_core() -> Result<()> {
    let own = Pid::from_raw(0);
    let allowed = sched_getaffinity(own).context("cannot tell the processors")?;
    let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap_or_default());
    let mut one = CpuSet::new();
    one.set(first.context("no processor to run on")?)?;
    sched_setaffinity(own, &one).context("cannot stay on one processor")
}
