// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The checker itself: histories made by hand that have an order, and such as must be refused.

use memsrv_client::Slot;

use crate::check::{check, Op, Stamp, What};

const A: Option<Stamp> = stamp(0, 1);
const B: Option<Stamp> = stamp(0, 2);
const OTHER_SLOT: Option<Stamp> = stamp(1, 1);
const NOTHING: Option<Stamp> = None;

const fn stamp(slot: u64, version: u64) -> Option<Stamp> {
    Some(Stamp {
        client: 0,
        slot: Slot(slot),
        version,
    })
}

fn store(asked: u64, answered: u64, page: Option<Stamp>) -> Op {
    op(asked, answered, What::Stored(page.unwrap()))
}

fn failed(asked: u64, answered: u64, page: Option<Stamp>) -> Op {
    op(asked, answered, What::NotStored(page.unwrap()))
}

fn free(asked: u64) -> Op {
    op(asked, asked + 1, What::Freed)
}

fn load(asked: u64, answered: u64, page: Option<Stamp>) -> Op {
    op(asked, answered, What::Loaded(page))
}

fn lost(asked: u64, answered: u64) -> Op {
    op(asked, answered, What::Lost)
}

fn op(asked: u64, answered: u64, what: What) -> Op {
    Op {
        asked,
        answered,
        what,
    }
}

fn good(ops: &[Op]) {
    assert_eq!(check(ops), Ok(()), "{ops:?}");
}

fn bad(ops: &[Op]) {
    assert!(check(ops).is_err(), "{ops:?}");
}

#[test]
fn histories_that_have_an_order_are_taken() {
    good(&[]);
    good(&[load(0, 1, NOTHING)]);
    good(&[store(0, 1, A), load(2, 3, A), store(4, 5, B), load(6, 7, B)]);
    good(&[store(0, 1, A), free(2), load(4, 5, NOTHING)]);
    // A load beside a store sees either.
    good(&[store(0, 1, A), load(2, 9, A), store(3, 4, B)]);
    good(&[store(0, 1, A), load(2, 9, B), store(3, 4, B)]);
    good(&[store(0, 1, A), load(2, 9, NOTHING), free(3), store(5, 6, B)]);
    // Stores that are unanswered together are done in their order, whichever answer is known first.
    good(&[store(0, 9, A), store(1, 8, B), load(10, 11, B)]);
    // A free behind a store that is unanswered counts at once.
    good(&[
        store(0, 9, A),
        free(1),
        load(4, 5, NOTHING),
        load(10, 11, NOTHING),
    ]);
}

#[test]
fn a_stale_read_is_refused() {
    bad(&[store(0, 1, A), store(2, 3, B), load(4, 5, A)]);
    bad(&[store(0, 9, A), store(1, 8, B), load(10, 11, A)]);
    // Once somebody has seen the new page nobody sees the old one.
    bad(&[store(0, 1, A), store(2, 9, B), load(3, 4, B), load(5, 6, A)]);
}

#[test]
fn a_lost_store_is_refused() {
    bad(&[store(0, 1, A), load(2, 3, NOTHING)]);
    bad(&[free(0), store(2, 3, A), load(4, 5, NOTHING)]);
    bad(&[store(0, 1, A), store(2, 3, B), load(4, 5, NOTHING)]);
}

#[test]
fn a_freed_page_that_is_back_is_refused() {
    bad(&[store(0, 1, A), free(2), load(4, 5, A)]);
    bad(&[store(0, 9, A), free(1), load(10, 11, A)]);
    bad(&[store(0, 1, A), free(2), load(4, 5, NOTHING), load(6, 7, A)]);
}

#[test]
fn bytes_of_another_slot_or_of_the_future_are_refused() {
    bad(&[store(0, 1, A), load(2, 3, OTHER_SLOT)]);
    bad(&[load(0, 1, OTHER_SLOT)]);
    bad(&[load(0, 1, A), store(2, 3, A)]);
}

#[test]
fn a_store_that_failed_may_be_seen_while_it_is_unanswered_and_never_later() {
    good(&[store(0, 1, A), failed(2, 3, B), load(4, 5, NOTHING)]);
    for seen in [A, B, NOTHING] {
        good(&[store(0, 1, A), load(2, 9, seen), failed(3, 4, B)]);
    }
    bad(&[store(0, 1, A), failed(2, 3, B), load(4, 5, B)]);
    bad(&[store(0, 1, A), failed(2, 3, B), load(4, 5, A)]);
    // The newer store counts, whatever becomes of the older one.
    good(&[failed(0, 9, A), store(1, 8, B), load(10, 11, B)]);
    bad(&[failed(0, 9, A), store(1, 8, B), load(10, 11, NOTHING)]);
    bad(&[store(0, 9, A), failed(1, 8, B), load(10, 11, A)]);
}

#[test]
fn a_killed_server_takes_its_pages_along_but_not_what_was_unanswered() {
    good(&[store(0, 1, A), lost(2, 3), load(4, 5, NOTHING)]);
    bad(&[store(0, 1, A), lost(2, 3), load(4, 5, A)]);
    bad(&[store(0, 1, A), load(2, 3, NOTHING), lost(4, 5)]);
    bad(&[lost(0, 1), store(2, 3, A), load(4, 5, NOTHING)]);
    // Unanswered when the server died: done before, or again.
    good(&[store(0, 5, A), lost(2, 3), load(6, 7, NOTHING)]);
    good(&[store(0, 5, A), lost(2, 3), load(6, 7, A)]);
    bad(&[store(0, 5, A), lost(2, 3), load(6, 7, B)]);
    // Seen, lost, sent again: nothing in between, the same page behind.
    let again = [
        load(0, 5, A),
        load(1, 11, NOTHING),
        store(2, 20, A),
        lost(6, 7),
        load(21, 22, A),
    ];
    good(&again);
    bad(&[again.as_slice(), &[load(23, 24, NOTHING)]].concat());
    // Both are sent again, in their order.
    good(&[store(0, 9, A), store(1, 10, B), lost(2, 3), load(11, 12, B)]);
    bad(&[store(0, 9, A), store(1, 10, B), lost(2, 3), load(11, 12, A)]);
}
