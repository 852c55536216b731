// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! One lane: a stream to each of one or two replicas, and what the streams know nothing of: which
//! replicas an operation goes to, when it has ended on both together, and what one answers for the other.

use core::ops::DerefMut;

use super::super::protocol::{Seq, Slot};
use super::asks::{Ask, AskSlot, Asks, Load};
use super::copies::{Copies, CopySlot, Part};
use super::loads::LoadSlot;
use super::ops::OpSlot;
use super::refill::Refills;
use super::replica::{Both, Clusters, Replica, Standing};
use super::stream::Stream;
use super::types::{Completion, LoadError, NoRoom, NotTaken, Payload};

/// The client side of one stream to each replica. See the module's description for its states and rules.
///
/// `L` is the caller's token for a load. A store's is a number below the count of `CB`'s entries and,
/// while the store is in flight, no other store's. `OB` and `LB` are each stream's memory, as for [`Stream`];
/// `CB` and `EB` the lane's own.
#[derive(Debug)]
pub struct Lane<L, CB, EB, OB, LB> {
    pub(super) streams: Both<Option<Inner<OB, LB>>>,
    pub(super) copies: Copies<CB>,
    pub(super) asks: Asks<L, EB>,
    pub(super) refills: Both<Refills>,
}

pub(super) type Inner<OB, LB> = Stream<u32, u16, OB, LB>;

