// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The clusters of a replica that are being refilled from the other one. See the module's description.

use super::super::protocol::{Seq, Slot, Status, Tag};

/// How long a server may take for a PULL, in milliseconds; longer than any that means well does.
const PULL_MS: u64 = 120_000;

/// The most clusters of a replica that are refilled at a time on a lane.
///
/// It bounds what a lane remembers of it, and how many stores go to a half-filled replica; a few are
/// enough to keep the servers busy while answers travel.
pub const REFILLS: usize = 8;

/// A cluster on its way from behind to whole.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refill {
    pub(super) cluster: Slot,
    pub(super) phase: Phase,
    /// When the phase began, in milliseconds of the caller's clock.
    pub(super) since_ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// The FREE of every slot that has this number is not acknowledged yet.
    Wiping(Seq),
    /// The other replica has not answered everything up to this number yet.
    Settling(Seq),
    /// The PULL is to be sent.
    Asking(Tag),
    /// The PULL was sent on this connection.
    Pulling(Tag),
}

/// What is being refilled of one replica.
#[derive(Debug)]
pub(super) struct Refills {
    entries: [Option<Refill>; REFILLS],
    tag: Tag,
    failed: Option<Status>,
}

impl Refills {
    pub(super) const fn new() -> Self {
        Self {
            entries: [None; REFILLS],
            tag: Tag(0),
            failed: None,
        }
    }

    /// The connection is gone, and with it every PULL: all is begun anew on the next.
    pub(super) fn disconnected(&mut self) {
        self.entries = [None; REFILLS];
        self.failed = None;
    }

    pub(super) fn len(&self) -> usize {
        self.entries.iter().flatten().count()
    }

    /// Whether a cluster can be added.
    pub(super) fn takes(&self, cluster: Slot) -> bool {
        let known = |refill: &Refill| refill.cluster == cluster;
        self.len() < REFILLS && !self.entries.iter().flatten().any(known)
    }

    pub(super) fn add(&mut self, refill: Refill) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.is_none()) {
            *entry = Some(refill);
        }
    }

    /// Lets `change` have its way with each, given a tag that no PULL has had; what it gives back is the
    /// entry from then on.
    pub(super) fn each(&mut self, mut change: impl FnMut(Refill, Tag) -> Option<Refill>) {
        for entry in &mut self.entries {
            self.tag = Tag(self.tag.0.wrapping_add(1));
            let tag = self.tag;
            *entry = entry.and_then(|refill| change(refill, tag));
        }
    }

    pub(super) fn has_output(&self) -> bool {
        let asking = |refill: &Refill| matches!(refill.phase, Phase::Asking(_));
        self.entries.iter().flatten().any(asking)
    }

    /// The next PULL to send, from now on sent.
    pub(super) fn next(&mut self) -> Option<(Tag, Slot)> {
        self.entries.iter_mut().flatten().find_map(|refill| {
            let Phase::Asking(tag) = refill.phase else {
                return None;
            };
            refill.phase = Phase::Pulling(tag);
            Some((tag, refill.cluster))
        })
    }

    /// A PULL has ended; returns the cluster if that has all its pages now. Others than those that were sent
    /// on this connection count for nothing.
    pub(super) fn pulled(&mut self, tag: Tag, slot: Slot, status: Option<Status>) -> Option<Slot> {
        let wanted =
            |refill: &Refill| refill.phase == Phase::Pulling(tag) && refill.cluster == slot;
        let entry = self
            .entries
            .iter_mut()
            .find(|entry| entry.as_ref().is_some_and(wanted))?;
        let refill = entry.take()?;
        self.failed = status.or(self.failed);
        // What came damaged is damaged where it is whole: those pages are nowhere, and one more attempt
        // would not give them.
        let over = matches!(status, None | Some(Status::BadChecksum));
        over.then_some(refill.cluster)
    }

    /// Gives up the PULLs that were never answered: the server has forgotten them.
    pub(super) fn expire(&mut self, now_ms: u64) {
        for entry in &mut self.entries {
            let late = |refill: &Refill| {
                matches!(refill.phase, Phase::Pulling(_))
                    && now_ms.saturating_sub(refill.since_ms) > PULL_MS
            };
            if entry.as_ref().is_some_and(late) {
                *entry = None;
                self.failed = Some(Status::Unreachable);
            }
        }
    }

    /// The server does not know what a PULL is.
    pub(super) fn unknown(&mut self) {
        self.entries = [None; REFILLS];
        self.failed = Some(Status::UnknownOp);
    }

    pub(super) fn take_failure(&mut self) -> Option<Status> {
        self.failed.take()
    }
}
