//! What is printed beside a recording: when nobody reads it any more, the recording goes on. Prints
//! nothing itself.

use std::io;

use super::Sink;
use crate::record::Record;
use crate::report::Output;

/// A sink that may lose its reader.
pub struct Beside {
    print: Option<Box<dyn Sink>>,
}

impl Beside {
    /// `print`, as long as somebody reads it.
    pub fn new(print: Box<dyn Sink>) -> Self {
        Self { print: Some(print) }
    }

    fn with(&mut self, act: impl FnOnce(&mut dyn Sink) -> io::Result<()>) -> io::Result<()> {
        let Some(print) = &mut self.print else { return Ok(()) };
        match act(print.as_mut()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.print = None;
                tracing::warn!("nobody reads the output any more; the recording goes on");
                Ok(())
            }
            // EIO: the terminal is gone.
            Err(error) if error.raw_os_error() == Some(5) => {
                self.print = None;
                tracing::warn!("the output cannot be written ({error}); the recording goes on");
                Ok(())
            }
            other => other,
        }
    }
}

impl Sink for Beside {
    fn record(&mut self, record: &Record) -> io::Result<()> {
        self.with(|print| print.record(record))
    }

    fn output(&mut self, output: &Output) -> io::Result<()> {
        self.with(|print| print.output(output))
    }

    fn cut_short(&mut self) {
        if let Some(print) = &mut self.print {
            print.cut_short();
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.with(|print| print.finish())
    }
}
