// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! When a fault comes: the columns of the matrix.

/// A moment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// A program writes all its pages again and again, more of them than it has room for.
    Eviction,
    /// It reads them, all over its memory.
    Faults,
    /// The swap area is switched off.
    Swapoff,
    /// A server that came back is filled by the other.
    Resync,
}

impl Moment {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Eviction, Self::Faults, Self::Swapoff, Self::Resync];

    /// In names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Eviction => "eviction",
            Self::Faults => "faults",
            Self::Swapoff => "swapoff",
            Self::Resync => "resync",
        }
    }

    /// For people.
    pub fn about(self) -> &'static str {
        match self {
            Self::Eviction => "under eviction",
            Self::Faults => "under faults",
            Self::Swapoff => "during swapoff",
            Self::Resync => "during resync",
        }
    }

    /// What the program does meanwhile, over and over. Every third page is written by a `rewrite`.
    pub fn orders(self) -> &'static [&'static str] {
        match self {
            Self::Eviction => &["rewrite", "rewrite", "rewrite", "verify"],
            Self::Faults => &["shuffled"],
            // Another program than the one that swapoff reads back.
            Self::Swapoff | Self::Resync => &["rewrite", "shuffled"],
        }
    }
}
