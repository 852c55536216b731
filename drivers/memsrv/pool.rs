// SPDX-License-Identifier: GPL-2.0-only

//! The copies of pages that are on their way to the server: a fixed number, shared by all lanes.
//!
//! Admission reserves as many as a folio has pages, in the ftrace handler, by one atomic operation;
//! the store that follows then takes their numbers from the free list, which holds at least as many
//! as are reserved. Lock order: a lane's state, then the free list.

use super::platform::{atomic, page::Buffers};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Full, Relaxed},
        new_spinlock_irq,
        SpinLockIrq, //
    }, //
};

/// The in-flight table's memory.
#[pin_data]
pub(crate) struct Pool {
    buffers: Buffers,
    unreserved: Atomic<u64>,
    #[pin]
    free: SpinLockIrq<KVVec<u32>>,
    size: u32,
}

impl Pool {
    /// Makes a pool of `size` pages.
    pub(crate) fn new(size: u32) -> Result<impl PinInit<Self>> {
        let buffers = Buffers::new(usize::try_from(size)?)?;
        let mut free = KVVec::with_capacity(usize::try_from(size)?, GFP_KERNEL)?;
        for number in 0..size {
            free.push(number, GFP_KERNEL)?;
        }
        Ok(pin_init!(Self {
            buffers,
            unreserved: Atomic::new(u64::from(size)),
            free <- new_spinlock_irq!(free),
            size,
        }))
    }

    /// How many pages it has in all.
    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// How many are in use or reserved.
    pub(crate) fn used(&self) -> u64 {
        u64::from(self.size).saturating_sub(self.unreserved.load(Relaxed))
    }

    /// Reserves `n` pages, all or none.
    pub(crate) fn reserve(&self, n: u16) -> bool {
        atomic::take(&self.unreserved, u64::from(n))
    }

    /// Gives a reservation back that nothing was taken for.
    pub(crate) fn unreserve(&self, n: u16) {
        self.unreserved.fetch_add(u64::from(n), Full);
    }

    /// Takes a page that was reserved.
    pub(crate) fn take(&self) -> Option<u32> {
        self.free.lock().pop()
    }

    /// Puts a page back, and its reservation.
    pub(crate) fn put(&self, number: u32) {
        // The list was made for all numbers, so that there is always room.
        let _ = self.free.lock().push_within_capacity(number);
        self.unreserve(1);
    }

    /// The pages.
    pub(crate) fn buffers(&self) -> &Buffers {
        &self.buffers
    }
}
