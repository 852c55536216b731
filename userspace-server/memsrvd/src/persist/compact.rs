// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Compaction: all live pages are written again, from memory, into new segments; then the old ones go.
//!
//! It begins in a new segment with the lives that there are, and walks their tables while clients go on.
//! What clients store meanwhile is behind that beginning anyway. A page is copied under the queue's lock,
//! so the copy stands in the log before whatever replaces it. When the last copy is on the disk, the head
//! file names the new segment as the first, and the older files are removed. Cut off anywhere before that,
//! the old segments with what was written behind them are the same state.
//!
//! Nothing is read from the disk and there is no index of what lies where: the pages are in memory, and a
//! page's place in the log matters to nobody.
//!
//! **The bound.** It begins when the log is twice as long as the records of all pages stored now, and a
//! few segments. While it goes on three bytes are copied for each that clients add. Of L bytes alive at worst
//! 1.5 L are copied (clients may store ahead of the walk and free behind it) and 0.5 L added. So there are at
//! most 2 L and 2 L and what is rounded up: `disk_bound` takes 4 L and `SLACK_SEGMENTS + 4` segments.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use memsrv_protocol::{Slot, CLUSTER_SLOTS, PAGE_SIZE};

use super::queue::{Need, NoRoom};
use super::{record_bytes, Persist};
use crate::arena::lock;
use crate::num::{to_u64, to_usize};
use crate::regions::{Life, Shared};

/// Segments that the log may have beside twice what is alive.
pub const SLACK_SEGMENTS: u64 = 4;

/// Pages copied while the queue's lock is held: some ten microseconds.
const STEP: u64 = 16;

/// Bytes that it copies at least for each group, so that it ends though nobody stores.
const LEAST: u64 = 256 * 1024;

/// A walk over all pages.
#[derive(Default)]
pub(super) struct Compaction {
    lives: Vec<Arc<Life>>,
    /// The shard of the last life that is next.
    shard: usize,
    /// The clusters that are left of the shard before it.
    clusters: Vec<u64>,
    /// The slot of the last cluster that is next.
    index: u64,
    /// The segment that it began in; the writer's to set.
    pub(super) segment: Option<u64>,
    /// Bytes that it owes for what clients added.
    debt: u64,
    /// Where the log ended when the last page had been copied.
    pub(super) end: Option<u64>,
}

/// Whether the log is long enough.
pub(super) fn is_due(shared: &Shared, (files, bytes): (u64, u64), segment: u64) -> bool {
    let alive = record_bytes(shared.used_pages()).saturating_mul(2);
    let limit = alive.saturating_add(segment.saturating_mul(SLACK_SEGMENTS));
    // Each start makes a segment, however little it writes.
    let most = limit.checked_div(segment).unwrap_or(0).saturating_add(64);
    bytes > limit || files > most
}

impl Compaction {
    /// Begins one, if the queue has room for that now. All lives are known to the log from then on.
    pub(super) fn begin(shared: &Shared, persist: &Persist) -> Option<Compaction> {
        let registry = lock(&shared.registry);
        let mut entry = persist.enter(Need::Small).ok()?;
        let lives = registry.regions.iter().map(|(key, life)| (key, &**life));
        if !entry.begin_compaction(lives) {
            return None;
        }
        persist.counters.compacting.store(1, Ordering::Relaxed);
        Some(Compaction {
            lives: registry.regions.values().cloned().collect(),
            clusters: Vec::with_capacity(to_usize(shared.arena.clusters.total())),
            ..Compaction::default()
        })
    }

    /// Copies its share for the next group; true when it has walked over everything.
    pub(super) fn advance(&mut self, persist: &Persist) -> bool {
        if self.end.is_some() {
            return true;
        }
        let mut least = LEAST;
        loop {
            let added = {
                let mut queue = lock(&persist.queue);
                std::mem::take(&mut queue.added)
            };
            self.debt = self.debt.saturating_add(added.saturating_mul(3));
            if self.debt == 0 && least == 0 {
                return false;
            }
            match self.step(persist) {
                Ok(Some(bytes)) => {
                    self.debt = self.debt.saturating_sub(bytes);
                    least = least.saturating_sub(bytes);
                }
                Ok(None) => {
                    let mut queue = lock(&persist.queue);
                    queue.compacting = false;
                    self.end = Some(queue.end());
                    return true;
                }
                Err(NoRoom::Now | NoRoom::Disk(_)) => return false,
            }
        }
    }

    /// Copies a few pages; gives back how many bytes that took, `None` at the end of the walk.
    fn step(&mut self, persist: &Persist) -> Result<Option<u64>, NoRoom> {
        let Some(life) = self.lives.last() else {
            return Ok(None);
        };
        let Some(cluster) = self.clusters.last().copied() else {
            if !life.table.cluster_numbers(self.shard, &mut self.clusters) {
                self.lives.pop();
                self.shard = 0;
            } else {
                self.shard = self.shard.saturating_add(1);
            }
            return Ok(Some(0));
        };
        let mut copied: u64 = 0;
        for _ in 0..STEP {
            if self.index >= u64::from(CLUSTER_SLOTS) {
                self.clusters.pop();
                self.index = 0;
                break;
            }
            let first = cluster.saturating_mul(u64::from(CLUSTER_SLOTS));
            let slot = Slot(first.saturating_add(self.index));
            let mut entry = persist.enter(Need::Copy)?;
            let found = life.table.load(slot, |crc, page| {
                // There are no others: compressed pages are not granted where there is a log.
                if let Some(page) = page.first_chunk::<PAGE_SIZE>() {
                    entry.copy(&life.log, slot, crc, page);
                }
            });
            copied = copied.saturating_add(u64::from(found == Ok(true)));
            self.index = self.index.saturating_add(1);
        }
        Ok(Some(record_bytes(copied)))
    }
}

/// Says that it is over, done or not.
pub(super) fn over(persist: &Persist, done: bool) {
    lock(&persist.queue).compacting = false;
    persist.counters.compacting.store(0, Ordering::Relaxed);
    let done = to_u64(usize::from(done));
    persist
        .counters
        .compactions
        .fetch_add(done, Ordering::Relaxed);
}
