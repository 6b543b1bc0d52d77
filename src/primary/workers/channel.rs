//! The primary's end of a channel to a worker: writes what goes to it, reads what it answers. Called under the
//! balancer's lock; what has to be waited for, [`channel_watch`](super::channel_watch) waits for.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use tokio::sync::Notify;

use super::answers::{Answer, AnswerReader, Fault};
use crate::channel::frame::{Frame, VERSION};
use crate::channel::passing;
use crate::sys::credentials::{self, Speaker};
use crate::sys::socket;

/// A connection on its way to a worker.
#[derive(Debug)]
pub struct Connection {
    /// The connection.
    pub fd: OwnedFd,
    /// Where it comes from, when the peer is a proxy that said so. Few are proxied, and many may wait.
    pub source: Option<Box<SocketAddr>>,
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What to do after an attempt to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way.
    Yes,
    /// The socket is full; it will say when it has room.
    Full,
    /// The system has no room for more descriptors in flight; nothing will say when it has.
    Exhausted,
}

/// How a channel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The worker closed it: it died, or stopped taking connections.
    Closed,
    /// The worker said no hello in time.
    Silent,
    /// The worker said what cannot be.
    Fault(Fault),
    /// The system refused to send, or to watch the channel.
    Broken,
}

/// More than one process has spoken, or the system does not tell which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Several;

/// A channel.
pub struct WorkerChannel {
    socket: Arc<OwnedFd>,
    answers: AnswerReader,
    /// Whether the system was asked who speaks, until there was a hello.
    asking: bool,
    /// Who has spoken while the system was asked, if anybody has: one process, or several.
    speaker: Option<Result<Speaker, Several>>,
    /// Says that the socket is full.
    full: Arc<Notify>,
    end: Option<End>,
}

impl WorkerChannel {
    /// The primary's end of a channel on this socket.
    pub fn new(socket: OwnedFd) -> Self {
        let asking = credentials::ask(socket.as_fd(), true).is_ok();
        Self {
            socket: Arc::new(socket),
            answers: AnswerReader::default(),
            asking,
            speaker: None,
            full: Arc::default(),
            end: None,
        }
    }

    /// What there is to wait for: the socket, and to be told that it is full.
    pub fn watched(&self) -> (Arc<OwnedFd>, Arc<Notify>) {
        (Arc::clone(&self.socket), Arc::clone(&self.full))
    }

    /// Whether the worker has said hello.
    pub fn greeted(&self) -> bool {
        self.answers.greeted()
    }

    /// The process that has said hello, if it was one alone and the system tells.
    pub fn speaker(&self) -> Option<Speaker> {
        self.speaker.and_then(Result::ok)
    }

    /// How it ended, once it has.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Gives the channel up. Whoever waits for its end is woken.
    pub fn give_up(&mut self, end: End) {
        self.end.get_or_insert(end);
        let _ = socket::shutdown(self.socket.as_fd());
    }

    /// Sends a batch of connections of a slot, whose first has the number `first`.
    pub fn send(&mut self, slot: u32, first: u64, connections: &[&Connection]) -> Sent {
        let fds: Vec<_> = connections.iter().map(|connection| connection.as_fd()).collect();
        let sources: Vec<_> = if connections.iter().any(|connection| connection.source.is_some()) {
            connections.iter().map(|connection| connection.source.as_deref().copied()).collect()
        } else {
            Vec::new()
        };
        let sent = passing::deliver(self.socket.as_fd(), slot, first, &fds, &sources);
        self.outcome(sent)
    }

