//! The worker's end of the channel. Called by the binding when the channel is readable; returns connections, which are
//! this process's own once they are acknowledged, and sockets to accept more from, in which this process counts for the
//! primary. Owns no thread and no loop.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::channel::clock::Stamp;
use crate::channel::counters;
use crate::channel::frame::{Frame, Loan, VERSION};
use crate::channel::passing::{self, PassingReader, Received};
use crate::sys::page::Page;

/// A connection as it arrived.
#[derive(Debug)]
pub struct Arrived {
    /// The connection.
    pub fd: OwnedFd,
    /// Where it comes from, when the peer is a proxy that said so.
    pub source: Option<SocketAddr>,
}

/// Connections of one slot that came together.
#[derive(Debug, Default)]
pub struct Delivery {
    /// The slot.
    pub slot: u32,
    /// Those of them that this process had descriptors for.
    pub connections: Vec<Arrived>,
}

/// What the primary sent.
#[derive(Debug)]
pub enum Message {
    /// Connections.
    Connections(Delivery),
    /// The connections of a slot are to be accepted from this socket.
    Listen {
        /// The loan of the slot's socket.
        loan: Loan,
        /// The socket, which listens.
        socket: OwnedFd,
        /// Its backlog.
        backlog: u32,
    },
    /// A socket is to be closed; [`Intake::released`] says that it is.
    Release(Loan),
    /// Nothing but what [`Intake::take_counters`] tells.
    Counters,
    /// To a primary: listening sockets.
    Inherited {
        /// The sockets.
        sockets: Vec<OwnedFd>,
        /// How many are still to come.
        left: u32,
    },
    /// To a primary: another one has taken over.
    Outrun,
}

enum Counters {
    None,
    Mapped(Arc<Page>),
    Taken,
}

/// One channel to the primary.
pub struct Intake {
    channel: OwnedFd,
    /// Where accepted connections are counted, until JavaScript has it.
    counters: Counters,
    reader: PassingReader,
    /// What was received and is not acknowledged yet: the last connection, and when the first was sent.
    received: Option<(u64, Stamp)>,
}

impl Intake {
    /// Takes the channel over and tells the primary that this side is ready.
    pub fn open(channel: OwnedFd) -> io::Result<Self> {
        passing::say(channel.as_fd(), Frame::Hello { version: VERSION })?;
        Ok(Self {
            channel,
            counters: Counters::None,
            reader: PassingReader::default(),
            received: None,
        })
    }

    /// The next frame as it is, for who expects something else than a worker does.
    pub fn receive_frame(&mut self) -> io::Result<Option<Received>> {
        self.reader.receive(self.channel.as_fd())
    }

    /// What comes next. No connection may be touched before [`acknowledge`](Self::acknowledge)
    /// has succeeded: until then the primary gives it to another worker if this one dies.
    ///
    /// [`io::ErrorKind::WouldBlock`]: nothing more for now. Any other error, or `None`: the channel
    /// is at its end.
    pub fn receive(&mut self) -> io::Result<Option<Message>> {
        let Some(received) = self.reader.receive(self.channel.as_fd())? else {
            return Ok(None);
        };
        match received.frame {
            Frame::Deliver { first, count, sent, slot, .. } => {
                let Received { fds, sources, .. } = received;
                let connections = self.delivered(first, count, sent, fds, sources)?;
                Ok(Some(Message::Connections(Delivery { slot, connections })))
            }
            Frame::Listen { loan, backlog } if (loan.slot as usize) < counters::SLOTS => {
                if let Some(socket) = self.lent(received.fds) {
                    return Ok(Some(Message::Listen { loan, socket, backlog }));
                }
                self.released(loan)?;
                Ok(Some(Message::Connections(Delivery::default())))
            }
            Frame::Release(loan) => Ok(Some(Message::Release(loan))),
            Frame::Inherit { count, left, .. } if received.fds.len() == usize::from(count) => {
                Ok(Some(Message::Inherited { sockets: received.fds, left }))
            }
            Frame::TakeOver => Ok(Some(Message::Outrun)),
            Frame::Counters => {
                // No descriptors, or no memory: the primary sees that nothing is counted.
                if let Some(page) = received.fds.into_iter().next() {
                    let _ = self.count_in(page);
                }
                Ok(Some(Message::Counters))
            }
            _ => Err(unexpected("no word of the primary's")),
        }
    }

