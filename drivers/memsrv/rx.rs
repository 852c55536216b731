// SPDX-License-Identifier: GPL-2.0-only

//! The receiving side of a link: bytes into folios, answers into completions.
//!
//! Runs in softirq, or inside a sender of the same link (`release_sock`): it takes no `tx`, sends
//! nothing, closes nothing; what is left to do it asks of the thread.

use super::engine::{Completion, Event, Fault, LoadError, Receiver, Replica, StoreError, Want};
use super::lane::{Lane, State};
use super::link::{event, Link};
use super::platform::{
    socket::{Received, SocketOwner},
    sys, //
};
use super::pool::Pool;
use super::protocol::{Message, Slot, Status, Tag, PAGE_SIZE};
use super::table::{Done, Group, LoadEntry, Table};
use kernel::{
    prelude::*,
    sync::atomic::Relaxed, //
};

/// State of the receiving side.
pub(crate) struct Rx {
    receiver: Receiver,
    /// The folio that the page being received belongs to, out of the table meanwhile; none if the page is
    /// of no use any more.
    filling: Option<Filling>,
    /// Whether the connection only reads.
    reads: bool,
    /// Bytes of its payload: a page's, or those of a block that it will be made of.
    len: usize,
}

/// Why a connection is given up.
enum Trouble {
    /// The server broke the protocol.
    Fault(Fault),
    /// An answer was of no use; on a new connection all that is unanswered is asked again.
    Again,
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Trouble::Fault(fault)
    }
}

struct Filling {
    number: u32,
    index: u16,
    entry: LoadEntry,
}

impl Rx {
    /// At the beginning of a connection on which these options are on.
    pub(crate) fn with(options: u32) -> Self {
        Self {
            receiver: Receiver::with(options),
            filling: None,
            reads: false,
            len: PAGE_SIZE,
        }
    }

    /// At the beginning of a connection that only reads, on which these options are on.
    pub(crate) fn reading(options: u32) -> Self {
        Self {
            reads: true,
            ..Self::with(options)
        }
    }

    /// The connection is gone: puts a half-filled folio back.
    pub(crate) fn end(self, table: &mut Table) {
        if let Some(filling) = self.filling {
            table.give_back(filling.number, filling.entry);
        }
    }
}

impl SocketOwner for Link {
    type Rx = Rx;

    fn receive(&self, rx: &mut Rx, data: &mut Received<'_>) -> Result {
        self.part().heard_ms.store(sys::now_ms(), Relaxed);
        let result = self.bytes(rx, data);
        if result.is_err() {
            self.part().bell.ring(event::BROKEN);
        }
        result
    }

    fn writable(&self) {
        self.part().bell.ring(event::SEND);
    }

    fn broken(&self) {
        self.part().up.store(false, Relaxed);
        self.part().bell.ring(event::BROKEN);
    }
}

impl Link {
    fn bytes(&self, rx: &mut Rx, data: &mut Received<'_>) -> Result {
        while data.len() > 0 {
            let n = match rx.receiver.want() {
                Want::Header(to) => data.copy_to(to)?,
                Want::Page { offset, len } => match rx.filling.as_mut() {
                    Some(filling) => {
                        let page = if rx.len == PAGE_SIZE {
                            self.lane.page_of(&mut filling.entry, filling.index)
                        } else {
                            self.lane.block(self.replica)
                        };
                        let end = offset.saturating_add(len);
                        data.copy_to(page.get_mut(offset..end).ok_or(EPROTO)?)?
                    }
                    None => data.skip(len),
                },
                Want::Skip(n) => data.skip(n),
            };
            if n == 0 {
                return Err(EPROTO);
            }
            match rx.receiver.advance(n) {
                Ok(None) => {}
                Ok(Some(event)) => self.event(rx, event)?,
                Err(error) => {
                    ratelimited!(pr_err, "{self}: the server broke the protocol: {error:?}\n");
                    return Err(EPROTO);
                }
            }
        }
        Ok(())
    }

    fn event(&self, rx: &mut Rx, event: Event) -> Result {
        let trouble = match event {
            Event::PageHeader { tag, slot, len, .. } => {
                rx.len = len;
                self.page_begin(rx, tag, slot)
            }
            Event::PageEnd { tag, slot, crc, .. } => self.page_end(rx, tag, slot.0, crc),
            Event::Message(message) => self.message(rx.reads, message),
        };
        match trouble {
            Ok(()) => Ok(()),
            Err(Trouble::Again) => Err(EAGAIN),
            Err(Trouble::Fault(fault)) => {
                ratelimited!(pr_err, "{self}: the server broke the protocol: {fault:?}\n");
                Err(EPROTO)
            }
        }
    }

    fn page_begin(&self, rx: &mut Rx, tag: Tag, slot: Slot) -> Result<(), Trouble> {
        let mut state = self.lane.state.lock();
        let State {
            streams,
            table,
            handed,
            ..
        } = &mut *state;
        rx.filling = match streams.page(self.replica, tag, slot)? {
            Some(target) => table.lend(target.token).map(|mut entry| {
                if target.index == 0 {
                    entry.came = handed.came(self.replica, tag, &entry);
                }
                Filling {
                    number: target.token,
                    index: target.index,
                    entry,
                }
            }),
            None => None,
        };
        Ok(())
    }

