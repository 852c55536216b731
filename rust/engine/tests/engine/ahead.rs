// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What is asked for before anybody wants it: that it is what will be wanted, and never an older page.

use super::common::config;
use memsrv_engine::{Ahead, AheadSlot, Found};
use memsrv_protocol::{Slot, CLUSTER_SLOTS};
use proptest::prelude::*;
use std::collections::BTreeMap;

const BUFFERS: usize = 16;

/// A page that is asked for.
#[derive(Clone, Copy)]
struct Ask {
    load: usize,
    /// Somebody else waits for it than the buffer.
    wanted: bool,
    buffer: usize,
    slot: u64,
    /// If the server has made it.
    answer: Option<u64>,
}

/// Loads and stores as a driver does them; each answer comes at once unless it is held back.
struct World {
    ahead: Ahead<Vec<AheadSlot<usize>>>,
    /// What a server has of each slot, as the number of its store.
    server: BTreeMap<u64, u64>,
    /// What was stored last.
    newest: BTreeMap<u64, u64>,
    /// Stores that are not acknowledged.
    storing: Vec<(u64, u64)>,
    /// What is in the buffers.
    buffers: Vec<u64>,
    asked: Vec<Ask>,
    stores: u64,
    asks: usize,
    /// Answers do not come by themselves.
    slow: bool,
}

impl World {
    /// A page in each of so many slots.
    fn new(slots: u64) -> Self {
        let pages: BTreeMap<u64, u64> = (0..slots).map(|slot| (slot, slot + 1)).collect();
        World {
            ahead: Ahead::new((0..BUFFERS).map(|_| AheadSlot::EMPTY).collect()),
            server: pages.clone(),
            newest: pages,
            storing: Vec::new(),
            buffers: vec![0; BUFFERS],
            asked: Vec::new(),
            stores: slots + 1,
            asks: 0,
            slow: false,
        }
    }

    fn got(&self, slot: u64, page: u64) {
        assert_eq!(Some(&page), self.newest.get(&slot), "slot {slot}");
    }

    /// Somebody loads a slot; whether its page was there.
    fn load(&mut self, slot: u64) -> bool {
        let there = match self.ahead.load(Slot(slot)) {
            Found::Nothing => false,
            Found::Page(buffer) => {
                self.got(slot, self.buffers[buffer]);
                self.ahead.taken(buffer);
                true
            }
            Found::Asked(buffer, load) => {
                let mut asks = self.asked.iter_mut();
                let ask = asks.find(|ask| ask.load == load).unwrap();
                assert_eq!((ask.buffer, ask.slot, ask.wanted), (buffer, slot, false));
                ask.wanted = true;
                self.ahead.taken(buffer);
                false
            }
        };
        if let Some(mut plan) = self.ahead.plan(Slot(slot)) {
            let (storing, server) = (&self.storing, &self.server);
            let may = |slot: Slot| server.contains_key(&slot.0) && storing.is_empty();
            while let Some((slot, buffer)) = self.ahead.take(&mut plan, may) {
                let used = |ask: &Ask| ask.buffer == buffer && !ask.wanted;
                assert!(!self.asked.iter().any(used), "buffer {buffer} is in use");
                self.ahead.asks(buffer, self.asks);
                self.asked.push(Ask {
                    load: self.asks,
                    wanted: false,
                    buffer,
                    slot: slot.0,
                    answer: None,
                });
                self.asks += 1;
            }
        }
        if !self.slow {
            while self.answer(0, true) {}
        }
        there
    }

    /// The server makes the answer to one of what it was asked.
    fn execute(&mut self, which: usize) {
        let len = self.asked.len().max(1);
        if let Some(ask) = self.asked.get_mut(which % len) {
            ask.answer = ask.answer.or(self.server.get(&ask.slot).copied());
        }
    }

    /// An answer comes in.
    fn answer(&mut self, which: usize, ok: bool) -> bool {
        if self.asked.is_empty() {
            return false;
        }
        let which = which % self.asked.len();
        self.execute(which);
        let ask = self.asked.remove(which);
        let page = ask.answer.filter(|_| ok);
        match page {
            Some(page) if ask.wanted => self.got(ask.slot, page),
            _ if ask.wanted => {}
            page => {
                self.buffers[ask.buffer] = page.unwrap_or(0);
                self.ahead.landed(ask.buffer, page.is_some());
            }
        }
        true
    }

    fn is_awaited(&self, slot: u64) -> bool {
        let asked = &self.asked;
        asked.iter().any(|ask| ask.wanted && ask.slot == slot)
    }

    fn store(&mut self, slot: u64) {
        // Who reads a page has it locked.
        if self.is_awaited(slot) {
            return;
        }
        self.ahead.stored(Slot(slot));
        self.newest.insert(slot, self.stores);
        self.storing.push((slot, self.stores));
        self.stores += 1;
    }

    fn acknowledge(&mut self) {
        for (slot, page) in self.storing.drain(..) {
            self.server.insert(slot, page);
        }
    }
}

fn hits(world: &mut World, slots: impl Iterator<Item = u64>) -> usize {
    slots.filter(|&slot| world.load(slot)).count()
}

