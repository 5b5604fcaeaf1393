//! The JSON contract, one object a line. Escapes more than JSON asks for, so that a terminal that
//! shows the lines is as safe as a program that reads them; the values stay the same.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

use super::Sink;
use super::flush::Flushing;
use crate::record::Record;
use crate::report::Output;
use crate::text::is_visible;

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
        let mut serializer = serde_json::Serializer::with_formatter(&mut self.line, Careful);
        output.serialize(&mut serializer)?;
        self.line.push(b'\n');
        self.writer.write_all(&self.line)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// serde_json's compact form, with every character that a terminal could obey as `\uXXXX`.
struct Careful;

impl Formatter for Careful {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        // serde_json escapes the control characters below the space itself; DEL and all that is not
        // ASCII have the highest bit, or get it with one more.
        if fragment.bytes().fold(0, |all, byte| all | byte | byte.wrapping_add(1)) < 0x80 {
            return CompactFormatter.write_string_fragment(writer, fragment);
        }
        let mut rest = fragment;
        while let Some((at, hostile)) = rest.char_indices().find(|(_, c)| !is_visible(*c)) {
            let (before, from) = rest.split_at(at);
            CompactFormatter.write_string_fragment(writer, before)?;
            for unit in hostile.encode_utf16(&mut [0; 2]) {
                write!(writer, "\\u{unit:04x}")?;
            }
            rest = from.get(hostile.len_utf8()..).unwrap_or_default();
        }
        CompactFormatter.write_string_fragment(writer, rest)
    }
}
