//! The C library's allocator, so that memory it keeps for later is not taken for memory in use.

/// Gives back to the system what is free.
#[expect(unsafe_code, reason = "malloc_trim has no safe wrapper")]
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: touches only memory that nobody has allocated, under the allocator's own locks.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
