// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Who waits for a page without sleeping: where it pays, and no longer than allowed.

use super::common::config;
use memsrv_engine::{Spin, Taken};
use proptest::prelude::*;

const WAKE_US: u32 = 50;
const MOST_US: u32 = 2000;

/// A machine on which a load takes so long if tasks sleep, or spin.
struct Machine {
    sleeping_us: u32,
    spinning_us: u32,
}

impl Machine {
    /// How many of so many loads are waited for without sleeping; each of these is won.
    fn spins(&self, spin: &mut Spin, loads: u32) -> u32 {
        let mut spins = 0;
        for _ in 0..loads {
            let mut taken = Taken::default();
            // What it will have taken is known when the next one begins; here, at once, for both are the same then.
            let us = spin.budget(Taken::default(), 100, WAKE_US, MOST_US);
            let spun = us > 0;
            if spun {
                spin.ended(true);
                spins += 1;
            }
            taken.add(if spun {
                self.spinning_us
            } else {
                self.sleeping_us
            });
            spin.budget(taken, 100, WAKE_US, MOST_US);
        }
        spins
    }
}

#[test]
fn spins_where_that_makes_loads_quicker() {
    let machine = Machine {
        sleeping_us: 300,
        spinning_us: 280,
    };
    let spins = machine.spins(&mut Spin::default(), 10_000);
    assert!(spins > 9_500, "{spins} of 10000");
}

#[test]
fn a_wake_up_counts_for_sleeping() {
    // A little slower, but by less than a wake-up.
    let machine = Machine {
        sleeping_us: 300,
        spinning_us: 330,
    };
    let spins = machine.spins(&mut Spin::default(), 10_000);
    assert!(spins > 9_500, "{spins} of 10000");
}

#[test]
fn sleeps_where_spinning_takes_the_time_of_who_makes_the_pages_come() {
    let machine = Machine {
        sleeping_us: 300,
        spinning_us: 600,
    };
    let spins = machine.spins(&mut Spin::default(), 10_000);
    assert!(spins < 500, "{spins} of 10000");
    assert!(spins > 0, "it was never tried");
}

#[test]
fn finds_out_when_it_begins_to_pay_and_when_it_no_longer_does() {
    let (idle, busy) = (
        Machine {
            sleeping_us: 300,
            spinning_us: 280,
        },
        Machine {
            sleeping_us: 300,
            spinning_us: 600,
        },
    );
    let mut spin = Spin::default();
    for _ in 0..3 {
        // As long as a trial is left out, and then some.
        idle.spins(&mut spin, 3_000);
        let spins = idle.spins(&mut spin, 3_000);
        assert!(spins > 2_700, "{spins} of 3000 where it pays");
        busy.spins(&mut spin, 3_000);
        let spins = busy.spins(&mut spin, 3_000);
        assert!(spins < 300, "{spins} of 3000 where it does not");
    }
}

#[test]
fn one_slow_moment_is_soon_forgotten() {
    let usual = Machine {
        sleeping_us: 300,
        spinning_us: 280,
    };
    let slow = Machine {
        sleeping_us: 300,
        spinning_us: 5_000,
    };
    let mut spin = Spin::default();
    usual.spins(&mut spin, 10_000);
    // Until it no longer spins.
    slow.spins(&mut spin, 40);
    let spins = usual.spins(&mut spin, 1_000);
    assert!(spins > 500, "{spins} of 1000");
}

#[test]
fn says_what_loads_took() {
    let mut spin = Spin::default();
    assert_eq!(spin.means_us(), [0, 0]);
    let machine = Machine {
        sleeping_us: 300,
        spinning_us: 600,
    };
    machine.spins(&mut spin, 100);
    assert_eq!(spin.means_us(), [300, 600]);
}

#[test]
fn after_each_further_loss_twice_as_many_are_left_out() {
    let mut spin = Spin::default();
    let mut left_out = || {
        spin.ended(false);
        let mut n = 0;
        while spin.budget(Taken::default(), 100, WAKE_US, MOST_US) == 0 {
            n += 1;
        }
        n
    };
    let losses: Vec<u32> = (0..11).map(|_| left_out()).collect();
    assert_eq!(losses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256]);
    spin.ended(true);
    spin.ended(false);
    assert_eq!(spin.budget(Taken::default(), 100, WAKE_US, MOST_US), 0);
    assert_ne!(spin.budget(Taken::default(), 100, WAKE_US, MOST_US), 0);
}

#[test]
fn a_long_load_is_slept_for() {
    let budget = |usual_us, most| Spin::default().budget(Taken::default(), usual_us, WAKE_US, most);
    assert_eq!(budget(500, MOST_US), 1020);
    assert_eq!(budget(501, MOST_US), 0, "more than ten wake-ups");
    assert_eq!(budget(100, 99), 0, "more than is allowed");
    assert_eq!(budget(100, 100), 100);
    assert_eq!(budget(0, MOST_US), 20, "nothing is known");
}

proptest! {
    #![proptest_config(config(400))]

    /// Whatever was seen.
    #[test]
    fn never_spins_for_longer_than_allowed(
        most in 0..10_000_u32,
        seen in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>(), any::<bool>()), 1..200),
    ) {
        let mut spin = Spin::default();
        for (loads, us, usual_us, wake_us, won) in seen {
            let budget = spin.budget(Taken { loads, us }, usual_us, wake_us, most);
            prop_assert!(budget <= most);
            if budget > 0 {
                spin.ended(won);
            }
        }
    }
}
