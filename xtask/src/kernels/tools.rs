//! The programs the lab runs, with the libraries they load: this system's own files, for a guest
//! that has none. IPVS's tool comes from a package that is unpacked, not installed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use xtask::{cmd, lab};

/// Besides what the lab names itself.
const MORE: [&str; 3] = ["iptables", "tc", "sleep"];
/// Where iptables looks for its extensions.
const EXTENSIONS: [&str; 4] =
    ["/usr/lib/x86_64-linux-gnu/xtables", "/usr/lib64/xtables", "/usr/lib/xtables", "/lib/xtables"];
/// Only read when one of the programs asks for it.
const SETTINGS: [&str; 1] = ["/etc/ssl/openssl.cnf"];

/// Files of the guest: path, and whose content they get.
pub(super) type Files = BTreeMap<PathBuf, PathBuf>;

/// Everything, with the programs of `unpacked` found first.
pub(super) fn collect(unpacked: &Path) -> Result<Files> {
    let mut files = Files::new();
    let ours = programs(unpacked);
    for name in lab::PROGRAMS.into_iter().chain(MORE) {
        let path =
            cmd::find(name).with_context(|| format!("no {name}: run `cargo xtask setup` first"))?;
        program(&mut files, &path, &path, None)?;
    }
    for path in ours {
        let name = path.file_name().map(PathBuf::from).unwrap_or_default();
        program(&mut files, &Path::new("/usr/sbin").join(name), &path, Some(unpacked))?;
    }
    let me = std::env::current_exe()?;
    program(&mut files, Path::new("/usr/bin/xtask"), &me, None)?;
    for folder in EXTENSIONS.map(Path::new) {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in
            entries.flatten().filter(|e| e.file_name().as_encoded_bytes().ends_with(b".so"))
        {
            files.insert(entry.path(), entry.path());
            libraries(&mut files, &entry.path(), None)?;
        }
    }
    files.extend(
        SETTINGS.map(PathBuf::from).into_iter().filter(|f| f.is_file()).map(|f| (f.clone(), f)),
    );
    Ok(files)
}

/// The programs in an unpacked package.
fn programs(unpacked: &Path) -> Vec<PathBuf> {
    let folders = ["sbin", "usr/sbin", "bin", "usr/bin"].map(|f| unpacked.join(f));
    let entries = folders.into_iter().filter_map(|f| fs::read_dir(f).ok()).flatten().flatten();
    let files = entries
        .filter(|e| e.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0));
    files
        .map(|e| e.path())
        .filter(|p| fs::read(p).is_ok_and(|b| b.starts_with(b"\x7fELF")))
        .collect()
}

fn program(files: &mut Files, place: &Path, file: &Path, libs: Option<&Path>) -> Result<()> {
    files.insert(place.to_path_buf(), fs::canonicalize(file)?);
    libraries(files, file, libs)
}

/// What the dynamic loader would load for `file`.
fn libraries(files: &mut Files, file: &Path, libs: Option<&Path>) -> Result<()> {
    let mut ldd = Command::new("ldd");
    if let Some(folder) = libs {
        let paths = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"].map(|l| folder.join(l));
        ldd.env("LD_LIBRARY_PATH", std::env::join_paths(paths)?);
    }
    let output = ldd.arg(file).output().context("cannot start ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() && !text.contains("statically") {
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("not a dynamic executable") {
            return Ok(());
        }
        bail!("ldd {}: {}", file.display(), said.trim());
    }
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        // `name => path (address)`, or `path (address)` for the loader itself.
        let Some(path) = words.iter().find(|w| w.starts_with('/')).map(PathBuf::from) else {
            continue;
        };
        let place = match libs.and_then(|l| path.strip_prefix(l).ok()) {
            Some(inside) => Path::new("/").join(inside),
            None => path.clone(),
        };
        files.insert(place, fs::canonicalize(&path)?);
    }
    Ok(())
}
