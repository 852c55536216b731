// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Where sessions leave records for the writer.
//!
//! Two buffers, taken at the start, change places: sessions fill the front one while the writer writes the
//! other. Nobody waits for room: a store that finds none is refused as FULL, so that the loads behind it
//! are answered; a free, which cannot be refused, has room of its own, and in the last resort its
//! connection pauses until the next group is written.
//!
//! Locks: see the module. No one does I/O, or waits, under the queue's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::MutexGuard;

use memsrv_protocol::{FreeMask, Name, Seq, Slot, PAGE_SIZE};

use super::format::{len_field, Header, Key, Kind, Origin, LONGEST_SMALL, PAGE_RECORD};
use super::{Health, Persist};
use crate::arena::lock;
use crate::num::to_u64;
use crate::regions::Life;

/// The position of what was done without a record, because no more records can be written.
pub const UNLOGGED: u64 = u64::MAX;

/// What the log knows of a life; empty where there is no log.
#[derive(Debug, Default)]
pub struct LifeLog {
    /// Its number, never used again.
    pub id: u64,
    /// The highest number logged, of each stream. Changed under the queue's lock.
    executed: Box<[AtomicU64]>,
}

impl LifeLog {
    /// A life with that number, and with those operations executed.
    pub fn new(id: u64, executed: &[u64]) -> LifeLog {
        let executed = executed.iter().map(|&seq| AtomicU64::new(seq)).collect();
        LifeLog { id, executed }
    }

    /// The highest number logged, of each stream.
    pub(super) fn executed(&self) -> Vec<u64> {
        let get = |seq: &AtomicU64| seq.load(Ordering::Relaxed);
        self.executed.iter().map(get).collect()
    }

    pub(super) fn note(&self, stream: usize, seq: Seq) {
        if let Some(executed) = self.executed.get(stream) {
            executed.fetch_max(seq.0, Ordering::Relaxed);
        }
    }
}

/// What somebody wants to log, which says how much of the queue he may fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A page that a client stores.
    Page,
    /// A page that compaction copies.
    Copy,
    /// A record without a page.
    Small,
    /// The lives that there are, at the start of a compaction.
    Lives,
}

/// Why nothing can be logged now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The queue is full; it will have room when the writer has come by.
    Now,
    /// The disk is full or failed.
    Disk(Health),
}

/// The records that wait, and the buffer for those that are being written.
pub(super) struct Queue {
    key: Key,
    front: Vec<u8>,
    /// What there is room for, but for [`Need::Lives`].
    len: usize,
    /// Where the front buffer begins in the log.
    base: u64,
    /// Up to where the log is on the disk.
    pub(super) durable: u64,
    /// Where in the front buffer a new segment is to begin.
    pub(super) cut: Option<usize>,
    /// Bytes that clients added since compaction last asked.
    pub(super) added: u64,
    /// Whether a compaction goes on, which needs most of the room.
    pub(super) compacting: bool,
    next_life: u64,
    /// The writer sleeps.
    pub(super) asleep: bool,
    /// The writer is to end.
    pub(super) stop: bool,
}

impl Queue {
    pub(super) fn new(key: Key, len: usize, reserve: usize, pos: u64, next_life: u64) -> Queue {
        Queue {
            key,
            front: buffer(len.saturating_add(reserve)),
            len,
            base: pos,
            durable: pos,
            cut: None,
            added: 0,
            compacting: false,
            next_life,
            asleep: false,
            stop: false,
        }
    }

    pub(super) fn waiting(&self) -> u64 {
        to_u64(self.front.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.front.is_empty()
    }

    /// Another buffer of the same size, for the writer.
    pub(super) fn spare(&self) -> Vec<u8> {
        buffer(self.front.capacity())
    }

    /// Where the log ends.
    pub(super) fn end(&self) -> u64 {
        self.base.saturating_add(self.waiting())
    }

    /// Gives the writer what waits, in place of an empty buffer; and where to begin a new segment.
    pub(super) fn swap(&mut self, with: &mut Vec<u8>) -> Option<usize> {
        self.base = self.end();
        std::mem::swap(&mut self.front, with);
        self.cut.take()
    }

    /// How full the front buffer may be for that need. While a compaction goes on clients get a quarter and
    /// it gets the rest: so it writes three bytes for each of theirs, and ends.
    fn limit(&self, need: Need) -> usize {
        match need {
            Need::Page if self.compacting => self.len / 8,
            Need::Small if self.compacting => self.len / 4,
            Need::Page => self.len / 8 * 7,
            Need::Small | Need::Copy => self.len,
            Need::Lives => self.front.capacity(),
        }
    }

    fn has_room(&self, need: Need, len: usize) -> bool {
        self.front.len().saturating_add(len) <= self.limit(need)
    }

    /// Appends what a client caused.
    fn add(&mut self, header: Header, payload: &[u8]) -> u64 {
        let before = self.end();
        let end = self.append(header, payload);
        self.added = self.added.saturating_add(end.saturating_sub(before));
        end
    }

    fn append(&mut self, mut header: Header, payload: &[u8]) -> u64 {
        header.pos = self.end();
        header.durable = self.durable;
        header.len = len_field(payload);
        header.append(self.key, payload, &mut self.front);
        self.end()
    }
}

/// A buffer whose memory is there already.
fn buffer(len: usize) -> Vec<u8> {
    let mut buffer = vec![1; len];
    buffer.clear();
    buffer
}

/// The right to change a table and to log it: others wait meanwhile, so the log has the table's order.
pub struct Entry<'a> {
    persist: &'a Persist,
    queue: MutexGuard<'a, Queue>,
}

