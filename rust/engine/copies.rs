// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The stores of a lane that have not completed: for each, how it stands with either replica.

use core::ops::DerefMut;

use super::super::protocol::{Slot, Status};
use super::replica::{Both, Clusters, Replica, Standing};
use super::types::StoreError;

/// The place of one store; the caller supplies one per token, filled with [`CopySlot::EMPTY`].
#[derive(Clone, Copy, Debug)]
pub struct CopySlot {
    copy: Option<Entry>,
}

impl CopySlot {
    /// No store.
    pub const EMPTY: Self = CopySlot { copy: None };
}

impl Default for CopySlot {
    fn default() -> Self {
        Self::EMPTY
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    slot: Slot,
    parts: Both<Part>,
}

/// How a store stands with a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// The replica does not hold it, or not for certain.
    Missed,
    /// The same, and the driver was told that the replica fell behind.
    Told,
    /// In the replica's stream.
    Pending,
    /// Acknowledged, on the connection that still is.
    Stored,
    Refused(Status),
}

/// The table, indexed by the caller's tokens.
#[derive(Debug)]
pub(super) struct Copies<B> {
    buf: B,
    mirrored: bool,
    /// Whether a store counts only when all replicas hold it.
    strict: bool,
    len: usize,
}

impl<B: DerefMut<Target = [CopySlot]>> Copies<B> {
    pub(super) fn new(mut buf: B, mirrored: bool, strict: bool) -> Self {
        buf.fill(CopySlot::EMPTY);
        Self {
            buf,
            mirrored,
            strict: strict && mirrored,
            len: 0,
        }
    }

