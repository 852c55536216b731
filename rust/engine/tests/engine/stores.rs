// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What is promised of stores and frees: order, acknowledgement, refusal, resend, expiry, room.

use super::common::{
    ack, answer, crc, decode, drain, drain_seqs, next, stored, stream, Done, TestStream,
};
use memsrv_engine::{Completion, Fault, NoRoom, Outgoing, StoreError, FREE_LIMIT};
use memsrv_protocol::{FreeMask, Message, Seq, Slot, Status, PAGE_LEN};

const LARGE: u32 = 1 << 20;

/// A connected stream with stores of slots 1 to `n`, tokens 1 to `n`, asked at 10, 20, ... ms.
fn with_stores(n: u32, window: u32) -> TestStream {
    let mut s = stream(16, 4);
    s.connected(window);
    for i in 1..=n {
        let (slot, at) = (Slot(i.into()), u64::from(i) * 10);
        assert_eq!(s.store(slot, 0, i, at), Ok(Seq(i.into())));
    }
    s
}

fn nak(s: &mut TestStream, seq: u64, status: Status) -> Result<Vec<Done>, Fault> {
    answer(
        s,
        Message::Nak {
            seq: Seq(seq),
            status,
        },
    )
}

fn refused(token: u32, status: Status) -> Done {
    Completion::Store {
        token,
        result: Err(StoreError::Refused(status)),
    }
}

fn expire(s: &mut TestStream, before_ms: u64) -> Vec<Done> {
    let mut done = Vec::new();
    s.expire_stores(before_ms, &mut |completion| done.push(completion));
    done
}

#[test]
fn numbers_start_at_one_and_rise_by_one() {
    let mut s = with_stores(3, LARGE);
    assert_eq!(drain_seqs(&mut s), [1, 2, 3]);
    assert_eq!(s.issued(), Seq(3));
}

#[test]
fn a_header_carries_what_was_asked() {
    let mut s = stream(4, 4);
    s.connected(LARGE);
    s.store(Slot(77), 0xabcd, 5, 0).unwrap();
    let out = s.next(|_| FreeMask::EMPTY, crc).unwrap();
    assert!(matches!(out, Outgoing::Store { token: 5, .. }));
    assert_eq!(
        decode(&out),
        Message::Store {
            seq: Seq(1),
            slot: Slot(77),
            crc: 0xabcd,
            len: PAGE_LEN,
        }
    );
}

#[test]
fn one_ack_completes_all_up_to_its_number_in_order() {
    let mut s = with_stores(4, LARGE);
    drain(&mut s);
    assert_eq!(ack(&mut s, 3), Ok(vec![stored(1), stored(2), stored(3)]));
    assert_eq!(ack(&mut s, 4), Ok(vec![stored(4)]));
    assert_eq!(s.stores_in_flight(), 0);
}

#[test]
fn an_ack_already_given_is_harmless() {
    let mut s = with_stores(3, LARGE);
    drain(&mut s);
    ack(&mut s, 2).unwrap();
    assert_eq!(ack(&mut s, 2), Ok(vec![]));
    assert_eq!(ack(&mut s, 0), Ok(vec![]));
    s.disconnected();
    s.connected(LARGE);
    assert_eq!(ack(&mut s, 2), Ok(vec![]));
}

#[test]
fn an_ack_ahead_of_what_was_sent_is_a_fault() {
    let mut s = with_stores(3, LARGE);
    next(&mut s);
    let fault = Fault::AckAhead {
        seq: Seq(2),
        sent: Seq(1),
    };
    assert_eq!(ack(&mut s, 2), Err(fault));
    assert_eq!(s.stores_in_flight(), 3);
}

#[test]
fn what_an_earlier_connection_sent_cannot_be_acknowledged_on_the_next_before_it_is_resent() {
    let mut s = with_stores(2, LARGE);
    drain(&mut s);
    s.connected(LARGE);
    assert_eq!(
        ack(&mut s, 1),
        Err(Fault::AckAhead {
            seq: Seq(1),
            sent: Seq(0)
        })
    );
    next(&mut s);
    assert_eq!(ack(&mut s, 1), Ok(vec![stored(1)]));
}

