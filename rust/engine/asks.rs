// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The loads of a lane: for each, of whom it was asked, and whose page is being written into its memory.
//!
//! An entry outlives its load's completion for as long as a replica owes an answer to it: the
//! streams know loads by the number of their entry.

use core::ops::DerefMut;

use super::super::protocol::{Seq, Slot, Status};
use super::replica::{Both, Replica};
use super::types::LoadError;

/// The place of one load; the caller supplies the table, filled with [`AskSlot::EMPTY`]. No more than
/// 65535 entries are used.
#[derive(Clone, Copy, Debug)]
pub struct AskSlot<L> {
    load: Option<Load<L>>,
    /// The next free entry.
    next: u16,
}

impl<L> AskSlot<L> {
    /// No load.
    pub const EMPTY: Self = AskSlot {
        load: None,
        next: NIL,
    };
}

impl<L> Default for AskSlot<L> {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// No entry.
const NIL: u16 = u16::MAX;

#[derive(Clone, Copy, Debug)]
pub(super) struct Load<L> {
    pub(super) token: L,
    pub(super) slot: Slot,
    pub(super) count: u16,
    /// When the caller asked.
    pub(super) since_ms: u64,
    pub(super) asks: Both<Ask>,
    /// Who writes the load's memory, and which of its pages.
    pub(super) writer: Option<(Replica, u16)>,
    /// Completed: answers that are still owed are of no use.
    pub(super) done: bool,
    /// Asked once more of one that lacked it: see [`Load::ask_again`].
    pub(super) again: bool,
}

/// How a load stands with a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ask {
    /// Not asked, or taken back.
    No,
    /// In the replica's stream.
    Pending {
        /// The load's memory has each page that this replica has delivered.
        useful: bool,
        /// How many of its pages this replica has written.
        written: u16,
        /// Its answer counts only if it says before that it has executed this.
        needs: Option<Seq>,
    },
    /// Answered while the other one was writing: it has the pages, but they were not kept.
    Skipped,
    /// Cannot answer.
    Failed {
        error: LoadError,
        /// Whether the replica should have been able to.
        whole: bool,
    },
}

impl Ask {
    pub(super) fn asked(needs: Option<Seq>) -> Ask {
        Ask::Pending {
            useful: true,
            written: 0,
            needs,
        }
    }

    pub(super) fn is_pending(self) -> bool {
        matches!(self, Ask::Pending { .. })
    }

    pub(super) fn is_useful(self) -> bool {
        matches!(self, Ask::Pending { useful: true, .. })
    }

    /// Whether an answer does not count, the replica not having said that it has come far enough.
    pub(super) fn is_unproved(self) -> bool {
        matches!(self, Ask::Pending { needs: Some(_), .. })
    }

    /// Whether it makes sense to ask this replica.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Ask::No | Ask::Skipped)
    }

    /// How much a failure says: that a replica which may lack pages has none says nothing.
    pub(super) fn weight(self) -> Option<(u8, LoadError)> {
        let Ask::Failed { error, whole } = self else {
            return None;
        };
        let weight = match error {
            LoadError::Gone if !whole => 0,
            LoadError::Expired => 1,
            LoadError::Refused(status) if status != Status::BadChecksum => 1,
            LoadError::Gone => 2,
            LoadError::Refused(_) | LoadError::Checksum => 3,
        };
        Some((weight, error))
    }

    /// Whether a replica that was whole has lost or damaged the page.
    pub(super) fn is_faulty(self) -> bool {
        matches!(
            self,
            Ask::Failed {
                error: LoadError::Gone
                    | LoadError::Checksum
                    | LoadError::Refused(Status::BadChecksum),
                whole: true,
            }
        )
    }
}

impl<L: Copy> Load<L> {
    /// Whether an answer is owed by anyone.
    pub(super) fn is_pending(&self) -> bool {
        self.asks.primary.is_pending() || self.asks.mirror.is_pending()
    }

    /// Whether it was asked of both, or what is asked of one is of no use any more: so it may hold
    /// its entry for longer than the caller's load lasts.
    fn lingers(&self) -> bool {
        self.done || (self.asks.primary.is_pending() && self.asks.mirror.is_pending())
    }

    /// Opens what failed at this replica because it may lack pages, once in a load's life: it may have fetched
    /// them since from the other one, which has lost them since then.
    pub(super) fn ask_again(&mut self, replica: Replica) -> bool {
        let again = !self.again && self.reopen(replica);
        self.again |= again;
        again
    }

    /// Opens what failed at this replica because it may lack pages, if anything did.
    pub(super) fn reopen(&mut self, replica: Replica) -> bool {
        let ask = self.asks.at_mut(replica);
        let lacked = ask.weight().is_some_and(|(weight, _)| weight == 0);
        if lacked {
            *ask = Ask::No;
        }
        lacked
    }

