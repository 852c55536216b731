// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Who waits for a page without sleeping: where it pays, and no longer than allowed.

use super::common::config;
use memsrv_engine::{Spin, Taken};
use proptest::prelude::*;
use std::collections::BTreeSet;

const WAKE_US: u32 = 50;
const MOST_US: u32 = 2000;

/// Nothing has come since.
const NOTHING: [Taken; 2] = [Taken { loads: 0, us: 0 }; 2];

/// A machine on which a load takes so long if tasks sleep, or spin.
struct Machine {
    tasks: usize,
    sleeping_us: u32,
    spinning_us: u32,
    /// One load in so many takes 10 ms.
    accidents: u32,
}

impl Machine {
    fn new(sleeping_us: u32, spinning_us: u32) -> Self {
        Self {
            tasks: 1,
            sleeping_us,
            spinning_us,
            accidents: u32::MAX,
        }
    }

    /// How many of so many loads are waited for without sleeping; each of these is won. Each task asks for the next one
    /// when it has the last.
    fn spins(&self, spin: &mut Spin, loads: u32) -> u32 {
        // When a load ends, whose it is, whether it began in a phase of spins, and what it took.
        let mut under_way: BTreeSet<(u64, usize, bool, u32)> =
            (0..self.tasks).map(|task| (0, task, false, 0)).collect();
        let mut taken = NOTHING;
        let (mut spins, mut usual_us) = (0, 0);
        for n in 1..=loads {
            let (now, task, spinning, us) = under_way.pop_first().unwrap();
            if us > 0 {
                taken[usize::from(spinning)].add(us, usual_us);
                usual_us = usual_us - usual_us / 8 + us / 8;
            }
            let spinning = spin.is_spinning();
            let spun = spin.budget(std::mem::take(&mut taken), 100, WAKE_US, MOST_US) > 0;
            if spun {
                spin.ended(true);
                spins += 1;
            }
            let us = match (n % self.accidents, spun) {
                (0, _) => 10_000,
                (_, true) => self.spinning_us,
                (_, false) => self.sleeping_us,
            };
            under_way.insert((now + u64::from(us), task, spinning, us));
        }
        spins
    }
}

#[test]
fn spins_where_that_makes_loads_quicker() {
    let machine = Machine::new(300, 280);
    let spins = machine.spins(&mut Spin::default(), 10_000);
    assert!(spins > 9_500, "{spins} of 10000");
}

#[test]
fn a_wake_up_counts_for_sleeping() {
    // A little slower, but by less than a wake-up.
    let machine = Machine::new(300, 330);
    let spins = machine.spins(&mut Spin::default(), 10_000);
    assert!(spins > 9_500, "{spins} of 10000");
}

#[test]
fn sleeps_where_spinning_takes_the_time_of_who_makes_the_pages_come() {
    let machine = Machine::new(300, 600);
    let spins = machine.spins(&mut Spin::default(), 10_000);
    assert!(spins < 500, "{spins} of 10000");
    assert!(spins > 0, "it was never tried");
}

#[test]
fn finds_out_when_it_begins_to_pay_and_when_it_no_longer_does() {
    let (idle, busy) = (Machine::new(300, 280), Machine::new(300, 600));
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
    let usual = Machine::new(300, 280);
    let slow = Machine::new(300, 5_000);
    let mut spin = Spin::default();
    usual.spins(&mut spin, 10_000);
    // Until it no longer spins.
    slow.spins(&mut spin, 40);
    let spins = usual.spins(&mut spin, 1_000);
    assert!(spins > 500, "{spins} of 1000");
}

#[test]
fn what_is_under_way_when_phases_change_does_not_count_for_the_next() {
    for tasks in [1, 4, 8, 16, 64] {
        let good = Machine {
            tasks,
            ..Machine::new(300, 280)
        };
        let spins = good.spins(&mut Spin::default(), 40_000);
        assert!(
            spins > 36_000,
            "{tasks} tasks: {spins} of 40000 where it pays"
        );
        let bad = Machine {
            tasks,
            ..Machine::new(300, 600)
        };
        let spins = bad.spins(&mut Spin::default(), 40_000);
        assert!(
            spins < 4_000,
            "{tasks} tasks: {spins} of 40000 where it does not"
        );
    }
}

#[test]
fn an_accident_does_not_decide() {
    let good = Machine {
        accidents: 100,
        ..Machine::new(300, 280)
    };
    let spins = good.spins(&mut Spin::default(), 40_000);
    assert!(spins > 36_000, "{spins} of 40000 where it pays");
    let bad = Machine {
        accidents: 100,
        ..Machine::new(300, 600)
    };
    let spins = bad.spins(&mut Spin::default(), 40_000);
    assert!(spins < 4_000, "{spins} of 40000 where it does not");
}

#[test]
fn says_what_loads_took() {
    let mut spin = Spin::default();
    assert_eq!(spin.means_us(), [0, 0]);
    let machine = Machine::new(300, 600);
    machine.spins(&mut spin, 100);
    assert_eq!(spin.means_us(), [300, 600]);
}

#[test]
fn after_each_further_loss_twice_as_many_are_left_out() {
    let mut spin = Spin::default();
    let mut left_out = || {
        spin.ended(false);
        let mut n = 0;
        while spin.budget(NOTHING, 100, WAKE_US, MOST_US) == 0 {
            n += 1;
        }
        n
    };
    let losses: Vec<u32> = (0..11).map(|_| left_out()).collect();
    assert_eq!(losses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 256, 256]);
    spin.ended(true);
    spin.ended(false);
    assert_eq!(spin.budget(NOTHING, 100, WAKE_US, MOST_US), 0);
    assert_ne!(spin.budget(NOTHING, 100, WAKE_US, MOST_US), 0);
}

#[test]
fn a_long_load_is_slept_for() {
    let budget = |usual_us, most| Spin::default().budget(NOTHING, usual_us, WAKE_US, most);
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
            let budget = spin.budget([Taken { loads, us }; 2], usual_us, wake_us, most);
            prop_assert!(budget <= most);
            if budget > 0 {
                spin.ended(won);
            }
        }
    }
}
