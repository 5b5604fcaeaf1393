//! Where records come from. Everything behind a source is a pure function of its records.

pub mod live;
mod nodes;
pub mod pcap;
mod recognise;
mod recordings;
mod replay;
pub mod scap;

pub use crate::capture_error::{CaptureError, CaptureErrorKind};
pub use recognise::{Capture, Format, recognise};
pub use replay::{open, open_all, open_named};

use crate::record::Record;

/// Port that means DNS unless somebody says more.
const DNS_PORT: u16 = 53;

/// What to make of captures of other tools; svctrace's own say all this themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Ports that mean DNS.
    pub dns_ports: Vec<u16>,
    /// Keep arguments of commands and payloads other than DNS.
    pub keep_payload: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { dns_ports: vec![DNS_PORT], keep_payload: false }
    }
}

/// Records of a capture, in order; the error of a damaged capture is the last item.
pub type Records = Box<dyn Iterator<Item = Result<Record, CaptureError>> + Send>;
