// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A thread of a client: random operations, many in flight, each written down with its times.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};

use memsrv_client::{Client, Error, LoadTicket, Page, Slot, StoreTicket, PAGE_SIZE};

use crate::check::{Op, Stamp, What};
use crate::random::Random;

/// Clusters of each client, and slots used of each.
pub const CLUSTERS: u64 = 3;
pub const SLOTS: u64 = 8;

/// Threads that share a client. Each stores and frees slots of its own, and loads all.
pub const THREADS: u64 = 2;

/// The most operations that a thread leaves unanswered.
const DEPTH: u64 = 10;

/// What all threads of a round tell the time by, and how far they are.
#[derive(Default)]
pub struct Clock {
    time: AtomicU64,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    steps: u64,
    ended: bool,
}

impl Clock {
    /// A time that is told only once.
    pub fn now(&self) -> u64 {
        self.time.fetch_add(1, Ordering::SeqCst)
    }

    fn step(&self) {
        self.progress.lock().unwrap().steps += 1;
        self.changed.notify_all();
    }

    /// Says that there will be no more steps.
    pub fn end(&self) {
        self.progress.lock().unwrap().ended = true;
        self.changed.notify_all();
    }

    /// Waits for so many steps of all threads together, or for their end.
    pub fn wait_for(&self, steps: u64) {
        let progress = self.progress.lock().unwrap();
        let short = |progress: &mut Progress| progress.steps < steps && !progress.ended;
        drop(self.changed.wait_while(progress, short).unwrap());
    }
}

impl Stamp {
    /// A page of which each part depends on the stamp.
    pub fn page(self) -> Page {
        let mut page = [0; PAGE_SIZE];
        let stamp = [self.client, self.slot.0, self.version];
        let sum = stamp.map(|part| part.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let sum = sum[0] ^ sum[1].rotate_left(20) ^ sum[2].rotate_left(40);
        for ((i, word), place) in page.chunks_exact_mut(8).enumerate().zip(0_u64..) {
            let number = stamp.get(i).copied();
            let number = number.unwrap_or_else(|| sum.wrapping_mul(place * 2 + 1));
            word.copy_from_slice(&number.to_le_bytes());
        }
        page
    }

    /// Whose page it is.
    fn of(page: &[u8]) -> Stamp {
        let number = |at| u64::from_le_bytes(page[at..at + 8].try_into().unwrap());
        let stamp = Stamp {
            client: number(0),
            slot: Slot(number(8)),
            version: number(16),
        };
        assert!(
            page == stamp.page(),
            "bytes that nobody stored, like {stamp:?}"
        );
        stamp
    }
}

/// An operation in flight, and when it was asked.
enum Ticket {
    Store(u64, Stamp, StoreTicket),
    /// Of so many slots.
    Load(u64, Slot, u16, LoadTicket),
}

/// How often something came of the operations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub stored: u64,
    pub refused: u64,
    pub expired: u64,
    pub loaded: u64,
    pub empty: u64,
    pub loads_expired: u64,
    pub frees: u64,
}

/// A client's thread.
pub struct Worker<'a> {
    pub clock: &'a Clock,
    pub client: &'a Client,
    pub number: u64,
    pub thread: u64,
    pub random: Random,
    tickets: VecDeque<Ticket>,
    versions: u64,
    pub ops: Vec<(Slot, Op)>,
    pub counts: Counts,
}

