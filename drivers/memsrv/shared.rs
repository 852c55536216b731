// SPDX-License-Identifier: GPL-2.0-only

//! What the hooks and all lanes share.

use super::areas::{index, Areas};
use super::config::Config;
use super::engine::Replica;
use super::platform::sys;
use super::pool::Pool;
use super::protocol::{Incarnation, Instance, Welcome};
use super::stats::HookCounters;
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        new_mutex,
        Mutex, //
    }, //
};

/// How long nothing is stored after a store that failed, in milliseconds: as long where the server was
/// full; else twice as long each time, up to the last, until a store goes well.
const HOLD_OFF_MS: (u64, u64) = (500, 30_000);

/// Shared state.
#[pin_data]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) areas: Areas,
    #[pin]
    pub(crate) pool: Pool,
    pub(crate) counters: HookCounters,
    /// This client's life.
    pub(crate) incarnation: Incarnation,
    /// Each server's life, as the last handshake told; zeroes before the first. Held by threads only.
    #[pin]
    instances: Mutex<[Instance; 2]>,
    /// How many pages each server grants.
    granted: [Atomic<u64>; 2],
    /// Whether the machine hibernates, so that nothing may change on the server.
    pub(crate) frozen: Atomic<bool>,
    /// Until when nothing is stored, in milliseconds, and for how long that was.
    hold_off_until_ms: Atomic<u64>,
    hold_off_ms: Atomic<u64>,
}

impl Shared {
    /// With the parameters, an empty bitmap, and a pool of the size that the parameters say.
    pub(crate) fn new(config: Config, areas: Areas) -> Result<impl PinInit<Self, Error>> {
        let pool = Pool::new(config.inflight)?;
        Ok(try_pin_init!(Self {
            config,
            areas,
            pool <- pool,
            counters: HookCounters::default(),
            incarnation: Incarnation(sys::random()),
            instances <- new_mutex!([Instance::default(); 2]),
            granted: [const { Atomic::new(0) }; 2],
            frozen: Atomic::new(false),
            hold_off_until_ms: Atomic::new(0),
            hold_off_ms: Atomic::new(0),
        }))
    }

    /// How many pages every server grants.
    pub(crate) fn granted(&self) -> u64 {
        let granted = |replica| self.granted.get(index(replica)).map(|n| n.load(Relaxed));
        self.config
            .replicas()
            .filter_map(granted)
            .min()
            .unwrap_or(0)
    }

    /// The life of a server that its pages are with.
    pub(crate) fn instance(&self, replica: Replica) -> Instance {
        let instances = self.instances.lock();
        instances.get(index(replica)).copied().unwrap_or_default()
    }

    /// A handshake told a server's life and grant; returns how many pages were lost with an older
    /// life, if there was one.
    pub(crate) fn welcomed(&self, replica: Replica, welcome: &Welcome) -> Option<u64> {
        if let Some(granted) = self.granted.get(index(replica)) {
            granted.store(welcome.granted, Relaxed);
        }
        // Held until the bitmap knows: another link may be connecting to the same life.
        let mut instances = self.instances.lock();
        let instance = instances.get_mut(index(replica))?;
        let old = core::mem::replace(instance, welcome.instance);
        if old == Instance::default() || old == welcome.instance {
            return None;
        }
        self.areas.lost(replica);
        Some(self.areas.present())
    }

    /// A store failed: the next go elsewhere for a while, else the same pages would come again at
    /// once, and never reach the disk.
    pub(crate) fn store_failed(&self, no_room: bool) {
        let now = sys::now_ms();
        let (first, last) = HOLD_OFF_MS;
        if now < self.hold_off_until_ms.load(Relaxed) {
            // One of many that failed together.
            return;
        }
        let next = match self.hold_off_ms.load(Relaxed) {
            _ if no_room => first,
            0 => first,
            before => before.saturating_mul(2).min(last),
        };
        self.hold_off_ms.store(next, Relaxed);
        self.hold_off_until_ms
            .store(now.saturating_add(next), Relaxed);
    }

    /// A store went well.
    pub(crate) fn store_went_well(&self) {
        if self.hold_off_ms.load(Relaxed) != 0 {
            self.hold_off_ms.store(0, Relaxed);
        }
    }

    /// Whether stores are pointless now.
    pub(crate) fn is_full(&self, pages: u16) -> bool {
        let until = self.hold_off_until_ms.load(Relaxed);
        (until != 0 && sys::now_ms() < until)
            || self.areas.present().saturating_add(u64::from(pages)) > self.granted()
    }
}
