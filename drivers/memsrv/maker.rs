// SPDX-License-Identifier: GPL-2.0-only

//! The thread that makes the bitmap's chunks, which the hooks may not do.
//!
//! It is a thread of its own because it allocates as anybody does, reclaim included: nothing waits for
//! it. A store whose chunk is missing goes elsewhere meanwhile.

use super::areas::AREAS;
use super::platform::thread::{should_stop, Bell, ThreadMain};
use super::shared::Shared;
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Full, Relaxed},
        Arc, //
    }, //
};

/// Makes chunks on demand.
pub(crate) struct Maker {
    shared: Arc<Shared>,
    bell: Bell,
    /// For each area how many slots, from its first, are to have their chunks.
    wanted: [Atomic<u64>; AREAS],
}

impl Maker {
    /// For the bitmap of `shared`.
    pub(crate) fn new(shared: Arc<Shared>) -> Result<Arc<Self>> {
        let maker = Self {
            shared,
            bell: Bell::new(),
            wanted: [const { Atomic::new(0) }; AREAS],
        };
        Ok(Arc::new(maker, GFP_KERNEL)?)
    }

    /// Asks for the chunks of an area's first `slots` slots. Any context.
    pub(crate) fn want(&self, area: u64, slots: u64) {
        let Some(wanted) = usize::try_from(area).ok().and_then(|n| self.wanted.get(n)) else {
            return;
        };
        let mut old = wanted.load(Relaxed);
        while old < slots {
            match wanted.cmpxchg(old, slots, Full) {
                Ok(_) => break,
                Err(now) => old = now,
            }
        }
        self.bell.ring(1);
    }
}

impl ThreadMain for Maker {
    const IN_RECLAIM: bool = false;

    fn main(self: Arc<Self>) {
        while !should_stop() {
            self.bell.wait(0);
            for (area, wanted) in (0u64..).zip(&self.wanted) {
                let slots = wanted.load(Relaxed);
                if slots == 0 {
                    continue;
                }
                if let Err(error) = self.shared.areas.make(area << 48, slots) {
                    ratelimited!(
                        pr_warn,
                        "no memory for the bitmap of swap area {area}: {error:?}\n"
                    );
                }
            }
        }
    }

    fn bell(&self) -> &Bell {
        &self.bell
    }
}
