//! The primary's side. A connection comes to its worker on one of two ways: through this process ([`handover`]), or by the
//! [`kernel`] alone. Both follow one table of slots and [`workers`]. `core` holds what changes under one lock,
//! [`balancer`] runs it on the thread of [`runtime`] with the loops of `accept_loops`; [`config`] is what it is told,
//! [`report`] what it tells. Another primary may come in its place: [`takeover`],
//! whose tasks are in `succession`.

mod accept_loops;
pub mod balancer;
pub mod config;
mod core;
pub mod handover;
pub mod kernel;
mod refusals;
pub mod report;
pub mod runtime;
mod succession;
pub mod takeover;
pub mod workers;
