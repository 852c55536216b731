// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! One stream: the ring of stores and frees, the table of loads, and the connection they share.
//!
//! The window bounds what is sent and unanswered. Stores and frees leave an eighth of it to loads and
//! loads an eighth to them, so that neither starves the other; within that, loads go first, since
//! a program waits for each.

use core::ops::DerefMut;

use super::super::protocol::{FreeMask, Message, Op, Seq, Slot, Tag, HEADER_LEN};
use super::loads::{LoadSlot, Loads};
use super::ops::{OpSlot, Ops, What};
use super::types::{
    Completion, Fault, LoadError, NoRoom, Outgoing, PageTarget, Payload, StoreError,
};

/// The client side of one stream. See the module's description for its states and rules.
///
/// `S` and `L` are the caller's tokens for a store and a load: an index, a pointer. `OB` and `LB` are the
/// memory for them, supplied once; as many operations and loads can be unanswered as they have entries.
#[derive(Debug)]
pub struct Stream<S, L, OB, LB> {
    ops: Ops<S, OB>,
    loads: Loads<L, LB>,
    /// How many operations and loads may be sent and unanswered; `None` while there is no connection.
    window: Option<usize>,
    /// What the connection is for.
    purpose: Purpose,
}

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    /// Stores, frees and loads.
    All,
    /// Loads only.
    Loads,
    /// The answers to loads that were asked before.
    Answers,
}

