//! What is wrong with a capture, and where. Shared by all readers of files; says nothing to people.

use std::io;

/// Why a capture cannot be read, or not further.
#[derive(Debug, thiserror::Error)]
#[error("at byte {offset}: {kind}")]
pub struct CaptureError {
    /// Where, in bytes from the beginning of the (decompressed) input: the start of what could not
    /// be read.
    pub offset: u64,
    /// What is wrong there.
    pub kind: CaptureErrorKind,
    /// Which of several files, where that is known.
    pub file: Option<String>,
}

/// What is wrong with a capture.
#[derive(Debug, thiserror::Error)]
pub enum CaptureErrorKind {
    /// The input ends inside a block: its tail is missing. What came before is whole.
    #[error("the capture ends in the middle of a block; its tail is missing")]
    TailMissing,
    /// The bytes contradict the format.
    #[error("damaged: {0}")]
    Damaged(String),
    /// A kind or version of capture that this version cannot read.
    #[error("{0}")]
    Unsupported(String),
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl CaptureError {
    /// An error at `offset` bytes.
    pub fn new(offset: u64, kind: CaptureErrorKind) -> Self {
        Self { offset, kind, file: None }
    }

    /// The same, in the file of this name; an empty one says nothing.
    #[must_use]
    pub fn in_file(self, name: &str) -> Self {
        let file = (!name.is_empty()).then(|| name.to_owned());
        Self { file: file.or(self.file), ..self }
    }

    /// Bytes that contradict the format.
    pub fn damaged(offset: u64, what: impl Into<String>) -> Self {
        Self::new(offset, CaptureErrorKind::Damaged(what.into()))
    }
}
