// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Which pages to ask for before anybody does, and what became of them.
//!
//! The kernel reads a few pages ahead and waits for them; so a program that reads on and on waits once for
//! each few pages. Here the loads of a lane are watched for a stride that most of them share (the majority of the
//! last ones, as Leap does it: Al Maruf and Chowdhury, "Effectively Prefetching Remote Memory with Leap",
//! USENIX ATC 2020), and pages along it are asked for into buffers, more of them as long as they are used. Where more of
//! them are thrown away than used it stops for a while.
//!
//! # The life of a buffer
//!
//! ```text
//!              take()                 landed(true)
//!  (0) free ----------> (1) asked -----------------> (2) ready
//!   ^  ^                  |   |                        |
//!   |  |   landed(false)  |   | taken(): who loads     | taken(); thrown away: take() needs room, a pause
//!   |  +------------------+   | the slot has the       |
//!   |                         | answer for himself     |
//!   +-------------------------+------------------------+
//! ```
//!
//! A slot that is stored anew has another page from then on ([`Ahead::stored`]): what is ready of it is thrown away, what
//! was asked is found by nobody and counts for nothing when it comes.

use core::ops::DerefMut;

use super::super::protocol::Slot;

/// The most buffers.
pub const MOST_AHEAD: usize = 64;

/// How many of the last loads are looked at for what most of them share.
const HISTORY: usize = 16;

/// Pages that are asked ahead at first.
const FIRST: u16 = 4;

/// After so many pages it is looked whether they were used.
const JUDGED: u32 = 32;

/// A page that was loaded within so many loads of being asked for shows nothing: the kernel's own readahead asks for as
/// many at once.
const SOON: u64 = 8;

/// Loads for which nothing is asked ahead after that was in vain: at first, and at the most.
const PAUSE: u32 = 64;
const MOST_PAUSE: u32 = 1 << 14;

/// No slot.
const NONE: Slot = Slot(u64::MAX);

/// The place of one buffer; the caller supplies as many as it has buffers, [`MOST_AHEAD`] at the most, filled with
/// [`AheadSlot::EMPTY`].
#[derive(Clone, Copy, Debug)]
pub struct AheadSlot<L> {
    /// How many loads there had been when it was asked for.
    born: u64,
    state: State<L>,
}

#[derive(Clone, Copy, Debug)]
enum State<L> {
    Free,
    /// By the load with that token, if it was begun already.
    Asked(Option<L>),
    Ready,
}

impl<L> AheadSlot<L> {
    /// No page.
    pub const EMPTY: Self = AheadSlot {
        born: 0,
        state: State::Free,
    };
}

/// What a load finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<L> {
    /// Nothing: it is to be asked for.
    Nothing,
    /// Its page, in that buffer.
    Page(usize),
    /// It has been asked for already, into that buffer, by the load with that token.
    Asked(usize, L),
}

/// What to ask for.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    from: Slot,
    stride: i64,
    next: u16,
    end: u16,
}

/// Buffers of pages that nobody has asked for yet.
#[derive(Debug)]
pub struct Ahead<B> {
    /// The slot of each buffer whose page counts, else [`NONE`].
    slots: [Slot; MOST_AHEAD],
    buffers: B,
    /// How many slots in `slots` have each of the last eight bits: most slots that are looked for are none of them.
    ends: [u8; 256],
    /// Where a slot is looked for first, and a free buffer: most follow each other.
    next_found: usize,
    next_free: usize,
    /// A bit for each buffer that is free.
    free: u64,
    /// The differences between the slots of the last loads, and what more than half of them are.
    strides: [i64; HISTORY],
    at: usize,
    trend: Option<i64>,
    last: Slot,
    /// How far ahead pages are asked for.
    window: u16,
    /// How many loads there were.
    loads: u64,
    /// How many pages are asked for that have not come.
    asked: usize,
    /// Of the pages that were asked for lately, how many were loaded, how many thrown away.
    used: u32,
    wasted: u32,
    /// Loads for which nothing is asked ahead.
    pause: u32,
    next_pause: u32,
}

impl<L: Copy, B: DerefMut<Target = [AheadSlot<L>]>> Ahead<B> {
    /// With so many buffers as there are places; 0: it does nothing.
    pub fn new(buffers: B) -> Self {
        let free = bit(buffers.len()).wrapping_sub(1);
        Self {
            slots: [NONE; MOST_AHEAD],
            buffers,
            ends: [0; 256],
            next_found: 0,
            next_free: 0,
            free,
            strides: [0; HISTORY],
            at: 0,
            trend: None,
            last: Slot(0),
            window: FIRST,
            loads: 0,
            asked: 0,
            used: 0,
            wasted: 0,
            pause: 0,
            next_pause: PAUSE,
        }
    }

    /// The buffer whose page is that of a slot; it is probably so many places after that of the next load.
    fn find(&self, slot: Slot, later: u16) -> Option<usize> {
        if self.ends.get(end(slot)).is_none_or(|&n| n == 0) {
            return None;
        }
        let first = self.next_found.saturating_add(usize::from(later)) % MOST_AHEAD;
        around(first).find(|&n| self.slots.get(n) == Some(&slot))
    }

