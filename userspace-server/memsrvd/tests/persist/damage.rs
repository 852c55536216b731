// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A log that the disk damaged, or whose end is torn: right bytes, an error, or a new instance; never others.

use std::collections::BTreeMap;

use memsrv_protocol::FreeMask;
use memsrvd::arena::Arena;
use memsrvd::num::to_usize;
use memsrvd::persist::format::{segment_name, Head, Kind, PAGE_RECORD};
use memsrvd::persist::scan::{scan, Found, Outcome};

use crate::machine::*;
use crate::sim::{Random, Sim};

const QUEUE: usize = 12 * 1024;

/// A small log of one client that has every kind of record; all of it acknowledged, or closed.
fn small(arena: Arena, close: bool) -> (Sim, Client, Arena) {
    let sim = Sim::default();
    let mut machine = Machine::boot(&sim, arena, &options(true, QUEUE))
        .ok()
        .unwrap();
    let mut client = Client::new("a");
    client.connect(&mut machine);
    client.store(&mut machine, 0);
    machine.writer.step();
    client.store(&mut machine, 1);
    client.store(&mut machine, 0);
    let mut mask = FreeMask::EMPTY;
    mask.insert(1);
    client.free(&mut machine, 0, mask);
    let mut gone = Client::new("b");
    gone.connect(&mut machine);
    gone.reborn(&mut machine);
    while machine.writer.step() {}
    client.settle();
    client.check(true);
    client.disconnect();
    let arena = if close { machine.stop() } else { machine.off() };
    (sim.copy(), client, arena)
}

/// Starts on that disk; what is there must be right, or refused, or all of it gone.
fn must_be_sound(sim: &Sim, client: &Client, arena: Arena, seen: &mut [u64; 4]) -> Arena {
    let mut machine = match Machine::boot(sim, arena, &options(true, QUEUE)) {
        Ok(machine) => machine,
        Err((_, arena)) => {
            seen[0] += 1;
            return arena;
        }
    };
    let mut copy = client.silent();
    let same = copy.connect(&mut machine);
    if same {
        let mut damaged = false;
        for (slot, may) in client.may_hold() {
            let got = copy.load(slot);
            damaged |= got == Got::Damaged;
            assert!(
                got == Got::Damaged || may.contains(&got),
                "slot {slot}: {got:?}"
            );
        }
        seen[if damaged { 2 } else { 3 }] += 1;
    } else {
        seen[1] += 1;
        copy.check_empty();
    }
    drop(copy);
    machine.off()
}

/// What a log says of its only live client's slots, without a server; `None`: it cannot be used.
fn read(sim: &Sim) -> Option<BTreeMap<u64, Got>> {
    let mut disk = sim.clone();
    let head = sim.edit("head", |bytes| Head::decode(bytes)).ok()?;
    let mut slots = BTreeMap::new();
    let mut each = |found: Found<'_>| {
        let header = found.header;
        match header.kind {
            Kind::Store if found.whole => {
                let seed = u64::from_le_bytes(*found.payload.first_chunk().unwrap());
                slots.insert(header.slot.0, Got::Page(seed));
            }
            Kind::Store => {
                slots.insert(header.slot.0, Got::Damaged);
            }
            Kind::Free => {
                let mask = FreeMask(*found.payload.first_chunk().unwrap());
                slots.retain(|slot, _| !mask.contains(to_usize(slot - header.slot.0)));
            }
            Kind::Begin | Kind::End => {}
        }
        Ok::<(), std::io::Error>(())
    };
    match scan(&mut disk, &head, &mut each, &|error| error).unwrap() {
        Outcome::Whole { .. } => Some(slots),
        Outcome::Lost { .. } => None,
    }
}

/// Where the last byte that is not zero ends.
fn used(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1)
}

/// One bit is wrong, in each byte in turn; each time it is read, and for some of them a server is started.
#[test]
fn a_wrong_bit_anywhere_never_makes_wrong_bytes() {
    let mut random = Random(7);
    for close in [false, true] {
        let (sim, client, mut arena) = small(arena(), close);
        let (mut seen, mut bad) = ([0; 4], 0);
        for name in sim.names() {
            // Behind the records an open segment is empty.
            let used = sim.edit(&name, |bytes| {
                bytes.truncate(bytes.len().min(used(bytes) + 1024));
                bytes.len()
            });
            let right = read(&sim).unwrap();
            // Closed or not differs at the end only.
            for at in (0..used).step_by(if close { 7 } else { 1 }) {
                let bit = 1 << random.below(8);
                sim.edit(&name, |bytes| bytes[at] ^= bit);
                // One bit is never the end of a log: whatever says what a record is stands there twice.
                let found = read(&sim).expect("a single bit made the log useless");
                for slot in [0, 1] {
                    let (found, right) = (found.get(&slot), right.get(&slot));
                    assert!(
                        found == right || found == Some(&Got::Damaged),
                        "slot {slot}: {found:?}"
                    );
                    bad += u64::from(found != right);
                }
                if at % 61 == 0 {
                    arena = must_be_sound(&sim.copy(), &client, arena, &mut seen);
                }
                sim.edit(&name, |bytes| bytes[at] ^= bit);
            }
        }
        let [refused, anew, damaged, right] = seen;
        assert_eq!((refused, anew), (0, 0));
        assert!(damaged > 0 && right > 0 && bad >= 500, "{seen:?} {bad}");
    }
}

