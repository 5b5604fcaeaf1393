//! The wire between the probes and user space: `#[repr(C)]` structs with explicit padding and
//! explicit numbers. No logic, no allocation, no `std`. Layouts never change meaning: new needs get
//! new numbers, and [`record::WIRE_VERSION`] moves when a layout must.
#![no_std]

pub mod bodies;
pub mod limits;
pub mod maps;
pub mod record;
