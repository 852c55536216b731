// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Persistence: what is stored is also written to a log on a disk, and is there again after a restart.
//!
//! ```text
//!  sessions --entry--> queue (memory) --swap--> writer --write, fdatasync--> segments on the disk
//!     ^                                            |
//!     +----- acknowledgements, with --persist-ack -+            compaction: live pages again, from memory
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | `format.rs` | the bytes |
//! | `disk.rs` | the directory, behind a trait |
//! | `queue.rs` | where sessions leave records; the only hook in their path |
//! | `promise.rs` | acknowledgements that wait |
//! | `writer.rs`, `segments.rs` | the thread that writes groups of them; the files it writes them to |
//! | `compact.rs` | writing live pages anew, so that old segments can go |
//! | `scan.rs`, `recover.rs` | reading a log back; what may be made of it |
//!
//! **The order of the log is the order of the table.** Whoever changes a table holds the queue's lock from
//! before the change until its record is in the queue. Compaction copies a page under that lock, too. So
//! the log, cut anywhere, is the state at a moment that was.
//!
//! **Which instance id** a start gets is decided in `recover.rs`: the old one only where the log surely
//! holds all that was ever acknowledged.
//!
//! No crate serves: the log wants to share the group commit with the acknowledgements, to allocate nothing
//! per page and to keep no second copy of the pages in memory. fjall, redb, sled and rocksdb each have a
//! cache and allocations of their own, and give no promise about memory while the kernel reclaims; and the
//! one thing that is theirs, an index on the disk, is of no use: the pages are all in memory.
//!
//! Lock order: the registry, a stream, the queue, a table's shard.

pub mod compact;
pub mod disk;
pub mod format;
pub mod promise;
pub mod queue;
pub mod recover;
pub mod scan;
pub mod segments;
pub mod writer;

use std::sync::atomic::{AtomicU64, AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use memsrv_protocol::{Instance, Status};
use serde::{Deserialize, Serialize};

use crate::arena::lock;
use crate::num::to_u64;
use format::{Key, LONGEST_SMALL, PAGE_RECORD, SEGMENT_HEAD, UNIT};
use queue::Queue;

/// Bytes of records that may wait for the disk; while they are written as many may wait again.
pub const QUEUE_LEN: usize = 16 * 1024 * 1024;

/// How persistence is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the log lives.
    pub dir: std::path::PathBuf,
    /// Whether acknowledgements wait for the disk.
    pub ack: bool,
    /// Bytes of records that may wait; segments are four times as long.
    pub queue_len: usize,
}

/// Whether the log can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Health {
    /// It can.
    Good,
    /// There is no room for another segment; stores are refused until there is.
    Full,
    /// A write or a sync failed, for good: nothing more is written. What the disk has after a failed sync
    /// nobody knows, and a second one would say that all is well.
    Failed,
    /// The same, and the disk says that this log must not be resumed: the server is free to go on.
    Withdrawn,
}

/// What became of a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The disk has it.
    Yes,
    /// Not yet.
    NotYet,
    /// It never will.
    Never,
}

/// Who waits for the disk.
pub trait Waiting: Send + Sync {
    /// The disk has more than before, or failed: look, if you wait for it.
    fn look(&self);
}

/// What sessions and the writer share.
pub struct Persist {
    /// Whether acknowledgements wait for the disk.
    pub ack: bool,
    queue: Mutex<Queue>,
    /// Signalled when the writer sleeps and there is something to do.
    more: Condvar,
    /// Up to where the disk has the log.
    durable: AtomicU64,
    health: AtomicU8,
    waiting: Mutex<Vec<Arc<dyn Waiting>>>,
    /// Numbers for `stats`.
    pub counters: Counters,
}

/// The writer's numbers.
#[derive(Debug, Default)]
pub struct Counters {
    segments: AtomicU64,
    bytes: AtomicU64,
    sync_us: AtomicU64,
    syncs: AtomicU64,
    compactions: AtomicU64,
    compacting: AtomicU64,
    damaged: AtomicU64,
}

/// The state of persistence, in a report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PersistReport {
    /// `good`; `full`: no room on the disk, stores are refused; `failed`: the disk failed, stores are
    /// refused until the server is started anew.
    pub health: String,
    /// Whether acknowledgements wait for the disk.
    pub ack: bool,
    /// Files of the log.
    pub segments: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Of those, what is not the newest record of a page.
    pub dead_bytes: u64,
    /// Bytes that wait to be written.
    pub queue_bytes: u64,
    /// How long the last write and sync took, in microseconds.
    pub last_sync_us: u64,
    /// Groups written and synced.
    pub syncs: u64,
    /// Compactions that are done.
    pub compactions: u64,
    /// Whether one is under way.
    pub compacting: bool,
    /// Pages that the start found damaged on the disk; loads of them are refused.
    pub damaged_pages: u64,
}

