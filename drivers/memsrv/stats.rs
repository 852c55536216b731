// SPDX-License-Identifier: GPL-2.0-only

//! Statistics: counted where things happen, and written out as text in debugfs.
//!
//! `/sys/kernel/debug/memsrv/stats` has a line `key value` for each; `Documentation/admin` says what
//! each means. What happens to pages in flight is counted under the lane's lock, so without an atomic
//! operation of its own; what happens in the hooks, by atomic counters.

use super::engine::{LoadError, Replica, StoreError, Taken};
use super::flights::Landed;
use super::lane::Lane;
use super::platform::sys;
use super::shared::Shared;
use super::stages::Stages;
use super::table::{no_room, Group, LoadEntry};
use core::mem;
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, //
    }, //
};

/// Buckets of a histogram: the last takes all from 2^30 units on.
const BUCKETS: usize = 32;

/// The longest load that counts as such for what is usual, in microseconds.
const LONG_US: u32 = 10_000;

/// Latencies, in micro- or nanoseconds: bucket `i` counts those of 2^(i-1) to 2^i - 1, bucket 0 those below one.
#[derive(Clone, Copy, Default)]
pub(crate) struct Log2([u64; BUCKETS]);

impl Log2 {
    pub(crate) fn add(&mut self, duration: u64) {
        let bits = usize::try_from(u64::BITS - duration.leading_zeros()).unwrap_or(BUCKETS);
        if let Some(bucket) = self.0.get_mut(bits.min(BUCKETS - 1)) {
            *bucket = bucket.wrapping_add(1);
        }
    }

    pub(crate) fn merge(&mut self, other: &Log2) {
        for (to, from) in self.0.iter_mut().zip(other.0) {
            *to = to.wrapping_add(from);
        }
    }
}

impl core::fmt::Display for Log2 {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        for (i, count) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            write!(f, "{count}")?;
        }
        Ok(())
    }
}

/// What happened on one lane, under its lock.
#[derive(Clone, Copy, Default)]
pub(crate) struct LaneCounters {
    stored_pages: u64,
    loaded_pages: u64,
    failed_full: u64,
    failed_expired: u64,
    failed_stores: u64,
    failed_loads: u64,
    lost_loads: u64,
    bad_checksums: u64,
    failovers: u64,
    failover_us: u64,
    pub(crate) hedged_loads: u64,
    pub(crate) through_stores: u64,
    pub(crate) held_stores: u64,
    pub(crate) overslept: u64,
    late_stores: u64,
    ahead: u64,
    ahead_used: u64,
    store_us: Log2,
    load_us: Log2,
    stages: Stages,
    /// What loads of one folio took of late, in microseconds: each counts for an eighth.
    usual_load_us: u32,
    /// What they took since that was last asked, where tasks slept when they began, and where they spun.
    taken: [Taken; 2],
}

impl LaneCounters {
    /// What a load takes these days, in microseconds.
    pub(crate) fn usual_load_us(&self) -> u32 {
        self.usual_load_us
    }

    /// What loads of one folio took since this was last asked.
    pub(crate) fn take_taken(&mut self) -> [Taken; 2] {
        mem::take(&mut self.taken)
    }

    /// A page was asked for before anybody wanted it.
    pub(crate) fn asked_ahead(&mut self) {
        self.ahead += 1;
    }

    /// A page that was asked ahead is loaded.
    pub(crate) fn used_ahead(&mut self) {
        self.ahead_used += 1;
    }

    /// A folio's store has ended.
    pub(crate) fn store_ended(&mut self, group: &Group) {
        self.pages_ended(u64::from(group.pages), group.asked_us, group.failed);
    }

    /// With `disk=through`: a copy has ended.
    pub(crate) fn copy_ended(&mut self, landed: &Landed) {
        self.pages_ended(1, landed.asked_us, landed.result.err());
        self.late_stores += u64::from(landed.late);
    }

    fn pages_ended(&mut self, pages: u64, asked_us: u64, failed: Option<StoreError>) {
        match failed {
            None => {
                self.stored_pages += pages;
                self.store_us.add(sys::now_us().saturating_sub(asked_us));
            }
            Some(StoreError::Expired) => self.failed_expired += pages,
            Some(error) if no_room(error) => self.failed_full += pages,
            Some(_) => self.failed_stores += pages,
        }
    }

