// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The few system calls of the agent that no safe function offers: mappings of a chosen kind, and fork.
//!
//! The only file of the guest's tools with `unsafe`.

use std::os::fd::OwnedFd;
use std::ptr::NonNull;

use anyhow::{ensure, Context, Result};
use rustix::fs::MemfdFlags;
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// 64-bit words in a page.
pub const WORDS_PER_PAGE: usize = 512;
/// Bytes in a page.
pub const PAGE_BYTES: usize = 4096;
const HUGE_BYTES: usize = 2 << 20;

/// What kind of memory a [`Region`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Private anonymous memory in single pages.
    Small,
    /// Private anonymous memory in 2 MiB folios where the kernel finds them.
    Huge,
    /// Shared memory (a memfd: shmem's swap path).
    Shared,
}

/// Memory of our own mapping.
///
/// # Invariants
/// `start` is the page-aligned start of a mapping, readable and writable, of at least `words` words,
/// that nothing else refers to and that lives as long as the value.
pub struct Region {
    start: NonNull<u64>,
    words: usize,
    _file: Option<OwnedFd>,
}

impl Region {
    /// Asks the kernel for all of it, to be read in the background if it is away (MADV_WILLNEED).
    #[expect(unsafe_code, reason = "madvise has no safe form")]
    pub fn will_need(&self) -> Result<()> {
        // SAFETY: the range is the region; this advice changes no contents.
        unsafe { rustix::mm::madvise(self.start.as_ptr().cast(), self.words * 8, Advice::WillNeed) }
            .context("madvise")
    }

    /// Maps `pages` pages, untouched.
    #[expect(unsafe_code, reason = "mmap and madvise have no safe form")]
    pub fn new(kind: Kind, pages: usize) -> Result<Self> {
        let bytes = pages.checked_mul(PAGE_BYTES).context("too many pages")?;
        ensure!(bytes > 0, "a region of no pages");
        // Room to begin at a huge page's boundary.
        let length = bytes.checked_add(HUGE_BYTES).context("too many pages")?;
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        let mut file = None;
        let start = if kind == Kind::Shared {
            let memfd =
                rustix::fs::memfd_create("pattern", MemfdFlags::CLOEXEC).context("memfd_create")?;
            rustix::fs::ftruncate(&memfd, u64::try_from(length)?).context("ftruncate")?;
            let flags = MapFlags::SHARED | MapFlags::NORESERVE;
            // SAFETY: a null hint lets the kernel choose a place that is free.
            let start =
                unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, rights, flags, &memfd, 0) };
            file = Some(memfd);
            start.context("mmap of shared memory")?
        } else {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            // SAFETY: a null hint lets the kernel choose a place that is free.
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), length, rights, flags) }
                .with_context(|| format!("mmap of {length} bytes"))?
        };
        let advice = match kind {
            Kind::Huge => Some(Advice::LinuxHugepage),
            Kind::Small => Some(Advice::LinuxNoHugepage),
            Kind::Shared => None,
        };
        if let Some(advice) = advice {
            // SAFETY: the range is the mapping just made; this advice changes no contents.
            unsafe { rustix::mm::madvise(start, length, advice) }.context("madvise")?;
        }
        let skip = start.align_offset(HUGE_BYTES);
        ensure!(skip < HUGE_BYTES, "no aligned place in the mapping");
        // `skip` is less than the HUGE_BYTES by which the mapping is longer than `bytes`.
        let start = start.wrapping_byte_add(skip).cast::<u64>();
        let start = NonNull::new(start).context("a mapping at address 0")?;
        let words = bytes / 8;
        // INVARIANT: made above, page-aligned, long enough; nothing else knows it; never unmapped.
        Ok(Self {
            start,
            words,
            _file: file,
        })
    }

    /// The words of page `page`.
    pub fn page(&mut self, page: usize) -> Option<&mut [u64]> {
        let first = page.checked_mul(WORDS_PER_PAGE)?;
        self.words()
            .get_mut(first..first.checked_add(WORDS_PER_PAGE)?)
    }

    #[expect(unsafe_code, reason = "a slice over a mapping of our own")]
    fn words(&mut self) -> &mut [u64] {
        // SAFETY: by the type's invariant the words are mapped, aligned and ours alone, and `&mut self`
        // keeps them borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.words) }
    }
}

/// Forks; runs `child` in the child, which ends with its result as status; returns the child's status.
///
/// The calling process must have a single thread.
#[expect(unsafe_code, reason = "fork has no safe form")]
pub fn in_fork(child: impl FnOnce() -> i32) -> Result<i32> {
    // SAFETY: the process has one thread (the pattern program starts none), so the child may do
    // whatever the parent could.
    let pid = unsafe { libc::fork() };
    ensure!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
    if pid == 0 {
        std::process::exit(child());
    }
    let pid = rustix::process::Pid::from_raw(pid).context("fork returned no pid")?;
    let (_, status) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
        .context("waitpid")?
        .context("waitpid returned nothing")?;
    Ok(status.exit_status().unwrap_or(-1))
}
