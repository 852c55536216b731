// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The stores and frees of a stream that are not yet acknowledged: a ring in the order of their numbers.
//!
//! The first `sent` entries are on this connection's wire, the others are queued behind them. Numbers
//! rise along the ring; expired and refused stores leave gaps.

use core::marker::PhantomData;
use core::ops::DerefMut;

use super::super::protocol::{Seq, Slot};
use super::types::{Fault, NoRoom, Payload};

/// The most frees that may be unanswered on a stream.
///
/// A client with more clusters to free keeps them marked where it tells the mask from, and asks
/// again: so a process with a million pages that exits overflows nothing.
pub const FREE_LIMIT: usize = 64;

/// The place of one store or free in the ring; the caller supplies the ring, filled with
/// [`OpSlot::EMPTY`].
#[derive(Clone, Copy, Debug)]
pub struct OpSlot<S> {
    pub(super) seq: Seq,
    pub(super) what: What<S>,
}

/// What an entry of the ring is.
#[derive(Clone, Copy, Debug)]
pub(super) enum What<S> {
    /// Nothing, or a refused store whose number waits to be covered by an ACK.
    Hole,
    Store {
        slot: Slot,
        payload: Payload,
        token: S,
        since_ms: u64,
    },
    Free {
        cluster: Slot,
    },
    /// A free of every slot of the cluster.
    Wipe {
        cluster: Slot,
    },
}

impl<S> OpSlot<S> {
    /// No operation.
    pub const EMPTY: Self = OpSlot {
        seq: Seq(0),
        what: What::Hole,
    };
}

impl<S> Default for OpSlot<S> {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// The ring.
#[derive(Debug)]
pub(super) struct Ops<S, B> {
    buf: B,
    /// The place of the oldest entry in `buf`.
    head: usize,
    len: usize,
    /// How many entries, from the oldest, were sent on this connection.
    sent: usize,
    /// How many entries are refused stores; all of them are sent.
    holes: usize,
    frees: usize,
    issued: Seq,
    /// The highest number that an ACK has covered.
    acked: Seq,
    /// The same without refused stores.
    executed: Seq,
    /// The highest number sent on this connection, and ever.
    sent_here: Seq,
    sent_ever: Seq,
    token: PhantomData<S>,
}

impl<S: Copy, B: DerefMut<Target = [OpSlot<S>]>> Ops<S, B> {
    pub(super) fn new(mut buf: B) -> Self {
        buf.fill(OpSlot::EMPTY);
        Self {
            buf,
            head: 0,
            len: 0,
            sent: 0,
            holes: 0,
            frees: 0,
            issued: Seq(0),
            acked: Seq(0),
            executed: Seq(0),
            sent_here: Seq(0),
            sent_ever: Seq(0),
            token: PhantomData,
        }
    }

    pub(super) fn issued(&self) -> Seq {
        self.issued
    }

    /// Numbers up to this one were given out elsewhere.
    pub(super) fn skip_to(&mut self, seq: Seq) {
        self.issued = self.issued.max(seq);
    }

    pub(super) fn executed(&self) -> Seq {
        self.executed
    }

    /// Whether nothing up to this number waits for an answer.
    pub(super) fn has_answered(&self, seq: Seq) -> bool {
        self.len == 0 || self.get(0).is_some_and(|op| op.seq > seq)
    }

    /// Operations to be sent on this connection.
    pub(super) fn queued(&self) -> usize {
        self.len.saturating_sub(self.sent)
    }

    /// Operations sent on this connection and not answered.
    pub(super) fn unanswered(&self) -> usize {
        self.sent.saturating_sub(self.holes)
    }

    pub(super) fn frees(&self) -> usize {
        self.frees
    }

    pub(super) fn stores(&self) -> usize {
        self.len
            .saturating_sub(self.holes)
            .saturating_sub(self.frees)
    }

    pub(super) fn room(&self) -> usize {
        self.buf
            .len()
            .saturating_sub(self.len)
            .saturating_add(self.holes)
    }

