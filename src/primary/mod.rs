//! The primary's side, in the order a connection passes through it: [`accept`], [`identify`] where the
//! peer's address is not enough, [`dispatch`] to the client's slot, [`deliver`] to the slot's worker (which
//! [`answers`]; [`attend`] waits for its hello and its end), or [`refuse`]. [`pace`] says how often. `core` ties
//! them together under one lock, [`balancer`] on the thread of [`runtime`].

pub mod accept;
pub mod answers;
pub mod attend;
pub mod balancer;
mod core;
pub mod deliver;
pub mod dispatch;
pub mod identify;
pub mod pace;
pub mod refuse;
pub mod runtime;
