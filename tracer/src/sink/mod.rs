//! Where results go. A sink gets every record (for recording) and every output, in order, and takes
//! what it wants; it never derives facts.

pub mod beside;
pub mod capture;
mod compact;
pub mod filter;
mod flush;
pub mod json;
pub mod schema;
pub mod text;

use std::io;

use crate::record::Record;
use crate::report::Output;

/// Takes what it wants.
pub trait Sink {
    /// A record, before anything is concluded from it.
    fn record(&mut self, _record: &Record) -> io::Result<()> {
        Ok(())
    }
    /// A result.
    fn output(&mut self, _output: &Output) -> io::Result<()> {
        Ok(())
    }
    /// The input broke off: what follows is missing.
    fn cut_short(&mut self) {}
    /// Nothing follows.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}
