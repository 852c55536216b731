// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The disk fills up, or fails; and however much is written, the log does not outgrow its bound.

use memsrv_protocol::{FreeMask, Status};
use memsrvd::num::to_u64;
use memsrvd::persist::{Health, PersistReport};

use crate::machine::*;
use crate::sim::{Faults, Random, Sim};

fn report(machine: &Machine) -> PersistReport {
    let log = machine.shared.persist.as_ref().unwrap();
    log.report(machine.shared.used_pages())
}

fn health(machine: &Machine) -> Health {
    machine.shared.persist.as_ref().unwrap().health()
}

fn settle(client: &mut Client, machine: &mut Machine) {
    while machine.writer.step() {}
    client.settle();
    client.connect(machine);
}

fn restarted(client: &mut Client, machine: Machine) -> Machine {
    let options = options(true, 44 * 1024);
    let sim = machine.sim.copy();
    client.disconnect();
    let arena = machine.off();
    let machine = Machine::boot(&sim, arena, &options).ok().unwrap();
    client.refused = None;
    machine
}

/// Nothing of a group that could not be synced is acknowledged, then or later, though a second sync would
/// say that all is well. Loads go on, stores are refused, frees are done; and the log is not resumed.
#[test]
fn a_sync_that_failed_is_final() {
    let mut arena = arena();
    for at in 0..8 {
        let sim = Sim::default();
        let mut machine = Machine::boot(&sim, arena, &options(true, 44 * 1024))
            .ok()
            .unwrap();
        let mut client = Client::new("a");
        client.connect(&mut machine);
        (0..at).for_each(|slot| client.store(&mut machine, slot));
        settle(&mut client, &mut machine);
        assert_eq!(client.owed(), 0);
        let from = sim.operations();
        sim.faults(Faults {
            sync: Some((from, 1)),
            ..Faults::default()
        });
        (0..3).for_each(|slot| client.store(&mut machine, slot));
        machine.writer.step();
        assert_eq!(health(&machine), Health::Withdrawn, "the disk works again");
        assert_eq!(report(&machine).health, "failed");
        client.settle();
        assert_eq!((client.owed(), client.refused), (3, Some(Status::Full)));
        // It comes back, and says again what was not acknowledged.
        client.refused = None;
        client.connect(&mut machine);
        client.settle();
        assert!(client.was_refused());
        assert_eq!((client.owed(), client.refused), (0, None));
        for slot in 3..at {
            assert_eq!(client.load(slot), Got::Page(slot + 1));
        }
        client.free(&mut machine, 0, FreeMask::ALL);
        client.settle();
        assert_eq!(client.owed(), 0);
        let before = machine.instance();
        let mut machine = restarted(&mut client, machine);
        assert_ne!(machine.instance(), before);
        client.connect(&mut machine);
        client.check_empty();
        client.disconnect();
        arena = machine.off();
    }
}

/// A disk that is dead from one moment on: the log on it stays as it was, and is good. So a free that came
/// after that must not be acknowledged.
#[test]
fn a_disk_that_died_keeps_what_was_acknowledged_and_no_free_is_acknowledged_after() {
    let sim = Sim::default();
    let mut machine = Machine::boot(&sim, arena(), &options(true, 44 * 1024))
        .ok()
        .unwrap();
    let mut client = Client::new("a");
    client.connect(&mut machine);
    (0..6).for_each(|slot| client.store(&mut machine, slot));
    settle(&mut client, &mut machine);
    assert_eq!(client.owed(), 0);
    sim.faults(Faults {
        sync: Some((0, u64::MAX)),
        ..Faults::default()
    });
    client.store(&mut machine, 0);
    machine.writer.step();
    client.settle();
    client.connect(&mut machine);
    assert_eq!(health(&machine), Health::Failed);
    let owed = client.owed();
    client.free(&mut machine, 0, FreeMask::ALL);
    machine.writer.step();
    client.settle();
    assert_eq!(client.owed(), owed + 1);
    // The machine is given a power cut and a working controller.
    let before = machine.instance();
    client.disconnect();
    let arena = machine.off();
    let sim = sim.after_power_cut(&mut Random(3));
    let mut machine = Machine::boot(&sim, arena, &options(true, 44 * 1024))
        .ok()
        .unwrap();
    if machine.instance() == before {
        let may = client.may_hold();
        let mut copy = client.silent();
        copy.connect(&mut machine);
        for (slot, may) in may {
            assert!(may.contains(&copy.load(slot)), "slot {slot}");
        }
    } else {
        assert_eq!(machine.shared.used_pages(), 0);
    }
}

