// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Acknowledgements that wait for the disk.
//!
//! An ACK covers all before it, so two are enough: the one that is waited for, and the newest behind it.

use memsrv_protocol::Seq;

use super::{Persist, Settled};

/// What one connection is owed: operation numbers, each with where the log must be on the disk.
#[derive(Debug, Default)]
pub struct Promises {
    first: Option<(u64, Seq)>,
    newest: Option<(u64, Seq)>,
}

/// The disk failed: what was promised will not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

impl Promises {
    /// `seq` is to be acknowledged once the log is on the disk up to `pos`.
    pub fn add(&mut self, pos: u64, seq: Seq) {
        match self.first {
            None => self.first = Some((pos, seq)),
            Some(_) => self.newest = Some((pos, seq)),
        }
    }

    /// The number to acknowledge now, if there is one.
    ///
    /// # Errors
    ///
    /// [`Broken`].
    pub fn settle(&mut self, persist: &Persist) -> Result<Option<Seq>, Broken> {
        let mut done = None;
        while let Some((pos, seq)) = self.first {
            match persist.settled(pos) {
                Settled::Yes => done = Some(seq),
                Settled::NotYet => break,
                Settled::Never => return Err(Broken),
            }
            self.first = self.newest.take();
        }
        Ok(done)
    }

    /// Whether settling would change something.
    pub fn is_ripe(&self, persist: &Persist) -> bool {
        self.first
            .is_some_and(|(pos, _)| persist.settled(pos) != Settled::NotYet)
    }

    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}
