// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A driver of one lane with two replicas, and with it the oracle: what was last stored where.
//!
//! It keeps the rules of [`super::Client`]. A load's memory is written as the bytes come in, as a folio's
//! is, so that what one replica spoils of another's page shows.

use super::super::common::crc;
use super::pair::{place, Book};
use super::{page_of, take, Pipe};
use memsrv_engine::{
    AskSlot, Completion, CopySlot, Event, Lane, LoadError, LoadSlot, NotTaken, OpSlot, Outgoing,
    Receiver, Replica, StoreError, Want,
};
use memsrv_protocol::{
    FreeMask, Instance, Message, Pull, Slot, Status, Tag, CLUSTER_SLOTS, PAGE_SIZE,
};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

pub type Done = Completion<u32, u32>;
pub type TestLane =
    Lane<u32, Vec<CopySlot>, Vec<AskSlot<u32>>, Vec<OpSlot<u32>>, Vec<LoadSlot<u16>>>;

const STORES: u32 = 12;
const LOADS: u32 = 5;

/// A lane with room for so many, its stores' tokens below `ops`.
pub fn lane(ops: usize, loads: usize, strict: bool) -> TestLane {
    let memory = || (vec![OpSlot::EMPTY; ops], vec![LoadSlot::EMPTY; loads]);
    Lane::new(
        memory(),
        Some(memory()),
        vec![CopySlot::EMPTY; ops],
        vec![AskSlot::EMPTY; loads],
        strict,
    )
}

/// What the oracle knows of a slot.
#[derive(Default, Clone, Copy)]
struct SlotState {
    /// The seed of what was last stored, if it is to be found.
    present: Option<u64>,
    stores: usize,
    loads: usize,
}

struct LoadState {
    slot: Slot,
    expected: Vec<u64>,
    folio: Vec<u8>,
    /// Who writes the folio.
    lent: Option<Replica>,
    /// Who delivered a damaged page.
    damaged: [bool; 2],
}

/// A load that failed.
#[derive(Debug)]
pub struct Failed {
    pub slot: Slot,
    pub expected: Vec<u64>,
    /// By whom a page came damaged.
    pub damaged: [bool; 2],
    pub error: LoadError,
}

/// A page that comes in: which load's and which of its pages, or nobody's.
struct Filling {
    target: Option<(u32, usize)>,
}

/// How things ended, to see that a test met what it is about.
#[derive(Default, Clone, Copy, Debug)]
pub struct Counts {
    pub stored: usize,
    pub refused: usize,
    pub expired: usize,
    pub no_target: usize,
    pub loaded: usize,
    pub gone: usize,
    pub damaged: usize,
    pub loads_expired: usize,
    pub hedged: usize,
    pub skipped: usize,
}

/// A lane with its driver.
pub struct Mirrored {
    pub lane: TestLane,
    book: Rc<Book>,
    receivers: [Receiver; 2],
    filling: [Option<Filling>; 2],
    slots: BTreeMap<u64, SlotState>,
    flagged: [BTreeSet<u64>; 2],
    /// Slot, seed and number of each store in flight.
    stores: BTreeMap<u32, (Slot, u64)>,
    loads: BTreeMap<u32, LoadState>,
    pub now_ms: u64,
    pub counts: Counts,
    /// Loads that failed though nobody gave them up.
    pub failed: Vec<Failed>,
    /// The life of each server, as its last handshake told.
    lives: [u8; 2],
    /// Whether the primary is not known to acknowledge without the mirror, which it feeds.
    pub followed: bool,
}

impl Mirrored {
    pub fn new(book: Rc<Book>, strict: bool) -> Self {
        let (stores, loads) = (
            STORES.try_into().unwrap(),
            2 * usize::try_from(LOADS).unwrap(),
        );
        Self {
            lane: lane(stores, loads, strict),
            book,
            receivers: [Receiver::new(), Receiver::new()],
            filling: [None, None],
            slots: BTreeMap::new(),
            flagged: Default::default(),
            stores: BTreeMap::new(),
            loads: BTreeMap::new(),
            now_ms: 1000,
            counts: Counts::default(),
            failed: Vec::new(),
            lives: [0; 2],
            followed: true,
        }
    }

    // What a program does.

