// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The last pages that a server acknowledged before its mirror had them.
//!
//! When such a server is gone and the mirror goes on, the mirror says how many operations it has not seen.
//! The pages of as many of the last acknowledged stores are lost: the mirror may have older ones, so what it
//! answers for these slots counts for nothing until they are stored anew.

use core::ops::DerefMut;

use super::super::protocol::Slot;

/// One stream's last stores, and what was lost of them.
///
/// A store is known by its token, a number below the length of the first buffer, from [`Tail::asked`] to
/// [`Tail::stored`].
#[derive(Debug)]
pub struct Tail<B> {
    /// The slot of each store in flight, by its token.
    asked: B,
    /// The slots of the last stores that were acknowledged; the next goes to `next`.
    last: B,
    held: usize,
    next: usize,
    /// The slots whose pages are lost, in order, each once.
    lost: B,
    missing: usize,
}

impl<B: DerefMut<Target = [Slot]>> Tail<B> {
    /// Nothing stored, nothing lost. As many of the last stores are remembered as the shorter of `last`
    /// and `lost` has entries. What the buffers hold is forgotten.
    pub fn new(asked: B, last: B, lost: B) -> Self {
        Self {
            asked,
            last,
            held: 0,
            next: 0,
            lost,
            missing: 0,
        }
    }

    fn capacity(&self) -> usize {
        self.last.len().min(self.lost.len())
    }

    fn slot_of(&self, token: u32) -> Option<Slot> {
        self.asked.get(usize::try_from(token).ok()?).copied()
    }

    /// A store is about to be asked: what was lost of its slot does not matter any more.
    pub fn asked(&mut self, token: u32, slot: Slot) {
        if let Some(place) = usize::try_from(token)
            .ok()
            .and_then(|token| self.asked.get_mut(token))
        {
            *place = slot;
        }
        self.forget(token);
    }

    /// The store is acknowledged.
    pub fn stored(&mut self, token: u32) {
        let (Some(slot), capacity) = (self.slot_of(token), self.capacity()) else {
            return;
        };
        if let Some(place) = self.last.get_mut(self.next) {
            *place = slot;
            self.held = self.held.saturating_add(1).min(capacity);
            let next = self.next.saturating_add(1);
            self.next = if next < capacity { next } else { 0 };
        }
    }

    /// The stores among so many of the last operations are lost: as not every operation is a store, no more than
    /// so many of the last stores. Call [`Tail::forget`] for each store in flight then.
    pub fn lose(&mut self, operations: u64) {
        let count = usize::try_from(operations).unwrap_or(usize::MAX);
        let mut missing = 0;
        for back in 1..=count.min(self.held) {
            let place = match self.next.checked_sub(back) {
                Some(place) => place,
                // Around the ring's end; it is full, or `held` would have stopped this.
                None => self
                    .capacity()
                    .saturating_add(self.next)
                    .saturating_sub(back),
            };
            if let (Some(&slot), Some(to)) = (self.last.get(place), self.lost.get_mut(missing)) {
                *to = slot;
                missing = missing.saturating_add(1);
            }
        }
        let (mut kept, mut before) = (0, None);
        if let Some(lost) = self.lost.get_mut(..missing) {
            lost.sort_unstable();
            for from in 0..missing {
                // A slot that was stored twice is lost once.
                let slot = lost.get(from).copied();
                if slot != before {
                    before = slot;
                    if let (Some(slot), Some(to)) = (slot, lost.get_mut(kept)) {
                        *to = slot;
                        kept += 1;
                    }
                }
            }
        }
        self.missing = kept;
    }

    /// The slot of this store gets a newer page than what was lost of it.
    pub fn forget(&mut self, token: u32) {
        let Some(slot) = self.slot_of(token) else {
            return;
        };
        let lost = self.lost.get_mut(..self.missing).unwrap_or(&mut []);
        if let Ok(place) = lost.binary_search(&slot) {
            lost.copy_within(place.saturating_add(1).., place);
            self.missing = self.missing.saturating_sub(1);
        }
    }

    /// How many slots have lost their pages.
    pub fn lost(&self) -> usize {
        self.missing
    }

    /// Whether one of `count` slots from this one on has lost its page.
    pub fn has_lost(&self, slot: Slot, count: u16) -> bool {
        let lost = self.lost.get(..self.missing).unwrap_or(&[]);
        let first = lost.partition_point(|&lost| lost < slot);
        let end = slot.0.saturating_add(u64::from(count));
        lost.get(first).is_some_and(|lost| lost.0 < end)
    }
}