    /// How many stores have not completed.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_strict(&self) -> bool {
        self.strict
    }

    pub(super) fn configured(&self) -> impl Iterator<Item = Replica> {
        let count = if self.mirrored { 2 } else { 1 };
        Replica::BOTH.into_iter().take(count)
    }

    /// Whether the token is one, and of no store in flight.
    pub(super) fn is_free(&self, token: u32) -> bool {
        place(token)
            .and_then(|place| self.buf.get(place))
            .is_some_and(|entry| entry.copy.is_none())
    }

    /// Begins a store under a free token, whose parts are pending or missed.
    pub(super) fn begin(
        &mut self,
        token: u32,
        slot: Slot,
        parts: Both<Part>,
        clusters: &impl Clusters,
    ) {
        let mut copy = Entry { slot, parts };
        for replica in self.configured() {
            if *copy.parts.at(replica) == Part::Missed {
                self.tell(replica, &mut copy, clusters);
            }
        }
        if let Some(entry) = place(token).and_then(|place| self.buf.get_mut(place)) {
            entry.copy = Some(copy);
            self.len = self.len.saturating_add(1);
        }
    }

    pub(super) fn part(&self, token: u32, replica: Replica) -> Part {
        self.get(token)
            .map_or(Part::Missed, |copy| *copy.parts.at(replica))
    }

    /// The replica has answered; returns the store's end, if this is it.
    pub(super) fn answered(
        &mut self,
        token: u32,
        replica: Replica,
        part: Part,
        clusters: &impl Clusters,
    ) -> Option<Result<(), StoreError>> {
        self.set(token, replica, part);
        self.end(token, clusters)
    }

    /// The replica's connection is gone: what it has acknowledged it may not hold when it comes back.
    pub(super) fn forget_stored(&mut self, token: u32, replica: Replica) {
        if self.part(token, replica) == Part::Stored {
            self.set(token, replica, Part::Missed);
        }
    }

    /// All that the replica had of the cluster was freed. A store of it that is still pending on the other one
    /// counts as missed here, and the driver knows of it: the PULL waits for that store.
    pub(super) fn wiped(&mut self, token: u32, replica: Replica, cluster: Slot) {
        let same = |copy: &Entry| copy.slot.cluster() == cluster.cluster();
        if self.get(token).is_some_and(same) && self.part(token, replica) == Part::Stored {
            self.set(token, replica, Part::Told);
        }
    }

    /// Whether a store that is pending on an unconnected replica has nothing to wait for there:
    /// the other one, connected or not, carries on alone, or it cannot succeed any more.
    pub(super) fn leaves(
        &self,
        token: u32,
        replica: Replica,
        other_is_up: bool,
        clusters: &impl Clusters,
    ) -> bool {
        let Some(copy) = self.get(token) else {
            return true;
        };
        if clusters.standing(replica, copy.slot) == Standing::Behind {
            return true;
        }
        other_is_up
            && match copy.parts.at(replica.other()) {
                Part::Pending | Part::Stored => self.may_leave(replica, copy.slot, clusters),
                Part::Refused(_) => true,
                Part::Missed | Part::Told => false,
            }
    }

    /// Takes a store from a replica; returns the store's end, if this is it.
    pub(super) fn leave(
        &mut self,
        token: u32,
        replica: Replica,
        clusters: &impl Clusters,
    ) -> Option<Result<(), StoreError>> {
        let mut copy = *self.get(token)?;
        *copy.parts.at_mut(replica) = Part::Missed;
        if !matches!(copy.parts.at(replica.other()), Part::Refused(_)) {
            self.tell(replica, &mut copy, clusters);
        }
        self.set(token, replica, *copy.parts.at(replica));
        self.end(token, clusters)
    }

    /// Whether a replica may miss a store of this slot: pages that only it has would be out of reach.
    pub(super) fn may_leave(&self, replica: Replica, slot: Slot, clusters: &impl Clusters) -> bool {
        self.strict
            || clusters.standing(replica, slot) == Standing::Behind
            || clusters.standing(replica.other(), slot) == Standing::Whole
    }

    /// Tells the driver that the replica has missed the store. What is strict is forgotten on both
    /// replicas instead.
    fn tell(&self, replica: Replica, copy: &mut Entry, clusters: &impl Clusters) {
        if !self.strict {
            clusters.fell_behind(replica, copy.slot);
            *copy.parts.at_mut(replica) = Part::Told;
        }
    }

    /// Ends a store that is pending nowhere.
    fn end(&mut self, token: u32, clusters: &impl Clusters) -> Option<Result<(), StoreError>> {
        let entry = self.buf.get_mut(place(token)?)?;
        let mut copy = entry.copy?;
        let mut parts = [copy.parts.primary, copy.parts.mirror].into_iter();
        if parts.any(|part| part == Part::Pending) {
            return None;
        }
        entry.copy = None;
        self.len = self.len.saturating_sub(1);
        let refused = |part| match part {
            Part::Refused(status) => Some(status),
            _ => None,
        };
        let refused = refused(copy.parts.primary).or(refused(copy.parts.mirror));
        Some(match refused {
            Some(status) => Err(StoreError::Refused(status)),
            None if self.is_held(&mut copy, clusters) => Ok(()),
            None => Err(StoreError::Expired),
        })
    }

    /// Whether a replica holds the page where it will be found; tells of the one that does not.
    fn is_held(&self, copy: &mut Entry, clusters: &impl Clusters) -> bool {
        let slot = copy.slot;
        let found = |replica: Replica| {
            *copy.parts.at(replica) == Part::Stored
                && clusters.standing(replica, slot) != Standing::Behind
        };
        if !self.configured().any(found) {
            return false;
        }
        for replica in self.configured() {
            // A replica that was told of and is partial by now gets the page by its PULL, which waits for us.
            let known = || clusters.standing(replica, slot) != Standing::Whole;
            match copy.parts.at(replica) {
                Part::Stored => {}
                _ if self.strict => return false,
                Part::Told if known() => {}
                _ if self.may_leave(replica, slot, clusters) => {
                    self.tell(replica, copy, clusters);
                }
                _ => return false,
            }
        }
        true
    }

    fn get(&self, token: u32) -> Option<&Entry> {
        self.buf.get(place(token)?)?.copy.as_ref()
    }

    fn set(&mut self, token: u32, replica: Replica, part: Part) {
        let entry = place(token).and_then(|place| self.buf.get_mut(place));
        if let Some(copy) = entry.and_then(|entry| entry.copy.as_mut()) {
            *copy.parts.at_mut(replica) = part;
        }
    }
}

fn place(token: u32) -> Option<usize> {
    usize::try_from(token).ok()
}
