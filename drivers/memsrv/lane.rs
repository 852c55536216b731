// SPDX-License-Identifier: GPL-2.0-only

//! A lane: one connection to each server, the operations that go over them, and what is in flight.
//!
//! All slots of a swap cluster go by one lane, so that a lane alone decides their order, on one server
//! and on two. What is decided, the engine decides (`engine::Lane`); here are the locks around it and
//! the folios behind its tokens.
//!
//! | file | side | context |
//! |---|---|---|
//! | `lane.rs` | asking: stores, loads, frees | the hooks, process context |
//! | `tx.rs` | sending | whoever asked and found the socket free, or the thread |
//! | `rx.rs` | receiving, completing | softirq, or inside a sender |
//! | `session.rs` | connecting, giving up, time | the thread |
//! | `compress.rs` | what travels of a page | as asking; as receiving |
//! | `link.rs` | one of the connections | |
//!
//! Locks, in order: a connection's `tx` (mutex: who sends), the socket's lock, `state` (spin lock,
//! interrupts off), the pool's free list. Nobody holds two `tx`. Above all of them may stand the swap
//! cluster's lock and whatever a task in reclaim holds, which is why the hooks only ever *try* `tx`.
//! Nothing ends a folio under `state`.

use super::ahead;
use super::areas::index;
use super::compress;
use super::engine::{
    self, Ahead, AheadSlot, AskSlot, Clusters, CopySlot, LoadSlot, OpSlot, Replica, Standing,
    StoreError, Tail, FREE_LIMIT,
};
use super::flights::Flights;
use super::link::{event, Part};
use super::platform::{
    folio::StoringFolio,
    hook::StorePlug,
    page::Buffers,
    sys, //
};
use super::protocol::Slot;
use super::refill::Source;
use super::shared::Shared;
use super::stages::Handed;
use super::stats::LaneCounters;
use super::table::Table;
use super::unread::Unread;
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        new_condvar,
        new_spinlock_irq,
        Arc,
        CondVar,
        SpinLockIrq, //
    }, //
};

/// Loads that may be in flight on a lane: the loads' own part of the in-flight table.
const LOADS: u32 = 192;

/// Stores that are sent at once, in one go; fewer wait for the answer to those before them, if there are any.
pub(crate) const SEND_BATCH: usize = 32;

/// Stores at which the asking task sends them itself. Fewer are the thread's, while the task makes the next ones: on
/// another processor, if there is one. More than a batch of them: the thread has not come to it.
fn own_batch() -> usize {
    match sys::cpus() {
        1 => SEND_BATCH,
        _ => SEND_BATCH * 4,
    }
}

/// What is in flight, in the order that the servers are to see.
pub(crate) type Streams = engine::Lane<
    u32,
    KVVec<CopySlot>,
    KVVec<AskSlot<u32>>,
    KVVec<OpSlot<u32>>,
    KVVec<LoadSlot<u16>>,
>;

/// Under the lane's lock.
pub(crate) struct State {
    pub(crate) streams: Streams,
    pub(crate) table: Table,
    /// What nobody has asked for yet; the places are those of the lane's `ahead_pages`.
    pub(crate) ahead: KBox<Ahead<KVVec<AheadSlot<u32>>>>,
    /// The primary's connection was lost, and no load has come from the one that goes on in its place since: which
    /// that is.
    pub(crate) failing_over: Option<Replica>,
    /// Where each server was reached last, and which life of it: for the other one to fetch pages from.
    pub(crate) sources: [Source; 2],
    pub(crate) handed: Handed,
    /// How often the servers have changed places.
    pub(crate) turns: u32,
}

/// The connections of one number to each server.
#[pin_data]
pub(crate) struct Lane {
    pub(crate) shared: Arc<Shared>,
    pub(crate) number: u16,
    #[pin]
    pub(crate) state: SpinLockIrq<State>,
    /// See [`own_batch`].
    own_batch: usize,
    /// How many copies would set a bit when they are acknowledged: written under the lock, read without.
    pub(crate) attached: Atomic<usize>,
    /// Buffers for pages that nobody has asked for yet.
    pub(crate) ahead_pages: Buffers,
    /// Where compressed pages are gathered.
    pub(crate) blocks: Buffers,
    /// Loads wait here for an entry.
    #[pin]
    pub(crate) load_room: CondVar,
    /// Folios to be read again.
    #[pin]
    pub(crate) unread: Unread,
    #[pin]
    primary: Part,
    #[pin]
    mirror: Part,
}

