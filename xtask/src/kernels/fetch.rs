//! Fetches packages from suites that this system does not use, through apt with lists and caches of
//! our own: the system's sources stay as they are and nothing is installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use super::Series;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A kernel of a series, unpacked.
pub(super) struct Kernel {
    /// The image to boot.
    pub(super) image: PathBuf,
    /// The folder its packages were unpacked into.
    pub(super) unpacked: PathBuf,
}

/// The kernel of a series, with its modules.
pub(super) fn kernel(work: &Path, series: &Series, refresh: bool) -> Result<Kernel> {
    let apt = Apt::new(work, series.suite, series.security)?;
    let unpacked = apt.unpacked.clone();
    if !refresh
        && let Some(image) = find(&unpacked, "vmlinuz")
        && find(&unpacked, "modules.builtin").is_some()
    {
        return Ok(Kernel { image, unpacked });
    }
    apt.update()?;
    let image = apt
        .depends(series.meta)?
        .into_iter()
        .find(|d| d.starts_with("linux-image-"))
        .with_context(|| format!("{} names no image", series.meta))?;
    if apt.unpacked.exists() {
        fs::remove_dir_all(&apt.unpacked)?;
    }
    apt.unpack(&image)?;
    if find(&apt.unpacked, "vmlinuz").is_none() {
        // Newer packages keep the image and the modules in packages of their own.
        let parts = apt.depends(&image)?;
        for kind in ["linux-binary-", "linux-modules-"] {
            let part = parts.iter().find(|d| d.starts_with(kind));
            apt.unpack(part.with_context(|| format!("{image} names no {kind}"))?)?;
        }
    }
    let image = find(&unpacked, "vmlinuz").with_context(|| format!("no vmlinuz in {image}"))?;
    Ok(Kernel { image, unpacked })
}

/// IPVS's tool and the libraries it needs, unpacked into a folder of their own.
pub(super) fn ipvsadm(work: &Path, refresh: bool) -> Result<PathBuf> {
    let mut apt = Apt::new(work, "bookworm", false)?;
    apt.unpacked = work.join("ipvsadm");
    if refresh || find(&apt.unpacked, "ipvsadm").is_none() {
        apt.update()?;
        for package in ["libnl-3-200", "libnl-genl-3-200", "libpopt0", "ipvsadm"] {
            apt.unpack(package)?;
        }
    }
    Ok(apt.unpacked)
}

/// A static busybox.
pub(super) fn busybox(work: &Path, refresh: bool) -> Result<PathBuf> {
    let mut apt = Apt::new(work, "bookworm", false)?;
    apt.unpacked = work.join("busybox");
    if !refresh && let Some(program) = find(&apt.unpacked, "busybox") {
        return Ok(program);
    }
    apt.update()?;
    apt.unpack("busybox-static")?;
    find(&apt.unpacked, "busybox").context("no busybox in busybox-static")
}

/// One suite.
struct Apt {
    suite: &'static str,
    home: PathBuf,
    unpacked: PathBuf,
}

impl Apt {
    fn new(work: &Path, suite: &'static str, security: bool) -> Result<Self> {
        let home = work.join(suite);
        for dir in ["lists/partial", "cache/archives/partial", "packages"] {
            fs::create_dir_all(home.join(dir))?;
        }
        let mirror = mirror(security)?;
        let signed = if Path::new(KEYRING).exists() {
            format!("[signed-by={KEYRING}] ")
        } else {
            String::new()
        };
        let line = format!("deb {signed}{mirror} {suite} main\n");
        fs::write(home.join("sources.list"), line)?;
        let unpacked = home.join("unpacked");
        Ok(Self { suite, home, unpacked })
    }

    fn command(&self, program: &str) -> Command {
        let home = self.home.display();
        let mut command = Command::new(program);
        for option in [
            format!("Dir::Etc::sourcelist={home}/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State::lists={home}/lists"),
            format!("Dir::Cache={home}/cache"),
            "Acquire::Languages=none".to_owned(),
            "APT::Sandbox::User=".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command.current_dir(self.home.join("packages"));
        command
    }

    fn update(&self) -> Result<()> {
        self.run(self.command("apt-get").args(["-q", "update"])).map(drop)
    }

    fn depends(&self, package: &str) -> Result<Vec<String>> {
        let text = self.run(self.command("apt-cache").args(["depends", package]))?;
        Ok(parse_depends(&text))
    }

    fn unpack(&self, package: &str) -> Result<()> {
        self.run(self.command("apt-get").args(["-q", "download", package]))?;
        let file = fs::read_dir(self.home.join("packages"))?
            .filter_map(|e| Some(e.ok()?.path()))
            .filter(|p| {
                p.file_name()
                    .and_then(|n| n.to_str())
                    .is_some_and(|n| n.starts_with(&format!("{package}_")) && n.ends_with(".deb"))
            })
            .max_by_key(|p| fs::metadata(p).and_then(|m| m.modified()).ok())
            .with_context(|| format!("apt-get downloaded no {package}"))?;
        fs::create_dir_all(&self.unpacked)?;
        self.run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&self.unpacked))?;
        // Unpacked, the package is only in the way.
        fs::remove_file(&file)?;
        Ok(())
    }

    fn run(&self, command: &mut Command) -> Result<String> {
        let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("no message");
        bail!("suite {}: {last}", self.suite)
    }
}

fn parse_depends(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|l| l.trim().trim_start_matches('|').strip_prefix("Depends: "))
        .map(str::to_owned)
        .collect()
}

/// The mirror that this system uses for Debian itself.
fn mirror(security: bool) -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(dir) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(dir.filter_map(|e| Some(e.ok()?.path())));
    }
    files.sort();
    let text: String = files.iter().filter_map(|f| fs::read_to_string(f).ok()).collect();
    find_mirror(&text, security).with_context(|| {
        let which = if security { "security archive" } else { "archive" };
        format!("no mirror of Debian's {which} in this system's apt sources")
    })
}

/// Any word that is a URL of an archive, in either format of apt's sources.
fn find_mirror(sources: &str, security: bool) -> Option<String> {
    let end = if security { "/debian-security" } else { "/debian" };
    sources
        .lines()
        .filter(|l| !l.trim_start().starts_with('#'))
        .flat_map(str::split_whitespace)
        .map(|w| w.trim_end_matches('/'))
        .find(|w| w.contains("://") && w.ends_with(end))
        .map(str::to_owned)
}

/// The first file below `dir` whose name begins with `name`.
fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(dir).ok()?.filter_map(|e| Some(e.ok()?.path())).collect();
    entries.sort();
    let hit = entries.iter().find(|p| {
        p.is_file() && p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(name))
    });
    hit.cloned().or_else(|| {
        entries.iter().filter(|p| p.is_dir() && !p.is_symlink()).find_map(|p| find(p, name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_mirrors_in_both_formats() {
        let new = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\n\
                   URIs: http://mirror.example/debian-security/\n";
        assert_eq!(find_mirror(new, false).as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(
            find_mirror(new, true).as_deref(),
            Some("http://mirror.example/debian-security")
        );
        let old = "# deb http://no.example/debian x main\ndeb http://a.example/ubuntu noble main\n";
        assert_eq!(find_mirror(old, false), None);
    }

    #[test]
    fn reads_dependencies() {
        let text = "linux-image-x\n  PreDepends: a\n |Depends: dracut\n  Depends: linux-binary-7\n";
        assert_eq!(parse_depends(text), ["dracut", "linux-binary-7"]);
    }
}