    fn delivered(
        &mut self,
        first: u64,
        count: u16,
        sent: Stamp,
        fds: Vec<OwnedFd>,
        sources: Vec<Option<SocketAddr>>,
    ) -> io::Result<Vec<Arrived>> {
        let Some(arrived) = u16::try_from(fds.len()).ok().filter(|&n| n <= count) else {
            return Err(unexpected("more connections than announced"));
        };
        if arrived < count {
            // This process has no descriptors left. The kernel delivers those that fit, in order.
            let first = first + u64::from(arrived);
            self.say(Frame::Returned { first, count: count - arrived })?;
        }
        if arrived > 0 {
            let since = self.received.map_or(sent, |(_, since)| since);
            self.received = Some((first + u64::from(arrived) - 1, since));
        }
        let sources = sources.into_iter().chain(std::iter::repeat(None));
        Ok(fds.into_iter().zip(sources).map(|(fd, source)| Arrived { fd, source }).collect())
    }

    /// The socket that came with a listen; `None` when there were no descriptors for all of it.
    fn lent(&mut self, fds: Vec<OwnedFd>) -> Option<OwnedFd> {
        let [socket, counters] = <[OwnedFd; 2]>::try_from(fds).ok()?;
        self.count_in(counters).ok()?;
        Some(socket)
    }

    fn count_in(&mut self, page: OwnedFd) -> io::Result<()> {
        if matches!(self.counters, Counters::None) {
            self.counters = Counters::Mapped(Arc::new(Page::map(page)?));
        }
        Ok(())
    }

    /// Where to count; once, after the first socket or the page alone has come.
    pub fn take_counters(&mut self) -> Option<Arc<Page>> {
        match std::mem::replace(&mut self.counters, Counters::Taken) {
            Counters::Mapped(page) => Some(page),
            other => {
                self.counters = other;
                None
            }
        }
    }

    /// This is a primary, which serves all slots from now on.
    pub fn take_over(&mut self) -> io::Result<()> {
        self.say(Frame::TakeOver)
    }

    /// A socket is closed.
    pub fn released(&mut self, loan: Loan) -> io::Result<()> {
        self.say(Frame::Released(loan))
    }

    /// Takes over what was received: from here on the primary never gives it to another. After an
    /// error what was received must be closed untouched, and the channel with it.
    pub fn acknowledge(&mut self) -> io::Result<()> {
        let Some((through, since)) = self.received.take() else { return Ok(()) };
        self.say(Frame::Adopted { through, delay: since.until(Stamp::now()) })
    }

    /// Answers the primary. That it is gone is no error here: then nobody else holds what it
    /// delivered, so it is ours.
    fn say(&self, answer: Frame) -> io::Result<()> {
        match passing::say(self.channel.as_fd(), answer) {
            Err(error) if is_gone(&error) => Ok(()),
            // Not "nothing more for now", as this kind means to the caller.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::Error::other("the primary does not read its acknowledgements"))
            }
            result => result,
        }
    }
}

impl AsFd for Intake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

