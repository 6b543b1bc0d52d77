//! What a primary inherits from the one that it takes over from, for JavaScript.

use std::os::fd::AsFd as _;
use std::path::Path;

use napi::bindgen_prelude::{Error, Result, Uint8Array};
use napi_derive::napi;

use crate::primary::takeover::inherit::{self, Inheritance as Native};
use crate::primary::takeover::offer;
use crate::sys::socket;

/// See [`Native`].
#[napi]
pub struct Inheritance {
    /// Until a balancer has taken it.
    pub(super) native: Option<Native>,
}

#[napi]
impl Inheritance {
    /// The secrets, as `BalancerOptions.secrets`.
    #[napi(getter)]
    pub fn secrets(&self) -> Option<Uint8Array> {
        let native = self.native.as_ref()?;
        Some(native.secrets.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>().into())
    }

    /// Whether the kernel steers.
    #[napi(getter)]
    pub fn steered(&self) -> bool {
        self.native.as_ref().is_some_and(|native| native.steered)
    }

    /// How many slots it has.
    #[napi(getter)]
    pub fn slots(&self) -> u32 {
        self.native.as_ref().map_or(0, |native| native.slots)
    }

    /// Whether its sockets take IPv6 alone.
    #[napi(getter)]
    pub fn ipv6_only(&self) -> bool {
        let first = self.native.as_ref().and_then(|native| native.sockets.first());
        first.is_some_and(|socket| socket::is_ipv6_only(socket.as_fd()))
    }

    /// A copy of a listening socket, the caller's to close.
    #[napi]
    pub fn socket(&self) -> Result<i32> {
        let first = self.native.as_ref().and_then(|native| native.sockets.first());
        let first = first.ok_or_else(|| Error::from_reason("no socket"))?;
        let copy = first.as_fd().try_clone_to_owned();
        Ok(socket::release(copy.map_err(|error| Error::from_reason(error.to_string()))?))
    }
}

/// Why nobody could offer to be taken over at a path, if so.
#[napi]
pub fn offer_obstacle(path: String) -> Option<String> {
    offer::place(Path::new(&path)).err().map(|error| error.to_string())
}

/// Asks the primary that offers itself at a path; nothing if none does.
#[napi]
pub fn inherit(path: String) -> Result<Option<Inheritance>> {
    let inherited = inherit::inherit(Path::new(&path));
    let inherited = inherited.map_err(|error| Error::from_reason(error.to_string()))?;
    Ok(inherited.map(|native| Inheritance { native: Some(native) }))
}
