//! Where records come from. Everything behind a source is a pure function of its records.

pub mod live;
pub mod pcap;
mod recognise;
mod replay;
pub mod scap;

pub use crate::capture_error::{CaptureError, CaptureErrorKind};
pub use recognise::{Capture, Format, recognise};
pub use replay::{open, open_all};

use crate::record::Record;

/// Records of a capture, in order; the error of a damaged capture is the last item.
pub type Records = Box<dyn Iterator<Item = Result<Record, CaptureError>> + Send>;
