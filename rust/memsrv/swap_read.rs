// SPDX-License-Identifier: GPL-2.0-only

//! The way back to the disk: a folio whose load has begun with us and is read from its swap area.
//!
//! `swap_read_folio()` asks `zswap_load()` once; after another answer than -ENOENT the folio is ours, with no
//! way to change the mind. But it is then just as it was when that function was called: locked, in the swap
//! cache, not up to date. So it can be called again. It enters our hook again, which must say "not ours" now,
//! and the original, so that zswap is asked before the disk. (-ENOENT from a replacement of `zswap_load` would not
//! do: it would read the disk where zswap has a newer page.)

use super::bindings;
use super::folio::LoadingFolio;
use kernel::{
    error::to_result,
    prelude::*, //
};

/// Finds the kernel's functions. Sleeps; once, before the first [`LoadingFolio::read_from_disk`].
///
/// # Errors
///
/// `EOPNOTSUPP`: the module was built for a kernel without them, or this one has no kprobes; `ENOENT`: this
/// kernel has none of that name.
pub(crate) fn prepare() -> Result {
    // SAFETY: Sleeping is allowed here.
    to_result(unsafe { bindings::memsrv_swap_read_prepare() })
}

impl LoadingFolio {
    /// Hands the folio to the kernel, which reads it from zswap or its swap area and unlocks it. Process
    /// context, and only if [`prepare`] went well and the hooks no longer say that the load is ours.
    pub(crate) fn read_from_disk(self) {
        // SAFETY: The folio is locked, in the swap cache and not up to date, which is what
        // swap_read_folio() asks for; nobody else unlocks it.
        unsafe { bindings::memsrv_swap_read(self.into_raw()) }
    }
}
