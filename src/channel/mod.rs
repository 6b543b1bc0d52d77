//! The private channel between the primary and one worker: an anonymous unix socketpair that
//! carries [`frame`]s and, beside them, connections, with the [`source`] of each that a proxy speaks for.
//! Both processes run this code, and read one [`clock`].

pub mod clock;
pub mod frame;
pub mod passing;
pub mod source;