impl<'a> Worker<'a> {
    pub fn new(clock: &'a Clock, client: &'a Client, number: u64, thread: u64, seed: u64) -> Self {
        Self {
            clock,
            client,
            number,
            thread,
            random: Random::new(seed, &[2, number, thread]),
            tickets: VecDeque::new(),
            versions: 0,
            ops: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Does so many operations, and waits for their answers. Which, and where it waits, depends on the seed
    /// alone.
    pub fn run(&mut self, steps: u64) {
        for _ in 0..steps {
            match self.random.below(20) {
                0..=7 => self.store(),
                8..=16 => {
                    let slot = self.any_slot();
                    self.load(slot, 1);
                }
                17 => self.load_run(),
                _ => self.free(),
            }
            let most = if self.random.one_in(20) { 0 } else { DEPTH };
            self.take(most);
            self.clock.step();
        }
        self.take(0);
    }

    fn any_slot(&mut self) -> Slot {
        Slot(self.random.below(CLUSTERS) * 512 + self.random.below(SLOTS))
    }

    fn own_slot(&mut self) -> Slot {
        let place = self.random.below(SLOTS / THREADS) * THREADS + self.thread;
        Slot(self.random.below(CLUSTERS) * 512 + place)
    }

    fn store(&mut self) {
        self.versions += 1;
        let stamp = Stamp {
            client: self.number,
            slot: self.own_slot(),
            version: self.versions * THREADS + self.thread,
        };
        let asked = self.clock.now();
        let ticket = self.client.submit_store(stamp.slot, &stamp.page()).unwrap();
        self.tickets.push_back(Ticket::Store(asked, stamp, ticket));
    }

    pub fn load(&mut self, slot: Slot, count: u16) {
        let asked = self.clock.now();
        let ticket = self.client.submit_load(slot, count).unwrap();
        self.tickets
            .push_back(Ticket::Load(asked, slot, count, ticket));
    }

    fn load_run(&mut self) {
        let slot = Slot(self.random.below(CLUSTERS) * 512);
        let first = self.random.below(SLOTS);
        let count = 1 + self.random.below(SLOTS - first);
        self.load(Slot(slot.0 + first), u16::try_from(count).unwrap());
    }

    fn free(&mut self) {
        let slot = self.own_slot();
        let asked = self.clock.now();
        self.client.free(slot).unwrap();
        self.note(slot, asked, What::Freed);
        self.counts.frees += 1;
    }

    /// Waits until no more than so many are unanswered.
    pub fn take(&mut self, most: u64) {
        while u64::try_from(self.tickets.len()).unwrap() > most {
            match self.tickets.pop_front().unwrap() {
                Ticket::Store(asked, stamp, ticket) => self.take_store(asked, stamp, ticket.wait()),
                Ticket::Load(asked, slot, count, ticket) => {
                    self.take_load(asked, slot, count, ticket.wait());
                }
            }
        }
    }

    fn take_store(&mut self, asked: u64, stamp: Stamp, result: Result<(), Error>) {
        let (count, what) = match result {
            Ok(()) => (&mut self.counts.stored, What::Stored(stamp)),
            Err(Error::StoreRefused { status, .. }) if status.is_no_room() => {
                (&mut self.counts.refused, What::NotStored(stamp))
            }
            Err(Error::StoreExpired { .. }) => (&mut self.counts.expired, What::NotStored(stamp)),
            Err(other) => panic!("{stamp:?}: {other}"),
        };
        *count += 1;
        self.note(stamp.slot, asked, what);
    }

    fn take_load(&mut self, asked: u64, slot: Slot, count: u16, got: Result<Vec<u8>, Error>) {
        match got {
            Ok(pages) => {
                assert_eq!(pages.len(), PAGE_SIZE * usize::from(count));
                for (page, slot) in pages.chunks(PAGE_SIZE).zip(slot.0..) {
                    self.note(Slot(slot), asked, What::Loaded(Some(Stamp::of(page))));
                }
                self.counts.loaded += 1;
            }
            Err(Error::NotFound { .. }) => {
                // Which of several slots is empty is not told.
                if count == 1 {
                    self.note(slot, asked, What::Loaded(None));
                }
                self.counts.empty += 1;
            }
            Err(Error::LoadExpired { .. }) => self.counts.loads_expired += 1,
            Err(other) => panic!("{slot:?}: {other}"),
        }
    }

    fn note(&mut self, slot: Slot, asked: u64, what: What) {
        let answered = self.clock.now();
        let op = Op {
            asked,
            answered,
            what,
        };
        self.ops.push((slot, op));
    }
}
