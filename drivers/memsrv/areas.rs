// SPDX-License-Identifier: GPL-2.0-only

//! Which slots the servers hold: one bit each, in clusters of 512, in chunks made when needed.
//!
//! With a mirror, a cluster has two bits for each server besides: what it holds of the cluster
//! (`standings.rs`).
//!
//! Everything is read and changed without a lock, by atomic operations, because the hooks run under
//! the swap cluster's lock and in ftrace handlers. That is enough: a slot whose folio is locked or
//! under writeback in the swap cache cannot be freed, so that the store, the load, the failure and
//! the invalidation of one slot never race. Chunks are made by a thread and freed with the module.
//!
//! A cluster with a bit set, or with a store admitted, holds a reference on the module: `rmmod` says
//! "in use" as long as there is a page away.

use super::engine::Replica;
use super::platform::{atomic, sys::ModulePin};
use super::protocol::{Slot, CLUSTER_SLOTS};
use super::relay::Relay;
use kernel::{
    alloc::AllocError,
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Full, Relaxed},
        new_spinlock_irq,
        SetOnce,
        SpinLockIrq, //
    }, //
};

/// Swap areas that Linux can have at a time (`MAX_SWAPFILES` is below it).
pub(crate) const AREAS: usize = 32;
/// Clusters in a chunk: as many as a word has bits, for the flags. A chunk is 128 MiB of swap.
const CHUNK_CLUSTERS: u64 = 64;
/// Chunks in an area: 1 TiB of swap. Pages beyond go to zswap or the disk.
const AREA_CHUNKS: u64 = 8192;
/// Slots in a chunk.
const CHUNK_SLOTS: u64 = CHUNK_CLUSTERS * CLUSTER_SLOTS as u64;
/// Where a slot's number holds the area's.
const AREA_SHIFT: u32 = 48;

/// The bits of 512 slots.
type Bits = [Atomic<u64>; 8];

pub(super) struct Chunk {
    /// Clusters of which a slot was freed since the server was last told; for each server.
    pub(super) flags: [Atomic<u64>; 2],
    /// What each server holds of the clusters: two bits each, in two words.
    pub(super) behind: [Atomic<u64>; 2],
    pub(super) partial: [Atomic<u64>; 2],
    /// A page of them.
    bits: KVec<Bits>,
    /// For each cluster how many bits are set, or about to be (admitted).
    pub(super) used: KVec<Atomic<u32>>,
}

/// A cluster, found.
#[derive(Clone, Copy)]
struct Cluster<'a> {
    bits: &'a Bits,
    used: &'a Atomic<u32>,
}

type Chunks = KVVec<SetOnce<KBox<Chunk>>>;

/// Why a store was not admitted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// The chunk is not there yet; a thread has to make it.
    Chunk,
    /// The slot is beyond what an area may have.
    Range,
    /// The module is being unloaded.
    Unloading,
}

/// What became of slots that were cleared.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cleared {
    /// How many had their bit set.
    pub(crate) pages: u64,
    /// Whether the link must be told: their cluster was not flagged yet.
    pub(crate) tell: bool,
}

/// The bits of all areas.
#[pin_data]
pub(crate) struct Areas {
    areas: KVec<SetOnce<Chunks>>,
    /// In every area the chunks that are there are among so many first.
    reach: Atomic<u64>,
    /// To be held while there are pages away; none if the disk has them all, too.
    module: Option<ModulePin>,
    pub(super) mirrored: bool,
    /// While it is on, the mirror is not spoken to, and counts as behind everywhere.
    #[pin]
    pub(crate) relay: Relay,
    /// Bits set in all.
    present: Atomic<u64>,
    /// Clusters of which a server is not whole, and those that a resync has made whole since `insmod`.
    pub(super) behind: [Atomic<u64>; 2],
    pub(super) refilled: [Atomic<u64>; 2],
    /// Held while a standing changes; below a lane's lock.
    #[pin]
    pub(super) changing: SpinLockIrq<()>,
}

/// A replica's place in a pair.
pub(crate) fn index(replica: Replica) -> usize {
    match replica {
        Replica::Primary => 0,
        Replica::Mirror => 1,
    }
}

/// A slot's place: area, chunk in it, cluster in that, bit in that.
#[derive(Clone, Copy)]
pub(super) struct Place {
    area: usize,
    chunk: u64,
    pub(super) cluster: usize,
    bit: usize,
}

/// The number of a slot's cluster in its area.
pub(crate) fn cluster_in_area(slot: u64) -> u64 {
    (slot & ((1 << AREA_SHIFT) - 1)) / u64::from(CLUSTER_SLOTS)
}

