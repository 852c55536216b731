// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! How a replica that missed something is refilled from the other one.

use super::lane_common::*;
use memsrv_engine::LoadError;
use memsrv_protocol::{Message, Seq, Slot, Status, Tag};

const BOTH: [Replica; 2] = [Primary, Mirror];
const CLUSTER: Slot = Slot(0);

/// The mirror is behind for cluster 0, and both are there.
fn behind() -> Bench {
    let b = bench(&BOTH);
    b.standing(Whole, Behind);
    b
}

fn refill(b: &mut Bench, replica: Replica) {
    b.lane.refill(replica, &[CLUSTER], &b.book, b.now_ms);
}

/// Sends the PULL that there is.
fn pulled(b: &mut Bench, replica: Replica) -> Tag {
    assert!(b.lane.has_output(replica));
    let (tag, slot) = b.lane.next_pull(replica).expect("a PULL");
    assert_eq!((slot, b.lane.next_pull(replica)), (CLUSTER, None));
    tag
}

fn answer(b: &mut Bench, tag: Tag, status: Option<Status>) {
    let slot = CLUSTER;
    let message = Message::Pulled { tag, slot, status };
    assert_eq!(b.answer(Mirror, message), Ok(vec![]));
}

/// Wiped, and asked to pull.
fn pulling() -> (Bench, Tag) {
    let mut b = behind();
    refill(&mut b, Mirror);
    assert_eq!(b.ack(Mirror, 1), []);
    refill(&mut b, Mirror);
    refill(&mut b, Mirror);
    let tag = pulled(&mut b, Mirror);
    (b, tag)
}

#[test]
fn a_cluster_is_wiped_then_settled_then_pulled() {
    let mut b = behind();
    b.store(1).unwrap();
    assert_eq!(b.stores(Primary), [1]);
    refill(&mut b, Mirror);
    assert!(matches!(
        b.drain(Mirror)[..],
        [Message::Free {
            seq: Seq(1),
            slot: CLUSTER,
            ..
        }]
    ));
    // What comes before it is acknowledged goes to the primary alone, as before.
    b.store(2).unwrap();
    assert_eq!((b.stores(Primary), b.stores(Mirror)), (vec![2], vec![]));
    refill(&mut b, Mirror);
    assert_eq!(b.book.of(Mirror, 0), Behind);
    assert_eq!(b.ack(Mirror, 1), []);
    refill(&mut b, Mirror);
    assert_eq!(b.book.of(Mirror, 0), Partial);
    // From now on to both.
    b.store(3).unwrap();
    assert_eq!((b.stores(Primary), b.stores(Mirror)), (vec![3], vec![3]));
    // Not before what went to the primary alone is there.
    assert_eq!(b.ack(Primary, 1), [stored(1)]);
    refill(&mut b, Mirror);
    assert_eq!(b.lane.next_pull(Mirror), None);
    assert_eq!(b.ack(Primary, 2), [stored(2)]);
    refill(&mut b, Mirror);
    let tag = pulled(&mut b, Mirror);
    answer(&mut b, tag, None);
    assert_eq!((b.book.of(Mirror, 0), b.lane.refills(Mirror)), (Whole, 0));
}

#[test]
fn a_pull_that_failed_leaves_the_replica_partial_and_is_asked_again() {
    let (mut b, tag) = pulling();
    answer(&mut b, tag, Some(Status::Unreachable));
    assert_eq!(b.lane.refill_failed(Mirror), Some(Status::Unreachable));
    assert_eq!(b.lane.refill_failed(Mirror), None);
    assert_eq!(b.book.of(Mirror, 0), Partial);
    refill(&mut b, Mirror);
    refill(&mut b, Mirror);
    let again = pulled(&mut b, Mirror);
    assert_ne!(again, tag);
    // The first one's answer counts no more.
    answer(&mut b, tag, None);
    assert_eq!(b.book.of(Mirror, 0), Partial);
    answer(&mut b, again, None);
    assert_eq!(b.book.of(Mirror, 0), Whole);
}

#[test]
fn a_pull_that_is_never_answered_is_given_up() {
    let (mut b, tag) = pulling();
    b.now_ms += 121_000;
    refill(&mut b, Mirror);
    assert_eq!(b.lane.refill_failed(Mirror), Some(Status::Unreachable));
    answer(&mut b, tag, None);
    assert_eq!(b.book.of(Mirror, 0), Partial);
}