    /// A folio's load has ended.
    pub(crate) fn load_ended(&mut self, entry: &LoadEntry, result: Result<(), LoadError>) {
        let pages = u64::from(entry.pages);
        match result {
            Ok(()) => {
                self.loaded_pages += pages;
                let now_ns = sys::now_ns();
                self.stages.ended(entry, now_ns);
                let us = now_ns.saturating_sub(entry.asked_ns) / 1000;
                self.load_us.add(us);
                if entry.alone {
                    let usual = self.usual_load_us;
                    // What is longer is too long, whatever it is, and soon forgotten.
                    let us = u32::try_from(us).unwrap_or(LONG_US).min(LONG_US);
                    self.usual_load_us = usual - usual / 8 + us / 8;
                    let phase = entry.spinning.map(usize::from);
                    if let Some(taken) = phase.and_then(|phase| self.taken.get_mut(phase)) {
                        taken.add(us, usual);
                    }
                }
            }
            Err(error) => {
                self.failed_loads += pages;
                match error {
                    LoadError::Gone => self.lost_loads += pages,
                    LoadError::Checksum => self.bad_checksums += pages,
                    _ => {}
                }
            }
        }
    }

    /// A load that waited for the primary was answered by the mirror.
    pub(crate) fn failed_over(&mut self, entry: &LoadEntry) {
        self.failovers += 1;
        let us = sys::now_ns().saturating_sub(entry.asked_ns) / 1000;
        self.failover_us = self.failover_us.max(us);
    }

    fn merge(&mut self, other: &LaneCounters) {
        self.failovers += other.failovers;
        self.hedged_loads += other.hedged_loads;
        self.failover_us = self.failover_us.max(other.failover_us);
        self.through_stores += other.through_stores;
        self.held_stores += other.held_stores;
        self.overslept += other.overslept;
        self.late_stores += other.late_stores;
        self.ahead += other.ahead;
        self.ahead_used += other.ahead_used;
        self.stored_pages += other.stored_pages;
        self.loaded_pages += other.loaded_pages;
        self.failed_full += other.failed_full;
        self.failed_expired += other.failed_expired;
        self.failed_stores += other.failed_stores;
        self.failed_loads += other.failed_loads;
        self.lost_loads += other.lost_loads;
        self.bad_checksums += other.bad_checksums;
        self.store_us.merge(&other.store_us);
        self.load_us.merge(&other.load_us);
        self.stages.merge(&other.stages);
    }
}

/// Why a store was not admitted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The module is not ready yet, or is going; or the machine hibernates.
    Off,
    /// The server is away.
    Link,
    /// The server said that it has no room, a moment ago, or the grant is used up.
    Full,
    /// Too much is in flight.
    Inflight,
    /// The bitmap's chunk is not there yet.
    Chunk,
    /// The slot is beyond what an area may have.
    Range,
}

/// What happened in the hooks.
#[derive(Default)]
pub(crate) struct HookCounters {
    refused: [Counter; 6],
    pub(crate) freed_pages: Counter,
    pub(crate) forgotten_pages: Counter,
    pub(crate) mixed_loads: Counter,
    /// Loads that were waited for without sleeping, and those of them that came in time.
    pub(crate) spins: Counter,
    pub(crate) spins_won: Counter,
    /// Loads that were asked for together with others.
    pub(crate) plugged_loads: Counter,
    pub(crate) disk_reads: Counter,
    pub(crate) leftover_slots: Counter,
}

/// A number that only grows.
pub(crate) struct Counter(Atomic<u64>);

