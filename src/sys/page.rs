//! Counters that one process writes and another reads, whenever it likes and after the writer's death: memory that
//! both map. The writer is JavaScript, so they are what it calls numbers.

use std::io;
use std::mem;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use napi::bindgen_prelude::Float64Array;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::fstat;

/// Counters in a page.
pub const COUNTERS: usize = 512;

const LENGTH: usize = COUNTERS * mem::size_of::<AtomicU64>();

/// The memory, mapped. It can neither shrink nor grow.
pub struct Page {
    file: OwnedFd,
    memory: NonNull<AtomicU64>,
}

// SAFETY: all that is given out are references to atomics, which live as long as the page.
unsafe impl Send for Page {}
// SAFETY: as above.
unsafe impl Sync for Page {}

impl Page {
    /// A new one, all zeroes.
    #[cfg(target_os = "linux")]
    pub fn new() -> io::Result<Self> {
        use nix::fcntl::{FcntlArg, SealFlag, fcntl};
        use nix::sys::memfd::{MFdFlags, memfd_create};
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = memfd_create(c"sticky-listen", flags)?;
        nix::unistd::ftruncate(&file, i64::try_from(LENGTH).unwrap_or(i64::MAX))?;
        // A file that its other holder cuts off would kill whoever reads the page.
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
        Self::map(file)
    }

    /// Where no such memory exists.
    #[cfg(not(target_os = "linux"))]
    pub fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The one that another process made.
    pub fn map(file: OwnedFd) -> io::Result<Self> {
        if usize::try_from(fstat(&file)?.st_size).is_ok_and(|size| size < LENGTH) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let length = const { NonZeroUsize::new(LENGTH).unwrap() };
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address that the system chooses; the file was made with this length and sealed.
        let memory = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, &file, 0) }?;
        Ok(Self { file, memory: memory.cast() })
    }

    /// A counter as it is.
    ///
    /// # Panics
    /// Beyond [`COUNTERS`].
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whatever it is")]
    pub fn count(&self, index: usize) -> u64 {
        self.number(index) as u64
    }

    /// The same of a counter that counts no whole numbers.
    ///
    /// # Panics
    /// Beyond [`COUNTERS`].
    pub fn number(&self, index: usize) -> f64 {
        f64::from_bits(self.counter(index).load(Ordering::Relaxed))
    }

    /// Writes a counter.
    ///
    /// # Panics
    /// Beyond [`COUNTERS`].
    pub fn set(&self, index: usize, number: f64) {
        self.counter(index).store(number.to_bits(), Ordering::Relaxed);
    }

    fn counter(&self, index: usize) -> &AtomicU64 {
        assert!(index < COUNTERS, "a page holds {COUNTERS} counters");
        // SAFETY: within the mapping, which is aligned to pages, and lives until the page is dropped. Every bit
        // pattern is a number, whatever the other process writes.
        unsafe { self.memory.add(index).as_ref() }
    }

    /// The counters for JavaScript to write, which keeps the page for as long as it keeps them. Only once for a page: two
    /// arrays may not share memory.
    pub fn array(self: Arc<Self>) -> Float64Array {
        let memory = self.memory.as_ptr().cast();
        // SAFETY: `COUNTERS` numbers, mapped for as long as the page exists, which is until JavaScript lets go of the
        // array. Nothing in this process refers to them but `count`, atomically.
        unsafe { Float64Array::with_external_data(memory, COUNTERS, move |_, _| drop(self)) }
    }
}

impl AsFd for Page {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and no reference outlives the page.
        let _ = unsafe { munmap(self.memory.cast(), LENGTH) };
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn what_one_side_counts_the_other_reads() {
        let page = Page::new().unwrap();
        let other = Page::map(page.as_fd().try_clone_to_owned().unwrap()).unwrap();
        other.set(COUNTERS - 1, 7.0);
        drop(other);
        assert_eq!((page.count(COUNTERS - 1), page.count(0)), (7, 0));
        for nonsense in [f64::NAN, -1.0, f64::NEG_INFINITY] {
            page.set(0, nonsense);
            assert_eq!(page.count(0), 0);
        }
    }

    #[test]
    fn nobody_can_cut_it_off() {
        let page = Page::new().unwrap();
        assert!(nix::unistd::ftruncate(&page, 0).is_err());
    }

    #[test]
    fn another_file_is_no_page() {
        let (file, _) = nix::unistd::pipe().unwrap();
        assert!(Page::map(file).is_err());
    }
}
