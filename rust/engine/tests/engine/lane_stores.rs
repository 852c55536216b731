// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What is promised of stores and frees on two replicas.

use super::lane_common::*;
use memsrv_engine::NotTaken::{NoRoom, NoTarget};
use memsrv_protocol::{Message, Seq, Slot, Status};

const BOTH: [Replica; 2] = [Primary, Mirror];

#[test]
fn a_store_goes_to_both_and_completes_with_the_last_acknowledgement() {
    for order in [[Primary, Mirror], [Mirror, Primary]] {
        let mut b = bench(&BOTH);
        b.store(1).unwrap();
        assert_eq!(b.ack(order[0], 1), []);
        assert_eq!(b.lane.stores_in_flight(), 1);
        assert_eq!(b.ack(order[1], 1), [stored(1)]);
        assert_eq!(b.lane.stores_in_flight(), 0);
        assert_eq!(b.fell(), []);
    }
}

/// Up, standings, and who gets the store; who fell behind by it is who was not behind and got none.
#[test]
fn a_store_goes_to_who_is_there_and_up_to_date_or_waits_for_who_is_not_behind() {
    for (up, primary, mirror, targets) in [
        (&BOTH[..], Whole, Whole, Ok(&BOTH[..])),
        (&BOTH, Whole, Partial, Ok(&BOTH)),
        (&BOTH, Partial, Partial, Ok(&BOTH)),
        (&BOTH, Behind, Whole, Ok(&[Mirror])),
        (&BOTH, Whole, Behind, Ok(&[Primary])),
        (&BOTH, Behind, Partial, Ok(&[Mirror])),
        (&BOTH, Behind, Behind, Err(NoTarget)),
        (&[Primary], Whole, Whole, Ok(&[Primary])),
        (&[Primary], Whole, Partial, Ok(&[Primary])),
        (&[Mirror], Whole, Whole, Ok(&[Mirror])),
        // One is there, and is behind: the store waits for the other.
        (&[Primary], Behind, Whole, Ok(&[Mirror])),
        (&[Mirror], Whole, Behind, Ok(&[Primary])),
        // The one that is there lacks pages of the cluster that only the other may have.
        (&[Primary], Partial, Whole, Err(NoTarget)),
        (&[Primary], Partial, Partial, Err(NoTarget)),
        (&[Primary], Partial, Behind, Ok(&[Primary])),
        (&[], Whole, Whole, Ok(&BOTH)),
        (&[], Whole, Behind, Ok(&[Primary])),
        (&[], Behind, Behind, Err(NoTarget)),
    ] {
        let case = format!("{up:?} up, {primary:?} {mirror:?}");
        let mut b = bench(up);
        b.standing(primary, mirror);
        let taken = b.store(7);
        assert_eq!(taken, targets.map(|_| ()), "{case}");
        let targets = targets.unwrap_or(&[]);
        let got: Vec<Replica> = BOTH.into_iter().filter(|&r| b.lane.queued(r) > 0).collect();
        assert_eq!(got, targets, "{case}");
        let missed = |r: &Replica| taken.is_ok() && !targets.contains(r);
        let missed: Vec<_> = BOTH.into_iter().filter(missed).map(|r| (r, 7)).collect();
        assert_eq!(b.fell(), missed, "{case}");
    }
}

/// Nothing waits for ever: what is not due has an answer to come before it.
#[test]
fn few_stores_are_due_when_none_is_unanswered_many_and_loads_at_once() {
    let mut b = bench(&[Primary]);
    b.standing(Whole, Behind);
    let due = |b: &Bench| b.lane.is_due(Primary, 3, false);
    assert!(!due(&b), "nothing is there");
    b.store(1).unwrap();
    assert!(due(&b), "nothing is unanswered");
    b.drain(Primary);
    assert!(!due(&b), "all is sent");
    b.store(2).unwrap();
    b.store(3).unwrap();
    assert!(!due(&b), "two wait for the answer");
    b.load(9, 1, 40).unwrap();
    assert!(due(&b), "a load waits for nothing");
    b.drain(Primary);
    for token in 4..7 {
        assert!(!due(&b));
        b.store(token).unwrap();
    }
    assert!(due(&b), "three are enough");
    b.drain(Primary);
    b.store(7).unwrap();
    b.answer(Primary, Message::Ack { seq: Seq(5) }).unwrap();
    assert!(!due(&b), "one is still unanswered");
    b.answer(Primary, Message::Ack { seq: Seq(6) }).unwrap();
    assert!(due(&b));
    b.drain(Primary);
    b.store(8).unwrap();
    let (seq, status) = (Seq(7), Status::Full);
    b.answer(Primary, Message::Nak { seq, status }).unwrap();
    assert!(due(&b), "a refusal is an answer");
    b.drain(Primary);
    b.store(9).unwrap();
    assert!(!due(&b));
    b.disconnect(Primary);
    b.connect(Primary);
    assert!(due(&b), "on a new connection nothing is unanswered");
}

