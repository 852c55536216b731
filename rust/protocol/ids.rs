// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The numbers and names that messages carry, each a type of its own so that none is taken for another.

use super::CLUSTER_SLOTS;

/// A place for one page in a client's region: the client chooses the numbers, the server treats them
/// as keys.
///
/// The kernel module uses `area << 48 | offset`, with the swap area's number and the page's offset
/// in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Slot(pub u64);

impl Slot {
    /// The number of the cluster that holds this slot.
    pub fn cluster(self) -> u64 {
        self.0 / u64::from(CLUSTER_SLOTS)
    }

    /// The place of this slot within its cluster, from 0 to 511.
    pub fn index(self) -> usize {
        // The remainder is below 512, so every bit of it is in the low two bytes.
        let [low, high, ..] = (self.0 % u64::from(CLUSTER_SLOTS)).to_le_bytes();
        usize::from(u16::from_le_bytes([low, high]))
    }

    /// Whether `count` slots from this one lie within one cluster. False for a count of zero.
    pub fn run_fits(self, count: u16) -> bool {
        count > 0 && self.index().saturating_add(usize::from(count)) <= usize::from(CLUSTER_SLOTS)
    }

    /// The slot `n` places on; `None` where the number would overflow.
    pub fn plus(self, n: u16) -> Option<Slot> {
        self.0.checked_add(u64::from(n)).map(Slot)
    }
}

/// The number of an operation that changes the store (STORE or FREE), counted up on each stream.
///
/// The first is 1. A resent operation keeps its number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Seq(pub u64);

/// What a client puts on a LOAD or PING to know its answer again; the server only repeats it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Tag(pub u64);

/// A server's life: random, and new at every start that did not recover the pages.
///
/// All zeroes stands for "none known yet" in a HELLO.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Instance(pub [u8; 16]);

/// A client's life: random, and new at every start of the client.
///
/// A new one in a HELLO frees what an earlier life left in the region; the same one resumes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Incarnation(pub [u8; 16]);
