//! The primary's side, in the order a connection passes through it: [`accept`], [`identify`] where the
//! peer's address is not enough, [`dispatch`] to the client's slot, [`deliver`] to the slot's worker (which
//! [`answers`]), or [`refuse`]. [`balancer`] ties them together on the thread of [`runtime`].

pub mod accept;
pub mod answers;
pub mod balancer;
pub mod deliver;
pub mod dispatch;
pub mod identify;
pub mod refuse;
pub mod runtime;
