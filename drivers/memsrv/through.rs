// SPDX-License-Identifier: GPL-2.0-only

//! `disk=through`: every page goes to the disk, too, and a load that no server answers is read from there.
//!
//! # Stores
//!
//! The kernel's own `zswap_store` must run: it drops what zswap holds of the slot, which else would be found by a
//! later load, and written over the new bytes by zswap's shrinker. An original cannot be called (`hook.rs`), so
//! it cannot run after a replacement of ours. Therefore the copying is done in the ftrace handler, and the original
//! follows as if nobody had been there: zswap, if on, then the disk. Nothing in it sleeps: a page is
//! copied, its checksum made, and the copy queued under the lane's spin lock, which nobody holds who could enter
//! reclaim; the links' threads send. A huge page takes 512 of these, with interrupts on between them. It costs what
//! it costs in the replacement otherwise, and the handler may be preempted unless somebody else traces the function.
//!
//! The folio is not ours at any time: no writeback is begun, and nothing is done to it after the handler. What
//! becomes of the copy `flights.rs` tells: the slot's bit stays clear until the newest is acknowledged. Where there is
//! no room, no link or no grant, no copy is sent: the disk has the page.
//!
//! # Loads
//!
//! Ours if every page's bit is set and a server is there. One that fails all the same, for whatever reason, stays in
//! the lane's table, since nothing can be allocated for it, until the [`Reader`] takes it: a thread, because
//! what ends loads runs in softirq. It clears the bits and has the kernel read the folio (`swap_read.rs`), which
//! enters our hook again and finds it not ours.
//!
//! # The end
//!
//! The disk has every page, so the module may go at any time: no more loads are taken, the hooks go, the
//! links go and give up what they wait for, and the reader ends when it has read that.

use super::areas::index;
use super::engine::{Clusters, Replica, Standing, StoreError};
use super::lane::{Lane, State, SEND_BATCH};
use super::link::event;
use super::platform::{
    folio::FolioView,
    swap_read,
    sys,
    thread::{should_stop, Bell, Thread, ThreadMain}, //
};
use super::protocol::Slot;
use super::shared::Shared;
use super::table::{LoadEntry, Table};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Acquire, Release},
        Arc, //
    }, //
};

/// Finds what the way to the disk needs of the kernel.
///
/// # Errors
///
/// As [`swap_read::prepare`], after a line in the log.
pub(crate) fn prepare() -> Result {
    swap_read::prepare().inspect_err(|error| {
        pr_err!("disk=through cannot be had with this kernel ({error:?}): it needs Linux 7.3 and kprobes; load the module without it\n");
    })
}

impl Lane {
    /// Sends copies of a folio that was admitted, while the kernel writes it elsewhere. Only from the ftrace
    /// handler of `zswap_store`; older copies of its slots are detached.
    pub(crate) fn store_beside(&self, folio: FolioView<'_>) {
        let pool = &self.shared.pool;
        let mut output = [false; 2];
        for page in 0..folio.pages() {
            let slot = folio.slot().saturating_add(u64::from(page));
            let Some(number) = pool.take() else {
                // Admission has reserved them all: not reached.
                self.shared.areas.release(slot);
                continue;
            };
            let payload = self.copy(number, folio, page, slot);
            // Not by `change`, which may end others' folios: their threads will.
            let mut state = self.state.lock();
            let State { streams, table, .. } = &mut *state;
            table.asked(number, slot);
            let Some(flights) = table.flights.as_mut() else {
                continue;
            };
            flights.begin(number, slot);
            table.counters.through_stores += 1;
            let areas = &self.shared.areas;
            if streams
                .store(Slot(slot), payload, number, sys::now_ms(), areas)
                .is_err()
            {
                // A server fell behind since admission.
                if let Some(landed) = flights.end(number, Err(StoreError::Expired)) {
                    table.counters.copy_ended(&landed);
                }
            }
            self.tell_watch(streams);
            output = Replica::BOTH.map(|replica| streams.is_due(replica, SEND_BATCH, false));
            self.look_through(table);
        }
        self.ring(event::SEND, |replica, _| {
            output.get(index(replica)).is_some_and(|&output| output)
        });
    }

    /// Slots were freed or get other bytes. Any context in which swap slots change, but under this lane's lock.
    pub(crate) fn detach(&self, slot: u64, pages: u16) {
        // A copy that is attached was begun while its folio was locked in the swap cache, which this slot has
        // left, or is locked again, by now: so its count is seen. If it ended since, so is the bit that it set.
        if self.attached.load(Acquire) == 0 {
            return;
        }
        let mut state = self.state.lock();
        if let Some(flights) = state.table.flights.as_mut() {
            flights.detach(slot, pages);
        }
        self.look_through(&mut state.table);
    }

    /// With `disk=through`, under the lock, after whatever was done: wakes who has to do with it.
    pub(crate) fn look_through(&self, table: &mut Table) {
        let Some(flights) = table.flights.as_mut() else {
            return;
        };
        self.attached.store(flights.attached(), Release);
        if flights.take_freed() {
            self.tell_freed();
        }
        if table.wants_disk() {
            self.shared.disk_bell.ring(1);
        }
    }

    /// Whether a server that `connected` says is there may be asked for a slot.
    pub(crate) fn may_ask(&self, slot: u64, connected: impl Fn(Replica) -> bool) -> bool {
        let areas = &self.shared.areas;
        self.shared.config.replicas().any(|replica| {
            connected(replica) && areas.standing(replica, Slot(slot)) != Standing::Behind
        })
    }

    /// Gives a load up in favour of the disk. Process context.
    pub(crate) fn read_from_disk(&self, entry: LoadEntry) {
        let pages = u64::from(entry.pages);
        self.shared.counters.disk_reads.add(pages);
        // The servers' copies are as good as ever if they were merely late; but the hook, entered again, must know.
        if self.shared.areas.clear(entry.slot, entry.pages).tell {
            self.tell_freed();
        }
        if let Some(folio) = entry.into_folio() {
            folio.read_from_disk();
        }
    }

    fn next_from_disk(&self) -> Option<LoadEntry> {
        self.state.lock().table.pop_disk()
    }
}

/// Reads folios from the disk.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    lanes: KVec<Arc<Lane>>,
}

impl Reader {
    /// Starts the thread.
    pub(crate) fn start(shared: Arc<Shared>, lanes: KVec<Arc<Lane>>) -> Result<Thread<Self>> {
        let reader = Arc::new(Self { shared, lanes }, GFP_KERNEL)?;
        Thread::start(c"memsrv-disk", reader)
    }
}

impl ThreadMain for Reader {
    /// Somebody in reclaim may wait for one of the folios.
    const IN_RECLAIM: bool = true;

    fn main(self: Arc<Self>) {
        loop {
            // Asked first: what comes before a thread is stopped is still read.
            let last = should_stop();
            for lane in &self.lanes {
                while let Some(entry) = lane.next_from_disk() {
                    lane.load_room.notify_one();
                    lane.read_from_disk(entry);
                }
            }
            if last {
                return;
            }
            self.shared.disk_bell.wait(0);
        }
    }

    fn bell(&self) -> &Bell {
        &self.shared.disk_bell
    }
}
