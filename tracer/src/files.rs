//! Capture files: opened, created, named, handed to the pipeline process. Reads and writes nothing.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, IsTerminal as _, Read, Seek as _, Write};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use nix::libc;
use nix::unistd::{Uid, seteuid};
use tracer::capture::{Options, Volume, Writer};
use tracer::source::live;

use crate::cli::{Capture, Handed};
use crate::handover;

/// Only the owner: a capture says who talks to whom.
const MODE: u32 = 0o600;
/// Files of a ring, unless told.
const RING: u16 = 10;
/// Endings that stay at the end of a ring file's name.
const ENDINGS: [&str; 3] = [".pcapng.zst", ".pcapng", ".zst"];

/// Whether the name means standard input or output.
pub(crate) fn is_standard(path: Option<&Path>) -> bool {
    path.is_some_and(|path| path.as_os_str() == "-")
}

/// A capture to read.
pub(crate) struct Input {
    pub(crate) reader: Box<dyn Read + Send>,
    /// Bytes in it; `None` for a pipe.
    pub(crate) size: Option<u64>,
}

/// Opens a capture to read.
pub(crate) fn open(path: &Path) -> Result<Input> {
    if is_standard(Some(path)) {
        ensure!(!io::stdin().is_terminal(), "-r - reads a capture from a pipe, not a terminal");
        return Ok(Input { reader: Box::new(io::stdin()), size: None });
    }
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let about = file.metadata().ok();
    let regular = !about.as_ref().is_some_and(|about| about.is_dir());
    ensure!(regular, "{} is a directory", path.display());
    let size = about.filter(|about| about.is_file()).map(|about| about.len());
    Ok(Input { reader: Box::new(file), size })
}

/// What to call several files in a message.
pub(crate) fn names(paths: &[PathBuf]) -> String {
    let name = |path: &PathBuf| match is_standard(Some(path)) {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    };
    paths.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// The files of a recording, open.
#[derive(Default)]
pub(crate) struct Created {
    files: Vec<File>,
    standard: bool,
    options: Options,
    /// Those that did not exist before.
    new: Vec<PathBuf>,
}

/// Opens what `-w` names. A file that exists keeps its content until something is recorded.
pub(crate) fn create(capture: &Capture) -> Result<Created> {
    let Some(path) = &capture.write else { return Ok(Created::default()) };
    let rotates = capture.rotate_size.is_some() || capture.rotate_time.is_some();
    ensure!(
        rotates || capture.rotate_count.is_none(),
        "--rotate-count says how many files; add --rotate-size or --rotate-time"
    );
    ensure!(capture.rotate_size.is_none_or(|bytes| bytes >= 4096), "--rotate-size is at least 4K");
    ensure!(
        capture.rotate_time.is_none_or(|time| time.as_secs() >= 1),
        "--rotate-time is at least 1s"
    );
    let options = Options {
        compress: path.as_os_str().as_encoded_bytes().ends_with(b".zst"),
        rotate_bytes: capture.rotate_size,
        rotate_ns: capture.rotate_time.map(|time| time.as_nanos() as u64),
    };
    if is_standard(Some(path)) {
        ensure!(!rotates, "-w - has no files to rotate");
        ensure!(!io::stdout().is_terminal(), "-w - writes a capture to a pipe, not a terminal");
        let out = about_standard(io::stdout().as_fd());
        ensure!(
            !out.is_some_and(|out| is_read(&out, capture)),
            "standard output is read and written at once"
        );
        return Ok(Created { standard: true, options, ..Created::default() });
    }
    let count = if rotates { capture.rotate_count.unwrap_or(RING) } else { 1 };
    let mut created = Created { options, ..Created::default() };
    for name in ring(path, count) {
        match create_one(&name, capture) {
            Ok((file, new)) => {
                created.files.push(file);
                created.new.extend(new.then_some(name));
            }
            Err(error) => {
                created.remove_unused();
                return Err(error);
            }
        }
    }
    Ok(created)
}

/// The file, and whether it is new.
fn create_one(path: &Path, capture: &Capture) -> Result<(File, bool)> {
    let failed = || format!("cannot write {}", path.display());
    let mut options = OpenOptions::new();
    options.write(true).mode(MODE).custom_flags(libc::O_NOFOLLOW);
    match options.clone().create_new(true).open(path) {
        Ok(file) => {
            hand_to_invoker(&file);
            return Ok((file, true));
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).with_context(failed),
    }
    let about = fs::symlink_metadata(path).with_context(failed)?;
    ensure!(
        !about.is_symlink(),
        "{} is a symbolic link; name the file itself, or - for standard output",
        path.display()
    );
    // Nothing is lost with an empty one, such as a replay leaves that could not read its input.
    if about.is_file() && about.len() > 0 {
        ensure!(capture.force, "{} exists; --force overwrites it", path.display());
    }
    let file = options.open(path).with_context(failed)?;
    let about = file.metadata().with_context(failed)?;
    if about.is_file() {
        ensure!(!is_read(&about, capture), "{} is read and written at once", path.display());
        file.set_permissions(fs::Permissions::from_mode(MODE)).with_context(failed)?;
    }
    Ok((file, false))
}

/// Whether it is a file that `-r` names, by whatever name.
fn is_read(written: &Metadata, capture: &Capture) -> bool {
    let same = |read: &PathBuf| {
        let read = match is_standard(Some(read)) {
            true => about_standard(io::stdin().as_fd()),
            false => fs::metadata(read).ok(),
        };
        read.is_some_and(|read| (read.dev(), read.ino()) == (written.dev(), written.ino()))
    };
    written.is_file() && capture.read.iter().any(same)
}

fn about_standard(stream: BorrowedFd<'_>) -> Option<Metadata> {
    File::from(stream.try_clone_to_owned().ok()?).metadata().ok()
}

/// What sudo let us make is the user's. Only ever a file of this process's own making.
fn hand_to_invoker(file: &File) {
    if let Some((uid, gid)) = live::owner().filter(|_| Uid::effective().is_root())
        && let Err(error) = fchown(file, Some(uid), Some(gid))
    {
        tracing::debug!("the capture stays root's: {error}");
    }
}

/// `x.0.pcapng`, `x.1.pcapng`, … for `x.pcapng`; the name itself for one.
fn ring(path: &Path, count: u16) -> Vec<PathBuf> {
    if count == 1 {
        return vec![path.to_owned()];
    }
    let whole = path.to_string_lossy();
    let ending = ENDINGS.into_iter().find(|ending| whole.ends_with(ending)).unwrap_or_default();
    let stem = &whole[..whole.len() - ending.len()];
    let digits = (count - 1).to_string().len();
    (0..count).map(|n| format!("{stem}.{n:0digits$}{ending}").into()).collect()
}

impl Created {
    /// The same for `svctrace pipeline`.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let standard = self.standard.then_some(1);
        let numbers = self.files.iter().map(|file| file.as_raw_fd()).chain(standard);
        let mut arguments: Vec<_> = numbers.map(|fd| format!("--write-fd={fd}")).collect();
        if !arguments.is_empty() {
            let Options { compress, rotate_bytes, rotate_ns } = self.options;
            arguments.extend(compress.then(|| "--write-zstd".to_owned()));
            arguments.extend(rotate_bytes.map(|bytes| format!("--write-bytes={bytes}")));
            arguments.extend(rotate_ns.map(|ns| format!("--write-ns={ns}")));
        }
        arguments.into_iter().map(OsString::from).collect()
    }

    /// Gives the files away.
    pub(crate) fn descriptors(&mut self) -> Vec<OwnedFd> {
        self.files.drain(..).map(OwnedFd::from).collect()
    }

    /// A writer in this process; `None` when nothing is to be recorded.
    pub(crate) fn writer(mut self) -> Result<Option<Writer>> {
        writer(self.files.drain(..).collect(), self.standard, self.options)
    }

    /// Takes new files away again that nothing was recorded into.
    pub(crate) fn remove_unused(&self) {
        for path in &self.new {
            if fs::metadata(path).is_ok_and(|about| about.len() == 0)
                && fs::remove_file(path).is_err()
            {
                remove_as_invoker(path);
            }
        }
    }
}