impl Persist {
    /// Shared state for a log that goes on at `pos`, with numbers for lives from `next_life` on.
    ///
    /// All of the memory that it will ever need is taken here.
    pub fn new(
        options: &Options,
        regions: usize,
        instance: Instance,
        pos: u64,
        next_life: u64,
    ) -> Persist {
        // Compaction says all lives at once.
        let reserve = regions.saturating_add(16).saturating_mul(LONGEST_SMALL);
        let key = Key::of(instance);
        Persist {
            ack: options.ack,
            queue: Mutex::new(Queue::new(key, options.queue_len, reserve, pos, next_life)),
            more: Condvar::new(),
            durable: AtomicU64::new(pos),
            health: AtomicU8::new(0),
            waiting: Mutex::default(),
            counters: Counters::default(),
        }
    }

    /// Bytes that it will take at most, beside what is there before the start.
    pub fn memory_len(options: &Options, regions: usize) -> usize {
        let reserve = regions.saturating_add(16).saturating_mul(LONGEST_SMALL);
        let queue = options.queue_len.saturating_add(reserve);
        queue.saturating_mul(2).saturating_add(scan::WINDOW)
    }

    /// Whether the log can be written.
    pub fn health(&self) -> Health {
        match self.health.load(Ordering::SeqCst) {
            0 => Health::Good,
            1 => Health::Full,
            2 => Health::Failed,
            _ => Health::Withdrawn,
        }
    }

    fn set_health(&self, health: Health) {
        let code = match health {
            Health::Good => 0,
            Health::Full => 1,
            Health::Failed => 2,
            Health::Withdrawn => 3,
        };
        self.health.store(code, Ordering::SeqCst);
    }

    /// What became of the promise that the log is on the disk up to `pos`.
    ///
    /// [`queue::UNLOGGED`] stands for what could not be logged at all: it may be acknowledged once the
    /// disk says that the log is not to be resumed.
    pub fn settled(&self, pos: u64) -> Settled {
        if pos <= self.durable.load(Ordering::SeqCst) {
            return Settled::Yes;
        }
        match (self.health(), pos) {
            (Health::Withdrawn, queue::UNLOGGED) => Settled::Yes,
            (_, queue::UNLOGGED) | (Health::Good | Health::Full, _) => Settled::NotYet,
            _ => Settled::Never,
        }
    }

    /// From now on `who` is told when there is news.
    pub fn tell(&self, who: Arc<dyn Waiting>) {
        lock(&self.waiting).push(who);
    }

    fn news(&self) {
        for waiting in &*lock(&self.waiting) {
            waiting.look();
        }
    }

    /// The state, for a report; `pages` are stored now.
    pub fn report(&self, pages: u64) -> PersistReport {
        let get = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let counters = &self.counters;
        let bytes = get(&counters.bytes);
        let health = match self.health() {
            Health::Good => "good",
            Health::Full => "full",
            Health::Failed | Health::Withdrawn => "failed",
        };
        PersistReport {
            health: health.to_owned(),
            ack: self.ack,
            segments: get(&counters.segments),
            bytes,
            dead_bytes: bytes.saturating_sub(record_bytes(pages)),
            queue_bytes: lock(&self.queue).waiting(),
            last_sync_us: get(&counters.sync_us),
            syncs: get(&counters.syncs),
            compactions: get(&counters.compactions),
            compacting: get(&counters.compacting) != 0,
            damaged_pages: get(&counters.damaged),
        }
    }
}

/// Bytes of the records of so many pages.
pub fn record_bytes(pages: u64) -> u64 {
    pages.saturating_mul(to_u64(PAGE_RECORD))
}

/// Bytes that the log may take on the disk at most, for a capacity of so many pages: four times the records
/// of all of them (`compact.rs` says why), and a few segments.
pub fn disk_bound(options: &Options, regions: usize, pages: u64) -> u64 {
    let segment = to_u64(segment_len(options, regions));
    record_bytes(pages)
        .saturating_mul(4)
        .saturating_add(segment.saturating_mul(compact::SLACK_SEGMENTS + 4))
}

/// How long a segment may get.
pub fn segment_len(options: &Options, regions: usize) -> usize {
    let queue = Persist::memory_len(options, regions).saturating_sub(scan::WINDOW) / 2;
    let len = queue.saturating_mul(4).saturating_add(SEGMENT_HEAD);
    len.next_multiple_of(UNIT)
}

/// The words for a client whose store could not be logged.
pub fn refusal(health: Health) -> (Status, &'static str) {
    let words = match health {
        Health::Good | Health::Full => "the server's log has no room; try again later",
        Health::Failed | Health::Withdrawn => {
            "the server's disk failed: what it had not acknowledged is not stored; loads go on"
        }
    };
    (Status::Full, words)
}
