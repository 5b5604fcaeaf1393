//! `cargo xtask dist`: the one file that runs on any node: optimised, statically linked, stripped.
//! With `--image` also a container image that holds nothing but it.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use xtask::{cmd, repo};

use crate::build_cmd::cargo;

const STATIC: &str = "-Ctarget-feature=+crt-static";
/// Relocations of a position-independent program packed, and functions of the same code once: where
/// Rust's own linker is the usual one.
const SMALL: [&str; 3] = [
    "-Clink-arg=-Wl,-z,pack-relative-relocs",
    "-Clink-arg=-Wl,--icf=all",
    // Nothing unwinds: a panic aborts.
    "-Cforce-unwind-tables=no",
];

/// Options of `cargo xtask dist`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Build an image of this name as well, with docker, podman or buildah
    #[arg(long, value_name = "NAME:TAG")]
    image: Option<String>,
}

/// Builds it, checks that it needs no library, and puts it into `target/dist`.
pub(crate) fn run(options: &Options) -> Result<()> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // As configuration, not RUSTFLAGS: the probes are built by a cargo below this one.
    let flags = [STATIC].iter().chain(if cfg!(target_arch = "x86_64") { &SMALL[..] } else { &[] });
    let flags = flags.map(|flag| format!("{flag:?}")).collect::<Vec<_>>().join(",");
    let flags = format!("target.{target}.rustflags=[{flags}]");
    let build = ["build", "--profile", "dist", "--package", "tracer", "--target", &target];
    cmd::show(cargo(&build).args(["--config", &flags]))?;
    let built = repo::target_dir().join(&target).join("dist/svctrace");
    let needs = Command::new("ldd").arg(&built).output().context("cannot run ldd")?;
    let said = String::from_utf8_lossy(&needs.stdout);
    ensure!(!said.contains("=>"), "{} is not static: {said}", built.display());
    let folder = repo::target_dir().join("dist");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = folder.join("svctrace");
    fs::copy(&built, &file).with_context(|| format!("cannot write {}", file.display()))?;
    let megabytes = fs::metadata(&file)?.len() as f64 / 1e6;
    println!("{}: {megabytes:.1} MB, static", file.display());
    let Some(image) = &options.image else { return Ok(()) };
    let builders = ["docker", "podman", "buildah"];
    let mut last = None;
    // One may be installed without the daemon it needs.
    for builder in builders.into_iter().filter(|name| cmd::find(name).is_some()) {
        let mut command = Command::new(builder);
        command.arg("build").args(["--tag", image, "--file"]);
        command.arg(repo::root().join("deploy/Dockerfile")).arg(&folder);
        match cmd::show(&mut command) {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    match last {
        Some(error) => Err(error.context(format!("cannot build image {image}"))),
        None => bail!("none of {} is installed, one of which builds images", builders.join(", ")),
    }
}
