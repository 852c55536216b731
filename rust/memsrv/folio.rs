// SPDX-License-Identifier: GPL-2.0-only

//! A folio of the swap cache on its way to the server or back.
//!
//! The types follow a folio through its states, and each ending consumes its value, so that a folio
//! ends exactly once and is not touched afterwards:
//!
//! 1. [`StoringFolio`]: locked by the caller of `zswap_store`, to be copied.
//! 2. [`WritebackFolio`]: under writeback, which keeps it in the swap cache; the lock is the caller's
//!    to drop. Ends by [`WritebackFolio::stored`] or [`WritebackFolio::failed`].
//! 3. [`LoadingFolio`]: locked and not up to date, to be filled. Ends by [`LoadingFolio::done`], or
//!    goes to the kernel by `read_from_disk` (`swap_read.rs`).
//!
//! 4. [`UnreadFolio`]: one whose read was given up, kept to be read again: unlocked, with a reference.
//!
//! But for the last, no reference is held: writeback or the lock keep the folio, and a reference would even stop
//! reclaim, which freezes the count.

use super::bindings;
use core::ptr::NonNull;
use kernel::{
    bindings as kernel_bindings,
    page::PAGE_SIZE, //
};

type RawFolio = NonNull<kernel_bindings::folio>;

fn slot_of(folio: RawFolio) -> u64 {
    // SAFETY: The folio is in the swap cache, so that its `swap` field is set.
    unsafe { bindings::memsrv_folio_slot(folio.as_ptr()) }
}

fn pages_of(folio: RawFolio) -> u16 {
    // SAFETY: The folio is alive.
    let pages = unsafe { bindings::memsrv_folio_pages(folio.as_ptr()) };
    // A folio has 512 pages at the most on x86-64 in the swap cache; a larger one is refused by its
    // size.
    u16::try_from(pages).unwrap_or(u16::MAX)
}

/// A folio that a hook looks at, without owning anything of it.
#[derive(Clone, Copy)]
pub(crate) struct FolioView<'a> {
    folio: RawFolio,
    _lifetime: core::marker::PhantomData<&'a ()>,
}

impl FolioView<'_> {
    /// # Safety
    ///
    /// The folio is locked and in the swap cache for as long as the value lives.
    pub(super) unsafe fn new(folio: RawFolio) -> Self {
        Self {
            folio,
            _lifetime: core::marker::PhantomData,
        }
    }

    /// The first slot: the area's number in bits 48 and up, the page's offset in the area below.
    pub(crate) fn slot(self) -> u64 {
        slot_of(self.folio)
    }

    /// How many pages, and slots, it has.
    pub(crate) fn pages(self) -> u16 {
        pages_of(self.folio)
    }

    pub(super) fn page_addr(self, index: u16) -> *const u8 {
        debug_assert!(index < self.pages());
        // SAFETY: The folio is alive and has such a page.
        unsafe { bindings::memsrv_folio_addr(self.folio.as_ptr(), u32::from(index)) }.cast()
    }
}

/// A folio that was handed to our `zswap_store`: locked, dirty state cleared, not yet under writeback.
pub(crate) struct StoringFolio(RawFolio);

impl StoringFolio {
    /// # Safety
    ///
    /// As for `zswap_store`: the folio is locked and in the swap cache until that returns.
    pub(super) unsafe fn new(folio: RawFolio) -> Self {
        Self(folio)
    }

    /// The first slot.
    pub(crate) fn slot(&self) -> u64 {
        slot_of(self.0)
    }

    /// How many pages it has.
    pub(crate) fn pages(&self) -> u16 {
        pages_of(self.0)
    }

    /// A look at it, to copy its pages.
    pub(crate) fn view(&self) -> FolioView<'_> {
        // SAFETY: The folio is locked and in the swap cache while `self` lives.
        unsafe { FolioView::new(self.0) }
    }

    /// Begins writeback, once: from here on the folio stays in the swap cache until that ends.
    ///
    /// The lock, which is the caller's of `zswap_store`, still keeps the folio until that returns, so
    /// that its pages can be copied after this.
    pub(crate) fn start_writeback(&self) -> WritebackFolio {
        // SAFETY: The folio is locked and not under writeback, as `zswap_store`'s caller sees to.
        unsafe { bindings::memsrv_folio_start_writeback(self.0.as_ptr()) };
        WritebackFolio(self.0)
    }
}

/// A folio under writeback that we began.
pub(crate) struct WritebackFolio(RawFolio);

// SAFETY: The functions that end writeback may be called in any context and by any task.
unsafe impl Send for WritebackFolio {}

impl WritebackFolio {
    /// Ends writeback: the server has every page.
    pub(crate) fn stored(self) {
        // SAFETY: We began writeback, and this is its only end.
        unsafe { kernel_bindings::folio_end_writeback(self.0.as_ptr()) }
    }

