// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The loads of a stream that are not yet answered: a table, and a list through it in the order of asking.
//!
//! The list ends with the loads that are to be sent: loads are sent in the order of asking, and after
//! a reconnect all of them are. A tag is an entry's place in its low 16 bits and above them a number that
//! no other LOAD of this stream has had: so an answer finds its load at once, and nothing but the
//! answer to this very LOAD fits it.

use core::marker::PhantomData;
use core::ops::DerefMut;

use super::super::protocol::{Message, Slot, Status, Tag};
use super::types::{Fault, LoadError, NoRoom, PageTarget};

/// The place of one load in the table; the caller supplies the table, filled with
/// [`LoadSlot::EMPTY`]. No more than 65535 entries are used.
#[derive(Clone, Copy, Debug)]
pub struct LoadSlot<L> {
    load: Option<Load<L>>,
    prev: u16,
    /// The next in the list, or of the free entries.
    next: u16,
}

/// No entry.
const NIL: u16 = u16::MAX;

/// Bits of a tag that tell the entry's place.
const PLACE_BITS: u32 = 16;

#[derive(Clone, Copy, Debug)]
struct Load<L> {
    token: L,
    /// The first slot, and how many.
    slot: Slot,
    count: u16,
    /// How many pages, from the first, have their answer.
    answered: u16,
    /// The first failure among them.
    error: Option<LoadError>,
    since_ms: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Queued,
    Sent(Tag),
    Receiving(Tag),
}

/// A load that has ended.
pub(super) type Ended<L> = (L, Result<(), LoadError>);

impl<L> LoadSlot<L> {
    /// No load.
    pub const EMPTY: Self = LoadSlot {
        load: None,
        prev: NIL,
        next: NIL,
    };
}