    /// The page of a buffer is that of a slot from now on.
    fn note_slot(&mut self, n: usize, slot: Slot) {
        if let (Some(of), Some(end)) = (self.slots.get_mut(n), self.ends.get_mut(end(slot))) {
            *of = slot;
            *end = end.saturating_add(1);
        }
    }

    /// The page of a buffer counts no more.
    fn forget(&mut self, n: usize) {
        let Some(of) = self.slots.get_mut(n).filter(|of| **of != NONE) else {
            return;
        };
        if let Some(end) = self.ends.get_mut(end(*of)) {
            *end = end.saturating_sub(1);
        }
        *of = NONE;
    }

    /// A buffer is free.
    fn free(&mut self, n: usize) {
        self.forget(n);
        if let Some(buffer) = self.buffers.get_mut(n) {
            if let State::Asked(_) = buffer.state {
                self.asked = self.asked.saturating_sub(1);
            }
            buffer.state = State::Free;
            self.free |= bit(n);
        }
    }

    fn state(&self, n: usize) -> State<L> {
        self.buffers
            .get(n)
            .map_or(State::Free, |buffer| buffer.state)
    }

    /// A slot is about to be loaded.
    pub fn load(&mut self, slot: Slot) -> Found<L> {
        if self.buffers.is_empty() {
            return Found::Nothing;
        }
        self.note(slot);
        let Some(n) = self.find(slot, 0) else {
            return Found::Nothing;
        };
        self.next_found = n.saturating_add(1) % MOST_AHEAD;
        match self.state(n) {
            State::Ready => Found::Page(n),
            State::Asked(Some(load)) => Found::Asked(n, load),
            State::Asked(None) | State::Free => Found::Nothing,
        }
    }

    /// Who loads the slot has the page of a buffer, or the answer that is to come.
    pub fn taken(&mut self, n: usize) {
        let born = self.buffers.get(n).map_or(0, |buffer| buffer.born);
        self.free(n);
        if self.loads.saturating_sub(born) > SOON {
            self.judge(true);
        }
    }

    /// A slot is about to get another page, or has been asked for anew.
    pub fn stored(&mut self, slot: Slot) {
        let Some(n) = self.find(slot, 0) else {
            return;
        };
        match self.state(n) {
            State::Asked(_) => self.forget(n),
            State::Ready | State::Free => self.free(n),
        }
        self.judge(false);
    }

    /// Whether most of the last loads were along a stride: then [`Ahead::plan`] is worth being called.
    pub fn follows(&self) -> bool {
        !self.buffers.is_empty() && self.trend.is_some()
    }

    /// Whether something is to be asked ahead now that a slot was loaded.
    pub fn plan(&mut self, slot: Slot) -> Option<Plan> {
        if self.buffers.is_empty() {
            return None;
        }
        if self.pause > 0 {
            self.pause = self.pause.saturating_sub(1);
            return None;
        }
        let Some(stride) = self.trend else {
            self.window = FIRST;
            return None;
        };
        // There is enough as long as half of it is left.
        let half = self.window / 2;
        if self
            .find(along(slot, stride, half)?, half.saturating_sub(1))
            .is_some()
        {
            return None;
        }
        let plan = Plan {
            from: slot,
            stride,
            next: 1,
            end: self.window,
        };
        let most = u16::try_from(self.buffers.len() / 2).unwrap_or(u16::MAX);
        self.window = self.window.saturating_mul(2).min(most.max(2));
        Some(plan)
    }

    /// The next slot to ask for, and the buffer for it, which is asked from now on; `may` tells of a slot whether it can
    /// be asked for. Then [`Ahead::asks`], or [`Ahead::landed`] if it is not asked after all.
    pub fn take(
        &mut self,
        plan: &mut Plan,
        mut may: impl FnMut(Slot) -> bool,
    ) -> Option<(Slot, usize)> {
        while plan.next <= plan.end && self.asked < self.buffers.len() / 2 {
            let slot = along(plan.from, plan.stride, plan.next)?;
            let later = plan.next.saturating_sub(1);
            plan.next = plan.next.saturating_add(1);
            if slot.cluster() != plan.from.cluster() {
                return None;
            }
            if self.find(slot, later).is_some() || !may(slot) {
                continue;
            }
            let Some(n) = self.room(&mut may) else {
                // Several programs read: each must do with less.
                self.window = (self.window / 2).max(FIRST);
                return None;
            };
            self.note_slot(n, slot);
            self.free &= !bit(n);
            let buffer = self.buffers.get_mut(n)?;
            buffer.born = self.loads;
            buffer.state = State::Asked(None);
            self.asked = self.asked.saturating_add(1);
            return Some((slot, n));
        }
        None
    }

    /// The page of a buffer is asked for by that load.
    pub fn asks(&mut self, n: usize, load: L) {
        if let Some(buffer) = self.buffers.get_mut(n) {
            buffer.state = State::Asked(Some(load));
        }
    }

