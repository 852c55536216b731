// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What the server asks of the kernel for itself: memory that is never swapped, and flags of the process. And of the
//! processor: what it should have at hand.
//!
//! This and `rooms/sys.rs` are the only files with `unsafe`. What it hands out is ordinary: a mapping becomes exclusive
//! references to its pages, which live as long as the process does, so nobody can hold a page twice
//! and nobody can hold one that is gone.

#![expect(
    unsafe_code,
    reason = "where memory is mapped, and the processor given hints"
)]

use std::ffi::c_void;
use std::io;
use std::ptr;

use memsrv_protocol::PAGE_SIZE;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MlockAllFlags, ProtFlags};

/// The bytes of one page.
#[repr(C, align(4096))]
pub struct Frame([u8; PAGE_SIZE]);
const _: () = assert!(size_of::<Frame>() == PAGE_SIZE && align_of::<Frame>() == PAGE_SIZE);

/// One page of the arena, owned by whoever holds the reference.
pub type Page = &'static mut Frame;

/// The size that the arena is rounded up to: a huge page of x86-64.
pub const HUGE_PAGE: usize = 2 * 1024 * 1024;

/// The pages of the arena, as mapped.
pub struct Mapping {
    /// Every page.
    pub pages: &'static mut [Frame],
    /// Whether they come from the kernel's pool of huge pages.
    pub hugetlb: bool,
}

/// Maps `count` pages of anonymous memory, in huge pages where the kernel has them reserved.
///
/// # Errors
///
/// The kernel's, if it would not map so much.
pub fn map_pages(count: usize, try_hugetlb: bool) -> io::Result<Mapping> {
    let bytes = count
        .checked_mul(PAGE_SIZE)
        .and_then(|bytes| bytes.checked_next_multiple_of(HUGE_PAGE))
        .ok_or(Errno::NOMEM)?;
    if try_hugetlb {
        if let Ok(start) = map(bytes, MapFlags::HUGETLB) {
            return Ok(Mapping {
                pages: leak(start, count),
                hugetlb: true,
            });
        }
    }
    let start = map(bytes, MapFlags::empty())?;
    // A hint; the kernel may have no transparent huge pages, and the arena works without.
    // SAFETY: the range is the mapping just made, and this advice changes no contents.
    let _ = unsafe { rustix::mm::madvise(start, bytes, Advice::LinuxHugepage) };
    Ok(Mapping {
        pages: leak(start, count),
        hugetlb: false,
    })
}

fn map(bytes: usize, extra: MapFlags) -> io::Result<*mut c_void> {
    let (prot, flags) = (
        ProtFlags::READ | ProtFlags::WRITE,
        MapFlags::PRIVATE | extra,
    );
    // SAFETY: with a null hint and without MAP_FIXED the kernel picks unused addresses, so no memory
    // that Rust knows of is touched.
    Ok(unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), bytes, prot, flags) }?)
}

/// The first `count` pages of a mapping that is never unmapped.
fn leak(start: *mut c_void, count: usize) -> &'static mut [Frame] {
    // SAFETY: `start` is a fresh private mapping of at least `count` pages (`map_pages` rounds up),
    // readable, writable, zeroed, aligned to a page; it is never unmapped, and this is the only
    // reference made to it.
    unsafe { std::slice::from_raw_parts_mut(start.cast(), count) }
}

/// Asks the processor to have the beginning of a thing at hand soon, and does not wait for it.
///
/// The rest of a page comes by itself: that it is read in order is seen by then. (Asking for 16 lines was worth as much,
/// for all 64 half as much: loads and stores at random among a million pages, `memsrv-race` with 128 in flight.)
pub fn prefetch<T: ?Sized>(thing: &T) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..size_of_val(thing)).step_by(64).take(8) {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        let line = ptr::from_ref(thing).cast::<i8>().wrapping_add(at);
        // SAFETY: a hint, which changes nothing, wherever it points to.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = thing;
}

/// Locks pages in memory, which also makes the kernel provide them now.
///
/// # Errors
///
/// `ENOMEM` or `EPERM` where the limit on locked memory is too low; `EAGAIN` or `ENOMEM` where there
/// is not enough memory.
pub fn lock_pages(pages: &mut [Frame]) -> io::Result<()> {
    // SAFETY: the range is one that we hold a reference to, and locking changes no contents.
    Ok(unsafe { rustix::mm::mlock(pages.as_mut_ptr().cast(), size_of_val(pages)) }?)
}

/// Locks all the rest: code, stacks, and the heap as it grows.
///
/// # Errors
///
/// As [`lock_pages`].
pub fn lock_process() -> io::Result<()> {
    Ok(rustix::mm::mlockall(
        MlockAllFlags::CURRENT | MlockAllFlags::FUTURE,
    )?)
}

/// Whether so many bytes more can be mapped, as stacks and buffers will be.
///
/// # Errors
///
/// `EAGAIN` where all memory is locked and that would be above the limit; `ENOMEM`.
pub fn try_map(bytes: usize) -> io::Result<()> {
    let start = map(bytes, MapFlags::empty())?;
    // SAFETY: the range is the mapping just made, and nothing refers to it.
    Ok(unsafe { rustix::mm::munmap(start, bytes) }?)
}

/// Tells the kernel that this process serves memory: nothing that it asks for may wait for swap.
///
/// Threads inherit it, so call it before there are any.
///
/// # Errors
///
/// `EPERM` without CAP_SYS_RESOURCE.
pub fn set_io_flusher() -> io::Result<()> {
    Ok(rustix::process::configure_io_flusher_behavior(true)?)
}

/// Asks the kernel to end any other process before this one when memory runs out.
///
/// # Errors
///
/// `EACCES` without CAP_SYS_RESOURCE.
pub fn spare_from_oom() -> io::Result<()> {
    std::fs::write("/proc/self/oom_score_adj", "-1000")
}
