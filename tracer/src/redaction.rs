//! `--redact`: the key, here or in the pipeline process, and what the user is told. Replaces nothing
//! itself.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ring::rand::{SecureRandom as _, SystemRandom};
use tracer::record::Record;
use tracer::redact::Redactor;

use crate::cli::{Capture, Handed, Redact};
use crate::handover;

/// Fewest bytes of a key, and most that are read.
const KEY_MIN: usize = 16;
const KEY_MAX: u64 = 4096;
const SHORT: &str = "a key has at least 16 bytes; make one with `head -c 32 /dev/urandom > FILE`";

/// What happens to each record before anything else.
pub(crate) struct Redaction(Option<Redactor>);

/// What the pipeline process is told.
pub(crate) struct HandOver {
    redact: Option<Redact>,
    key: Option<File>,
}

/// What the command line asks for, in this process.
pub(crate) fn asked(capture: &Capture, quiet: bool) -> Result<Redaction> {
    let key = capture.redact_key.as_deref().map(open).transpose()?;
    start(capture.redact, key, quiet)
}

/// What the command line asks of the pipeline process.
pub(crate) fn to_hand_over(capture: &Capture) -> Result<HandOver> {
    let key = capture.redact_key.as_deref().map(open).transpose()?;
    Ok(HandOver { redact: capture.redact, key })
}

/// What the agent asks of this process.
pub(crate) fn handed(handed: &Handed, quiet: bool) -> Result<Redaction> {
    let key = handed.redact_key_fd.map(handover::file).transpose()?;
    start(handed.redact, key, quiet)
}

impl HandOver {
    /// Of `svctrace pipeline`: the key goes as an open file, where no list of processes shows it.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let redact = self.redact.map(|Redact::Names| "--redact=names".into());
        let key =
            self.key.as_ref().map(|key| format!("--redact-key-fd={}", key.as_raw_fd()).into());
        redact.into_iter().chain(key).collect()
    }

    /// Gives the file away.
    pub(crate) fn descriptor(self) -> Option<OwnedFd> {
        self.key.map(OwnedFd::from)
    }
}

fn open(path: &Path) -> Result<File> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let about = file.metadata().with_context(|| path.display().to_string())?;
    ensure!(!about.is_dir(), "{} is a directory", path.display());
    ensure!(!about.is_file() || about.len() >= KEY_MIN as u64, "{}: {SHORT}", path.display());
    Ok(file)
}

fn start(redact: Option<Redact>, file: Option<File>, quiet: bool) -> Result<Redaction> {
    let Some(Redact::Names) = redact else { return Ok(Redaction(None)) };
    let mut key = Vec::new();
    match file {
        Some(file) => {
            file.take(KEY_MAX).read_to_end(&mut key).context("--redact-key")?;
            ensure!(key.len() >= KEY_MIN, "--redact-key: {SHORT}");
        }
        None => {
            key.resize(32, 0);
            let random = SystemRandom::new().fill(&mut key);
            ensure!(random.is_ok(), "the system gives no random numbers for pseudonyms");
        }
    }
    if !quiet {
        writeln!(
            io::stderr(),
            "svctrace: names are replaced by pseudonyms; addresses, ports, times, ids and the lengths \
             of names stay"
        )?;
    }
    Ok(Redaction(Some(Redactor::new(&key))))
}

impl Redaction {
    /// `record` as the pipeline gets it.
    pub(crate) fn record(&mut self, record: Record) -> Record {
        match &mut self.0 {
            Some(redactor) => redactor.record(&record),
            None => record,
        }
    }

    /// Says where the same pseudonym can mean two names.
    pub(crate) fn tell_shared(&self) {
        let Some(shared) = self.0.as_ref().map(Redactor::shared) else { return };
        if shared.labels > 0 {
            tracing::warn!(
                "{} short names share their pseudonym with another: there are too few words of their length",
                shared.labels
            );
        }
        if shared.unchecked > 0 {
            tracing::warn!(
                "{} times a name got a pseudonym that may be another's too: there are too many names",
                shared.unchecked
            );
        }
    }
}
