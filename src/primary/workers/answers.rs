//! What a worker says on its channel, checked word by word. Pure: bytes in, events out.

use std::time::Duration;

use crate::channel::frame::{Frame, FrameReader, Loan, VERSION};

/// What a worker said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is ready; always first, and said once.
    Hello,
    /// As [`Frame::Adopted`].
    Adopted {
        /// As there.
        through: u64,
        /// As there.
        delay: Duration,
    },
    /// As [`Frame::Returned`].
    Returned(u64, u16),
    /// As [`Frame::Released`].
    Released(Loan),
    /// As [`Frame::TakeOver`].
    TakeOver,
}

/// It said what cannot be. Nothing after that means anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It speaks another version of the channel.
    Version(u16),
    /// No frame, or none that a worker says here.
    Garbage,
}

/// Reads answers from bytes that arrive in pieces of any size.
#[derive(Default)]
pub struct AnswerReader {
    frames: FrameReader,
    greeted: bool,
}

impl AnswerReader {
    /// Whether the worker has said hello.
    pub fn greeted(&self) -> bool {
        self.greeted
    }

    /// Takes bytes from the front of `input` and returns the next answer, or `None` when `input` is
    /// used up.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Answer>, Fault> {
        let Some(frame) = self.frames.next(input).map_err(|_| Fault::Garbage)? else {
            return Ok(None);
        };
        let answer = match frame {
            Frame::Hello { version } if !self.greeted => {
                if version != VERSION {
                    return Err(Fault::Version(version));
                }
                self.greeted = true;
                Answer::Hello
            }
            Frame::Adopted { through, delay } if self.greeted => {
                Answer::Adopted { through, delay: Duration::from_micros(delay.into()) }
            }
            Frame::Returned { first, count } if self.greeted => Answer::Returned(first, count),
            Frame::Released(loan) if self.greeted => Answer::Released(loan),
            Frame::TakeOver if self.greeted => Answer::TakeOver,
            _ => return Err(Fault::Garbage),
        };
        Ok(Some(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::clock::Stamp;

    fn read(frames: &[Frame]) -> Result<Vec<Answer>, Fault> {
        let bytes: Vec<u8> = frames.iter().flat_map(|frame| frame.encode()).collect();
        let (mut reader, mut input, mut answers) =
            (AnswerReader::default(), &bytes[..], Vec::new());
        while let Some(answer) = reader.next(&mut input)? {
            answers.push(answer);
        }
        Ok(answers)
    }

    const HELLO: Frame = Frame::Hello { version: VERSION };

    #[test]
    fn a_worker_says_hello_and_then_what_became_of_connections() {
        let adopted = Frame::Adopted { through: 3, delay: 5000 };
        let returned = Frame::Returned { first: 4, count: 2 };
        let loan = Loan { slot: 1, number: 7 };
        let frames = [HELLO, adopted, returned, Frame::Released(loan)];
        let adopted = Answer::Adopted { through: 3, delay: Duration::from_millis(5) };
        let answers = [Answer::Hello, adopted, Answer::Returned(4, 2), Answer::Released(loan)];
        assert_eq!(read(&frames), Ok(answers.to_vec()));
    }

    #[test]
    fn another_version_is_told_apart_from_garbage() {
        assert_eq!(read(&[Frame::Hello { version: 9 }]), Err(Fault::Version(9)));
        assert_eq!(read(&[Frame::Adopted { through: 0, delay: 0 }]), Err(Fault::Garbage));
        assert_eq!(read(&[HELLO, HELLO]), Err(Fault::Garbage));
        let deliver =
            Frame::Deliver { first: 0, count: 1, sources: false, sent: Stamp(0), slot: 0 };
        assert_eq!(read(&[HELLO, deliver]), Err(Fault::Garbage));
    }
}
