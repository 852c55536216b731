// SPDX-License-Identifier: GPL-2.0-only

//! Pages of our own, that copies of swapped pages wait in until the server has them.

use super::bindings;
use super::folio::FolioView;
use kernel::{
    bindings as kernel_bindings,
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

    /// Copies a folio's page `index` into buffer `n` and returns the copy, of which all else is made: the folio may
    /// change under us while it is being written.
    #[expect(clippy::mut_from_ref, reason = "as for `page_mut`")]
    pub(crate) fn fill(&self, n: u32, folio: FolioView<'_>, index: u16) -> &mut [u8] {
        if let Some(to) = self.addr(n) {
            // SAFETY: Both are whole pages; the folio's is kept in memory by its lock, and nobody else
            // writes the buffer, whose number the caller got from the free list.
            unsafe { bindings::memsrv_copy_page(to.cast(), folio.page_addr(index).cast()) };
        }
        self.page_mut(n)
    }

    /// The bytes of buffer `n`, for the one who fills it; empty where there is none.
    #[expect(
        clippy::mut_from_ref,
        reason = "a page is guarded by who holds its number, not by a borrow"
    )]
    pub(crate) fn page_mut(&self, n: u32) -> &mut [u8] {
        match self.addr(n) {
            // SAFETY: A whole page that lives as long as the pool, and only who holds its number uses it.
            Some(addr) => unsafe { core::slice::from_raw_parts_mut(addr, PAGE_SIZE) },
            None => &mut [],
        }
    }

    /// Copies buffer `n` into `to`; false where either is no whole page.
    pub(crate) fn copy_out(&self, n: u32, to: &mut [u8]) -> bool {
        let Some(from) = self.addr(n) else {
            return false;
        };
        if to.len() != PAGE_SIZE || to.as_ptr().addr() % PAGE_SIZE != 0 {
            return false;
        }
        // SAFETY: `to` is as long as a page and begins where one does; the buffer is the caller's, whose number
        // it has, and `to` is borrowed, so they are not the same.
        unsafe { bindings::memsrv_copy_page(to.as_mut_ptr().cast(), from.cast()) };
        true
    }

    /// The first `len` bytes of buffer `n`, to be sent.
    ///
    /// The socket keeps the page itself until TCP has it acknowledged. It changes only when its number was freed
    /// and given out anew. That is when the server has acknowledged the operation, and so, its TCP before it, the
    /// bytes; or when the connection is closed, and its queue with it. What is on its way just then, or a
    /// server that acknowledges what it has not received, makes a mixture of two pages of one client under a checksum
    /// that does not fit, and the server refuses it.
    pub(crate) fn fragment(&self, n: u32, len: usize) -> Option<Fragment<'_>> {
        let page = self.pages.get(usize::try_from(n).ok()?)?;
        Some(Fragment {
            page,
            offset: 0,
            len: len.min(PAGE_SIZE),
        })
    }
}

/// Bytes of a page of ours.
#[derive(Clone, Copy)]
pub(crate) struct Fragment<'a> {
    page: &'a Page,
    offset: usize,
    len: usize,
}

impl Fragment<'_> {
    /// How many bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All but the first `n` bytes.
    pub(crate) fn skip(self, n: usize) -> Self {
        let n = n.min(self.len);
        Self {
            offset: self.offset + n,
            len: self.len - n,
            ..self
        }
    }

    /// As the kernel's vector.
    pub(super) fn vec(&self) -> kernel_bindings::bio_vec {
        // Both are a page's size at the most.
        kernel_bindings::bio_vec {
            bv_page: self.page.as_ptr(),
            bv_offset: self.offset as u32,
            bv_len: self.len as u32,
        }
    }
}

/// What stands before the pages, `N` bytes each (a divisor of a page's), in pages because they are sent as those are.
pub(crate) struct Headers<const N: usize> {
    pages: KVVec<Page>,
}

impl<const N: usize> Headers<N> {
    /// Makes room for `n`.
    pub(crate) fn new(n: usize) -> Result<Self> {
        let n = n.div_ceil(PAGE_SIZE / N);
        let mut pages = KVVec::with_capacity(n, GFP_KERNEL)?;
        for _ in 0..n {
            pages.push(Page::alloc_page(GFP_KERNEL)?, GFP_KERNEL)?;
        }
        Ok(Self { pages })
    }

    /// Header `n`, to be sent; what [`Buffers::fragment`] says of its page holds for it, too.
    pub(crate) fn fragment(&self, n: u32) -> Option<Fragment<'_>> {
        let n = usize::try_from(n).ok()?;
        let page = self.pages.get(n / (PAGE_SIZE / N))?;
        Some(Fragment {
            page,
            offset: n % (PAGE_SIZE / N) * N,
            len: N,
        })
    }

    /// Writes header `n`.
    pub(crate) fn set(&mut self, n: u32, header: &[u8; N]) {
        let Some(to) = self.fragment(n) else {
            return;
        };
        // SAFETY: The page is alive while `self` is.
        let page: *mut u8 = unsafe { bindings::memsrv_page_addr(to.page.as_ptr()) }.cast();
        // SAFETY: A fragment lies within its page, and `self` is ours alone.
        unsafe { core::ptr::copy_nonoverlapping(header.as_ptr(), page.add(to.offset), N) };
    }
}