#[test]
fn what_is_damaged_where_it_is_whole_is_not_waited_for() {
    let (mut b, tag) = pulling();
    answer(&mut b, tag, Some(Status::BadChecksum));
    assert_eq!(b.lane.refill_failed(Mirror), Some(Status::BadChecksum));
    assert_eq!(b.book.of(Mirror, 0), Whole);
}

#[test]
fn a_refill_ends_with_its_connection_and_begins_anew_with_the_next() {
    let (mut b, tag) = pulling();
    assert_eq!(b.disconnect(Mirror), []);
    assert_eq!((b.lane.refills(Mirror), b.book.of(Mirror, 0)), (0, Partial));
    refill(&mut b, Mirror);
    assert_eq!(b.lane.refills(Mirror), 0);
    assert_eq!(b.connect(Mirror), []);
    refill(&mut b, Mirror);
    refill(&mut b, Mirror);
    assert_ne!(pulled(&mut b, Mirror), tag);
}

#[test]
fn an_old_server_that_knows_no_pull_is_told_apart() {
    let (mut b, tag) = pulling();
    let op = memsrv_protocol::Op::PULL;
    assert_eq!(b.answer(Mirror, Message::Unknown { tag, op }), Ok(vec![]));
    assert_eq!(b.lane.refill_failed(Mirror), Some(Status::UnknownOp));
    assert_eq!(b.lane.refills(Mirror), 0);
}

#[test]
fn an_acknowledgement_that_a_wipe_undid_does_not_count() {
    let mut b = bench(&BOTH);
    b.store(0).unwrap();
    assert_eq!(b.ack(Primary, 1), []);
    // A page that it did not give.
    b.standing(Behind, Whole);
    refill(&mut b, Primary);
    assert_eq!(b.ack(Primary, 2), []);
    refill(&mut b, Primary);
    assert_eq!(b.book.of(Primary, 0), Partial);
    // The mirror dies without having answered, and all that the primary lacks is lost.
    assert_eq!(b.disconnect(Mirror), []);
    assert_eq!(b.book.lost(Mirror, 0..1), [0]);
    assert_eq!(b.connect(Mirror), [expired(0)]);
}

#[test]
fn a_page_that_was_pulled_meanwhile_is_asked_for_again() {
    let (mut b, _) = pulling();
    // Asked of the mirror while the primary is away; lacking there, it waits for the primary.
    assert_eq!(b.disconnect(Primary), []);
    b.load(0, 1, 0).unwrap();
    let asked = b.asked(Mirror);
    assert_eq!(b.no_page(Mirror, asked, 0, Status::NotFound), []);
    assert_eq!(waits(&b), Some(Primary));
    // The page arrives, others have not yet, and then the primary loses all that it had.
    assert_eq!(b.book.lost(Primary, 0..1), [0]);
    assert_eq!(b.connect(Primary), []);
    let asked = b.asked(Primary);
    assert_eq!(b.no_page(Primary, asked, 0, Status::NotFound), []);
    let asked = b.asked(Mirror);
    // Once more and never again.
    let gone = b.no_page(Mirror, asked, 0, Status::NotFound);
    assert_eq!(gone, [failed(0, LoadError::Gone)]);
}

#[test]
fn what_waits_for_one_that_is_away_is_asked_of_the_other_once_that_is_whole() {
    let (mut b, tag) = pulling();
    assert_eq!(b.disconnect(Primary), []);
    // The mirror lacks the first page. The second was asked for before it was wiped, when nobody else could be asked.
    b.load(0, 1, 0).unwrap();
    let asked = b.asked(Mirror);
    assert_eq!(b.no_page(Mirror, asked, 0, Status::NotFound), []);
    b.standing(Whole, Behind);
    b.load(1, 1, 1).unwrap();
    assert_eq!(b.lane.loads_owed(Primary), 2);
    b.standing(Whole, Partial);
    assert!(b.is_idle());
    answer(&mut b, tag, None);
    assert_eq!(b.book.of(Mirror, 0), Whole);
    let mut asked = b.loads(Mirror);
    asked.sort_by_key(|&(_, slot, _)| slot);
    let slots: Vec<u64> = asked.iter().map(|&(_, slot, _)| slot).collect();
    assert_eq!((slots, b.lane.loads_owed(Primary)), (vec![0, 1], 0));
    assert_eq!(b.page(Mirror, asked[0].0, 0), Some(loaded(0)));
    assert_eq!(b.page(Mirror, asked[1].0, 1), Some(loaded(1)));
}
