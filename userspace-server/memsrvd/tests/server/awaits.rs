// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The table under stores, frees, pulls and late pages in any order, compared with a simple account.
//!
//! Several pulls are kept, older ones too, and each may put any page at any time: what the account knows
//! of the present one decides. A failure prints the smallest case found.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use crate::support::page;
use memsrv_protocol::*;
use memsrvd::arena::Arena;
use memsrvd::batch::checksum;
use memsrvd::table::{Quota, Table};
use proptest::prelude::*;

/// Slots that take part: few, so that operations meet.
const SLOTS: [u64; 6] = [512, 513, 520, 1023, 1024, 1030];

#[derive(Debug, Clone)]
enum Do {
    Store(usize, u64),
    Refused(usize, bool),
    Free(u64, u8),
    Pull(u64, u8),
    /// A page of the pull that many PULLs ago.
    Page(usize, usize),
    End(usize),
    Cancel(u64),
}

fn operation() -> impl Strategy<Value = Do> {
    let slot = 0..SLOTS.len();
    prop_oneof![
        3 => (slot.clone(), any::<u64>()).prop_map(|(slot, seed)| Do::Store(slot, seed)),
        1 => (slot.clone(), any::<bool>()).prop_map(|(slot, damaged)| Do::Refused(slot, damaged)),
        3 => (1..3_u64, any::<u8>()).prop_map(|(cluster, slots)| Do::Free(cluster, slots)),
        4 => (1..3_u64, any::<u8>()).prop_map(|(cluster, slots)| Do::Pull(cluster, slots)),
        8 => (0..4_usize, slot).prop_map(|(back, slot)| Do::Page(back, slot)),
        2 => (0..4_usize).prop_map(Do::End),
        1 => (1..3_u64).prop_map(Do::Cancel),
    ]
}

/// Those slots of a cluster that the bits choose.
fn chosen(cluster: u64, bits: u8) -> BTreeSet<u64> {
    let slots = SLOTS.iter().enumerate();
    let of = slots.filter(|(n, slot)| **slot / 512 == cluster && bits & (1 << n) != 0);
    of.map(|(_, slot)| *slot).collect()
}

fn mask(slots: &BTreeSet<u64>) -> FreeMask {
    let mut mask = FreeMask::EMPTY;
    slots
        .iter()
        .for_each(|slot| mask.insert(Slot(*slot).index()));
    mask
}

/// What there should be.
#[derive(Default)]
struct Account {
    /// The seed of the page in each slot.
    pages: BTreeMap<u64, u64>,
    /// The present pull of each cluster, and what it awaits.
    pulls: BTreeMap<u64, (u64, BTreeSet<u64>)>,
}

impl Account {
    fn no_longer_awaited(&mut self, slots: &BTreeSet<u64>) {
        for (_, awaited) in self.pulls.values_mut() {
            awaited.retain(|slot| !slots.contains(slot));
        }
    }

    fn has_room(&self, slot: u64, room: usize) -> bool {
        self.pages.contains_key(&slot) || self.pages.len() < room
    }
}

/// What a pull with this number brings for a slot.
fn fetched(pull: u64, slot: u64) -> u64 {
    (1 << 40) | (pull << 16) | slot
}

thread_local! {
    static ARENAS: RefCell<BTreeMap<usize, Arena>> = const { RefCell::new(BTreeMap::new()) };
}

