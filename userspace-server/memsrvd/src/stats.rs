// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What the server counts, and the report of it that answers a STAT.
//!
//! The report's types are public, documented, and read back by `memsrvctl`: they are the
//! format. Fields may be added; a reader takes a missing one for zero.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use memsrv_protocol::{Status, MAX_PAYLOAD, PAGE_SIZE};
use serde::{Deserialize, Serialize};

use crate::arena::{lock, Arena};
use crate::mirror::{Mirror, MirrorReport};
use crate::num::{to_u64, to_usize};
use crate::persist::PersistReport;
use crate::regions::{Life, Shared};

/// How old the report may be that a connection gets which has asked before.
const RECENT: Duration = Duration::from_millis(200);

/// The last report, kept so that who asks again and again makes little work.
#[derive(Default)]
pub struct Recent(Mutex<Option<(Instant, Arc<str>)>>);

impl Recent {
    /// The report's text: made now, unless the asker has asked before and there is a recent one.
    pub fn text(&self, shared: &Shared, asked_before: bool) -> Arc<str> {
        match &*lock(&self.0) {
            Some((made, text)) if asked_before && made.elapsed() < RECENT => return text.clone(),
            _ => {}
        }
        let text: Arc<str> = Report::of(shared).json().into();
        *lock(&self.0) = Some((Instant::now(), text.clone()));
        text
    }
}

/// What was done with a region since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Operations {
    /// Pages stored, those that replaced an older one included.
    pub stores: u64,
    /// Pages given out.
    pub loads: u64,
    /// Pages freed.
    pub frees: u64,
    /// Pages asked for that were not there.
    pub not_found: u64,
    /// Stores refused because the server's memory was used up.
    pub refused_full: u64,
    /// Stores refused because the client's quota was used up.
    pub refused_quota: u64,
    /// Stores refused because the server was about to stop.
    pub refused_draining: u64,
    /// Stores and frees refused because they did not match their checksum.
    pub crc_errors: u64,
}

/// [`Operations`] that many threads add to.
#[derive(Default)]
pub struct Counters {
    stores: AtomicU64,
    loads: AtomicU64,
    frees: AtomicU64,
    not_found: AtomicU64,
    refused_full: AtomicU64,
    refused_quota: AtomicU64,
    refused_draining: AtomicU64,
    crc_errors: AtomicU64,
}

impl Counters {
    /// Adds what a batch of operations did.
    pub fn add(&self, batch: &Operations) {
        let add = |to: &AtomicU64, n: u64| {
            if n > 0 {
                to.fetch_add(n, Ordering::Relaxed);
            }
        };
        add(&self.stores, batch.stores);
        add(&self.loads, batch.loads);
        add(&self.frees, batch.frees);
        add(&self.not_found, batch.not_found);
        add(&self.refused_full, batch.refused_full);
        add(&self.refused_quota, batch.refused_quota);
        add(&self.refused_draining, batch.refused_draining);
        add(&self.crc_errors, batch.crc_errors);
    }

    /// The counts now.
    pub fn get(&self) -> Operations {
        let get = |from: &AtomicU64| from.load(Ordering::Relaxed);
        Operations {
            stores: get(&self.stores),
            loads: get(&self.loads),
            frees: get(&self.frees),
            not_found: get(&self.not_found),
            refused_full: get(&self.refused_full),
            refused_quota: get(&self.refused_quota),
            refused_draining: get(&self.refused_draining),
            crc_errors: get(&self.crc_errors),
        }
    }
}

impl Operations {
    /// Counts a store or free that was refused.
    pub fn count_refused(&mut self, status: Status) {
        let counter = match status {
            Status::Full => &mut self.refused_full,
            Status::Quota => &mut self.refused_quota,
            Status::Draining => &mut self.refused_draining,
            _ => &mut self.crc_errors,
        };
        *counter = counter.saturating_add(1);
    }
}

/// Connections closed with a REFUSED, by reason.
#[derive(Default)]
pub struct Refusals(Mutex<BTreeMap<&'static str, u64>>);

impl Refusals {
    /// Counts one.
    pub fn count(&self, status: Status) {
        let mut counts = lock(&self.0);
        let count = counts.entry(reason(status)).or_default();
        *count = count.saturating_add(1);
    }

    fn get(&self) -> BTreeMap<String, u64> {
        lock(&self.0)
            .iter()
            .map(|(reason, &count)| ((*reason).to_owned(), count))
            .collect()
    }
}

/// A status as a key of the report.
fn reason(status: Status) -> &'static str {
    match status {
        Status::Full => "full",
        Status::Version => "version",
        Status::Busy => "busy",
        Status::Stale => "stale",
        Status::BadRequest => "bad_request",
        Status::BadChecksum => "bad_checksum",
        Status::Denied => "denied",
        Status::NotFound => "not_found",
        Status::Draining => "draining",
        _ => "other",
    }
}

