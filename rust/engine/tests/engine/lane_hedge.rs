// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What is promised of loads that are asked of both replicas: one wins, and writes over nobody's page.

use super::lane_common::*;
use memsrv_engine::LoadError::Checksum;
use memsrv_engine::NotTaken::NoRoom;
use memsrv_protocol::{Status, Tag};

const BOTH: [Replica; 2] = [Primary, Mirror];

/// A load asked of both; the tags.
fn hedged(b: &mut Bench, slot: u64, count: u16, token: u32) -> (Tag, Tag) {
    b.load(slot, count, token).unwrap();
    let primary = b.asked(Primary);
    assert_eq!(b.hedge(), 1);
    (primary, b.asked(Mirror))
}

#[test]
fn what_is_overdue_is_asked_of_the_other_once() {
    let mut b = bench(&BOTH);
    for token in 1..=3 {
        b.now_ms = u64::from(token) * 10;
        b.load(token.into(), 1, token).unwrap();
    }
    b.loads(Primary);
    let (book, lane) = (&b.book, &mut b.lane);
    assert_eq!(lane.hedge(10, book, 40), 0);
    assert_eq!(lane.hedge(30, book, 40), 2);
    assert_eq!(lane.hedge(30, book, 50), 0);
    let slots: Vec<u64> = b.loads(Mirror).iter().map(|load| load.1).collect();
    assert_eq!(slots, [1, 2]);
    assert_eq!(b.lane.oldest_ms(Mirror), Some(40));
}

#[test]
fn only_a_connected_replica_that_is_not_behind_is_asked_too() {
    for (up, mirror, asked) in [
        (&BOTH[..], Whole, 1),
        (&BOTH, Partial, 1),
        (&BOTH, Behind, 0),
        (&[Primary], Whole, 0),
    ] {
        let mut b = bench(up);
        b.standing(Whole, mirror);
        b.load(1, 1, 1).unwrap();
        assert_eq!(b.hedge(), asked);
    }
}

#[test]
fn the_first_whole_answer_completes_and_the_late_one_is_skipped() {
    for (first, late) in [(Primary, Mirror), (Mirror, Primary)] {
        let mut b = bench(&BOTH);
        let tags = hedged(&mut b, 5, 1, 9);
        let tag = |replica| if replica == Primary { tags.0 } else { tags.1 };
        assert_eq!(b.page(first, tag(first), 5), Some(loaded(9)));
        assert_eq!(b.lane.loads_in_flight(), 0);
        assert!(b.lane.any_load(late, |token, _| token.is_none()));
        // The token is free: the late answer is not taken for the new load's.
        b.load(6, 1, 9).unwrap();
        assert!(!b.page_begins(late, tag(late), 5));
        assert_eq!(b.page_ends(late, tag(late), Ok(())), None);
        assert_eq!(b.lane.load_room(), ROOM - 1);
        assert_eq!(b.lane.loads_in_flight(), 1);
    }
}

#[test]
fn a_late_failure_says_nothing() {
    let mut b = bench(&BOTH);
    let (primary, mirror) = hedged(&mut b, 5, 1, 9);
    assert_eq!(b.page(Mirror, mirror, 5), Some(loaded(9)));
    assert_eq!(b.no_page(Primary, primary, 5, Status::NotFound), []);
    assert_eq!(b.fell(), []);
    assert_eq!(b.lane.load_room(), ROOM);
    assert!(b.is_idle());
}

#[test]
fn a_failure_of_one_waits_for_the_other_that_is_asked_too() {
    let mut b = bench(&BOTH);
    let (primary, mirror) = hedged(&mut b, 5, 1, 9);
    assert_eq!(b.no_page(Mirror, mirror, 5, Status::NotFound), []);
    assert_eq!(b.page(Primary, primary, 5), Some(loaded(9)));
    assert_eq!(b.fell(), [(Mirror, 5)]);
}

#[test]
fn while_one_writes_the_folio_the_other_is_skipped_and_asked_again_if_need_be() {
    let mut b = bench(&BOTH);
    let (primary, mirror) = hedged(&mut b, 5, 1, 9);
    assert!(b.page_begins(Primary, primary, 5));
    assert!(!b.page_begins(Mirror, mirror, 5));
    // Whatever is said of bytes that nobody has looked at.
    assert_eq!(b.page_ends(Mirror, mirror, Err(Checksum)), None);
    assert!(b.is_idle());
    assert_eq!(b.page_ends(Primary, primary, Err(Checksum)), None);
    let mirror = b.asked(Mirror);
    assert_eq!(b.page(Mirror, mirror, 5), Some(loaded(9)));
    assert_eq!(b.fell(), [(Primary, 5)]);
}