#[test]
fn a_nak_completes_its_store_at_once_and_the_ack_passes_over_it() {
    let mut s = with_stores(3, LARGE);
    drain(&mut s);
    assert_eq!(
        nak(&mut s, 2, Status::Full),
        Ok(vec![refused(2, Status::Full)])
    );
    assert_eq!(s.stores_in_flight(), 2);
    assert_eq!(ack(&mut s, 3), Ok(vec![stored(1), stored(3)]));
}

#[test]
fn the_ack_that_follows_a_nak_of_the_only_store_is_no_fault() {
    let mut s = with_stores(1, LARGE);
    drain(&mut s);
    nak(&mut s, 1, Status::Quota).unwrap();
    assert_eq!(ack(&mut s, 1), Ok(vec![]));
}

#[test]
fn a_nak_of_what_is_not_waiting_is_a_fault() {
    let mut s = with_stores(4, LARGE);
    for _ in 0..3 {
        next(&mut s);
    }
    ack(&mut s, 1).unwrap();
    nak(&mut s, 2, Status::Full).unwrap();
    for seq in [0, 1, 2, 4, 5, u64::MAX] {
        let fault = Fault::NakUnknown { seq: Seq(seq) };
        assert_eq!(nak(&mut s, seq, Status::Full), Err(fault), "number {seq}");
    }
}

#[test]
fn a_nak_of_a_free_is_a_fault() {
    let mut s = stream(4, 4);
    s.connected(LARGE);
    s.free(Slot(0)).unwrap();
    drain(&mut s);
    assert_eq!(
        nak(&mut s, 1, Status::Full),
        Err(Fault::NakFree { seq: Seq(1) })
    );
}

#[test]
fn after_a_reconnect_the_unanswered_go_again_in_order_with_their_numbers() {
    let mut s = with_stores(5, LARGE);
    for _ in 0..4 {
        next(&mut s);
    }
    ack(&mut s, 1).unwrap();
    nak(&mut s, 3, Status::Full).unwrap();
    s.disconnected();
    assert_eq!(s.queued(), 3);
    s.connected(LARGE);
    assert_eq!(drain_seqs(&mut s), [2, 4, 5]);
    assert_eq!(ack(&mut s, 5), Ok(vec![stored(2), stored(4), stored(5)]));
}

/// A server that comes back with its log says the last number that is in it, and a refused store is not.
#[test]
fn what_was_refused_the_server_need_not_know_of() {
    let mut s = with_stores(4, LARGE);
    s.free(Slot(0)).unwrap();
    drain(&mut s);
    nak(&mut s, 4, Status::Draining).unwrap();
    assert_eq!(s.executed(), Seq(0));
    ack(&mut s, 4).unwrap();
    assert_eq!(s.executed(), Seq(3));
    ack(&mut s, 5).unwrap();
    assert_eq!(s.executed(), Seq(5));
    s.store(Slot(9), 0, 9, 0).unwrap();
    drain(&mut s);
    nak(&mut s, 6, Status::Full).unwrap();
    ack(&mut s, 6).unwrap();
    assert_eq!(s.executed(), Seq(5));
}

#[test]
fn nothing_completes_by_a_disconnect() {
    let mut s = with_stores(3, LARGE);
    drain(&mut s);
    s.disconnected();
    assert_eq!(s.stores_in_flight(), 3);
    assert_eq!(ack(&mut s, 3), Err(Fault::NotConnected));
}

#[test]
fn nothing_is_sent_without_a_connection_but_stores_are_taken() {
    let mut s = with_stores(2, LARGE);
    s.disconnected();
    s.store(Slot(9), 0, 9, 0).unwrap();
    assert!(!s.has_output());
    assert_eq!(next(&mut s), None);
    s.connected(LARGE);
    assert!(s.has_output());
    assert_eq!(drain_seqs(&mut s), [1, 2, 3]);
}

#[test]
fn the_window_bounds_what_is_unanswered() {
    let mut s = with_stores(6, 4);
    assert_eq!(drain_seqs(&mut s), [1, 2, 3, 4]);
    assert!(!s.has_output());
    assert_eq!(s.queued(), 2);
    nak(&mut s, 2, Status::Full).unwrap();
    assert_eq!(drain_seqs(&mut s), [5]);
    ack(&mut s, 5).unwrap();
    assert_eq!(drain_seqs(&mut s), [6]);
}

