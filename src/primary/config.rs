//! What a balancer is told when it is made.

use std::time::Duration;

use super::handover::identify::LookLimits;
use super::handover::queue::Limits;
use super::takeover::Secrets;
use crate::client::identify::Identifier;

/// How to balance.
pub struct Config {
    /// Tells clients apart.
    pub identifier: Identifier,
    /// How far and how long to look, where the peer's address is not enough for that.
    pub look: LookLimits,
    /// How much may wait, and how long.
    pub limits: Limits,
    /// The keys, for who takes over.
    pub secrets: Secrets,
    /// How often to ask for a table with a worker in it while connections wait for one.
    pub retry_delay: Duration,
}

/// How connections come to their workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The kernel puts them into the queue of their slot. Only for a socket that is bound to an address of TCP, by us
    /// alone, where the peer's address is the client.
    Kernel,
    /// The primary accepts them and hands them over.
    HandOver,
}
