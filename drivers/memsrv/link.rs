// SPDX-License-Identifier: GPL-2.0-only

//! A link: one connection to the server, its stream of operations, and the thread that keeps it up.
//!
//! | file | side | context |
//! |---|---|---|
//! | `link.rs` | asking: stores, loads, frees | the hooks, process context |
//! | `tx.rs` | sending | whoever asked and found the socket free, or the thread |
//! | `rx.rs` | receiving, completing | softirq, or inside a sender |
//! | `session.rs` | connecting, giving up, time | the thread |
//!
//! Locks, in order: `tx` (mutex: who sends), the socket's lock, `state` (spin lock, interrupts off),
//! the pool's free list. Above all of them may stand the swap cluster's lock and whatever a task in
//! reclaim holds, which is why the hooks only ever *try* `tx`. Nothing ends a folio under `state`.

use super::engine::{LoadSlot, OpSlot, StoreError, Stream, FREE_LIMIT};
use super::platform::{
    folio::{LoadingFolio, StoringFolio},
    sys,
    thread::Bell, //
};
use super::protocol::Slot;
use super::shared::Shared;
use super::stats::LinkCounters;
use super::table::{LoadEntry, Table};
use super::tx::Tx;
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        new_condvar,
        new_mutex,
        new_spinlock_irq,
        Arc,
        CondVar,
        Mutex,
        SpinLockIrq, //
    }, //
};

/// Loads that may be in flight on a link: the loads' own part of the in-flight table.
pub(crate) const LOADS: u32 = 128;

/// Stores that wait until the asking task sends them itself; fewer are left to the thread, which
/// finds more of them together the longer it takes to run.
const SEND_BATCH: usize = 32;

/// Events of the thread.
pub(crate) mod event {
    /// There is something to send, or room to send it.
    pub(crate) const SEND: u32 = 1;
    /// Slots were freed.
    pub(crate) const FREE: u32 = 2;
    /// The connection is of no use any more.
    pub(crate) const BROKEN: u32 = 4;
    /// Something is in flight: watch the time.
    pub(crate) const WATCH: u32 = 8;
}

type Ops = KVVec<OpSlot<u32>>;
type Loads = KVVec<LoadSlot<u32>>;

/// Under the link's lock.
pub(crate) struct State {
    pub(crate) stream: Stream<u32, u32, Ops, Loads>,
    pub(crate) table: Table,
    /// Whether the thread looks at the clock by itself; else it must be told of what is in flight.
    pub(crate) watched: bool,
}

/// One connection to the server.
#[pin_data]
pub(crate) struct Link {
    pub(crate) shared: Arc<Shared>,
    pub(crate) number: u16,
    pub(crate) bell: Bell,
    #[pin]
    pub(crate) state: SpinLockIrq<State>,
    /// Who holds it may send.
    #[pin]
    pub(crate) tx: Mutex<Tx>,
    /// Loads wait here for an entry.
    #[pin]
    pub(crate) load_room: CondVar,
    /// Whether stores are worth being admitted.
    pub(crate) up: Atomic<bool>,
    /// When the server was last heard, in milliseconds.
    pub(crate) heard_ms: Atomic<u64>,
    pub(crate) reconnects: Atomic<u64>,
    /// Whether freed slots wait for room in the engine.
    pub(crate) frees_wait: Atomic<bool>,
    /// How the first attempt to connect ended: 1 before it has, else 0 or a negative errno.
    pub(crate) first: Atomic<i32>,
    #[pin]
    pub(crate) first_done: kernel::sync::Completion,
    /// Whether the machine is about to end.
    pub(crate) leaving: Atomic<bool>,
    /// The thread has ended.
    #[pin]
    pub(crate) left: kernel::sync::Completion,
}

/// A link's numbers for the statistics.
#[derive(Default)]
pub(crate) struct LinkReport {
    pub(crate) up: bool,
    pub(crate) stores: u64,
    pub(crate) loads: u64,
    pub(crate) frees: u64,
    pub(crate) reconnects: u64,
}

impl LinkReport {
    /// A word for the state.
    pub(crate) fn state(&self) -> &'static str {
        if self.up {
            "up"
        } else {
            "down"
        }
    }
}

fn filled<T: Copy>(item: T, n: usize) -> Result<KVVec<T>> {
    let mut items = KVVec::with_capacity(n, GFP_KERNEL)?;
    for _ in 0..n {
        items.push(item, GFP_KERNEL)?;
    }
    Ok(items)
}

