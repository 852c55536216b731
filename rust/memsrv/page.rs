// SPDX-License-Identifier: GPL-2.0-only

//! Pages of our own, that copies of swapped pages wait in until the server has them.

use super::bindings;
use super::folio::FolioView;
use kernel::{
    page::{Page, PAGE_SIZE},
    prelude::*, //
};

/// A fixed number of pages, made at start and freed at the end.
///
/// A page's content is guarded by who holds its number: the one who got it from the pool's free list
/// writes it, then everybody who sends it only reads it.
pub(crate) struct Buffers {
    pages: KVVec<Page>,
}

impl Buffers {
    /// Makes `n` pages.
    pub(crate) fn new(n: usize) -> Result<Self> {
        let mut pages = KVVec::with_capacity(n, GFP_KERNEL)?;
        for _ in 0..n {
            pages.push(Page::alloc_page(GFP_KERNEL)?, GFP_KERNEL)?;
        }
        Ok(Self { pages })
    }

    fn addr(&self, n: u32) -> Option<*mut u8> {
        let page = self.pages.get(usize::try_from(n).ok()?)?;
        // SAFETY: The page is alive while the pool is.
        Some(unsafe { bindings::memsrv_page_addr(page.as_ptr()) }.cast())
    }

    /// Copies a folio's page `index` into buffer `n` and returns the checksum of the copy.
    ///
    /// The checksum is made from the copy: the folio may change under us while it is being written.
    pub(crate) fn fill(&self, n: u32, folio: FolioView<'_>, index: u16, slot: u64) -> u32 {
        let Some(to) = self.addr(n) else {
            return 0;
        };
        // SAFETY: Both are whole pages; the folio's is kept in memory by its lock, and nobody else
        // writes the buffer, whose number the caller got from the free list.
        unsafe { core::ptr::copy_nonoverlapping(folio.page_addr(index), to, PAGE_SIZE) };
        super::sys::crc32c(slot, self.get(n))
    }

    /// The content of buffer `n`, to be sent.
    pub(crate) fn get(&self, n: u32) -> &[u8] {
        match self.addr(n) {
            // SAFETY: A whole page that lives as long as the pool. It changes only when its number
            // was freed and given out anew, which a server can bring about while we still send it
            // only by acknowledging what it has not received; it then gets a mixture of two pages,
            // both its own client's, under a checksum that does not fit.
            Some(addr) => unsafe { core::slice::from_raw_parts(addr, PAGE_SIZE) },
            None => &[],
        }
    }
}
