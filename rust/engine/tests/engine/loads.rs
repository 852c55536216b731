// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What is promised of loads: tags, order of pages, failures, resend, expiry, and what is ignored.

use super::common::{answer, drain, drain_tags, loaded, next, stream, Done, TestStream};
use memsrv_engine::{Completion, Fault, LoadError, NoRoom, PageTarget};
use memsrv_protocol::{Message, Op, Slot, Status, Tag, PAGE_LEN};

const LARGE: u32 = 1 << 20;

fn connected() -> TestStream {
    let mut s = stream(4, 4);
    s.connected(LARGE);
    s
}

/// A page of the load comes whole.
fn page(
    s: &mut TestStream,
    tag: Tag,
    slot: u64,
    result: Result<(), LoadError>,
) -> Result<Option<Done>, Fault> {
    s.page(tag, Slot(slot))?;
    s.page_done(tag, result)
}

fn no_page(s: &mut TestStream, tag: Tag, slot: u64, status: Status) -> Result<Vec<Done>, Fault> {
    answer(
        s,
        Message::NoPage {
            tag,
            slot: Slot(slot),
            status,
        },
    )
}

fn failed(token: u32, error: LoadError) -> Done {
    Completion::Load {
        token,
        result: Err(error),
    }
}

#[test]
fn a_load_completes_with_its_page() {
    let mut s = connected();
    s.load(Slot(7), 1, 70, 0).unwrap();
    let tag = drain_tags(&mut s)[0];
    assert_eq!(
        s.page(tag, Slot(7)),
        Ok(PageTarget {
            token: 70,
            index: 0
        })
    );
    assert_eq!(s.loads_in_flight(), 1);
    assert_eq!(s.page_done(tag, Ok(())), Ok(Some(loaded(70))));
    assert_eq!(s.loads_in_flight(), 0);
}

