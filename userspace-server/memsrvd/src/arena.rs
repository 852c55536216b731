// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The server's memory: every page and every page table that it will ever have, taken at start.
//!
//! A page is an exclusive reference. It lies either in the free list here or in exactly one slot of
//! one cluster, and moves between them by value, so that no page can serve two slots. A free page keeps
//! its old bytes; whoever takes one writes all of it before it can be read (`table.rs`). A page that came compressed
//! has a part of one, of which the same holds ([`crate::rooms`]).
//!
//! Memory beside the pages: 8 bytes a page for the free list, and the clusters, 6 KiB each, that fill
//! the rest of 0.8%. That is room for twice as many clusters as full ones need, and so for twice as many pages as there
//! are frames, where they come compressed: more are not granted ([`Arena::most_pages`]), and of what is stored then the
//! tables take 0.4%. The process itself, its program, threads and heap, has 8 MiB: 0.2% of a million pages.
//!
//! Locks: each shard of a pool has its own; they are the innermost and never held two at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};

use memsrv_protocol::{FreeMask, CLUSTER_SLOTS, PAGE_SIZE};

use crate::num::{to_u64, to_usize};
use crate::rooms::{Divided, Room};
use crate::sys::{Mapping, Page};

/// What the tables may take, in thousandths of the capacity; the design promises less than 1% of all.
const OVERHEAD_PER_MILLE: u64 = 8;

/// Slots in a cluster, as an array's length.
pub const SLOTS: usize = 512;
const _: () = assert!(CLUSTER_SLOTS == 512);

/// Locks, also after a panic elsewhere: every change under these locks is a single step.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The pages of one cluster, each with the checksum that came with it.
pub struct Cluster {
    /// The page in each slot, as it came.
    pub pages: [Option<Room>; SLOTS],
    /// CRC-32C over slot number and payload, as stored.
    pub crcs: [u32; SLOTS],
    /// How many slots have a page.
    pub used: u16,
    /// The number of the pull that fetches pages for this cluster; 0: there is none.
    pub pull: u64,
    /// The slots in which that pull may put a page. None of them has one.
    pub awaited: FreeMask,
}

impl Cluster {
    fn empty() -> Box<Cluster> {
        Box::new(Cluster {
            pages: [const { None }; SLOTS],
            crcs: [0; SLOTS],
            used: 0,
            pull: 0,
            awaited: FreeMask::EMPTY,
        })
    }

    /// Whether nobody needs this table: no page is in it, and no pull is under way that asks for it.
    pub fn is_idle(&self) -> bool {
        self.used == 0 && self.pull == 0
    }
}

/// Things to take and give back from many threads; nothing is allocated after the start.
pub struct Pool<T> {
    shards: Box<[Mutex<Vec<T>>]>,
    total: u64,
}

impl<T> Pool<T> {
    const SHARDS: usize = 16;

    /// A pool of these things, `total` in number.
    fn new(things: impl Iterator<Item = T>, total: usize) -> Pool<T> {
        let share = total.div_ceil(Self::SHARDS);
        let mut things = things.take(total);
        let shards = (0..Self::SHARDS)
            .map(|_| {
                let mut shard = Vec::with_capacity(share);
                shard.extend(things.by_ref().take(share));
                Mutex::new(shard)
            })
            .collect();
        Pool {
            shards,
            total: to_u64(total),
        }
    }

    /// The shards, starting with the one that `hint` chooses.
    fn starting_at(&self, hint: u64) -> impl Iterator<Item = &Mutex<Vec<T>>> {
        let first = to_usize(hint % to_u64(Self::SHARDS));
        self.shards.iter().cycle().skip(first).take(Self::SHARDS)
    }

    /// Takes one; `None` where nothing is left. Users with different hints do not meet.
    pub fn take(&self, hint: u64) -> Option<T> {
        self.starting_at(hint).find_map(|shard| lock(shard).pop())
    }

    /// Gives one back.
    pub fn put(&self, hint: u64, thing: T) {
        // The shards' capacities add up to at least `total`, so one of them has room.
        for shard in self.starting_at(hint) {
            let mut shard = lock(shard);
            if shard.len() < shard.capacity() {
                shard.push(thing);
                return;
            }
        }
        // Others moved the room about while we looked: let one shard grow rather than lose a page.
        if let Some(shard) = self.starting_at(hint).next() {
            lock(shard).push(thing);
        }
    }

    /// How many there are in all.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// How many are there to take.
    pub fn free(&self) -> u64 {
        self.shards
            .iter()
            .map(|shard| to_u64(lock(shard).len()))
            .sum()
    }
}

/// All that regions are made of.
pub struct Arena {
    /// The pages that hold nothing.
    pub pages: Pool<Page>,
    /// Those that hold parts.
    pub divided: Mutex<Divided>,
    /// The page tables that hold nothing.
    pub clusters: Pool<Box<Cluster>>,
    /// Whether the pages come from the kernel's pool of huge pages.
    pub hugetlb: bool,
}

impl Arena {
    /// Divides a mapping into pages, and makes the tables for them.
    pub fn new(mapping: Mapping) -> Arena {
        let count = mapping.pages.len();
        let clusters = cluster_count(count);
        Arena {
            pages: Pool::new(mapping.pages.iter_mut(), count),
            divided: Mutex::default(),
            clusters: Pool::new(std::iter::repeat_with(Cluster::empty), clusters),
            hugetlb: mapping.hugetlb,
        }
    }

    /// How many compressed pages may be stored: as many as full page tables have slots for, about.
    pub fn most_pages(&self) -> u64 {
        self.pages.total().saturating_mul(2)
    }

    /// Bytes that the tables take beside `pages` pages.
    pub fn overhead_bytes(pages: usize) -> u64 {
        let clusters = cluster_count(pages).saturating_mul(size_of::<Cluster>());
        to_u64(clusters.saturating_add(pages.saturating_mul(size_of::<Page>())))
    }
}

/// How many clusters are made for so many pages.
fn cluster_count(pages: usize) -> usize {
    let bytes = to_u64(pages).saturating_mul(to_u64(PAGE_SIZE));
    let budget = (bytes / 1000).saturating_mul(OVERHEAD_PER_MILLE);
    let lists = to_u64(pages.saturating_mul(size_of::<Page>()));
    // A tiny arena, as tests have, gets some all the same.
    let clusters = budget.saturating_sub(lists) / to_u64(size_of::<Cluster>());
    to_usize(clusters).max(64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_take_less_than_one_percent_of_what_they_serve() {
        for mib in [64_usize, 1024, 64 * 1024] {
            let pages = mib * 256;
            assert!(
                Arena::overhead_bytes(pages) * 100 < to_u64(pages * PAGE_SIZE),
                "{mib} MiB"
            );
            assert!(
                cluster_count(pages) * SLOTS > 2 * pages,
                "{mib} MiB: too few clusters"
            );
        }
    }

    #[test]
    fn a_pool_gives_out_each_thing_once_and_takes_all_back() {
        let pool = Pool::new(0..100, 100);
        let mut taken: Vec<i32> = std::iter::from_fn(|| pool.take(7)).collect();
        taken.sort_unstable();
        assert_eq!(taken, (0..100).collect::<Vec<_>>());
        assert_eq!(pool.free(), 0);
        // All to one hint: more than its shard holds.
        taken.into_iter().for_each(|thing| pool.put(3, thing));
        assert_eq!(pool.free(), 100);
    }
}
