//! The words of the channel. Pure: bytes in, frames out, and back.
//!
//! Every frame is 20 bytes, little-endian:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | kind: 1 hello, 2 deliver, 3 adopted, 4 returned, 5 listen, 6 release, 7 released, 8 counters, 9 secret, 10 inherit, 11 take over |
//! | 1 | 1 | in a deliver: 1 when a [source record](super::source) for each connection follows; in an inherit: 1 when the kernel steers; else zero |
//! | 2 | 2 | count: the version in a hello; connections in deliver and returned; sockets in inherit; the word's number in a secret; else zero |
//! | 4 | 4 | in a deliver: [when it was sent](super::clock); in adopted: microseconds since the first of them was sent; in listen and inherit: the backlog; else zero |
//! | 8 | 8 | sequence number of the first (deliver, returned) or last (adopted) connection; in listen, release and released the number of the loan; the word of a secret; in inherit how many sockets are still to come; else zero |
//! | 16 | 4 | the slot (deliver, listen, release, released); in inherit how many slots there are; else zero |
//!
//! The worker says hello once. A primary that speaks another version answers with its own hello, and closes. Otherwise it
//! delivers connections, numbered from zero without gaps; each deliver frame is of one slot, and carries its connections'
//! descriptors. The worker answers with what it adopted (all up to and including the number) and what it could not receive
//! (returned).
//!
//! Where the kernel steers, the primary lends a worker the listening socket of a slot (listen; with it go the descriptors
//! of the socket and of the page in which the worker counts), and takes it back (release). The worker says when it
//! accepts from it no more (released), because it was told to or of its own accord. Each loan has a number, as these words
//! may cross. Where the primary has to know how busy a worker is that it lends nothing to, it sends the page by itself
//! (counters).
//!
//! A primary that [takes over](crate::primary::takeover) from another is a worker to that one, which serves all slots. After
//! the hello it is told the secrets (three words of 8 bytes) and given the listening sockets (inherit). When its own workers
//! are ready it says so (take over), gets the sockets that there are by then, and from then on is delivered what still waits.
//! Other successors are told that one has taken over (take over, from the primary).

use super::clock::Stamp;

/// The version of these words, on which the two ends must agree. It goes with the one of `lib/messages.js`.
pub const VERSION: u16 = 8;

/// Bytes of a frame.
pub const FRAME_LEN: usize = 20;

/// Connections a deliver frame may carry. Linux allows 253 descriptors in a message, musl's headers
/// 252; past 64 a bigger message saves nothing measurable and makes the worker's turn longer.
pub const MAX_BATCH: u16 = 64;

/// The loan of a slot's listening socket to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loan {
    /// The slot.
    pub slot: u32,
    /// The number of the loan among those of its slot, modulo 2^32.
    pub number: u32,
}

/// One word of the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Worker to primary, first of all: it listens, and speaks this version. Primary to worker: it speaks another one.
    Hello {
        /// The [`VERSION`] of who says it.
        version: u16,
    },
    /// Primary to worker: here are `count` connections.
    Deliver {
        /// The first one's sequence number.
        first: u64,
        /// How many, 1 to [`MAX_BATCH`].
        count: u16,
        /// Whether as many source records follow.
        sources: bool,
        /// When it was sent.
        sent: Stamp,
        /// The slot of all of them.
        slot: u32,
    },
    /// Worker to primary: from here on these are mine.
    Adopted {
        /// The last one's sequence number; all before it are meant too.
        through: u64,
        /// Microseconds since the first of them was sent.
        delay: u32,
    },
    /// Worker to primary: these did not reach me (no descriptors left), give them to another.
    Returned {
        /// The first one's sequence number.
        first: u64,
        /// How many, 1 to [`MAX_BATCH`].
        count: u16,
    },
    /// Primary to worker: accept the connections of this slot.
    Listen {
        /// The loan of the slot's socket.
        loan: Loan,
        /// The backlog that the socket has.
        backlog: u32,
    },
    /// Primary to worker: accept from this socket no more.
    Release(Loan),
    /// Worker to primary: it accepts from this socket no more.
    Released(Loan),
    /// Primary to worker: count in this page.
    Counters,
    /// Primary to successor: a word of the secrets.
    Secret {
        /// Which, from zero on.
        index: u16,
        /// The word.
        word: u64,
    },
    /// Primary to successor: here are listening sockets.
    Inherit {
        /// Whether the kernel chooses among them, in this order.
        steered: bool,
        /// How many.
        count: u16,
        /// Their backlog.
        backlog: u32,
        /// How many are still to come.
        left: u32,
        /// How many slots there are.
        slots: u32,
    },
    /// Successor to primary: it serves from now on. Primary to successor: another one does.
    TakeOver,
}

