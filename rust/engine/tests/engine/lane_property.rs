// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Whatever two servers and their networks do: no wrong page, everything ends once, and no load fails while
//! a server that may be asked has the page.

use super::common::config;
use super::lane_world::{Event, Step, Trouble, World};
use super::sim::Counts;
use memsrv_engine::Replica;
use memsrv_protocol::Status;
use proptest::prelude::*;

fn bytes() -> impl Strategy<Value = usize> {
    prop_oneof![2 => 0..80_usize, 3 => 2000..4300_usize, 3 => 0..40_000_usize]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (1..12_u8).prop_map(|messages| Event::Send { messages }),
        6 => bytes().prop_map(|bytes| Event::Up { bytes }),
        4 => prop::collection::vec(0..8_usize, 1..8).prop_map(|which| Event::Answer { which }),
        3 => Just(Event::Acknowledge),
        3 => Just(Event::Flush),
        6 => bytes().prop_map(|bytes| Event::Down { bytes }),
        1 => (bytes(), bytes()).prop_map(|(up, down)| Event::Break { up, down }),
        3 => Just(Event::Connect),
    ]
}

/// Loads only, most of them asked of both, their pages coming in by pieces.
fn load_step() -> impl Strategy<Value = Step> {
    let event = prop_oneof![
        6 => Just(Event::Send { messages: 9 }),
        6 => Just(Event::Up { bytes: usize::MAX }),
        6 => prop::collection::vec(0..8_usize, 1..4).prop_map(|which| Event::Answer { which }),
        12 => (0..6000_usize).prop_map(|bytes| Event::Down { bytes }),
        1 => (0..6000_usize).prop_map(|down| Event::Break { up: 0, down }),
        2 => Just(Event::Connect),
    ];
    prop_oneof![
        4 => (any::<usize>(), 1..5_u16).prop_map(|(which, count)| Step::Load { which, count }),
        2 => Just(Step::Hedge { age_ms: 0 }),
        2 => Just(Step::Wait { ms: 1 }),
        20 => (replica(), event).prop_map(|(replica, event)| Step::On(0, replica, event)),
        3 => replica().prop_map(Step::DamageNext),
    ]
}

/// A resync of the mirror, mostly, with whatever else goes on.
fn resync_step() -> impl Strategy<Value = Step> {
    let event = prop_oneof![
        30 => Just(Event::Flush),
        4 => event(),
        8 => Just(Event::Connect),
    ];
    let weak = || prop_oneof![9 => Just(Replica::Mirror), 1 => Just(Replica::Primary)];
    prop_oneof![
        12 => any::<u8>().prop_map(|slot| Step::Store { slot }),
        6 => (any::<usize>(), 1..4_u16).prop_map(|(which, count)| Step::Load { which, count }),
        4 => any::<u8>().prop_map(|slot| Step::Invalidate { slot }),
        4 => Just(Step::FreeFlagged),
        40 => (replica(), event).prop_map(|(replica, event)| Step::On(0, replica, event)),
        16 => weak().prop_map(Step::Refill),
        24 => (weak(), 0..4_usize).prop_map(|(replica, which)| Step::Fetch { replica, which }),
        16 => (weak(), 0..4_usize).prop_map(|(replica, which)| Step::Deliver { replica, which }),
        1 => replica().prop_map(Step::Kill),
        1 => replica().prop_map(Step::DamageNext),
    ]
}

fn replica() -> impl Strategy<Value = Replica> {
    prop_oneof![Just(Replica::Primary), Just(Replica::Mirror)]
}

fn step() -> impl Strategy<Value = Step> {
    let status = prop_oneof![Just(Status::Full), Just(Status::BadChecksum)];
    prop_oneof![
        8 => any::<u8>().prop_map(|slot| Step::Store { slot }),
        14 => (any::<usize>(), prop_oneof![2 => Just(1), 1 => 2..5_u16])
            .prop_map(|(which, count)| Step::Load { which, count }),
        2 => any::<u8>().prop_map(|slot| Step::Invalidate { slot }),
        2 => Just(Step::FreeFlagged),
        8 => (0..8_u64).prop_map(|age_ms| Step::Hedge { age_ms }),
        3 => (0..20_u64).prop_map(|ms| Step::Wait { ms }),
        1 => (5..100_u64).prop_map(|age_ms| Step::Expire { age_ms }),
        40 => (any::<usize>(), replica(), event()).prop_map(|(l, r, e)| Step::On(l, r, e)),
        1 => replica().prop_map(Step::Kill),
        1 => (replica(), any::<usize>()).prop_map(|(replica, which)| Step::Lose { replica, which }),
        1 => (replica(), status).prop_map(|(replica, status)| Step::RefuseNext { replica, status }),
        2 => replica().prop_map(Step::DamageNext),
        6 => replica().prop_map(Step::Refill),
        8 => (replica(), 0..4_usize).prop_map(|(replica, which)| Step::Fetch { replica, which }),
        8 => (replica(), 0..4_usize).prop_map(|(replica, which)| Step::Deliver { replica, which }),
    ]
}

