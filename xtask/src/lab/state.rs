//! What a running lab leaves on disk: one folder, readable by root only, with lab.json as the truth.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::pods::Pod;

const FOLDER: &str = "/run/svctrace-lab";
const LOCK: &str = "/run/svctrace-lab.lock";

/// The lab as it is now: the tests' ground truth and what the API endpoint serves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct World {
    /// The node's name: this machine's host name, as a kubelet would take it.
    pub node: String,
    /// When the lab came up, RFC 3339.
    pub started: String,
    /// Grows with every change.
    pub revision: u64,
    /// Whether the node's resolv.conf leaks its search suffix into the pods.
    pub leak: bool,
    /// The pods that run.
    pub pods: Vec<Pod>,
}

/// The lab's folder.
pub fn folder() -> PathBuf {
    PathBuf::from(FOLDER)
}

/// The folder that looks like the node's root, for `--host-root`.
pub fn host_root() -> PathBuf {
    folder().join("host")
}

/// The kubeconfig for the API endpoint.
pub fn kubeconfig() -> PathBuf {
    folder().join("kubeconfig")
}

/// The certificate of the authority behind the API endpoint's TLS port.
pub fn authority(folder: &Path) -> PathBuf {
    folder.join("ca.crt")
}

/// The folder with what the servers and background programs wrote.
pub(crate) fn log_folder() -> PathBuf {
    folder().join("log")
}

/// Reads lab.json from `folder`.
pub fn read(folder: &Path) -> Result<World> {
    let file = folder.join("lab.json");
    let text = fs::read_to_string(&file)
        .with_context(|| format!("cannot read {} (is the lab up?)", file.display()))?;
    serde_json::from_str(&text).with_context(|| format!("cannot understand {}", file.display()))
}

impl World {
    /// Replaces lab.json at once, never half.
    pub(crate) fn write(&self) -> Result<()> {
        let new = folder().join("lab.json.new");
        fs::write(&new, serde_json::to_string_pretty(self)?)?;
        fs::rename(&new, folder().join("lab.json"))?;
        Ok(())
    }
}

/// Makes the folder, for root's eyes only.
pub(crate) fn make_folder() -> Result<()> {
    DirBuilder::new()
        .mode(0o700)
        .create(FOLDER)
        .with_context(|| format!("cannot make {FOLDER}"))?;
    fs::create_dir(log_folder())?;
    Ok(())
}

/// Removes the folder of an earlier lab; refuses one that is not ours.
pub(crate) fn remove_folder() -> Result<()> {
    match fs::symlink_metadata(FOLDER) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot look at {FOLDER}")),
        Ok(meta) if !meta.is_dir() || meta.uid() != 0 => {
            bail!("{FOLDER} is not a folder of root's; remove it by hand")
        }
        Ok(_) => fs::remove_dir_all(FOLDER).with_context(|| format!("cannot remove {FOLDER}")),
    }
}

/// Waits until no other lab command holds the machine's one lab; held until the file is closed.
pub(crate) fn lock() -> Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(LOCK)
        .with_context(|| format!("cannot open {LOCK}"))?;
    if file.try_lock().is_err() {
        eprintln!("lab: another command uses the lab; waiting for it");
        file.lock().context("cannot lock the lab")?;
    }
    Ok(file)
}
