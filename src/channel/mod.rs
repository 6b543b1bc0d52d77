//! The private channel between the primary and one worker: an anonymous unix socketpair that
//! carries [`frame`]s and, beside them, connections, with the [`source`] of each that a proxy speaks for.
//! Both processes run this code, and read one [`clock`]. What a worker accepts from the kernel never passes here: it is
//! counted in [`counters`].

pub mod clock;
pub mod counters;
pub mod frame;
pub mod passing;
pub mod source;
pub mod waits;
