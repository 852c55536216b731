// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A lane's part in a resync: it takes clusters of a replica from behind to whole.

use core::ops::DerefMut;

use super::super::protocol::{Slot, Status};
use super::asks::AskSlot;
use super::copies::CopySlot;
use super::lane::{takes_stores, Lane};
use super::loads::LoadSlot;
use super::ops::OpSlot;
use super::refill::{Phase, Refill};
use super::replica::{Clusters, Replica, Standing};

impl<L, CB, EB, OB, LB> Lane<L, CB, EB, OB, LB>
where
    L: Copy,
    CB: DerefMut<Target = [CopySlot]>,
    EB: DerefMut<Target = [AskSlot<L>]>,
    OB: DerefMut<Target = [OpSlot<u32>]>,
    LB: DerefMut<Target = [LoadSlot<u16>]>,
{
    /// Goes on with refilling this replica from the other one, and begins with those of `wanted` (each
    /// given by its first slot) that there is room for. It is to be called whenever an ACK or PULLED came.
    ///
    /// Only clusters of this lane of which the replica is behind or partial and the other one whole are
    /// begun with, and only while both are connected.
    pub fn refill(
        &mut self,
        replica: Replica,
        wanted: &[Slot],
        clusters: &impl Clusters,
        now_ms: u64,
    ) {
        let (Some(stream), Some(other)) = self.streams.split(replica) else {
            return;
        };
        if !takes_stores(stream) || !takes_stores(other) {
            return;
        }
        let refills = self.refills.at_mut(replica);
        let copies = &mut self.copies;
        refills.expire(now_ms);
        refills.each(|refill, tag| {
            let standing = clusters.standing(replica, refill.cluster);
            let phase = match refill.phase {
                Phase::Wiping(seq) if stream.executed() < seq => refill.phase,
                Phase::Wiping(_) if clusters.wiped(replica, refill.cluster) => {
                    // What it had acknowledged of stores that go on is gone with the rest.
                    other.each_store(|token| copies.wiped(token, replica, refill.cluster));
                    Phase::Settling(other.issued())
                }
                // It has been overtaken: by an empty cluster, or by a page that is missed now.
                Phase::Wiping(_) => return None,
                _ if standing != Standing::Partial => return None,
                Phase::Settling(seq) if other.has_answered(seq) => Phase::Asking(tag),
                phase => phase,
            };
            let since_ms = if phase == refill.phase {
                refill.since_ms
            } else {
                now_ms
            };
            Some(Refill {
                phase,
                since_ms,
                ..refill
            })
        });
        for &cluster in wanted {
            if !refills.takes(cluster)
                || clusters.standing(replica.other(), cluster) != Standing::Whole
            {
                continue;
            }
            let phase = match clusters.standing(replica, cluster) {
                Standing::Whole => continue,
                Standing::Partial => Phase::Settling(other.issued()),
                Standing::Behind => {
                    let Ok(seq) = stream.wipe(cluster) else {
                        return;
                    };
                    clusters.wiping(replica, cluster);
                    Phase::Wiping(seq)
                }
            };
            refills.add(Refill {
                cluster,
                phase,
                since_ms: now_ms,
            });
        }
    }

    /// How many clusters of this replica are being refilled.
    pub fn refills(&self, replica: Replica) -> usize {
        self.refills.at(replica).len()
    }

    /// Why the last PULL that this replica did not do failed, if one has since this was last asked.
    pub fn refill_failed(&mut self, replica: Replica) -> Option<Status> {
        self.refills.at_mut(replica).take_failure()
    }
}
