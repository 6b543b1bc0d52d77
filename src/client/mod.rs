//! Who a client is, and which slot serves it. Pure functions: no I/O, no clock, no state.

pub mod address;
pub mod hash;
