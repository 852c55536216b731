// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The two replicas of a lane: their names, what each holds of a cluster, and a pair of anything.

use super::super::protocol::Slot;

/// One of the servers that a lane stores to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replica {
    /// The one that is asked first.
    Primary,
    /// The other, if there is one.
    Mirror,
}

impl Replica {
    /// Both, the primary first.
    pub const BOTH: [Replica; 2] = [Replica::Primary, Replica::Mirror];

    /// The other one.
    pub fn other(self) -> Replica {
        match self {
            Replica::Primary => Replica::Mirror,
            Replica::Mirror => Replica::Primary,
        }
    }
}

/// What a replica holds of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The newest of every page.
    Whole,
    /// Of each page the newest or none: that it has none says only to ask the other.
    Partial,
    /// Perhaps older pages: it is neither asked nor stored to, until a resync has made it partial.
    Behind,
}

/// What the driver keeps of clusters. Called under the lane's lock, also with interrupts off: it only
/// reads and sets atomic bits.
///
/// Where only one replica is configured it is always [`Standing::Whole`].
pub trait Clusters {
    /// What the replica holds of the slot's cluster.
    fn standing(&self, replica: Replica, slot: Slot) -> Standing;

    /// The replica has missed a store of this slot, or does not give its page back: from now on it is
    /// behind for the cluster. It may be so already.
    fn fell_behind(&self, replica: Replica, slot: Slot);

    /// All that the replica, which is behind for the slot's cluster, has of it is about to be freed there. It
    /// stays behind.
    fn wiping(&self, replica: Replica, slot: Slot);

    /// That was done: the replica is partial, if it was behind ever since. Returns whether it is. (It may have
    /// been whole for a time, the cluster being empty; what it was sent then may be old by now.)
    fn wiped(&self, replica: Replica, slot: Slot) -> bool;

    /// The replica has fetched what it lacked: it is whole if it is partial, and nothing else than it was.
    fn filled(&self, replica: Replica, slot: Slot);
}

/// Something for each of the replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Both<T> {
    pub(super) primary: T,
    pub(super) mirror: T,
}

impl<T> Both<T> {
    pub(super) fn at(&self, replica: Replica) -> &T {
        match replica {
            Replica::Primary => &self.primary,
            Replica::Mirror => &self.mirror,
        }
    }

    pub(super) fn at_mut(&mut self, replica: Replica) -> &mut T {
        self.split(replica).0
    }

    /// The replica's own, and the other's.
    pub(super) fn split(&mut self, replica: Replica) -> (&mut T, &mut T) {
        match replica {
            Replica::Primary => (&mut self.primary, &mut self.mirror),
            Replica::Mirror => (&mut self.mirror, &mut self.primary),
        }
    }
}