impl Link {
    /// Link `number`, not connected.
    pub(crate) fn new(shared: Arc<Shared>, number: u16) -> Result<Arc<Self>> {
        let copies = shared.pool.size();
        // Twice the pool: a store that was refused leaves a hole until the server's next ACK.
        let ops = usize::try_from(copies)? * 2 + FREE_LIMIT;
        let state = State {
            stream: Stream::new(
                filled(OpSlot::EMPTY, ops)?,
                filled(LoadSlot::EMPTY, usize::try_from(LOADS)?)?,
            ),
            table: Table::new(copies, LOADS)?,
            watched: false,
        };
        let tx = Tx::new()?;
        Arc::pin_init(
            pin_init!(Self {
                shared,
                number,
                bell: Bell::new(),
                state <- new_spinlock_irq!(state),
                tx <- new_mutex!(tx),
                load_room <- new_condvar!(),
                up: Atomic::new(false),
                heard_ms: Atomic::new(0),
                reconnects: Atomic::new(0),
                frees_wait: Atomic::new(false),
                first: Atomic::new(1),
                first_done <- kernel::sync::Completion::new(),
                leaving: Atomic::new(false),
                left <- kernel::sync::Completion::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// Whether stores are worth being admitted.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// Sends a folio that was admitted. It ends by itself.
    pub(crate) fn store(&self, folio: &StoringFolio) {
        let (first, pages) = (folio.slot(), folio.pages());
        let pool = &self.shared.pool;
        let mut lead = None;
        let mut more = false;
        for index in 0..pages {
            let slot = first.saturating_add(u64::from(index));
            let Some(number) = pool.take() else {
                // Admission has reserved them all: not reached. The folio fails, in one piece.
                ratelimited!(pr_err, "the in-flight table is short of what it promised\n");
                match lead {
                    Some(lead) => self.change(|s| s.table.abandon(lead, pages - index)),
                    None => folio.start_writeback().failed(),
                }
                return;
            };
            let crc = pool.buffers().fill(number, folio, index, slot);
            let (queued, watched) = self.change(|state| {
                let lead = *lead.get_or_insert_with(|| {
                    // The bits before the queue, under the lock: a free that is sent later sees them.
                    self.shared.areas.set(first, pages);
                    let folio = folio.start_writeback();
                    state.table.begin_store(number, folio, first, pages);
                    number
                });
                state.table.add_copy(number, lead);
                let asked = state.stream.store(Slot(slot), crc, number, sys::now_ms());
                if asked.is_err() {
                    state.table.end_copy(number, Err(StoreError::Expired), pool);
                }
                (state.stream.queued(), state.watched)
            });
            more = queued > 0;
            if queued >= SEND_BATCH {
                // In the middle of a huge page, too: the sooner it goes, the sooner there is room.
                self.send();
                more = false;
            }
            if !watched {
                self.bell.ring(event::WATCH);
            }
        }
        if more {
            self.bell.ring(event::SEND);
        }
    }

    /// Asks for a folio. It ends by itself. Sleeps while too many loads are in flight.
    pub(crate) fn load(&self, folio: LoadingFolio) {
        let (slot, pages) = (folio.slot(), folio.pages());
        let entry = LoadEntry {
            folio,
            pages,
            asked_us: sys::now_us(),
            patient: sys::current_is_swapoff(),
            damaged: 0,
        };
        if let Err(entry) = self.ask(slot, entry) {
            ratelimited!(
                pr_err,
                "a page could not be read back (no answer in time): slot {slot:#x}\n"
            );
            entry.folio.done(false, false);
        } else {
            self.send();
        }
    }

    /// Puts a load into the table, waiting for room as long as a load may wait at all.
    fn ask(&self, slot: u64, entry: LoadEntry) -> Result<(), LoadEntry> {
        let since_ms = entry.asked_us / 1000;
        let mut state = self.state.lock();
        while !state.table.has_load_room() {
            let waited = sys::now_ms().saturating_sub(since_ms);
            if waited > self.shared.config.hold_ms && !entry.patient {
                return Err(entry);
            }
            // The thread looks at the time for those who wait here, too, and wakes them.
            self.load_room.wait(&mut state);
        }
        let State { stream, table, .. } = &mut *state;
        let pages = entry.pages;
        let number = table.begin_load(entry)?;
        if stream.load(Slot(slot), pages, number, since_ms).is_err() {
            // The engine's table is as large as ours, and the run was looked at: not reached.
            return table.cancel_load(number).map_or(Ok(()), Err);
        }
        let watched = state.watched;
        drop(state);
        if !watched {
            self.bell.ring(event::WATCH);
        }
        Ok(())
    }

    /// Changes the state, and then, without the lock, ends what has ended by it.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let (result, done) = {
            let mut state = self.state.lock();
            let result = change(&mut state);
            (result, state.table.pop_done(&self.shared.pool))
        };
        if let Some(done) = done {
            self.finish(done);
        }
        result
    }

    /// Asks for the freed slots of this link's clusters to be freed on the server.
    pub(crate) fn flush_frees(&self) {
        let links = u64::from(self.shared.config.connections);
        let mine = |cluster: u64| cluster % links == u64::from(self.number);
        // Said first: an ACK that comes meanwhile asks for another look.
        self.frees_wait.store(true, Relaxed);
        let all = self.shared.areas.take_flagged(mine, |slot| {
            // Looked at under the lock: who freezes takes it, and then sees what was asked before.
            self.change(|state| {
                !self.shared.frozen.load(Relaxed) && state.stream.free(Slot(slot)).is_ok()
            })
        });
        self.frees_wait.store(!all, Relaxed);
    }

    /// Whether the server was asked to free pages and has not answered.
    pub(crate) fn frees_in_flight(&self) -> bool {
        self.state.lock().stream.frees_in_flight() > 0
    }

    /// The machine ends: the thread says goodbye and ends, too; waits for that.
    ///
    /// A load that is asked afterwards waits until there is no machine to wait on.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Relaxed);
        self.bell.ring(event::WATCH);
        self.left.wait_for_completion();
    }

    /// What the statistics show.
    pub(crate) fn report(&self) -> (LinkCounters, LinkReport) {
        let state = self.state.lock();
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let report = LinkReport {
            up: self.is_up(),
            stores: count(state.stream.stores_in_flight()),
            loads: count(state.stream.loads_in_flight()),
            frees: count(state.stream.frees_in_flight()),
            reconnects: self.reconnects.load(Relaxed),
        };
        (state.table.counters, report)
    }
}
