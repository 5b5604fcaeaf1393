//! Reading files of the node that others write: never more than a bound.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// The first `max` bytes of a file, lossy; empty where it cannot be read.
pub(super) fn text(path: &Path, max: u64) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(max).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
