// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What a stream's lock protects: the engine, what is in flight, and which slots were freed.
//!
//! The engine asks which slots of a cluster are to be freed whenever it sends a FREE. `freed` answers:
//! a slot enters when it is freed or when its store fails, leaves when it is stored again, and counts only
//! while no store of it is unanswered. Once all frees are acknowledged it is empty again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::sync::Arc;

use memsrv_engine::{
    Completion, LoadError, LoadSlot, NoRoom, OpSlot, Outgoing, StoreError, Stream, FREE_LIMIT,
};
use memsrv_protocol::{FreeMask, Slot, PAGE_SIZE};

use crate::config::ClientConfig;
use crate::error::Error;
use crate::slab::Slab;
use crate::Page;

/// Bytes gathered for one write to the socket.
const BATCH_LEN: usize = 128 * 1024;

/// A store whose result was not fetched.
pub(crate) struct StoreEntry {
    pub(crate) slot: Slot,
    page: Box<Page>,
    pub(crate) result: Option<Result<(), StoreError>>,
    /// Nobody will fetch the result.
    pub(crate) abandoned: bool,
}

/// A load whose result was not fetched.
pub(crate) struct LoadEntry {
    pub(crate) slot: Slot,
    pub(crate) pages: Vec<u8>,
    pub(crate) result: Option<Result<(), LoadError>>,
    pub(crate) abandoned: bool,
}

/// The stores of a slot that are unanswered.
struct Storing {
    count: usize,
    newest: u32,
}

/// A connection in use.
pub(crate) struct Connection {
    pub(crate) socket: Arc<TcpStream>,
    /// Which connection of the stream it is.
    pub(crate) number: u64,
    /// Somebody is writing.
    pub(crate) sending: bool,
}

/// The memory for a stream's operations and loads.
type Engine = Stream<u32, u32, Vec<OpSlot<u32>>, Vec<LoadSlot<u32>>>;

/// See the module.
pub(crate) struct State {
    pub(crate) engine: Engine,
    pub(crate) stores: Slab<StoreEntry>,
    pub(crate) loads: Slab<LoadEntry>,
    storing: BTreeMap<Slot, Storing>,
    freed: BTreeMap<Slot, FreeMask>,
    /// Clusters for which a FREE is still to be asked.
    to_free: BTreeSet<Slot>,
    pub(crate) connection: Option<Connection>,
    pub(crate) connections: u64,
    /// Why there will be no connection any more.
    pub(crate) end: Option<Arc<Error>>,
    /// What the server last did against the protocol.
    pub(crate) last_fault: Option<Error>,
    /// The last connection was closed in good order.
    pub(crate) closed_by_server: bool,
    stores_limit: usize,
}

impl State {
    pub(crate) fn new(config: &ClientConfig) -> Self {
        let ops = config.stores_in_flight.max(1).saturating_add(FREE_LIMIT);
        let loads = config.loads_in_flight.max(1);
        Self {
            engine: Stream::new(vec![OpSlot::EMPTY; ops], vec![LoadSlot::EMPTY; loads]),
            stores: Slab::new(),
            loads: Slab::new(),
            storing: BTreeMap::new(),
            freed: BTreeMap::new(),
            to_free: BTreeSet::new(),
            connection: None,
            connections: 0,
            end: None,
            last_fault: None,
            closed_by_server: false,
            stores_limit: config.stores_in_flight.max(1),
        }
    }

