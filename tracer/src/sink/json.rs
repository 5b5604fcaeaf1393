//! The JSON contract, one object a line. Escapes more than JSON asks for, so that a terminal that
//! shows the lines is as safe as a program that reads them; the values stay the same.

use std::io::{self, Write};

use serde::Serialize;

use super::Sink;
use super::compact::Compact;
use super::flush::Flushing;
use crate::record::Record;
use crate::report::Output;

/// Writes every output as a line.
pub struct Json<W: Write> {
    writer: Flushing<W>,
    /// Reused between lines.
    line: Vec<u8>,
}

impl<W: Write> Json<W> {
    /// Lines go to `writer`.
    pub fn new(writer: W) -> Self {
        Self { writer: Flushing::new(writer), line: Vec::new() }
    }
}

impl<W: Write> Sink for Json<W> {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        self.writer.record(record)
    }

    fn output(&mut self, output: &Output) -> io::Result<()> {
        self.line.clear();
        output.serialize(Compact(&mut self.line))?;
        self.line.push(b'\n');
        self.writer.write_all(&self.line)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
