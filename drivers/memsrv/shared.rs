// SPDX-License-Identifier: GPL-2.0-only

//! What the hooks and all links share.

use super::areas::Areas;
use super::config::Config;
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

/// How long a server that said "full" is left alone, in milliseconds.
const FULL_MS: u64 = 500;

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
    /// The server's life, as the last handshake told; zeroes before the first. Held by threads only.
    #[pin]
    instance: Mutex<Instance>,
    granted: Atomic<u64>,
    full_until_ms: Atomic<u64>,
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
            instance <- new_mutex!(Instance::default()),
            granted: Atomic::new(0),
            full_until_ms: Atomic::new(0),
        }))
    }

    /// How many pages the server grants.
    pub(crate) fn granted(&self) -> u64 {
        self.granted.load(Relaxed)
    }

    /// The server's life that the pages are with.
    pub(crate) fn instance(&self) -> Instance {
        *self.instance.lock()
    }

    /// A handshake told the server's life and grant; returns how many pages were lost with an older
    /// life, if there was one.
    pub(crate) fn welcomed(&self, welcome: &Welcome) -> Option<u64> {
        self.granted.store(welcome.granted, Relaxed);
        let mut instance = self.instance.lock();
        let old = core::mem::replace(&mut *instance, welcome.instance);
        (old != Instance::default() && old != welcome.instance).then(|| self.areas.present())
    }

    /// The server said that it has no room.
    pub(crate) fn set_full(&self) {
        self.full_until_ms
            .store(sys::now_ms().saturating_add(FULL_MS), Relaxed);
    }

    /// Whether stores are pointless now.
    pub(crate) fn is_full(&self, pages: u16) -> bool {
        let until = self.full_until_ms.load(Relaxed);
        (until != 0 && sys::now_ms() < until)
            || self.areas.present().saturating_add(u64::from(pages)) > self.granted()
    }
}
