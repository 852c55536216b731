// SPDX-License-Identifier: GPL-2.0-only

//! What is in flight on one lane: the folios behind the engine's tokens.
//!
//! The engine counts pages, the kernel folios: a folio that is stored is a group of operations that
//! ends with the last of them. Everything here is under the lane's state lock and allocates nothing.
//! What has ended waits in a list until the lock is dropped, because ending a folio takes other locks.

use super::engine::{Completion, LoadError, StoreError, Tail};
use super::flights::Flights;
use super::platform::{
    folio::{LoadingFolio, WritebackFolio},
    sys, //
};
use super::pool::Pool;
use super::protocol::Slot;
use super::stages::Came;
use super::stats::LaneCounters;
use kernel::prelude::*;

/// Ends the lists.
const NIL: u32 = u32::MAX;

/// A folio being stored.
pub(crate) struct Group {
    pub(crate) folio: WritebackFolio,
    pub(crate) slot: u64,
    pub(crate) pages: u16,
    pub(crate) asked_us: u64,
    left: u16,
    pub(crate) failed: Option<StoreError>,
}

/// Where what is loaded goes.
pub(crate) enum Target {
    /// A folio.
    Folio(LoadingFolio),
    /// A buffer of the lane's, as nobody has asked for the page.
    Ahead(usize),
}

/// Something being loaded.
pub(crate) struct LoadEntry {
    pub(crate) target: Target,
    /// The first slot.
    pub(crate) slot: u64,
    pub(crate) pages: u16,
    pub(crate) asked_ns: u64,
    /// When its page began to come in, if that is looked at.
    pub(crate) came: Option<Came>,
    /// Asked by swapoff: a failure would destroy the page for good, so it waits without limit.
    pub(crate) patient: bool,
    /// Asked with no others, by a task that waits for just this.
    pub(crate) alone: bool,
    /// The task that waits for it, where it is known that one does.
    pub(crate) waiting: Option<sys::Waiting>,
    /// Whether it was asked in a phase in which tasks spin; none where so many wait that nobody does.
    pub(crate) spinning: Option<bool>,
    /// How often it came back damaged.
    pub(crate) damaged: u8,
    /// Who may have it is waited for no more.
    pub(crate) given_up: bool,
}

/// How often a page that came back damaged is asked for again.
const RETRIES: u8 = 2;

impl LoadEntry {
    /// A load that begins.
    pub(crate) fn new(folio: LoadingFolio) -> Self {
        let alone = !sys::has_plug();
        Self {
            slot: folio.slot(),
            pages: folio.pages(),
            target: Target::Folio(folio),
            asked_ns: sys::now_ns(),
            came: None,
            patient: sys::current_is_swapoff(),
            alone,
            waiting: alone.then(sys::Waiting::begin),
            spinning: None,
            damaged: 0,
            given_up: false,
        }
    }

    /// The load of a page that nobody has asked for, into that buffer.
    pub(crate) fn ahead(slot: Slot, buffer: usize) -> Self {
        Self {
            target: Target::Ahead(buffer),
            slot: slot.0,
            pages: 1,
            asked_ns: sys::now_ns(),
            came: None,
            patient: false,
            alone: false,
            waiting: None,
            spinning: None,
            damaged: 0,
            given_up: false,
        }
    }

    /// The folio, if it is for one.
    pub(crate) fn into_folio(self) -> Option<LoadingFolio> {
        match self.target {
            Target::Folio(folio) => Some(folio),
            Target::Ahead(_) => None,
        }
    }

    /// Counts a damaged page; whether it is worth asking for it again.
    pub(crate) fn may_try_again(&mut self) -> bool {
        self.damaged = self.damaged.saturating_add(1);
        self.damaged <= RETRIES
    }
}

/// Something that has ended and must be told to the kernel, without the lock.
pub(crate) enum Done {
    /// Every page of a folio was answered.
    Store(Group),
    /// A folio was read, or cannot be.
    Load(LoadEntry, Result<(), LoadError>),
}

