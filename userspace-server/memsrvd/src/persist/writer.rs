// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The thread that writes the log: takes all that waits, writes it, syncs once, says so, looks again.
//!
//! So the groups are as large as the disk is slow, and one that nobody waits with is written alone.
//! A failed write or sync is final ([`Health::Failed`]). The log must then not be resumed by the next start, for
//! the server goes on to free pages that it still has: the writer says so in the head file, and until the
//! disk has that, frees are not acknowledged.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::compact::{is_due, over, Compaction};
use super::disk::is_full;
use super::segments::Segments;
use super::{Health, Persist};
use crate::arena::lock;
use crate::num::to_u64;
use crate::regions::Shared;

/// How often something that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The writer's state.
pub struct Writer {
    shared: Arc<Shared>,
    persist: Arc<Persist>,
    segments: Segments,
    /// What is being written.
    back: Vec<u8>,
    compaction: Option<Compaction>,
}

impl Writer {
    /// A writer of that log. `None`: the server keeps none.
    pub fn new(shared: Arc<Shared>, segments: Segments) -> Option<Writer> {
        let persist = shared.persist.clone()?;
        let back = lock(&persist.queue).spare();
        let writer = Writer {
            shared,
            persist,
            segments,
            back,
            compaction: None,
        };
        writer.count();
        Some(writer)
    }

    /// Writes until told to stop, and then to the end of what waits; true if the log is whole then.
    pub fn run(mut self) -> bool {
        while self.wait() {
            self.step();
        }
        self.close()
    }