fn filled<T: Copy>(item: T, n: usize) -> Result<KVVec<T>> {
    let mut items = KVVec::with_capacity(n, GFP_KERNEL)?;
    for _ in 0..n {
        items.push(item, GFP_KERNEL)?;
    }
    Ok(items)
}

#[inline(never)]
fn streams(shared: &Shared) -> Result<Streams> {
    let copies = usize::try_from(shared.pool.size())?;
    // A load that was asked twice keeps its entry until both servers have answered.
    let loads = usize::try_from(LOADS)? * 2;
    let one = || -> Result<_> {
        // Twice the pool: a store that was refused leaves a hole until the server's next ACK.
        let ops = filled(OpSlot::EMPTY, copies * 2 + FREE_LIMIT)?;
        Ok((ops, filled(LoadSlot::EMPTY, loads)?))
    };
    let config = &shared.config;
    Ok(Streams::new(
        one()?,
        config.mirror.map(|_| one()).transpose()?,
        filled(CopySlot::EMPTY, copies)?,
        filled(AskSlot::EMPTY, loads)?,
        config.mirror_strict,
    ))
}

/// How many of the last stores are remembered: more than a server lets its mirror be behind (2048).
const REMEMBERED: usize = 4096;

/// What is remembered of stores that have tokens below `copies`.
fn tail(copies: u32) -> Result<Tail<KVVec<Slot>>> {
    let slots = |n| filled(Slot(0), n);
    Ok(Tail::new(
        slots(usize::try_from(copies)?)?,
        slots(REMEMBERED)?,
        slots(REMEMBERED)?,
    ))
}

impl Lane {
    /// Lane `number`, not connected.
    ///
    /// Not inlined, and what is large in a lane has memory of its own: of what is moved into its place several
    /// copies stand on the stack, of which insmod has no more than others.
    #[inline(never)]
    pub(crate) fn new(shared: Arc<Shared>, number: u16) -> Result<Arc<Self>> {
        let flights = match shared.config.through {
            true => Some(Flights::new(shared.clone())?),
            false => None,
        };
        let copies = shared.pool.size();
        let ahead = ahead::pages(&shared.config);
        let tail = match shared.config.forwarded {
            true => Some(tail(copies)?),
            false => None,
        };
        let state = State {
            streams: streams(&shared)?,
            table: Table::new(copies, LOADS, flights, tail)?,
            ahead: ahead::new(ahead)?,
            failing_over: None,
            sources: [Source::default(); 2],
            handed: Handed::default(),
            turns: 0,
        };
        let copies = usize::try_from(copies)?;
        let ahead_pages = Buffers::new(ahead)?;
        let blocks = compress::blocks(shared.config.lz4)?;
        let mirror_copies = shared.config.mirror.map_or(0, |_| copies);
        Arc::pin_init(
            try_pin_init!(Self {
                shared,
                number,
                state <- new_spinlock_irq!(state),
                own_batch: own_batch(),
                attached: Atomic::new(0),
                ahead_pages,
                blocks,
                load_room <- new_condvar!(),
                unread <- Unread::new()?,
                primary <- Part::new(copies)?,
                mirror <- Part::new(mirror_copies)?,
            }),
            GFP_KERNEL,
        )
    }

    /// What belongs to one of the connections.
    pub(crate) fn part(&self, replica: Replica) -> &Part {
        match replica {
            Replica::Primary => &self.primary,
            Replica::Mirror => &self.mirror,
        }
    }

    /// Whether a store of this slot is worth being admitted.
    pub(crate) fn takes(&self, slot: u64) -> bool {
        let shared = &self.shared;
        let up = |replica| self.part(replica).is_up();
        let takes = |replica: Replica| match shared.areas.standing(replica, Slot(slot)) {
            Standing::Whole => up(replica),
            // What the other one has is nowhere else: it may not miss a page.
            Standing::Partial => up(replica) && up(replica.other()),
            Standing::Behind => false,
        };
        let mut replicas = shared.config.replicas();
        if shared.config.mirror_strict {
            replicas.all(takes)
        } else {
            replicas.any(takes)
        }
    }

