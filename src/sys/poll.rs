//! Readiness of a descriptor on Node's own event loop, through libuv's `uv_poll_t`.
//!
//! libuv is part of the `node` executable and exports a stable interface; its functions are looked
//! up when first needed, so that the crate links and tests without Node.

use std::ffi::{CStr, c_int, c_void};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;
use std::sync::OnceLock;

use nix::libc;

use super::callback_scope::EventLoop;

/// libuv's name for the handle type, and for "readable".
const UV_POLL: c_int = 8;
const UV_READABLE: c_int = 1;

/// A `uv_poll_t` or any other `uv_handle_t`: only libuv looks inside.
#[repr(C)]
struct Handle {
    _opaque: [u8; 0],
}

type OnPoll = unsafe extern "C" fn(*mut Handle, c_int, c_int);
type OnClose = unsafe extern "C" fn(*mut Handle);

/// The functions of libuv that are used here.
struct Uv {
    handle_size: unsafe extern "C" fn(c_int) -> usize,
    handle_set_data: unsafe extern "C" fn(*mut Handle, *mut c_void),
    handle_get_data: unsafe extern "C" fn(*const Handle) -> *mut c_void,
    poll_init: unsafe extern "C" fn(*mut c_void, *mut Handle, c_int) -> c_int,
    poll_start: unsafe extern "C" fn(*mut Handle, c_int, OnPoll) -> c_int,
    unref: unsafe extern "C" fn(*mut Handle),
    close: unsafe extern "C" fn(*mut Handle, OnClose),
}

fn uv() -> io::Result<&'static Uv> {
    static UV: OnceLock<Option<Uv>> = OnceLock::new();
    UV.get_or_init(|| {
        fn symbol(name: &CStr) -> Option<NonNull<c_void>> {
            // SAFETY: the name ends in NUL, and looking a symbol up has no side effect here.
            NonNull::new(unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) })
        }
        /// # Safety
        /// `F` must be the type of the C function of that name.
        unsafe fn function<F: Copy>(name: &CStr) -> Option<F> {
            const { assert!(mem::size_of::<F>() == mem::size_of::<*mut c_void>()) };
            // SAFETY: `F` is a function pointer by contract, and of a pointer's size by the check.
            symbol(name).map(|found| unsafe { mem::transmute_copy::<_, F>(&found.as_ptr()) })
        }
        // SAFETY: the types above are those of libuv 1.x's `uv.h`.
        unsafe {
            Some(Uv {
                handle_size: function(c"uv_handle_size")?,
                handle_set_data: function(c"uv_handle_set_data")?,
                handle_get_data: function(c"uv_handle_get_data")?,
                poll_init: function(c"uv_poll_init")?,
                poll_start: function(c"uv_poll_start")?,
                unref: function(c"uv_unref")?,
                close: function(c"uv_close")?,
            })
        }
    })
    .as_ref()
    .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "this process exports no libuv"))
}

/// What the handle's data points at; lives until libuv's close callback.
struct Data {
    /// The memory of the `uv_poll_t`, of the size that libuv asks for, aligned for any of its types.
    _memory: Box<[u128]>,
    on_ready: Box<dyn FnMut()>,
}

/// Calls a function on the event loop's thread whenever a descriptor is readable or at its end.
/// Does not keep the loop alive. Dropping it ends the polling at once; the descriptor may be closed
/// right after. Must be dropped on the thread of its loop.
pub struct Poll {
    handle: NonNull<Handle>,
    uv: &'static Uv,
}

impl Poll {
    /// Starts polling `fd`, which must stay open until the result is dropped. (Closed earlier it
    /// would only never become readable.)
    pub fn start(
        event_loop: &EventLoop,
        fd: BorrowedFd<'_>,
        on_ready: Box<dyn FnMut()>,
    ) -> io::Result<Self> {
        let uv = uv()?;
        // SAFETY: asks for a number only.
        let size = unsafe { (uv.handle_size)(UV_POLL) };
        let mut memory = vec![0_u128; size.div_ceil(mem::size_of::<u128>())].into_boxed_slice();
        let handle = memory.as_mut_ptr().cast::<Handle>();
        // SAFETY: `handle` has the size libuv asked for and is not in use; the loop is this
        // thread's, since `EventLoop` cannot leave it. When `init` fails libuv keeps no reference to the memory.
        check(unsafe { (uv.poll_init)(event_loop.as_ptr(), handle, fd.as_raw_fd()) })?;
        let data = Box::new(Data { _memory: memory, on_ready });
        // SAFETY: the handle is initialised from here on. Its memory is owned by `data` and freed
        // by `closed` alone, which libuv calls once, after `close`; moving the box moved no memory.
        unsafe {
            (uv.handle_set_data)(handle, Box::into_raw(data).cast());
            (uv.unref)(handle);
        }
        // SAFETY: a pointer into a non-empty allocation is not null.
        let poll = Self { handle: unsafe { NonNull::new_unchecked(handle) }, uv };
        // SAFETY: initialised, not closing. On failure `poll` is dropped, which closes the handle.
        check(unsafe { (uv.poll_start)(handle, UV_READABLE, ready) })?;
        Ok(poll)
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        // SAFETY: the handle is open: nothing but this closes it. `close` stops the polling before
        // it returns, and calls `closed` in a later turn of the loop.
        unsafe { (self.uv.close)(self.handle.as_ptr(), closed) };
    }
}

fn check(status: c_int) -> io::Result<()> {
    // libuv's errors on unix are negated errnos.
    if status < 0 { Err(io::Error::from_raw_os_error(-status)) } else { Ok(()) }
}

unsafe extern "C" fn ready(handle: *mut Handle, _status: c_int, _events: c_int) {
    let Ok(uv) = uv() else { return };
    // SAFETY: libuv calls this only for an open handle, whose data `start` has set. The box is not
    // freed during the call even if the callback drops the `Poll`: `closed` runs in a later turn,
    // and libuv does not call `ready` from within itself.
    unsafe {
        let data = (uv.handle_get_data)(handle).cast::<Data>();
        ((*data).on_ready)();
    }
}

unsafe extern "C" fn closed(handle: *mut Handle) {
    let Ok(uv) = uv() else { return };
    // SAFETY: the last call libuv makes for the handle, so the box that `start` leaked is nobody
    // else's. It frees the handle's memory, which libuv allows here.
    drop(unsafe { Box::from_raw((uv.handle_get_data)(handle).cast::<Data>()) });
}
