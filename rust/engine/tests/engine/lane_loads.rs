// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What is promised of loads on two replicas: who is asked, and what failures do.

use super::lane_common::*;
use memsrv_engine::Fault;
use memsrv_engine::LoadError::{Checksum, Expired, Gone, Refused};
use memsrv_engine::NotTaken::{NoRoom, NoTarget};
use memsrv_protocol::{Message, Slot, Status, Tag};

const BOTH: [Replica; 2] = [Primary, Mirror];

#[test]
fn the_best_replica_is_asked() {
    for (up, primary, mirror, asked) in [
        (&BOTH[..], Whole, Whole, Some(Primary)),
        (&BOTH, Partial, Whole, Some(Mirror)),
        (&BOTH, Whole, Partial, Some(Primary)),
        (&BOTH, Partial, Partial, Some(Primary)),
        (&BOTH, Behind, Whole, Some(Mirror)),
        (&BOTH, Behind, Partial, Some(Mirror)),
        (&BOTH, Behind, Behind, None),
        (&[Mirror], Whole, Whole, Some(Mirror)),
        (&[Mirror], Whole, Partial, Some(Mirror)),
        (&[Mirror], Whole, Behind, Some(Primary)),
        (&[Primary], Partial, Whole, Some(Primary)),
        (&[Primary], Behind, Partial, Some(Mirror)),
        (&[], Whole, Whole, Some(Primary)),
        (&[], Partial, Whole, Some(Mirror)),
        (&[], Partial, Partial, Some(Primary)),
        (&[], Behind, Behind, None),
    ] {
        let case = format!("{up:?} up, {primary:?} {mirror:?}");
        let mut b = bench(up);
        b.standing(primary, mirror);
        let taken = b.load(1, 1, 0);
        assert_eq!(taken, asked.map(|_| ()).ok_or(NoTarget), "{case}");
        assert_eq!(waits(&b), asked, "{case}");
        assert_eq!(b.lane.loads_in_flight(), usize::from(asked.is_some()));
    }
}

#[test]
fn a_failure_of_one_is_the_others_turn() {
    for status in [Status::NotFound, Status::BadChecksum, Status::Draining] {
        let mut b = bench(&BOTH);
        b.load(5, 1, 9).unwrap();
        let tag = b.asked(Primary);
        assert_eq!(b.no_page(Primary, tag, 5, status), []);
        let tag = b.asked(Mirror);
        assert_eq!(b.page(Mirror, tag, 5), Some(loaded(9)));
    }
    let mut b = bench(&BOTH);
    b.load(5, 1, 9).unwrap();
    let tag = b.asked(Primary);
    assert!(b.page_begins(Primary, tag, 5));
    assert_eq!(b.page_ends(Primary, tag, Err(Checksum)), None);
    let tag = b.asked(Mirror);
    assert_eq!(b.page(Mirror, tag, 5), Some(loaded(9)));
}

#[test]
fn after_a_failure_the_load_waits_for_a_whole_replica_that_is_away() {
    let mut b = bench(&[Mirror]);
    b.standing(Whole, Partial);
    b.load(5, 1, 9).unwrap();
    let tag = b.asked(Mirror);
    assert_eq!(b.no_page(Mirror, tag, 5, Status::NotFound), []);
    assert_eq!(waits(&b), Some(Primary));
    b.connect(Primary);
    let tag = b.asked(Primary);
    assert_eq!(b.page(Primary, tag, 5), Some(loaded(9)));
    // The mirror was not to have it.
    assert_eq!(b.fell(), []);
}

#[test]
fn nobody_is_asked_twice_and_one_that_is_behind_never() {
    let mut b = bench(&BOTH);
    b.standing(Whole, Behind);
    b.load(5, 1, 9).unwrap();
    let tag = b.asked(Primary);
    let done = b.no_page(Primary, tag, 5, Status::NotFound);
    assert_eq!(done, [failed(9, Gone)]);

    let mut b = bench(&BOTH);
    b.load(5, 1, 9).unwrap();
    let tag = b.asked(Primary);
    assert_eq!(b.no_page(Primary, tag, 5, Status::NotFound), []);
    let tag = b.asked(Mirror);
    assert_eq!(
        b.no_page(Mirror, tag, 5, Status::NotFound),
        [failed(9, Gone)]
    );
    assert!(b.is_idle());
    assert_eq!(b.fell(), []);
}

