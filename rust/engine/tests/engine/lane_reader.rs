// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A mirror that the primary feeds, and that is there for reading only: what it is asked, and when its answer counts.

use super::lane_common::*;
use memsrv_engine::{Fault, LoadError::*, NotTaken::NoRoom};
use memsrv_protocol::{Message, Seq, Slot, Status, Tag};

/// With the primary, which has acknowledged three stores, and the mirror for reading.
fn fed() -> Bench {
    let mut b = bench(&[Primary]);
    b.standing(Whole, Behind);
    for token in 1..=3 {
        b.store(token).unwrap();
    }
    assert_eq!(b.ack(Primary, 3), [1, 2, 3].map(stored));
    b.fell();
    assert_eq!(b.attach(Mirror), []);
    assert!(b.lane.is_attached(Mirror) && !b.lane.is_connected(Mirror));
    b
}

/// A load of slot 2 that the mirror is asked for, too, under that tag.
fn hedged(b: &mut Bench) -> (Tag, Tag) {
    b.load(2, 1, 9).unwrap();
    let primary = b.asked(Primary);
    assert_eq!(b.hedge(), 1);
    (primary, b.asked(Mirror))
}

#[test]
fn who_only_reads_gets_loads_and_nothing_else() {
    let mut b = fed();
    b.store(4).unwrap();
    assert_eq!(b.stores(Primary), [4]);
    // Whatever the driver says.
    b.standing(Whole, Whole);
    b.store(5).unwrap();
    assert_eq!(b.lane.free(Mirror, Slot(0)), Err(memsrv_engine::NoRoom));
    b.lane.refill(Mirror, &[Slot(0)], &b.book, b.now_ms);
    assert!(!b.lane.has_output(Mirror));
    assert_eq!(b.lane.issued(Mirror), Seq(0), "it has no numbers");
    assert_eq!(b.lane.stores_owed(Mirror), 0);
    // With the primary away stores wait for that.
    b.disconnect(Primary);
    b.standing(Whole, Whole);
    b.store(6).unwrap();
    assert!(!b.lane.has_output(Mirror));
    assert_eq!(b.lane.issued(Mirror), Seq(0));
    // It cannot end what it was not asked.
    for message in [
        Message::Ack { seq: Seq(1) },
        Message::Nak {
            seq: Seq(6),
            status: Status::Full,
        },
    ] {
        assert!(b.answer(Mirror, message).is_err());
    }
    b.connect(Primary);
    assert_eq!(b.ack(Primary, 6), [4, 5, 6].map(stored));
}

/// An earlier connection has left it.
#[test]
fn what_waits_for_a_whole_connection_waits_on() {
    let mut b = bench(&[Primary]);
    b.lane.free(Mirror, Slot(0)).unwrap();
    b.attach(Mirror);
    assert!(!b.lane.has_output(Mirror) && !b.lane.is_due(Mirror, 1, false));
    assert_eq!(b.drain(Mirror), []);
    b.connect(Mirror);
    assert_eq!(b.drain(Mirror).len(), 1);
}

#[test]
fn a_load_that_waits_is_asked_of_it_too() {
    let mut b = fed();
    let (primary, mirror) = hedged(&mut b);
    b.reached(Mirror, mirror, 3);
    assert_eq!(b.page(Mirror, mirror, 2), Some(loaded(9)));
    // The late answer is skipped.
    assert!(!b.page_begins(Primary, primary, 2));
    assert_eq!(b.page_ends(Primary, primary, Ok(())), None);
    assert_eq!(b.lane.load_room(), ROOM);
    assert_eq!(b.fell(), []);
}

/// From then on it may have refused what was acknowledged, and count its number.
#[test]
fn who_is_dismissed_answers_what_he_was_asked_and_no_more() {
    let mut b = fed();
    let (primary, mirror) = hedged(&mut b);
    b.lane.dismiss(Mirror);
    b.load(3, 1, 10).unwrap();
    let second = b.asked(Primary);
    assert_eq!(b.hedge(), 0);
    b.reached(Mirror, mirror, 3);
    assert_eq!(b.page(Mirror, mirror, 2), Some(loaded(9)));
    assert!(!b.page_begins(Primary, primary, 2));
    b.page_ends(Primary, primary, Ok(()));
    assert_eq!(
        b.no_page(Primary, second, 3, Status::NotFound),
        [failed(10, Gone)]
    );
    b.load(1, 1, 11).unwrap();
    b.disconnect(Primary);
    assert_eq!(waits(&b), Some(Primary));
    // A new connection is another matter, and one that does more than read.
    b.attach(Mirror);
    assert_eq!(waits(&b), Some(Mirror));
    b.connect(Mirror);
    b.lane.dismiss(Mirror);
    b.standing(Behind, Whole);
    b.load(2, 1, 9).unwrap();
    b.asked(Mirror);
}

