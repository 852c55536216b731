// SPDX-License-Identifier: GPL-2.0-only

//! What each of two servers holds of a cluster: all, some, or perhaps old pages.
//!
//! | `behind` | `partial` | the server |
//! |---|---|---|
//! | 0 | 0 | is whole: it has the newest of every page |
//! | 1 | 0 | is behind: it may lack pages, or hold old ones; it is not asked for them |
//! | 1 | 1 | is behind, and what it has is about to be freed there |
//! | 0 | 1 | is partial: of each page it has the newest or none |
//!
//! The engine says when this changes, under the lock of the cluster's lane; `lost` is called while the lane
//! has no connection to that server. A change takes a lock of its own, because the servers' standings
//! depend on each other: never are both behind.

use super::areas::{cluster_in_area, index, place, Areas, Chunk, Place};
use super::engine::{Clusters, Replica, Standing};
use super::platform::atomic;
use super::protocol::{Slot, CLUSTER_SLOTS};
use kernel::sync::atomic::{Acquire, Atomic, Relaxed};

/// A row of the table above.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Whole,
    Behind,
    Wiping,
    Partial,
}

/// One server's words of a chunk.
struct Words<'a> {
    behind: &'a Atomic<u64>,
    partial: &'a Atomic<u64>,
    flags: &'a Atomic<u64>,
}

fn words(chunk: &Chunk, replica: Replica) -> Option<Words<'_>> {
    let number = index(replica);
    Some(Words {
        behind: chunk.behind.get(number)?,
        partial: chunk.partial.get(number)?,
        flags: chunk.flags.get(number)?,
    })
}

impl Areas {
    fn mark(&self, replica: Replica, at: Place) -> Mark {
        let Some(words) = self.chunk(at).and_then(|chunk| words(chunk, replica)) else {
            return Mark::Whole;
        };
        let bit = 1 << at.cluster;
        // In this order who becomes behind is never seen as whole on the way.
        let partial = words.partial.load(Acquire) & bit != 0;
        let behind = words.behind.load(Relaxed) & bit != 0;
        match (behind, partial) {
            (false, false) => Mark::Whole,
            (true, false) => Mark::Behind,
            (true, true) => Mark::Wiping,
            (false, true) => Mark::Partial,
        }
    }

    /// Under `changing`. Who looks without a lock sees the server behind or partial in between.
    fn set_mark(&self, replica: Replica, at: Place, mark: Mark) {
        let (Some(words), Some(count)) = (
            self.chunk(at).and_then(|chunk| words(chunk, replica)),
            self.behind.get(index(replica)),
        ) else {
            return;
        };
        let bit = 1 << at.cluster;
        let old = self.mark(replica, at);
        if mark == Mark::Behind {
            // The FREE that may make it whole again.
            atomic::set(words.flags, bit);
        }
        if mark == old {
            return;
        }
        if matches!(mark, Mark::Behind | Mark::Wiping) {
            atomic::set(words.behind, bit);
        }
        match mark {
            Mark::Wiping | Mark::Partial => atomic::set(words.partial, bit),
            Mark::Whole | Mark::Behind => atomic::clear(words.partial, bit),
        };
        if matches!(mark, Mark::Whole | Mark::Partial) {
            atomic::clear(words.behind, bit);
        }
        if old == Mark::Whole {
            count.fetch_add(1u64, Relaxed);
        } else if mark == Mark::Whole {
            count.fetch_sub(1u64, Relaxed);
        }
    }

    /// The cluster has no pages: what the server has of it does not count.
    pub(super) fn is_empty(&self, replica: Replica, slot: u64) {
        let at = place(slot);
        if self.mark(replica, at) != Mark::Whole {
            let _changing = self.changing.lock();
            self.set_mark(replica, at, Mark::Whole);
        }
    }

    /// Of how many clusters a server is not whole.
    pub(crate) fn behind(&self, replica: Replica) -> u64 {
        let count = self.behind.get(index(replica));
        count.map_or(0, |count| count.load(Relaxed))
    }

    /// How many pages there are in the clusters of which a server is not whole: what it lacks is among them.
    pub(crate) fn pages_behind(&self, replica: Replica) -> u64 {
        let mut pages = 0;
        self.each_chunk(|_, chunk| {
            let Some(words) = words(chunk, replica) else {
                return;
            };
            let not_whole = words.behind.load(Relaxed) | words.partial.load(Relaxed);
            for (cluster, used) in chunk.used.iter().enumerate() {
                if not_whole >> cluster & 1 == 1 {
                    pages += u64::from(used.load(Relaxed));
                }
            }
        });
        pages
    }

    /// How many clusters a resync has made whole.
    pub(crate) fn refilled(&self, replica: Replica) -> u64 {
        let count = self.refilled.get(index(replica));
        count.map_or(0, |count| count.load(Relaxed))
    }