fn against_account(operations: &[Do], room: usize) {
    // Memory is never unmapped, so it is used again, unless a case failed half way.
    let arena = ARENAS.with_borrow_mut(|arenas| arenas.remove(&room));
    let new = || Arena::new(memsrvd::sys::map_pages(room, false).unwrap());
    let arena = arena.unwrap_or_else(new);
    let quota = Quota::new(u64::MAX, &arena);
    let (table, mut account) = (Table::default(), Account::default());
    let mut started: Vec<(u64, u64)> = Vec::new();
    for operation in operations {
        match *operation {
            Do::Store(n, seed) => {
                let (slot, bytes) = (Slot(SLOTS[n]), page(seed));
                let stored = table.store(&arena, &quota, slot, checksum(slot, &bytes), &bytes);
                account.no_longer_awaited(&[slot.0].into());
                if account.has_room(slot.0, room) {
                    account.pages.insert(slot.0, seed);
                    assert_eq!(stored, Ok(Ok(())));
                } else {
                    assert_eq!(stored, Ok(Err(Status::Full)));
                }
            }
            Do::Refused(n, damaged) => {
                let slot = Slot(SLOTS[n]);
                let status = match damaged {
                    true => Status::BadChecksum,
                    false => Status::Draining,
                };
                table.refused(&arena, &quota, slot, status).unwrap();
                match damaged {
                    true => drop(account.pulls.remove(&slot.cluster())),
                    false => account.no_longer_awaited(&[slot.0].into()),
                }
            }
            Do::Free(cluster, bits) => {
                let slots = chosen(cluster, bits);
                let base = Slot(cluster * 512);
                table.free(&arena, &quota, base, &mask(&slots)).unwrap();
                account.no_longer_awaited(&slots);
                account.pages.retain(|slot, _| !slots.contains(slot));
            }
            Do::Pull(cluster, bits) => {
                let id = u64::try_from(started.len()).unwrap() + 1;
                started.push((id, cluster));
                let wanted = chosen(cluster, bits);
                let base = Slot(cluster * 512);
                let given = table.await_pages(&arena, &quota, base, &mask(&wanted), id);
                let mut awaited = wanted;
                awaited.retain(|slot| !account.pages.contains_key(slot));
                assert_eq!(given, Ok(Ok(mask(&awaited))));
                account.pulls.remove(&cluster);
                if !awaited.is_empty() {
                    account.pulls.insert(cluster, (id, awaited));
                }
            }
            Do::Page(back, n) => {
                let Some((id, _)) = started.iter().rev().nth(back) else {
                    continue;
                };
                let (slot, seed) = (Slot(SLOTS[n]), fetched(*id, SLOTS[n]));
                let (bytes, may) = (page(seed), account.pulls.get_mut(&slot.cluster()));
                let crc = checksum(slot, &bytes);
                let put = table.put_awaited(&arena, &quota, *id, slot, crc, &bytes);
                let may =
                    may.filter(|(present, awaited)| present == id && awaited.contains(&slot.0));
                match may {
                    None => assert_eq!(put, Ok(Ok(false))),
                    Some(_) if account.pages.len() >= room => {
                        assert_eq!(put, Ok(Err(Status::Full)))
                    }
                    Some((_, awaited)) => {
                        assert_eq!(put, Ok(Ok(true)));
                        awaited.remove(&slot.0);
                        account.pages.insert(slot.0, seed);
                    }
                }
            }
            Do::End(back) => {
                let Some((id, cluster)) = started.iter().rev().nth(back) else {
                    continue;
                };
                let present = account.pulls.get(cluster).is_some_and(|(p, _)| p == id);
                let ended = table.end_pull(&arena, &quota, *id, Slot(cluster * 512));
                assert_eq!(ended, Ok(present));
                if present {
                    account.pulls.remove(cluster);
                }
            }
            Do::Cancel(cluster) => {
                table
                    .cancel_pull(&arena, &quota, Slot(cluster * 512))
                    .unwrap();
                account.pulls.remove(&cluster);
            }
        }
        compare(&table, &arena, &quota, &account, &started);
    }
    table.end(&arena, &quota);
    assert_eq!(arena.pages.free(), arena.pages.total());
    assert_eq!(arena.clusters.free(), arena.clusters.total());
    ARENAS.with_borrow_mut(|arenas| arenas.insert(room, arena));
}

fn compare(table: &Table, arena: &Arena, quota: &Quota, account: &Account, started: &[(u64, u64)]) {
    for slot in SLOTS {
        let mut found = None;
        table
            .load(Slot(slot), |crc, bytes| found = Some((crc, bytes.to_vec())))
            .unwrap();
        let seed = account.pages.get(&slot);
        let expected = seed.map(|seed| (checksum(Slot(slot), &page(*seed)), page(*seed).to_vec()));
        assert!(found == expected, "slot {slot}");
    }
    for (id, cluster) in started {
        let awaited = table.awaited(*id, Slot(cluster * 512)).unwrap();
        let present = account.pulls.get(cluster).filter(|(p, _)| p == id);
        assert_eq!(awaited, present.map(|(_, slots)| mask(slots)), "pull {id}");
    }
    let pages = u64::try_from(account.pages.len()).unwrap();
    assert_eq!((table.pages(), quota.pages.used()), (pages, pages));
    // A table for each cluster that has a page or a pull.
    let mut clusters: BTreeSet<u64> = account.pages.keys().map(|slot| slot / 512).collect();
    clusters.extend(account.pulls.keys());
    let taken = arena.clusters.total() - arena.clusters.free();
    assert_eq!(taken, u64::try_from(clusters.len()).unwrap());
    assert_eq!(quota.clusters.used(), taken);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn a_late_page_never_replaces_a_newer_one_nor_revives_a_freed_one(
        operations in prop::collection::vec(operation(), 1..50),
        room in prop_oneof![Just(3_usize), Just(8)],
    ) {
        against_account(&operations, room);
    }
}
