// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! When a task waits for its page without sleeping: where that is found to pay.
//!
//! What it saves is a wake-up, and what it costs is the processor's time until the page is there. Three things are
//! looked at.
//!
//! - A load must take no more than some wake-ups: where these are cheap or the way to the server is long, tasks sleep.
//! - A spin that ends in a sleep has cost processor time (of a container's quota, of a host's other guests) for
//!   nothing. So after a loss spins are left out, twice as many after each further one; the first one that is won
//!   begins anew.
//! - The time may be taken from who makes the pages come: a server, or a network's thread, on the same machine or on
//!   the host of this one. Nothing tells us that but the loads themselves. So both are done in turn, for a phase of
//!   some loads each, and what was found to be quicker is done in most.

/// The most spins that are left out after a loss.
const MOST_LEFT_OUT: u32 = 256;

/// How many wake-ups a load may take: from there on a tenth of its time, or less, could be saved.
const WORTH: u32 = 10;

/// How many loads are a phase; what they take is spread as widely as their mean.
const PHASE: u32 = 16;

/// After so many phases what was found to be slower is tried again, for one, as that may have changed: twice as many
/// each time that it was no better, up to these.
const FIRST_GAP: u32 = 2;
const MOST_GAP: u32 = 64;

/// The longest load that counts, of what is usual: one that met an accident would decide for many.
const MOST_USUAL: u32 = 4;

/// What loads took that a task waited for, since that was last asked: of those that began in phases of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// How many loads there were.
    pub loads: u32,
    /// What they took, together, in microseconds.
    pub us: u32,
}

impl Taken {
    /// One more that took so many microseconds, where `usual_us` are usual, or 0 where that is not known.
    pub fn add(&mut self, us: u32, usual_us: u32) {
        let most = match usual_us {
            0 => u32::MAX,
            usual_us => usual_us.saturating_mul(MOST_USUAL),
        };
        self.loads = self.loads.saturating_add(1);
        self.us = self.us.saturating_add(us.min(most));
    }
}

/// Whether to spin, and for how long.
#[derive(Debug)]
pub struct Spin {
    /// How many spins are still to be left out.
    left_out: u32,
    /// How many are left out after the next loss.
    penalty: u32,
    /// What the loads of this phase have taken so far.
    taken: Taken,
    /// Whether spinning was quicker in the end.
    better: bool,
    /// The phases until the other is tried, which it is when there are none, and how many that were.
    left: u32,
    gap: u32,
    /// What a load takes where tasks sleep, and where they spin, in microseconds: of what is better each phase
    /// counts for a half, of the other the last. 0 before one was seen.
    means_us: [u32; 2],
}

impl Default for Spin {
    fn default() -> Self {
        Self {
            left_out: 0,
            penalty: 1,
            taken: Taken::default(),
            better: true,
            left: 1,
            gap: FIRST_GAP,
            means_us: [0; 2],
        }
    }
}

impl Spin {
    /// Whether this phase is one of spins: which loads that begin now count for.
    pub fn is_spinning(&self) -> bool {
        self.better == (self.left > 0)
    }

    /// For how many microseconds to spin, `most` at the most, where a load usually takes `usual_us` and a wake-up
    /// `wake_us`; and what loads have taken since that was last asked, those that began in phases in which tasks sleep,
    /// and spin.
    pub fn budget(&mut self, taken: [Taken; 2], usual_us: u32, wake_us: u32, most: u32) -> u32 {
        self.look(taken, wake_us);
        if !self.is_spinning() || usual_us > most.min(wake_us.saturating_mul(WORTH)) {
            return 0;
        }
        if self.left_out > 0 {
            self.left_out -= 1;
            return 0;
        }
        // Twice what is usual, and a little where nothing is known yet.
        usual_us.saturating_mul(2).saturating_add(20).min(most)
    }

    /// A spin has ended; whether the page came in time.
    pub fn ended(&mut self, won: bool) {
        if won {
            self.penalty = 1;
        } else {
            self.left_out = self.penalty;
            self.penalty = self.penalty.saturating_mul(2).min(MOST_LEFT_OUT);
        }
    }

    /// What a load takes where tasks sleep, and where they spin, in microseconds; 0 before one was seen.
    pub fn means_us(&self) -> [u32; 2] {
        self.means_us
    }

    fn look(&mut self, [sleeping, spinning]: [Taken; 2], wake_us: u32) {
        // What began in the other kind of phase, and took until now, tells nothing of this one.
        let taken = if self.is_spinning() {
            spinning
        } else {
            sleeping
        };
        self.taken.loads = self.taken.loads.saturating_add(taken.loads);
        self.taken.us = self.taken.us.saturating_add(taken.us);
        if self.taken.loads < PHASE {
            return;
        }
        let now = self.taken.us / self.taken.loads;
        self.taken = Taken::default();
        let tried = self.left == 0;
        let [sleeping_us, spinning_us] = &mut self.means_us;
        let mean = if self.better == tried {
            &mut *sleeping_us
        } else {
            &mut *spinning_us
        };
        // What was known of what is tried is old.
        *mean = if tried || *mean == 0 {
            now
        } else {
            mean.midpoint(now)
        };
        // Who sleeps has to be woken then.
        let better = *spinning_us <= sleeping_us.saturating_add(wake_us);
        if better != self.better {
            self.better = better;
            self.gap = FIRST_GAP;
            self.left = self.gap;
        } else if tried {
            self.gap = self.gap.saturating_mul(2).min(MOST_GAP);
            self.left = self.gap;
        } else {
            self.left -= 1;
        }
    }
}
