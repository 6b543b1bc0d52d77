//! The least that anybody who accepts connections must do.

use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use sticky_listen::sys::socket;

use crate::{Outcome, addresses, load};

/// How soon the end is noticed.
const TURN_MS: u16 = 50;

/// Accepts and closes for that long.
pub fn measure(duration: Duration) -> Outcome<Value> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    socket::listen(listener.as_fd(), i32::MAX)?;
    let port = listener.local_addr()?.port();
    let sources = addresses::in_slots(500, 1, |_| true);
    let over = AtomicBool::new(false);
    let (accepted, time) = thread::scope(|scope| {
        let accepting = scope.spawn(|| accept(&listener, &over));
        let connected = load::connect(port, &sources, duration);
        over.store(true, Ordering::Relaxed);
        let result = accepting.join().map_err(|_| "the accepting thread panicked")?;
        Ok::<_, Box<dyn std::error::Error>>((connected?, result?)).map(|(_, result)| result)
    })?;
    Ok(json!({ "connections": accepted, "cpuMicros": time.as_micros() }))
}

fn accept(listener: &TcpListener, over: &AtomicBool) -> Result<(u64, Duration), nix::Error> {
    let mut accepted = 0;
    while !over.load(Ordering::Relaxed) {
        poll(&mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)], PollTimeout::from(TURN_MS))?;
        while let Ok(connection) = socket::accept(listener.as_fd()) {
            drop(connection);
            accepted += 1;
        }
    }
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok((accepted, time.into()))
}