    /// Ends writeback without success: the folio is dirty again, so it stays in memory.
    pub(crate) fn failed(self) {
        // SAFETY: Under writeback the folio is in the swap cache, where marking it dirty is one
        // atomic bit, allowed in any context; it also clears PG_reclaim.
        unsafe { kernel_bindings::folio_mark_dirty(self.0.as_ptr()) };
        // SAFETY: We began writeback, and this is its only end.
        unsafe { kernel_bindings::folio_end_writeback(self.0.as_ptr()) }
    }
}

/// A folio that is to be read: locked, not up to date, ours to unlock.
pub(crate) struct LoadingFolio(RawFolio);

// SAFETY: A locked folio may be filled and unlocked in any context and by any task.
unsafe impl Send for LoadingFolio {}

impl LoadingFolio {
    /// # Safety
    ///
    /// The folio is locked, in the swap cache and not up to date, and the caller hands the duty to
    /// unlock it over.
    pub(super) unsafe fn new(folio: RawFolio) -> Self {
        Self(folio)
    }

    /// The first slot.
    pub(crate) fn slot(&self) -> u64 {
        slot_of(self.0)
    }

    /// How many pages it has.
    pub(crate) fn pages(&self) -> u16 {
        pages_of(self.0)
    }

    /// Hands the duty to unlock it to who takes the folio.
    pub(super) fn into_raw(self) -> *mut kernel_bindings::folio {
        self.0.as_ptr()
    }

    /// The bytes of page `index`; empty where the folio has no such page.
    pub(crate) fn page_mut(&mut self, index: u16) -> &mut [u8] {
        if index >= self.pages() {
            return &mut [];
        }
        // SAFETY: The folio is alive and has such a page.
        let addr = unsafe { bindings::memsrv_folio_addr(self.0.as_ptr(), u32::from(index)) };
        // SAFETY: A folio that is locked and not up to date is filled by its reader alone, and the
        // value stands for that reader.
        unsafe { core::slice::from_raw_parts_mut(addr.cast(), PAGE_SIZE) }
    }

    /// Ends the read: marks the folio up to date if `ok`, and dirty if `dirty`; then unlocks it.
    pub(crate) fn done(self, ok: bool, dirty: bool) {
        if ok && dirty {
            // SAFETY: The folio is locked and in the swap cache: one atomic bit, in any context.
            unsafe { kernel_bindings::folio_mark_dirty(self.0.as_ptr()) };
        }
        // SAFETY: The folio is locked and not up to date, and nobody else unlocks it.
        unsafe { kernel_bindings::folio_end_read(self.0.as_ptr(), ok) }
    }
}

/// A folio whose read ended without its page, for want of time only. The kernel leaves it in the swap
/// cache, where whoever finds it takes it for lost; so it is to be read again as soon as it can be.
pub(crate) struct UnreadFolio {
    folio: RawFolio,
    slot: u64,
}

// SAFETY: A reference may be held and given back by any task.
unsafe impl Send for UnreadFolio {}

/// What became of a folio that was to be read again.
pub(crate) enum Again {
    /// It is locked, and ours to fill.
    Load(LoadingFolio),
    /// Somebody has it locked just now.
    Busy(UnreadFolio),
    /// It has been read, or is not needed any more.
    Over,
}

impl LoadingFolio {
    /// Ends the read without the page, as [`Self::done`] does, and keeps the folio.
    pub(crate) fn give_up(self) -> UnreadFolio {
        let kept = UnreadFolio {
            folio: self.0,
            slot: self.slot(),
        };
        // SAFETY: The lock still keeps the folio.
        unsafe { bindings::memsrv_folio_get(self.0.as_ptr()) };
        self.done(false, false);
        kept
    }
}

impl UnreadFolio {
    /// Takes it up again. Process context.
    pub(crate) fn again(self) -> Again {
        let folio = self.folio.as_ptr();
        // SAFETY: We hold a reference.
        if !unsafe { bindings::memsrv_folio_trylock(folio) } {
            return Again::Busy(self);
        }
        // SAFETY: The folio is locked, which keeps it where it is.
        let unread = unsafe { bindings::memsrv_folio_unread(folio) };
        if unread && slot_of(self.folio) == self.slot {
            // The lock and the swap cache keep it from here on; the reference goes with `self`.
            return Again::Load(LoadingFolio(self.folio));
        }
        // SAFETY: We locked it.
        unsafe { kernel_bindings::folio_unlock(folio) };
        Again::Over
    }
}

impl Drop for UnreadFolio {
    fn drop(&mut self) {
        // SAFETY: We hold a reference, and do not use the folio any more.
        unsafe { bindings::memsrv_folio_put(self.folio.as_ptr()) }
    }
}
