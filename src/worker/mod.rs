//! The worker process's side: [`intake`] receives connections, and sockets to accept more from, for which there must be
//! [`room`].

pub mod intake;
pub mod room;