/// In a folder of theirs the agent, which gave up root's right to everything, may not remove.
fn remove_as_invoker(path: &Path) {
    let Some((uid, _)) = live::owner().filter(|_| Uid::effective().is_root()) else { return };
    if seteuid(Uid::from_raw(uid)).is_ok() {
        let _ = fs::remove_file(path);
        let _ = seteuid(Uid::from_raw(0));
    }
}

/// The writer of the pipeline process.
pub(crate) fn handed(capture: &Handed) -> Result<Option<Writer>> {
    let standard = capture.write_fd.contains(&1);
    let numbers = capture.write_fd.iter().filter(|fd| **fd != 1);
    let files = numbers.map(|fd| handover::file(*fd)).collect::<Result<_>>()?;
    let options = Options {
        compress: capture.write_zstd,
        rotate_bytes: capture.write_bytes,
        rotate_ns: capture.write_ns,
    };
    writer(files, standard, options)
}

fn writer(files: Vec<File>, standard: bool, options: Options) -> Result<Option<Writer>> {
    let mut volumes: Vec<Box<dyn Volume>> = Vec::new();
    for file in files {
        // Asked now: the sandboxed process may not.
        let regular = file.metadata().context("cannot write the capture")?.is_file();
        volumes.push(Box::new(Disk { file, regular }));
    }
    if standard {
        volumes.push(Box::new(Standard(io::stdout())));
    }
    Ok((!volumes.is_empty()).then(|| Writer::new(volumes, options)))
}

struct Disk {
    file: File,
    regular: bool,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Volume for Disk {
    fn start_over(&mut self) -> io::Result<()> {
        if self.regular {
            self.file.set_len(0)?;
            self.file.rewind()?;
        }
        Ok(())
    }
}

struct Standard(io::Stdout);

impl Write for Standard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Volume for Standard {
    fn start_over(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_files_keep_their_ending() {
        let names = |path: &str, count| -> Vec<String> {
            ring(Path::new(path), count).iter().map(|p| p.display().to_string()).collect()
        };
        assert_eq!(names("a/x.pcapng.zst", 2), ["a/x.0.pcapng.zst", "a/x.1.pcapng.zst"]);
        assert_eq!(names("x", 11)[10], "x.10");
        assert_eq!(names("x", 11)[3], "x.03");
        assert_eq!(names("x.pcapng", 1), ["x.pcapng"]);
    }
}