#[test]
fn the_primary_is_asked_first_while_it_is_there() {
    let mut b = fed();
    b.load(2, 1, 9).unwrap();
    assert_eq!(waits(&b), Some(Primary));
}

#[test]
fn what_has_not_come_so_far_does_not_count() {
    // Behind what was acknowledged, or ahead of what was issued: set back, or one of us was.
    for seq in [0, 2, 4, u64::MAX] {
        let mut b = fed();
        let (primary, mirror) = hedged(&mut b);
        b.reached(Mirror, mirror, seq);
        assert!(!b.page_begins(Mirror, mirror, 2), "{seq}");
        assert_eq!(b.page_ends(Mirror, mirror, Ok(())), None);
        assert_eq!(waits(&b), Some(Primary));
        assert_eq!(b.page(Primary, primary, 2), Some(loaded(9)));
        assert_eq!(b.lane.load_room(), ROOM);
        assert_eq!(b.fell(), []);
    }
    // Or nothing was said at all.
    let mut b = fed();
    let (primary, mirror) = hedged(&mut b);
    assert!(!b.page_begins(Mirror, mirror, 2));
    // Too late.
    let reached = Message::Reached {
        tag: mirror,
        seq: Seq(3),
    };
    let fault = Err(Fault::TagUnknown { tag: mirror });
    assert_eq!(b.answer(Mirror, reached), fault);
    assert_eq!(b.page_ends(Mirror, mirror, Ok(())), None);
    assert_eq!(b.page(Primary, primary, 2), Some(loaded(9)));
}

/// What is issued meanwhile may be done there before it is acknowledged; what is acknowledged meanwhile is of other slots.
#[test]
fn how_far_it_has_to_have_come_is_decided_when_it_is_asked() {
    for seq in 3..=5 {
        let mut b = fed();
        b.store(4).unwrap();
        b.store(5).unwrap();
        let (_, mirror) = hedged(&mut b);
        assert_eq!(b.ack(Primary, 5), [4, 5].map(stored));
        b.reached(Mirror, mirror, seq);
        assert_eq!(b.page(Mirror, mirror, 2), Some(loaded(9)));
    }
    // Another load's word is no word for this one.
    let mut b = fed();
    let (_, first) = hedged(&mut b);
    b.load(3, 1, 10).unwrap();
    b.asked(Primary);
    assert_eq!(b.hedge(), 1);
    let second = b.asked(Mirror);
    b.reached(Mirror, second, 3);
    assert!(!b.page_begins(Mirror, first, 2));
    b.page_ends(Mirror, first, Ok(()));
    assert_eq!(b.page(Mirror, second, 3), Some(loaded(10)));
}

#[test]
fn when_the_primary_goes_its_loads_go_there_at_once() {
    let mut b = fed();
    b.load(2, 1, 9).unwrap();
    b.asked(Primary);
    assert_eq!(b.disconnect(Primary), []);
    let tag = b.asked(Mirror);
    b.load(3, 1, 10).unwrap();
    let other = b.asked(Mirror);
    b.reached(Mirror, tag, 3);
    assert_eq!(b.page(Mirror, tag, 2), Some(loaded(9)));
    // And back, if it cannot answer: the primary may come again.
    b.reached(Mirror, other, 2);
    assert!(!b.page_begins(Mirror, other, 3));
    assert_eq!(b.page_ends(Mirror, other, Ok(())), None);
    assert_eq!(waits(&b), Some(Primary));
    assert!(b.is_idle());
    b.connect(Primary);
    let tag = b.asked(Primary);
    assert_eq!(b.page(Primary, tag, 3), Some(loaded(10)));
    // What waited for the primary before there was a mirror goes there, too.
    b.disconnect(Mirror);
    b.disconnect(Primary);
    b.load(1, 1, 11).unwrap();
    assert_eq!(b.attach(Mirror), []);
    let tag = b.asked(Mirror);
    b.reached(Mirror, tag, 3);
    assert_eq!(b.page(Mirror, tag, 1), Some(loaded(11)));
    assert_eq!(b.lane.load_room(), ROOM);
}