    /// The page of a buffer has its answer, or was not asked after all.
    pub fn landed(&mut self, n: usize, ok: bool) {
        let counts = self.slots.get(n).is_some_and(|&slot| slot != NONE);
        if !(ok && counts) {
            self.free(n);
        } else if let Some(buffer) = self.buffers.get_mut(n) {
            buffer.state = State::Ready;
            self.asked = self.asked.saturating_sub(1);
        }
    }

    /// A buffer that is free; or that of the oldest page that nobody has loaded, or of one that cannot be loaded any more.
    fn room(&mut self, may: &mut impl FnMut(Slot) -> bool) -> Option<usize> {
        if self.free != 0 {
            // From there on, as if the set were a ring.
            let first = u32::try_from(self.next_free).unwrap_or(0);
            let n = first.saturating_add(self.free.rotate_right(first).trailing_zeros());
            let n = usize::try_from(n).unwrap_or(0) % MOST_AHEAD;
            self.next_free = n.saturating_add(1) % MOST_AHEAD;
            return Some(n);
        }
        let ready = |(_, buffer): &(usize, &AheadSlot<L>)| matches!(buffer.state, State::Ready);
        let buffers = || self.buffers.iter().enumerate().filter(ready);
        let (oldest, buffer) = buffers().min_by_key(|(_, buffer)| buffer.born)?;
        let age = self.loads.saturating_sub(buffer.born);
        let n = if usize::try_from(age).unwrap_or(usize::MAX) < self.buffers.len() {
            // It may still be wanted.
            let gone = |&(n, _): &(usize, _)| self.slots.get(n).is_some_and(|&slot| !may(slot));
            buffers().find(gone)?.0
        } else {
            oldest
        };
        self.free(n);
        self.judge(false);
        Some(n)
    }

    fn note(&mut self, slot: Slot) {
        let stride = i64::try_from(slot.0)
            .unwrap_or(i64::MAX)
            .saturating_sub(i64::try_from(self.last.0).unwrap_or(i64::MAX));
        self.last = slot;
        self.loads = self.loads.saturating_add(1);
        if self
            .trend
            .is_some_and(|trend| !self.leads_on(trend, stride))
        {
            // Another program's turn, or the end of a run: who knows how long the next is.
            self.window = FIRST;
        }
        if let Some(place) = self.strides.get_mut(self.at) {
            let same = *place == stride;
            *place = stride;
            self.at = self.at.saturating_add(1) % HISTORY;
            if !same {
                self.trend = self.vote();
            }
        }
    }

    /// Whether a stride is of the run that has this trend: pages that are there already are not loaded.
    fn leads_on(&self, trend: i64, stride: i64) -> bool {
        let steps = stride.checked_div(trend).unwrap_or(0);
        let whole = steps.checked_mul(trend) == Some(stride);
        whole && (1..=i64::from(self.window)).contains(&steps)
    }

    /// What more than half of the last strides are, by Boyer and Moore's vote.
    fn vote(&self) -> Option<i64> {
        let (mut stride, mut lead) = (0, 0_u32);
        for &one in &self.strides {
            if lead == 0 {
                stride = one;
            }
            lead = if one == stride {
                lead.saturating_add(1)
            } else {
                lead.saturating_sub(1)
            };
        }
        let votes = self.strides.iter().filter(|&&one| one == stride).count();
        (stride != 0 && votes > HISTORY / 2).then_some(stride)
    }

    /// A page that was asked ahead was used, or thrown away.
    fn judge(&mut self, used: bool) {
        if used {
            self.used = self.used.saturating_add(1);
        } else {
            self.wasted = self.wasted.saturating_add(1);
        }
        if self.used.saturating_add(self.wasted) < JUDGED {
            return;
        }
        if self.wasted > self.used {
            self.pause = self.next_pause;
            self.next_pause = self.next_pause.saturating_mul(2).min(MOST_PAUSE);
            self.window = FIRST;
            for n in 0..self.buffers.len() {
                if let State::Ready = self.state(n) {
                    self.free(n);
                }
            }
        } else {
            self.next_pause = PAUSE;
        }
        (self.used, self.wasted) = (0, 0);
    }
}

/// Its last eight bits.
fn end(slot: Slot) -> usize {
    let [end, ..] = slot.0.to_le_bytes();
    usize::from(end)
}

/// Its bit in a set of buffers; none for one beyond [`MOST_AHEAD`], so that the set of those below it is all.
fn bit(n: usize) -> u64 {
    u32::try_from(n).map_or(0, |n| 1_u64.checked_shl(n).unwrap_or(0))
}

/// The places of buffers, from one on.
fn around(from: usize) -> impl Iterator<Item = usize> {
    (from..MOST_AHEAD).chain(0..from)
}

/// The slot so many strides on.
fn along(slot: Slot, stride: i64, n: u16) -> Option<Slot> {
    let by = stride.checked_mul(i64::from(n))?;
    slot.0.checked_add_signed(by).map(Slot)
}
