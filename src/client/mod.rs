//! Who a client is, and which slot serves it. Pure functions: no I/O, no clock, no state.
//!
//! [`address`] and [`hash`] suffice where a peer is its client. Behind a proxy [`identify`] decides, from
//! what [`proxy_protocol`] and [`http_head`] find at the start of a connection, what [`forwarded`]
//! reads in a header, and whom to [`trust`]. A session may name its slot itself, by a [`token`]; [`sessions`] knows where.

pub mod address;
pub mod forwarded;
pub mod half_sip;
pub mod hash;
pub mod http_head;
pub mod identify;
pub mod proxy_protocol;
pub mod sessions;
pub mod token;
pub mod trust;
