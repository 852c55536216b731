// SPDX-License-Identifier: GPL-2.0-only

//! Pages that are asked for before anybody loads them: which, the engine decides (`engine/ahead.rs`).
//!
//! Their loads are as any other, into buffers of the lane's. Who loads such a slot then has a copy at once, or takes the
//! load over, so that the page comes into his folio. All of it is under the lane's state lock, but for the bytes on
//! their way into a buffer, as with a folio.
//!
//! # Never another page than was stored last
//!
//! A page is asked for ahead only while no store of its cluster is under way: then what a server answers is the
//! newest. What is there, or on its way, stops counting when a store of its slot is queued; and a slot that was freed
//! is loaded again only after a store. Without a second server, and without a disk behind: what these need (who has
//! which page, what may be read elsewhere) is said of loads that somebody waits for.

use super::config::Config;
use super::engine::{Ahead, AheadSlot, Found, Replica, MOST_AHEAD};
use super::lane::{Lane, State};
use super::platform::sys;
use super::protocol::Slot;
use super::table::{Done, LoadEntry, Target};
use kernel::prelude::*;

/// How many buffers a lane has.
pub(crate) fn pages(config: &Config) -> usize {
    if config.through || config.mirror.is_some() {
        return 0;
    }
    usize::try_from(config.ahead).map_or(0, |pages| pages.min(MOST_AHEAD))
}

/// For so many buffers.
#[inline(never)]
pub(crate) fn new(buffers: usize) -> Result<KBox<Ahead<KVVec<AheadSlot<u32>>>>> {
    let mut places = KVVec::with_capacity(buffers, GFP_KERNEL)?;
    for _ in 0..buffers {
        places.push(AheadSlot::EMPTY, GFP_KERNEL)?;
    }
    Ok(KBox::new(Ahead::new(places), GFP_KERNEL)?)
}

/// So many milliseconds of what is on its way may have gone by for one who takes it over: they are of his own time to
/// wait.
const YOUNG_MS: u64 = 1000;

/// How a load finds its page.
pub(crate) enum Looked {
    /// It is to be asked for.
    Nothing(LoadEntry),
    /// In its folio.
    Here(LoadEntry),
    /// On its way.
    UnderWay,
}

/// As [`super::platform::page::Buffers`] counts.
fn number(buffer: usize) -> u32 {
    u32::try_from(buffer).unwrap_or(u32::MAX)
}

impl Lane {
    /// Where page `index` of a load goes.
    pub(crate) fn page_of<'a>(&'a self, entry: &'a mut LoadEntry, index: u16) -> &'a mut [u8] {
        match &mut entry.target {
            Target::Folio(folio) => folio.page_mut(index),
            Target::Ahead(buffer) => self.ahead_pages.page_mut(number(*buffer)),
        }
    }

    /// Looks whether a page that is about to be loaded was asked for.
    pub(crate) fn look_ahead(&self, state: &mut State, mut entry: LoadEntry) -> Looked {
        let there = state.streams.is_connected(Replica::Primary);
        let young_ms = YOUNG_MS.min(self.shared.config.hold_ms / 2);
        let State { ahead, table, .. } = state;
        if entry.pages != 1 {
            return Looked::Nothing(entry);
        }
        let slot = Slot(entry.slot);
        match ahead.load(slot) {
            Found::Nothing => return Looked::Nothing(entry),
            Found::Page(buffer) => {
                let to = self.page_of(&mut entry, 0);
                if self.ahead_pages.copy_out(number(buffer), to) {
                    ahead.taken(buffer);
                    table.counters.used_ahead();
                    // What others take is not told by this.
                    entry.alone = false;
                    table.counters.load_ended(&entry, Ok(()));
                    return Looked::Here(entry);
                }
            }
            // What waits for a connection may be about to end, and as one that nobody needs.
            Found::Asked(buffer, load) if there => match table.take_over(load, entry, young_ms) {
                Ok(()) => {
                    ahead.taken(buffer);
                    table.counters.used_ahead();
                    return Looked::UnderWay;
                }
                Err(returned) => entry = returned,
            },
            Found::Asked(..) => {}
        }
        // It is asked for anew, and what comes of the other load is of no use.
        ahead.stored(slot);
        Looked::Nothing(entry)
    }

    /// Asks for what will probably be loaded after this slot.
    pub(crate) fn ask_ahead(&self, state: &mut State, slot: Slot) {
        if !state.streams.is_connected(Replica::Primary) {
            return;
        }
        let Some(mut plan) = state.ahead.plan(slot) else {
            return;
        };
        let areas = &self.shared.areas;
        let now_ms = sys::now_ms();
        let State {
            streams,
            table,
            ahead,
            ..
        } = state;
        while table.has_load_room() {
            let may = |slot: Slot| areas.count(slot.0, 1) == 1 && !table.may_be_storing(slot);
            let Some((slot, buffer)) = ahead.take(&mut plan, may) else {
                return;
            };
            let Ok(load) = table.begin_load(LoadEntry::ahead(slot, buffer)) else {
                ahead.landed(buffer, false);
                return;
            };
            if streams.load(slot, 1, load, now_ms, areas).is_err() {
                table.cancel_load(load);
                ahead.landed(buffer, false);
                return;
            }
            ahead.asks(buffer, load);
            table.counters.asked_ahead();
        }
    }

    /// Takes one of what has ended and must be told to the kernel.
    pub(crate) fn next_done(&self, state: &mut State) -> Option<Done> {
        loop {
            let done = state.table.pop_done(&self.shared.pool)?;
            let Done::Load(entry, result) = &done else {
                return Some(done);
            };
            let Target::Ahead(buffer) = entry.target else {
                return Some(done);
            };
            state.ahead.landed(buffer, result.is_ok());
            self.load_room.notify_one();
        }
    }
}
