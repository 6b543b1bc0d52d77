//! The worker process's side: receive connections from the primary and take them over.

pub mod intake;
