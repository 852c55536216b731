// SPDX-License-Identifier: GPL-2.0-only

//! The last pages that a server acknowledged before its mirror had them (`memsrvd --mirror-ack before`).
//!
//! When the server is gone and the mirror goes on, the mirror says how many operations it has not seen. The
//! pages of as many of the last acknowledged stores are lost: the mirror may have older ones, so what it
//! answers for these slots fails the load, until they are stored anew.

use kernel::prelude::*;

/// How many are remembered: more than a server lets its mirror be behind (2048).
const REMEMBERED: usize = 4096;

/// One lane's.
pub(crate) struct Tail {
    /// The slot of each store in flight, by its number.
    asked: KVVec<u64>,
    /// The slots of the last stores that were acknowledged, the next to be overwritten at `next`.
    last: KVVec<u64>,
    next: usize,
    /// The slots whose pages are lost, in order.
    lost: KVVec<u64>,
}

impl Tail {
    /// For stores that have numbers below `stores`.
    pub(crate) fn new(stores: u32) -> Result<Self> {
        let stores = usize::try_from(stores)?;
        let mut asked = KVVec::with_capacity(stores, GFP_KERNEL)?;
        for _ in 0..stores {
            asked.push(0, GFP_KERNEL)?;
        }
        Ok(Self {
            asked,
            last: KVVec::with_capacity(REMEMBERED, GFP_KERNEL)?,
            next: 0,
            lost: KVVec::with_capacity(REMEMBERED, GFP_KERNEL)?,
        })
    }

    /// A store begins: what its slot held before does not count any more.
    pub(crate) fn asked(&mut self, number: u32, slot: u64) {
        if let Some(place) = usize::try_from(number)
            .ok()
            .and_then(|number| self.asked.get_mut(number))
        {
            *place = slot;
        }
        self.forget(number);
    }

    /// The slot of this store has a newer page than what was lost of it.
    pub(crate) fn forget(&mut self, number: u32) {
        let slot = usize::try_from(number)
            .ok()
            .and_then(|number| self.asked.get(number));
        if let Some(Ok(place)) = slot.map(|slot| self.lost.binary_search(slot)) {
            let _ = self.lost.remove(place);
        }
    }

    /// The store is acknowledged.
    pub(crate) fn stored(&mut self, number: u32) {
        let Some(&slot) = usize::try_from(number)
            .ok()
            .and_then(|number| self.asked.get(number))
        else {
            return;
        };
        if self.last.len() < REMEMBERED {
            // There is room: nothing is allocated.
            let _ = self.last.push_within_capacity(slot);
        } else if let Some(place) = self.last.get_mut(self.next) {
            *place = slot;
        }
        self.next = (self.next + 1) % REMEMBERED;
    }

    /// Whether so many of the last operations are remembered.
    pub(crate) fn knows(&self, operations: u64) -> bool {
        usize::try_from(operations).is_ok_and(|n| n <= REMEMBERED)
    }

    /// The stores among so many of the last operations are lost.
    pub(crate) fn lose(&mut self, operations: u64) {
        let count = usize::try_from(operations).unwrap_or(usize::MAX);
        let (newer, older) = (
            self.last.get(..self.next).unwrap_or(&[]),
            self.last.get(self.next..).unwrap_or(&[]),
        );
        self.lost.clear();
        for part in [newer, older] {
            let room = count.saturating_sub(self.lost.len());
            for &slot in part.iter().rev().take(room) {
                // There is room: nothing is allocated.
                let _ = self.lost.push_within_capacity(slot);
            }
        }
        self.lost.sort_unstable();
        // A slot that was stored twice is lost once.
        let mut last = None;
        self.lost
            .retain(|&mut slot| core::mem::replace(&mut last, Some(slot)) != Some(slot));
    }

    /// How many slots have lost their pages.
    pub(crate) fn lost(&self) -> usize {
        self.lost.len()
    }

    /// Whether one of these slots has lost its page.
    pub(crate) fn has_lost(&self, slot: u64, pages: u16) -> bool {
        let first = self.lost.partition_point(|&lost| lost < slot);
        let end = slot.saturating_add(u64::from(pages));
        self.lost.get(first).is_some_and(|&lost| lost < end)
    }
}
