// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A lane's connection that only reads: to a replica that is fed by the other one, which forwards to it.
//!
//! To all that stores, frees and refills, the replica is not connected. Loads may be asked of it, and what it answers
//! counts if it has said before, to the REACH that goes ahead of each LOAD, that it has come as far as the other one
//! had acknowledged when the load was asked. The page that is wanted is among that, so that it has the newest; for the
//! other one acknowledges nothing as done that this one has refused, until [`Lane::dismiss`]. It does
//! not matter why a replica has not come so far, or further than anything that was issued: it may have started anew, be
//! another one, have lost the other's connection; it or this machine may have been set back to an earlier state.

use core::ops::DerefMut;

use super::super::protocol::{Seq, Slot, Tag};
use super::asks::{Ask, AskSlot, Load};
use super::copies::CopySlot;
use super::lane::Lane;
use super::loads::LoadSlot;
use super::ops::OpSlot;
use super::replica::{Clusters, Replica, Standing};
use super::types::{Completion, Fault};

impl<L, CB, EB, OB, LB> Lane<L, CB, EB, OB, LB>
where
    L: Copy,
    CB: DerefMut<Target = [CopySlot]>,
    EB: DerefMut<Target = [AskSlot<L>]>,
    OB: DerefMut<Target = [OpSlot<u32>]>,
    LB: DerefMut<Target = [LoadSlot<u16>]>,
{
    /// The handshake of a connection that only reads is done, with a replica that is fed by the other one: whatever
    /// that has acknowledged on this stream as done, this one has done before. `window` as for [`Lane::connected`].
    ///
    /// What waits for the other one, unconnected, and can be asked here leaves that at once. [`Lane::disconnected`] ends
    /// it.
    pub fn attached(
        &mut self,
        replica: Replica,
        window: u32,
        clusters: &impl Clusters,
        now_ms: u64,
        done: &mut impl FnMut(Completion<u32, L>),
    ) {
        self.disconnected(replica, clusters, now_ms, done);
        if let Some(stream) = self.streams.at_mut(replica) {
            stream.attached(window);
        }
        self.leave_unconnected(replica.other(), false, clusters, now_ms, done);
    }

    /// The other one may acknowledge from now on what this replica, whose connection only reads, has not done. Nothing
    /// more is asked of it on this connection; what it was asked before it may still answer. To be called before the
    /// next acknowledgement of the other one is taken in.
    pub fn dismiss(&mut self, replica: Replica) {
        if let Some(stream) = self.streams.at_mut(replica) {
            stream.dismiss();
        }
    }

    /// Whether there is a connection to this replica that only reads.
    pub fn is_attached(&self, replica: Replica) -> bool {
        let stream = self.stream(replica);
        stream.is_some_and(|stream| stream.is_attached())
    }

    /// Whether loads can be sent to this replica now.
    pub(super) fn answers(&self, replica: Replica) -> bool {
        let stream = self.stream(replica);
        stream.is_some_and(|stream| stream.is_connected())
    }

    /// Whether this replica may be asked for a slot.
    pub(super) fn may_ask(&self, replica: Replica, slot: Slot, clusters: &impl Clusters) -> bool {
        let stream = self.stream(replica).filter(|stream| stream.is_attached());
        stream.map_or_else(
            || clusters.standing(replica, slot) != Standing::Behind,
            |stream| stream.is_asked(),
        )
    }

    /// How far this replica has to have come for its answer to a load that is asked now to count; `None` where that
    /// is known.
    pub(super) fn needs(&self, replica: Replica) -> Option<Seq> {
        self.is_attached(replica)
            .then(|| self.executed(replica.other()))
    }

    /// A replica says how far it has come, ahead of its answer to a load.
    pub(super) fn reached(
        &mut self,
        replica: Replica,
        tag: Tag,
        seq: Seq,
        clusters: &impl Clusters,
        now_ms: u64,
    ) -> Result<Option<Completion<u32, L>>, Fault> {
        let issued = self.issued(replica.other());
        let Some(stream) = self.stream(replica).filter(|stream| stream.is_attached()) else {
            return Ok(None);
        };
        let number = stream.asked(tag).ok_or(Fault::TagUnknown { tag })?;
        let reached = |load: &mut Load<L>| load.reached(replica, seq, issued);
        self.asks.change(number, reached);
        // If that is of no use, the other one is asked.
        Ok(self.pursue(number, None, clusters, now_ms))
    }
}

impl<L: Copy> Load<L> {
    /// The replica has executed all up to this number, of those that were issued.
    fn reached(&mut self, replica: Replica, seq: Seq, issued: Seq) {
        if let Ask::Pending { useful, needs, .. } = self.asks.at_mut(replica) {
            match *needs {
                Some(least) if least <= seq && seq <= issued => *needs = None,
                Some(_) => *useful = false,
                None => {}
            }
        }
    }
}
