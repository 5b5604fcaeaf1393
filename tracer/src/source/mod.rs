//! Where records come from.
pub mod live;