    /// Waits until there is something to do; false when it is to end.
    fn wait(&mut self) -> bool {
        let busy = self.compaction.is_some();
        let mut queue = lock(&self.persist.queue);
        loop {
            let timeout = match self.persist.health() {
                _ if queue.stop => return false,
                Health::Good if busy || !queue.is_empty() => return true,
                Health::Full if !queue.is_empty() => return true,
                // Nothing will ever be written.
                Health::Withdrawn | Health::Good => None,
                Health::Full | Health::Failed => Some(RETRY),
            };
            queue.asleep = true;
            let more = &self.persist.more;
            queue = match timeout {
                None => more
                    .wait(queue)
                    .unwrap_or_else(std::sync::PoisonError::into_inner),
                Some(timeout) => {
                    let waited = more.wait_timeout(queue, timeout);
                    let (mut queue, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
                    queue.asleep = false;
                    return !queue.stop;
                }
            };
            queue.asleep = false;
        }
    }

    /// Writes one group, of what waits now; false if there was nothing to do.
    pub fn step(&mut self) -> bool {
        match self.persist.health() {
            Health::Withdrawn => return false,
            Health::Failed => {
                self.withdraw();
                return false;
            }
            Health::Full | Health::Good => {}
        }
        let compacted = self.compact();
        let (cut, end) = {
            let mut queue = lock(&self.persist.queue);
            (queue.swap(&mut self.back), queue.end())
        };
        let wrote = !self.back.is_empty() || cut.is_some();
        let result = compacted
            .and_then(|()| self.group(cut, end))
            .and_then(|()| self.tend());
        self.back.clear();
        if let Err(error) = result {
            self.fail(&error);
        }
        self.count();
        wrote
    }

    /// Writes and syncs what was taken out of the queue.
    fn group(&mut self, cut: Option<usize>, end: u64) -> io::Result<()> {
        let started = Instant::now();
        let at = cut.unwrap_or(self.back.len());
        let (before, behind) = self.back.split_at_checked(at).unwrap_or((&self.back, &[]));
        if self.back.is_empty() && cut.is_none() {
            return Ok(());
        }
        if !before.is_empty() {
            self.segments.append(before)?;
        }
        if cut.is_some() {
            self.segments.rotate()?;
            if let Some(compaction) = &mut self.compaction {
                compaction.segment = Some(self.segments.current());
            }
            if !behind.is_empty() {
                self.segments.append(behind)?;
            }
        }
        self.segments.sync()?;
        let counters = &self.persist.counters;
        let took = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        counters.sync_us.store(took, Ordering::Relaxed);
        counters.syncs.fetch_add(1, Ordering::Relaxed);
        // `end` was taken with the records: what came since is in the other buffer.
        lock(&self.persist.queue).durable = end;
        self.persist.durable.store(end, Ordering::SeqCst);
        self.persist.news();
        Ok(())
    }

    /// What is to be done beside: a segment kept ready, old ones dropped.
    fn tend(&mut self) -> io::Result<()> {
        if self.segments.wants_spare() || self.persist.health() == Health::Full {
            self.make_spare()?;
        }
        let durable = self.persist.durable.load(Ordering::SeqCst);
        let done = self.compaction.as_ref().and_then(|compaction| {
            let end = compaction.end.filter(|&end| end <= durable)?;
            let first = compaction.segment?;
            Some((first, end))
        });
        if let Some((first, _)) = done {
            self.segments.drop_before(first)?;
            self.compaction = None;
            over(&self.persist, true);
            let (files, bytes) = self.segments.size();
            tracing::debug!(files, bytes, "log compacted");
        }
        Ok(())
    }

    /// Makes the next segment; where there is no room for it the log is full, which is no failure.
    fn make_spare(&mut self) -> io::Result<()> {
        let was_full = self.persist.health() == Health::Full;
        match self.segments.make_spare() {
            Ok(()) if was_full => {
                tracing::info!("the log has room again; stores are taken");
                self.persist.set_health(Health::Good);
            }
            Err(error) if !is_full(&error) => return Err(error),
            Err(error) if !was_full => {
                tracing::error!(%error, "no room on the disk for the log: stores are refused until \
                    there is; loads and frees go on");
                self.persist.set_health(Health::Full);
            }
            _ => {}
        }
        Ok(())
    }

    /// Lets a compaction go on, or begins one.
    fn compact(&mut self) -> io::Result<()> {
        if let Some(compaction) = &mut self.compaction {
            compaction.advance(&self.persist);
            return Ok(());
        }
        let segment = self.segments.segment_len();
        if is_due(&self.shared, self.segments.size(), segment) {
            // It begins in a segment of its own.
            self.make_spare()?;
            if self.persist.health() == Health::Good {
                self.compaction = Compaction::begin(&self.shared, &self.persist);
            }
        }
        Ok(())
    }

    fn fail(&mut self, error: &io::Error) {
        tracing::error!(%error, "the log cannot be written; nothing more is written to it, stores are \
            refused, loads go on; put the disk right and start the server anew");
        self.persist.set_health(Health::Failed);
        if self.compaction.take().is_some() {
            over(&self.persist, false);
        }
        self.persist.news();
        self.withdraw();
    }

    fn withdraw(&mut self) {
        match self.segments.withdraw() {
            Ok(()) => {
                tracing::warn!(
                    "the log says that it must not be resumed: the pages will be lost when \
                    the server stops"
                );
                self.persist.set_health(Health::Withdrawn);
                self.persist.news();
            }
            Err(error) => {
                tracing::warn!(%error, "cannot say in the log that it must not be resumed; \
                until that is said frees are not acknowledged")
            }
        }
    }

    fn count(&self) {
        let (files, bytes) = self.segments.size();
        let counters = &self.persist.counters;
        counters.segments.store(files, Ordering::Relaxed);
        counters.bytes.store(bytes, Ordering::Relaxed);
    }

    /// Writes what waits, and says that the log is whole; whether it is.
    pub fn close(mut self) -> bool {
        if self.compaction.take().is_some() {
            over(&self.persist, false);
        }
        while !lock(&self.persist.queue).is_empty() && self.step() {}
        let waits = !lock(&self.persist.queue).is_empty();
        match self.persist.health() {
            Health::Good | Health::Full if !waits => match self.segments.close() {
                Ok(()) => {
                    let pages = self.shared.used_pages();
                    tracing::info!(pages, "log closed; the pages are kept");
                    true
                }
                Err(error) => {
                    tracing::error!(%error, "cannot close the log");
                    false
                }
            },
            _ => {
                tracing::error!("the log is not whole: it could not be written to its end");
                false
            }
        }
    }
}

/// Tells the writer to end.
pub fn stop(persist: &Persist) {
    lock(&persist.queue).stop = true;
    persist.more.notify_all();
}

impl Persist {
    /// Bytes of the log that the disk has, for tests.
    pub fn durable(&self) -> u64 {
        self.durable.load(Ordering::SeqCst)
    }

    /// Notes how many pages the start found damaged.
    pub(super) fn note_damaged(&self, pages: usize) {
        self.counters
            .damaged
            .store(to_u64(pages), Ordering::Relaxed);
    }
}
