// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The power goes at any moment, again and again: nothing that was acknowledged is missing.
//!
//! `MEMSRV_TEST_SEED` runs one seed; a failure names its own.

use memsrv_protocol::FreeMask;
use memsrvd::arena::Arena;
use memsrvd::num::to_usize;

use crate::machine::*;
use crate::sim::{Faults, Random, Sim};

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("MEMSRV_TEST_SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..count).collect(),
    }
}

/// Names the seed of a test that fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("MEMSRV_TEST_SEED={}", self.0);
        }
    }
}

fn anything(random: &mut Random, clients: &mut [Client], machine: &mut Machine) {
    let client = &mut clients[to_usize(random.below(2))];
    let slot = random.below(4) * 512 + random.below(8);
    match random.below(100) {
        0..60 => client.store(machine, slot),
        60..70 => {
            let mut mask = FreeMask::EMPTY;
            (0..8)
                .filter(|_| random.below(3) == 0)
                .for_each(|bit| mask.insert(bit));
            client.free(machine, slot / 512 * 512, mask);
        }
        70..71 => client.disconnect(),
        71..72 if random.below(3) == 0 => client.reborn(machine),
        _ => {
            machine.writer.step();
        }
    }
    for client in clients {
        client.settle();
        client.connect(machine);
    }
}

/// Everything that was acknowledged is there before anything is sent again, and everything after that.
fn check(machine: &mut Machine, clients: &mut [Client]) {
    for client in clients.iter() {
        let mut copy = client.silent();
        copy.connect(machine);
        for (slot, may) in client.may_hold() {
            let got = copy.load(slot);
            assert!(
                may.contains(&got),
                "slot {slot} holds {got:?}, not one of {may:?}"
            );
        }
    }
    for client in clients.iter_mut() {
        assert!(client.connect(machine));
    }
    while machine.writer.step() {}
    for client in clients {
        client.settle();
        client.check(true);
    }
}

/// One run of ups and downs; gives back the arena and how many compactions were done.
fn run(seed: u64, ack: bool, arena: Arena) -> Arena {
    let _seed = Seed(seed);
    let mut random = Random(seed);
    // Small enough that segments, compactions and refusals come often.
    let options = options(ack, 44 * 1024);
    let mut sim = Sim::default();
    let mut clients = [Client::new("a"), Client::new("b")];
    let mut machine = Machine::boot(&sim, arena, &options).ok().unwrap();
    for _ in 0..4 {
        let len = 20 + random.below(500);
        let from = sim.operations();
        sim.faults(Faults {
            cut: Some(from + 1 + random.below(len)),
            ..Faults::default()
        });
        for client in &mut clients {
            client.connect(&mut machine);
        }
        for _ in 0..len {
            anything(&mut random, &mut clients, &mut machine);
            assert!(sim.bytes() <= machine.bound());
            if sim.is_dead() {
                break;
            }
        }
        let before = machine.instance();
        for client in &mut clients {
            client.settle();
            client.refused = None;
            client.disconnect();
        }
        let in_order = !sim.is_dead() && random.below(2) == 0;
        if in_order {
            sim.faults(Faults::default());
            let arena = machine.stop();
            sim = sim.copy();
            machine = Machine::boot(&sim, arena, &options).ok().unwrap();
        } else {
            let arena = machine.off();
            sim = sim.after_power_cut(&mut random);
            machine = Machine::boot(&sim, arena, &options).ok().unwrap();
        }
        if ack || in_order {
            assert_eq!(machine.instance(), before, "another instance");
        } else {
            assert_ne!(machine.instance(), before, "pages may be missing");
            assert_eq!(machine.shared.used_pages(), 0);
            clients = [Client::new("a"), Client::new("b")];
        }
        check(&mut machine, &mut clients);
    }
    clients.iter_mut().for_each(Client::disconnect);
    machine.off()
}

#[test]
fn a_power_cut_at_any_moment_loses_nothing_that_was_acknowledged() {
    let mut arena = arena();
    for seed in seeds(60) {
        arena = run(seed, true, arena);
    }
}

#[test]
fn where_acknowledgements_do_not_wait_a_power_cut_begins_a_new_instance() {
    let mut arena = arena();
    for seed in seeds(20) {
        arena = run(seed, false, arena);
    }
}

/// The same, but the power goes while the log is being compacted.
#[test]
fn a_power_cut_during_a_compaction_loses_nothing_that_was_acknowledged() {
    let mut arena = arena();
    let options = options(true, 44 * 1024);
    let mut during = 0;
    for seed in seeds(40) {
        let _seed = Seed(seed);
        let mut random = Random(seed);
        let sim = Sim::default();
        let mut clients = [Client::new("a"), Client::new("b")];
        let mut machine = Machine::boot(&sim, arena, &options).ok().unwrap();
        let report = |machine: &Machine| {
            let log = machine.shared.persist.as_ref().unwrap();
            log.report(machine.shared.used_pages())
        };
        for client in &mut clients {
            client.connect(&mut machine);
        }
        for slot in 0.. {
            clients[0].store(&mut machine, slot % 40);
            machine.writer.step();
            clients[0].settle();
            if report(&machine).compacting {
                break;
            }
        }
        sim.faults(Faults {
            cut: Some(sim.operations() + 1 + random.below(30)),
            ..Faults::default()
        });
        while !sim.is_dead() {
            during += u64::from(report(&machine).compacting);
            anything(&mut random, &mut clients, &mut machine);
        }
        for client in &mut clients {
            client.settle();
            client.refused = None;
            client.disconnect();
        }
        let before = machine.instance();
        arena = machine.off();
        let sim = sim.after_power_cut(&mut random);
        machine = Machine::boot(&sim, arena, &options).ok().unwrap();
        assert_eq!(machine.instance(), before, "another instance");
        check(&mut machine, &mut clients);
        clients.iter_mut().for_each(Client::disconnect);
        arena = machine.off();
    }
    assert!(
        during > 40,
        "the power seldom went during a compaction: {during}"
    );
}
