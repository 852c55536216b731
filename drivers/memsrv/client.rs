// SPDX-License-Identifier: GPL-2.0-only

//! What the hooks decide: which folio goes to the server, and which comes from there.

use super::areas::NoPlace;
use super::lane::Lane;
use super::maker::Maker;
use super::platform::{
    folio::{FolioView, LoadingFolio, StoringFolio},
    hook::{Plug, StorePlug, SwapHooks, Target},
    power::PowerHooks,
    sys, //
};
use super::protocol::{Slot, CLUSTER_SLOTS};
use super::shared::Shared;
use super::stats::Refusal;
use super::table::LoadEntry;
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, //
    },
    time::{delay::fsleep, Delta}, //
};

/// The swap path's other end.
pub(crate) struct Client {
    shared: Arc<Shared>,
    lanes: KVec<Arc<Lane>>,
    maker: Arc<Maker>,
    /// Off until all hooks are there, and again when they are about to go.
    accepting: Atomic<bool>,
}

static TARGET: Target<Client> = Target::new();

impl Client {
    /// With lanes whose links are up.
    pub(crate) fn new(shared: Arc<Shared>, lanes: KVec<Arc<Lane>>, maker: Arc<Maker>) -> Self {
        Self {
            shared,
            lanes,
            maker,
            accepting: Atomic::new(false),
        }
    }

    /// Begins or ends taking pages.
    pub(crate) fn accept(&self, on: bool) {
        self.accepting.store(on, Relaxed);
    }

    /// The lane of a slot: all slots of a swap cluster go by one, so that a folio, its answers and
    /// the kernel's readahead stay together.
    fn lane(&self, slot: u64) -> Option<&Arc<Lane>> {
        // The area's number is a multiple of any cluster's: it does not matter here, and the lanes
        // count clusters in an area.
        let cluster = (slot & ((1 << 48) - 1)) / u64::from(CLUSTER_SLOTS);
        let lanes = u64::try_from(self.lanes.len()).ok()?;
        self.lanes
            .get(usize::try_from(cluster.checked_rem(lanes)?).ok()?)
    }

    fn admission(&self, slot: u64, pages: u16) -> Result<(), Refusal> {
        let shared = &self.shared;
        if !self.accepting.load(Relaxed) || shared.frozen.load(Relaxed) {
            return Err(Refusal::Off);
        }
        if !self.lane(slot).is_some_and(|lane| lane.takes(slot)) {
            return Err(Refusal::Link);
        }
        if shared.is_full(pages) {
            return Err(Refusal::Full);
        }
        if !shared.pool.reserve(pages) {
            return Err(Refusal::Inflight);
        }
        shared.areas.claim(slot, pages).map_err(|why| {
            shared.pool.unreserve(pages);
            match why {
                NoPlace::Chunk => {
                    self.want_chunks(slot, 1);
                    Refusal::Chunk
                }
                NoPlace::Range => Refusal::Range,
                NoPlace::Unloading => Refusal::Off,
            }
        })
    }

    /// Asks for the chunks of an area up to a slot.
    fn want_chunks(&self, slot: u64, slots: u64) {
        let offset = slot & ((1 << 48) - 1);
        self.maker.want(slot >> 48, offset.saturating_add(slots));
    }

    /// Clears the bits of slots, and sees to it that no copy on its way sets one; the server is told in time.
    /// Returns how many there were.
    fn forget(&self, slot: u64, pages: u16) -> u64 {
        if self.shared.config.through {
            // Before the bits are looked at: an acknowledgement may come just now.
            if let Some(lane) = self.lane(slot) {
                lane.detach(slot, pages);
            }
        }
        let cleared = self.shared.areas.clear(slot, pages);
        if cleared.tell {
            if let Some(lane) = self.lane(slot) {
                lane.tell_freed();
            }
        }
        cleared.pages
    }
}

impl Client {
    /// With `disk=through`: sends a copy of a folio that the kernel is about to write elsewhere.
    fn store_beside(&self, folio: FolioView<'_>) {
        let (slot, pages) = (folio.slot(), folio.pages());
        let counters = &self.shared.counters;
        counters.forgotten_pages.add(self.forget(slot, pages));
        match self.admission(slot, pages) {
            Ok(()) => {
                if let Some(lane) = self.lane(slot) {
                    lane.store_beside(folio);
                }
            }
            Err(why) => counters.refuse(why, pages),
        }
    }
}

