//! Where records come from. Everything behind a source is a pure function of its records.
pub mod live;
