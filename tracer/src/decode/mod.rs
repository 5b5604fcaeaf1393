//! Records to events. Keeps no state but half-received TCP messages; a record that cannot be
//! understood is counted by the pipeline, never fatal.

use crate::event::Event;
use crate::record::{Record, RecordKind};

/// Why a record could not be understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The body ends before `field`.
    #[error("{kind:?} record of {len} bytes ends before {field}")]
    Short {
        /// Kind of record.
        kind: RecordKind,
        /// Field that is missing.
        field: &'static str,
        /// Bytes there are.
        len: usize,
    },
    /// `field` has a value that means nothing.
    #[error("{kind:?} record: {field} makes no sense ({why})")]
    Field {
        /// Kind of record.
        kind: RecordKind,
        /// Field.
        field: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// The decoder.
#[derive(Debug, Default)]
pub struct Decoder {}

impl Decoder {
    /// Appends what `record` says to `events` (none, one, or several).
    pub fn decode(&mut self, record: &Record, events: &mut Vec<Event>) -> Result<(), DecodeError> {
        let _ = (record, events);
        Ok(())
    }
}
