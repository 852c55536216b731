// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The page table of one region: which page is in which slot.
//!
//! Clusters are spread over shards by their number, each with a lock. A store copies its page, whole and
//! checked, while it holds the shard's lock; a load copies it out under the same lock: so nobody
//! ever sees half a page, nor a page that was given to another slot meanwhile. Streams have disjoint
//! clusters, so their connections seldom meet at a lock.
//!
//! Lock order: a shard, then a pool's shard.

mod awaits;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Mutex;

use memsrv_protocol::{FreeMask, Slot, Status};

use crate::arena::{lock, Arena, Cluster};
use crate::num::{to_u64, to_usize};
use crate::rooms::{Kind, Room};
use crate::sys::prefetch;

/// A number of things with a limit, taken and given back from many threads.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    fn new(limit: u64) -> Budget {
        let used = AtomicU64::new(0);
        Budget { limit, used }
    }

    /// The most.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// How many are taken.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self) -> bool {
        let more = |used: u64| used.checked_add(1).filter(|&used| used <= self.limit);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.used.fetch_update(set, fetch, more).is_ok()
    }

    fn give_back(&self, count: u64) {
        self.used.fetch_sub(count, Ordering::Relaxed);
    }
}

/// What a client may use, over all its regions.
#[derive(Debug)]
pub struct Quota {
    /// Pages.
    pub pages: Budget,
    /// Page tables: the same share of them as of the pages, lest one client with a page here and a page
    /// there use them up for all.
    pub clusters: Budget,
}

impl Quota {
    /// A quota of `limit` pages in this arena, compressed or not. One of the whole arena is no limit.
    pub fn new(limit: u64, arena: &Arena) -> Quota {
        let (pages, clusters) = (arena.pages.total(), arena.clusters.total());
        if limit >= pages {
            return Quota {
                pages: Budget::new(arena.most_pages()),
                clusters: Budget::new(u64::MAX),
            };
        }
        let share = u128::from(clusters).saturating_mul(u128::from(limit));
        let share = u64::try_from(share.div_ceil(u128::from(pages))).unwrap_or(clusters);
        Quota {
            pages: Budget::new(limit),
            clusters: Budget::new(share),
        }
    }

    /// How many pages a client may store that wants so many (0: any number), compressed or not.
    pub fn granted(&self, arena: &Arena, wanted: u64, compressed: bool) -> u64 {
        let most = match compressed {
            true => arena.most_pages(),
            false => arena.pages.total(),
        };
        let most = most.min(self.pages.limit());
        match wanted {
            0 => most,
            wanted => most.min(wanted),
        }
    }
}

/// The region is no more: its pages were freed while a connection still served it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended;

#[derive(Default)]
struct Shard {
    clusters: foldhash::HashMap<u64, Box<Cluster>>,
    pages: u64,
    ended: bool,
}

/// The pages of one region.
pub struct Table {
    shards: Box<[Mutex<Shard>]>,
}

impl Default for Table {
    fn default() -> Table {
        Table {
            shards: (0..Table::SHARDS).map(|_| Mutex::default()).collect(),
        }
    }
}

impl Table {
    /// A multiple of the usual numbers of streams, so that streams do not share shards.
    const SHARDS: usize = 64;

    fn shard(&self, cluster: u64) -> Result<&Mutex<Shard>, Ended> {
        self.shards
            .get(to_usize(cluster % to_u64(Self::SHARDS)))
            .ok_or(Ended)
    }