#[test]
fn a_window_of_zero_still_moves() {
    let mut s = with_stores(2, 0);
    assert_eq!(drain_seqs(&mut s), [1]);
}

#[test]
fn stores_leave_a_part_of_the_window_to_loads_and_loads_to_stores() {
    let mut s = stream(16, 16);
    s.connected(8);
    for i in 0..16 {
        s.store(Slot(i), 0, 0, 0).unwrap();
    }
    assert_eq!(drain(&mut s).len(), 7);
    s.load(Slot(600), 1, 0, 0).unwrap();
    assert!(matches!(next(&mut s), Some(Message::Load { .. })));
    assert_eq!(next(&mut s), None);

    s.connected(8);
    for i in 0..15 {
        s.load(Slot(700 + i), 1, 0, 0).unwrap();
    }
    assert_eq!(drain_seqs(&mut s), [1]);
}

#[test]
fn a_full_ring_refuses_and_room_comes_back_with_completions() {
    let mut s = with_stores(16, LARGE);
    assert_eq!(s.op_room(), 0);
    assert_eq!(s.store(Slot(99), 0, 99, 0), Err(NoRoom));
    assert_eq!(s.issued(), Seq(16));
    drain(&mut s);
    // A refused store in the middle leaves its entry at once, though its ACK is still to come.
    nak(&mut s, 8, Status::Full).unwrap();
    assert_eq!(s.op_room(), 1);
    assert_eq!(s.store(Slot(99), 0, 99, 0), Ok(Seq(17)));
    assert_eq!(drain_seqs(&mut s), [17]);
    assert_eq!(
        nak(&mut s, 8, Status::Full),
        Err(Fault::NakUnknown { seq: Seq(8) })
    );
    assert_eq!(ack(&mut s, 8).map(|done| done.len()), Ok(7));
    assert_eq!(ack(&mut s, 17).map(|done| done.len()), Ok(9));
    assert_eq!(s.op_room(), 16);
}

#[test]
fn expired_stores_complete_once_and_are_not_sent_again() {
    let mut s = with_stores(4, LARGE);
    drain(&mut s);
    s.disconnected();
    let expired = |token| Completion::Store {
        token,
        result: Err(StoreError::Expired),
    };
    assert_eq!(expire(&mut s, 30), [expired(1), expired(2)]);
    assert_eq!(expire(&mut s, 30), []);
    assert_eq!(s.op_room(), 14);
    assert_eq!(s.oldest_ms(), Some(30));
    s.connected(LARGE);
    assert_eq!(drain_seqs(&mut s), [3, 4]);
    assert_eq!(s.issued(), Seq(4));
    assert_eq!(ack(&mut s, 4), Ok(vec![stored(3), stored(4)]));
}

#[test]
fn nothing_expires_while_connected() {
    let mut s = with_stores(2, LARGE);
    assert_eq!(expire(&mut s, u64::MAX), []);
    assert_eq!(s.stores_in_flight(), 2);
}

#[test]
fn frees_do_not_expire() {
    let mut s = with_stores(1, LARGE);
    s.free(Slot(512)).unwrap();
    s.disconnected();
    assert_eq!(expire(&mut s, u64::MAX).len(), 1);
    s.connected(LARGE);
    assert_eq!(drain_seqs(&mut s), [2]);
}

#[test]
fn a_free_asks_for_its_mask_each_time_it_is_sent() {
    let mut s = stream(4, 4);
    s.connected(LARGE);
    s.free(Slot(1024 + 7)).unwrap();
    let mut mask = FreeMask::EMPTY;
    for place in [3, 5] {
        mask.insert(place);
        let asked = |cluster| {
            assert_eq!(cluster, Slot(1024));
            mask
        };
        let out = s.next(asked, crc).unwrap();
        assert!(matches!(out, Outgoing::Free { mask: sent, .. } if sent == mask));
        let sum = crc(Slot(1024), &mask.0);
        assert_eq!(
            decode(&out),
            Message::Free {
                seq: Seq(1),
                slot: Slot(1024),
                crc: sum
            }
        );
        s.connected(LARGE);
    }
}

