// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Which pages a mirror may lack that a server acknowledged ahead of it.

use super::common::config;
use memsrv_engine::Tail;
use memsrv_protocol::Slot;
use proptest::prelude::*;
use std::collections::BTreeSet;

const TOKENS: u32 = 4;
const REMEMBERED: usize = 5;

fn tail() -> Tail<Vec<Slot>> {
    let slots = |n| vec![Slot(0); n];
    Tail::new(slots(4), slots(REMEMBERED), slots(REMEMBERED))
}

fn store(tail: &mut Tail<Vec<Slot>>, slot: u64) {
    tail.asked(0, Slot(slot));
    tail.stored(0);
}

fn lost(tail: &Tail<Vec<Slot>>) -> Vec<u64> {
    let lost: Vec<u64> = (0..20).filter(|&s| tail.has_lost(Slot(s), 1)).collect();
    assert_eq!(lost.len(), tail.lost());
    lost
}

#[test]
fn as_many_of_the_last_stores_are_lost_as_operations_are_missing() {
    let mut tail = tail();
    for slot in [1, 2, 3, 4, 5, 6, 7] {
        store(&mut tail, slot);
    }
    assert_eq!(lost(&tail), []);
    tail.lose(0);
    assert_eq!(lost(&tail), []);
    tail.lose(3);
    assert_eq!(lost(&tail), [5, 6, 7]);
    tail.lose(5);
    assert_eq!(lost(&tail), [3, 4, 5, 6, 7]);
    tail.lose(6);
    assert_eq!(lost(&tail), [3, 4, 5, 6, 7], "no more is remembered");
    assert!(tail.has_lost(Slot(0), 4) && !tail.has_lost(Slot(0), 3));
    assert!(!tail.has_lost(Slot(8), u16::MAX));
}

#[test]
fn what_is_stored_anew_is_lost_no_more() {
    let mut tail = tail();
    store(&mut tail, 1);
    store(&mut tail, 2);
    store(&mut tail, 2);
    store(&mut tail, 3);
    tail.asked(1, Slot(3));
    tail.lose(4);
    assert_eq!(lost(&tail), [1, 2, 3]);
    // In flight when the server went: it is sent to the mirror.
    tail.forget(1);
    assert_eq!(lost(&tail), [1, 2]);
    tail.asked(2, Slot(1));
    assert_eq!(lost(&tail), [2]);
    tail.forget(99);
    assert_eq!(lost(&tail), [2]);
}

proptest! {
    #![proptest_config(config(400))]

    /// Against the plain list of all that was stored.
    #[test]
    fn no_more_and_no_less_is_lost_than_was_stored_last(
        stores in prop::collection::vec((0..TOKENS, 0..20_u64), 0..40),
        operations in 0..=REMEMBERED,
        again in prop::collection::vec((0..TOKENS, 0..20_u64), 0..6),
    ) {
        let mut tail = tail();
        for &(token, slot) in &stores {
            tail.asked(token, Slot(slot));
            tail.stored(token);
        }
        tail.lose(operations.try_into().unwrap());
        let last = stores.iter().rev().take(operations);
        let mut expected: BTreeSet<u64> = last.map(|&(_, slot)| slot).collect();
        prop_assert_eq!(lost(&tail), expected.iter().copied().collect::<Vec<_>>());
        for &(token, slot) in &again {
            tail.asked(token, Slot(slot));
            expected.remove(&slot);
        }
        prop_assert_eq!(lost(&tail), expected.into_iter().collect::<Vec<_>>());
    }
}
