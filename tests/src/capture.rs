//! Captures in memory: written by the real writer, read by the real reader.

use std::cell::RefCell;
use std::io::{self, Cursor, Write};
use std::rc::Rc;

use tracer::capture::{Options, Volume, Writer};
use tracer::record::Record;
use tracer::source::{self, CaptureError};

/// A file in memory.
#[derive(Clone, Default)]
pub struct Memory(Rc<RefCell<Vec<u8>>>);

impl Memory {
    /// Its bytes now.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.borrow().clone()
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Volume for Memory {
    fn start_over(&mut self) -> io::Result<()> {
        self.0.borrow_mut().clear();
        Ok(())
    }
}

/// A writer and the files it writes.
pub fn writer(files: usize, options: Options) -> (Writer, Vec<Memory>) {
    let memory: Vec<_> = (0..files).map(|_| Memory::default()).collect();
    let volumes = memory.iter().map(|m| Box::new(m.clone()) as Box<dyn Volume>).collect();
    (Writer::new(volumes, options), memory)
}

/// `records` as a ring of `files`.
pub fn ring(records: &[Record], files: usize, options: Options) -> Vec<Vec<u8>> {
    let (mut writer, memory) = writer(files, options);
    for record in records {
        writer.record(record).unwrap();
    }
    writer.finish().unwrap();
    memory.iter().map(Memory::bytes).collect()
}

/// `records` as one file.
pub fn file(records: &[Record], options: Options) -> Vec<u8> {
    ring(records, 1, options).remove(0)
}

/// The records of files that belong together, and what ended them.
pub fn replay(files: &[Vec<u8>]) -> (Vec<Record>, Option<CaptureError>) {
    let reader = |bytes: &Vec<u8>| Box::new(Cursor::new(bytes.clone())) as Box<dyn io::Read + Send>;
    let records = match source::open_all(files.iter().map(reader).collect()) {
        Ok(records) => records,
        Err(error) => return (Vec::new(), Some(error)),
    };
    let mut read = Vec::new();
    for record in records {
        match record {
            Ok(record) => read.push(record),
            Err(error) => return (read, Some(error)),
        }
    }
    (read, None)
}