    /// An error if the session is over.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.end
            .as_ref()
            .map_or(Ok(()), |end| Err(Error::Ended(end.clone())))
    }

    /// Asks for a store; `None` if it must wait for others.
    pub(crate) fn store(&mut self, slot: Slot, page: &Page, now_ms: u64) -> Option<u32> {
        if self.engine.stores_in_flight() >= self.stores_limit || self.engine.op_room() == 0 {
            return None;
        }
        let page = Box::new(*page);
        let crc = checksum(slot, page.as_slice());
        let entry = StoreEntry {
            slot,
            page,
            result: None,
            abandoned: false,
        };
        let token = self.stores.insert(entry)?;
        if self.engine.store(slot, crc, token, now_ms).is_err() {
            self.stores.remove(token);
            return None;
        }
        let storing = self.storing.entry(slot).or_insert(Storing {
            count: 0,
            newest: token,
        });
        storing.count = storing.count.saturating_add(1);
        storing.newest = token;
        if let Some(mask) = self.freed.get_mut(&FreeMask::base(slot)) {
            remove(mask, slot);
        }
        Some(token)
    }

    /// Asks for a load; `None` if it must wait for others.
    pub(crate) fn load(&mut self, slot: Slot, count: u16, now_ms: u64) -> Option<u32> {
        let mut run = (0..count).filter_map(|n| slot.plus(n));
        if self.engine.load_room() == 0 || run.any(|slot| self.storing.contains_key(&slot)) {
            return None;
        }
        let pages = vec![0; PAGE_SIZE.saturating_mul(usize::from(count))];
        let entry = LoadEntry {
            slot,
            pages,
            result: None,
            abandoned: false,
        };
        let token = self.loads.insert(entry)?;
        let mut run = (0..count).filter_map(|n| slot.plus(n));
        if run.any(|slot| self.is_freed(slot)) {
            // Loads overtake frees, so that the server may still have the page.
            self.finish_load(token, Err(LoadError::Gone));
        } else if let Err(NoRoom) = self.engine.load(slot, count, token, now_ms) {
            self.loads.remove(token);
            return None;
        }
        Some(token)
    }

    /// Frees slots of a cluster.
    pub(crate) fn free(&mut self, slot: Slot, count: u16) {
        let cluster = FreeMask::base(slot);
        let mask = self.freed.entry(cluster).or_insert(FreeMask::EMPTY);
        (0..count)
            .filter_map(|n| slot.plus(n))
            .for_each(|slot| mask.insert(slot.index()));
        self.to_free.insert(cluster);
        self.ask_frees();
    }

    fn is_freed(&self, slot: Slot) -> bool {
        self.freed
            .get(&FreeMask::base(slot))
            .is_some_and(|mask| mask.contains(slot.index()))
    }

    /// Asks for as many of the outstanding frees as there is room for.
    fn ask_frees(&mut self) {
        while let Some(cluster) = self.to_free.first().copied() {
            if self.engine.free(cluster).is_err() {
                return;
            }
            self.to_free.remove(&cluster);
        }
    }

    /// Puts the next messages behind `out`.
    pub(crate) fn gather(&mut self, out: &mut Vec<u8>) {
        while out.len() < BATCH_LEN {
            let (freed, storing) = (&self.freed, &self.storing);
            let mask = |cluster: Slot| {
                let mut mask = freed.get(&cluster).copied().unwrap_or(FreeMask::EMPTY);
                let last = Slot(cluster.0.saturating_add(511));
                storing
                    .range(cluster..=last)
                    .for_each(|(&slot, _)| remove(&mut mask, slot));
                mask
            };
            match self.engine.next(mask, checksum) {
                Some(Outgoing::Load { header, .. }) => out.extend(header),
                Some(Outgoing::Read { headers }) => out.extend(headers),
                Some(Outgoing::Store { header, token, .. }) => {
                    let Some(entry) = self.stores.get(token) else {
                        return;
                    };
                    out.extend(header);
                    out.extend(entry.page.as_slice());
                }
                Some(Outgoing::Free { header, mask }) => {
                    out.extend(header);
                    out.extend(mask.0);
                }
                None => return,
            }
        }
    }

    /// An operation has ended.
    pub(crate) fn complete(&mut self, completion: Completion<u32, u32>) {
        match completion {
            Completion::Store { token, result } => self.finish_store(token, result),
            Completion::Load { token, result } => self.finish_load(token, result),
        }
    }

    fn finish_store(&mut self, token: u32, result: Result<(), StoreError>) {
        let Some(entry) = self.stores.get_mut(token) else {
            return;
        };
        entry.result = Some(result);
        let (slot, abandoned) = (entry.slot, entry.abandoned);
        if abandoned {
            self.stores.remove(token);
        }
        let Some(storing) = self.storing.get_mut(&slot) else {
            return;
        };
        storing.count = storing.count.saturating_sub(1);
        let (last, newest) = (storing.count == 0, storing.newest == token);
        if last {
            self.storing.remove(&slot);
        }
        let cluster = FreeMask::base(slot);
        if result.is_err() && newest {
            // What the server has in the slot is unknown now, so that nobody must read it.
            self.freed
                .entry(cluster)
                .or_insert(FreeMask::EMPTY)
                .insert(slot.index());
        }
        if last && self.is_freed(slot) {
            self.to_free.insert(cluster);
        }
    }

    fn finish_load(&mut self, token: u32, result: Result<(), LoadError>) {
        let Some(entry) = self.loads.get_mut(token) else {
            return;
        };
        entry.result = Some(result);
        if entry.abandoned {
            self.loads.remove(token);
        }
    }

    /// Follows up on completions: frees that have room now, masks that nobody needs any more.
    pub(crate) fn settle(&mut self) {
        self.ask_frees();
        if self.engine.frees_in_flight() == 0 && self.to_free.is_empty() {
            let storing = &self.storing;
            self.freed.retain(|cluster, mask| {
                let last = Slot(cluster.0.saturating_add(511));
                let mut kept = FreeMask::EMPTY;
                for (slot, _) in storing.range(*cluster..=last) {
                    if mask.contains(slot.index()) {
                        kept.insert(slot.index());
                    }
                }
                *mask = kept;
                !kept.is_empty()
            });
        }
    }

    /// Gives up what was asked before these times; only without a connection.
    pub(crate) fn expire(&mut self, stores_before_ms: u64, loads_before_ms: u64) {
        let mut ended = Vec::new();
        self.engine
            .expire_stores(stores_before_ms, &mut |completion| ended.push(completion));
        let keep = |_: &u32, since_ms| since_ms >= loads_before_ms;
        self.engine
            .expire_loads(keep, &mut |completion| ended.push(completion));
        ended
            .into_iter()
            .for_each(|completion| self.complete(completion));
        self.settle();
    }

    /// Whether nothing is unanswered.
    pub(crate) fn is_quiet(&self) -> bool {
        self.storing.is_empty()
            && self.to_free.is_empty()
            && self.engine.frees_in_flight() == 0
            && self.engine.loads_in_flight() == 0
    }
}

fn remove(mask: &mut FreeMask, slot: Slot) {
    let index = slot.index();
    if let Some(byte) = mask.0.get_mut(index / 8) {
        *byte &= !(1 << (index % 8));
    }
}

/// CRC-32C over the slot and the payload.
pub(crate) fn checksum(slot: Slot, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&slot.0.to_le_bytes()), payload)
}
