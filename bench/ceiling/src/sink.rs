//! The workers: a process of its own, as they are, so that a connection's last copy is closed here and
//! not at the primary's expense. One thread serves all channels.

use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::{io, mem};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use sticky_listen::channel::frame::MAX_BATCH;
use sticky_listen::channel::passing::{self, PassingReader};
use sticky_listen::sys::socket;
use sticky_listen::worker::intake::{Delivery, Intake, Message};

use crate::Outcome;

/// How long connections stay open when none follow: longer than the primary needs to hear of their
/// adoption.
const LINGER_MS: u16 = 1;

/// Starts the workers of these channels. They end when the channels do.
pub fn start(channels: &[OwnedFd]) -> Outcome<Child> {
    let (near, far) = socket::pair()?;
    let child = Command::new(std::env::current_exe()?)
        .arg("--sink")
        .stdin(Stdio::from(far))
        .stdout(Stdio::null())
        .spawn()?;
    for batch in channels.chunks(usize::from(MAX_BATCH)) {
        let fds: Vec<_> = batch.iter().map(OwnedFd::as_fd).collect();
        passing::deliver(near.as_fd(), 0, 0, &fds, &[])?;
    }
    Ok(child)
}

/// Is the workers.
pub fn run() -> Outcome<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    let mut intakes = Vec::new();
    for channel in channels()? {
        let intake = Intake::open(channel)?;
        epoll.add(&intake, EpollEvent::new(EpollFlags::EPOLLIN, intakes.len() as u64))?;
        intakes.push(Some(intake));
    }
    let mut open = intakes.len();
    let mut adopted: Vec<OwnedFd> = Vec::new();
    let mut events = [EpollEvent::empty(); 64];
    while open > 0 {
        let wait = if adopted.is_empty() { EpollTimeout::NONE } else { LINGER_MS.into() };
        let ready = epoll.wait(&mut events, wait)?;
        let before = mem::take(&mut adopted);
        for event in &events[..ready] {
            let place = &mut intakes[usize::try_from(event.data())?];
            let Some(intake) = place else { continue };
            match intake.receive() {
                Ok(Some(Message::Connections(Delivery { connections, .. }))) => {
                    intake.acknowledge()?;
                    adopted.extend(connections.into_iter().map(|connection| connection.fd));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Its end; or a socket to accept from, which nobody lends where connections are handed over.
                _ => {
                    *place = None;
                    open -= 1;
                }
            }
        }
        drop(before);
    }
    Ok(())
}

/// The channels that came through stdin.
fn channels() -> Outcome<Vec<OwnedFd>> {
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    let mut reader = PassingReader::default();
    let mut channels = Vec::new();
    loop {
        match reader.receive(stdin.as_fd()) {
            Ok(Some(received)) => channels.extend(received.fds),
            Ok(None) => return Ok(channels),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
