// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Which slots a pull may still put a page into.
//!
//! What is fetched from another server is older than whatever the client says meanwhile. So a cluster
//! has a mask of the slots that are awaited, and the number of the one pull that awaits them: a STORE or
//! FREE takes its slots out of the mask, and a pull puts a page only where it is the cluster's present
//! one and the slot is still in it. Both are decided under the shard's lock, as stores are. The number
//! keeps a late pull from putting its page where a newer one awaits the same slot anew.
//!
//! A cluster stays in the table while it has a page or a pull. Kept with nothing awaited any more, it
//! lets the pull's end tell "stored or freed meanwhile" from "a newer pull was first", which are
//! different answers.

use std::collections::hash_map::Entry;

use memsrv_protocol::{FreeMask, Slot, Status};

use super::{give_back_cluster, put, take_cluster, Ended, Quota, Shard, Table};
use crate::arena::{lock, Arena, Cluster};

/// Ends the waiting for slots; every STORE and FREE comes here.
pub(super) fn leave_out(cluster: &mut Cluster, slots: &FreeMask) {
    if cluster.pull == 0 {
        return;
    }
    for (byte, out) in cluster.awaited.0.iter_mut().zip(slots.0) {
        *byte &= !out;
    }
}

/// The mask of one slot.
pub(super) fn one(slot: Slot) -> FreeMask {
    let mut mask = FreeMask::EMPTY;
    mask.insert(slot.index());
    mask
}

/// The slots of a mask that have no page in the cluster.
fn missing(cluster: Option<&Cluster>, mask: &FreeMask) -> FreeMask {
    let mut missing = *mask;
    for (index, place) in cluster.iter().flat_map(|c| c.pages.iter().enumerate()) {
        if place.is_some() {
            if let Some(byte) = missing.0.get_mut(index / 8) {
                *byte &= !(1 << (index % 8));
            }
        }
    }
    missing
}

impl Table {
    /// Lets pull number `pull` put pages into those slots of a cluster that are in `mask` and have none,
    /// and gives these slots back. An older pull of the cluster is over. With none to fetch, so is this.
    ///
    /// # Errors
    ///
    /// Outer: the region has ended. Inner: [`Status::Quota`] or [`Status::Full`], no page table is left.
    pub fn await_pages(
        &self,
        arena: &Arena,
        quota: &Quota,
        base: Slot,
        mask: &FreeMask,
        pull: u64,
    ) -> Result<Result<FreeMask, Status>, Ended> {
        let number = base.cluster();
        let mut shard = lock(self.shard(number)?);
        if shard.ended {
            return Err(Ended);
        }
        let awaited = missing(shard.clusters.get(&number).map(|c| &**c), mask);
        if awaited.is_empty() {
            give_up(&mut shard, arena, quota, number);
            return Ok(Ok(awaited));
        }
        let cluster = match shard.clusters.entry(number) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => match take_cluster(arena, quota, number) {
                Ok(cluster) => entry.insert(cluster),
                Err(status) => return Ok(Err(status)),
            },
        };
        cluster.pull = pull;
        cluster.awaited = awaited;
        Ok(Ok(awaited))
    }

    /// The slots that a pull may still fill; `None` where it is no longer the cluster's.
    ///
    /// # Errors
    ///
    /// The region has ended.
    pub fn awaited(&self, pull: u64, base: Slot) -> Result<Option<FreeMask>, Ended> {
        let shard = lock(self.shard(base.cluster())?);
        if shard.ended {
            return Err(Ended);
        }
        let cluster = shard.clusters.get(&base.cluster());
        Ok(cluster.filter(|c| c.pull == pull).map(|c| c.awaited))
    }

    /// Puts a page that a pull has fetched into its slot; false where it is no longer awaited.
    ///
    /// # Errors
    ///
    /// Outer: the region has ended. Inner: [`Status::Quota`] or [`Status::Full`]; the slot is still
    /// awaited.
    pub fn put_awaited(
        &self,
        arena: &Arena,
        quota: &Quota,
        pull: u64,
        slot: Slot,
        crc: u32,
        bytes: &[u8],
    ) -> Result<Result<bool, Status>, Ended> {
        let mut shard = lock(self.shard(slot.cluster())?);
        if shard.ended {
            return Err(Ended);
        }
        let shard = &mut *shard;
        let cluster = shard.clusters.get_mut(&slot.cluster());
        let awaits = |c: &&mut Box<Cluster>| c.pull == pull && c.awaited.contains(slot.index());
        let Some(cluster) = cluster.filter(awaits) else {
            return Ok(Ok(false));
        };
        let done = put(cluster, &mut shard.pages, arena, quota, slot, crc, bytes);
        if done.is_ok() {
            leave_out(cluster, &one(slot));
        }
        Ok(done.map(|()| true))
    }

    /// Ends a pull: nothing is awaited any more. False where it was over before, a newer one of the
    /// cluster having been first.
    ///
    /// # Errors
    ///
    /// The region has ended.
    pub fn end_pull(
        &self,
        arena: &Arena,
        quota: &Quota,
        pull: u64,
        base: Slot,
    ) -> Result<bool, Ended> {
        let number = base.cluster();
        let mut shard = lock(self.shard(number)?);
        if shard.ended {
            return Err(Ended);
        }
        let own = shard.clusters.get(&number).is_some_and(|c| c.pull == pull);
        if own {
            give_up(&mut shard, arena, quota, number);
        }
        Ok(own)
    }

    /// Ends whatever pull a cluster has; that one finds itself superseded.
    ///
    /// # Errors
    ///
    /// The region has ended.
    pub fn cancel_pull(&self, arena: &Arena, quota: &Quota, slot: Slot) -> Result<(), Ended> {
        let mut shard = lock(self.shard(slot.cluster())?);
        if shard.ended {
            return Err(Ended);
        }
        give_up(&mut shard, arena, quota, slot.cluster());
        Ok(())
    }

    /// Takes note of a STORE that was refused before it came to the table. The slot's page from another
    /// server would be older than that, so it is no longer awaited.
    ///
    /// Which slot a damaged STORE was for, nobody knows: it may be another one of the cluster, and a pull
    /// that left out a wrong slot would end well with that page missing. So it ends the cluster's pull.
    ///
    /// # Errors
    ///
    /// The region has ended.
    pub fn refused(
        &self,
        arena: &Arena,
        quota: &Quota,
        slot: Slot,
        status: Status,
    ) -> Result<(), Ended> {
        if status == Status::BadChecksum {
            return self.cancel_pull(arena, quota, slot);
        }
        let mut shard = lock(self.shard(slot.cluster())?);
        if let Some(cluster) = shard.clusters.get_mut(&slot.cluster()) {
            leave_out(cluster, &one(slot));
        }
        Ok(())
    }
}

/// Takes the pull from a cluster, and the table from the cluster if it was for that only.
fn give_up(shard: &mut Shard, arena: &Arena, quota: &Quota, number: u64) {
    let Some(cluster) = shard.clusters.get_mut(&number) else {
        return;
    };
    cluster.pull = 0;
    cluster.awaited = FreeMask::EMPTY;
    if cluster.is_idle() {
        if let Some(cluster) = shard.clusters.remove(&number) {
            give_back_cluster(arena, quota, number, cluster);
        }
    }
}
