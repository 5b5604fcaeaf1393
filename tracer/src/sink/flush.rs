//! When a sink's buffer reaches the reader: soon, and not at every line of a flood. Goes by record
//! time, as everything behind a source does; heartbeats keep it moving when nothing happens.

use std::io::{self, Write};

use crate::record::{Record, RecordKind, Timestamp};

/// Least record time between two flushes, in nanoseconds.
const INTERVAL_NS: u64 = 50_000_000;

/// Bytes gathered before they go out whatever the time.
const BUFFER: usize = 64 * 1024;

/// A buffered writer that is flushed as records pass.
pub(crate) struct Flushing<W: Write> {
    writer: io::BufWriter<W>,
    dirty: bool,
    flushed: Timestamp,
}

impl<W: Write> Flushing<W> {
    /// Buffers in front of `writer`.
    pub(crate) fn new(writer: W) -> Self {
        Self {
            writer: io::BufWriter::with_capacity(BUFFER, writer),
            dirty: false,
            flushed: Timestamp::default(),
        }
    }

    /// Lets what was written out, if it is time.
    pub(crate) fn record(&mut self, record: &Record) -> io::Result<()> {
        let due =
            record.kind == RecordKind::Heartbeat || record.at.since(self.flushed) >= INTERVAL_NS;
        if self.dirty && due {
            self.flushed = record.at;
            self.flush()?;
        }
        Ok(())
    }
}

impl<W: Write> Write for Flushing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.dirty = true;
        self.writer.write(bytes)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.dirty = true;
        self.writer.write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.dirty = false;
        self.writer.flush()
    }
}