/// Whoever holds them adds more, or looks again.
#[test]
fn few_stores_are_not_due_while_they_are_held_many_and_loads_are() {
    let mut b = bench(&[Primary]);
    b.standing(Whole, Behind);
    let due = |b: &Bench| b.lane.is_due(Primary, 3, true);
    b.store(1).unwrap();
    assert!(!due(&b), "one is held");
    assert!(b.lane.is_due(Primary, 3, false), "and due once it is not");
    b.store(2).unwrap();
    assert!(!due(&b), "two are held");
    b.load(9, 1, 40).unwrap();
    assert!(due(&b), "a load waits for nothing");
    b.drain(Primary);
    b.answer(Primary, Message::Ack { seq: Seq(2) }).unwrap();
    for token in 3..6 {
        assert!(!due(&b));
        b.store(token).unwrap();
    }
    assert!(due(&b), "three are enough");
}

#[test]
fn a_store_that_one_refuses_is_refused_once_the_other_has_answered() {
    for (first, second) in [(Primary, Mirror), (Mirror, Primary)] {
        let mut b = bench(&BOTH);
        b.store(1).unwrap();
        assert_eq!(b.nak(first, 1, Status::Full), []);
        assert_eq!(b.ack(second, 1), [refused(1, Status::Full)]);

        b.store(2).unwrap();
        assert_eq!(b.ack(first, 2), []);
        assert_eq!(b.nak(second, 2, Status::Quota), [refused(2, Status::Quota)]);
        assert_eq!(b.fell(), []);
    }
}

#[test]
fn a_store_that_one_has_refused_does_not_wait_for_one_that_goes() {
    for (lost, kept) in [(Primary, Mirror), (Mirror, Primary)] {
        let mut b = bench(&BOTH);
        b.store(1).unwrap();
        b.nak(kept, 1, Status::Full);
        assert_eq!(b.disconnect(lost), [refused(1, Status::Full)]);
        // It is forgotten on both.
        assert_eq!(b.fell(), []);
    }
}

#[test]
fn when_one_goes_the_other_carries_on_at_once() {
    for (lost, kept) in [(Primary, Mirror), (Mirror, Primary)] {
        let mut b = bench(&BOTH);
        for token in 1..=3 {
            b.store(token).unwrap();
        }
        assert_eq!(b.ack(kept, 1), []);
        // One that the other has acknowledged completes; two go on there.
        assert_eq!(b.disconnect(lost), [stored(1)]);
        assert_eq!(b.fell(), [(lost, 1), (lost, 2), (lost, 3)]);
        assert_eq!(b.lane.stores_owed(lost), 0);
        assert_eq!(b.ack(kept, 3), [stored(2), stored(3)]);
        assert_eq!(b.fell(), []);
        b.connect(lost);
        assert_eq!(b.stores(lost), []);
    }
}

#[test]
fn what_waits_for_both_goes_on_with_the_first_that_comes() {
    for (first, late) in [(Primary, Mirror), (Mirror, Primary)] {
        let mut b = bench(&[]);
        b.store(1).unwrap();
        assert_eq!(b.fell(), []);
        assert_eq!(b.connect(first), []);
        assert_eq!(b.fell(), [(late, 1)]);
        assert_eq!(b.ack(first, 1), [stored(1)]);
        assert_eq!(b.connect(late), []);
        assert_eq!(b.stores(late), []);
    }
}

#[test]
fn a_store_that_only_one_has_waits_for_it_though_the_other_comes() {
    let mut b = bench(&[Mirror]);
    b.store(1).unwrap();
    assert_eq!(b.fell(), [(Primary, 1)]);
    assert_eq!(b.disconnect(Mirror), []);
    assert_eq!(b.connect(Primary), []);
    assert_eq!(b.stores(Primary), []);
    assert_eq!(b.lane.stores_in_flight(), 1);
    assert_eq!(b.connect(Mirror), []);
    assert_eq!(b.ack(Mirror, 1), [stored(1)]);
}

#[test]
fn an_acknowledgement_counts_no_longer_than_its_connection() {
    let mut b = bench(&BOTH);
    b.store(1).unwrap();
    assert_eq!(b.ack(Primary, 1), []);
    // The primary may come back empty.
    assert_eq!(b.disconnect(Primary), []);
    assert_eq!(b.disconnect(Mirror), []);
    assert_eq!(b.connect(Primary), []);
    assert_eq!(b.lane.stores_in_flight(), 1);
    assert_eq!(b.connect(Mirror), []);
    assert_eq!(b.fell(), []);
    assert_eq!(b.ack(Mirror, 1), [stored(1)]);
    assert_eq!(b.fell(), [(Primary, 1)]);
}