/// No room on the disk is no failure: stores are refused until there is, frees go on, nothing is lost.
#[test]
fn a_full_disk_refuses_stores_until_it_has_room() {
    let sim = Sim::default();
    let mut machine = Machine::boot(&sim, arena(), &options(true, 44 * 1024))
        .ok()
        .unwrap();
    let mut client = Client::new("a");
    client.connect(&mut machine);
    sim.faults(Faults {
        room: Some(sim.bytes() + 1000),
        ..Faults::default()
    });
    let mut done = 0;
    while health(&machine) == Health::Good {
        client.store(&mut machine, done % 8);
        settle(&mut client, &mut machine);
        done += 1;
        assert!(done < 1000, "it never fills up");
    }
    assert!(!client.was_refused(), "refused before it was full");
    assert_eq!(report(&machine).health, "full");
    client.store(&mut machine, 1);
    settle(&mut client, &mut machine);
    assert!(client.was_refused());
    for n in 0..20 {
        let mut mask = FreeMask::EMPTY;
        mask.insert(n % 4);
        client.free(&mut machine, 0, mask);
        settle(&mut client, &mut machine);
    }
    assert_eq!((client.owed(), client.refused), (0, None));
    client.check(true);
    let before = machine.instance();
    let mut machine = restarted(&mut client, machine);
    assert_eq!(machine.instance(), before);
    client.connect(&mut machine);
    client.check(true);
    // And room comes.
    let sim = machine.sim.clone();
    sim.faults(Faults {
        room: Some(sim.bytes()),
        ..Faults::default()
    });
    while health(&machine) == Health::Good {
        client.store(&mut machine, 6);
        settle(&mut client, &mut machine);
    }
    sim.faults(Faults::default());
    machine.writer.step();
    assert_eq!(health(&machine), Health::Good);
    client.store(&mut machine, 6);
    settle(&mut client, &mut machine);
    client.check(true);
}

/// The disk is slow: stores are refused as the queue fills, loads are answered all the while, and a free that
/// finds no room waits for the next group and no longer.
#[test]
fn a_full_queue_refuses_stores_answers_loads_and_lets_frees_wait() {
    for ack in [false, true] {
        let sim = Sim::default();
        let mut machine = Machine::boot(&sim, arena(), &options(ack, 44 * 1024))
            .ok()
            .unwrap();
        let mut client = Client::new("a");
        client.connect(&mut machine);
        client.store(&mut machine, 0);
        settle(&mut client, &mut machine);
        let before = sim.operations();
        while !client.was_refused() {
            client.store(&mut machine, 1);
            assert_eq!(client.load(0), Got::Page(1));
        }
        assert_eq!(sim.operations(), before, "it waited for the disk");
        // There is room for these beside the pages; and when that is used up the harness, in place of the
        // writer's thread, writes a group.
        for _ in 0..1000 {
            client.free(&mut machine, 0, FreeMask::EMPTY);
            assert_eq!(client.load(0), Got::Page(1));
        }
        assert!(sim.operations() > before, "frees took no room");
        settle(&mut client, &mut machine);
        client.check(true);
    }
}

/// All pages, overwritten many times: old segments go, and what is left is the newest.
#[test]
fn the_log_keeps_within_its_bound_however_much_is_written() {
    let options = options(true, 44 * 1024);
    let sim = Sim::default();
    let mut machine = Machine::boot(&sim, arena(), &options).ok().unwrap();
    let mut client = Client::new("a");
    client.connect(&mut machine);
    let (bound, mut most, mut written) = (machine.bound(), 0, 0);
    let mut random = Random(1);
    while report(&machine).compactions < 6 {
        // Also where all pages there are are in use, and only one of them is ever changed.
        let pages = to_u64(PAGES);
        let slot = if written < pages {
            written
        } else {
            random.below(1 + written % pages)
        };
        client.store(&mut machine, slot);
        if written % 8 == 0 {
            client.free(&mut machine, 512 * 2, FreeMask::EMPTY);
        }
        machine.writer.step();
        client.settle();
        written += 1;
        most = most.max(sim.bytes());
        assert!(most <= bound, "{most} bytes, more than {bound}");
        assert!(
            written < 100_000,
            "it never compacts: {:?}",
            report(&machine)
        );
    }
    settle(&mut client, &mut machine);
    assert!(
        written * 4096 > 2 * bound,
        "not enough was written to tell: {written} pages"
    );
    client.check(true);
    let mut machine = restarted(&mut client, machine);
    client.connect(&mut machine);
    client.check(true);
    client.disconnect();
    machine.off();
}

/// Frees alone fill a log, too; and while a compaction goes on they get less of the queue, not all of it.
#[test]
fn frees_alone_do_not_outgrow_the_bound() {
    let sim = Sim::default();
    let mut machine = Machine::boot(&sim, arena(), &options(true, 44 * 1024))
        .ok()
        .unwrap();
    let mut client = Client::new("a");
    client.connect(&mut machine);
    (0..80).for_each(|slot| {
        client.store(&mut machine, slot);
        machine.writer.step();
    });
    let bound = machine.bound();
    while report(&machine).compactions < 2 {
        // As many as there is room for, before each turn of the writer.
        for _ in 0..200 {
            client.free(&mut machine, 512, FreeMask::EMPTY);
        }
        machine.writer.step();
        client.settle();
        assert!(sim.bytes() <= bound, "{} bytes", sim.bytes());
    }
    settle(&mut client, &mut machine);
    client.check(true);
}
