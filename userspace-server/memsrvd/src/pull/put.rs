// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What a fetched page does to the table, and to the log where there is one.
//!
//! Sessions never wait for the log; these threads do, since nobody waits for them. A pull is answered once
//! the log is on the disk, if acknowledgements wait for that: the client will count on the pages from then on.

use std::time::{Duration, Instant};

use memsrv_protocol::{Slot, Status, PAGE_SIZE};

use super::source::Fault;
use super::Job;
use crate::persist::queue::{Entry, Need, NoRoom};
use crate::persist::{Persist, Settled};
use crate::regions::Shared;

/// How often a full log, or one that is not on the disk yet, is looked at again.
const STEP: Duration = Duration::from_millis(2);

/// What a job has put.
#[derive(Default)]
pub(super) struct Got {
    pub(super) pages: u64,
    /// Where the log ends with it.
    logged: u64,
}

impl Got {
    /// Waits until the disk has it, if that is promised.
    pub(super) fn is_kept(&self, shared: &Shared, deadline: Instant) -> Result<(), Status> {
        let Some(persist) = shared.persist.as_ref().filter(|persist| persist.ack) else {
            return Ok(());
        };
        loop {
            match persist.settled(self.logged) {
                Settled::Yes => return Ok(()),
                Settled::NotYet if Instant::now() < deadline => std::thread::sleep(STEP),
                Settled::NotYet | Settled::Never => return Err(Status::Full),
            }
        }
    }
}

/// Puts a page, and logs that, as one.
pub(super) fn put(
    shared: &Shared,
    job: &Job,
    deadline: Instant,
    slot: Slot,
    crc: u32,
    payload: &[u8],
    got: &mut Got,
) -> Result<(), Fault> {
    let (table, quota) = (&job.life.table, &job.life.client.quota);
    let mut entry = match &shared.persist {
        Some(persist) => Some(enter(persist, deadline)?),
        None => None,
    };
    match table.put_awaited(&shared.arena, quota, job.id, slot, crc, payload) {
        Ok(Ok(false)) => Ok(()),
        Ok(Ok(true)) => {
            got.pages = got.pages.saturating_add(1);
            // With a log only whole pages are asked for.
            if let (Some(entry), Some(page)) = (&mut entry, payload.first_chunk::<PAGE_SIZE>()) {
                got.logged = entry.pulled(&job.life.log, slot, crc, page);
            }
            Ok(())
        }
        Ok(Err(status)) => Err(Fault::Over(status)),
        Err(_) => Err(Fault::Over(Status::Cancelled)),
    }
}

fn enter(persist: &Persist, deadline: Instant) -> Result<Entry<'_>, Fault> {
    loop {
        match persist.enter(Need::Page) {
            Ok(entry) => return Ok(entry),
            Err(NoRoom::Now) if Instant::now() < deadline => std::thread::sleep(STEP),
            Err(_) => return Err(Fault::Over(Status::Full)),
        }
    }
}
