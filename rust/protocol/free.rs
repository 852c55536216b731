// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The payload of FREE: which slots of one cluster are to be freed.

use super::{Slot, CLUSTER_SLOTS};

/// One bit for each slot of a cluster; a set bit frees the slot.
///
/// A mask says any pattern in 64 bytes, where ranges would need up to 256 records, and it is
/// idempotent. Bit `i` is bit `i % 8` of byte `i / 8`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FreeMask(pub [u8; Self::LEN]);

impl FreeMask {
    /// Bytes in the payload.
    pub const LEN: usize = 64;

    /// Nothing to free.
    pub const EMPTY: FreeMask = FreeMask([0; Self::LEN]);

    /// Every slot of the cluster.
    pub const ALL: FreeMask = FreeMask([0xff; Self::LEN]);

    /// The mask of 512 bits in eight words, bit `i` being bit `i % 64` of word `i / 64`.
    pub fn from_words(words: [u64; 8]) -> FreeMask {
        let mut mask = [0; Self::LEN];
        for (out, word) in mask.chunks_exact_mut(8).zip(words) {
            out.copy_from_slice(&word.to_le_bytes());
        }
        FreeMask(mask)
    }

    /// Adds the slot with this place in the cluster; a place past the end is ignored.
    pub fn insert(&mut self, index: usize) {
        if let Some(byte) = self.0.get_mut(index / 8) {
            *byte |= 1 << (index % 8);
        }
    }

    /// Whether the slot with this place in the cluster is to be freed.
    pub fn contains(&self, index: usize) -> bool {
        self.0
            .get(index / 8)
            .is_some_and(|byte| byte & (1 << (index % 8)) != 0)
    }

    /// Whether there is nothing to free.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&byte| byte == 0)
    }

    /// The places to free, rising.
    pub fn indices(&self) -> impl Iterator<Item = usize> + '_ {
        (0..usize::from(CLUSTER_SLOTS)).filter(|&i| self.contains(i))
    }

    /// The first slot of the cluster that `slot` lies in, as FREE's header names it.
    pub fn base(slot: Slot) -> Slot {
        Slot(slot.cluster().saturating_mul(u64::from(CLUSTER_SLOTS)))
    }
}
