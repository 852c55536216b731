// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A driver of one stream, and with it the oracle: what was last stored where, and what must come back.
//!
//! It keeps the rules that the kernel module keeps: presence is set by a store and cleared by an
//! invalidate or by the failure of the newest store; a flag per cluster tells that something may be
//! freed; no load of a slot with a store unanswered, and no store of one with a load unanswered.

use super::super::common::{crc, stream, Done, TestStream};
use super::{page_of, take, Pipe};
use memsrv_engine::{
    Completion, Event, LoadError, Outgoing, PageTarget, Receiver, StoreError, Want,
};
use memsrv_protocol::{FreeMask, Slot, Status, CLUSTER_SLOTS};
use std::collections::{BTreeMap, BTreeSet};

const CAPACITY_OPS: usize = 12;
const CAPACITY_LOADS: usize = 5;

/// What the oracle knows of a slot.
#[derive(Default)]
struct SlotState {
    /// The seed of what was last stored, if it is to be found on the server.
    present: Option<u64>,
    /// The token of the newest store.
    newest: u32,
    stores: usize,
    loads: usize,
}

struct LoadState {
    slot: Slot,
    /// What must come back; `None` where anything or nothing may.
    expected: Vec<Option<u64>>,
    got: Vec<Option<Vec<u8>>>,
    damaged: bool,
}

/// A stream with its driver.
pub struct Client {
    pub stream: TestStream,
    receiver: Receiver,
    slots: BTreeMap<u64, SlotState>,
    flagged: BTreeSet<u64>,
    stores: BTreeMap<u32, (Slot, u64)>,
    loads: BTreeMap<u32, LoadState>,
    page: Option<(PageTarget<u32>, Vec<u8>)>,
    tokens: u32,
    pub now_ms: u64,
    /// What ended how, to see that a test met what it is about.
    pub stored: usize,
    pub refused: usize,
    /// Pages that came and were the right ones.
    pub loaded: usize,
    pub expired: usize,
}

impl Client {
    pub fn new() -> Self {
        Self {
            stream: stream(CAPACITY_OPS, CAPACITY_LOADS),
            receiver: Receiver::new(),
            slots: BTreeMap::new(),
            flagged: BTreeSet::new(),
            stores: BTreeMap::new(),
            loads: BTreeMap::new(),
            page: None,
            tokens: 0,
            now_ms: 0,
            stored: 0,
            refused: 0,
            loaded: 0,
            expired: 0,
        }
    }

    // What a program does.

    pub fn store(&mut self, slot: Slot, seed: u64) {
        let state = self.slots.entry(slot.0).or_default();
        if state.loads > 0 {
            return;
        }
        self.tokens += 1;
        let sum = crc(slot, &page_of(seed));
        if self
            .stream
            .store(slot, sum, self.tokens, self.now_ms)
            .is_ok()
        {
            *state = SlotState {
                present: Some(seed),
                newest: self.tokens,
                stores: state.stores + 1,
                loads: 0,
            };
            self.stores.insert(self.tokens, (slot, seed));
        } else {
            // Not admitted: the older copy is forgotten.
            state.present = None;
            self.flagged.insert(slot.cluster());
        }
    }

    pub fn invalidate(&mut self, slot: Slot) {
        let state = self.slots.entry(slot.0).or_default();
        if state.loads == 0 {
            state.present = None;
            self.flagged.insert(slot.cluster());
        }
    }

    /// One of the slots that hold a page and have no store unanswered.
    pub fn settled(&self, which: usize) -> Option<Slot> {
        let settled = |state: &SlotState| state.present.is_some() && state.stores == 0;
        let slots: Vec<u64> = self
            .slots
            .iter()
            .filter(|(_, state)| settled(state))
            .map(|(&slot, _)| slot)
            .collect();
        let which = which.checked_rem(slots.len())?;
        slots.get(which).copied().map(Slot)
    }

    pub fn load(&mut self, slot: Slot, count: u16) {
        let run = || (0..count).filter_map(|n| slot.plus(n)).map(|slot| slot.0);
        let busy = |slot| self.slots.get(&slot).is_some_and(|state| state.stores > 0);
        if run().any(busy) {
            return;
        }
        self.tokens += 1;
        if self
            .stream
            .load(slot, count, self.tokens, self.now_ms)
            .is_err()
        {
            return;
        }
        let mut expected = Vec::new();
        for slot in run() {
            let state = self.slots.entry(slot).or_default();
            state.loads += 1;
            expected.push(state.present);
        }
        let got = vec![None; expected.len()];
        self.loads.insert(
            self.tokens,
            LoadState {
                slot,
                expected,
                got,
                damaged: false,
            },
        );
    }

    /// What the module's worker does with flagged clusters.
    pub fn free_flagged(&mut self) {
        let stream = &mut self.stream;
        self.flagged.retain(|cluster| {
            stream
                .free(Slot(cluster * u64::from(CLUSTER_SLOTS)))
                .is_err()
        });
    }

    // What a driver does.