pub(super) fn place(slot: u64) -> Place {
    let offset = slot & ((1 << AREA_SHIFT) - 1);
    let cluster = cluster_in_area(slot);
    Place {
        area: usize::try_from(slot >> AREA_SHIFT).unwrap_or(usize::MAX),
        chunk: cluster / CHUNK_CLUSTERS,
        cluster: usize::try_from(cluster % CHUNK_CLUSTERS).unwrap_or(0),
        bit: Slot(offset).index(),
    }
}

fn new_chunk() -> Result<KBox<Chunk>, AllocError> {
    let mut bits = KVec::with_capacity(64, GFP_KERNEL)?;
    let mut used = KVec::with_capacity(64, GFP_KERNEL)?;
    for _ in 0..CHUNK_CLUSTERS {
        bits.push([const { Atomic::new(0) }; 8], GFP_KERNEL)?;
        used.push(Atomic::new(0), GFP_KERNEL)?;
    }
    let chunk = Chunk {
        flags: [const { Atomic::new(0) }; 2],
        behind: [const { Atomic::new(0) }; 2],
        partial: [const { Atomic::new(0) }; 2],
        bits,
        used,
    };
    KBox::new(chunk, GFP_KERNEL)
}

impl Areas {
    /// No slots; on one server or on two, of which the first may feed the other.
    pub(crate) fn new(
        module: Option<ModulePin>,
        mirrored: bool,
        forwarded: bool,
    ) -> Result<impl PinInit<Self>> {
        let mut areas = KVec::with_capacity(AREAS, GFP_KERNEL)?;
        for _ in 0..AREAS {
            areas.push(SetOnce::new(), GFP_KERNEL)?;
        }
        Ok(pin_init!(Self {
            areas,
            reach: Atomic::new(0),
            module,
            mirrored,
            relay <- Relay::new(forwarded),
            present: Atomic::new(0),
            behind: [const { Atomic::new(0) }; 2],
            refilled: [const { Atomic::new(0) }; 2],
            changing <- new_spinlock_irq!(()),
        }))
    }

    /// How many slots the server holds.
    pub(crate) fn present(&self) -> u64 {
        self.present.load(Relaxed)
    }

    pub(super) fn chunk(&self, at: Place) -> Option<&Chunk> {
        let chunks = self.areas.get(at.area)?.as_ref()?;
        let chunk = chunks.get(usize::try_from(at.chunk).ok()?)?.as_ref()?;
        Some(chunk)
    }