#[test]
fn what_waits_for_one_that_is_behind_by_now_is_not_sent_to_it() {
    let mut b = bench(&[]);
    b.store(1).unwrap();
    // The primary comes back without its pages.
    b.standing(Behind, Whole);
    assert_eq!(b.connect(Primary), []);
    assert_eq!(b.stores(Primary), []);
    assert_eq!(b.connect(Mirror), []);
    assert_eq!(b.ack(Mirror, 1), [stored(1)]);
}

#[test]
fn one_that_has_what_the_other_lacks_is_not_left_behind() {
    let mut b = bench(&BOTH);
    b.standing(Whole, Partial);
    b.store(1).unwrap();
    assert_eq!(b.ack(Mirror, 1), []);
    // Only the primary has all of the cluster.
    assert_eq!(b.disconnect(Primary), []);
    assert_eq!(b.lane.stores_in_flight(), 1);
    assert_eq!(b.fell(), []);
    assert_eq!(b.connect(Primary), []);
    assert_eq!(b.ack(Primary, 1), [stored(1)]);

    b.store(2).unwrap();
    b.disconnect(Primary);
    assert_eq!(b.expire_stores(u64::MAX), []);
    assert_eq!(b.ack(Mirror, 2), []);
    assert_eq!(b.expire_stores(u64::MAX), [expired(2)]);
    assert_eq!(b.fell(), []);
}

#[test]
fn a_store_that_only_one_that_is_behind_by_now_has_acknowledged_fails() {
    let mut b = bench(&BOTH);
    b.standing(Whole, Behind);
    b.store(1).unwrap();
    b.standing(Behind, Whole);
    assert_eq!(b.ack(Primary, 1), [expired(1)]);

    let mut b = bench(&BOTH);
    b.store(1).unwrap();
    assert_eq!(b.ack(Mirror, 1), []);
    b.standing(Behind, Behind);
    assert_eq!(b.ack(Primary, 1), [expired(1)]);
}

#[test]
fn who_missed_a_store_before_a_resync_began_gets_its_page_by_that() {
    let mut b = bench(&[Primary]);
    b.store(1).unwrap();
    assert_eq!(b.fell(), [(Mirror, 1)]);
    b.connect(Mirror);
    b.standing(Whole, Partial);
    assert_eq!(b.ack(Primary, 1), [stored(1)]);
    assert_eq!(b.fell(), []);
}

#[test]
fn stores_expire_where_no_connected_replica_owes_an_answer() {
    let mut b = bench(&BOTH);
    for token in 1..=2 {
        b.now_ms = u64::from(token) * 10;
        b.store(token).unwrap();
    }
    assert_eq!(b.expire_stores(u64::MAX), []);
    b.disconnect(Primary);
    assert_eq!(b.expire_stores(u64::MAX), []);
    b.disconnect(Mirror);
    assert_eq!(b.expire_stores(20), [expired(1)]);
    assert_eq!(b.expire_stores(20), []);
    b.connect(Mirror);
    assert_eq!(b.stores(Mirror), [2]);

    let mut b = bench(&[]);
    b.store(1).unwrap();
    assert_eq!(b.expire_stores(u64::MAX), [expired(1)]);
    assert_eq!(b.fell(), []);
    assert!(b.connect(Primary).is_empty() && b.connect(Mirror).is_empty());
    assert!(b.stores(Primary).is_empty() && b.stores(Mirror).is_empty());
}

#[test]
fn a_strict_store_is_taken_only_by_both() {
    for (up, primary, mirror) in [
        (&[Primary][..], Whole, Whole),
        (&[Mirror], Whole, Whole),
        (&[], Whole, Whole),
        (&BOTH, Whole, Behind),
        (&BOTH, Behind, Whole),
    ] {
        let mut b = strict(up);
        b.standing(primary, mirror);
        assert_eq!(b.store(1), Err(NoTarget), "{up:?}");
    }
    let mut b = strict(&BOTH);
    b.standing(Whole, Partial);
    assert_eq!(b.store(1), Ok(()));
    assert_eq!(b.ack(Primary, 1), []);
    assert_eq!(b.ack(Mirror, 1), [stored(1)]);
}