    /// A seed is a store's number, too: later ones are higher.
    pub fn store(&mut self, slot: Slot, seed: u64) {
        let state = self.slots.entry(slot.0).or_default();
        let free = (0..STORES).find(|token| !self.stores.contains_key(token));
        let (0, Some(token)) = (state.loads, free) else {
            return;
        };
        let sum = crc(slot, &page_of(seed));
        match self.lane.store(slot, sum, token, self.now_ms, &*self.book) {
            Ok(()) => {
                state.present = Some(seed);
                state.stores += 1;
                self.stores.insert(token, (slot, seed));
            }
            Err(why) => {
                self.counts.no_target += usize::from(why == NotTaken::NoTarget);
                self.forget(slot);
            }
        }
    }

    fn forget(&mut self, slot: Slot) {
        self.slots.entry(slot.0).or_default().present = None;
        for flagged in &mut self.flagged {
            flagged.insert(slot.cluster());
        }
    }

    pub fn invalidate(&mut self, slot: Slot) {
        if self.slots.get(&slot.0).is_some_and(|s| s.loads == 0) {
            self.forget(slot);
        }
    }

    /// The slots that hold a page and have no store unanswered, and their pages.
    pub fn settled(&self) -> impl Iterator<Item = (Slot, u64)> + '_ {
        self.slots
            .iter()
            .filter(|(_, state)| state.stores == 0)
            .filter_map(|(&slot, state)| Some((Slot(slot), state.present?)))
    }

    /// Loads the slots from this one on that hold a page, at the most `count`.
    pub fn load(&mut self, slot: Slot, count: u16) {
        let page = |n| {
            let state = self.slots.get(&slot.plus(n).unwrap().0)?;
            state.present.filter(|_| state.stores == 0)
        };
        let fits = |n: &u16| slot.run_fits(n + 1);
        let expected: Vec<u64> = (0..count).take_while(fits).map_while(page).collect();
        let free = (0..LOADS).find(|token| !self.loads.contains_key(token));
        let (Some(token), false) = (free, expected.is_empty()) else {
            return;
        };
        let count = u16::try_from(expected.len()).unwrap();
        self.lane
            .load(slot, count, token, self.now_ms, &*self.book)
            .expect("there is room, and one replica is not behind");
        for n in 0..count {
            self.slots.get_mut(&slot.plus(n).unwrap().0).unwrap().loads += 1;
        }
        let state = LoadState {
            slot,
            folio: vec![0; expected.len() * PAGE_SIZE],
            expected,
            lent: None,
            damaged: [false; 2],
        };
        self.loads.insert(token, state);
    }

    /// What the module's worker does with flagged clusters.
    pub fn free_flagged(&mut self) {
        Replica::BOTH.map(|replica| self.free_on(replica));
    }

    /// The same for one server.
    pub fn free_on(&mut self, replica: Replica) {
        let lane = &mut self.lane;
        self.flagged[place(replica)].retain(|cluster| {
            let slot = Slot(cluster * u64::from(CLUSTER_SLOTS));
            lane.free(replica, slot).is_err()
        });
    }

    pub fn hedge(&mut self, age_ms: u64) {
        let before = self.now_ms.saturating_sub(age_ms);
        self.counts.hedged += self.lane.hedge(before, &*self.book, self.now_ms);
    }

    // What a driver does.

    /// Goes on with refilling the replica, and begins with any of these clusters.
    pub fn refill(&mut self, replica: Replica, clusters: impl Iterator<Item = u64>) {
        let first = |cluster| Slot(cluster * u64::from(CLUSTER_SLOTS));
        let wanted: Vec<Slot> = clusters.map(first).collect();
        self.lane.refill(replica, &wanted, &*self.book, self.now_ms);
        let _ = self.lane.refill_failed(replica);
    }

    /// The slots of a cluster that hold a page, or wait for one.
    fn kept(&self, cluster: Slot) -> FreeMask {
        let mut mask = FreeMask::EMPTY;
        let end = cluster.0 + u64::from(CLUSTER_SLOTS);
        for (&slot, state) in self.slots.range(cluster.0..end) {
            if state.present.is_some() || state.stores > 0 {
                mask.insert(Slot(slot).index());
            }
        }
        mask
    }

    /// Sends the next message; false if there is none.
    pub fn send(&mut self, replica: Replica, up: &mut Pipe) -> bool {
        let had_output = self.lane.has_output(replica);
        if let Some((tag, slot)) = self.lane.next_pull(replica) {
            let pull = Pull {
                mask: self.kept(slot),
                instance: Instance([self.lives[place(replica.other())]; 16]),
                address: [0; 16],
                port: 0,
            };
            let payload = pull.encode();
            let crc = crc(slot, &payload);
            up.extend(Message::Pull { tag, slot, crc }.encode());
            up.extend(payload);
            return true;
        }
        let mut lane = std::mem::replace(&mut self.lane, lane(0, 0, false));
        let mask = |cluster| FreeMask(self.kept(cluster).0.map(|byte| !byte));
        let out = lane.next(replica, mask, crc);
        self.lane = lane;
        assert_eq!(out.is_some(), had_output);
        match out {
            Some(Outgoing::Load { header, .. }) => up.extend(header),
            Some(Outgoing::Read { headers }) => up.extend(headers),
            Some(Outgoing::Store { header, token, .. }) => {
                up.extend(header);
                up.extend(page_of(self.stores[&token].1));
            }
            Some(Outgoing::Free { header, mask }) => {
                up.extend(header);
                up.extend(mask.0);
            }
            None => {}
        }
        had_output
    }

    /// Takes in so many bytes of what the server sent.
    pub fn receive(&mut self, replica: Replica, down: &mut Pipe, bytes: usize) {
        let mut left = bytes.min(down.len());
        let at = place(replica);
        while left > 0 {
            let n = match self.receivers[at].want() {
                Want::Header(room) => {
                    let got = take(down, left.min(room.len()));
                    room[..got.len()].copy_from_slice(&got);
                    got.len()
                }
                Want::Page { offset, len } => {
                    let got = take(down, left.min(len));
                    let filling = self.filling[at].as_ref().expect("a page was announced");
                    if let Some((token, index)) = filling.target {
                        let load = self.loads.get_mut(&token).expect("the load waits");
                        assert_eq!(load.lent, Some(replica));
                        let start = index * PAGE_SIZE + offset;
                        load.folio[start..start + got.len()].copy_from_slice(&got);
                    }
                    got.len()
                }
                Want::Skip(len) => take(down, left.min(len)).len(),
            };
            left -= n;
            let event = self.receivers[at].advance(n);
            if let Some(event) = event.expect("the model keeps the protocol") {
                self.event(replica, event);
            }
        }
    }

    fn event(&mut self, replica: Replica, event: Event) {
        let mut done = Vec::new();
        match event {
            Event::Message(Message::Notice { .. }) => self.alone(),
            Event::Message(message) => {
                let take = &mut |d| done.push(d);
                self.lane
                    .message(replica, message, &*self.book, self.now_ms, take)
                    .expect("a message in order");
            }
            Event::PageHeader { tag, slot, .. } => self.page_begins(replica, tag, slot),
            Event::PageEnd { tag, slot, crc, .. } => {
                done.extend(self.page_ends(replica, tag, slot, crc))
            }
        }
        self.complete(done);
    }

    fn page_begins(&mut self, replica: Replica, tag: Tag, slot: Slot) {
        let target = self.lane.page(replica, tag, slot).expect("a page in order");
        let target = target.map(|target| {
            let load = self.loads.get_mut(&target.token).expect("the load waits");
            assert_eq!(load.lent, None, "the folio is lent");
            load.lent = Some(replica);
            assert_eq!(load.slot.plus(target.index), Some(slot));
            (target.token, usize::from(target.index))
        });
        self.counts.skipped += usize::from(target.is_none());
        self.filling[place(replica)] = Some(Filling { target });
    }

    fn page_ends(&mut self, replica: Replica, tag: Tag, slot: Slot, sum: u32) -> Option<Done> {
        let filling = self.filling[place(replica)].take();
        let mut result = Ok(());
        if let Some((token, index)) = filling.expect("a page was announced").target {
            let load = self.loads.get_mut(&token).expect("the load waits");
            load.lent = None;
            let page = &load.folio[index * PAGE_SIZE..][..PAGE_SIZE];
            if crc(slot, page) != sum {
                load.damaged[place(replica)] = true;
                result = Err(LoadError::Checksum);
            }
        }
        self.lane
            .page_done(replica, tag, result, &*self.book, self.now_ms)
            .expect("a page that began")
    }

    pub fn connected(&mut self, replica: Replica, window: u32, life: u8) {
        self.lives[place(replica)] = life;
        let mut done = Vec::new();
        let take = &mut |d| done.push(d);
        self.lane
            .connected(replica, window, &*self.book, self.now_ms, take);
        self.complete(done);
    }

    /// The primary acknowledges alone from now on.
    pub fn alone(&mut self) {
        self.followed = false;
        self.lane.dismiss(Replica::Mirror);
    }

    /// The replica is there for reading only.
    pub fn attached(&mut self, replica: Replica) {
        let mut done = Vec::new();
        let take = &mut |d| done.push(d);
        self.lane
            .attached(replica, 64, &*self.book, self.now_ms, take);
        self.complete(done);
    }

    pub fn disconnected(&mut self, replica: Replica) {
        let at = place(replica);
        self.receivers[at].reset();
        if let Some((token, _)) = self.filling[at].take().and_then(|filling| filling.target) {
            self.loads.get_mut(&token).expect("the load waits").lent = None;
        }
        let mut done = Vec::new();
        let take = &mut |d| done.push(d);
        self.lane
            .disconnected(replica, &*self.book, self.now_ms, take);
        self.complete(done);
    }

    /// Gives up what is older than so many milliseconds.
    pub fn expire(&mut self, age_ms: u64) {
        let before = self.now_ms.saturating_sub(age_ms);
        let up = |replica| self.lane.is_connected(replica);
        let any_up = up(Replica::Primary) || up(Replica::Mirror);
        let mut done = Vec::new();
        self.lane
            .expire_stores(before, &*self.book, &mut |d| done.push(d));
        self.lane
            .expire_loads(|_, since_ms| since_ms >= before, &mut |d| done.push(d));
        if !any_up {
            for replica in Replica::BOTH {
                let oldest = self.lane.oldest_store_ms(replica);
                assert!(oldest.is_none_or(|oldest| oldest >= before));
            }
        }
        self.complete(done);
    }

    // What the oracle says to it.

    fn complete(&mut self, done: Vec<Done>) {
        for completion in done {
            match completion {
                Completion::Store { token, result } => self.store_ended(token, result),
                Completion::Load { token, result } => self.load_ended(token, result),
            }
        }
    }

    fn store_ended(&mut self, token: u32, result: Result<(), StoreError>) {
        let (slot, seed) = self.stores.remove(&token).expect("a store ends once");
        let state = self.slots.get_mut(&slot.0).expect("stored before");
        state.stores -= 1;
        let newest = state.present == Some(seed);
        match result {
            Ok(()) => self.counts.stored += 1,
            Err(error) => {
                match error {
                    StoreError::Expired => self.counts.expired += 1,
                    StoreError::Refused(Status::Full | Status::BadChecksum) => {
                        self.counts.refused += 1;
                    }
                    StoreError::Refused(other) => panic!("{other:?}"),
                }
                if newest {
                    state.present = None;
                }
            }
        }
        let state = self.slots[&slot.0];
        if state.stores == 0 && state.present.is_none() {
            self.forget(slot);
        }
    }

    fn load_ended(&mut self, token: u32, result: Result<(), LoadError>) {
        let load = self.loads.remove(&token).expect("a load ends once");
        assert_eq!(load.lent, None, "a load ends while its folio is lent");
        for slot in (load.slot.0..).take(load.expected.len()) {
            self.slots.get_mut(&slot).expect("loaded before").loads -= 1;
        }
        match result {
            Ok(()) => {
                self.counts.loaded += 1;
                for (page, &seed) in load.folio.chunks(PAGE_SIZE).zip(&load.expected) {
                    assert!(page == page_of(seed), "wrong bytes in {:?}", load.slot);
                }
            }
            Err(LoadError::Expired) => self.counts.loads_expired += 1,
            Err(error) => {
                match error {
                    LoadError::Gone => self.counts.gone += 1,
                    _ => self.counts.damaged += 1,
                }
                self.failed.push(Failed {
                    slot: load.slot,
                    expected: load.expected,
                    damaged: load.damaged,
                    error,
                });
            }
        }
    }

    /// Whether nothing is asked any more.
    pub fn is_quiet(&self) -> bool {
        let lane = &self.lane;
        let quiet = |replica| {
            self.flagged[place(replica)].is_empty()
                && lane.frees_in_flight(replica) == 0
                && lane.loads_owed(replica) == 0
                && lane.queued(replica) == 0
        };
        self.stores.is_empty()
            && self.loads.is_empty()
            && quiet(Replica::Primary)
            && quiet(Replica::Mirror)
    }

    /// After quiescence, everything is as new.
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.lane.stores_in_flight(), 0);
        assert_eq!(self.lane.loads_in_flight(), 0);
        assert_eq!(self.lane.load_room(), 2 * usize::try_from(LOADS).unwrap());
        for replica in Replica::BOTH {
            assert_eq!(self.lane.stores_owed(replica), 0);
            assert_eq!(self.lane.loads_owed(replica), 0);
            assert_eq!(self.lane.op_room(replica), usize::try_from(STORES).unwrap());
            assert!(!self.lane.has_output(replica));
            assert_eq!(self.lane.oldest_ms(replica), None);
        }
    }
}