impl<S, L, OB, LB> Stream<S, L, OB, LB>
where
    S: Copy,
    L: Copy,
    OB: DerefMut<Target = [OpSlot<S>]>,
    LB: DerefMut<Target = [LoadSlot<L>]>,
{
    /// A stream with nothing asked and no connection. What the buffers hold is forgotten.
    ///
    /// `ops` takes stores and frees together: a caller that must never be refused a store makes it
    /// [`FREE_LIMIT`](super::FREE_LIMIT) longer than the number of stores that it lets be unanswered.
    pub fn new(ops: OB, loads: LB) -> Self {
        Self {
            ops: Ops::new(ops),
            loads: Loads::new(loads),
            window: None,
            purpose: Purpose::All,
        }
    }

    // Session.

    /// The handshake is done. `window` is the server's; 0 is taken as 1.
    ///
    /// Everything unanswered is to be sent on this connection: stores and frees in order under their old
    /// numbers, loads from their next unanswered page.
    pub fn connected(&mut self, window: u32) {
        self.disconnected();
        self.window = Some(usize::try_from(window.max(1)).unwrap_or(usize::MAX));
    }

    /// The handshake of a connection that only reads is done: loads are sent on it, each behind a REACH. Stores and frees
    /// wait for another connection.
    pub(super) fn attached(&mut self, window: u32) {
        self.connected(window);
        self.purpose = Purpose::Loads;
    }

    /// Whether there is a connection that only reads.
    pub(super) fn is_attached(&self) -> bool {
        self.purpose != Purpose::All
    }

    /// Nothing more is to be asked on a connection that only reads.
    pub(super) fn dismiss(&mut self) {
        if self.is_attached() {
            self.purpose = Purpose::Answers;
        }
    }

    /// Whether loads may be asked on a connection that only reads.
    pub(super) fn is_asked(&self) -> bool {
        self.purpose == Purpose::Loads
    }

    /// The connection is gone. Nothing completes; all waits to be sent again.
    ///
    /// Nobody may be between [`Stream::page`] and [`Stream::page_done`].
    pub fn disconnected(&mut self) {
        self.window = None;
        self.purpose = Purpose::All;
        self.ops.rewind();
        self.loads.rewind();
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.window.is_some()
    }

    /// The number of the last store or free that was asked; 0 if none was. HELLO carries it.
    pub fn issued(&self) -> Seq {
        self.ops.issued()
    }

    /// The next store or free gets a number above this one.
    pub fn skip_to(&mut self, seq: Seq) {
        self.ops.skip_to(seq);
    }

    // Asking.

    /// Asks for a page to be stored. `payload` is the [`Payload`], or the checksum of the whole page;
    /// `now_ms` the caller's monotonic clock in milliseconds.
    ///
    /// # Errors
    ///
    /// [`NoRoom`]: as many stores and frees as there are entries are unanswered.
    pub fn store(
        &mut self,
        slot: Slot,
        payload: impl Into<Payload>,
        token: S,
        now_ms: u64,
    ) -> Result<Seq, NoRoom> {
        self.ops.push_store(slot, payload.into(), token, now_ms)
    }

    /// Asks for a FREE of a cluster, given by any of its slots. Which of its slots, is asked when the FREE
    /// is sent; so a free that waits to be sent for the first time serves for later ones too.
    ///
    /// # Errors
    ///
    /// [`NoRoom`]: [`FREE_LIMIT`](super::FREE_LIMIT) frees are unanswered, or there is no entry. Ask again later.
    pub fn free(&mut self, cluster: Slot) -> Result<(), NoRoom> {
        self.ops.push_free(FreeMask::base(cluster))
    }

    /// Asks for a FREE of every slot of a cluster, given by any of them. It frees what was stored by then,
    /// and nothing that is stored later.
    ///
    /// # Errors
    ///
    /// [`NoRoom`]: as for [`Stream::free`].
    pub fn wipe(&mut self, cluster: Slot) -> Result<Seq, NoRoom> {
        self.ops.push_wipe(FreeMask::base(cluster))
    }

    /// The highest number that was acknowledged and not refused, 0 if none was: so much the server has executed, and
    /// knows that it has, though it may keep a log in which a refused store leaves no trace.
    pub fn executed(&self) -> Seq {
        self.ops.executed()
    }

    /// Whether every store and free up to this number has ended.
    pub fn has_answered(&self, seq: Seq) -> bool {
        self.ops.has_answered(seq)
    }

    /// Asks for `count` pages from `slot` on, all in one cluster; `now_ms` as for [`Stream::store`].
    ///
    /// # Errors
    ///
    /// [`NoRoom`]: as many loads as there are entries are unanswered. Also for slots that are none,
    /// or not all in one cluster.
    pub fn load(&mut self, slot: Slot, count: u16, token: L, now_ms: u64) -> Result<(), NoRoom> {
        self.loads.push(slot, count, token, now_ms)
    }

    // Sending.

    /// The next message to put on the wire: loads first, then stores and frees in their order. `None` if
    /// there is nothing to send, no connection, or the window is used up.
    ///
    /// For a FREE, `mask` tells which slots of the cluster are free now; an empty mask is sent too, as
    /// the number must be acknowledged. A FREE that is sent again asks anew. `crc` computes CRC-32C over
    /// the slot's 8 bytes, little-endian, and the payload. Neither may block.
    pub fn next(
        &mut self,
        mask: impl FnOnce(Slot) -> FreeMask,
        crc: impl FnOnce(Slot, &[u8]) -> u32,
    ) -> Option<Outgoing<S>> {
        if self.load_may_go() {
            let (tag, load) = self.loads.send_next()?;
            return Some(self.load_message(tag, load));
        }
        if !self.op_may_go() {
            return None;
        }
        let op = self.ops.send_next()?;
        Some(match op.what {
            What::Store {
                slot,
                payload: Payload { crc, len },
                token,
                ..
            } => Outgoing::Store {
                header: Message::Store {
                    seq: op.seq,
                    slot,
                    crc,
                    len,
                }
                .encode(),
                len,
                token,
            },
            What::Free { cluster } => {
                let mask = mask(cluster);
                Outgoing::Free {
                    header: free_header(op.seq, cluster, &mask, crc),
                    mask,
                }
            }
            What::Wipe { cluster } => {
                let mask = FreeMask::ALL;
                Outgoing::Free {
                    header: free_header(op.seq, cluster, &mask, crc),
                    mask,
                }
            }
            // Holes are among the sent entries only.
            What::Hole => return None,
        })
    }

    fn load_message(&self, tag: Tag, load: Message) -> Outgoing<S> {
        let header = load.encode();
        if !self.is_attached() {
            return Outgoing::Load { tag, header };
        }
        let mut headers = [0; 2 * HEADER_LEN];
        let (first, second) = headers.split_at_mut(HEADER_LEN);
        first.copy_from_slice(&Message::Reach { tag }.encode());
        second.copy_from_slice(&header);
        Outgoing::Read { headers }
    }

    /// Whether [`Stream::next`] has a message now.
    pub fn has_output(&self) -> bool {
        self.load_may_go() || self.op_may_go()
    }

    /// How many messages wait to be sent, whether the window lets them or not.
    pub fn queued(&self) -> usize {
        self.ops.queued().saturating_add(self.loads.queued())
    }

    /// Whether a load may be sent, or `batch` stores and frees, or fewer with none unanswered, unless they are `held`.
    pub fn is_due(&self, batch: usize, held: bool) -> bool {
        let alone = self.ops.unanswered() == 0 && !held;
        let many = self.ops.queued() >= batch || alone;
        self.load_may_go() || (many && self.op_may_go())
    }

    fn load_may_go(&self) -> bool {
        self.loads.queued() > 0 && self.window_has_room(self.loads.unanswered())
    }

    fn op_may_go(&self) -> bool {
        !self.is_attached() && self.ops.queued() > 0 && self.window_has_room(self.ops.unanswered())
    }

    /// Whether one more may be sent of a kind of which `own` are unanswered.
    fn window_has_room(&self, own: usize) -> bool {
        let unanswered = self
            .ops
            .unanswered()
            .saturating_add(self.loads.unanswered());
        self.window
            .is_some_and(|window| unanswered < window && own < window.saturating_sub(window / 8))
    }

    // Receiving.

    /// A PAGE's header came: tells where its bytes go. After them comes [`Stream::page_done`].
    ///
    /// # Errors
    ///
    /// No load waits for this page.
    pub fn page(&mut self, tag: Tag, slot: Slot) -> Result<PageTarget<L>, Fault> {
        self.check_connected()?;
        self.loads.page(tag, slot)
    }

    /// A page's bytes came; `result` tells whether they match their checksum. With the answer to the last
    /// of its pages the load completes: as failed, if any of them failed.
    ///
    /// # Errors
    ///
    /// There was no [`Stream::page`] for it.
    pub fn page_done(
        &mut self,
        tag: Tag,
        result: Result<(), LoadError>,
    ) -> Result<Option<Completion<S, L>>, Fault> {
        self.check_connected()?;
        Ok(self.loads.page_done(tag, result)?.map(load_ended))
    }

    /// Whose page it is that is between [`Stream::page`] and [`Stream::page_done`] under this tag.
    pub(super) fn receiving(&self, tag: Tag) -> Option<PageTarget<L>> {
        self.loads.receiving(tag)
    }

    /// Whose load was sent under this tag, of which nothing has come yet.
    pub(super) fn asked(&self, tag: Tag) -> Option<L> {
        self.loads.asked(tag)
    }

    /// Any other message came. Calls `done` for each completion.
    ///
    /// PONG, STATS, NOTICE, REACHED and messages of later versions change nothing here.
    ///
    /// # Errors
    ///
    /// The message breaks the protocol.
    pub fn message(
        &mut self,
        message: Message,
        done: &mut impl FnMut(Completion<S, L>),
    ) -> Result<(), Fault> {
        self.check_connected()?;
        match message {
            Message::Ack { seq } => self.ops.ack(seq, &mut |token| {
                done(Completion::Store {
                    token,
                    result: Ok(()),
                });
            }),
            Message::Nak { seq, status } => {
                let token = self.ops.nak(seq)?;
                done(Completion::Store {
                    token,
                    result: Err(StoreError::Refused(status)),
                });
                Ok(())
            }
            Message::NoPage { tag, slot, status } => {
                if let Some(ended) = self.loads.no_page(tag, slot, status)? {
                    done(load_ended(ended));
                }
                Ok(())
            }
            Message::Unknown {
                op: op @ (Op::STORE | Op::LOAD | Op::FREE),
                ..
            } => Err(Fault::OpUnknown { op }),
            Message::Pong { .. }
            | Message::Stats { .. }
            | Message::Notice { .. }
            | Message::Pulled { .. }
            | Message::Reached { .. }
            | Message::Unknown { .. }
            | Message::Strange { .. } => Ok(()),
            Message::Welcome | Message::Refused { .. } => Err(Fault::Handshake),
            Message::Page { .. }
            | Message::Hello
            | Message::Store { .. }
            | Message::Load { .. }
            | Message::Free { .. }
            | Message::Ping { .. }
            | Message::Stat { .. }
            | Message::Pull { .. }
            | Message::Attach
            | Message::Reach { .. }
            | Message::Bye => Err(Fault::Unexpected),
        }
    }

    fn check_connected(&self) -> Result<(), Fault> {
        if self.is_connected() {
            Ok(())
        } else {
            Err(Fault::NotConnected)
        }
    }

    // Time. A driver that gives up on a silent server disconnects first: on a connection an answer
    // may still come, and nothing must be given back twice.

    /// Completes the stores asked before this time as [`StoreError::Expired`]; they are not sent again.
    /// Does nothing while there is a connection.
    pub fn expire_stores(
        &mut self,
        issued_before_ms: u64,
        done: &mut impl FnMut(Completion<S, L>),
    ) {
        if !self.is_connected() {
            let result = Err(StoreError::Expired);
            self.ops.retain_stores(|token, since_ms| {
                let keep = since_ms >= issued_before_ms;
                if !keep {
                    done(Completion::Store { token, result });
                }
                keep
            });
        }
    }

    /// Takes back the stores for which `keep`, given the token and the time of asking in milliseconds, is
    /// false: they are not sent again, and have no completion. Does nothing while there is a connection.
    pub(super) fn retain_stores(&mut self, keep: impl FnMut(S, u64) -> bool) {
        if !self.is_connected() {
            self.ops.retain_stores(keep);
        }
    }

    /// Takes back the loads for which `keep`, given the token and the time of asking in milliseconds, is
    /// false, without a completion. Does nothing while there is a connection.
    pub(super) fn retain_loads(&mut self, keep: impl FnMut(&L, u64) -> bool) {
        if !self.is_connected() {
            self.loads.expire(keep, |_| ());
        }
    }

    /// Shows the token of each store in flight, the oldest first.
    pub(super) fn each_store(&self, show: impl FnMut(S)) {
        self.ops.each_store(show);
    }

    /// Completes the loads for which `keep`, given the token and the time of asking in milliseconds, is false
    /// as [`LoadError::Expired`]. Does nothing while there is a connection.
    pub fn expire_loads(
        &mut self,
        keep: impl FnMut(&L, u64) -> bool,
        done: &mut impl FnMut(Completion<S, L>),
    ) {
        if !self.is_connected() {
            self.loads.expire(keep, |ended| done(load_ended(ended)));
        }
    }

    /// When the oldest unanswered store was asked, in milliseconds of the caller's clock.
    pub fn oldest_store_ms(&self) -> Option<u64> {
        self.ops.oldest_ms()
    }

    /// Whether there is a load in flight that `overdue` says yes to, by its token and when it was
    /// asked. It looks at each.
    pub fn any_load(&self, overdue: impl FnMut(&L, u64) -> bool) -> bool {
        self.loads.any(overdue)
    }

    /// When the oldest unanswered store or load was asked, in milliseconds of the caller's clock.
    ///
    /// It passes over the frees and refused stores that are older than the oldest store.
    pub fn oldest_ms(&self) -> Option<u64> {
        match (self.ops.oldest_ms(), self.loads.oldest_ms()) {
            (Some(store), Some(load)) => Some(store.min(load)),
            (store, load) => store.or(load),
        }
    }

    // Counts.

    /// Stores asked and not completed.
    pub fn stores_in_flight(&self) -> usize {
        self.ops.stores()
    }

    /// Frees asked and not acknowledged.
    pub fn frees_in_flight(&self) -> usize {
        self.ops.frees()
    }

    /// Loads asked and not completed.
    pub fn loads_in_flight(&self) -> usize {
        self.loads.len()
    }

    /// How many more stores and frees there is room for.
    pub fn op_room(&self) -> usize {
        self.ops.room()
    }

    /// How many more loads there is room for.
    pub fn load_room(&self) -> usize {
        self.loads.room()
    }
}

fn load_ended<S, L>((token, result): (L, Result<(), LoadError>)) -> Completion<S, L> {
    Completion::Load { token, result }
}

fn free_header(
    seq: Seq,
    slot: Slot,
    mask: &FreeMask,
    crc: impl FnOnce(Slot, &[u8]) -> u32,
) -> [u8; HEADER_LEN] {
    Message::Free {
        seq,
        slot,
        crc: crc(slot, &mask.0),
    }
    .encode()
}
