// SPDX-License-Identifier: GPL-2.0-only

//! Pages compressed by the kernel's LZ4 (`lib/lz4`).

use super::bindings;
use core::ffi::{c_uint, c_void};
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};

/// What compressing takes: about 20 KiB for each processor, so that it allocates nothing and waits for nobody.
pub(crate) struct Lz4 {
    scratch: *mut c_void,
}

// SAFETY: It is memory of each processor's own, and may be used and freed by any task.
unsafe impl Send for Lz4 {}
// SAFETY: Who uses a processor's part is not preempted meanwhile, and it is not used in interrupts.
unsafe impl Sync for Lz4 {}

impl Lz4 {
    /// Takes the memory.
    ///
    /// # Errors
    ///
    /// `ENOENT`: the kernel has no LZ4, or its modules are not loaded. `ENOMEM`.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: No requirements.
        if !unsafe { bindings::memsrv_lz4_there() } {
            return Err(ENOENT);
        }
        // SAFETY: No requirements but to sleep, which we may at start.
        let scratch = unsafe { bindings::memsrv_lz4_new() };
        if scratch.is_null() {
            return Err(ENOMEM);
        }
        Ok(Self { scratch })
    }

    /// Compresses a page where it is, to `most` bytes at the most (no more than a page's), and returns how many they
    /// are; `None` if they would be more: then it is as it was. Not in interrupts.
    pub(crate) fn compress(&self, page: &mut [u8], most: u32) -> Option<u32> {
        if page.len() != PAGE_SIZE || usize::try_from(most).is_ok_and(|most| most > PAGE_SIZE) {
            return None;
        }
        // SAFETY: The slice is a whole page and ours alone, the block fits into it, and `new` has seen that there is
        // LZ4.
        let len =
            unsafe { bindings::memsrv_lz4_compress(self.scratch, page.as_mut_ptr().cast(), most) };
        (len > 0).then_some(len)
    }

    /// Makes a page of a block; false if the block is none of a whole page: then there may be anything in it. Any
    /// context.
    pub(crate) fn decompress(&self, block: &[u8], page: &mut [u8]) -> bool {
        let Ok(len) = c_uint::try_from(block.len()) else {
            return false;
        };
        if page.len() != PAGE_SIZE {
            return false;
        }
        // SAFETY: The block is `len` bytes long; the page is a whole one, ours alone, and so no part of the block; and
        // `new` has seen that there is LZ4, which reads and writes nothing outside of them, whatever the block is.
        unsafe {
            bindings::memsrv_lz4_decompress(block.as_ptr().cast(), len, page.as_mut_ptr().cast())
        }
    }
}

impl Drop for Lz4 {
    fn drop(&mut self) {
        // SAFETY: Made by `new`, and nobody else has it any more.
        unsafe { bindings::memsrv_lz4_free(self.scratch) }
    }
}
