//! Where things are in this repository: its root, the build folder, the built programs.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// The repository's root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Cargo's build folder: where the running program was built, or where cargo builds by default.
pub fn target_dir() -> PathBuf {
    let me = std::env::current_exe().unwrap_or_default();
    // target/debug/xtask, or target/debug/deps/suite-0123 for a test.
    let built = me.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    built.map_or_else(|| root().join("target"), Path::to_path_buf)
}

fn built(name: &str, release: bool) -> PathBuf {
    target_dir().join(if release { "release" } else { "debug" }).join(name)
}

/// The built `svctrace`; an error says how to build it.
pub fn svctrace(release: bool) -> Result<PathBuf> {
    let path = built("svctrace", release);
    if !path.is_file() {
        let flag = if release { " --release" } else { "" };
        bail!("{} is not there: run `cargo xtask build{flag}`", path.display());
    }
    Ok(path)
}

/// The built `xtask`, which serves the lab's API endpoint.
pub fn xtask() -> Result<PathBuf> {
    if let Ok(me) = std::env::current_exe()
        && me.file_name().is_some_and(|name| name == "xtask")
    {
        return Ok(me);
    }
    let path = built("xtask", false);
    if !path.is_file() {
        bail!("{} is not there: run `cargo build -p xtask`", path.display());
    }
    Ok(path)
}
