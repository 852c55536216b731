// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How pages are kept: the tables of the matrix.

use qemu_test_wire::MIRROR_ADDRESS;

use super::fault::Who;

/// A way of keeping pages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// On one server.
    None,
    /// On two, each page written to both by the client.
    Dual,
    /// On two, the primary sends each page on.
    Forwarded,
    /// On one, and on the disk.
    Through,
    /// On one, which keeps them on its disk, too.
    Persist,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::None,
        Self::Dual,
        Self::Forwarded,
        Self::Through,
        Self::Persist,
    ];

    /// Whether there is a second server.
    pub fn is_mirrored(self) -> bool {
        matches!(self, Self::Dual | Self::Forwarded)
    }

    /// In names.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Dual => "dual",
            Self::Forwarded => "forwarded",
            Self::Through => "through",
            Self::Persist => "persist",
        }
    }

    /// For people.
    pub fn about(self) -> &'static str {
        match self {
            Self::None => "no mirror",
            Self::Dual => "dual writes",
            Self::Forwarded => "forwarded",
            Self::Through => "disk=through",
            Self::Persist => "persist",
        }
    }

    /// What the module is loaded with.
    pub fn parameters(self) -> String {
        match self {
            Self::None | Self::Persist | Self::Forwarded => String::new(),
            Self::Dual => format!("mirror={MIRROR_ADDRESS}"),
            Self::Through => "disk=through".to_owned(),
        }
    }

    /// What that server is started with; `life` names the directory that it keeps its pages in.
    pub fn arguments(self, who: Who, life: &str) -> Vec<String> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        match (self, who) {
            (Self::Persist, _) => words(&["--persist", &format!("@{life}"), "--persist-ack"]),
            (Self::Forwarded, Who::Primary) => words(&["--mirror", MIRROR_ADDRESS]),
            _ => Vec::new(),
        }
    }
}