#[test]
fn what_was_skipped_is_asked_again_only_when_its_answer_has_ended() {
    let mut b = bench(&BOTH);
    let (primary, mirror) = hedged(&mut b, 5, 1, 9);
    assert!(b.page_begins(Primary, primary, 5));
    assert!(!b.page_begins(Mirror, mirror, 5));
    // The writer breaks while the other's page is still being skipped.
    b.disconnect(Primary);
    assert!(b.is_idle());
    assert_eq!(b.expire_loads(|_, _| false), [], "the mirror is connected");
    assert_eq!(b.page_ends(Mirror, mirror, Ok(())), None);
    let mirror = b.asked(Mirror);
    assert_eq!(b.page(Mirror, mirror, 5), Some(loaded(9)));
    assert_eq!(b.lane.load_room(), ROOM);
    b.connect(Primary);
    assert!(b.is_idle());
}

#[test]
fn what_was_skipped_in_part_is_asked_from_the_first_page_after_a_reconnect() {
    let mut b = bench(&BOTH);
    let (primary, mirror) = hedged(&mut b, 5, 2, 9);
    assert!(b.page_begins(Primary, primary, 5));
    assert!(!b.page_begins(Mirror, mirror, 5));
    b.page_ends(Mirror, mirror, Ok(()));
    b.page_ends(Primary, primary, Ok(()));
    assert_eq!(b.no_page(Primary, primary, 6, Status::NotFound), []);
    b.disconnect(Mirror);
    b.connect(Mirror);
    let loads = b.loads(Mirror);
    assert_eq!((loads[0].1, loads[0].2), (5, 2));
    assert_eq!(b.page(Mirror, loads[0].0, 5), None);
    assert_eq!(b.page(Mirror, loads[0].0, 6), Some(loaded(9)));
}

#[test]
fn when_one_goes_a_load_that_the_other_is_asked_too_just_waits_for_it() {
    for (lost, kept) in [(Primary, Mirror), (Mirror, Primary)] {
        let mut b = bench(&BOTH);
        let tags = hedged(&mut b, 5, 1, 9);
        let tag = if kept == Primary { tags.0 } else { tags.1 };
        assert_eq!(b.disconnect(lost), []);
        assert_eq!(waits(&b), Some(kept));
        assert_eq!(b.page(kept, tag, 5), Some(loaded(9)));
        assert_eq!(b.lane.load_room(), ROOM);
    }
}

#[test]
fn an_answer_that_is_owed_goes_with_its_connection() {
    let mut b = bench(&BOTH);
    let (_, mirror) = hedged(&mut b, 5, 1, 9);
    assert_eq!(b.page(Mirror, mirror, 5), Some(loaded(9)));
    assert_eq!(b.lane.load_room(), ROOM - 1);
    // Nobody else could be asked, either.
    b.disconnect(Mirror);
    b.disconnect(Primary);
    assert_eq!(b.lane.load_room(), ROOM);
    b.connect(Primary);
    assert!(b.is_idle());
}

#[test]
fn the_winner_of_several_pages_has_delivered_each() {
    // Both write; the one that is done first wins.
    let mut b = bench(&BOTH);
    let (primary, mirror) = hedged(&mut b, 5, 2, 9);
    assert_eq!(b.page(Primary, primary, 5), None);
    assert_eq!(b.page(Mirror, mirror, 5), None);
    assert_eq!(b.page(Mirror, mirror, 6), Some(loaded(9)));
    assert!(!b.page_begins(Primary, primary, 6));
    assert_eq!(b.page_ends(Primary, primary, Ok(())), None);

    // The mirror's first page was skipped, so that its second is not enough.
    let mut b = bench(&BOTH);
    let (primary, mirror) = hedged(&mut b, 5, 2, 9);
    assert!(b.page_begins(Primary, primary, 5));
    assert!(!b.page_begins(Mirror, mirror, 5));
    b.page_ends(Mirror, mirror, Ok(()));
    b.page_ends(Primary, primary, Ok(()));
    assert!(!b.page_begins(Mirror, mirror, 6));
    assert_eq!(b.page_ends(Mirror, mirror, Ok(())), None);
    assert_eq!(b.page(Primary, primary, 6), Some(loaded(9)));
}

