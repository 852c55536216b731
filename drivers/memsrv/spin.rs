// SPDX-License-Identifier: GPL-2.0-only

//! When a fault waits for its page without sleeping: as long as that is found to pay.
//!
//! What it saves is a wake-up, and what it costs is the processor's time until the page is there. So it must take no
//! more than some wake-ups until then: where they are cheap or the way to the server is long, tasks sleep.
//!
//! What a load takes varies with what else the machines do, and a spin that ends in a sleep has cost
//! processor time (of a container's quota, of a host's other guests) for nothing. So after a loss spins are left
//! out, twice as many after each further one; the first one that is won begins anew.

use kernel::sync::atomic::{Atomic, Relaxed};

/// The most spins that are left out after a loss.
const MOST: u32 = 256;

/// How many wake-ups a load may take: from there on a tenth of its time, or less, could be saved.
const WORTH: u32 = 10;

/// Of one lane. The numbers may miss a change that another processor makes at the same time.
pub(crate) struct Spin {
    /// How many are still to be left out.
    skip: Atomic<u32>,
    /// How many are left out after the next loss.
    penalty: Atomic<u32>,
}

impl Spin {
    /// Nothing was lost yet.
    pub(crate) fn new() -> Self {
        Self {
            skip: Atomic::new(0),
            penalty: Atomic::new(1),
        }
    }

    /// For how many microseconds to spin, `most` at the most, where a load usually takes `usual_us` and a wake-up
    /// `wake_us`.
    pub(crate) fn budget(&self, usual_us: u32, wake_us: u32, most: u32) -> u32 {
        if usual_us > most.min(wake_us.saturating_mul(WORTH)) {
            return 0;
        }
        match self.skip.load(Relaxed) {
            // Twice what is usual, and a little where nothing is known yet.
            0 => (usual_us * 2 + 20).min(most),
            n => {
                self.skip.store(n - 1, Relaxed);
                0
            }
        }
    }

    /// A spin has ended; whether the page came in time.
    pub(crate) fn ended(&self, won: bool) {
        if won {
            self.penalty.store(1, Relaxed);
        } else {
            let penalty = self.penalty.load(Relaxed);
            self.skip.store(penalty, Relaxed);
            self.penalty.store((penalty * 2).min(MOST), Relaxed);
        }
    }
}
