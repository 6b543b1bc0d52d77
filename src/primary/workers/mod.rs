//! The workers: the [`table`] of slots that they serve, and the [`channels`] to them (the [`channel`] itself, what a
//! worker [`answers`] on it, and a [`channel_watch`] for its beginning and its end).

pub mod answers;
pub mod channel;
pub mod channel_watch;
pub mod channels;
pub mod latency;
pub mod table;
