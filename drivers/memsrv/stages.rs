// SPDX-License-Identifier: GPL-2.0-only

//! Where the time of a fault goes: of the loads that a task asks for alone and waits for.
//!
//! | stage | from | to |
//! |---|---|---|
//! | hand | the hook's call | its LOAD is in the batch that TCP is given next |
//! | answer | there | the header of its page is read: TCP, the network both ways, the server |
//! | fill | there | the page is in its folio, and its checksum looked at |
//!
//! What follows, until the task goes on, is the kernel's. Of the LOADs that are in flight on a connection at once only
//! the last is looked at: a lone one always is.

use super::areas::index;
use super::engine::Replica;
use super::platform::sys;
use super::protocol::Tag;
use super::stats::Log2;
use super::table::{LoadEntry, Target};

/// The last LOAD that was handed to TCP on the connection to each server.
#[derive(Clone, Copy, Default)]
pub(crate) struct Handed([(u64, u64); Replica::BOTH.len()]);

impl Handed {
    /// This one, now.
    pub(crate) fn note(&mut self, replica: Replica, tag: Tag) {
        if let Some(last) = self.0.get_mut(index(replica)) {
            *last = (tag.0, sys::now_ns());
        }
    }

    /// The page of a load comes in. `None` if nobody waits for just that, or other LOADs followed it.
    pub(crate) fn came(&self, replica: Replica, tag: Tag, entry: &LoadEntry) -> Option<Came> {
        let waits = entry.alone && matches!(entry.target, Target::Folio(_));
        match self.0.get(index(replica)) {
            Some(&(last, handed_ns)) if waits && last == tag.0 => Some(Came {
                handed_ns,
                at_ns: sys::now_ns(),
            }),
            _ => None,
        }
    }
}

/// When a LOAD was handed to TCP, and its answer came.
#[derive(Clone, Copy)]
pub(crate) struct Came {
    handed_ns: u64,
    at_ns: u64,
}

/// One stage of all of them.
#[derive(Clone, Copy, Default)]
pub(crate) struct Stage {
    ns: u64,
    log2: Log2,
}

impl Stage {
    fn add(&mut self, ns: u64) {
        self.ns = self.ns.wrapping_add(ns);
        self.log2.add(ns);
    }

    fn merge(&mut self, other: &Stage) {
        self.ns = self.ns.wrapping_add(other.ns);
        self.log2.merge(&other.log2);
    }
}

/// How long each stage took.
#[derive(Clone, Copy, Default)]
pub(crate) struct Stages {
    faults: u64,
    hand: Stage,
    answer: Stage,
    fill: Stage,
}

impl Stages {
    /// A load has ended.
    pub(crate) fn ended(&mut self, entry: &LoadEntry, now_ns: u64) {
        let Some(came) = entry.came else {
            return;
        };
        self.faults += 1;
        self.hand.add(came.handed_ns.saturating_sub(entry.asked_ns));
        self.answer.add(came.at_ns.saturating_sub(came.handed_ns));
        self.fill.add(now_ns.saturating_sub(came.at_ns));
    }

    pub(crate) fn merge(&mut self, other: &Stages) {
        self.faults += other.faults;
        self.hand.merge(&other.hand);
        self.answer.merge(&other.answer);
        self.fill.merge(&other.fill);
    }

    /// Writes the lines.
    pub(crate) fn write(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        writeln!(f, "faults_timed {}", self.faults)?;
        let stages = [
            ("hand", &self.hand),
            ("answer", &self.answer),
            ("fill", &self.fill),
        ];
        for (name, stage) in stages {
            writeln!(f, "fault_{name}_ns {}", stage.ns)?;
            writeln!(f, "fault_{name}_ns_log2 {}", stage.log2)?;
        }
        Ok(())
    }
}