#[test]
fn of_two_failures_the_more_telling_one_is_told() {
    let damaged = Refused(Status::BadChecksum);
    let draining = Refused(Status::Draining);
    for (first, second, mirror, told) in [
        (Gone, damaged, Whole, damaged),
        (damaged, Gone, Whole, damaged),
        (Gone, draining, Whole, Gone),
        (draining, Gone, Whole, Gone),
        (draining, Gone, Partial, draining),
        (damaged, Gone, Partial, damaged),
        (Gone, Gone, Partial, Gone),
        (draining, Refused(Status::Busy), Whole, draining),
    ] {
        let status = |error| match error {
            Refused(status) => status,
            _ => Status::NotFound,
        };
        let mut b = bench(&BOTH);
        b.standing(Whole, mirror);
        b.load(5, 1, 9).unwrap();
        let tag = b.asked(Primary);
        assert_eq!(b.no_page(Primary, tag, 5, status(first)), []);
        let tag = b.asked(Mirror);
        let done = b.no_page(Mirror, tag, 5, status(second));
        assert_eq!(done, [failed(9, told)], "{first:?}, {second:?} {mirror:?}");
    }
}

#[test]
fn a_whole_replica_without_a_good_page_falls_behind_once_a_whole_one_delivers() {
    type Case = (Standing, Standing, Status, bool);
    let cases: [Case; 6] = [
        (Whole, Whole, Status::NotFound, true),
        (Whole, Whole, Status::BadChecksum, true),
        (Whole, Whole, Status::Draining, false),
        // What only the faulty one has would be out of reach.
        (Whole, Partial, Status::NotFound, false),
        (Partial, Partial, Status::NotFound, false),
        (Whole, Partial, Status::BadChecksum, false),
    ];
    for (primary, mirror, status, falls) in cases {
        let mut b = bench(&BOTH);
        b.standing(primary, mirror);
        b.load(5, 1, 9).unwrap();
        let tag = b.asked(Primary);
        b.no_page(Primary, tag, 5, status);
        assert_eq!(b.fell(), []);
        let tag = b.asked(Mirror);
        assert_eq!(b.page(Mirror, tag, 5), Some(loaded(9)));
        let fell: &[(Replica, u64)] = if falls { &[(Primary, 5)] } else { &[] };
        assert_eq!(b.fell(), fell, "{primary:?} {mirror:?} {status:?}");
    }
    let mut b = bench(&BOTH);
    b.load(5, 1, 9).unwrap();
    let tag = b.asked(Primary);
    b.page_begins(Primary, tag, 5);
    b.page_ends(Primary, tag, Err(Checksum));
    let tag = b.asked(Mirror);
    b.page(Mirror, tag, 5);
    assert_eq!(b.fell(), [(Primary, 5)]);
}

#[test]
fn when_one_goes_its_loads_are_asked_of_the_other_from_the_first_page() {
    let mut b = bench(&BOTH);
    b.load(10, 3, 9).unwrap();
    let tag = b.asked(Primary);
    assert_eq!(b.page(Primary, tag, 10), None);
    assert!(b.page_begins(Primary, tag, 11));
    b.now_ms = 777;
    assert_eq!(b.disconnect(Primary), []);
    assert_eq!(b.lane.oldest_ms(Mirror), Some(777), "young there");
    let loads = b.loads(Mirror);
    assert_eq!((loads[0].1, loads[0].2), (10, 3));
    for slot in 10..12 {
        assert_eq!(b.page(Mirror, loads[0].0, slot), None);
    }
    assert_eq!(b.page(Mirror, loads[0].0, 12), Some(loaded(9)));
    b.connect(Primary);
    assert!(b.is_idle());
    assert_eq!(b.fell(), []);
}

