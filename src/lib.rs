//! The native half of `sticky-listen`: one process accepts connections and passes each, by a keyed
//! hash of its client, to the worker process that serves that client.
//!
//! Read it as a connection travels: [`primary`] brings each connection to its worker, or has the kernel do so; [`channel`]
//! carries descriptors and acknowledgements between the processes; [`worker`] receives. [`client`]
//! says who a client is and knows no I/O. [`sys`] holds every `unsafe` block. The private module
//! `node` alone knows Node-API.

pub mod channel;
pub mod client;
mod node;
pub mod primary;
pub mod sys;
pub mod worker;