impl<L, CB, EB, OB, LB> Lane<L, CB, EB, OB, LB>
where
    L: Copy,
    CB: DerefMut<Target = [CopySlot]>,
    EB: DerefMut<Target = [AskSlot<L>]>,
    OB: DerefMut<Target = [OpSlot<u32>]>,
    LB: DerefMut<Target = [LoadSlot<u16>]>,
{
    /// A lane with nothing asked and no connection, to one replica or to two. What the buffers hold is
    /// forgotten.
    ///
    /// With `strict`, a store that does not reach both replicas fails.
    ///
    /// As many loads can be unanswered as the shortest of `asks` and both `LB` has entries. A caller that
    /// must never be refused one makes them twice as long as the number of loads that it lets be unanswered,
    /// since an entry is held until a slow replica has answered, too.
    pub fn new(
        primary: (OB, LB),
        mirror: Option<(OB, LB)>,
        copies: CB,
        asks: EB,
        strict: bool,
    ) -> Self {
        let streams = Both {
            primary: Some(Stream::new(primary.0, primary.1)),
            mirror: mirror.map(|(ops, loads)| Stream::new(ops, loads)),
        };
        let room =
            |stream: &Option<Inner<OB, LB>>| stream.as_ref().map_or(usize::MAX, Stream::load_room);
        let limit = room(&streams.primary).min(room(&streams.mirror));
        let mirrored = streams.mirror.is_some();
        Self {
            streams,
            copies: Copies::new(copies, mirrored, strict),
            asks: Asks::new(asks, limit),
            refills: Both {
                primary: Refills::new(),
                mirror: Refills::new(),
            },
        }
    }

    // Session.

    /// The handshake with this replica is done. `window` is the server's; 0 is taken as 1.
    ///
    /// Everything that waits for it is to be sent on this connection, as in [`Stream::connected`]; what
    /// waits for the other one, unconnected, has no reason to any more if this one has it, too, or can be
    /// asked. If the server has lost its pages, the clusters concerned are to be behind before this call.
    pub fn connected(
        &mut self,
        replica: Replica,
        window: u32,
        clusters: &impl Clusters,
        now_ms: u64,
        done: &mut impl FnMut(Completion<u32, L>),
    ) {
        self.disconnected(replica, clusters, now_ms, done);
        if let Some(stream) = self.streams.at_mut(replica) {
            stream.connected(window);
        }
        self.leave_unconnected(replica.other(), false, clusters, now_ms, done);
    }

    /// The connection to this replica is gone. What the other one has, or can be asked, leaves this one
    /// at once; the rest waits to be sent again.
    ///
    /// Nobody may be between [`Lane::page`] and [`Lane::page_done`] for this replica.
    pub fn disconnected(
        &mut self,
        replica: Replica,
        clusters: &impl Clusters,
        now_ms: u64,
        done: &mut impl FnMut(Completion<u32, L>),
    ) {
        self.refills.at_mut(replica).disconnected();
        let read = self.is_attached(replica);
        let (own, other) = self.streams.split(replica);
        if let Some(stream) = own {
            stream.disconnected();
        }
        if let Some(other) = other {
            // It may come back without what it has acknowledged.
            other.each_store(|token| self.copies.forget_stored(token, replica));
        }
        self.leave_unconnected(replica, read, clusters, now_ms, done);
    }

    /// Whether there is a connection to this replica, for stores as well as for loads (see [`Lane::attached`]).
    pub fn is_connected(&self, replica: Replica) -> bool {
        self.stream(replica).is_some_and(takes_stores)
    }

    /// The number of the last store or free that this replica was to be sent. HELLO carries it.
    pub fn issued(&self, replica: Replica) -> Seq {
        self.stream(replica).map_or(Seq(0), Stream::issued)
    }

    /// Before the first handshake with a replica that knows the other one's stream, having followed or served it:
    /// numbers go on above that one's.
    pub fn skip_to_other(&mut self, replica: Replica) {
        let issued = self.issued(replica.other());
        if let Some(stream) = self.streams.at_mut(replica) {
            stream.skip_to(issued);
        }
    }

    /// The highest number that this replica has acknowledged and not refused. A server of the same life that has
    /// executed less has forgotten its pages.
    pub fn executed(&self, replica: Replica) -> Seq {
        self.stream(replica).map_or(Seq(0), Stream::executed)
    }

    /// Takes from an unconnected replica what need not wait for it. If its connection only `read`, that is all.
    pub(super) fn leave_unconnected(
        &mut self,
        replica: Replica,
        read: bool,
        clusters: &impl Clusters,
        now_ms: u64,
        done: &mut impl FnMut(Completion<u32, L>),
    ) {
        let (Some(stream), other) = self.streams.split(replica) else {
            return;
        };
        if stream.is_connected() {
            return;
        }
        let other_is_up = other.as_ref().is_some_and(takes_stores);
        let other_answers = other.as_ref().is_some_and(Stream::is_connected);
        let other_is_asked = other.as_ref().is_some_and(Stream::is_asked);
        let other_reads = other_answers && !other_is_up;
        let mirrored = other.is_some();
        let copies = &mut self.copies;
        stream.retain_stores(|token, _| {
            let leaves = copies.leaves(token, replica, other_is_up, clusters);
            if leaves {
                if let Some(result) = copies.leave(token, replica, clusters) {
                    done(Completion::Store { token, result });
                }
            }
            !leaves
        });
        let asks = &mut self.asks;
        stream.retain_loads(|&number, _| {
            let stays = |load: &mut Load<L>| {
                load.end_page(replica, false);
                let standing = |replica| clusters.standing(replica, load.slot);
                let other = *load.asks.at(replica.other());
                let better = mirrored
                    && other.is_open()
                    && match other_reads {
                        true => other_is_asked,
                        false => standing(replica.other()) != Standing::Behind,
                    }
                    && (other_answers || standing(replica) == Standing::Behind);
                let ask = load.asks.at_mut(replica);
                let waits = ask.is_useful() && !load.done && !read;
                let stays = waits && !other.is_useful() && !better;
                if !stays {
                    *ask = Ask::No;
                }
                stays
            };
            asks.change(number, stays).unwrap_or(false)
        });
        for number in self.asks.numbers() {
            if self.asks.get(number).is_some_and(|load| !load.is_pending()) {
                if let Some(completion) = self.pursue(number, None, clusters, now_ms) {
                    done(completion);
                }
            }
        }
    }

    // Asking.

    /// Asks for a page to be stored; `payload` and `now_ms` as for [`Stream::store`].
    ///
    /// It goes to each replica that is connected and not behind for the cluster; if there is none, to
    /// each that is not behind, when it is connected again. The others fall behind.
    ///
    /// # Errors
    ///
    /// [`NotTaken::NoTarget`]: all replicas are behind; or one that is away would fall behind, and the
    /// other lacks pages of the cluster; or, if this is strict, one is away or behind.
    /// [`NotTaken::NoRoom`]: as many stores and frees as there are entries are unanswered by one of the
    /// replicas. Also for a token that is none, or of a store in flight.
    pub fn store(
        &mut self,
        slot: Slot,
        payload: impl Into<Payload>,
        token: u32,
        now_ms: u64,
        clusters: &impl Clusters,
    ) -> Result<(), NotTaken> {
        let payload = payload.into();
        let Both { primary, mirror } = self.targets(slot, clusters)?;
        let room = |replica, target: bool| !target || self.op_room(replica) > 0;
        let room = room(Replica::Primary, primary) && room(Replica::Mirror, mirror);
        if !room || !self.copies.is_free(token) {
            return Err(NotTaken::NoRoom);
        }
        let push = |stream: &mut Option<Inner<OB, LB>>, target| match stream {
            Some(stream) if target => match stream.store(slot, payload, token, now_ms) {
                Ok(_) => Part::Pending,
                Err(NoRoom) => Part::Missed,
            },
            _ => Part::Missed,
        };
        let parts = Both {
            primary: push(&mut self.streams.primary, primary),
            mirror: push(&mut self.streams.mirror, mirror),
        };
        if parts.primary == Part::Missed && parts.mirror == Part::Missed {
            return Err(NotTaken::NoRoom);
        }
        self.copies.begin(token, slot, parts, clusters);
        Ok(())
    }

    /// Where a store goes.
    fn targets(&self, slot: Slot, clusters: &impl Clusters) -> Result<Both<bool>, NotTaken> {
        let fit = |replica| {
            self.stream(replica).is_some()
                && !self.is_attached(replica)
                && clusters.standing(replica, slot) != Standing::Behind
        };
        let fits = Both {
            primary: fit(Replica::Primary),
            mirror: fit(Replica::Mirror),
        };
        let up = |replica| *fits.at(replica) && self.is_connected(replica);
        let ups = Both {
            primary: up(Replica::Primary),
            mirror: up(Replica::Mirror),
        };
        let targets = if ups.primary || ups.mirror { ups } else { fits };
        if !targets.primary && !targets.mirror {
            return Err(NotTaken::NoTarget);
        }
        for replica in self.copies.configured() {
            let stored = *targets.at(replica);
            let takes = if self.copies.is_strict() {
                stored && *ups.at(replica)
            } else {
                stored || self.copies.may_leave(replica, slot, clusters)
            };
            if !takes {
                return Err(NotTaken::NoTarget);
            }
        }
        Ok(targets)
    }

    /// Shows the token of each store that this replica has not answered.
    pub fn each_store(&self, replica: Replica, show: impl FnMut(u32)) {
        if let Some(stream) = self.stream(replica) {
            stream.each_store(show);
        }
    }

    /// Asks for a FREE of a cluster on this replica, as [`Stream::free`]; one that is not configured has
    /// nothing to free.
    ///
    /// # Errors
    ///
    /// [`NoRoom`]: as for [`Stream::free`], and while the connection only reads.
    pub fn free(&mut self, replica: Replica, cluster: Slot) -> Result<(), NoRoom> {
        match self.streams.at_mut(replica) {
            Some(stream) if stream.is_attached() => Err(NoRoom),
            Some(stream) => stream.free(cluster),
            None => Ok(()),
        }
    }

    /// Asks for `count` pages from `slot` on, all in one cluster; `now_ms` as for [`Lane::store`].
    ///
    /// Connected replicas are asked before others, whole ones before those that may lack pages, the
    /// primary before the mirror; a replica that is behind, never, unless it is there for reading
    /// ([`Lane::attached`]).
    ///
    /// # Errors
    ///
    /// [`NotTaken::NoTarget`]: all replicas are behind. [`NotTaken::NoRoom`]: all entries are in use; also for
    /// slots that are none, or not all in one cluster.
    pub fn load(
        &mut self,
        slot: Slot,
        count: u16,
        token: L,
        now_ms: u64,
        clusters: &impl Clusters,
    ) -> Result<(), NotTaken> {
        if !slot.run_fits(count) || self.asks.room() == 0 {
            return Err(NotTaken::NoRoom);
        }
        let best = self.best(slot, |_| Ask::No, clusters);
        let best = best.ok_or(NotTaken::NoTarget)?;
        let number = self.asks.push(token, slot, count, now_ms);
        self.ask(number.ok_or(NotTaken::NoRoom)?, best, now_ms);
        Ok(())
    }

    /// Asks the other replica, too, for the loads that one was asked for before this time and has not
    /// answered. The first whole answer completes a load. Returns how many were asked so.
    ///
    /// A load whose page is just coming in is left alone, and no more are asked twice than leave half of
    /// the entries to others.
    pub fn hedge(&mut self, asked_before_ms: u64, clusters: &impl Clusters, now_ms: u64) -> usize {
        let mut hedged = 0_usize;
        for replica in Replica::BOTH {
            let (Some(stream), Some(other)) = self.streams.split(replica) else {
                return 0;
            };
            if !stream.is_connected() || !other.is_connected() {
                continue;
            }
            // As `needs` and `may_ask`.
            let reads = other.is_attached();
            let needs = reads.then(|| stream.executed());
            if reads && !other.is_asked() {
                continue;
            }
            let asks = &mut self.asks;
            stream.any_load(|&number, asked_ms| {
                let wanted = asked_ms < asked_before_ms && asks.may_double();
                let ask = |load: &mut Load<L>| {
                    wanted
                        && !load.done
                        && load.writer.is_none()
                        && load.asks.at(replica.other()).is_open()
                        && (reads
                            || clusters.standing(replica.other(), load.slot) != Standing::Behind)
                        && push(other, replica.other(), number, load, (now_ms, needs))
                };
                if asks.change(number, ask) == Some(true) {
                    hedged = hedged.saturating_add(1);
                }
                false
            });
        }
        hedged
    }

    /// Which replica to ask, of those that were not asked in vain.
    fn best(
        &self,
        slot: Slot,
        ask: impl Fn(Replica) -> Ask,
        clusters: &impl Clusters,
    ) -> Option<Replica> {
        let rank = |&replica: &Replica| {
            let whole =
                self.is_attached(replica) || clusters.standing(replica, slot) == Standing::Whole;
            (!self.answers(replica), !whole)
        };
        let open =
            |&replica: &Replica| ask(replica).is_open() && self.may_ask(replica, slot, clusters);
        self.copies.configured().filter(open).min_by_key(rank)
    }

    /// Asks for a load where it is best asked, if nobody who is there is asked already. Returns its end,
    /// if there is nobody left to ask. `answered` tells whose answer has just come, if one has.
    pub(super) fn pursue(
        &mut self,
        number: u16,
        answered: Option<Replica>,
        clusters: &impl Clusters,
        now_ms: u64,
    ) -> Option<Completion<u32, L>> {
        let load = self.asks.get(number)?;
        let asks = load.asks;
        let waits = |replica| asks.at(replica).is_useful() && self.answers(replica);
        if load.done || waits(Replica::Primary) || waits(Replica::Mirror) {
            return None;
        }
        match self.best(load.slot, |replica| *asks.at(replica), clusters) {
            // What is pending here is of no use, or waits for a connection.
            Some(best) if self.answers(best) || !load.is_pending() => {
                self.take_back(number, best.other());
                self.ask(number, best, now_ms);
                None
            }
            None if !load.is_pending() => {
                let again = answered.is_some_and(|replica| {
                    let again = |load: &mut Load<L>| load.ask_again(replica.other());
                    self.asks.change(number, again) == Some(true)
                });
                if again {
                    return self.pursue(number, None, clusters, now_ms);
                }
                let load = self.asks.get(number)?;
                let (token, result) = (load.token, Err(load.error()));
                self.asks.change(number, |load| load.done = true);
                Some(Completion::Load { token, result })
            }
            _ => None,
        }
    }

    fn ask(&mut self, number: u16, replica: Replica, now_ms: u64) {
        let at = (now_ms, self.needs(replica));
        if let Some(stream) = self.streams.at_mut(replica) {
            self.asks
                .change(number, |load| push(stream, replica, number, load, at));
        }
    }

    /// Takes a load from a replica where it waits for a connection.
    fn take_back(&mut self, number: u16, replica: Replica) {
        let pending = |load: &Load<L>| load.asks.at(replica).is_pending();
        match self.streams.at_mut(replica) {
            Some(stream)
                if !stream.is_connected() && self.asks.get(number).is_some_and(pending) =>
            {
                stream.retain_loads(|&other, _| other != number);
                self.asks
                    .change(number, |load| *load.asks.at_mut(replica) = Ask::No);
            }
            _ => {}
        }
    }

    pub(super) fn stream(&self, replica: Replica) -> Option<&Inner<OB, LB>> {
        self.streams.at(replica).as_ref()
    }
}

/// Whether there is a connection that stores can be sent on.
pub(super) fn takes_stores<OB, LB>(stream: &Inner<OB, LB>) -> bool
where
    OB: DerefMut<Target = [OpSlot<u32>]>,
    LB: DerefMut<Target = [LoadSlot<u16>]>,
{
    stream.is_connected() && !stream.is_attached()
}

/// Asks a replica for a load, at that time, which needs that for its answer to count. Its stream has room for each entry of the table.
fn push<L, OB, LB>(
    stream: &mut Inner<OB, LB>,
    replica: Replica,
    number: u16,
    load: &mut Load<L>,
    (now_ms, needs): (u64, Option<Seq>),
) -> bool
where
    OB: DerefMut<Target = [OpSlot<u32>]>,
    LB: DerefMut<Target = [LoadSlot<u16>]>,
{
    let taken = stream.load(load.slot, load.count, number, now_ms).is_ok();
    *load.asks.at_mut(replica) = if taken {
        Ask::asked(needs)
    } else {
        Ask::Failed {
            error: LoadError::Expired,
            whole: false,
        }
    };
    taken
}
