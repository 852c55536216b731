// SPDX-License-Identifier: GPL-2.0-only

//! Resync: a server that missed pages fetches them from the other one.
//!
//! What happens to a cluster on the way is the engine's to say (`engine`, "The life of a refill"); here is
//! which clusters, when, and what the PULL holds. Each link's thread sees to its own server.

use super::engine::REFILLS;
use super::lane::{Lane, State};
use super::link::{event, Link};
use super::platform::sys;
use super::protocol::{FreeMask, Instance, Message, Pull, Slot, Tag, HEADER_LEN};
use core::net::{IpAddr, SocketAddr};
use kernel::{
    prelude::*,
    sync::atomic::Relaxed, //
};

/// How long nothing is refilled after a PULL that failed, in milliseconds: doubled each time.
const RETRY_MS: (u64, u64) = (500, 30_000);

/// The bytes of a PULL.
pub(crate) const PULL_LEN: usize = HEADER_LEN + Pull::LEN;

/// A server that pages can be fetched from.
#[derive(Clone, Copy, Default)]
pub(crate) struct Source {
    address: Option<SocketAddr>,
    instance: Instance,
}

impl Source {
    /// That life of the server at that address.
    pub(crate) fn new(address: SocketAddr, instance: Instance) -> Self {
        let address = Some(address);
        Self { address, instance }
    }

    /// The life of the server; zeroes before the first connection.
    pub(crate) fn instance(&self) -> Instance {
        self.instance
    }

    /// The PULL of a cluster of which these slots are stored.
    pub(crate) fn pull(&self, tag: Tag, slot: Slot, stored: [u64; 8]) -> [u8; PULL_LEN] {
        let ip = match self.address.map(|address| address.ip()) {
            Some(IpAddr::V4(ip)) => ip.to_ipv6_mapped().octets(),
            Some(IpAddr::V6(ip)) => ip.octets(),
            None => [0; 16],
        };
        let payload = Pull {
            mask: FreeMask::from_words(stored),
            instance: self.instance,
            address: ip,
            port: self.address.map_or(0, |address| address.port()),
        }
        .encode();
        let crc = sys::crc32c(slot.0, &payload);
        let mut bytes = [0; PULL_LEN];
        let (header, rest) = bytes.split_at_mut(HEADER_LEN);
        header.copy_from_slice(&Message::Pull { tag, slot, crc }.encode());
        rest.copy_from_slice(&payload);
        bytes
    }
}

/// What a link's thread remembers of it.
#[derive(Default)]
pub(crate) struct Refilling {
    retry_at_ms: u64,
    retry_ms: u64,
    /// How many clusters were whole again when this was last looked at.
    refilled: u64,
    /// The slot from which on clusters are looked for.
    next: u64,
    /// Whether the server was not whole when this was last looked at.
    behind: bool,
}

impl Link {
    /// Whether the server lacks pages.
    pub(crate) fn is_behind(&self) -> bool {
        self.lane.shared.areas.behind(self.replica) > 0
    }

    /// Goes on with the resync of this link's server.
    pub(crate) fn refill(&self, refilling: &mut Refilling) {
        let (lane, areas) = (&self.lane, &self.lane.shared.areas);
        let behind = self.is_behind();
        self.tell_whole(refilling, behind);
        if !behind {
            return;
        }
        // Those that are being refilled are found again.
        let mut found = [Slot(0); 2 * REFILLS];
        let now = sys::now_ms();
        let mut count = 0;
        if now >= refilling.retry_at_ms {
            let mine = |cluster| lane.has(cluster);
            count = areas.find_behind(self.replica, mine, refilling.next, &mut found);
        }
        let found = found.get(..count).unwrap_or(&[]);
        let failed = lane.change(|state| {
            // Looked at under the lock: who freezes takes it, and then sees the FREEs.
            if !lane.shared.frozen.load(Relaxed) {
                state.streams.refill(self.replica, found, areas, now);
            }
            state.streams.refill_failed(self.replica)
        });
        match failed {
            Some(status) => {
                let (first, last) = RETRY_MS;
                refilling.retry_ms = refilling.retry_ms.saturating_mul(2).clamp(first, last);
                refilling.retry_at_ms = now.saturating_add(refilling.retry_ms);
                // One that fails again and again does not keep the others waiting.
                refilling.next = found.last().map_or(0, |slot| slot.0);
                ratelimited!(
                    pr_warn,
                    "{self}: pages could not be copied to {} from the other server: {}; trying again\n",
                    lane.shared.address(self.replica),
                    status.as_str()
                );
            }
            None if areas.refilled(self.replica) != refilling.refilled => {
                refilling.refilled = areas.refilled(self.replica);
                refilling.retry_ms = 0;
            }
            None => {}
        }
    }

    /// Says once that all is well again.
    fn tell_whole(&self, refilling: &mut Refilling, behind: bool) {
        if refilling.behind && !behind && self.lane.number == 0 {
            pr_info!(
                "server {} is whole again: it has every page that the other one has\n",
                self.lane.shared.address(self.replica)
            );
        }
        refilling.behind = behind;
    }
}

impl Lane {
    /// An answer came from one server: whoever refills may have been waiting for it, or has fallen behind by
    /// it and does not look at the clock.
    pub(crate) fn tell_refill(&self, state: &State) {
        if self.shared.config.mirror.is_none() {
            return;
        }
        let areas = &self.shared.areas;
        for replica in self.shared.spoken_to() {
            let part = self.part(replica);
            let unaware = areas.behind(replica) > 0 && !part.watched.load(Relaxed);
            if unaware || state.streams.refills(replica) > 0 {
                part.bell.ring(event::SEND);
            }
        }
    }
}