/// Bytes that are no frame. The channel they came from is beyond repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("malformed frame on the channel")
    }
}

impl std::error::Error for Malformed {}

impl Frame {
    /// The frame as bytes.
    pub fn encode(self) -> [u8; FRAME_LEN] {
        let (kind, flag, count, time, seq, slot) = match self {
            Self::Hello { version } => (1, false, version, 0, 0, 0),
            Self::Deliver { first, count, sources, sent, slot } => {
                (2, sources, count, sent.0, first, slot)
            }
            Self::Adopted { through, delay } => (3, false, 0, delay, through, 0),
            Self::Returned { first, count } => (4, false, count, 0, first, 0),
            Self::Listen { loan, backlog } => (5, false, 0, backlog, loan.number.into(), loan.slot),
            Self::Release(loan) => (6, false, 0, 0, loan.number.into(), loan.slot),
            Self::Released(loan) => (7, false, 0, 0, loan.number.into(), loan.slot),
            Self::Counters => (8, false, 0, 0, 0, 0),
            Self::Secret { index, word } => (9, false, index, 0, word, 0),
            Self::Inherit { steered, count, backlog, left, slots } => {
                (10, steered, count, backlog, left.into(), slots)
            }
            Self::TakeOver => (11, false, 0, 0, 0, 0),
        };
        let mut bytes = [0; FRAME_LEN];
        bytes[0] = kind;
        bytes[1] = u8::from(flag);
        bytes[2..4].copy_from_slice(&u16::to_le_bytes(count));
        bytes[4..8].copy_from_slice(&u32::to_le_bytes(time));
        bytes[8..16].copy_from_slice(&u64::to_le_bytes(seq));
        bytes[16..].copy_from_slice(&u32::to_le_bytes(slot));
        bytes
    }

    /// The frame that these bytes are.
    pub fn decode(bytes: &[u8; FRAME_LEN]) -> Result<Self, Malformed> {
        let [kind, flag @ (0 | 1), c0, c1, t0, t1, t2, t3, rest @ ..] = *bytes else {
            return Err(Malformed);
        };
        let [seq @ .., s0, s1, s2, s3] = rest;
        let count = u16::from_le_bytes([c0, c1]);
        let time = u32::from_le_bytes([t0, t1, t2, t3]);
        let seq = u64::from_le_bytes(seq);
        let slot = u32::from_le_bytes([s0, s1, s2, s3]);
        let loan = u32::try_from(seq).map(|number| Loan { slot, number });
        let batch = (1..=MAX_BATCH).contains(&count) && seq.checked_add(u64::from(count)).is_some();
        match (kind, flag, time) {
            (1, 0, 0) if seq == 0 && slot == 0 => Ok(Self::Hello { version: count }),
            (2, _, _) if batch => {
                Ok(Self::Deliver { first: seq, count, sources: flag == 1, sent: Stamp(time), slot })
            }
            (3, 0, _) if count == 0 && slot == 0 => Ok(Self::Adopted { through: seq, delay: time }),
            (4, 0, 0) if batch && slot == 0 => Ok(Self::Returned { first: seq, count }),
            (5, 0, backlog) if count == 0 => {
                loan.map(|loan| Self::Listen { loan, backlog }).map_err(|_| Malformed)
            }
            (6, 0, 0) if count == 0 => loan.map(Self::Release).map_err(|_| Malformed),
            (7, 0, 0) if count == 0 => loan.map(Self::Released).map_err(|_| Malformed),
            (8, 0, 0) if count == 0 && seq == 0 && slot == 0 => Ok(Self::Counters),
            (9, 0, 0) if slot == 0 => Ok(Self::Secret { index: count, word: seq }),
            (10, _, backlog) if (1..=MAX_BATCH).contains(&count) => {
                let left = u32::try_from(seq).map_err(|_| Malformed)?;
                Ok(Self::Inherit { steered: flag == 1, count, backlog, left, slots: slot })
            }
            (11, 0, 0) if count == 0 && seq == 0 && slot == 0 => Ok(Self::TakeOver),
            _ => Err(Malformed),
        }
    }
}

