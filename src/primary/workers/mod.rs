//! The workers: the [`table`] of slots that they serve, and the [`channels`] to them (the [`channel`] itself, what a
//! worker [`answers`] on it, a [`channel_watch`] for its beginning and its end, and whose [`process`] it leads to).

pub mod answers;
pub mod channel;
pub mod channel_watch;
pub mod channels;
pub mod latency;
pub mod process;
pub mod table;
