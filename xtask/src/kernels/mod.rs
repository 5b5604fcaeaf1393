//! `cargo xtask kernels`: boots the kernels that users run in qemu, tries every probe there with
//! the static binary and prints kernel x probe x result. Fetching is in `fetch`, booting in `boot`.

mod boot;
mod fetch;
mod initramfs;
mod table;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

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
    #[arg(long, default_value_t = 180)]
    patience: u64,
}

/// Runs the matrix. False when a mandatory probe failed on a kernel that booted.
pub(crate) fn run(args: &KernelsArgs) -> Result<bool> {
    if cfg!(not(target_arch = "x86_64")) {
        bail!("the kernel matrix is made of amd64 kernels; this machine is another architecture");
    }
    let root = project_root()?;
    let work = root.join("target/kernels");
    std::fs::create_dir_all(&work)?;
    let wanted = |label: &str| args.only.is_empty() || args.only.iter().any(|o| o == label);

    println!("building the static binary (its own target directory: the first time takes minutes)");
    let binary = build_static(&root, &work)?;
    let mut outcomes = Vec::new();
    if wanted("running") {
        println!("running kernel: trying");
        outcomes.push(on_this_kernel(&binary));
    }
    let guests: Vec<&Series> = SERIES.iter().filter(|s| wanted(s.label)).collect();
    if !guests.is_empty() {
        need("qemu-system-x86_64", "qemu-system-x86")?;
        let image = initramfs::build(&work, &binary, args.refresh)?;
        for series in guests {
            println!("Linux {}: fetching and booting", series.label);
            let console = fetch::kernel(&work, series, args.refresh).and_then(|kernel| {
                let log = work.join(format!("console-{}.log", series.label));
                boot::boot(&kernel, &image, &log, Duration::from_secs(args.patience))
            });
            outcomes.push(match console {
                Ok(text) => Outcome::read(series.label, &text),
                Err(e) => Outcome::absent(series.label, format!("{e:#}")),
            });
        }
    }
    table::print(&outcomes);
    Ok(outcomes.iter().all(Outcome::acceptable))
}

fn on_this_kernel(binary: &Path) -> Outcome {
    if !nix::unistd::Uid::effective().is_root() {
        return Outcome::absent("running", "needs root".to_owned());
    }
    match Command::new(binary).arg("probes").output() {
        Ok(output) => {
            let code = output.status.code().unwrap_or(-1);
            let text = format!(
                "{}{}=== exit {code}\n",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            Outcome::read("running", &text)
        }
        Err(e) => Outcome::absent("running", e.to_string()),
    }
}

fn project_root() -> Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_owned)
        .context("xtask lies in no project")
}

fn build_static(root: &Path, work: &Path) -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let target_dir = work.join("build");
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--package", "tracer", "--bin", "svctrace"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target_dir)
        .current_dir(root)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("the static build failed");
    }
    Ok(target_dir.join(TARGET).join("debug/svctrace"))
}

fn need(program: &str, package: &str) -> Result<()> {
    let found = Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    if !found {
        bail!("no {program}: install the package {package} (`cargo xtask setup` does)");
    }
    Ok(())
}