/// Where a pool page belongs.
struct Copy {
    /// The group's first page; the group is kept there.
    lead: u32,
    group: Option<Group>,
    next_done: u32,
    /// The slot's shard in [`Table::storing`].
    shard: u8,
}

/// Shards of clusters that are told apart where it is asked whether one has stores under way.
const SHARDS: usize = 64;

struct Load {
    entry: Option<LoadEntry>,
    result: Result<(), LoadError>,
    /// In the free list or the list of the ended.
    next: u32,
}

/// The folios in flight on a lane.
pub(crate) struct Table {
    copies: KVVec<Copy>,
    loads: KVVec<Load>,
    free_load: u32,
    done_store: u32,
    done_load: u32,
    /// How many copies of each shard of clusters are on their way.
    storing: [u32; SHARDS],
    /// Loads that have failed and are to be read from the disk; each keeps its entry until a thread has it.
    disk_load: u32,
    /// With `disk=through`: the copies, which then belong to no folio.
    pub(crate) flights: Option<Flights>,
    /// Where the server forwards to its mirror: what that may not have.
    pub(crate) tail: Option<Tail<KVVec<Slot>>>,
    pub(crate) counters: KBox<LaneCounters>,
}

fn shard(slot: u64) -> usize {
    // Fibonacci hashing: a lane has each nth cluster only. Six bits.
    (Slot(slot).cluster().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize
}

fn at<T>(items: &mut [T], number: u32) -> Option<&mut T> {
    items.get_mut(usize::try_from(number).ok()?)
}

impl Table {
    /// For copies out of a pool of `copies` pages, and `loads` loads.
    pub(crate) fn new(
        copies: u32,
        loads: u32,
        flights: Option<Flights>,
        tail: Option<Tail<KVVec<Slot>>>,
    ) -> Result<Self> {
        let mut this = Self {
            copies: KVVec::with_capacity(usize::try_from(copies)?, GFP_KERNEL)?,
            loads: KVVec::with_capacity(usize::try_from(loads)?, GFP_KERNEL)?,
            free_load: NIL,
            done_store: NIL,
            done_load: NIL,
            storing: [0; SHARDS],
            disk_load: NIL,
            flights,
            tail,
            counters: KBox::new(LaneCounters::default(), GFP_KERNEL)?,
        };
        for _ in 0..copies {
            let copy = Copy {
                lead: NIL,
                group: None,
                next_done: NIL,
                shard: 0,
            };
            this.copies.push(copy, GFP_KERNEL)?;
        }
        for number in 0..loads {
            let load = Load {
                entry: None,
                result: Ok(()),
                next: this.free_load,
            };
            this.loads.push(load, GFP_KERNEL)?;
            this.free_load = number;
        }
        Ok(this)
    }

    /// The engine is about to be asked for a store.
    pub(crate) fn asked(&mut self, number: u32, slot: u64) {
        if let Some(tail) = &mut self.tail {
            tail.asked(number, Slot(slot));
        }
    }

    /// Begins a group of `pages` operations whose first copy is `lead`.
    pub(crate) fn begin_store(&mut self, lead: u32, folio: WritebackFolio, slot: u64, pages: u16) {
        if let Some(copy) = at(&mut self.copies, lead) {
            copy.group = Some(Group {
                folio,
                slot,
                pages,
                asked_us: sys::now_us(),
                left: pages,
                failed: None,
            });
        }
    }

    /// Makes copy `number`, of a slot, one of the group of `lead`.
    pub(crate) fn add_copy(&mut self, number: u32, lead: u32, slot: u64) {
        if let Some(copy) = at(&mut self.copies, number) {
            copy.lead = lead;
            // Below 64.
            copy.shard = shard(slot) as u8;
            if let Some(storing) = self.storing.get_mut(shard(slot)) {
                *storing = storing.saturating_add(1);
            }
        }
    }

    /// Whether a store of a slot may be on its way: if not, what a server answers for it is its newest page.
    pub(crate) fn may_be_storing(&self, slot: Slot) -> bool {
        self.storing.get(shard(slot.0)).is_some_and(|&n| n > 0)
    }

    /// A copy's operation has ended; the group ends with its last.
    pub(crate) fn end_copy(&mut self, number: u32, result: Result<(), StoreError>, pool: &Pool) {
        let found = at(&mut self.copies, number).map(|copy| (copy.lead, copy.shard));
        let Some((lead, shard)) = found else {
            return;
        };
        if let Some(storing) = self.storing.get_mut(usize::from(shard)) {
            *storing = storing.saturating_sub(1);
        }
        // The first copy's number names the group: it goes back to the pool with the group's end.
        if number != lead {
            pool.put(number);
        }
        self.end_pages(lead, 1, result);
    }

    /// The last pages of a group were never asked.
    pub(crate) fn abandon(&mut self, lead: u32, pages: u16) {
        self.end_pages(lead, pages, Err(StoreError::Expired));
    }

    fn end_pages(&mut self, lead: u32, pages: u16, result: Result<(), StoreError>) {
        let head = self.done_store;
        let Some(copy) = at(&mut self.copies, lead) else {
            return;
        };
        let Some(group) = copy.group.as_mut() else {
            return;
        };
        group.left = group.left.saturating_sub(pages);
        if let Err(error) = result {
            group.failed = Some(error);
        }
        if group.left > 0 {
            return;
        }
        copy.next_done = head;
        self.done_store = lead;
    }

    /// Room for one more load.
    pub(crate) fn has_load_room(&self) -> bool {
        self.free_load != NIL
    }

    /// Begins a load and returns its number; gives the entry back where there is no room.
    pub(crate) fn begin_load(&mut self, entry: LoadEntry) -> Result<u32, LoadEntry> {
        let number = self.free_load;
        match at(&mut self.loads, number) {
            Some(load) => {
                self.free_load = load.next;
                load.next = NIL;
                load.entry = Some(entry);
                Ok(number)
            }
            None => Err(entry),
        }
    }

    /// Takes back a load that was begun and not asked.
    pub(crate) fn cancel_load(&mut self, number: u32) -> Option<LoadEntry> {
        let free = self.free_load;
        let load = at(&mut self.loads, number)?;
        load.next = free;
        self.free_load = number;
        load.entry.take()
    }

    /// Gives a load that nobody had asked for to somebody who waits for its page, if it is younger than that and its page
    /// does not come in just now.
    pub(crate) fn take_over(
        &mut self,
        number: u32,
        entry: LoadEntry,
        young_ms: u64,
    ) -> Result<(), LoadEntry> {
        match at(&mut self.loads, number).and_then(|load| load.entry.as_mut()) {
            Some(ahead)
                if matches!(ahead.target, Target::Ahead(_))
                    && sys::now_ns().saturating_sub(ahead.asked_ns) < young_ms * 1_000_000 =>
            {
                *ahead = LoadEntry {
                    damaged: ahead.damaged,
                    // What is left of the way is not what a load takes.
                    alone: false,
                    ..entry
                };
                Ok(())
            }
            _ => Err(entry),
        }
    }

    /// A load is waited for by itself, although others were asked for with it.
    pub(crate) fn waits_alone(&mut self, number: u32) {
        if let Some(entry) = at(&mut self.loads, number).and_then(|load| load.entry.as_mut()) {
            entry.alone = true;
            entry.waiting = Some(sys::Waiting::begin());
        }
    }

    /// Takes a load's folio out, to fill it without the lock.
    pub(crate) fn lend(&mut self, number: u32) -> Option<LoadEntry> {
        at(&mut self.loads, number)?.entry.take()
    }

    /// Puts a folio back that was lent.
    pub(crate) fn give_back(&mut self, number: u32, entry: LoadEntry) {
        if let Some(load) = at(&mut self.loads, number) {
            load.entry = Some(entry);
        }
    }

    fn load(&self, number: u32) -> Option<&LoadEntry> {
        let load = self.loads.get(usize::try_from(number).ok()?)?;
        load.entry.as_ref()
    }

    /// Whether a load may be given up.
    pub(crate) fn is_patient(&self, number: u32) -> bool {
        self.load(number).is_some_and(|entry| entry.patient)
    }

    /// Nobody waits any more for who may have a load's page.
    pub(crate) fn give_up(&mut self, number: u32) {
        if let Some(entry) = at(&mut self.loads, number).and_then(|load| load.entry.as_mut()) {
            entry.given_up = true;
        }
    }

    /// The first slot that a load is of.
    pub(crate) fn slot_of(&self, number: u32) -> Option<u64> {
        self.load(number).map(|entry| entry.slot)
    }

    /// A load is the first that the mirror answers for the primary, which is away.
    pub(crate) fn failed_over(&mut self, number: u32) {
        if let Some(load) = at(&mut self.loads, number) {
            if let Some(entry) = &load.entry {
                self.counters.failed_over(entry);
            }
        }
    }

    /// The engine says that something has ended.
    pub(crate) fn complete(&mut self, completion: Completion<u32, u32>, pool: &Pool) {
        let completion = self.look_at_tail(completion);
        match (completion, &mut self.flights) {
            (Completion::Store { token, result }, Some(flights)) => {
                if let Some(landed) = flights.end(token, result) {
                    flights.tell_shared(result);
                    self.counters.copy_ended(&landed);
                }
            }
            (Completion::Store { token, result }, None) => self.end_copy(token, result, pool),
            (Completion::Load { token, result }, flights) => {
                let list = match (result, flights) {
                    (Err(_), Some(_)) => &mut self.disk_load,
                    _ => &mut self.done_load,
                };
                if let Some(load) = at(&mut self.loads, token) {
                    load.result = result;
                    load.next = *list;
                    *list = token;
                }
            }
        }
    }

    /// What a server's mirror answers for a page that it may never have got is not the page.
    fn look_at_tail(&mut self, completion: Completion<u32, u32>) -> Completion<u32, u32> {
        let Some(tail) = &mut self.tail else {
            return completion;
        };
        match completion {
            Completion::Store {
                token,
                result: Ok(()),
            } => tail.stored(token),
            Completion::Load {
                token,
                result: Ok(()),
            } => {
                let load = at(&mut self.loads, token).and_then(|load| load.entry.as_ref());
                if load.is_some_and(|load| tail.has_lost(Slot(load.slot), load.pages)) {
                    let result = Err(LoadError::Gone);
                    return Completion::Load { token, result };
                }
            }
            _ => {}
        }
        completion
    }

    /// Whether there are loads to be read from the disk.
    pub(crate) fn wants_disk(&self) -> bool {
        self.disk_load != NIL
    }

    /// Takes a load that is to be read from the disk.
    pub(crate) fn pop_disk(&mut self) -> Option<LoadEntry> {
        let number = self.disk_load;
        let load = at(&mut self.loads, number)?;
        self.disk_load = load.next;
        load.next = self.free_load;
        self.free_load = number;
        load.entry.take()
    }

    /// Takes one of what has ended, and counts it.
    pub(crate) fn pop_done(&mut self, pool: &Pool) -> Option<Done> {
        if let Some(load) = at(&mut self.loads, self.done_load) {
            let number = self.done_load;
            self.done_load = load.next;
            load.next = self.free_load;
            self.free_load = number;
            let entry = load.entry.take()?;
            let result = load.result;
            if let Target::Folio(_) = entry.target {
                self.counters.load_ended(&entry, result);
            }
            return Some(Done::Load(entry, result));
        }
        let lead = self.done_store;
        let copy = at(&mut self.copies, lead)?;
        self.done_store = copy.next_done;
        let group = copy.group.take()?;
        pool.put(lead);
        self.counters.store_ended(&group);
        Some(Done::Store(group))
    }
}

impl Group {
    /// Whether the server said that it has no room.
    pub(crate) fn no_room(&self) -> bool {
        self.failed.is_some_and(no_room)
    }
}

/// Whether the server said that it has no room.
pub(crate) fn no_room(error: StoreError) -> bool {
    matches!(error, StoreError::Refused(status) if status.is_no_room())
}