#[test]
fn a_strict_store_that_one_misses_fails_and_leaves_nobody_behind() {
    for (lost, kept) in [(Primary, Mirror), (Mirror, Primary)] {
        let mut b = strict(&BOTH);
        for token in 1..=2 {
            b.store(token).unwrap();
        }
        assert_eq!(b.ack(kept, 1), []);
        assert_eq!(b.disconnect(lost), [expired(1)]);
        assert_eq!(b.ack(kept, 2), [expired(2)]);
        assert_eq!(b.fell(), []);

        // Acknowledged by one that has gone since.
        b.connect(lost);
        b.store(3).unwrap();
        assert_eq!(b.ack(lost, 3), []);
        assert_eq!(b.disconnect(lost), []);
        assert_eq!(b.ack(kept, 3), [expired(3)]);
        assert_eq!(b.fell(), []);
    }
}

#[test]
fn a_token_serves_again_once_its_store_has_completed() {
    let mut b = bench(&BOTH);
    for round in 1..=40 {
        assert_eq!(b.store(3), Ok(()));
        assert_eq!(b.store(3), Err(NoRoom), "in flight");
        b.ack(Primary, round);
        assert_eq!(b.store(3), Err(NoRoom), "in flight on the mirror");
        assert_eq!(b.ack(Mirror, round), [stored(3)]);
    }
    let none = u32::try_from(ROOM).unwrap();
    assert_eq!(b.store(none), Err(NoRoom));
    assert_eq!(b.store(u32::MAX), Err(NoRoom));
}

#[test]
fn a_store_that_one_has_no_room_for_is_not_taken_by_the_other() {
    let mut b = bench(&BOTH);
    for cluster in 1..=16 {
        b.lane.free(Mirror, Slot(cluster * 512)).unwrap();
    }
    assert_eq!(b.lane.op_room(Mirror), 0);
    assert_eq!(b.store(1), Err(NoRoom));
    assert_eq!(b.lane.queued(Primary), 0);
    b.book.set(Mirror, 0, Behind);
    assert_eq!(b.store(1), Ok(()));
}

#[test]
fn frees_go_to_each_replica_by_itself_and_wait_for_it() {
    let mut b = bench(&[Primary]);
    b.lane.free(Primary, Slot(5)).unwrap();
    b.lane.free(Mirror, Slot(5)).unwrap();
    b.standing(Whole, Behind);
    assert_eq!(b.drain(Primary).len(), 1);
    assert_eq!(b.ack(Primary, 1), []);
    assert_eq!(b.lane.frees_in_flight(Primary), 0);
    assert_eq!(b.lane.frees_in_flight(Mirror), 1);
    b.connect(Mirror);
    b.disconnect(Mirror);
    b.connect(Mirror);
    assert_eq!(b.drain(Mirror).len(), 1);
}

#[test]
fn numbers_are_each_replicas_own() {
    let mut b = bench(&BOTH);
    b.lane.free(Mirror, Slot(600)).unwrap();
    b.store(1).unwrap();
    assert_eq!(b.lane.issued(Primary).0, 1);
    assert_eq!(b.lane.issued(Mirror).0, 2);
    assert_eq!(b.ack(Mirror, 2), []);
    assert_eq!(b.ack(Primary, 1), [stored(1)]);
}

#[test]
fn a_replica_that_followed_the_other_one_goes_on_above_its_numbers() {
    let mut b = bench(&[Primary]);
    b.standing(Whole, Behind);
    for token in 0..3 {
        b.store(token).unwrap();
    }
    assert_eq!(b.ack(Primary, 2), [stored(0), stored(1)]);
    let mut waiting = Vec::new();
    b.lane.each_store(Primary, |token| waiting.push(token));
    assert_eq!(waiting, [2]);
    b.lane.skip_to_other(Mirror);
    assert_eq!(
        (b.lane.issued(Mirror), b.lane.executed(Mirror)),
        (Seq(3), Seq(0))
    );
    b.standing(Whole, Whole);
    assert_eq!(b.connect(Mirror), []);
    b.store(4).unwrap();
    let seq = |message: &Message| match message {
        Message::Store { seq, .. } => Some(*seq),
        _ => None,
    };
    let sent: Vec<Seq> = b.drain(Mirror).iter().filter_map(seq).collect();
    assert_eq!(sent, [Seq(4)]);
    // Never down, and with something under way, too.
    b.lane.skip_to_other(Primary);
    assert_eq!(
        (b.lane.issued(Primary), b.lane.issued(Mirror)),
        (Seq(4), Seq(4))
    );
    b.lane.free(Mirror, Slot(0)).unwrap();
    b.lane.skip_to_other(Primary);
    assert_eq!(
        (b.lane.issued(Primary), b.lane.issued(Mirror)),
        (Seq(5), Seq(5))
    );
    b.lane.skip_to_other(Mirror);
    assert_eq!(b.lane.issued(Mirror), Seq(5));
}