/// Puts frames together from bytes that arrive in pieces of any size.
#[derive(Default)]
pub struct FrameReader {
    partial: [u8; FRAME_LEN],
    filled: usize,
}

impl FrameReader {
    /// Takes bytes from the front of `input` and returns the next whole frame, or `None` when
    /// `input` is used up.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, Malformed> {
        let take = input.len().min(FRAME_LEN - self.filled);
        let (head, rest) = input.split_at(take);
        self.partial[self.filled..][..take].copy_from_slice(head);
        self.filled += take;
        *input = rest;
        if self.filled < FRAME_LEN {
            return Ok(None);
        }
        self.filled = 0;
        Frame::decode(&self.partial).map(Some)
    }

    /// How many bytes the frame that has begun still lacks.
    pub fn missing(&self) -> usize {
        FRAME_LEN - self.filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn loans() -> impl Strategy<Value = Loan> {
        any::<(u32, u32)>().prop_map(|(slot, number)| Loan { slot, number })
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let seq = 0..u64::MAX - u64::from(MAX_BATCH);
        let count = 1..=MAX_BATCH;
        prop_oneof![
            any::<u16>().prop_map(|version| Frame::Hello { version }),
            (seq.clone(), count.clone(), any::<bool>(), any::<(u32, u32)>()).prop_map(
                |(first, count, sources, (sent, slot))| {
                    Frame::Deliver { first, count, sources, sent: Stamp(sent), slot }
                }
            ),
            any::<(u64, u32)>().prop_map(|(through, delay)| Frame::Adopted { through, delay }),
            (seq, count).prop_map(|(first, count)| Frame::Returned { first, count }),
            (loans(), any::<u32>()).prop_map(|(loan, backlog)| Frame::Listen { loan, backlog }),
            loans().prop_map(Frame::Release),
            loans().prop_map(Frame::Released),
            Just(Frame::Counters),
            any::<(u16, u64)>().prop_map(|(index, word)| Frame::Secret { index, word }),
            (any::<bool>(), 1..=MAX_BATCH, any::<(u32, u32, u32)>()).prop_map(
                |(steered, count, (backlog, left, slots))| {
                    Frame::Inherit { steered, count, backlog, left, slots }
                }
            ),
            Just(Frame::TakeOver),
        ]
    }

    fn read_all(reader: &mut FrameReader, mut input: &[u8]) -> Result<Vec<Frame>, Malformed> {
        let mut out = Vec::new();
        while let Some(frame) = reader.next(&mut input)? {
            out.push(frame);
        }
        Ok(out)
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(frame in frames()) {
            prop_assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
        }

        #[test]
        fn arbitrary_bytes_are_a_frame_or_malformed_and_a_frame_has_one_spelling(bytes: [u8; FRAME_LEN]) {
            if let Ok(frame) = Frame::decode(&bytes) {
                prop_assert_eq!(frame.encode(), bytes);
            }
        }

        #[test]
        fn bytes_near_a_frame_are_a_frame_or_malformed(frame in frames(), at in 0..FRAME_LEN, byte: u8) {
            let mut bytes = frame.encode();
            bytes[at] = byte;
            if let Ok(frame) = Frame::decode(&bytes) {
                prop_assert_eq!(frame.encode(), bytes);
            }
        }

        #[test]
        fn splitting_the_stream_anywhere_changes_nothing(
            sent in prop::collection::vec(frames(), 0..12),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let stream: Vec<u8> = sent.iter().flat_map(|frame| frame.encode()).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.push(stream.len());
            cuts.sort_unstable();
            let mut reader = FrameReader::default();
            let mut received = Vec::new();
            let mut from = 0;
            for to in cuts {
                received.extend(read_all(&mut reader, &stream[from..to]).unwrap());
                from = to;
            }
            prop_assert_eq!(received, sent);
            prop_assert_eq!(reader.missing(), FRAME_LEN);
        }

        #[test]
        fn arbitrary_streams_never_panic(stream in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_all(&mut FrameReader::default(), &stream);
        }
    }
}