    /// Says something, with these descriptors.
    pub fn say(&mut self, frame: Frame, fds: &[BorrowedFd<'_>]) -> Sent {
        let sent = passing::give(self.socket.as_fd(), frame, fds);
        self.outcome(sent)
    }

    fn outcome(&mut self, sent: io::Result<()>) -> Sent {
        let Err(error) = sent else { return Sent::Yes };
        if error.kind() == io::ErrorKind::WouldBlock {
            self.full.notify_one();
            return Sent::Full;
        }
        match Errno::from_raw(error.raw_os_error().unwrap_or(0)) {
            Errno::ETOOMANYREFS | Errno::ENOBUFS | Errno::ENOMEM | Errno::EINTR => Sent::Exhausted,
            // The worker is gone. Its end is noticed after the acknowledgements that are still in the socket.
            Errno::EPIPE | Errno::ECONNRESET => Sent::Full,
            _ => {
                self.give_up(End::Broken);
                Sent::Full
            }
        }
    }

    /// What the worker has said since the last time, or some of it. Nothing: nothing more for now, or the end.
    pub fn read(&mut self) -> Vec<Answer> {
        let mut said = Vec::new();
        let mut bytes = [0; 1024];
        // After the end nothing counts that was said before.
        if self.end.is_some() {
            return said;
        }
        loop {
            let read = match self.read_into(&mut bytes) {
                Err(Errno::EINTR) => continue,
                Err(Errno::EAGAIN) => return said,
                Ok(0) | Err(_) => {
                    self.give_up(End::Closed);
                    return said;
                }
                Ok(read) => read,
            };
            let mut input = &bytes[..read];
            loop {
                match self.answers.next(&mut input) {
                    Ok(None) => break,
                    Ok(Some(answer)) => said.push(answer),
                    Err(fault) => {
                        if let Fault::Version(_) = fault {
                            self.say(Frame::Hello { version: VERSION }, &[]);
                        }
                        self.give_up(End::Fault(fault));
                        return said;
                    }
                }
            }
            if self.asking && self.answers.greeted() {
                self.asking = credentials::ask(self.socket.as_fd(), false).is_err();
            }
            // A piece of an answer is no answer: what is behind it may be the end.
            if !said.is_empty() {
                return said;
            }
        }
    }

    fn read_into(&mut self, bytes: &mut [u8]) -> nix::Result<usize> {
        if !self.asking {
            return nix::unistd::read(&self.socket, bytes);
        }
        let (read, speaker) = credentials::read(self.socket.as_fd(), bytes)?;
        let now = speaker.ok_or(Several);
        let before = *self.speaker.get_or_insert(now);
        if before != now {
            self.speaker = Some(Err(Several));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn said(far: &OwnedFd, bytes: &[u8]) {
        assert_eq!(nix::unistd::write(far, bytes), Ok(bytes.len()));
    }

    #[test]
    fn what_was_said_before_the_end_is_read_first() {
        let (near, far) = socket::pair().unwrap();
        let mut channel = WorkerChannel::new(near);
        assert_eq!((channel.read(), channel.greeted(), channel.end()), (vec![], false, None));
        said(&far, &Frame::Hello { version: VERSION }.encode());
        said(&far, &Frame::Adopted { through: 0, delay: 7 }.encode());
        drop(far);
        let adopted = Answer::Adopted { through: 0, delay: Duration::from_micros(7) };
        assert_eq!((channel.read(), channel.end()), (vec![Answer::Hello, adopted], None));
        assert_eq!((channel.read(), channel.end()), (vec![], Some(End::Closed)));
    }

    #[test]
    fn an_end_in_the_middle_of_a_word_is_an_end() {
        let (near, far) = socket::pair().unwrap();
        let mut channel = WorkerChannel::new(near);
        said(&far, &Frame::Hello { version: VERSION }.encode()[..5]);
        assert_eq!((channel.read(), channel.end()), (vec![], None));
        said(&far, &[0]);
        drop(far);
        assert_eq!((channel.read(), channel.end()), (vec![], Some(End::Closed)));
    }

    #[test]
    fn another_version_is_told_which_one_this_is() {
        let (near, far) = socket::pair().unwrap();
        let mut channel = WorkerChannel::new(near);
        said(&far, &Frame::Hello { version: VERSION + 1 }.encode());
        let fault = Some(End::Fault(Fault::Version(VERSION + 1)));
        assert_eq!((channel.read(), channel.end()), (vec![], fault));
        let answer = passing::PassingReader::default().receive(far.as_fd()).unwrap().unwrap();
        assert_eq!(answer.frame, Frame::Hello { version: VERSION });
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_hello_of_two_processes_is_nobodys() {
        let hello = Frame::Hello { version: VERSION }.encode();
        let by_another = |far: &OwnedFd, byte: u8| {
            let printed = format!("\\{byte:03o}");
            let mut printf = std::process::Command::new("printf");
            let printf = printf.arg(printed).stdout(far.try_clone().unwrap());
            assert!(printf.status().unwrap().success());
        };
        for split in [0, 1, hello.len() - 1] {
            let (near, far) = socket::pair().unwrap();
            let mut channel = WorkerChannel::new(near);
            said(&far, &hello[..split]);
            let _ = channel.read();
            by_another(&far, hello[split]);
            let _ = channel.read();
            said(&far, &hello[split + 1..]);
            let _ = channel.read();
            assert_eq!((channel.greeted(), channel.speaker()), (true, None));
        }
        let (near, far) = socket::pair().unwrap();
        let mut channel = WorkerChannel::new(near);
        said(&far, &hello);
        let _ = channel.read();
        assert_eq!(channel.speaker().map(|speaker| speaker.pid), Some(std::process::id()));
    }

    #[test]
    fn nothing_counts_after_nonsense() {
        let (near, far) = socket::pair().unwrap();
        let mut channel = WorkerChannel::new(near);
        said(&far, &[0xff; 16]);
        said(&far, &Frame::Hello { version: VERSION }.encode());
        let fault = Some(End::Fault(Fault::Garbage));
        assert_eq!((channel.read(), channel.end()), (vec![], fault));
        channel.give_up(End::Broken);
        assert_eq!((channel.read(), channel.end()), (vec![], fault));
    }
}
