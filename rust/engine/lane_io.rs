// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A lane's other half: sending, receiving, time and counts.

use core::ops::DerefMut;

use super::super::protocol::{FreeMask, Message, Op, Slot, Tag};
use super::asks::{Ask, AskSlot, Load};
use super::copies::{CopySlot, Part};
use super::lane::{takes_stores, Lane};
use super::loads::LoadSlot;
use super::ops::OpSlot;
use super::replica::{Clusters, Replica, Standing};
use super::stream::Stream;
use super::types::{Completion, Fault, LoadError, Outgoing, PageTarget, StoreError};

impl<L, CB, EB, OB, LB> Lane<L, CB, EB, OB, LB>
where
    L: Copy,
    CB: DerefMut<Target = [CopySlot]>,
    EB: DerefMut<Target = [AskSlot<L>]>,
    OB: DerefMut<Target = [OpSlot<u32>]>,
    LB: DerefMut<Target = [LoadSlot<u16>]>,
{
    // Sending.

    /// The next message to put on this replica's wire, as [`Stream::next`].
    pub fn next(
        &mut self,
        replica: Replica,
        mask: impl FnOnce(Slot) -> FreeMask,
        crc: impl FnOnce(Slot, &[u8]) -> u32,
    ) -> Option<Outgoing<u32>> {
        self.streams.at_mut(replica).as_mut()?.next(mask, crc)
    }

    /// The next PULL to put on this replica's wire: its tag, and the first slot of the cluster. The caller, who
    /// knows the other server's address and life, makes the message; its mask is to hold the slots that
    /// are stored now.
    pub fn next_pull(&mut self, replica: Replica) -> Option<(Tag, Slot)> {
        self.refills.at_mut(replica).next()
    }

    /// Whether [`Lane::next`] or [`Lane::next_pull`] has a message for this replica now.
    pub fn has_output(&self, replica: Replica) -> bool {
        self.refills.at(replica).has_output()
            || self.stream(replica).is_some_and(Stream::has_output)
    }

    /// How many messages wait to be sent to this replica, whether its window lets them or not.
    pub fn queued(&self, replica: Replica) -> usize {
        self.stream(replica).map_or(0, Stream::queued)
    }

    /// Whether what may be sent to this replica is to be sent now: a load or a PULL; `batch` stores and frees, or fewer
    /// if none is unanswered. Else it has time until the next answer, when there are more (as with Nagle's
    /// algorithm, RFC 896). And not while these few are `held`: somebody who is about to add more has promised to look
    /// again once they are not.
    pub fn is_due(&self, replica: Replica, batch: usize, held: bool) -> bool {
        self.refills.at(replica).has_output()
            || self
                .stream(replica)
                .is_some_and(|stream| stream.is_due(batch, held))
    }

    // Receiving.

    /// A PAGE's header came from this replica: tells where its bytes go. `None` if they are of no use: the load
    /// has completed, or the other one is writing. In both cases [`Lane::page_done`] comes after them.
    ///
    /// # Errors
    ///
    /// No load waits for this page.
    pub fn page(
        &mut self,
        replica: Replica,
        tag: Tag,
        slot: Slot,
    ) -> Result<Option<PageTarget<L>>, Fault> {
        let stream = self.streams.at_mut(replica).as_mut();
        let target = stream.ok_or(Fault::NotConnected)?.page(tag, slot)?;
        let index = target.index;
        let begin = |load: &mut Load<L>| load.begin_page(replica, index);
        let token = self.asks.change(target.token, begin).flatten();
        Ok(token.map(|token| PageTarget { token, index }))
    }

    /// A page's bytes came; `result` tells whether they match their checksum, and is ignored for those that
    /// were skipped.
    ///
    /// The load completes when one replica has delivered all its pages, or none can; a replica that was
    /// whole and could not, when a whole one could, falls behind.
    ///
    /// # Errors
    ///
    /// There was no [`Lane::page`] for it.
    pub fn page_done(
        &mut self,
        replica: Replica,
        tag: Tag,
        result: Result<(), LoadError>,
        clusters: &impl Clusters,
        now_ms: u64,
    ) -> Result<Option<Completion<u32, L>>, Fault> {
        let stream = self.streams.at_mut(replica).as_mut();
        let stream = stream.ok_or(Fault::NotConnected)?;
        let mut result = result;
        if let Some(target) = stream.receiving(tag) {
            let end = |load: &mut Load<L>| load.end_page(replica, result.is_ok());
            if self.asks.change(target.token, end) != Some(true) {
                result = Ok(());
            }
        }
        Ok(match stream.page_done(tag, result)? {
            Some(Completion::Load { token, result }) => {
                self.answered(replica, token, result, clusters, now_ms)
            }
            _ => None,
        })
    }

    /// Any other message came from this replica. Calls `done` for each completion.
    ///
    /// # Errors
    ///
    /// The message breaks the protocol.
    pub fn message(
        &mut self,
        replica: Replica,
        message: Message,
        clusters: &impl Clusters,
        now_ms: u64,
        done: &mut impl FnMut(Completion<u32, L>),
    ) -> Result<(), Fault> {
        let stream = self.streams.at_mut(replica).as_mut();
        let stream = stream.ok_or(Fault::NotConnected)?;
        let mut filled = None;
        match message {
            Message::Pulled { tag, slot, status } => {
                filled = self.refills.at_mut(replica).pulled(tag, slot, status);
            }
            Message::Unknown { op: Op::PULL, .. } => self.refills.at_mut(replica).unknown(),
            _ => {}
        }
        if let Message::Reached { tag, seq } = message {
            if let Some(end) = self.reached(replica, tag, seq, clusters, now_ms)? {
                done(end);
            }
            return Ok(());
        }
        let copies = &mut self.copies;
        let mut load = None;
        stream.message(message, &mut |completion| match completion {
            Completion::Store { token, result } => {
                let part = match result {
                    Ok(()) => Part::Stored,
                    Err(StoreError::Refused(status)) => Part::Refused(status),
                    Err(StoreError::Expired) => Part::Missed,
                };
                if let Some(result) = copies.answered(token, replica, part, clusters) {
                    done(Completion::Store { token, result });
                }
            }
            Completion::Load { token, result } => load = Some((token, result)),
        })?;
        if let Some((number, result)) = load {
            if let Some(end) = self.answered(replica, number, result, clusters, now_ms) {
                done(end);
            }
        }
        if let Some(cluster) = filled {
            clusters.filled(replica, cluster);
            for number in self.asks.numbers() {
                let lacked = |load: &Load<L>| FreeMask::base(load.slot) == cluster;
                if self.asks.get(number).is_some_and(lacked) {
                    self.asks.change(number, |load| load.reopen(replica));
                }
            }
            // What waits for the other one's connection need not wait any more.
            self.leave_unconnected(replica.other(), false, clusters, now_ms, done);
        }
        Ok(())
    }

    /// A replica has answered all of a load's pages.
    fn answered(
        &mut self,
        replica: Replica,
        number: u16,
        result: Result<(), LoadError>,
        clusters: &impl Clusters,
        now_ms: u64,
    ) -> Option<Completion<u32, L>> {
        // Who only reads is never at fault, and finds no fault.
        let reads = Replica::BOTH.into_iter().any(|r| self.is_attached(r));
        let delivered = self.asks.change(number, |load| {
            let standing = |replica| clusters.standing(replica, load.slot);
            let whole = |replica| !reads && standing(replica) == Standing::Whole;
            let own = *load.asks.at(replica);
            let faulty = load.asks.at(replica.other()).is_faulty();
            let delivered = result.is_ok() && own.is_useful() && !load.done;
            if delivered && faulty && whole(replica) && whole(replica.other()) {
                clusters.fell_behind(replica.other(), load.slot);
            }
            let answer = match result {
                _ if own.is_unproved() => Ask::Failed {
                    error: LoadError::Gone,
                    whole: false,
                },
                Err(error) => Ask::Failed {
                    error,
                    whole: whole(replica),
                },
                Ok(()) if delivered => Ask::No,
                Ok(()) => Ask::Skipped,
            };
            *load.asks.at_mut(replica) = answer;
            load.done |= delivered;
            delivered.then_some(load.token)
        });
        match delivered? {
            Some(token) => Some(Completion::Load {
                token,
                result: Ok(()),
            }),
            None => self.pursue(number, Some(replica), clusters, now_ms),
        }
    }

    // Time. What an answer may still come for never ends by it: see `Stream`.

    /// Completes the stores asked before this time that wait for no connected replica: as
    /// [`StoreError::Expired`], unless a connected one has acknowledged it and the others may fall behind.
    pub fn expire_stores(
        &mut self,
        asked_before_ms: u64,
        clusters: &impl Clusters,
        done: &mut impl FnMut(Completion<u32, L>),
    ) {
        for replica in Replica::BOTH {
            let (Some(stream), other) = self.streams.split(replica) else {
                return;
            };
            let other_is_up = other.as_ref().is_some_and(takes_stores);
            let copies = &mut self.copies;
            stream.retain_stores(|token, since_ms| {
                let owed = other_is_up && copies.part(token, replica.other()) == Part::Pending;
                if owed || since_ms >= asked_before_ms {
                    return true;
                }
                if let Some(result) = copies.answered(token, replica, Part::Missed, clusters) {
                    done(Completion::Store { token, result });
                }
                false
            });
        }
    }

    /// Completes the loads that wait for no connected replica and for which `keep`, given the token and
    /// the time of asking in milliseconds, is false as [`LoadError::Expired`].
    pub fn expire_loads(
        &mut self,
        mut keep: impl FnMut(&L, u64) -> bool,
        done: &mut impl FnMut(Completion<u32, L>),
    ) {
        for replica in Replica::BOTH {
            let Some(stream) = self.streams.at_mut(replica) else {
                return;
            };
            let asks = &mut self.asks;
            stream.retain_loads(|&number, _| {
                let expired = asks.change(number, |load| {
                    let owed = load.asks.at(replica.other()).is_pending();
                    if owed || keep(&load.token, load.since_ms) {
                        return None;
                    }
                    *load.asks.at_mut(replica) = Ask::No;
                    load.done = true;
                    Some(load.token)
                });
                let Some(token) = expired.flatten() else {
                    return true;
                };
                let result = Err(LoadError::Expired);
                done(Completion::Load { token, result });
                false
            });
        }
    }

    /// When this replica was asked for the oldest store or load that it has not answered, in milliseconds of
    /// the caller's clock. An answer that nobody waits for any more is still owed.
    pub fn oldest_ms(&self, replica: Replica) -> Option<u64> {
        self.stream(replica)?.oldest_ms()
    }

    /// When the oldest store that this replica has not answered was asked.
    pub fn oldest_store_ms(&self, replica: Replica) -> Option<u64> {
        self.stream(replica)?.oldest_store_ms()
    }

    /// Whether there is a load that `overdue` says yes to, by its token and when this replica was asked for it.
    /// The token is `None` if the load has completed and only the answer is owed. It looks at each.
    pub fn any_load(
        &self,
        replica: Replica,
        mut overdue: impl FnMut(Option<&L>, u64) -> bool,
    ) -> bool {
        self.stream(replica).is_some_and(|stream| {
            stream.any_load(|&number, asked_ms| {
                let load = self.asks.get(number).filter(|load| !load.done);
                overdue(load.map(|load| &load.token), asked_ms)
            })
        })
    }

    // Counts.

    /// Stores asked and not completed.
    pub fn stores_in_flight(&self) -> usize {
        self.copies.len()
    }

    /// Loads asked and not completed.
    pub fn loads_in_flight(&self) -> usize {
        self.asks.live()
    }

    /// Stores that this replica has not answered.
    pub fn stores_owed(&self, replica: Replica) -> usize {
        self.stream(replica).map_or(0, Stream::stores_in_flight)
    }

    /// Loads that this replica has not answered, those among them that have completed.
    pub fn loads_owed(&self, replica: Replica) -> usize {
        self.stream(replica).map_or(0, Stream::loads_in_flight)
    }

    /// Frees that this replica has not acknowledged.
    pub fn frees_in_flight(&self, replica: Replica) -> usize {
        self.stream(replica).map_or(0, Stream::frees_in_flight)
    }

    /// How many more stores and frees there is room for in this replica's stream.
    pub fn op_room(&self, replica: Replica) -> usize {
        self.stream(replica).map_or(0, Stream::op_room)
    }

    /// How many more loads there is room for.
    pub fn load_room(&self) -> usize {
        self.asks.room()
    }
}
