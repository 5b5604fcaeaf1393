//! Synthetic files of every version.