    /// Rings the bells of the connections that `wanted` says.
    pub(crate) fn ring(&self, events: u32, wanted: impl Fn(Replica, &Part) -> bool) {
        for replica in self.shared.config.replicas() {
            let part = self.part(replica);
            if wanted(replica, part) {
                part.bell.ring(events);
            }
        }
    }

    /// Slots were freed: the servers are to be told.
    pub(crate) fn tell_freed(&self) {
        self.ring(event::FREE, |_, _| true);
    }

    /// There may be something to send on any connection.
    pub(crate) fn tell_output(&self, streams: &Streams) {
        self.ring(event::SEND, |replica, part| {
            streams.is_due(replica, SEND_BATCH, part.held.load(Relaxed))
        });
    }

    /// Whether something is to be sent there now.
    pub(crate) fn is_due(&self, replica: Replica) -> bool {
        let state = self.state.lock();
        let held = self.part(replica).held.load(Relaxed);
        state.streams.is_due(replica, SEND_BATCH, held)
    }

    /// Nobody has rung, and the thread looks all the same: what is due now would have waited for ever. It is counted, so
    /// that a lost wake-up is seen and does not merely take longer.
    pub(crate) fn note_overslept(&self, replica: Replica) {
        let mut state = self.state.lock();
        let overslept = state.streams.is_due(replica, SEND_BATCH, false);
        state.table.counters.overslept += u64::from(overslept);
    }

    /// Whoever is owed an answer must look at the clock.
    pub(crate) fn tell_watch(&self, streams: &Streams) {
        self.ring(event::WATCH, |replica, part| {
            !part.watched.load(Relaxed) && streams.oldest_ms(replica).is_some()
        });
    }

    /// Sends a folio that was admitted. It ends by itself.
    pub(crate) fn store(&self, folio: &StoringFolio, plug: &StorePlug<'_>) {
        let (first, pages) = (folio.slot(), folio.pages());
        let pool = &self.shared.pool;
        let mut lead = None;
        let mut due = [false; 2];
        for page in 0..pages {
            let slot = first.saturating_add(u64::from(page));
            let Some(number) = pool.take() else {
                // Admission has reserved them all: not reached. The folio fails, in one piece.
                ratelimited!(pr_err, "the in-flight table is short of what it promised\n");
                match lead {
                    Some(lead) => self.change(|s| s.table.abandon(lead, pages - page)),
                    None => folio.start_writeback().failed(),
                }
                return;
            };
            // Before the lock: it takes a while, if it is compressed.
            let payload = self.copy(number, folio.view(), page, slot);
            let queued = self.change(|state| {
                let lead = *lead.get_or_insert_with(|| {
                    // The bits before the queue, under the lock: a free that is sent later sees them.
                    self.shared.areas.set(first, pages);
                    let folio = folio.start_writeback();
                    state.table.begin_store(number, folio, first, pages);
                    number
                });
                state.table.add_copy(number, lead, slot);
                state.ahead.stored(Slot(slot));
                let State { streams, table, .. } = state;
                let areas = &self.shared.areas;
                table.asked(number, slot);
                let asked = streams.store(Slot(slot), payload, number, sys::now_ms(), areas);
                if asked.is_err() {
                    table.end_copy(number, Err(StoreError::Expired), pool);
                }
                self.tell_watch(streams);
                let queued = Replica::BOTH.map(|replica| streams.queued(replica));
                due = Replica::BOTH.map(|replica| {
                    let few = queued
                        .get(index(replica))
                        .is_some_and(|n| (1..SEND_BATCH).contains(n));
                    let held = few && self.hold(replica, plug);
                    table.counters.held_stores += u64::from(held);
                    streams.is_due(replica, SEND_BATCH, held)
                });
                queued
            });
            for (replica, (queued, due)) in
                Replica::BOTH.into_iter().zip(queued.iter().zip(&mut due))
            {
                // In the middle of a huge page, too: the sooner it goes, the sooner there is room.
                if *due && *queued >= self.own_batch {
                    self.send(replica);
                    *due = false;
                } else if *due && *queued >= SEND_BATCH {
                    self.part(replica).bell.ring(event::SEND);
                }
            }
        }
        self.ring(event::SEND, |replica, _| {
            due.get(index(replica)).is_some_and(|&due| due)
        });
    }