impl<L> Default for LoadSlot<L> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<L> Load<L> {
    /// The slot whose answer is next.
    fn expected(&self) -> Slot {
        // The run lies within a cluster, so that no number in it overflows.
        self.slot.plus(self.answered).unwrap_or(self.slot)
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Loads<L, B> {
    buf: B,
    first: u16,
    last: u16,
    /// The first of the list that is to be sent.
    unsent: u16,
    free: u16,
    capacity: usize,
    len: usize,
    queued: usize,
    /// The number in the last tag.
    issued: u64,
    token: PhantomData<L>,
}

impl<L: Copy, B: DerefMut<Target = [LoadSlot<L>]>> Loads<L, B> {
    pub(super) fn new(mut buf: B) -> Self {
        let (mut free, mut capacity) = (NIL, 0_usize);
        for (place, entry) in (0..NIL).zip(buf.iter_mut()) {
            *entry = LoadSlot {
                next: free,
                ..LoadSlot::EMPTY
            };
            free = place;
            capacity = capacity.saturating_add(1);
        }
        Self {
            buf,
            first: NIL,
            last: NIL,
            unsent: NIL,
            free,
            capacity,
            len: 0,
            queued: 0,
            issued: 0,
            token: PhantomData,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// Loads sent on this connection and not answered in full.
    pub(super) fn unanswered(&self) -> usize {
        self.len.saturating_sub(self.queued)
    }

    pub(super) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.len)
    }

    /// When the oldest load was asked.
    pub(super) fn oldest_ms(&self) -> Option<u64> {
        Some(self.load(self.first)?.since_ms)
    }

    pub(super) fn push(
        &mut self,
        slot: Slot,
        count: u16,
        token: L,
        since_ms: u64,
    ) -> Result<(), NoRoom> {
        if !slot.run_fits(count) {
            return Err(NoRoom);
        }
        let (place, prev) = (self.free, self.last);
        let state = State::Queued;
        let load = Load {
            token,
            slot,
            count,
            answered: 0,
            error: None,
            since_ms,
            state,
        };
        let entry = self.get_mut(place).ok_or(NoRoom)?;
        let free = entry.next;
        *entry = LoadSlot {
            load: Some(load),
            prev,
            next: NIL,
        };
        self.free = free;
        match self.get_mut(prev) {
            Some(before) => before.next = place,
            None => self.first = place,
        }
        self.last = place;
        if self.unsent == NIL {
            self.unsent = place;
        }
        self.len = self.len.saturating_add(1);
        self.queued = self.queued.saturating_add(1);
        Ok(())
    }

    /// The next LOAD to send, from now on sent, and its tag.
    pub(super) fn send_next(&mut self) -> Option<(Tag, Message)> {
        let place = self.unsent;
        let number = self.issued.wrapping_add(1);
        let tag = Tag((number << PLACE_BITS) | u64::from(place));
        let entry = self.get_mut(place)?;
        let next = entry.next;
        let load = entry.load.as_mut()?;
        load.state = State::Sent(tag);
        let (slot, count) = (load.expected(), load.count.saturating_sub(load.answered));
        self.issued = number;
        self.unsent = next;
        self.queued = self.queued.saturating_sub(1);
        Some((tag, Message::Load { tag, slot, count }))
    }

    /// A page of the load with this tag comes next.
    pub(super) fn page(&mut self, tag: Tag, slot: Slot) -> Result<PageTarget<L>, Fault> {
        let (_, load) = self.waiting(tag, slot)?;
        load.state = State::Receiving(tag);
        Ok(PageTarget {
            token: load.token,
            index: load.answered,
        })
    }

    /// Whose load was sent under this tag, unless a page of it has come, or is coming in.
    pub(super) fn asked(&self, tag: Tag) -> Option<L> {
        let load = self.load(place_of(tag))?;
        (load.state == State::Sent(tag) && load.answered == 0).then_some(load.token)
    }

    /// Whose page is coming in under this tag.
    pub(super) fn receiving(&self, tag: Tag) -> Option<PageTarget<L>> {
        let load = self.load(place_of(tag))?;
        (load.state == State::Receiving(tag)).then_some(PageTarget {
            token: load.token,
            index: load.answered,
        })
    }

    /// The page has come, or was not the right one.
    pub(super) fn page_done(
        &mut self,
        tag: Tag,
        result: Result<(), LoadError>,
    ) -> Result<Option<Ended<L>>, Fault> {
        let place = place_of(tag);
        match self.load_mut(place) {
            Some(load) if load.state == State::Receiving(tag) => load.state = State::Sent(tag),
            _ => return Err(Fault::PageNotBegun { tag }),
        }
        Ok(self.answered(place, result))
    }

    /// A page of the load with this tag cannot be had.
    pub(super) fn no_page(
        &mut self,
        tag: Tag,
        slot: Slot,
        status: Status,
    ) -> Result<Option<Ended<L>>, Fault> {
        let (place, _) = self.waiting(tag, slot)?;
        let error = match status {
            Status::NotFound => LoadError::Gone,
            other => LoadError::Refused(other),
        };
        Ok(self.answered(place, Err(error)))
    }

    /// The connection is gone: all that is not completed is to be sent again.
    pub(super) fn rewind(&mut self) {
        let mut place = self.first;
        while let Some(entry) = self.get_mut(place) {
            if let Some(load) = entry.load.as_mut() {
                load.state = State::Queued;
            }
            place = entry.next;
        }
        self.unsent = self.first;
        self.queued = self.len;
    }

    /// Whether there is one that `overdue` says yes to.
    pub(super) fn any(&self, mut overdue: impl FnMut(&L, u64) -> bool) -> bool {
        let mut place = self.first;
        while let Some(entry) = self.get(place) {
            if entry
                .load
                .as_ref()
                .is_some_and(|load| overdue(&load.token, load.since_ms))
            {
                return true;
            }
            place = entry.next;
        }
        false
    }

    /// Ends the loads that `keep` refuses; those of a connection must be rewound before.
    pub(super) fn expire(
        &mut self,
        mut keep: impl FnMut(&L, u64) -> bool,
        mut done: impl FnMut(Ended<L>),
    ) {
        let mut place = self.first;
        while let Some(entry) = self.get(place) {
            let next = entry.next;
            let refused = entry.load.filter(|load| !keep(&load.token, load.since_ms));
            if refused.is_some() {
                if let Some(load) = self.remove(place) {
                    done((load.token, Err(LoadError::Expired)));
                }
            }
            place = next;
        }
    }

    /// The load that was sent with this tag, if it is this slot's turn in it.
    fn waiting(&mut self, tag: Tag, slot: Slot) -> Result<(u16, &mut Load<L>), Fault> {
        let place = place_of(tag);
        match self.load_mut(place) {
            Some(load) if load.state == State::Sent(tag) => match load.expected() {
                expected if expected == slot => Ok((place, load)),
                expected => Err(Fault::SlotUnexpected {
                    tag,
                    expected,
                    got: slot,
                }),
            },
            _ => Err(Fault::TagUnknown { tag }),
        }
    }

    /// Counts one answer, and ends the load with its last.
    fn answered(&mut self, place: u16, result: Result<(), LoadError>) -> Option<Ended<L>> {
        let load = self.load_mut(place)?;
        load.answered = load.answered.saturating_add(1);
        load.error = load.error.or(result.err());
        if load.answered < load.count {
            return None;
        }
        let load = self.remove(place)?;
        Some((load.token, load.error.map_or(Ok(()), Err)))
    }

    /// Takes a load out of the list and frees its entry.
    fn remove(&mut self, place: u16) -> Option<Load<L>> {
        let free = self.free;
        let entry = self.get_mut(place)?;
        let load = entry.load.take()?;
        let (prev, next) = (entry.prev, entry.next);
        *entry = LoadSlot {
            next: free,
            ..LoadSlot::EMPTY
        };
        self.free = place;
        match self.get_mut(prev) {
            Some(before) => before.next = next,
            None => self.first = next,
        }
        match self.get_mut(next) {
            Some(after) => after.prev = prev,
            None => self.last = prev,
        }
        if self.unsent == place {
            self.unsent = next;
        }
        self.len = self.len.saturating_sub(1);
        if load.state == State::Queued {
            self.queued = self.queued.saturating_sub(1);
        }
        Some(load)
    }

    fn get(&self, place: u16) -> Option<&LoadSlot<L>> {
        // The table may be longer than what is used of it, so that NIL must be refused by itself.
        if place == NIL {
            return None;
        }
        self.buf.get(usize::from(place))
    }

    fn get_mut(&mut self, place: u16) -> Option<&mut LoadSlot<L>> {
        if place == NIL {
            return None;
        }
        self.buf.get_mut(usize::from(place))
    }

    fn load(&self, place: u16) -> Option<&Load<L>> {
        self.get(place)?.load.as_ref()
    }

    fn load_mut(&mut self, place: u16) -> Option<&mut Load<L>> {
        self.get_mut(place)?.load.as_mut()
    }
}

/// The entry that a tag names.
fn place_of(tag: Tag) -> u16 {
    let [low, high, ..] = tag.0.to_le_bytes();
    u16::from_le_bytes([low, high])
}