    /// Puts the first slots of clusters of which the server is not whole into `found`, of those that `mine`
    /// (by the cluster's number in its area) says; returns how many they are. Those from slot `next` on come
    /// first.
    pub(crate) fn find_behind(
        &self,
        replica: Replica,
        mine: impl Fn(u64) -> bool,
        next: u64,
        found: &mut [Slot],
    ) -> usize {
        let late = self.find_part(
            replica,
            |slot| slot >= next && mine(cluster_in_area(slot)),
            found,
        );
        let rest = found.get_mut(late..).unwrap_or(&mut []);
        let early = self.find_part(
            replica,
            |slot| slot < next && mine(cluster_in_area(slot)),
            rest,
        );
        late + early
    }

    fn find_part(
        &self,
        replica: Replica,
        wanted: impl Fn(u64) -> bool,
        found: &mut [Slot],
    ) -> usize {
        let mut count = 0;
        self.each_chunk(|first, chunk| {
            let Some(words) = words(chunk, replica) else {
                return;
            };
            let mut left = words.behind.load(Relaxed) | words.partial.load(Relaxed);
            while left != 0 {
                let bit = left.trailing_zeros();
                left &= left - 1;
                let slot = Slot(first + u64::from(bit) * u64::from(CLUSTER_SLOTS));
                let Some(place) = found.get_mut(count) else {
                    return;
                };
                if wanted(slot.0) {
                    *place = slot;
                    count += 1;
                }
            }
        });
        count
    }

    /// A server has lost its pages of the clusters that `mine` says: it is behind, to be refilled from the other. What that one lacks, where it
    /// is partial, is nowhere, and it says so (NOT_FOUND), which is an error and no other bytes. Where it is
    /// behind, all that this one had is lost, and this one says so.
    pub(crate) fn lost(&self, replica: Replica, mine: impl Fn(u64) -> bool) {
        if !self.mirrored {
            return;
        }
        self.each_chunk(|first, chunk| {
            for (cluster, used) in (0u64..).zip(&chunk.used) {
                let slot = first + cluster * u64::from(CLUSTER_SLOTS);
                if !mine(cluster_in_area(slot)) {
                    continue;
                }
                let at = place(slot);
                let _changing = self.changing.lock();
                let mark = match self.mark(replica.other(), at) {
                    Mark::Behind | Mark::Wiping => Mark::Whole,
                    _ if used.load(Relaxed) == 0 => Mark::Whole,
                    Mark::Partial => {
                        self.set_mark(replica.other(), at, Mark::Whole);
                        Mark::Behind
                    }
                    Mark::Whole => Mark::Behind,
                };
                self.set_mark(replica, at, mark);
            }
        });
    }
}

impl Clusters for Areas {
    fn standing(&self, replica: Replica, slot: Slot) -> Standing {
        if replica == Replica::Mirror && self.relay.is_on() {
            return Standing::Behind;
        }
        match self.mark(replica, place(slot.0)) {
            Mark::Whole => Standing::Whole,
            Mark::Behind | Mark::Wiping => Standing::Behind,
            Mark::Partial => Standing::Partial,
        }
    }

    fn fell_behind(&self, replica: Replica, slot: Slot) {
        let at = place(slot.0);
        let _changing = self.changing.lock();
        if self.mark(replica, at) != Mark::Wiping {
            self.set_mark(replica, at, Mark::Behind);
        }
        // The engine lets one fall behind only while the other is whole. If that is behind by now it
        // has lost all its pages: it holds no old ones, and says of those that it lacks that it does.
        if matches!(self.mark(replica.other(), at), Mark::Behind | Mark::Wiping) {
            self.set_mark(replica.other(), at, Mark::Whole);
        }
    }

    fn wiping(&self, replica: Replica, slot: Slot) {
        let at = place(slot.0);
        let _changing = self.changing.lock();
        if self.mark(replica, at) == Mark::Behind {
            self.set_mark(replica, at, Mark::Wiping);
        }
    }

    fn wiped(&self, replica: Replica, slot: Slot) -> bool {
        let at = place(slot.0);
        let _changing = self.changing.lock();
        let still = self.mark(replica, at) == Mark::Wiping;
        if still {
            self.set_mark(replica, at, Mark::Partial);
        }
        still
    }

    fn filled(&self, replica: Replica, slot: Slot) {
        let at = place(slot.0);
        let _changing = self.changing.lock();
        if self.mark(replica, at) == Mark::Partial {
            self.set_mark(replica, at, Mark::Whole);
            if let Some(count) = self.refilled.get(index(replica)) {
                count.fetch_add(1u64, Relaxed);
            }
        }
    }
}