fn trouble() -> impl Strategy<Value = Trouble> {
    prop_oneof![
        replica().prop_map(Trouble::One),
        Just(Trouble::Breaks),
        Just(Trouble::Any),
    ]
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn two_servers_lose_nothing_that_one_has(
        lanes in 1..=2_usize,
        capacity in prop_oneof![1 => 2..12_usize, 3 => Just(1000)],
        window in prop_oneof![1 => 1..8_usize, 2 => Just(64)],
        trouble in trouble(),
        strict in prop::bool::weighted(0.2),
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let mut world = World::new(lanes, capacity, window, trouble, strict);
        for step in &steps {
            world.step(step);
        }
        world.settle();
    }
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn loads_asked_of_both_are_filled_by_one(steps in prop::collection::vec(load_step(), 1..300)) {
        let mut world = World::new(1, 1000, 64, Trouble::Any, false);
        for slot in 0..24 {
            world.step(&Step::Store { slot });
            if slot % 8 == 7 {
                world.settle();
            }
        }
        for step in &steps {
            world.step(step);
        }
        world.settle();
    }
}

/// A mirror that comes back empty while pages are there.
fn resyncing(trouble: Trouble) -> World {
    let mut world = World::new(1, 1000, 64, trouble, false);
    for slot in 0..24 {
        world.step(&Step::Store { slot });
        if slot % 8 == 7 {
            world.settle();
        }
    }
    world.step(&Step::Kill(Replica::Mirror));
    let gone = Event::Break { up: 0, down: 0 };
    world.step(&Step::On(0, Replica::Mirror, gone));
    world.step(&Step::On(0, Replica::Mirror, Event::Connect));
    world
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn a_resync_loses_and_revives_nothing(
        trouble in prop_oneof![3 => Just(Trouble::One(Replica::Mirror)), 1 => Just(Trouble::Any)],
        steps in prop::collection::vec(resync_step(), 1..300),
    ) {
        let mut world = resyncing(trouble);
        for step in &steps {
            world.step(step);
        }
        world.settle();
    }
}

/// The random steps of a resync reach what they are meant to test.
#[test]
fn the_simulation_of_a_resync_reaches_every_end() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let (mut resyncs, mut overtaken) = (0, 0);
    for _ in 0..32 {
        let steps = prop::collection::vec(resync_step(), 300);
        let steps = steps.new_tree(&mut runner).unwrap().current();
        let mut world = resyncing(Trouble::One(Replica::Mirror));
        for step in &steps {
            world.step(step);
        }
        resyncs += world.resyncs;
        overtaken += world.overtaken();
        world.settle();
    }
    println!("resyncs {resyncs}, pages overtaken {overtaken}");
    assert!(resyncs > 20 && overtaken > 20);
}

/// The random steps reach what they are meant to test.
#[test]
fn the_simulation_of_two_servers_reaches_every_end() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let mut sums = Counts::default();
    let (mut kills, mut resyncs, mut fell) = (0, 0, 0);
    for trouble in [
        Trouble::One(Replica::Primary),
        Trouble::One(Replica::Mirror),
        Trouble::Breaks,
        Trouble::Any,
    ]
    .repeat(8)
    {
        let steps = prop::collection::vec(step(), 500);
        let steps = steps.new_tree(&mut runner).unwrap().current();
        let mut world = World::new(2, 20, 16, trouble, false);
        for step in &steps {
            world.step(step);
        }
        world.settle();
        kills += world.kills;
        resyncs += world.resyncs;
        fell += world.book.fell.borrow().len();
        for lane in &world.lanes {
            let Counts {
                stored,
                refused,
                expired,
                no_target,
                loaded,
                gone,
                damaged,
                loads_expired,
                hedged,
                skipped,
            } = lane.counts;
            sums.stored += stored;
            sums.refused += refused;
            sums.expired += expired;
            sums.no_target += no_target;
            sums.loaded += loaded;
            sums.gone += gone;
            sums.damaged += damaged;
            sums.loads_expired += loads_expired;
            sums.hedged += hedged;
            sums.skipped += skipped;
        }
    }
    println!("{sums:?}, kills {kills}, resyncs {resyncs}, fell behind {fell}");
    assert!(sums.stored > 500 && sums.loaded > 500 && sums.refused > 30);
    assert!(sums.hedged > 50 && sums.skipped > 20 && kills > 20 && resyncs > 20 && fell > 50);
    assert!(sums.expired > 5 && sums.no_target > 0 && sums.gone > 0 && sums.loads_expired > 0);
}