impl Persist {
    /// Begins a change that is to be logged.
    ///
    /// # Errors
    ///
    /// [`NoRoom`]: it must not be made, but for a free once the disk has failed.
    pub fn enter(&self, need: Need) -> Result<Entry<'_>, NoRoom> {
        let queue = lock(&self.queue);
        let len = match need {
            Need::Page | Need::Copy => PAGE_RECORD,
            Need::Small | Need::Lives => LONGEST_SMALL,
        };
        match (self.health(), need) {
            (health @ (Health::Failed | Health::Withdrawn), _)
            | (health @ Health::Full, Need::Page | Need::Copy) => Err(NoRoom::Disk(health)),
            _ if !queue.has_room(need, len) => Err(NoRoom::Now),
            _ => Ok(Entry {
                persist: self,
                queue,
            }),
        }
    }

    /// Whether a small record has room now.
    pub fn has_room(&self) -> bool {
        !matches!(self.enter(Need::Small), Err(NoRoom::Now))
    }
}

impl Entry<'_> {
    /// Logs a store; gives back where the log ends now.
    pub fn store(
        &mut self,
        life: &LifeLog,
        stream: usize,
        seq: Seq,
        slot: Slot,
        crc: u32,
        page: &[u8; PAGE_SIZE],
    ) -> u64 {
        life.note(stream, seq);
        let header = self.header(Kind::Store, life.id, stream, seq, slot, crc);
        self.queue.add(header, page)
    }

    /// Logs a page that was stored before, as compaction does.
    pub fn copy(&mut self, life: &LifeLog, slot: Slot, crc: u32, page: &[u8; PAGE_SIZE]) -> u64 {
        let header = self.header(Kind::Store, life.id, 0, Seq(0), slot, crc);
        self.queue.append(header, page)
    }

    /// Logs a page that was fetched from another server; gives back where the log ends now.
    pub fn pulled(&mut self, life: &LifeLog, slot: Slot, crc: u32, page: &[u8; PAGE_SIZE]) -> u64 {
        // By none of the client's operations.
        let header = self.header(Kind::Store, life.id, 0, Seq(0), slot, crc);
        self.queue.add(header, page)
    }

    /// Logs a free; gives back where the log ends now.
    pub fn free(
        &mut self,
        life: &LifeLog,
        stream: usize,
        seq: Seq,
        base: Slot,
        mask: &FreeMask,
    ) -> u64 {
        life.note(stream, seq);
        let crc = Header::sum(Kind::Free, base, &mask.0);
        let header = self.header(Kind::Free, life.id, stream, seq, base, crc);
        self.queue.add(header, &mask.0)
    }

    /// A number for a new life, and its beginning in the log.
    pub fn begin(
        &mut self,
        client: Name,
        region: Name,
        incarnation: memsrv_protocol::Incarnation,
        streams: usize,
    ) -> LifeLog {
        let id = self.queue.next_life;
        self.queue.next_life = id.saturating_add(1);
        let life = LifeLog::new(id, &vec![0; streams]);
        self.origin(&life, client, region, incarnation);
        life
    }

    fn origin(
        &mut self,
        life: &LifeLog,
        client: Name,
        region: Name,
        incarnation: memsrv_protocol::Incarnation,
    ) {
        let origin = Origin {
            client,
            region,
            incarnation,
            executed: life.executed(),
        };
        let payload = origin.encode();
        let crc = Header::sum(Kind::Begin, Slot(0), &payload);
        let header = self.header(Kind::Begin, life.id, 0, Seq(0), Slot(0), crc);
        self.queue.add(header, &payload);
    }

    /// Logs the end of a life.
    pub fn end(&mut self, life: &LifeLog) {
        let crc = Header::sum(Kind::End, Slot(0), &[]);
        let header = self.header(Kind::End, life.id, 0, Seq(0), Slot(0), crc);
        self.queue.add(header, &[]);
    }

    /// Begins a compaction: from here on the log is in a new segment and says all lives again. False:
    /// there is no room for that now.
    pub(super) fn begin_compaction<'a>(
        &mut self,
        lives: impl Iterator<Item = (&'a (Name, Name), &'a Life)> + Clone,
    ) -> bool {
        let len = lives.clone().count().saturating_mul(LONGEST_SMALL);
        if !self.queue.has_room(Need::Lives, len) || self.queue.cut.is_some() {
            return false;
        }
        self.queue.cut = Some(self.queue.front.len());
        for ((client, region), life) in lives {
            self.origin(&life.log, *client, *region, life.incarnation);
        }
        self.queue.compacting = true;
        self.queue.added = 0;
        true
    }

    fn header(
        &self,
        kind: Kind,
        life: u64,
        stream: usize,
        seq: Seq,
        slot: Slot,
        crc: u32,
    ) -> Header {
        Header {
            kind,
            stream: u16::try_from(stream).unwrap_or(u16::MAX),
            pos: 0,
            durable: 0,
            life,
            seq: seq.0,
            slot,
            len: 0,
            crc,
        }
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if self.queue.asleep && !self.queue.is_empty() {
            self.queue.asleep = false;
            self.persist.more.notify_one();
        }
    }
}