#[test]
fn loads_go_before_stores_and_in_the_order_of_asking() {
    let mut s = connected();
    s.store(Slot(1), 0, 1, 0).unwrap();
    for i in 2..5 {
        s.load(Slot(i), 1, 0, 0).unwrap();
    }
    let slots: Vec<u64> = drain(&mut s)
        .iter()
        .map(|m| match m {
            Message::Load { slot, .. } | Message::Store { slot, .. } => slot.0,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(slots, [2, 3, 4, 1]);
}

#[test]
fn answers_to_different_loads_may_come_in_any_order() {
    let mut s = connected();
    for i in 0..3 {
        s.load(Slot(i), 1, i.try_into().unwrap(), 0).unwrap();
    }
    let tags = drain_tags(&mut s);
    for i in [2, 0, 1] {
        let slot = i.try_into().unwrap();
        let token = i.try_into().unwrap();
        assert_eq!(page(&mut s, tags[i], slot, Ok(())), Ok(Some(loaded(token))));
    }
}

#[test]
fn several_pages_come_in_the_order_of_their_slots_only() {
    let mut s = connected();
    s.load(Slot(10), 3, 1, 0).unwrap();
    let tag = drain_tags(&mut s)[0];
    let wrong = |expected, got| {
        let (expected, got) = (Slot(expected), Slot(got));
        Err(Fault::SlotUnexpected { tag, expected, got })
    };
    assert_eq!(s.page(tag, Slot(11)), wrong(10, 11));
    assert_eq!(page(&mut s, tag, 10, Ok(())), Ok(None));
    assert_eq!(s.page(tag, Slot(10)), wrong(11, 10));
    assert_eq!(s.page(tag, Slot(11)), Ok(PageTarget { token: 1, index: 1 }));
    assert_eq!(s.page_done(tag, Ok(())), Ok(None));
    assert_eq!(
        no_page(&mut s, tag, 13, Status::NotFound).unwrap_err(),
        wrong(12, 13).unwrap_err()
    );
    assert_eq!(page(&mut s, tag, 12, Ok(())), Ok(Some(loaded(1))));
}

#[test]
fn a_load_with_a_failed_page_fails_once_all_are_answered_with_the_first_failure() {
    let mut s = connected();
    s.load(Slot(10), 4, 1, 0).unwrap();
    let tag = drain_tags(&mut s)[0];
    assert_eq!(page(&mut s, tag, 10, Ok(())), Ok(None));
    assert_eq!(no_page(&mut s, tag, 11, Status::NotFound), Ok(vec![]));
    assert_eq!(page(&mut s, tag, 12, Err(LoadError::Checksum)), Ok(None));
    assert_eq!(
        page(&mut s, tag, 13, Ok(())),
        Ok(Some(failed(1, LoadError::Gone)))
    );
}

#[test]
fn each_refusal_has_its_error() {
    for (status, error) in [
        (Status::NotFound, LoadError::Gone),
        (Status::BadChecksum, LoadError::Refused(Status::BadChecksum)),
        (Status::Other(99), LoadError::Refused(Status::Other(99))),
    ] {
        let mut s = connected();
        s.load(Slot(1), 1, 1, 0).unwrap();
        let tag = drain_tags(&mut s)[0];
        assert_eq!(no_page(&mut s, tag, 1, status), Ok(vec![failed(1, error)]));
    }
}

#[test]
fn an_answer_too_many_is_a_fault_and_completes_no_other_load() {
    let mut s = connected();
    s.load(Slot(1), 1, 1, 0).unwrap();
    let old = drain_tags(&mut s)[0];
    page(&mut s, old, 1, Ok(())).unwrap();
    // The same entry serves the next load of the same slot; only the tag differs.
    s.load(Slot(1), 1, 2, 0).unwrap();
    let new = drain_tags(&mut s)[0];
    assert_ne!(old, new);
    assert_eq!(s.page(old, Slot(1)), Err(Fault::TagUnknown { tag: old }));
    assert_eq!(
        no_page(&mut s, old, 1, Status::NotFound),
        Err(Fault::TagUnknown { tag: old })
    );
    assert_eq!(page(&mut s, new, 1, Ok(())), Ok(Some(loaded(2))));
}

#[test]
fn forged_tags_are_faults() {
    let mut s = connected();
    s.load(Slot(1), 1, 1, 0).unwrap();
    for tag in [0, 1, u64::MAX, 0xffff, 0x1_0001, 0xffff_ffff_0000] {
        let tag = Tag(tag);
        assert_eq!(s.page(tag, Slot(1)), Err(Fault::TagUnknown { tag }));
    }
    let tag = drain_tags(&mut s)[0];
    for forged in [
        Tag(tag.0 + 1),
        Tag(tag.0 + (1 << 16)),
        Tag(tag.0 | (1 << 63)),
    ] {
        assert_eq!(
            s.page(forged, Slot(1)),
            Err(Fault::TagUnknown { tag: forged })
        );
    }
    assert!(s.page(tag, Slot(1)).is_ok());
}

#[test]
fn the_end_of_a_page_that_did_not_begin_is_a_fault() {
    let mut s = connected();
    s.load(Slot(1), 2, 1, 0).unwrap();
    let tag = drain_tags(&mut s)[0];
    assert_eq!(s.page_done(tag, Ok(())), Err(Fault::PageNotBegun { tag }));
    page(&mut s, tag, 1, Ok(())).unwrap();
    assert_eq!(s.page_done(tag, Ok(())), Err(Fault::PageNotBegun { tag }));
}

#[test]
fn after_a_reconnect_a_load_goes_on_at_its_next_page_under_a_new_tag() {
    let mut s = connected();
    s.load(Slot(10), 4, 1, 0).unwrap();
    s.load(Slot(20), 1, 2, 0).unwrap();
    let tag = drain_tags(&mut s)[0];
    page(&mut s, tag, 10, Ok(())).unwrap();
    no_page(&mut s, tag, 11, Status::NotFound).unwrap();
    s.page(tag, Slot(12)).unwrap();
    s.disconnected();
    s.connected(LARGE);
    let Some(Message::Load {
        tag: again,
        slot,
        count,
    }) = next(&mut s)
    else {
        panic!("no LOAD");
    };
    assert_eq!((slot, count), (Slot(12), 2));
    assert_eq!(drain_tags(&mut s).len(), 1);
    assert_eq!(s.page_done(tag, Ok(())), Err(Fault::PageNotBegun { tag }));
    assert_eq!(s.page(tag, Slot(12)), Err(Fault::TagUnknown { tag }));
    assert_eq!(
        s.page(again, Slot(12)),
        Ok(PageTarget { token: 1, index: 2 })
    );
    s.page_done(again, Ok(())).unwrap();
    let done = page(&mut s, again, 13, Ok(()));
    assert_eq!(done, Ok(Some(failed(1, LoadError::Gone))));
}

#[test]
fn a_run_that_leaves_its_cluster_is_not_taken() {
    let mut s = connected();
    assert_eq!(s.load(Slot(1), 0, 1, 0), Err(NoRoom));
    assert_eq!(s.load(Slot(511), 2, 1, 0), Err(NoRoom));
    assert_eq!(s.load(Slot(0), 513, 1, 0), Err(NoRoom));
    assert_eq!(s.load(Slot(0), 512, 1, 0), Ok(()));
    assert_eq!(s.load(Slot(u64::MAX), 1, 1, 0), Ok(()));
    assert_eq!(s.loads_in_flight(), 2);
}

#[test]
fn room_for_loads_is_their_own_and_comes_back() {
    let mut s = connected();
    for i in 0..4 {
        s.store(Slot(i), 0, 0, 0).unwrap();
    }
    for round in 0..10 {
        for i in 0..4 {
            assert_eq!(s.load(Slot(100 + i), 1, 0, 0), Ok(()), "round {round}");
        }
        assert_eq!(s.load(Slot(104), 1, 0, 0), Err(NoRoom));
        for (i, tag) in drain_tags(&mut s).into_iter().enumerate().rev() {
            let slot = 100 + u64::try_from(i).unwrap();
            assert!(matches!(page(&mut s, tag, slot, Ok(())), Ok(Some(_))));
        }
        assert_eq!(s.load_room(), 4);
    }
}

#[test]
fn loads_that_are_not_kept_expire_and_the_others_are_asked_again() {
    let mut s = connected();
    for i in 0..4 {
        s.load(Slot(i), 1, i.try_into().unwrap(), i * 10).unwrap();
    }
    let tags = drain_tags(&mut s);
    let mut done = Vec::new();
    s.expire_loads(|_, _| false, &mut |completion| done.push(completion));
    assert_eq!(done, [], "nothing expires while connected");
    s.disconnected();
    let mut asked = Vec::new();
    s.expire_loads(
        |&token, since_ms| {
            asked.push((token, since_ms));
            token != 1 && since_ms < 30
        },
        &mut |completion| done.push(completion),
    );
    assert_eq!(asked, [(0, 0), (1, 10), (2, 20), (3, 30)]);
    assert_eq!(
        done,
        [failed(1, LoadError::Expired), failed(3, LoadError::Expired)]
    );
    s.connected(LARGE);
    assert_eq!(
        s.page(tags[1], Slot(1)),
        Err(Fault::TagUnknown { tag: tags[1] })
    );
    assert_eq!(drain_tags(&mut s).len(), 2);
    assert_eq!(s.load_room(), 2);
}

#[test]
fn an_overdue_load_is_found_wherever_it_stands() {
    let mut s = connected();
    assert!(!s.any_load(|_, _| true));
    for i in 0..3 {
        s.load(Slot(i), 1, i.try_into().unwrap(), i * 10).unwrap();
    }
    let tags = drain_tags(&mut s);
    for (token, since_ms) in [(0, 0), (1, 10), (2, 20)] {
        assert!(s.any_load(|&load, since| (load, since) == (token, since_ms)));
    }
    page(&mut s, tags[1], 1, Ok(())).unwrap();
    assert!(!s.any_load(|&load, _| load == 1));
    assert!(s.any_load(|&load, _| load == 2));
}

#[test]
fn a_waiting_load_that_expires_is_never_sent() {
    let mut s = stream(4, 4);
    for i in 0..3 {
        s.load(Slot(i), 1, i.try_into().unwrap(), 0).unwrap();
    }
    s.expire_loads(|&token, _| token == 1, &mut |_| {});
    assert_eq!(s.queued(), 1);
    s.connected(LARGE);
    assert!(matches!(
        next(&mut s),
        Some(Message::Load { slot: Slot(1), .. })
    ));
    assert_eq!(next(&mut s), None);
}

#[test]
fn messages_that_ask_for_nothing_change_nothing() {
    let mut s = connected();
    let (tag, status) = (Tag(1), Status::Draining);
    for message in [
        Message::Pong { tag },
        Message::Stats { tag, len: 3 },
        Message::Notice { status, len: 0 },
        Message::Unknown { tag, op: Op::PING },
        Message::Strange {
            tag,
            op: Op(0x8f),
            len: 9,
        },
    ] {
        assert_eq!(answer(&mut s, message), Ok(vec![]));
    }
}

#[test]
fn messages_out_of_place_are_faults() {
    let mut s = connected();
    let (tag, slot, status) = (Tag(1), Slot(1), Status::Full);
    for (message, fault) in [
        (Message::Welcome, Fault::Handshake),
        (Message::Refused { status, len: 0 }, Fault::Handshake),
        (
            Message::Page {
                tag,
                slot,
                crc: 0,
                len: PAGE_LEN,
            },
            Fault::Unexpected,
        ),
        (Message::Bye, Fault::Unexpected),
        (
            Message::Unknown { tag, op: Op::LOAD },
            Fault::OpUnknown { op: Op::LOAD },
        ),
        (
            Message::Unknown { tag, op: Op::FREE },
            Fault::OpUnknown { op: Op::FREE },
        ),
    ] {
        assert_eq!(answer(&mut s, message), Err(fault));
    }
    s.disconnected();
    assert_eq!(
        answer(&mut s, Message::Pong { tag }),
        Err(Fault::NotConnected)
    );
    assert_eq!(s.page(tag, slot), Err(Fault::NotConnected));
    assert_eq!(s.page_done(tag, Ok(())), Err(Fault::NotConnected));
}
