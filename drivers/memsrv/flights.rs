// SPDX-License-Identifier: GPL-2.0-only

//! With `disk=through`: the copies of one lane that are on their way, found by their slot.
//!
//! Such a copy belongs to no folio: the kernel may write that to the disk, drop it, load it, free its slot and
//! use the slot anew while the copy still waits for its acknowledgement. So a copy is *attached* to its slot only
//! until the slot is freed or stored again. The acknowledgement of one that is attached sets the slot's bit; of
//! one that is not, sets nothing, and the server is told to free what it now holds.
//!
//! Everything here is under the lane's state lock, allocates nothing, and leaves by `end`, once for each copy.

use super::engine::StoreError;
use super::platform::sys;
use super::protocol::{Slot, CLUSTER_SLOTS};
use super::shared::Shared;
use super::table::no_room;
use kernel::{
    prelude::*,
    sync::Arc, //
};

/// Ends a chain.
const NIL: u32 = u32::MAX;

/// A copy on its way, by its place in the pool.
#[derive(Clone, Copy)]
struct Flight {
    slot: u64,
    asked_us: u64,
    attached: bool,
    /// The next attached one in the chain.
    next: u32,
}

impl Flight {
    const NONE: Self = Flight {
        slot: 0,
        asked_us: 0,
        attached: false,
        next: NIL,
    };
}

/// How a copy has ended.
pub(crate) struct Landed {
    pub(crate) result: Result<(), StoreError>,
    /// Whether its slot was freed or stored again meanwhile.
    pub(crate) late: bool,
    pub(crate) asked_us: u64,
}

/// The copies of one lane.
pub(crate) struct Flights {
    shared: Arc<Shared>,
    flights: KVVec<Flight>,
    /// The chains of attached ones; as many as a power of two.
    heads: KVVec<u32>,
    attached: usize,
    /// Whether a server has pages that it is to free.
    freed: bool,
}

impl Flights {
    /// As many as the pool has places.
    pub(crate) fn new(shared: Arc<Shared>) -> Result<Self> {
        let places = usize::try_from(shared.pool.size())?;
        let mut flights = KVVec::with_capacity(places, GFP_KERNEL)?;
        for _ in 0..places {
            flights.push(Flight::NONE, GFP_KERNEL)?;
        }
        let chains = places.next_power_of_two();
        let mut heads = KVVec::with_capacity(chains, GFP_KERNEL)?;
        for _ in 0..chains {
            heads.push(NIL, GFP_KERNEL)?;
        }
        Ok(Self {
            shared,
            flights,
            heads,
            attached: 0,
            freed: false,
        })
    }

    /// How many copies would set a bit.
    pub(crate) fn attached(&self) -> usize {
        self.attached
    }

    /// Whether a server is to be told of pages to free, since this was asked last.
    pub(crate) fn take_freed(&mut self) -> bool {
        core::mem::replace(&mut self.freed, false)
    }

    /// Slots that follow one another, as those of a folio do, are in chains that follow one another.
    fn bucket(&self, slot: u64) -> usize {
        let mask = self.heads.len().saturating_sub(1);
        usize::try_from(slot).map_or(0, |slot| slot & mask)
    }

    fn at(&self, number: u32) -> Option<&Flight> {
        self.flights.get(usize::try_from(number).ok()?)
    }

    /// The copy `number` of a slot begins; the slot has no other that is attached.
    pub(crate) fn begin(&mut self, number: u32, slot: u64) {
        let bucket = self.bucket(slot);
        let place = usize::try_from(number).unwrap_or(usize::MAX);
        let (Some(head), Some(flight)) = (self.heads.get_mut(bucket), self.flights.get_mut(place))
        else {
            return;
        };
        *flight = Flight {
            slot,
            asked_us: sys::now_us(),
            attached: true,
            next: *head,
        };
        *head = number;
        self.attached = self.attached.saturating_add(1);
    }

    /// Slots were freed, or are about to get other bytes: what is on its way of them is of no use any more.
    pub(crate) fn detach(&mut self, slot: u64, pages: u16) {
        for page in 0..pages {
            if self.attached == 0 {
                return;
            }
            self.unlink(slot.saturating_add(u64::from(page)));
        }
    }

    /// The copy has been answered, or was given up: it no longer needs its place.
    pub(crate) fn end(&mut self, number: u32, result: Result<(), StoreError>) -> Option<Landed> {
        let Flight {
            slot,
            asked_us,
            attached,
            ..
        } = *self.at(number)?;
        if attached {
            self.unlink(slot);
        }
        let shared = &self.shared;
        if attached && result.is_ok() {
            // Under the lane's lock, as all that detaches: nobody has a newer one.
            shared.areas.set(slot, 1);
        } else {
            // Perhaps the server holds it. Not before now: a FREE that has waited since before this store
            // would have been sent before it.
            shared.areas.release(slot);
            self.freed = true;
        }
        shared.pool.put(number);
        Some(Landed {
            result,
            late: !attached,
            asked_us,
        })
    }

    /// How a copy that was sent has ended says whether the next are worth sending.
    pub(crate) fn tell_shared(&self, result: Result<(), StoreError>) {
        match result {
            Ok(()) => {
                sys::count_out(1);
                self.shared.store_went_well();
            }
            Err(error) => self.shared.store_failed(no_room(error)),
        }
    }

    /// Which slots of a cluster, given by its first, have a copy that is attached.
    pub(crate) fn busy(&self, cluster: u64) -> [u64; 8] {
        let mut busy = [0; 8];
        if self.attached > 0 {
            for slot in (cluster..).take(usize::from(CLUSTER_SLOTS)) {
                let bit = Slot(slot).index();
                if let (true, Some(word)) = (self.find(slot), busy.get_mut(bit / 64)) {
                    *word |= 1 << (bit % 64);
                }
            }
        }
        busy
    }

    fn find(&self, slot: u64) -> bool {
        let mut number = self.heads.get(self.bucket(slot)).copied().unwrap_or(NIL);
        while let Some(flight) = self.at(number) {
            if flight.slot == slot {
                return true;
            }
            number = flight.next;
        }
        false
    }

    /// Takes a slot's copy out of its chain.
    fn unlink(&mut self, slot: u64) {
        let bucket = self.bucket(slot);
        let mut number = self.heads.get(bucket).copied().unwrap_or(NIL);
        let mut before = None;
        while let Some(flight) = self.at(number).copied() {
            if flight.slot != slot {
                (before, number) = (Some(number), flight.next);
                continue;
            }
            let link = match before.and_then(|n| usize::try_from(n).ok()) {
                Some(before) => self.flights.get_mut(before).map(|f| &mut f.next),
                None => self.heads.get_mut(bucket),
            };
            if let Some(link) = link {
                *link = flight.next;
            }
            let place = usize::try_from(number).unwrap_or(usize::MAX);
            if let Some(flight) = self.flights.get_mut(place) {
                flight.attached = false;
                flight.next = NIL;
            }
            self.attached = self.attached.saturating_sub(1);
            return;
        }
    }
}