    /// A page of the replica comes next; `None` if it cannot be written into the load's memory.
    pub(super) fn begin_page(&mut self, replica: Replica, index: u16) -> Option<L> {
        let free = self.writer.is_none() && !self.done;
        let Ask::Pending { useful, needs, .. } = self.asks.at_mut(replica) else {
            return None;
        };
        *useful = *useful && free && needs.is_none();
        if !*useful {
            return None;
        }
        self.writer = Some((replica, index));
        Some(self.token)
    }

    /// The replica writes no more; `whole` tells whether the page is the one that was asked for.
    /// Returns whether it was writing.
    pub(super) fn end_page(&mut self, replica: Replica, whole: bool) -> bool {
        let Some((_, index)) = self.writer.filter(|&(writer, _)| writer == replica) else {
            return false;
        };
        self.writer = None;
        let (own, other) = self.asks.split(replica);
        match (own, other) {
            (Ask::Pending { written, .. }, _) if whole => *written = index.saturating_add(1),
            // It stood there, from the other one, and is spoiled now.
            (
                _,
                Ask::Pending {
                    useful, written, ..
                },
            ) if *written > index => *useful = false,
            _ => {}
        }
        true
    }

    /// The most telling of the failures; the primary's, of two alike.
    pub(super) fn error(&self) -> LoadError {
        let (primary, mirror) = (self.asks.primary.weight(), self.asks.mirror.weight());
        match (primary, mirror) {
            (Some((p, _)), Some((m, error))) if m > p => error,
            (Some((_, error)), _) | (None, Some((_, error))) => error,
            (None, None) => LoadError::Gone,
        }
    }
}

/// The table.
#[derive(Debug)]
pub(super) struct Asks<L, B> {
    buf: B,
    free: u16,
    capacity: usize,
    used: usize,
    /// How many are not completed.
    live: usize,
    lingering: usize,
    token: core::marker::PhantomData<L>,
}

impl<L: Copy, B: DerefMut<Target = [AskSlot<L>]>> Asks<L, B> {
    /// Of no more than `limit` entries.
    pub(super) fn new(mut buf: B, limit: usize) -> Self {
        let (mut free, mut capacity) = (NIL, 0_usize);
        for (place, entry) in (0..NIL).zip(buf.iter_mut()).take(limit) {
            *entry = AskSlot {
                load: None,
                next: free,
            };
            free = place;
            capacity = capacity.saturating_add(1);
        }
        Self {
            buf,
            free,
            capacity,
            used: 0,
            live: 0,
            lingering: 0,
            token: core::marker::PhantomData,
        }
    }

    /// Loads that have not completed.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    pub(super) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.used)
    }

    /// Whether one more load may be asked of both: half of the entries are never held by answers
    /// that nobody waits for.
    pub(super) fn may_double(&self) -> bool {
        self.lingering < self.capacity / 2
    }

    /// The numbers of all entries, used or not.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u16> {
        (0..NIL).take(self.capacity)
    }

    pub(super) fn push(&mut self, token: L, slot: Slot, count: u16, since_ms: u64) -> Option<u16> {
        let number = self.free;
        let entry = self.entry(number)?;
        let free = entry.next;
        entry.load = Some(Load {
            token,
            slot,
            count,
            since_ms,
            asks: Both {
                primary: Ask::No,
                mirror: Ask::No,
            },
            writer: None,
            done: false,
            again: false,
        });
        self.free = free;
        self.used = self.used.saturating_add(1);
        self.live = self.live.saturating_add(1);
        Some(number)
    }

    pub(super) fn get(&self, number: u16) -> Option<&Load<L>> {
        if number == NIL {
            return None;
        }
        self.buf.get(usize::from(number))?.load.as_ref()
    }

    /// Changes a load, and frees its entry if it has completed and nothing is owed to it.
    pub(super) fn change<R>(
        &mut self,
        number: u16,
        change: impl FnOnce(&mut Load<L>) -> R,
    ) -> Option<R> {
        let load = self.entry(number)?.load.as_mut()?;
        let (lingered, was_done) = (load.lingers(), load.done);
        let result = change(load);
        let ended = load.done && !load.is_pending();
        let (lingers, done) = (load.lingers() && !ended, load.done);
        self.lingering = self.lingering.saturating_sub(usize::from(lingered));
        self.lingering = self.lingering.saturating_add(usize::from(lingers));
        self.live = self.live.saturating_sub(usize::from(done && !was_done));
        if ended {
            let free = self.free;
            if let Some(entry) = self.entry(number) {
                *entry = AskSlot {
                    load: None,
                    next: free,
                };
            }
            self.free = number;
            self.used = self.used.saturating_sub(1);
        }
        Some(result)
    }

    fn entry(&mut self, number: u16) -> Option<&mut AskSlot<L>> {
        if number == NIL {
            return None;
        }
        self.buf.get_mut(usize::from(number))
    }
}