    /// When the oldest store was asked.
    pub(super) fn oldest_ms(&self) -> Option<u64> {
        (0..self.len).find_map(|i| match self.get(i)?.what {
            What::Store { since_ms, .. } => Some(since_ms),
            What::Hole | What::Free { .. } | What::Wipe { .. } => None,
        })
    }

    pub(super) fn push_store(
        &mut self,
        slot: Slot,
        payload: Payload,
        token: S,
        since_ms: u64,
    ) -> Result<Seq, NoRoom> {
        self.push(What::Store {
            slot,
            payload,
            token,
            since_ms,
        })
    }

    pub(super) fn push_free(&mut self, cluster: Slot) -> Result<(), NoRoom> {
        if self.free_waits(cluster) {
            return Ok(());
        }
        self.push_one_free(What::Free { cluster }).map(drop)
    }

    /// Unlike a free it stands where it is asked for: behind every store so far, before every later one.
    pub(super) fn push_wipe(&mut self, cluster: Slot) -> Result<Seq, NoRoom> {
        self.push_one_free(What::Wipe { cluster })
    }

    fn push_one_free(&mut self, what: What<S>) -> Result<Seq, NoRoom> {
        if self.frees >= FREE_LIMIT {
            return Err(NoRoom);
        }
        let seq = self.push(what)?;
        self.frees = self.frees.saturating_add(1);
        Ok(seq)
    }

    /// Whether one of the last entries is a free of this cluster that was never sent: it will ask for
    /// its mask when it is, and so covers what became free since.
    fn free_waits(&self, cluster: Slot) -> bool {
        let first = self.len.saturating_sub(FREE_LIMIT).max(self.sent);
        (first..self.len)
            .rev()
            .filter_map(|i| self.get(i))
            .any(|op| {
                op.seq > self.sent_ever
                    && matches!(op.what, What::Free { cluster: queued } if queued == cluster)
            })
    }

    fn push(&mut self, what: What<S>) -> Result<Seq, NoRoom> {
        if self.room() == 0 {
            return Err(NoRoom);
        }
        let seq = Seq(self.issued.0.checked_add(1).ok_or(NoRoom)?);
        if self.len >= self.buf.len() {
            // Only refused stores are in the way.
            self.retain(|_| true);
        }
        *self.get_mut(self.len).ok_or(NoRoom)? = OpSlot { seq, what };
        self.len = self.len.saturating_add(1);
        self.issued = seq;
        Ok(seq)
    }

    /// The next operation to send, from now on sent.
    pub(super) fn send_next(&mut self) -> Option<OpSlot<S>> {
        if self.sent >= self.len {
            return None;
        }
        let op = *self.get(self.sent)?;
        self.sent = self.sent.saturating_add(1);
        self.sent_here = op.seq;
        self.sent_ever = self.sent_ever.max(op.seq);
        Some(op)
    }

    /// Takes all that the number covers out, calling `done` for each store.
    pub(super) fn ack(&mut self, seq: Seq, done: &mut impl FnMut(S)) -> Result<(), Fault> {
        if seq <= self.acked {
            return Ok(());
        }
        if seq > self.sent_here {
            return Err(Fault::AckAhead {
                seq,
                sent: self.sent_here,
            });
        }
        self.acked = seq;
        while let Some(op) = self.pop_sent_if(|op| op.seq <= seq) {
            if let What::Store { token, .. } = op.what {
                done(token);
            }
            if !matches!(op.what, What::Hole) {
                self.executed = op.seq;
            }
        }
        Ok(())
    }