fn unexpected(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{descriptors, socket};

    fn channel() -> (OwnedFd, Intake) {
        let (near, far) = socket::pair().unwrap();
        (near, Intake::open(far).unwrap())
    }

    fn heard(near: &OwnedFd) -> Vec<Frame> {
        let mut reader = PassingReader::default();
        std::iter::from_fn(|| reader.receive(near.as_fd()).ok().flatten())
            .map(|r| match r.frame {
                // How long it took does not matter here.
                Frame::Adopted { through, .. } => Frame::Adopted { through, delay: 0 },
                frame => frame,
            })
            .collect()
    }

    fn arrived(intake: &mut Intake) -> Vec<Arrived> {
        match intake.receive().unwrap().unwrap() {
            Message::Connections(Delivery { connections, .. }) => connections,
            other => panic!("{other:?}"),
        }
    }

    /// Sends descriptors of which the test needs only one end, `fds` of the `count` that it says.
    fn deliver(near: &OwnedFd, first: u64, count: u16, fds: usize) {
        let (a, _b) = socket::pair().unwrap();
        let frame = Frame::Deliver { first, count, sources: false, sent: Stamp::now(), slot: 0 };
        descriptors::send(near.as_fd(), &frame.encode(), &vec![a.as_fd(); fds]).unwrap();
    }

    #[test]
    fn says_hello_first_and_acknowledges_when_told() {
        let (near, mut intake) = channel();
        assert_eq!(heard(&near), [Frame::Hello { version: VERSION }]);
        deliver(&near, 0, 2, 2);
        assert_eq!(arrived(&mut intake).len(), 2);
        assert_eq!(heard(&near), []);
        intake.acknowledge().unwrap();
        assert_eq!(heard(&near), [Frame::Adopted { through: 1, delay: 0 }]);
        intake.acknowledge().unwrap();
        assert_eq!(heard(&near), []);
        assert_eq!(intake.receive().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn tells_where_connections_come_from() {
        let (near, mut intake) = channel();
        let (a, _b) = socket::pair().unwrap();
        let sources = [None, Some(SocketAddr::from(([192, 0, 2, 1], 80)))];
        passing::deliver(near.as_fd(), 5, 0, &[a.as_fd(); 2], &sources).unwrap();
        let arrived = arrived(&mut intake);
        assert_eq!(arrived.iter().map(|one| one.source).collect::<Vec<_>>(), sources);
    }

    #[test]
    fn returns_what_did_not_arrive() {
        let (near, mut intake) = channel();
        heard(&near);
        deliver(&near, 7, 3, 1);
        assert_eq!(arrived(&mut intake).len(), 1);
        intake.acknowledge().unwrap();
        let answers =
            [Frame::Returned { first: 8, count: 2 }, Frame::Adopted { through: 7, delay: 0 }];
        assert_eq!(heard(&near), answers);
        deliver(&near, 10, 2, 0);
        assert!(arrived(&mut intake).is_empty());
        intake.acknowledge().unwrap();
        assert_eq!(heard(&near), [Frame::Returned { first: 10, count: 2 }]);
    }

    #[test]
    fn guarantee_4_exactly_one_owner_what_a_dead_primary_delivered_is_ours() {
        let (near, mut intake) = channel();
        deliver(&near, 0, 1, 1);
        drop(near);
        assert_eq!(arrived(&mut intake).len(), 1);
        intake.acknowledge().unwrap();
        assert!(intake.receive().unwrap().is_none());
    }

    #[test]
    fn guarantee_4_exactly_one_owner_what_cannot_be_acknowledged_is_not_adopted() {
        let (near, mut intake) = channel();
        let mut through = 0;
        while passing::say(intake.as_fd(), Frame::Adopted { through, delay: 0 }).is_ok() {
            through += 1;
        }
        deliver(&near, 0, 1, 1);
        assert_eq!(arrived(&mut intake).len(), 1);
        assert_eq!(intake.acknowledge().unwrap_err().kind(), io::ErrorKind::Other);
    }

    #[test]
    fn nonsense_ends_the_channel() {
        let (near, mut intake) = channel();
        passing::say(near.as_fd(), Frame::Adopted { through: 0, delay: 0 }).unwrap();
        assert_eq!(intake.receive().unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (near, mut intake) = channel();
        deliver(&near, 0, 1, 2);
        assert_eq!(intake.receive().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn is_lent_a_socket_and_gives_it_back() {
        let (near, mut intake) = channel();
        heard(&near);
        let (socket, _) = socket::pair().unwrap();
        let page = Page::new().unwrap();
        let loan = Loan { slot: 3, number: 5 };
        let listen = Frame::Listen { loan, backlog: 9 };
        passing::give(near.as_fd(), listen, &[socket.as_fd(), page.as_fd()]).unwrap();
        let lent = intake.receive().unwrap().unwrap();
        assert!(
            matches!(lent, Message::Listen { loan: l, backlog: 9, .. } if l == loan),
            "{lent:?}"
        );
        assert!(intake.take_counters().is_some());
        assert!(intake.take_counters().is_none());
        passing::say(near.as_fd(), Frame::Release(loan)).unwrap();
        let release = intake.receive().unwrap().unwrap();
        assert!(matches!(release, Message::Release(l) if l == loan), "{release:?}");
        intake.released(loan).unwrap();
        assert_eq!(heard(&near), [Frame::Released(loan)]);
    }

    #[test]
    fn is_told_to_count_again_when_the_page_did_not_arrive() {
        let (near, mut intake) = channel();
        passing::say(near.as_fd(), Frame::Counters).unwrap();
        assert!(matches!(intake.receive().unwrap(), Some(Message::Counters)));
        assert!(intake.take_counters().is_none());
        let page = counters::page().unwrap();
        assert_eq!(counters::open(&page), None);
        for _ in 0..2 {
            passing::give(near.as_fd(), Frame::Counters, &[page.as_fd()]).unwrap();
            assert!(matches!(intake.receive().unwrap(), Some(Message::Counters)));
        }
        intake.take_counters().unwrap().set(counters::OPEN, 7.0);
        assert_eq!(counters::open(&page), Some(7));
        assert!(intake.take_counters().is_none());
    }

    #[test]
    fn a_socket_that_did_not_arrive_is_released_at_once() {
        let (near, mut intake) = channel();
        heard(&near);
        let loan = Loan { slot: 1, number: 5 };
        passing::say(near.as_fd(), Frame::Listen { loan, backlog: 9 }).unwrap();
        assert!(arrived(&mut intake).is_empty());
        assert_eq!(heard(&near), [Frame::Released(loan)]);
    }
}
