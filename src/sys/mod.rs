//! The only `unsafe` code of the crate: system calls and host functions that no safe crate offers
//! in the shape needed here. Each module turns raw descriptors and pointers into owned or borrowed
//! types before anything else sees them.

#![allow(unsafe_code)]

pub mod callback_scope;
pub mod credentials;
pub mod descriptors;
pub mod page;
pub mod poll;
pub mod readiness;
pub mod reuseport;
pub mod scheduling;
pub mod socket;
pub mod tcp_info;

/// The size of what a system call reads or writes. (The cast is exact; `try_from` is not for constants.)
#[cfg(target_os = "linux")]
#[expect(clippy::cast_possible_truncation)]
const fn size_of<T>() -> u32 {
    std::mem::size_of::<T>() as u32
}