/// Ends the primary's page in a bad way.
type Spoil = fn(&mut Bench, Tag);

#[test]
fn a_page_that_the_other_has_spoiled_does_not_count() {
    let spoils: [Spoil; 2] = [
        |b, tag| assert_eq!(b.page_ends(Primary, tag, Err(Checksum)), None),
        |b, _| assert_eq!(b.disconnect(Primary), []),
    ];
    for spoil in spoils {
        let mut b = bench(&BOTH);
        let (primary, mirror) = hedged(&mut b, 5, 2, 9);
        assert_eq!(b.page(Mirror, mirror, 5), None);
        // Into the memory where the mirror's good page stands.
        assert!(b.page_begins(Primary, primary, 5));
        spoil(&mut b, primary);
        assert!(!b.page_begins(Mirror, mirror, 6));
        assert_eq!(b.page_ends(Mirror, mirror, Ok(())), None);
        if b.lane.is_connected(Primary) {
            // The second page of the primary's is still to come.
            assert_eq!(b.page(Primary, primary, 6), None);
        }
        let loads = b.loads(Mirror);
        assert_eq!((loads[0].1, loads[0].2), (5, 2), "from the first page");
        assert_eq!(b.page(Mirror, loads[0].0, 5), None);
        assert_eq!(b.page(Mirror, loads[0].0, 6), Some(loaded(9)));
    }
}

#[test]
fn a_bad_page_does_not_spoil_what_the_other_has_still_to_deliver() {
    let mut b = bench(&BOTH);
    let (primary, mirror) = hedged(&mut b, 5, 2, 9);
    assert!(b.page_begins(Primary, primary, 5));
    assert_eq!(b.page_ends(Primary, primary, Err(Checksum)), None);
    assert_eq!(b.page(Mirror, mirror, 5), None);
    assert_eq!(b.page(Mirror, mirror, 6), Some(loaded(9)));
}

#[test]
fn a_load_whose_page_is_coming_in_is_not_asked_twice() {
    let mut b = bench(&BOTH);
    b.load(5, 1, 9).unwrap();
    let tag = b.asked(Primary);
    assert!(b.page_begins(Primary, tag, 5));
    assert_eq!(b.hedge(), 0);
}

#[test]
fn answers_that_are_owed_leave_half_of_the_entries_to_loads() {
    let mut b = bench(&BOTH);
    let half = u32::try_from(ROOM / 2).unwrap();
    // The primary never answers.
    for token in 0..half {
        b.load(token.into(), 1, token).unwrap();
    }
    assert_eq!(b.hedge(), ROOM / 2);
    for (tag, slot, _) in b.loads(Mirror) {
        assert!(b.page(Mirror, tag, slot).is_some());
    }
    assert_eq!(b.lane.loads_in_flight(), 0);
    for token in 0..half {
        assert_eq!(b.load(token.into(), 1, token), Ok(()));
    }
    assert_eq!(b.hedge(), 0);
    assert_eq!(b.load(99, 1, 99), Err(NoRoom));
}

#[test]
fn no_more_loads_than_half_of_the_entries_are_asked_of_both() {
    let mut b = bench(&BOTH);
    for token in 0..12 {
        b.load(token.into(), 1, token).unwrap();
    }
    assert_eq!(b.hedge(), ROOM / 2);
    assert_eq!(b.hedge(), 0);
}

#[test]
fn a_load_is_as_old_on_a_replica_as_its_question_there() {
    let mut b = bench(&BOTH);
    b.now_ms = 10;
    b.load(5, 1, 9).unwrap();
    b.loads(Primary);
    assert!(b
        .lane
        .any_load(Primary, |token, at| (token, at) == (Some(&9), 10)));
    b.now_ms = 30;
    assert_eq!(b.hedge(), 1);
    assert!(b
        .lane
        .any_load(Mirror, |token, at| (token, at) == (Some(&9), 30)));
    assert!(!b.lane.any_load(Mirror, |_, at| at == 10));
}
