//! `cargo xtask kernels`: boots the kernels that users run in qemu, tries every probe and the lab's
//! small incident there with the static binary, and prints kernel x probe x result. Fetching is in
//! `fetch`, booting in `boot`, what happens inside in `guest`, docs/kernels.md in `page`.

mod boot;
mod clock;
mod fetch;
pub(crate) mod guest;
mod initramfs;
mod modules;
mod page;
mod table;
mod tools;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use xtask::{cmd, repo};

use self::table::Outcome;

/// Where a kernel comes from.
pub(crate) struct Series {
    /// What the column says.
    pub(crate) label: &'static str,
    /// Debian suite that has it.
    pub(crate) suite: &'static str,
    /// Whether the suite is in the security archive.
    pub(crate) security: bool,
    /// Package that depends on the newest image of the series.
    pub(crate) meta: &'static str,
}

const fn series(label: &'static str, suite: &'static str, meta: &'static str) -> Series {
    Series { label, suite, security: false, meta }
}

const CLOUD: &str = "linux-image-cloud-amd64";

/// Guests that run at the same time; each emulates one processor.
const AT_ONCE: usize = 2;

const SERIES: [Series; 4] = [
    series("5.10", "bullseye", CLOUD),
    series("6.1", "bookworm", CLOUD),
    Series {
        label: "6.12",
        suite: "bookworm-security",
        security: true,
        meta: "linux-image-6.12-cloud-amd64",
    },
    series("7.x", "sid", CLOUD),
];

/// What to do.
#[derive(Debug, clap::Args)]
pub(crate) struct KernelsArgs {
    /// Only these series (5.10, 6.1, 6.12, 7.x, running); all by default.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Look for newer kernel packages instead of using those fetched before.
    #[arg(long)]
    refresh: bool,
    /// Seconds until a kernel that does not finish is given up.
    #[arg(long, default_value_t = 300)]
    patience: u64,
    /// Write the table into docs/kernels.md.
    #[arg(long)]
    write: bool,
}

/// Runs the matrix. False when a mandatory probe failed on a kernel that booted.
pub(crate) fn run(args: &KernelsArgs) -> Result<bool> {
    if cfg!(not(target_arch = "x86_64")) {
        bail!("the kernel matrix is made of amd64 kernels; this machine is another architecture");
    }
    let work = repo::root().join("target/kernels");
    std::fs::create_dir_all(&work)?;
    let wanted = |label: &str| args.only.is_empty() || args.only.iter().any(|o| o == label);

    println!("building the static binary (its own target directory: the first time takes minutes)");
    let binary = build_static(&work)?;
    let mut outcomes = Vec::new();
    if wanted("running") {
        println!("running kernel: trying");
        outcomes.push(on_this_kernel(&binary));
    }
    let guests: Vec<&Series> = SERIES.iter().filter(|s| wanted(s.label)).collect();
    if !guests.is_empty() {
        let (program, package) = ("qemu-system-x86_64", "qemu-system-x86");
        if cmd::find(program).is_none() {
            bail!("no {program}: install the package {package} (`cargo xtask setup` does)");
        }
        let image = initramfs::build(&work, &binary, args.refresh)?;
        for pair in guests.chunks(AT_ONCE) {
            outcomes.extend(std::thread::scope(|scope| {
                let threads: Vec<_> = pair
                    .iter()
                    .map(|series| scope.spawn(|| in_guest(&work, &image, series, args)))
                    .collect();
                threads
                    .into_iter()
                    .flat_map(std::thread::ScopedJoinHandle::join)
                    .collect::<Vec<_>>()
            }));
        }
    }
    table::print(&outcomes);
    if args.write {
        page::write(&outcomes)?;
    }
    Ok(outcomes.iter().all(Outcome::acceptable))
}

/// Boots one kernel; what it says is kept in a file, too.
fn in_guest(work: &Path, image: &Path, series: &Series, args: &KernelsArgs) -> Outcome {
    println!("Linux {}: fetching and booting", series.label);
    let console = fetch::kernel(work, series, args.refresh).and_then(|kernel| {
        let log = work.join(format!("console-{}.log", series.label));
        let image = initramfs::with_modules(image, &kernel.unpacked, series.label)?;
        let said = boot::boot(&kernel.image, &image, &log, Duration::from_secs(args.patience));
        std::fs::remove_file(image)?;
        said
    });
    match console {
        Ok(text) => Outcome::read(series.label, &text),
        Err(e) => Outcome::absent(series.label, format!("{e:#}")),
    }
}

fn on_this_kernel(binary: &Path) -> Outcome {
    if !nix::unistd::Uid::effective().is_root() {
        return Outcome::absent("running", "needs root".to_owned());
    }
    let probes = Command::new(binary).arg("probes").output();
    let guest = std::env::current_exe()
        .and_then(|me| Command::new(me).args(["guest", "--binary"]).arg(binary).output());
    match (probes, guest) {
        (Ok(probes), Ok(guest)) => {
            let release = nix::sys::utsname::uname()
                .map(|u| u.release().to_string_lossy().into_owned())
                .unwrap_or_default();
            let code = probes.status.code().unwrap_or(-1);
            let mut text = format!("=== kernel {release}\n");
            for said in [&probes.stdout, &probes.stderr, &guest.stdout, &guest.stderr] {
                text += &String::from_utf8_lossy(said);
            }
            Outcome::read("running", &format!("{text}=== exit {code}\n=== end\n"))
        }
        (Err(e), _) | (_, Err(e)) => Outcome::absent("running", e.to_string()),
    }
}

fn build_static(work: &Path) -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let target_dir = work.join("build");
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--package", "tracer", "--bin", "svctrace"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .current_dir(repo::root())
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("the static build failed");
    }
    Ok(target_dir.join(TARGET).join("debug/svctrace"))
}