    /// Sends the next message; false if there is none.
    pub fn send(&mut self, up: &mut Pipe) -> bool {
        let had_output = self.stream.has_output();
        let slots = &self.slots;
        let mask = |cluster: Slot| {
            let mut mask = FreeMask::EMPTY;
            for index in 0..CLUSTER_SLOTS {
                let slot = cluster.plus(index).unwrap();
                let kept = |state: &SlotState| state.present.is_some() || state.stores > 0;
                if !slots.get(&slot.0).is_some_and(kept) {
                    mask.insert(slot.index());
                }
            }
            mask
        };
        let out = self.stream.next(mask, crc);
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
    pub fn receive(&mut self, down: &mut Pipe, bytes: usize) {
        let mut left = bytes.min(down.len());
        while left > 0 {
            let n = match self.receiver.want() {
                Want::Header(room) => {
                    let got = take(down, left.min(room.len()));
                    room[..got.len()].copy_from_slice(&got);
                    got.len()
                }
                Want::Page { offset, len } => {
                    let page = &mut self.page.as_mut().expect("a page was announced").1;
                    assert_eq!(page.len(), offset);
                    let got = take(down, left.min(len));
                    page.extend(&got);
                    got.len()
                }
                Want::Skip(len) => take(down, left.min(len)).len(),
            };
            left -= n;
            if let Some(event) = self
                .receiver
                .advance(n)
                .expect("the model keeps the protocol")
            {
                self.event(event);
            }
        }
    }

    fn event(&mut self, event: Event) {
        let mut done = Vec::new();
        match event {
            Event::Message(message) => {
                self.stream
                    .message(message, &mut |d| done.push(d))
                    .expect("a message in order");
            }
            Event::PageHeader { tag, slot, .. } => {
                let target = self.stream.page(tag, slot).expect("a page in order");
                self.page = Some((target, Vec::new()));
            }
            Event::PageEnd {
                tag,
                slot,
                crc: sum,
                ..
            } => {
                let (target, page) = self.page.take().expect("a page was announced");
                let result = if crc(slot, &page) == sum {
                    Ok(())
                } else {
                    Err(LoadError::Checksum)
                };
                let load = self
                    .loads
                    .get_mut(&target.token)
                    .expect("a load that waits");
                load.damaged |= result.is_err();
                let place = &mut load.got[usize::from(target.index)];
                assert!(place.is_none(), "a page came twice");
                *place = Some(page);
                done.extend(
                    self.stream
                        .page_done(tag, result)
                        .expect("a page that began"),
                );
            }
        }
        for completion in done {
            self.complete(completion);
        }
    }

    pub fn disconnected(&mut self) {
        self.stream.disconnected();
        self.receiver.reset();
        self.page = None;
    }

    /// Gives up what is older than so many milliseconds.
    pub fn expire(&mut self, age_ms: u64) {
        let before = self.now_ms.saturating_sub(age_ms);
        let was_connected = self.stream.is_connected();
        let mut done = Vec::new();
        self.stream.expire_stores(before, &mut |d| done.push(d));
        self.stream
            .expire_loads(|_, since_ms| since_ms >= before, &mut |d| done.push(d));
        assert!(done.is_empty() || !was_connected);
        if !was_connected {
            assert!(self
                .stream
                .oldest_ms()
                .is_none_or(|oldest| oldest >= before));
        }
        self.expired += done.len();
        for completion in done {
            self.complete(completion);
        }
    }

    // What the oracle says to it.

    fn complete(&mut self, completion: Done) {
        match completion {
            Completion::Store { token, result } => self.store_ended(token, result),
            Completion::Load { token, result } => self.load_ended(token, result),
        }
    }

    fn store_ended(&mut self, token: u32, result: Result<(), StoreError>) {
        let (slot, _) = self.stores.remove(&token).expect("a store ends once");
        let state = self.slots.get_mut(&slot.0).expect("stored before");
        state.stores -= 1;
        match result {
            Ok(()) => self.stored += 1,
            Err(error) => {
                let expected = matches!(
                    error,
                    StoreError::Expired | StoreError::Refused(Status::Full | Status::BadChecksum)
                );
                assert!(expected, "{error:?}");
                self.refused += 1;
                if state.newest == token {
                    state.present = None;
                }
            }
        }
        if state.stores == 0 && state.present.is_none() {
            self.flagged.insert(slot.cluster());
        }
    }

    fn load_ended(&mut self, token: u32, result: Result<(), LoadError>) {
        let load = self.loads.remove(&token).expect("a load ends once");
        let run = (load.slot.0..).take(load.expected.len());
        for slot in run {
            self.slots.get_mut(&slot).expect("loaded before").loads -= 1;
        }
        match result {
            Ok(()) => {
                for (i, (expected, got)) in load.expected.iter().zip(&load.got).enumerate() {
                    let got = got.as_ref().expect("a complete load has all its pages");
                    if let Some(seed) = expected {
                        self.loaded += 1;
                        assert_eq!(*got, page_of(*seed), "page {i} of {:?}", load.slot);
                    }
                }
            }
            Err(LoadError::Gone) => {
                assert!(
                    load.expected.contains(&None),
                    "a page stored in {:?} is gone",
                    load.slot
                );
            }
            Err(LoadError::Checksum) => assert!(load.damaged),
            Err(LoadError::Expired) => {}
            Err(LoadError::Refused(status)) => panic!("the model refuses no load: {status:?}"),
        }
    }

    /// Whether nothing is asked any more.
    pub fn is_quiet(&self) -> bool {
        self.flagged.is_empty()
            && self.stores.is_empty()
            && self.loads.is_empty()
            && self.stream.frees_in_flight() == 0
    }

    /// The pages that must be on the server.
    pub fn present(&self) -> impl Iterator<Item = (u64, Vec<u8>)> + '_ {
        self.slots
            .iter()
            .filter_map(|(&slot, state)| Some((slot, page_of(state.present?))))
    }

    /// After quiescence, everything is as new.
    pub fn assert_nothing_left(&self) {
        assert_eq!(self.stream.stores_in_flight(), 0);
        assert_eq!(self.stream.loads_in_flight(), 0);
        assert_eq!(self.stream.op_room(), CAPACITY_OPS);
        assert_eq!(self.stream.load_room(), CAPACITY_LOADS);
        assert_eq!(self.stream.queued(), 0);
        assert!(!self.stream.has_output());
        assert_eq!(self.stream.oldest_ms(), None);
    }
}