/// Many bytes are wrong: a whole sector of nonsense, anywhere; or of zeroes, as if it had never been written.
/// Only where nothing is behind it that shows otherwise (the last group, not closed) zeroes pass for a torn end.
#[test]
fn a_sector_of_nonsense_never_makes_wrong_bytes() {
    let mut random = Random(8);
    for (close, zeroes) in [(false, false), (true, false), (false, true), (true, true)] {
        let (sim, client, mut arena) = small(arena(), close);
        let mut seen = [0; 4];
        let name = segment_name(1);
        let mut len = sim.edit(&name, |bytes| used(bytes));
        if zeroes && !close {
            // The first group: a life and a page.
            len = 128 + 512 + PAGE_RECORD;
        }
        for at in (0..len).step_by(256) {
            let damaged = sim.copy();
            damaged.edit(&name, |bytes| {
                let to = len.min(at + 512);
                bytes[at..to].fill_with(|| match zeroes {
                    true => 0,
                    false => random.next().to_le_bytes()[0],
                });
            });
            arena = must_be_sound(&damaged, &client, arena, &mut seen);
        }
        let [refused, anew, damaged, _] = seen;
        assert!(
            refused == 0 && anew > 0 && (damaged > 0 || zeroes),
            "{seen:?}"
        );
    }
}

/// The log ends anywhere within its last records, none of which was acknowledged.
#[test]
fn a_torn_end_is_cut_back_to_the_last_whole_record() {
    let (sim, mut client, mut arena) = small(arena(), false);
    let name = segment_name(2);
    let mut machine = Machine::boot(&sim, arena, &options(true, QUEUE))
        .ok()
        .unwrap();
    assert!(client.connect(&mut machine));
    let from = sim.edit(&name, |bytes| {
        bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1
    });
    // Three records in one group.
    client.store(&mut machine, 3);
    client.store(&mut machine, 0);
    client.free(&mut machine, 0, FreeMask::ALL);
    machine.writer.step();
    client.disconnect();
    arena = machine.off();
    let whole = sim.edit(&name, |bytes| bytes.clone());
    let to = used(&whole);
    assert_eq!(to - from, 2 * PAGE_RECORD + 256);
    // Nothing behind the three shows that the disk ever had them.
    let states = [
        [None, Some(Got::Page(3))],
        [Some(Got::Page(4)), Some(Got::Page(3))],
        [Some(Got::Page(4)), Some(Got::Page(5))],
        [None, None],
    ];
    let whole_records = |end: usize| ((end - from) / PAGE_RECORD).min(2) + usize::from(end == to);
    for end in from..=to {
        let torn = sim.copy();
        torn.edit(&name, |bytes| bytes.truncate(end));
        let slots = read(&torn).expect("a torn end made the log useless");
        let got = [3, 0].map(|slot| slots.get(&slot).copied());
        assert_eq!(
            got,
            states[whole_records(end)],
            "the file ends at {end} of {from}..{to}"
        );
        // Written up to there, and zeroes behind: where that is within a header it may be refused.
        torn.edit(&name, |bytes| bytes.resize(whole.len(), 0));
        if let Some(slots) = read(&torn) {
            let got = [3, 0].map(|slot| slots.get(&slot).copied());
            // A record is good without its second header, and half of these pages is zeroes anyway.
            let at_least = &states[whole_records(end)..];
            assert!(
                at_least.contains(&got),
                "zeroes from {end} of {from}..{to}: {got:?}"
            );
        } else {
            assert_ne!(end % 512, 0, "cut between two sectors, at {end}");
        }
        if (end - from) % 509 == 0 {
            let mut machine = Machine::boot(&torn, arena, &options(true, QUEUE))
                .ok()
                .unwrap();
            let mut copy = client.silent();
            if copy.connect(&mut machine) {
                for (slot, may) in client.may_hold() {
                    assert!(may.contains(&copy.load(slot)), "slot {slot}");
                }
            }
            drop(copy);
            arena = machine.off();
        }
    }
}