#[test]
fn a_load_stays_with_one_that_goes_if_the_other_cannot_be_asked() {
    for (up, mirror) in [(&[Primary][..], Whole), (&BOTH, Behind)] {
        let mut b = bench(up);
        b.standing(Whole, mirror);
        b.load(10, 2, 9).unwrap();
        let tag = b.asked(Primary);
        assert_eq!(b.page(Primary, tag, 10), None);
        b.disconnect(Primary);
        assert_eq!(waits(&b), Some(Primary));
        b.connect(Primary);
        // It goes on where it was.
        let loads = b.loads(Primary);
        assert_eq!((loads[0].1, loads[0].2), (11, 1));
        assert_eq!(b.page(Primary, loads[0].0, 11), Some(loaded(9)));
    }
}

#[test]
fn a_load_that_waits_moves_to_the_other_when_that_comes() {
    let mut b = bench(&[]);
    b.load(10, 1, 9).unwrap();
    assert_eq!(waits(&b), Some(Primary));
    b.connect(Mirror);
    assert_eq!(waits(&b), Some(Mirror));

    let mut b = bench(&[]);
    b.standing(Whole, Behind);
    b.load(10, 1, 9).unwrap();
    b.connect(Mirror);
    assert_eq!(waits(&b), Some(Primary), "the mirror is behind");
}

#[test]
fn a_load_leaves_one_that_comes_back_behind() {
    let mut b = bench(&[]);
    b.load(10, 1, 9).unwrap();
    assert_eq!(waits(&b), Some(Primary));
    b.standing(Behind, Whole);
    b.connect(Primary);
    assert_eq!(waits(&b), Some(Mirror));
}

#[test]
fn loads_expire_where_no_connected_replica_owes_an_answer_by_the_time_of_first_asking() {
    let mut b = bench(&BOTH);
    b.now_ms = 10;
    b.load(1, 1, 1).unwrap();
    b.load(2, 1, 2).unwrap();
    b.now_ms = 50;
    b.disconnect(Primary);
    assert_eq!(b.expire_loads(|_, _| false), []);
    b.disconnect(Mirror);
    let mut asked = Vec::new();
    let done = b.expire_loads(|&token, since_ms| {
        asked.push((token, since_ms));
        token != 1
    });
    asked.sort_unstable();
    assert_eq!(asked, [(1, 10), (2, 10)]);
    assert_eq!(done, [failed(1, Expired)]);
    assert_eq!(b.lane.loads_in_flight(), 1);
    assert_eq!(b.lane.load_room(), ROOM - 1);
}

#[test]
fn faults_are_those_of_the_replicas_own_stream() {
    let mut b = bench(&[Primary]);
    b.load(5, 1, 9).unwrap();
    let tag = b.asked(Primary);
    let lane = &mut b.lane;
    assert_eq!(lane.page(Mirror, tag, Slot(5)), Err(Fault::NotConnected));
    let forged = Tag(tag.0 + 1);
    let unknown = Err(Fault::TagUnknown { tag: forged });
    assert_eq!(lane.page(Primary, forged, Slot(5)), unknown);
    let early = lane.page_done(Primary, tag, Ok(()), &b.book, 0);
    assert_eq!(early, Err(Fault::PageNotBegun { tag }));
    b.connect(Mirror);
    let other = b.lane.page(Mirror, tag, Slot(5));
    assert_eq!(other, Err(Fault::TagUnknown { tag }));
    let handshake = b.answer(Mirror, Message::Welcome);
    assert_eq!(handshake, Err(Fault::Handshake));
    assert_eq!(b.page(Primary, tag, 5), Some(loaded(9)));
}

#[test]
fn a_run_that_leaves_its_cluster_is_not_taken() {
    let mut b = bench(&BOTH);
    assert_eq!(b.load(511, 2, 1), Err(NoRoom));
    assert_eq!(b.load(5, 0, 1), Err(NoRoom));
    assert_eq!(b.lane.load_room(), ROOM);
}