    /// Ends the store with this number, whose token is returned.
    pub(super) fn nak(&mut self, seq: Seq) -> Result<S, Fault> {
        let op = self.find_sent(seq).and_then(|i| self.get_mut(i));
        let op = op.ok_or(Fault::NakUnknown { seq })?;
        let token = match op.what {
            What::Store { token, .. } => token,
            What::Free { .. } | What::Wipe { .. } => return Err(Fault::NakFree { seq }),
            What::Hole => return Err(Fault::NakUnknown { seq }),
        };
        op.what = What::Hole;
        self.holes = self.holes.saturating_add(1);
        while self
            .pop_sent_if(|op| matches!(op.what, What::Hole))
            .is_some()
        {}
        Ok(token)
    }

    /// The connection is gone: all that is not completed is to be sent again.
    pub(super) fn rewind(&mut self) {
        self.retain(|_| true);
        self.sent = 0;
        self.sent_here = Seq(0);
    }

    /// Takes the stores out that `keep`, given token and time of asking, refuses; those of a connection
    /// must be rewound before.
    pub(super) fn retain_stores(&mut self, mut keep: impl FnMut(S, u64) -> bool) {
        self.retain(|op| match op.what {
            What::Store {
                token, since_ms, ..
            } => keep(token, since_ms),
            What::Hole | What::Free { .. } | What::Wipe { .. } => true,
        });
    }

    /// Shows each store.
    pub(super) fn each_store(&self, mut show: impl FnMut(S)) {
        for op in (0..self.len).filter_map(|i| self.get(i)) {
            if let What::Store { token, .. } = op.what {
                show(token);
            }
        }
    }

    /// Closes the ring over the holes and over the stores that `keep` refuses.
    fn retain(&mut self, mut keep: impl FnMut(&OpSlot<S>) -> bool) {
        let (mut kept, mut kept_sent) = (0_usize, 0_usize);
        for i in 0..self.len {
            let Some(&op) = self.get(i) else { break };
            if matches!(op.what, What::Hole) || !keep(&op) {
                continue;
            }
            if let Some(place) = self.get_mut(kept) {
                *place = op;
            }
            kept = kept.saturating_add(1);
            if i < self.sent {
                kept_sent = kept;
            }
        }
        for i in kept..self.len {
            if let Some(place) = self.get_mut(i) {
                *place = OpSlot::EMPTY;
            }
        }
        self.len = kept;
        self.sent = kept_sent;
        self.holes = 0;
    }

    /// Takes the oldest entry out if it is sent and `wanted`.
    fn pop_sent_if(&mut self, wanted: impl FnOnce(&OpSlot<S>) -> bool) -> Option<OpSlot<S>> {
        if self.sent == 0 {
            return None;
        }
        let place = self.get_mut(0)?;
        if !wanted(place) {
            return None;
        }
        let op = core::mem::take(place);
        self.head = self.place(1)?;
        self.len = self.len.saturating_sub(1);
        self.sent = self.sent.saturating_sub(1);
        match op.what {
            What::Hole => self.holes = self.holes.saturating_sub(1),
            What::Free { .. } | What::Wipe { .. } => self.frees = self.frees.saturating_sub(1),
            What::Store { .. } => {}
        }
        Some(op)
    }

    /// Where the sent entry with this number is: numbers rise along the ring.
    fn find_sent(&self, seq: Seq) -> Option<usize> {
        let (mut low, mut high) = (0, self.sent);
        while low < high {
            let middle = usize::midpoint(low, high);
            let found = self.get(middle)?.seq;
            if found == seq {
                return Some(middle);
            }
            if found < seq {
                low = middle.saturating_add(1);
            } else {
                high = middle;
            }
        }
        None
    }

    /// The place in `buf` of the `i`-th entry from the oldest.
    fn place(&self, i: usize) -> Option<usize> {
        let at = self.head.checked_add(i)?;
        Some(at.checked_sub(self.buf.len()).unwrap_or(at))
    }

    fn get(&self, i: usize) -> Option<&OpSlot<S>> {
        self.buf.get(self.place(i)?)
    }

    fn get_mut(&mut self, i: usize) -> Option<&mut OpSlot<S>> {
        let place = self.place(i)?;
        self.buf.get_mut(place)
    }
}