#[test]
fn what_it_lacks_the_primary_is_still_asked_for() {
    for status in [Status::NotFound, Status::BadChecksum, Status::Full] {
        let mut b = fed();
        b.disconnect(Primary);
        b.load(2, 1, 9).unwrap();
        let tag = b.asked(Mirror);
        b.reached(Mirror, tag, 3);
        assert_eq!(b.no_page(Mirror, tag, 2, status), []);
        assert_eq!(waits(&b), Some(Primary));
        assert_eq!(b.connect(Primary), []);
        let tag = b.asked(Primary);
        assert_eq!(b.page(Primary, tag, 2), Some(loaded(9)));
        assert_eq!(b.fell(), [], "nobody is at fault");
    }
}

/// Nor does the primary fall behind for it: there is nobody who could take its place.
#[test]
fn what_the_primary_lacks_it_is_asked_for() {
    let mut b = fed();
    b.standing(Whole, Whole);
    b.load(2, 1, 9).unwrap();
    let tag = b.asked(Primary);
    assert_eq!(b.no_page(Primary, tag, 2, Status::NotFound), []);
    let tag = b.asked(Mirror);
    b.reached(Mirror, tag, 3);
    assert_eq!(b.page(Mirror, tag, 2), Some(loaded(9)));
    assert_eq!(b.fell(), []);
    // If neither has it, that is the end; it is asked once more in case that it had come no further the first time.
    b.load(2, 1, 9).unwrap();
    let primary = b.asked(Primary);
    assert_eq!(b.hedge(), 1);
    let mirror = b.asked(Mirror);
    b.reached(Mirror, mirror, 2);
    assert!(!b.page_begins(Mirror, mirror, 2));
    b.page_ends(Mirror, mirror, Ok(()));
    assert_eq!(b.no_page(Primary, primary, 2, Status::NotFound), []);
    let mirror = b.asked(Mirror);
    b.reached(Mirror, mirror, 2);
    assert!(!b.page_begins(Mirror, mirror, 2));
    assert_eq!(b.page_ends(Mirror, mirror, Ok(())), Some(failed(9, Gone)));
    assert_eq!(b.lane.load_room(), ROOM);
}

/// Whoever is there under that name later may be behind.
#[test]
fn what_was_asked_of_it_ends_with_its_connection() {
    for again in [false, true] {
        let mut b = fed();
        b.load(2, 1, 9).unwrap();
        let tag = b.asked(Primary);
        b.no_page(Primary, tag, 2, Status::NotFound);
        b.asked(Mirror);
        assert_eq!(b.disconnect(Mirror), [failed(9, Gone)]);
        if again {
            b.attach(Mirror);
        } else {
            b.connect(Mirror);
        }
        assert!(b.is_idle());
    }
    let mut b = fed();
    b.disconnect(Primary);
    b.load(2, 1, 9).unwrap();
    b.asked(Mirror);
    b.disconnect(Mirror);
    assert_eq!(waits(&b), Some(Primary));
    b.connect(Mirror);
    assert!(b.is_idle(), "it is behind");
    assert_eq!(b.expire_loads(|_, _| false), [failed(9, Expired)]);
    assert_eq!(b.lane.load_room(), ROOM);
}

#[test]
fn it_is_a_replica_like_another_when_it_is_connected() {
    let mut b = fed();
    b.disconnect(Mirror);
    b.lane.skip_to_other(Mirror);
    b.connect(Mirror);
    assert!(b.lane.is_connected(Mirror) && !b.lane.is_attached(Mirror));
    b.standing(Whole, Whole);
    b.store(4).unwrap();
    assert_eq!((b.stores(Primary), b.stores(Mirror)), (vec![4], vec![4]));
    // Its word is not asked for, and counts for nothing.
    b.load(2, 1, 9).unwrap();
    b.asked(Primary);
    b.hedge();
    let tag = b.asked(Mirror);
    b.reached(Mirror, tag, 0);
    assert_eq!(b.page(Mirror, tag, 2), Some(loaded(9)));
    assert_eq!(b.load(2, 0, 9), Err(NoRoom));
}
