//! Frames and descriptors over a non-blocking unix stream socket. Knows neither tokio nor libuv: a
//! call either does its work at once or says [`io::ErrorKind::WouldBlock`].

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::frame::{FRAME_LEN, Frame, FrameReader, Malformed};
use crate::sys::descriptors;

/// Sends a frame with the descriptors it speaks of. The descriptors leave with the frame's first
/// byte. Unix stream sockets of Linux take so short a message whole or not at all; where one took
/// less, the stream would be out of step, so that is an error.
pub fn send(channel: BorrowedFd<'_>, frame: Frame, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    match descriptors::send(channel, &frame.encode(), fds)? {
        FRAME_LEN => Ok(()),
        sent => Err(io::Error::other(format!("the channel took {sent} of {FRAME_LEN} bytes"))),
    }
}

/// A frame as it arrived.
#[derive(Debug)]
pub struct Received {
    /// What was said.
    pub frame: Frame,
    /// The descriptors that came with it, ours to close. Fewer than the frame speaks of when this
    /// process had no room for more: those at the end are missing.
    pub fds: Vec<OwnedFd>,
}

/// Reads frames one at a time, each with its own descriptors.
#[derive(Default)]
pub struct PassingReader {
    frames: FrameReader,
    fds: Vec<OwnedFd>,
}

impl PassingReader {
    /// The next frame, or `None` at the end of the stream.
    ///
    /// Never reads past the frame: a read that spans two messages would leave unclear which
    /// descriptors are missing when some are.
    pub fn receive(&mut self, channel: BorrowedFd<'_>) -> io::Result<Option<Received>> {
        loop {
            let mut bytes = [0; FRAME_LEN];
            let room = &mut bytes[..self.frames.missing()];
            let read = match descriptors::receive(channel, room, &mut self.fds) {
                Ok(0) => return Ok(None),
                Ok(read) => read,
                // The peer closed before it had read all that we sent. All that it sent is read.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            };
            match self.frames.next(&mut &bytes[..read]) {
                Ok(None) => {}
                Ok(Some(frame)) => {
                    return Ok(Some(Received { frame, fds: std::mem::take(&mut self.fds) }));
                }
                Err(Malformed) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, Malformed));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::frame::MAX_BATCH;
    use crate::sys::socket;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    fn pairs(n: usize) -> (Vec<UnixStream>, Vec<UnixStream>) {
        (0..n).map(|_| UnixStream::pair().unwrap()).unzip()
    }

    #[test]
    fn every_descriptor_arrives_in_order_with_its_frame() {
        let (near, far) = socket::pair().unwrap();
        let (here, there) = pairs(usize::from(MAX_BATCH) + 1);
        let borrowed: Vec<_> = there.iter().map(|s| s.as_fd()).collect();
        let frames =
            [Frame::Deliver { first: 0, count: 1 }, Frame::Deliver { first: 1, count: MAX_BATCH }];
        send(near.as_fd(), frames[0], &borrowed[..1]).unwrap();
        send(near.as_fd(), frames[1], &borrowed[1..]).unwrap();
        drop(there);

        let mut reader = PassingReader::default();
        let mut received = Vec::new();
        for frame in frames {
            let got = reader.receive(far.as_fd()).unwrap().unwrap();
            assert_eq!(got.frame, frame);
            received.extend(got.fds);
        }
        assert_eq!(received.len(), here.len());
        for (n, (mut here, fd)) in here.into_iter().zip(received).enumerate() {
            UnixStream::from(fd).write_all(&[u8::try_from(n).unwrap()]).unwrap();
            let mut byte = [0];
            here.read_exact(&mut byte).unwrap();
            assert_eq!(usize::from(byte[0]), n);
        }
    }

    #[test]
    fn an_empty_channel_would_block_and_a_closed_one_ends() {
        let (near, far) = socket::pair().unwrap();
        let mut reader = PassingReader::default();
        let error = reader.receive(far.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(near);
        assert!(reader.receive(far.as_fd()).unwrap().is_none());
    }

    #[test]
    fn a_full_channel_would_block() {
        let (near, _far) = socket::pair().unwrap();
        let error = (0..1_000_000)
            .find_map(|through| send(near.as_fd(), Frame::Adopted { through }, &[]).err())
            .expect("a socket buffer has an end");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_frame_in_pieces_keeps_its_descriptors() {
        let (near, far) = socket::pair().unwrap();
        let (mut here, there) = UnixStream::pair().unwrap();
        let bytes = Frame::Deliver { first: 9, count: 1 }.encode();
        descriptors::send(near.as_fd(), &bytes[..5], &[there.as_fd()]).unwrap();
        drop(there);
        let mut reader = PassingReader::default();
        assert_eq!(reader.receive(far.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        descriptors::send(near.as_fd(), &bytes[5..], &[]).unwrap();
        let got = reader.receive(far.as_fd()).unwrap().unwrap();
        assert_eq!((got.frame, got.fds.len()), (Frame::Deliver { first: 9, count: 1 }, 1));
        drop(got);
        // Dropping what was received closes it: the peer sees the end.
        assert_eq!(here.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn garbage_is_an_error() {
        let (near, far) = socket::pair().unwrap();
        descriptors::send(near.as_fd(), &[0xff; FRAME_LEN], &[]).unwrap();
        let error = PassingReader::default().receive(far.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