/// The answer to a STAT. Pages are 4096 bytes each; counters count from the server's start.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The server's release.
    pub version: String,
    /// The version of the protocol that it speaks.
    pub protocol: u16,
    /// The server's life, 32 hexadecimal digits.
    pub instance: String,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// Whether it is about to stop.
    pub draining: bool,
    /// Bytes in a page.
    pub page_size: u64,
    /// Pages it can hold.
    pub capacity_pages: u64,
    /// Those of them that are in use: for as many pages, or for more that came compressed.
    pub used_pages: u64,
    /// Those that are not.
    pub free_pages: u64,
    /// Pages it holds, compressed or not.
    pub stored_pages: u64,
    /// Whether the pages lie in the kernel's pool of huge pages.
    pub hugetlb: bool,
    /// Bytes of tables beside the pages, all taken at start.
    pub overhead_bytes: u64,
    /// Page tables (of 512 slots each) there are.
    pub clusters: u64,
    /// Page tables not in use; at none, stores to new clusters are refused as "full".
    pub free_clusters: u64,
    /// Connections open, this one included.
    pub connections: u64,
    /// Connections refused, by reason: `full`, `version`, `busy`, `stale`, `bad_request`,
    /// `bad_checksum`, `denied`, `draining`, `not_found`, `other`.
    pub refused: BTreeMap<String, u64>,
    /// PULLs after which no page was missing.
    pub pulls: u64,
    /// Pages that were fetched from other servers.
    pub pulled_pages: u64,
    /// PULLs that were answered with a status other than CANCELLED.
    pub pull_failures: u64,
    /// PULLs that are not answered yet.
    pub pulls_waiting: u64,
    /// Who stores what, by client's and region's name.
    pub regions: Vec<RegionReport>,
    /// Regions left out of `regions` because the answer has a limit.
    pub regions_omitted: u64,
    /// The log, where one is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persist: Option<PersistReport>,
    /// The mirror, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorReport>,
}

/// One region of one client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RegionReport {
    /// The client's name.
    pub client: String,
    /// The region's name.
    pub region: String,
    /// Pages it holds.
    pub pages: u64,
    /// Pages the client may hold, over all its regions.
    pub quota_pages: u64,
    /// Pages the client holds, over all its regions.
    pub client_pages: u64,
    /// Streams that its session has.
    pub streams: u64,
    /// The streams that are connected.
    pub connected: Vec<StreamReport>,
    /// What was done with it.
    #[serde(flatten)]
    pub operations: Operations,
}

/// One connected stream.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamReport {
    /// Its number in the session.
    pub stream: u64,
    /// The other end's address and port.
    pub peer: String,
    /// The number of the last operation executed.
    pub executed: u64,
}

impl Report {
    /// The report of a server, now.
    pub fn of(shared: &Shared) -> Report {
        let arena = &shared.arena;
        let (capacity, free) = (arena.pages.total(), arena.pages.free());
        let pulls = shared.pulls.counts();
        let lives: Vec<_> = {
            let registry = lock(&shared.registry);
            registry
                .regions
                .iter()
                .map(|(key, life)| (*key, life.clone()))
                .collect()
        };
        let mut regions: Vec<_> = lives
            .iter()
            .map(|((client, region), life)| {
                region_report(client.as_str(), region.as_str(), life, capacity)
            })
            .collect();
        regions.sort_by(|a, b| (&a.client, &a.region).cmp(&(&b.client, &b.region)));
        Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: shared.version,
            instance: format!("{:032x}", u128::from_be_bytes(shared.instance.0)),
            uptime_s: shared.started.elapsed().as_secs(),
            draining: shared.draining.load(Ordering::Relaxed),
            page_size: to_u64(PAGE_SIZE),
            capacity_pages: capacity,
            used_pages: capacity.saturating_sub(free),
            free_pages: free,
            stored_pages: regions.iter().map(|region| region.pages).sum(),
            hugetlb: arena.hugetlb,
            overhead_bytes: Arena::overhead_bytes(to_usize(capacity)),
            clusters: arena.clusters.total(),
            free_clusters: arena.clusters.free(),
            connections: shared.connections.load(Ordering::Relaxed),
            refused: shared.refusals.get(),
            pulls: pulls.done,
            pulled_pages: pulls.pages,
            pull_failures: pulls.failures,
            pulls_waiting: pulls.waiting,
            regions,
            regions_omitted: 0,
            persist: shared
                .persist
                .as_ref()
                .map(|log| log.report(capacity.saturating_sub(free))),
            mirror: shared.mirror.as_ref().map(Mirror::report),
        }
    }

    /// The JSON text, with regions left out until it fits in one message.
    pub fn json(mut self) -> String {
        loop {
            let text = serde_json::to_string(&self).unwrap_or_else(|_| "{}".to_owned());
            if to_u64(text.len()) <= u64::from(MAX_PAYLOAD) || self.regions.is_empty() {
                return text;
            }
            let keep = self.regions.len() / 2;
            let cut = to_u64(self.regions.len().saturating_sub(keep));
            self.regions.truncate(keep);
            self.regions_omitted = self.regions_omitted.saturating_add(cut);
        }
    }
}

fn region_report(client: &str, region: &str, life: &Life, capacity: u64) -> RegionReport {
    let connected = life
        .streams
        .iter()
        .enumerate()
        .filter_map(|(number, stream)| {
            let stream = lock(stream);
            let (_, peer) = stream.owner.as_ref()?;
            Some(StreamReport {
                stream: to_u64(number),
                peer: peer.address(),
                executed: stream.executed.0,
            })
        });
    RegionReport {
        client: client.to_owned(),
        region: region.to_owned(),
        pages: life.table.pages(),
        quota_pages: life.client.quota.pages.limit().min(capacity),
        client_pages: life.client.quota.pages.used(),
        streams: to_u64(life.streams.len()),
        connected: connected.collect(),
        operations: life.counters.get(),
    }
}