    fn cluster(&self, at: Place) -> Option<Cluster<'_>> {
        let chunk = self.chunk(at)?;
        Some(Cluster {
            bits: chunk.bits.get(at.cluster)?,
            used: chunk.used.get(at.cluster)?,
        })
    }

    /// Makes the chunks for `slots` slots from `slot` on, as far as they are missing. Sleeps.
    pub(crate) fn make(&self, slot: u64, slots: u64) -> Result {
        let at = place(slot);
        let area = self.areas.get(at.area).ok_or(ERANGE)?;
        if area.as_ref().is_none() {
            let mut chunks = Chunks::with_capacity(usize::try_from(AREA_CHUNKS)?, GFP_KERNEL)?;
            for _ in 0..AREA_CHUNKS {
                chunks.push(SetOnce::new(), GFP_KERNEL)?;
            }
            // If somebody else was first, his chunks count.
            let _ = area.populate(chunks);
        }
        let chunks = area.as_ref().ok_or(ENOMEM)?;
        let last = at
            .chunk
            .saturating_add(slots.saturating_sub(1) / CHUNK_SLOTS);
        let last = last.min(AREA_CHUNKS - 1);
        // Before they can be found.
        atomic::raise(&self.reach, last + 1);
        for number in at.chunk..=last {
            let chunk = chunks.get(usize::try_from(number)?).ok_or(ERANGE)?;
            if chunk.as_ref().is_none() {
                let _ = chunk.populate(new_chunk()?);
            }
        }
        Ok(())
    }

    /// Counts a folio's slots as used before its bits are set, so that the module stays.
    pub(crate) fn claim(&self, slot: u64, pages: u16) -> Result<(), NoPlace> {
        let at = place(slot);
        if at.area >= AREAS || at.chunk >= AREA_CHUNKS || !Slot(slot).run_fits(pages) {
            return Err(NoPlace::Range);
        }
        let cluster = self.cluster(at).ok_or(NoPlace::Chunk)?;
        let mut pinned = None;
        let mut old = cluster.used.load(Relaxed);
        let was = loop {
            if let (0, None, Some(module)) = (old, pinned, self.module) {
                // The reference comes before the count: whoever sees a count above zero relies on it.
                if !module.get() {
                    return Err(NoPlace::Unloading);
                }
                pinned = Some(module);
            }
            match cluster.used.cmpxchg(old, old + u32::from(pages), Full) {
                Ok(was) => break was,
                Err(now) => old = now,
            }
        };
        if let (Some(module), true) = (pinned, was != 0) {
            module.put();
        }
        Ok(())
    }

    /// Takes a claim back of which no bit was set. The servers may have the page: they are to be told.
    pub(crate) fn release(&self, slot: u64) {
        let at = place(slot);
        if let (Some(chunk), Some(cluster)) = (self.chunk(at), self.cluster(at)) {
            self.flag(chunk, at);
            self.unclaim(cluster, 1);
        }
    }

    /// Flags a cluster for a FREE on each server; whether it was flagged on all.
    fn flag(&self, chunk: &Chunk, at: Place) -> bool {
        let flag = 1 << at.cluster;
        let [primary, mirror] = &chunk.flags;
        let flagged = atomic::set(primary, flag) & flag != 0;
        flagged & (!self.mirrored || atomic::set(mirror, flag) & flag != 0)
    }

    /// Flags clusters, those that `mine` (by the cluster's number in its area) says, for a FREE on a server.
    pub(crate) fn flag_all(&self, replica: Replica, mine: impl Fn(u64) -> bool) {
        self.each_chunk(|first, chunk| {
            for cluster in 0..CHUNK_CLUSTERS {
                let slot = first + cluster * u64::from(CLUSTER_SLOTS);
                if let (true, Some(flags)) =
                    (mine(cluster_in_area(slot)), chunk.flags.get(index(replica)))
                {
                    atomic::set(flags, 1 << cluster);
                }
            }
        });
    }

    /// Takes `n` from a cluster's count, and the module's reference with the last of it.
    fn unclaim(&self, cluster: Cluster<'_>, n: u32) {
        if n > 0 && cluster.used.fetch_sub(n, Full) == n {
            if let Some(module) = self.module {
                module.put();
            }
        }
    }

    /// Sets the bits of a folio that was claimed.
    pub(crate) fn set(&self, slot: u64, pages: u16) {
        let at = place(slot);
        let Some(cluster) = self.cluster(at) else {
            return;
        };
        let mut before = 0;
        for (word, mask) in words(at.bit, pages) {
            if let Some(word) = cluster.bits.get(word) {
                before += (atomic::set(word, mask) & mask).count_ones();
            }
        }
        self.present
            .fetch_add(u64::from(u32::from(pages).saturating_sub(before)), Relaxed);
        // Bits that were set already are counted already.
        self.unclaim(cluster, before);
    }

    /// Clears the bits of slots, those that are set, and flags their cluster.
    pub(crate) fn clear(&self, slot: u64, pages: u16) -> Cleared {
        let at = place(slot);
        let (Some(chunk), Some(cluster)) = (self.chunk(at), self.cluster(at)) else {
            return Cleared::default();
        };
        let mut cleared = 0;
        for (word, mask) in words(at.bit, pages) {
            let Some(word) = cluster.bits.get(word) else {
                continue;
            };
            // Most frees are of slots that we never had: no write then.
            if word.load(Relaxed) & mask != 0 {
                cleared += (atomic::clear(word, mask) & mask).count_ones();
            }
        }
        if cleared == 0 {
            return Cleared::default();
        }
        let flagged = self.flag(chunk, at);
        self.present.fetch_sub(u64::from(cleared), Relaxed);
        self.unclaim(cluster, cleared);
        Cleared {
            pages: u64::from(cleared),
            tell: !flagged,
        }
    }

    /// How many of a folio's slots the server holds.
    pub(crate) fn count(&self, slot: u64, pages: u16) -> u16 {
        let at = place(slot);
        let Some(cluster) = self.cluster(at) else {
            return 0;
        };
        let mut count = 0;
        for (word, mask) in words(at.bit, pages) {
            if let Some(word) = cluster.bits.get(word) {
                count += (word.load(Relaxed) & mask).count_ones();
            }
        }
        u16::try_from(count).unwrap_or(u16::MAX)
    }

    /// The slots of a cluster that are set.
    pub(crate) fn stored(&self, slot: u64) -> [u64; 8] {
        match self.cluster(place(slot)) {
            Some(cluster) => core::array::from_fn(|i| match cluster.bits.get(i) {
                Some(word) => word.load(Relaxed),
                None => 0,
            }),
            None => [0; 8],
        }
    }

    /// The slots of a cluster that the server need not hold, for a FREE that is about to be sent to it: those
    /// whose bit is clear, but for the `busy` ones, whose bit is clear because a copy is on its way. (That is
    /// asked under the lane's lock, and only of a cluster that has more in use than bits set.)
    ///
    /// Where those are all of them, the server is whole from then on: what it has of old ones goes with this
    /// FREE, and each store to come is behind that in its stream.
    pub(crate) fn absent(
        &self,
        replica: Replica,
        slot: u64,
        busy: impl FnOnce() -> [u64; 8],
    ) -> [u64; 8] {
        // Before the bits: those that are cleared meanwhile then only count too much.
        let used = self
            .cluster(place(slot))
            .map_or(0, |at| at.used.load(Acquire));
        let mut absent = self.stored(slot).map(|word| !word);
        let free: u32 = absent.iter().map(|word| word.count_ones()).sum();
        if u32::from(CLUSTER_SLOTS).saturating_sub(free) < used {
            for (word, busy) in absent.iter_mut().zip(busy()) {
                *word &= !busy;
            }
        }
        if absent == [u64::MAX; 8] {
            self.is_empty(replica, slot);
        }
        absent
    }

    /// Clears the bits of the clusters that `mine` (by the cluster's number in its area) says.
    pub(crate) fn forget(&self, mine: impl Fn(u64) -> bool) {
        self.each_chunk(|first, _| {
            for cluster in 0..CHUNK_CLUSTERS {
                let slot = first + cluster * u64::from(CLUSTER_SLOTS);
                if mine(cluster_in_area(slot)) {
                    self.clear(slot, CLUSTER_SLOTS);
                }
            }
        });
    }

    /// Shows the chunks that there are, each with the first slot of its clusters.
    pub(super) fn each_chunk<'a>(&'a self, mut show: impl FnMut(u64, &'a Chunk)) {
        self.chunks().for_each(|(slot, chunk)| show(slot, chunk));
    }

    /// The chunks that are there, each with its first slot.
    fn chunks(&self) -> impl Iterator<Item = (u64, &Chunk)> {
        let reach = usize::try_from(self.reach.load(Relaxed)).unwrap_or(usize::MAX);
        (0u64..).zip(&self.areas).flat_map(move |(area, chunks)| {
            let chunks = chunks.as_ref().map_or(&[][..], |chunks| chunks);
            let chunks = (0u64..).zip(chunks).take(reach);
            chunks.filter_map(move |(number, chunk)| {
                let chunk: &Chunk = chunk.as_ref()?;
                Some((area << AREA_SHIFT | number * CHUNK_SLOTS, chunk))
            })
        })
    }

    /// Takes a server's flags of the clusters that `mine` (by the cluster's number in its area) says, and
    /// calls `free` with the first slot of each; where it returns false the flag stays, and the rest.
    ///
    /// Returns whether all were taken.
    pub(crate) fn take_flagged(
        &self,
        replica: Replica,
        mine: impl Fn(u64) -> bool,
        mut free: impl FnMut(u64) -> bool,
    ) -> bool {
        for (first, chunk) in self.chunks() {
            let Some(flags) = chunk.flags.get(index(replica)) else {
                continue;
            };
            let mut left = flags.load(Relaxed);
            while left != 0 {
                let bit = left.trailing_zeros();
                left &= left - 1;
                let slot = first + u64::from(bit) * u64::from(CLUSTER_SLOTS);
                if !mine(cluster_in_area(slot)) {
                    continue;
                }
                // Before the bits are looked at: what is freed later flags it anew.
                atomic::clear(flags, 1 << bit);
                if !free(slot) {
                    atomic::set(flags, 1 << bit);
                    return false;
                }
            }
        }
        true
    }

    /// Forgets all slots of an area; returns how many there were.
    pub(crate) fn wipe(&self, area: u32) -> u64 {
        let mut wiped = 0;
        for (first, _) in self.chunks() {
            if first >> AREA_SHIFT != u64::from(area) {
                continue;
            }
            for cluster in 0..CHUNK_CLUSTERS {
                let slot = first + cluster * u64::from(CLUSTER_SLOTS);
                wiped += self.clear(slot, CLUSTER_SLOTS).pages;
            }
        }
        wiped
    }
}

/// The words, with a mask each, that `pages` bits from `bit` on lie in.
fn words(bit: usize, pages: u16) -> impl Iterator<Item = (usize, u64)> {
    let end = bit.saturating_add(usize::from(pages)).min(512);
    (bit / 64..end.div_ceil(64)).map(move |word| {
        let from = bit.saturating_sub(word * 64).min(63);
        let to = end.saturating_sub(word * 64).min(64);
        (word, (u64::MAX << from) & (u64::MAX >> (64 - to)))
    })
}