#[test]
fn a_free_with_nothing_to_free_is_sent_and_acknowledged_all_the_same() {
    let mut s = stream(4, 4);
    s.connected(LARGE);
    s.free(Slot(0)).unwrap();
    let out = s.next(|_| FreeMask::EMPTY, crc);
    assert!(matches!(out, Some(Outgoing::Free { .. })));
    assert_eq!(ack(&mut s, 1), Ok(vec![]));
    assert_eq!(s.frees_in_flight(), 0);
}

#[test]
fn a_waiting_free_serves_for_later_ones_of_its_cluster_but_a_sent_one_does_not() {
    let mut s = stream(8, 4);
    s.connected(LARGE);
    for cluster in [0, 512, 5, 513] {
        s.free(Slot(cluster)).unwrap();
    }
    assert_eq!(s.frees_in_flight(), 2);
    drain(&mut s);
    s.free(Slot(0)).unwrap();
    assert_eq!(s.frees_in_flight(), 3);
    // To be sent again is not to be sent for the first time: the server may have done it.
    drain(&mut s);
    s.disconnected();
    s.free(Slot(0)).unwrap();
    assert_eq!(s.frees_in_flight(), 4);
}

#[test]
fn frees_and_stores_keep_their_order() {
    let mut s = stream(8, 4);
    s.connected(LARGE);
    s.store(Slot(1), 0, 1, 0).unwrap();
    s.free(Slot(0)).unwrap();
    s.store(Slot(1), 0, 2, 0).unwrap();
    let kinds: Vec<bool> = drain(&mut s)
        .iter()
        .map(|m| matches!(m, Message::Free { .. }))
        .collect();
    assert_eq!(kinds, [false, true, false]);
}

#[test]
fn unanswered_frees_are_limited_and_leave_the_rest_to_stores() {
    let mut s = stream(FREE_LIMIT + 2, 4);
    s.connected(LARGE);
    for i in 0..200 {
        let taken = s.free(Slot(i * 512));
        assert_eq!(taken.is_ok(), i < 64, "free {i}");
    }
    assert_eq!(s.op_room(), 2);
    drain(&mut s);
    ack(&mut s, 10).unwrap();
    assert_eq!(s.frees_in_flight(), 54);
    assert_eq!(s.free(Slot(100 * 512)), Ok(()));
}

#[test]
fn the_oldest_time_is_that_of_the_oldest_store_or_load() {
    let mut s = stream(8, 4);
    assert_eq!(s.oldest_ms(), None);
    s.connected(LARGE);
    s.free(Slot(0)).unwrap();
    assert_eq!(s.oldest_ms(), None);
    s.store(Slot(1), 0, 1, 50).unwrap();
    s.load(Slot(2), 1, 1, 40).unwrap();
    s.load(Slot(3), 1, 2, 60).unwrap();
    assert_eq!(s.oldest_ms(), Some(40));
    drain(&mut s);
    nak(&mut s, 2, Status::Full).unwrap();
    s.store(Slot(1), 0, 1, 70).unwrap();
    assert_eq!(s.oldest_ms(), Some(40));
}

#[test]
fn the_oldest_store_is_told_without_regard_to_loads() {
    let mut s = stream(8, 4);
    s.connected(LARGE);
    s.load(Slot(2), 1, 1, 10).unwrap();
    assert_eq!(s.oldest_store_ms(), None);
    s.store(Slot(1), 0, 1, 50).unwrap();
    s.store(Slot(1), 0, 2, 60).unwrap();
    assert_eq!(s.oldest_store_ms(), Some(50));
    drain(&mut s);
    ack(&mut s, 1).unwrap();
    assert_eq!(s.oldest_store_ms(), Some(60));
}

#[test]
fn the_ring_works_at_its_smallest() {
    let mut s = stream(1, 0);
    s.connected(1);
    for i in 1..=5 {
        assert_eq!(s.store(Slot(1), 0, 1, 0), Ok(Seq(i)));
        assert_eq!(s.store(Slot(1), 0, 1, 0), Err(NoRoom));
        assert_eq!(drain_seqs(&mut s), [i]);
        assert_eq!(ack(&mut s, i).map(|done| done.len()), Ok(1));
    }
    let mut none = stream(0, 0);
    none.connected(1);
    assert_eq!(none.store(Slot(1), 0, 1, 0), Err(NoRoom));
    assert_eq!(none.free(Slot(1)), Err(NoRoom));
    assert_eq!(none.load(Slot(1), 1, 1, 0), Err(NoRoom));
}