    /// Puts a page into a slot, in place of what was there.
    ///
    /// # Errors
    ///
    /// Outer: the region has ended. Inner: [`Status::Quota`] or [`Status::Full`]; nothing changed.
    pub fn store(
        &self,
        arena: &Arena,
        quota: &Quota,
        slot: Slot,
        crc: u32,
        bytes: &[u8],
    ) -> Result<Result<(), Status>, Ended> {
        let number = slot.cluster();
        let mut shard = lock(self.shard(number)?);
        if shard.ended {
            return Err(Ended);
        }
        let shard = &mut *shard;
        if let Some(cluster) = shard.clusters.get_mut(&number) {
            // Refused or not: what a pull fetched is older than this.
            awaits::leave_out(cluster, &awaits::one(slot));
            return Ok(put(
                cluster,
                &mut shard.pages,
                arena,
                quota,
                slot,
                crc,
                bytes,
            ));
        }
        let mut cluster = match take_cluster(arena, quota, number) {
            Ok(cluster) => cluster,
            Err(status) => return Ok(Err(status)),
        };
        let done = put(
            &mut cluster,
            &mut shard.pages,
            arena,
            quota,
            slot,
            crc,
            bytes,
        );
        match done {
            Ok(()) => drop(shard.clusters.insert(number, cluster)),
            Err(_) => give_back_cluster(arena, quota, number, cluster),
        }
        Ok(done)
    }

    /// Asks the processor for what stores to these slots and loads from them will wait for: first for their places in the
    /// page tables, then for the pages. Nothing changes.
    pub fn expect(&self, slots: &[Slot]) {
        self.look(slots, |cluster, index| {
            prefetch(cluster.pages.get(index..=index).unwrap_or(&[]));
            prefetch(cluster.crcs.get(index..=index).unwrap_or(&[]));
        });
        self.look(slots, |cluster, index| {
            if let Some(Some(room)) = cluster.pages.get(index) {
                room.prefetch();
            }
        });
    }

    /// Shows `see` the page tables of these slots that there are, each with the place in it.
    fn look(&self, slots: &[Slot], see: impl Fn(&Cluster, usize)) {
        for together in slots.chunk_by(|a, b| a.cluster() == b.cluster()) {
            let number = together.first().map_or(0, |slot| slot.cluster());
            if let Ok(shard) = self.shard(number) {
                if let Some(cluster) = lock(shard).clusters.get(&number) {
                    together.iter().for_each(|slot| see(cluster, slot.index()));
                }
            }
        }
    }

    /// Shows the page in a slot to `show`, with its checksum; false where there is none.
    ///
    /// # Errors
    ///
    /// The region has ended.
    pub fn load(&self, slot: Slot, show: impl FnOnce(u32, &[u8])) -> Result<bool, Ended> {
        let number = slot.cluster();
        let shard = lock(self.shard(number)?);
        if shard.ended {
            return Err(Ended);
        }
        let found = shard.clusters.get(&number).and_then(|cluster| {
            let page = cluster.pages.get(slot.index())?.as_ref()?;
            Some((*cluster.crcs.get(slot.index())?, page.payload()))
        });
        let Some((crc, page)) = found else {
            return Ok(false);
        };
        show(crc, page);
        Ok(true)
    }

    /// Frees slots of the cluster that `base` begins; gives back how many had a page.
    ///
    /// # Errors
    ///
    /// The region has ended.
    pub fn free(
        &self,
        arena: &Arena,
        quota: &Quota,
        base: Slot,
        mask: &FreeMask,
    ) -> Result<u64, Ended> {
        let number = base.cluster();
        let mut shard = lock(self.shard(number)?);
        if shard.ended {
            return Err(Ended);
        }
        let Some(cluster) = shard.clusters.get_mut(&number) else {
            return Ok(0);
        };
        let freed = empty(cluster, arena, number, |index| mask.contains(index));
        awaits::leave_out(cluster, mask);
        if cluster.is_idle() {
            if let Some(cluster) = shard.clusters.remove(&number) {
                give_back_cluster(arena, quota, number, cluster);
            }
        }
        shard.pages = shard.pages.saturating_sub(freed);
        quota.pages.give_back(freed);
        Ok(freed)
    }