#[test]
fn who_reads_along_a_stride_waits_for_little() {
    let end = u64::from(CLUSTER_SLOTS);
    let mut world = World::new(end);
    assert!(hits(&mut world, 0..400) > 380);
    assert!(hits(&mut world, (0..400).rev()) > 380);
    assert!(hits(&mut world, (0..400).step_by(7)) > 30);
    // Three threads of it, in turns, are no stride, but each reads some pages in a row, as with the kernel's readahead.
    let turns = (0..40).flat_map(|n| {
        let run = |from: u64| (from + n * 4)..(from + n * 4 + 4);
        run(0).chain(run(160)).chain(run(320))
    });
    assert!(hits(&mut world, turns) > 300);
}

#[test]
fn who_reads_at_random_has_nothing_asked_for() {
    let mut world = World::new(512);
    // A generator with the whole period.
    let mut slot = 1;
    for _ in 0..500 {
        slot = (slot * 5 + 3) % 512;
        assert!(!world.load(slot));
    }
    assert_eq!(world.asks, 0);
}

/// What the kernel's readahead asks for at once, here and there, is no run.
#[test]
fn short_runs_here_and_there_are_not_read_on() {
    for len in [8, 16] {
        let mut world = World::new(512 * 512);
        hits(
            &mut world,
            (0..500).flat_map(|n| (n * 512)..(n * 512 + len)),
        );
        let loads = 500 * usize::try_from(len).unwrap();
        assert!(world.asks < loads / 2, "{} of {loads}", world.asks);
    }
}

/// Runs so short that most of what is asked for is never wanted.
#[test]
fn what_is_in_vain_stops_for_a_while() {
    let mut world = World::new(512 * 512);
    let runs = |from: u64, to: u64| (from..to).flat_map(|n| (n * 512)..(n * 512 + 3));
    hits(&mut world, runs(0, 400));
    let loads = 400 * 3;
    let asks = world.asks;
    assert!(asks > 0 && asks < loads / 3, "{asks} of {loads}");
    // It tries again, and stays with what pays.
    let long = (400..512).flat_map(|n| (n * 512)..(n * 512 + 512));
    assert!(hits(&mut world, long) > 100 * 512 / 2);
}

#[test]
fn nothing_is_asked_beyond_the_cluster_nor_where_nothing_is() {
    let mut world = World::new(512 * 2);
    world.server.remove(&300);
    world.slow = true;
    hits(&mut world, 250..299);
    assert!(world.asked.iter().all(|ask| ask.slot != 300));
    while world.answer(0, true) {}
    hits(&mut world, 490..511);
    assert!(world.asked.iter().all(|ask| ask.slot < 512));
}

#[test]
fn what_is_stored_meanwhile_is_not_taken_from_before() {
    let mut world = World::new(512);
    world.slow = true;
    hits(&mut world, 0..20);
    let mut idle = (0..world.asked.len()).filter(|&n| !world.asked[n].wanted);
    let (first, second) = (idle.next().unwrap(), idle.next().unwrap());
    let (ready, asked) = (world.asked[first].slot, world.asked[second].slot);
    world.execute(second);
    world.answer(first, true);
    for slot in [ready, asked] {
        world.store(slot);
    }
    world.acknowledge();
    while world.answer(0, true) {}
    assert!(!world.load(ready) && !world.load(asked));
    // What was asked for since is new.
    while world.answer(0, true) {}
}

#[test]
fn without_buffers_nothing_happens() {
    let mut ahead = Ahead::new(Vec::<AheadSlot<u64>>::new());
    for slot in 0..100 {
        assert_eq!(ahead.load(Slot(slot)), Found::Nothing);
        assert!(ahead.plan(Slot(slot)).is_none());
        ahead.stored(Slot(slot));
    }
}

#[derive(Debug, Clone)]
enum Step {
    Run { from: u64, len: u64, stride: u64 },
    Load(u64),
    Store(u64),
    Acknowledge,
    Execute(usize),
    Answer(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..600_u64, 1..40_u64, 1..4_u64).prop_map(|(from, len, stride)| Step::Run { from, len, stride }),
        3 => (0..700_u64).prop_map(Step::Load),
        4 => (0..700_u64).prop_map(Step::Store),
        2 => Just(Step::Acknowledge),
        4 => any::<usize>().prop_map(Step::Execute),
        8 => (any::<usize>(), prop::bool::weighted(0.9)).prop_map(|(which, ok)| Step::Answer(which, ok)),
    ]
}

proptest! {
    #![proptest_config(config(400))]

    /// Whatever is asked, answered late, and stored meanwhile; and everybody who waits is told.
    #[test]
    fn nobody_gets_an_older_page(steps in prop::collection::vec(step(), 1..200)) {
        let mut world = World::new(700);
        world.slow = true;
        let may = |world: &World, slot: u64| {
            // A page that is being stored, or read, is not loaded.
            !world.storing.iter().any(|&(storing, _)| storing == slot) && !world.is_awaited(slot)
        };
        for step in steps {
            match step {
                Step::Run { from, len, stride } => {
                    for slot in (from..700).step_by(usize::try_from(stride).unwrap()).take(usize::try_from(len).unwrap()) {
                        if may(&world, slot) {
                            world.load(slot);
                        }
                    }
                }
                Step::Load(slot) if may(&world, slot) => {
                    world.load(slot);
                }
                Step::Load(_) => {}
                Step::Store(slot) => world.store(slot),
                Step::Acknowledge => world.acknowledge(),
                Step::Execute(which) => world.execute(which),
                Step::Answer(which, ok) => {
                    world.answer(which, ok);
                }
            }
        }
        while world.answer(0, true) {}
    }
}