    fn page_end(&self, rx: &mut Rx, tag: Tag, slot: u64, crc: u32) -> Result<(), Trouble> {
        let mut filling = rx.filling.take();
        let mut result = Ok(());
        let mut again = false;
        if let Some(filling) = filling.as_mut() {
            let page = self.lane.page_of(&mut filling.entry, filling.index);
            if !self.lane.unpack(self.replica, page, rx.len, slot, crc) {
                ratelimited!(
                    pr_err,
                    "{self}: slot {slot:#x} came back damaged (checksum)\n"
                );
                result = Err(LoadError::Checksum);
                // With a mirror, that is asked; or the disk.
                again = !rx.reads && self.lane.shared.asks_again() && filling.entry.may_try_again();
                if again {
                    self.lane.shared.areas.relay.damaged();
                }
            }
        }
        let more = self.lane.change(|state| {
            let State { streams, table, .. } = state;
            if let Some(filling) = filling {
                table.give_back(filling.number, filling.entry);
            }
            if again {
                // On a new connection it is asked anew: the damage may have come on the way.
                return Err(Trouble::Again);
            }
            let areas = &self.lane.shared.areas;
            let ended = streams.page_done(self.replica, tag, result, areas, sys::now_ms())?;
            if let Some(completion) = ended {
                state.complete(completion, self.replica, &self.lane.shared.pool);
            }
            self.lane.tell_refill(state);
            Ok(state.streams.has_output(self.replica.other()))
        })?;
        if more {
            self.lane.part(self.replica.other()).bell.ring(event::SEND);
        }
        Ok(())
    }

    fn message(&self, reads: bool, message: Message) -> Result<(), Trouble> {
        let lane = &self.lane;
        let relay = &lane.shared.areas.relay;
        if let Message::Notice { status, .. } = message {
            ratelimited!(pr_info, "{self}: the server says: {}\n", status.as_str());
            if status == Status::MirrorLost && self.replica == Replica::Primary {
                // Of this lane before anything more is acknowledged on it; the others hear it by themselves.
                lane.alone(&mut lane.state.lock());
                relay.lost();
                self.part().bell.ring(event::ALONE);
            }
        }
        let asks_again = !reads && lane.shared.asks_again();
        if let (Message::NoPage { status, .. }, true) = (message, asks_again) {
            // Only these say that the page is gone, if the server has no mirror; after anything else it is asked
            // for again.
            let gone = matches!(status, Status::NotFound | Status::BadChecksum);
            if gone && relay.gone() {
                return Err(Trouble::Again);
            }
            if !gone {
                ratelimited!(pr_err, "a load was refused: {}\n", status.as_str());
                return Err(Trouble::Again);
            }
        }
        let frees = matches!(message, Message::Ack { .. });
        let result = lane.change(|state| {
            let State { streams, table, .. } = state;
            let (areas, pool) = (&lane.shared.areas, &lane.shared.pool);
            let result =
                streams.message(self.replica, message, areas, sys::now_ms(), &mut |ended| {
                    table.complete(ended, pool);
                });
            // An ACK makes room for a window that was used up; a load may have gone to the other server.
            lane.tell_output(streams);
            if matches!(message, Message::Ack { .. } | Message::Pulled { .. }) {
                lane.tell_refill(state);
            }
            result
        });
        if frees && self.part().frees_wait.load(Relaxed) {
            self.part().bell.ring(event::FREE);
        }
        if matches!(message, Message::NoPage { .. })
            && lane.shared.has_given_up(self.replica.other())
        {
            // What waits for that one now is to end at once.
            self.part().bell.ring(event::WATCH);
        }
        Ok(result?)
    }
}

impl State {
    /// The engine says that something has ended, by an answer of that server.
    fn complete(&mut self, ended: Completion<u32, u32>, by: Replica, pool: &Pool) {
        if self.failing_over == Some(by) {
            if let Completion::Load {
                token,
                result: Ok(()),
            } = ended
            {
                self.failing_over = None;
                self.table.failed_over(token);
            }
        }
        self.table.complete(ended, pool);
    }
}

impl Lane {
    /// Tells the kernel what has ended, one after the other, without the lock.
    ///
    /// Not inlined: this runs at the bottom of a reclaiming task's stack, below TCP, and the frames of
    /// those who call it stay small.
    #[inline(never)]
    pub(crate) fn finish(&self, first: Done) {
        let mut next = Some(first);
        while let Some(done) = next {
            match done {
                Done::Load(entry, result) => self.finish_load(entry, result),
                Done::Store(group) => self.finish_store(group),
            }
            next = self.next_done(&mut self.state.lock());
        }
    }

    #[inline(never)]
    pub(crate) fn finish_load(&self, entry: LoadEntry, result: Result<(), LoadError>) {
        self.load_room.notify_one();
        if result.is_ok() {
            sys::count_in(u32::from(entry.pages));
        } else {
            ratelimited!(
                pr_err,
                "a page could not be read back ({result:?}): slot {:#x}\n",
                entry.slot
            );
        }
        let given_up = entry.given_up;
        let Some(folio) = entry.into_folio() else {
            return;
        };
        if result == Err(LoadError::Expired) && !given_up {
            // Only the threads end loads so, in process context.
            self.end_unread(folio);
            return;
        }
        let dirty = !self.shared.config.keep_clean;
        folio.done(result.is_ok(), dirty);
    }

    #[inline(never)]
    fn finish_store(&self, group: Group) {
        match group.failed {
            None => {
                sys::count_out(u32::from(group.pages));
                self.shared.store_went_well();
                group.folio.stored();
            }
            Some(error) => {
                self.shared.store_failed(group.no_room());
                if let (StoreError::Refused(status), false) = (error, group.no_room()) {
                    ratelimited!(pr_err, "a store was refused: {}\n", status.as_str());
                }
                // The bits first: the folio may be stored anew as soon as its writeback ends.
                if self.shared.areas.clear(group.slot, group.pages).tell {
                    self.tell_freed();
                }
                group.folio.failed();
            }
        }
    }
}