impl Default for Counter {
    fn default() -> Self {
        Self(Atomic::new(0))
    }
}

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.add(n, Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl HookCounters {
    /// A folio of `pages` pages was not admitted.
    pub(crate) fn refuse(&self, why: Refusal, pages: u16) {
        let index = match why {
            Refusal::Off => 0,
            Refusal::Link => 1,
            Refusal::Full => 2,
            Refusal::Inflight => 3,
            Refusal::Chunk => 4,
            Refusal::Range => 5,
        };
        if let Some(counter) = self.refused.get(index) {
            counter.add(u64::from(pages));
        }
    }
}

/// What the statistics file shows.
pub(crate) struct Report {
    pub(crate) shared: Arc<Shared>,
    pub(crate) lanes: KVec<Arc<Lane>>,
}

impl Report {
    /// Of these links.
    pub(crate) fn new(shared: Arc<Shared>, lanes: KVec<Arc<Lane>>) -> Self {
        Self { shared, lanes }
    }

    /// Whether no link of a server is up.
    pub(crate) fn is_away(&self, replica: Replica) -> bool {
        !self.lanes.iter().any(|lane| lane.part(replica).is_up())
    }

    /// How many pages are, or may be, where nobody can be asked for them; `None` while all servers are there.
    pub(crate) fn unreachable_pages(&self) -> Option<u64> {
        let shared = &self.shared;
        let mut spoken_to = shared.spoken_to();
        let away = spoken_to.find(|&replica| self.is_away(replica))?;
        let there = shared
            .spoken_to()
            .find(|&replica| replica != away && !self.is_away(replica));
        Some(match there {
            Some(other) => shared.areas.pages_behind(other),
            None => shared.areas.present(),
        })
    }

    /// Writes the lines.
    pub(crate) fn write(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        let (shared, hooks) = (&self.shared, &self.shared.counters);
        let config = &shared.config;
        let mut sum = LaneCounters::default();
        let (mut stores, mut loads, mut frees, mut reconnects) = (0, 0, 0, 0);
        let (mut usual_us, mut wake_us) = (0, 0);
        for lane in &self.lanes {
            let report = lane.report();
            sum.merge(&report.counters);
            usual_us = usual_us.max(report.counters.usual_load_us());
            wake_us = wake_us.max(lane.wake_us());
            stores += report.stores;
            loads += report.loads;
            frees += report.frees;
            for replica in config.replicas() {
                reconnects += lane.part(replica).reconnects.load(Relaxed);
            }
        }
        writeln!(f, "version {}", VERSION)?;
        writeln!(f, "server {}", shared.address(Replica::Primary).0)?;
        writeln!(f, "client {}", config.client.as_str())?;
        writeln!(f, "region {}", config.region.as_str())?;
        writeln!(
            f,
            "disk {}",
            if config.through {
                "through"
            } else {
                "fallback"
            }
        )?;
        writeln!(f, "remote_pages {}", shared.areas.present())?;
        let unreachable = self.unreachable_pages().unwrap_or(0);
        writeln!(f, "unreachable_pages {unreachable}")?;
        writeln!(f, "granted_pages {}", shared.granted())?;
        writeln!(f, "stored_pages {}", sum.stored_pages)?;
        writeln!(f, "loaded_pages {}", sum.loaded_pages)?;
        writeln!(f, "freed_pages {}", hooks.freed_pages.get())?;
        writeln!(f, "forgotten_pages {}", hooks.forgotten_pages.get())?;
        writeln!(f, "stored_bytes {}", sum.stored_pages * 4096)?;
        writeln!(f, "loaded_bytes {}", sum.loaded_pages * 4096)?;
        let names = ["off", "link", "full", "inflight", "chunk", "range"];
        for (name, counter) in names.iter().zip(&hooks.refused) {
            writeln!(f, "refused_{name} {}", counter.get())?;
        }
        writeln!(f, "failed_stores {}", sum.failed_stores)?;
        writeln!(f, "failed_stores_full {}", sum.failed_full)?;
        writeln!(f, "failed_stores_expired {}", sum.failed_expired)?;
        writeln!(f, "failed_loads {}", sum.failed_loads)?;
        writeln!(f, "failed_loads_lost {}", sum.lost_loads)?;
        writeln!(f, "failed_loads_checksum {}", sum.bad_checksums)?;
        writeln!(f, "failed_loads_mixed {}", hooks.mixed_loads.get())?;
        writeln!(f, "usual_load_us {usual_us}")?;
        writeln!(f, "wake_us {wake_us}")?;
        let [sleeping_us, spinning_us] = shared.spin.lock().means_us();
        writeln!(f, "load_us_sleeping {sleeping_us}")?;
        writeln!(f, "load_us_spinning {spinning_us}")?;
        writeln!(f, "spins {}", hooks.spins.get())?;
        writeln!(f, "spins_won {}", hooks.spins_won.get())?;
        writeln!(f, "plugged_loads {}", hooks.plugged_loads.get())?;
        writeln!(f, "held_stores {}", sum.held_stores)?;
        writeln!(f, "overslept {}", sum.overslept)?;
        writeln!(f, "ahead_pages {}", sum.ahead)?;
        writeln!(f, "ahead_pages_used {}", sum.ahead_used)?;
        writeln!(f, "leftover_slots {}", hooks.leftover_slots.get())?;
        writeln!(f, "inflight_stores {}", stores)?;
        writeln!(f, "inflight_loads {}", loads)?;
        writeln!(f, "inflight_frees {}", frees)?;
        let unread: usize = self.lanes.iter().map(|lane| lane.unread.len()).sum();
        writeln!(f, "inflight_unread {unread}")?;
        writeln!(f, "inflight_pool_used {}", shared.pool.used())?;
        writeln!(f, "inflight_pool_size {}", shared.pool.size())?;
        writeln!(f, "reconnects {}", reconnects)?;
        writeln!(f, "store_us_log2 {}", sum.store_us)?;
        writeln!(f, "load_us_log2 {}", sum.load_us)?;
        sum.stages.write(f)?;
        writeln!(f, "compress {}", if config.lz4 { "lz4" } else { "none" })?;
        if let Some(compression) = &shared.compression {
            let pages = compression.compressed_pages.get();
            writeln!(f, "compressed_pages {pages}")?;
            writeln!(f, "compressed_bytes {}", compression.compressed_bytes.get())?;
            writeln!(
                f,
                "incompressible_pages {}",
                compression.incompressible_pages.get()
            )?;
        }
        if config.through {
            writeln!(f, "through_stores {}", sum.through_stores)?;
            writeln!(f, "through_late {}", sum.late_stores)?;
            writeln!(f, "disk_reads {}", hooks.disk_reads.get())?;
        }
        if config.mirror.is_some() {
            self.write_mirror(f, &sum)?;
        }
        for lane in &self.lanes {
            let (number, counters) = (lane.number, lane.report().counters);
            let state = lane.link_state(Replica::Primary);
            writeln!(f, "link.{number}.state {state}")?;
            writeln!(
                f,
                "link.{number}.peer {}",
                shared.address(Replica::Primary).0
            )?;
            writeln!(f, "link.{number}.stored_pages {}", counters.stored_pages)?;
            writeln!(f, "link.{number}.loaded_pages {}", counters.loaded_pages)?;
        }
        Ok(())
    }

    /// What there is only with a mirror.
    fn write_mirror(
        &self,
        f: &mut kernel::fmt::Formatter<'_>,
        sum: &LaneCounters,
    ) -> kernel::fmt::Result {
        let (config, areas) = (&self.shared.config, &self.shared.areas);
        // What the server forwards, the mirror has, though it is not spoken to.
        let relayed = areas.relay.is_on();
        let behind = |replica| match relayed {
            true => 0,
            false => areas.behind(replica),
        };
        let (primary, mirror) = (behind(Replica::Primary), behind(Replica::Mirror));
        let down = |lane: &Arc<Lane>| self.shared.spoken_to().any(|r| !lane.part(r).is_up());
        let degraded = primary + mirror > 0 || self.lanes.iter().any(down);
        let address = self.shared.address(Replica::Mirror).0;
        writeln!(f, "mirror {address}")?;
        writeln!(f, "mirror_strict {}", u8::from(config.mirror_strict))?;
        writeln!(f, "mirror_forwarded {}", u8::from(relayed))?;
        writeln!(f, "degraded {}", u8::from(degraded))?;
        writeln!(f, "behind_clusters_primary {primary}")?;
        writeln!(f, "behind_clusters_mirror {mirror}")?;
        let refilled = |replica| areas.refilled(replica);
        let (primary, mirror) = (refilled(Replica::Primary), refilled(Replica::Mirror));
        writeln!(f, "refilled_clusters_primary {primary}")?;
        writeln!(f, "refilled_clusters_mirror {mirror}")?;
        writeln!(f, "failovers {}", sum.failovers)?;
        writeln!(f, "failover_us_max {}", sum.failover_us)?;
        writeln!(f, "hedged_loads {}", sum.hedged_loads)?;
        for lane in &self.lanes {
            let (number, state) = (lane.number, lane.link_state(Replica::Mirror));
            writeln!(f, "mirror_link.{number}.state {state}")?;
            writeln!(f, "mirror_link.{number}.peer {address}")?;
        }
        Ok(())
    }
}

/// The module's version, as `params.c` gives it to modinfo.
const VERSION: &str = "0.1.0";
