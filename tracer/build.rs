//! Builds the probes (`tracer-ebpf`) with whatever eBPF toolchain is there; without one the rest
//! still builds and the binary says that it cannot trace live.

#[path = "build/slim.rs"]
mod slim;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain, build_ebpf};

const LINKER: &str = "bpf-linker";
/// Made by `cargo xtask setup` from packaged Rust sources; a stable compiler that needs leave for
/// unstable flags.
const PACKAGED: &str = "svctrace-ebpf";

#[expect(clippy::disallowed_methods, reason = "a build script is told everything by environment")]
fn main() -> Result<()> {
    println!("cargo::rustc-check-cfg=cfg(no_probes)");
    println!("cargo::rerun-if-env-changed=AYA_BUILD_SKIP");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../tracer-ebpf");
    println!("cargo::rerun-if-changed=../tracer-common");
    if env::var("AYA_BUILD_SKIP").is_ok_and(|v| v == "1" || v.eq_ignore_ascii_case("true")) {
        return without("AYA_BUILD_SKIP is set");
    }
    let Some(toolchain) = ["nightly", PACKAGED].into_iter().find(|t| has_core_sources(t)) else {
        return without("no Rust toolchain with the sources of core");
    };
    if !find_linker() {
        return without("no bpf-linker");
    }
    if toolchain == PACKAGED {
        // SAFETY: the build script has one thread.
        unsafe { env::set_var("RUSTC_BOOTSTRAP", "1") };
    }
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../tracer-ebpf");
    let root = fs::canonicalize(&root).with_context(|| format!("no {}", root.display()))?;
    let root_dir = root.to_str().context("the path of tracer-ebpf is not UTF-8")?;
    build_ebpf(
        [Package { name: "tracer-ebpf", root_dir, ..Package::default() }],
        Toolchain::Custom(toolchain),
    )?;
    slim_down(&Path::new(&env::var("OUT_DIR")?).join("tracer-ebpf"))
}

fn slim_down(file: &Path) -> Result<()> {
    let whole = fs::read(file).with_context(|| format!("no {}", file.display()))?;
    let slim = slim::without_debug_info(&whole)
        .with_context(|| format!("{} is no ELF as we know it", file.display()))?;
    fs::write(file, slim).with_context(|| format!("cannot write {}", file.display()))
}

fn without(why: &str) -> Result<()> {
    println!("cargo::rustc-cfg=no_probes");
    println!("cargo::warning=building without live tracing: {why} (`cargo xtask setup` helps)");
    Ok(())
}

/// Whether rustup knows the toolchain and it brings what `-Z build-std=core` compiles.
fn has_core_sources(toolchain: &str) -> bool {
    let output = Command::new("rustup")
        .args(["run", toolchain, "rustc", "--print", "sysroot"])
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .output();
    let Ok(output) = output else { return false };
    let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    output.status.success()
        && sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
}

/// Makes sure that the linker is on PATH; cargo's own bin directory often is not.
#[expect(clippy::disallowed_methods, reason = "a build script is told everything by environment")]
fn find_linker() -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = env::split_paths(&path).collect();
    if dirs.iter().any(|d| d.join(LINKER).is_file()) {
        return true;
    }
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|h| Path::new(&h).join(".cargo")));
    let Some(bin) = home.map(|h| h.join("bin")).filter(|b| b.join(LINKER).is_file()) else {
        return false;
    };
    dirs.insert(0, bin);
    let Ok(joined) = env::join_paths(dirs) else { return false };
    // SAFETY: the build script has one thread.
    unsafe { env::set_var("PATH", joined) };
    true
}
