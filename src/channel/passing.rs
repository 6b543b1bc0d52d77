//! Frames and descriptors over a non-blocking unix stream socket. Knows neither tokio nor libuv: a
//! call either does its work at once or says [`io::ErrorKind::WouldBlock`].

use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::clock::Stamp;
use super::frame::{FRAME_LEN, Frame, FrameReader, MAX_BATCH, Malformed};
use super::source::{self, SOURCE_LEN};
use crate::sys::descriptors;

/// Bytes of the longest message.
const MESSAGE_MAX: usize = FRAME_LEN + MAX_BATCH as usize * SOURCE_LEN;

/// Says something that goes with no descriptors.
pub fn say(channel: BorrowedFd<'_>, frame: Frame) -> io::Result<()> {
    send(channel, &frame.encode(), &[])
}

/// Says something that goes with these descriptors, at most [`MAX_BATCH`].
pub fn give(channel: BorrowedFd<'_>, frame: Frame, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    send(channel, &frame.encode(), fds)
}

/// Sends connections of a slot, whose first has the number `first`, and where they come from if a proxy said so:
/// for all of them, or an empty slice where there is nothing to say.
///
/// # Panics
/// On more connections than [`MAX_BATCH`].
pub fn deliver(
    channel: BorrowedFd<'_>,
    slot: u32,
    first: u64,
    fds: &[BorrowedFd<'_>],
    sources: &[Option<SocketAddr>],
) -> io::Result<()> {
    let count = u16::try_from(fds.len()).unwrap_or(u16::MAX);
    let sources_follow = !sources.is_empty();
    let frame = Frame::Deliver { first, count, sources: sources_follow, sent: Stamp::now(), slot };
    let mut bytes = [0; MESSAGE_MAX];
    bytes[..FRAME_LEN].copy_from_slice(&frame.encode());
    let mut length = FRAME_LEN;
    for &from in sources {
        bytes[length..][..SOURCE_LEN].copy_from_slice(&source::encode(from));
        length += SOURCE_LEN;
    }
    send(channel, &bytes[..length], fds)
}

/// The descriptors leave with the first byte. Unix stream sockets of Linux take so short a message whole
/// or not at all; where one took less, the stream would be out of step, so that is an error.
fn send(channel: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    match descriptors::send(channel, bytes, fds)? {
        sent if sent == bytes.len() => Ok(()),
        sent => Err(io::Error::other(format!("the channel took {sent} of {} bytes", bytes.len()))),
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
    /// Where the connections come from, for all that the frame speaks of; empty if it says nothing.
    pub sources: Vec<Option<SocketAddr>>,
}

/// Reads frames one at a time, each with its own descriptors.
#[derive(Default)]
pub struct PassingReader {
    frames: FrameReader,
    fds: Vec<OwnedFd>,
    /// A deliver frame whose source records are not all here yet.
    delivering: Option<(Frame, u16)>,
    record: [u8; SOURCE_LEN],
    filled: usize,
    sources: Vec<Option<SocketAddr>>,
}

impl PassingReader {
    /// The next frame, or `None` at the end of the stream.
    ///
    /// Never reads past the frame and its records: a read that spans two messages would leave unclear
    /// which descriptors are missing when some are.
    pub fn receive(&mut self, channel: BorrowedFd<'_>) -> io::Result<Option<Received>> {
        loop {
            let mut bytes = [0; MESSAGE_MAX];
            let missing = match self.delivering {
                None => self.frames.missing(),
                Some((_, count)) => {
                    (usize::from(count) - self.sources.len()) * SOURCE_LEN - self.filled
                }
            };
            let read = match descriptors::receive(channel, &mut bytes[..missing], &mut self.fds) {
                Ok(0) => return Ok(None),
                Ok(read) => read,
                // The peer closed before it had read all that we sent. All that it sent is read.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            };
            let frame = self.take(&bytes[..read]);
            let frame = frame.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if let Some(frame) = frame {
                let fds = std::mem::take(&mut self.fds);
                return Ok(Some(Received {
                    frame,
                    fds,
                    sources: std::mem::take(&mut self.sources),
                }));
            }
        }
    }

    /// Takes all of `bytes`; returns the frame that is complete with them.
    fn take(&mut self, mut bytes: &[u8]) -> Result<Option<Frame>, Malformed> {
        let Some((frame, count)) = self.delivering else {
            let frame = self.frames.next(&mut bytes)?;
            if let Some(frame @ Frame::Deliver { count, sources: true, .. }) = frame {
                self.delivering = Some((frame, count));
                return Ok(None);
            }
            return Ok(frame);
        };
        for &byte in bytes {
            self.record[self.filled] = byte;
            self.filled += 1;
            if self.filled == SOURCE_LEN {
                self.sources.push(source::decode(&self.record)?);
                self.filled = 0;
            }
        }
        if self.sources.len() < usize::from(count) {
            return Ok(None);
        }
        self.delivering = None;
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    fn pairs(n: usize) -> (Vec<UnixStream>, Vec<UnixStream>) {
        (0..n).map(|_| UnixStream::pair().unwrap()).unzip()
    }

    fn from(n: u16) -> SocketAddr {
        ([192, 0, 2, 1], n).into()
    }

    #[test]
    fn every_descriptor_arrives_in_order_with_its_frame() {
        let (near, far) = socket::pair().unwrap();
        let (here, there) = pairs(usize::from(MAX_BATCH) + 1);
        let borrowed: Vec<_> = there.iter().map(|s| s.as_fd()).collect();
        let sources: Vec<_> = (0..MAX_BATCH).map(|n| (n % 3 > 0).then(|| from(n))).collect();
        deliver(near.as_fd(), 3, 0, &borrowed[..1], &[]).unwrap();
        deliver(near.as_fd(), 3, 1, &borrowed[1..], &sources).unwrap();
        drop(there);

        let mut reader = PassingReader::default();
        let mut received = Vec::new();
        for (first, sources) in [(0, vec![]), (1, sources)] {
            let got = reader.receive(far.as_fd()).unwrap().unwrap();
            let count = if first == 0 { 1 } else { MAX_BATCH };
            let Frame::Deliver { sent, .. } = got.frame else { panic!("{:?}", got.frame) };
            assert!(sent.until(Stamp::now()) < 60_000_000);
            let announced = Frame::Deliver { first, count, sources: first == 1, sent, slot: 3 };
            assert_eq!(got.frame, announced);
            assert_eq!(got.sources, sources);
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
            .find_map(|through| say(near.as_fd(), Frame::Adopted { through, delay: 0 }).err())
            .expect("a socket buffer has an end");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_frame_in_pieces_keeps_its_descriptors_and_sources() {
        let (near, far) = socket::pair().unwrap();
        let (mut here, there) = UnixStream::pair().unwrap();
        let frame = Frame::Deliver { first: 9, count: 1, sources: true, sent: Stamp(7), slot: 0 };
        let bytes = [&frame.encode()[..], &source::encode(Some(from(7)))].concat();
        let mut reader = PassingReader::default();
        descriptors::send(near.as_fd(), &bytes[..1], &[there.as_fd()]).unwrap();
        drop(there);
        for byte in &bytes[1..] {
            assert_eq!(reader.receive(far.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            descriptors::send(near.as_fd(), &[*byte], &[]).unwrap();
        }
        let got = reader.receive(far.as_fd()).unwrap().unwrap();
        assert_eq!((got.frame, got.fds.len()), (frame, 1));
        assert_eq!(got.sources, [Some(from(7))]);
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