    /// Under the lock: holds a few stores if the task goes on storing, until it does not. Not where they would take the
    /// room of those to come.
    fn hold(&self, replica: Replica, plug: &StorePlug<'_>) -> bool {
        let pool = &self.shared.pool;
        let holds = pool.used() <= u64::from(pool.size() / 2) && plug.hold();
        if holds {
            self.part(replica).held.store(true, Relaxed);
        }
        holds
    }

    /// Changes the state, and then, without the lock, ends what has ended by it.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let (result, done) = {
            let mut state = self.state.lock();
            let result = change(&mut state);
            self.look_through(&mut state.table);
            (result, self.next_done(&mut state))
        };
        if let Some(done) = done {
            self.finish(done);
        }
        result
    }

    /// Whether there is a connection to that server.
    pub(crate) fn is_connected(&self, replica: Replica) -> bool {
        self.state.lock().streams.is_connected(replica)
    }

    /// A word for the state of the connection to that server.
    pub(crate) fn link_state(&self, replica: Replica) -> &'static str {
        if self.part(replica).is_up() {
            "up"
        } else if self.state.lock().streams.is_attached(replica) {
            "reads"
        } else {
            "down"
        }
    }

    /// How often the servers have changed places.
    pub(crate) fn turns(&self) -> u32 {
        self.state.lock().turns
    }

    /// The pages that were stored by so many of the last operations are lost, but those that are being stored
    /// again. Returns how many, at the most.
    pub(crate) fn lose_last(&self, operations: u64) -> usize {
        let mut state = self.state.lock();
        let State { streams, table, .. } = &mut *state;
        let Some(tail) = &mut table.tail else {
            return 0;
        };
        tail.lose(operations);
        if operations > 0 {
            streams.each_store(Replica::Primary, |number| tail.forget(number));
        }
        tail.lost()
    }

    /// Whether a cluster, by its number in its area, goes by this lane.
    pub(crate) fn has(&self, cluster: u64) -> bool {
        cluster % u64::from(self.shared.config.connections) == u64::from(self.number)
    }

    /// Asks for the freed slots of this lane's clusters to be freed on a server.
    pub(crate) fn flush_frees(&self, replica: Replica) {
        let waits = &self.part(replica).frees_wait;
        // Said first: an ACK that comes meanwhile asks for another look.
        waits.store(true, Relaxed);
        let all = self.shared.areas.take_flagged(
            replica,
            |cluster| self.has(cluster),
            |slot| {
                // Looked at under the lock: who freezes takes it, and then sees what was asked before.
                self.change(|state| {
                    !self.shared.frozen.load(Relaxed)
                        && state.streams.free(replica, Slot(slot)).is_ok()
                })
            },
        );
        waits.store(!all, Relaxed);
    }

    /// Whether a server that is there was asked to free pages and has not answered.
    pub(crate) fn frees_in_flight(&self) -> bool {
        let state = self.state.lock();
        let streams = &state.streams;
        Replica::BOTH
            .into_iter()
            .any(|replica| streams.is_connected(replica) && streams.frees_in_flight(replica) > 0)
    }

    /// What the statistics show.
    pub(crate) fn report(&self) -> LaneReport {
        let state = self.state.lock();
        let streams = &state.streams;
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        LaneReport {
            counters: *state.table.counters,
            stores: count(streams.stores_in_flight()),
            loads: count(streams.loads_in_flight()),
            frees: Replica::BOTH
                .into_iter()
                .map(|replica| count(streams.frees_in_flight(replica)))
                .sum(),
        }
    }
}

/// A lane's numbers for the statistics.
pub(crate) struct LaneReport {
    pub(crate) counters: LaneCounters,
    pub(crate) stores: u64,
    pub(crate) loads: u64,
    pub(crate) frees: u64,
}