    /// Ends the region: frees every page, and every later call fails. Gives back how many there were.
    pub fn end(&self, arena: &Arena, quota: &Quota) -> u64 {
        let mut total: u64 = 0;
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.ended = true;
            for (number, mut cluster) in std::mem::take(&mut shard.clusters) {
                total = total.saturating_add(empty(&mut cluster, arena, number, |_| true));
                give_back_cluster(arena, quota, number, cluster);
            }
            quota.pages.give_back(std::mem::take(&mut shard.pages));
        }
        total
    }

    /// Puts the numbers of a shard's clusters behind `to`; false if there is no such shard.
    pub fn cluster_numbers(&self, shard: usize, to: &mut Vec<u64>) -> bool {
        let Some(shard) = self.shards.get(shard) else {
            return false;
        };
        to.extend(lock(shard).clusters.keys());
        true
    }

    /// How many pages there are.
    pub fn pages(&self) -> u64 {
        self.shards.iter().map(|shard| lock(shard).pages).sum()
    }
}

fn take_cluster(arena: &Arena, quota: &Quota, hint: u64) -> Result<Box<Cluster>, Status> {
    if !quota.clusters.take() {
        return Err(Status::Quota);
    }
    arena.clusters.take(hint).ok_or_else(|| {
        quota.clusters.give_back(1);
        Status::Full
    })
}

fn give_back_cluster(arena: &Arena, quota: &Quota, hint: u64, mut cluster: Box<Cluster>) {
    cluster.pull = 0;
    cluster.awaited = FreeMask::EMPTY;
    arena.clusters.put(hint, cluster);
    quota.clusters.give_back(1);
}

/// Puts a page into a slot of a cluster, in place of what was there.
fn put(
    cluster: &mut Cluster,
    pages: &mut u64,
    arena: &Arena,
    quota: &Quota,
    slot: Slot,
    crc: u32,
    bytes: &[u8],
) -> Result<(), Status> {
    let (place, sum) = (
        cluster.pages.get_mut(slot.index()),
        cluster.crcs.get_mut(slot.index()),
    );
    let (Some(place), Some(sum)) = (place, sum) else {
        return Err(Status::BadRequest);
    };
    if let Some(room) = place {
        replace(room, arena, slot.cluster(), bytes)?;
    } else {
        if !quota.pages.take() {
            return Err(Status::Quota);
        }
        let Some(mut room) = arena.room(slot.cluster(), bytes.len()) else {
            quota.pages.give_back(1);
            return Err(Status::Full);
        };
        // It is written before the slot has it.
        room.write(bytes);
        *place = Some(room);
        cluster.used = cluster.used.saturating_add(1);
        *pages = pages.saturating_add(1);
    }
    *sum = crc;
    Ok(())
}

/// Puts a page into a slot's room, or into another one if there is one that fits it better.
fn replace(room: &mut Room, arena: &Arena, hint: u64, bytes: &[u8]) -> Result<(), Status> {
    let here = Kind::of(bytes.len()).is_some_and(|kind| kind.rooms() == room.kind().rooms());
    if here && room.write(bytes) {
        return Ok(());
    }
    match arena.room(hint, bytes.len()) {
        Some(mut other) => {
            other.write(bytes);
            arena.give_back(hint, std::mem::replace(room, other));
        }
        // Where nothing is left, the one that it has may do.
        None if room.write(bytes) => {}
        None => return Err(Status::Full),
    }
    Ok(())
}

/// Takes the chosen pages out of a cluster; gives back how many there were.
fn empty(cluster: &mut Cluster, arena: &Arena, hint: u64, chosen: impl Fn(usize) -> bool) -> u64 {
    let mut freed: u16 = 0;
    for (index, place) in cluster.pages.iter_mut().enumerate() {
        if chosen(index) {
            if let Some(page) = place.take() {
                arena.give_back(hint, page);
                freed = freed.saturating_add(1);
            }
        }
    }
    cluster.used = cluster.used.saturating_sub(freed);
    u64::from(freed)
}