impl SwapHooks for Client {
    fn target() -> &'static Target<Self> {
        &TARGET
    }

    fn admit(&self, folio: FolioView<'_>) -> bool {
        let (slot, pages) = (folio.slot(), folio.pages());
        if self.shared.config.through {
            self.store_beside(folio);
            return false;
        }
        match self.admission(slot, pages) {
            Ok(()) => true,
            Err(why) => {
                self.shared.counters.refuse(why, pages);
                // zswap or the disk will have the newest bytes: ours must not be read any more.
                let forgotten = self.forget(slot, pages);
                self.shared.counters.forgotten_pages.add(forgotten);
                false
            }
        }
    }

    fn holds(&self, folio: FolioView<'_>) -> bool {
        let (slot, pages) = (folio.slot(), folio.pages());
        let ours = self.shared.areas.count(slot, pages);
        if !self.shared.config.through {
            return ours > 0;
        }
        // The disk has all of it: it may as well be read from there.
        let there = |lane: &Arc<Lane>| lane.may_ask(slot, |replica| lane.part(replica).is_up());
        ours > 0
            && ours == pages
            && self.accepting.load(Relaxed)
            && self.lane(slot).is_some_and(there)
    }

    fn invalidate(&self, slot: u64) {
        let freed = self.forget(slot, 1);
        if freed > 0 {
            self.shared.counters.freed_pages.add(freed);
        }
    }

    fn swapon(&self, area: u32, pages: u64) {
        // The first 64 GiB at once; the rest as it comes into use.
        const AT_ONCE: u64 = 1 << 24;
        self.want_chunks(u64::from(area) << 48, pages.min(AT_ONCE));
    }

    fn swapoff(&self, area: u32) {
        // No slot of the area is in use any more, so there is nothing to be found.
        let left = self.shared.areas.wipe(area);
        if left > 0 {
            pr_warn!("swap area {area} went with {left} slots still marked\n");
            self.shared.counters.leftover_slots.add(left);
            for lane in &self.lanes {
                lane.tell_freed();
            }
        }
    }

    fn store(&self, folio: StoringFolio, plug: StorePlug<'_>) {
        if sys::has_plug() {
            // In the midst of a readahead it has to make room: what it has asked for need not wait for that.
            for lane in &self.lanes {
                lane.send_loads();
            }
        }
        if let Some(lane) = self.lane(folio.slot()) {
            lane.store(&folio, &plug);
        }
    }

    fn load(&self, folio: LoadingFolio, plug: Plug<'_>) -> bool {
        let (slot, pages) = (folio.slot(), folio.pages());
        let ours = self.shared.areas.count(slot, pages);
        match self.lane(slot) {
            Some(lane) if ours == pages && Slot(slot).run_fits(pages) => lane.load(folio, &plug),
            Some(lane) if self.shared.config.through => {
                lane.read_from_disk(LoadEntry::new(folio));
                false
            }
            // A large folio that is partly elsewhere was begun before the hooks stood; the kernel
            // keeps to single pages since.
            _ => {
                self.shared.counters.mixed_loads.add(pages.into());
                folio.done(false, false);
                false
            }
        }
    }

    fn unplugged(&self, may_sleep: bool) {
        for lane in &self.lanes {
            lane.unplugged(may_sleep);
        }
    }

    fn spin_us(&self, slot: u64) -> u32 {
        self.lane(slot).map_or(0, |lane| lane.spin_us())
    }

    fn spun(&self, came: bool) {
        self.shared.spin.lock().ended(came);
        let counters = &self.shared.counters;
        counters.spins.add(1);
        counters.spins_won.add(u64::from(came));
    }
}

impl PowerHooks for Client {
    fn freeze(&self) -> bool {
        let shared = &self.shared;
        shared.frozen.store(true, Relaxed);
        let until = sys::now_ms().saturating_add(shared.config.store_ms);
        // Stores that were admitted count as used; frees that are asked see the flag under the lock.
        while shared.pool.used() > 0 || self.lanes.iter().any(|lane| lane.frees_in_flight()) {
            if sys::now_ms() > until {
                pr_err!("cannot hibernate: the server does not acknowledge what it was sent; try again when it is back, or swapoff first\n");
                // The kernel tells only those who agreed.
                self.thaw();
                return false;
            }
            fsleep(Delta::from_millis(10));
        }
        true
    }

    fn thaw(&self) {
        self.shared.frozen.store(false, Relaxed);
        for lane in &self.lanes {
            lane.tell_freed();
        }
    }

    fn leave(&self) {
        if self.shared.frozen.load(Relaxed) {
            // Switched off behind an image, which needs the pages when it wakes.
            return;
        }
        self.accept(false);
        // All at once: each may have to wait for a server that does not answer.
        for lane in &self.lanes {
            self.shared
                .config
                .replicas()
                .for_each(|r| lane.part(r).leave());
        }
        for lane in &self.lanes {
            self.shared
                .config
                .replicas()
                .for_each(|r| lane.part(r).has_left());
        }
    }
}
