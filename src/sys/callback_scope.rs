//! Entering JavaScript from a callback of the event loop, as Node's own handles do: with a handle
//! scope, an async context, and the tick and microtask queues drained afterwards.
//!
//! Belongs to the binding in all but its `unsafe`, which is why it stands here and knows Node-API.

use std::ffi::c_void;
use std::ptr;

use napi::{Env, Result, check_status, sys};

/// The running event loop of an environment, on its own thread.
pub struct EventLoop(*mut c_void);

impl EventLoop {
    /// The loop of `env`.
    pub fn of(env: &Env) -> Result<Self> {
        let mut event_loop = ptr::null_mut();
        // SAFETY: an `Env` is valid on its thread, and cannot leave it; the out pointer is ours.
        check_status!(unsafe { sys::napi_get_uv_event_loop(env.raw(), &raw mut event_loop) })?;
        Ok(Self(event_loop.cast()))
    }

    pub(super) fn as_ptr(&self) -> *mut c_void {
        self.0
    }
}

/// What async hooks see as the origin of our callbacks.
pub struct CallbackContext {
    env: sys::napi_env,
    context: sys::napi_async_context,
}

impl CallbackContext {
    /// A context with this resource name.
    pub fn new(env: &Env, name: &str) -> Result<Self> {
        let name = env.create_string(name)?;
        let name = napi::JsValue::raw(&name);
        let mut context = ptr::null_mut();
        // SAFETY: `env` is valid, `name` is a string in the current scope; a null resource makes
        // Node create one.
        check_status!(unsafe {
            sys::napi_async_init(env.raw(), ptr::null_mut(), name, &raw mut context)
        })?;
        Ok(Self { env: env.raw(), context })
    }

    /// Runs `work`, which may call JavaScript. Only for callbacks that the event loop makes on the
    /// environment's thread while it is not inside JavaScript.
    pub fn enter(&self, work: impl FnOnce(&Env)) -> Result<()> {
        let mut handles = ptr::null_mut();
        let mut scope = ptr::null_mut();
        // SAFETY: the environment outlives its contexts and we are on its thread (neither is
        // `Send`). Scopes are opened and closed in pairs, innermost first.
        unsafe {
            check_status!(sys::napi_open_handle_scope(self.env, &raw mut handles))?;
            let status = sys::napi_open_callback_scope(
                self.env,
                ptr::null_mut(),
                self.context,
                &raw mut scope,
            );
            if status == sys::Status::napi_ok {
                work(&Env::from_raw(self.env));
                sys::napi_close_callback_scope(self.env, scope);
            }
            sys::napi_close_handle_scope(self.env, handles);
            check_status!(status)
        }
    }
}

impl Drop for CallbackContext {
    fn drop(&mut self) {
        // SAFETY: made by `napi_async_init` in this environment, destroyed only here.
        unsafe { sys::napi_async_destroy(self.env, self.context) };
    }
}
