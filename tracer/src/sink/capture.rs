//! The sink that records: every record goes into a capture, results do not.

use std::io;

use super::Sink;
use crate::capture::Writer;
use crate::record::Record;

/// Writes every record.
pub struct Capture {
    writer: Writer,
}

impl Capture {
    /// Records go to `writer`.
    pub fn new(writer: Writer) -> Self {
        Self { writer }
    }
}

impl Sink for Capture {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        self.writer.record(record).map_err(told)
    }

    fn cut_short(&mut self) {
        self.writer.cut_short();
    }

    fn finish(&mut self) -> io::Result<()> {
        self.writer.finish().map_err(told)
    }
}

/// Says what could not be written.
fn told(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write the capture: {error}"))
}
