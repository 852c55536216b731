// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! One stream's forwarding without sockets: its bounds, what it lets be acknowledged, and its patience.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::entry::server;
use crate::support::*;
use memsrv_protocol::*;
use memsrvd::mirror::forward::{Forward, Kind, MOST_OWED, OUT_LIMIT};
use memsrvd::mirror::{MirrorAck, Options, Streaming};
use memsrvd::session::LONGEST;

const SILENCE: Duration = Duration::from_secs(1);

fn options(ack: MirrorAck) -> Options {
    Options {
        address: "192.0.2.1:7170".parse().unwrap(),
        ack,
        welcome: SILENCE / 2,
        silence: SILENCE,
    }
}

/// A stream that is forwarded, to a mirror with that window.
fn on(ack: MirrorAck, window: u32) -> Forward {
    let mut forward = Forward::ask(&hello("a", 1), &options(ack), Instant::now() + SILENCE);
    assert!(forward.blocks(), "until the mirror has answered");
    assert_eq!(*forward.out(), hello_bytes(&hello("a", 1)));
    forward.out().clear();
    let welcome = Welcome {
        version: VERSION,
        options: 0,
        instance: Instance([1; 16]),
        granted: 1,
        stored: 0,
        executed: Seq(0),
        window,
        mirror: None,
    };
    let bytes = [&Message::Welcome.encode()[..], &welcome.encode()].concat();
    assert_eq!(forward.hear(&bytes[..50]), 0);
    assert_eq!(forward.hear(&bytes), bytes.len());
    assert_eq!(forward.take_answer(), Some(Ok(welcome)));
    forward.start(&welcome, Streaming::new(&server(4, 4)));
    forward
}

fn store(forward: &mut Forward, seq: u64) {
    let bytes = store_bytes(seq, seq, &page(seq));
    let (header, page) = bytes.split_at(HEADER_LEN);
    forward.executed(Seq(seq), Kind::Store, header, page);
}

fn ack(seq: u64) -> [u8; HEADER_LEN] {
    Message::Ack { seq: Seq(seq) }.encode()
}

#[test]
fn what_waits_for_the_mirrors_socket_has_a_bound() {
    let mut forward = on(MirrorAck::After, 4096);
    let mut seq = 0;
    while !forward.blocks() {
        seq += 1;
        store(&mut forward, seq);
    }
    let waiting = forward.out().len();
    assert!((OUT_LIMIT..OUT_LIMIT + LONGEST).contains(&waiting));
    forward.out().drain(..LONGEST);
    assert!(!forward.blocks(), "the socket has taken some");
}

#[test]
fn what_the_mirror_owes_has_a_bound() {
    for ack_when in [MirrorAck::After, MirrorAck::Before] {
        for (window, most) in [(4096, MOST_OWED), (16, 16)] {
            let mut forward = on(ack_when, window);
            for seq in 1..=u64::try_from(most).unwrap() {
                assert!(!forward.blocks());
                store(&mut forward, seq);
                forward.out().clear();
            }
            assert!(forward.blocks());
            forward.hear(&ack(1));
            assert!(!forward.blocks());
            forward.fail("gone");
            assert!(!forward.blocks(), "nobody is waited for any more");
        }
    }
}

#[test]
fn only_what_was_sent_and_answered_is_acknowledged() {
    let mut forward = on(MirrorAck::After, 4096);
    // Refused here: the mirror has to have seen its number all the same.
    forward.passed_over(Seq(1), Slot(700));
    let header = forward.out().first_chunk().copied().unwrap();
    let told = Message::decode(&header, memsrv_protocol::Sender::Client).unwrap();
    let (seq, slot) = (Seq(1), Slot(512));
    assert!(matches!(told, Message::Free { seq: s, slot: c, .. } if (s, c) == (seq, slot)));
    assert_eq!(forward.out().len(), HEADER_LEN + 64);
    assert_eq!(forward.limit(), Some(Seq(0)));
    forward.hear(&ack(1));
    assert_eq!(forward.limit(), Some(Seq(1)));
    store(&mut forward, 3);
    forward.passed_over(Seq(5), Slot(700));
    store(&mut forward, 8);
    assert_eq!(forward.limit(), Some(Seq(1)));
    // The client knows of no operation 4.
    forward.hear(&ack(4));
    assert_eq!(forward.limit(), Some(Seq(3)));
    forward.hear(&ack(5));
    assert_eq!(forward.limit(), Some(Seq(5)));
    let status = Status::Full;
    let nak = Message::Nak {
        seq: Seq(8),
        status,
    };
    forward.hear(&nak.encode());
    assert_eq!(forward.limit(), Some(Seq(5)), "the ACK is to come");
    assert_eq!(forward.take_refused(), [(Seq(8), status)]);
    forward.hear(&ack(8));
    assert_eq!(forward.limit(), Some(Seq(8)));
    store(&mut forward, 9);
    forward.fail("gone");
    assert_eq!(
        forward.limit(),
        Some(Seq(8)),
        "until the client was told of it"
    );
    assert_eq!(forward.take_loss().as_deref(), Some("gone"));
    assert_eq!((forward.limit(), forward.take_loss()), (None, None));
}

#[test]
fn before_holds_no_acknowledgement_back() {
    let mut forward = on(MirrorAck::Before, 4096);
    store(&mut forward, 1);
    assert_eq!(forward.limit(), None);
}

#[test]
fn the_mirror_has_its_time_from_when_it_owes_something_and_from_each_answer() {
    let start = Instant::now();
    let mut forward = on(MirrorAck::After, 4096);
    forward.tick(start + 100 * SILENCE);
    assert_eq!(forward.deadline(), None, "it owes nothing");
    let late = start + 200 * SILENCE;
    store(&mut forward, 1);
    store(&mut forward, 2);
    forward.tick(late);
    assert_eq!(forward.deadline(), Some(late + SILENCE));
    // Neither a PONG nor an ACK of nothing new is an answer.
    forward.hear(&Message::Pong { tag: Tag(1) }.encode());
    forward.hear(&ack(0));
    forward.tick(late + SILENCE / 2);
    assert_eq!(forward.deadline(), Some(late + SILENCE));
    forward.hear(&ack(1));
    let answered = late + SILENCE * 3 / 4;
    forward.tick(answered);
    assert_eq!(forward.deadline(), Some(answered + SILENCE));
    forward.tick(answered + SILENCE - Duration::from_millis(1));
    assert!(!forward.is_lost());
    forward.tick(answered + SILENCE);
    assert!(forward.take_loss().unwrap().contains("answered nothing"));
    assert_eq!(forward.deadline(), None);
}

#[test]
fn a_hello_has_its_time_too() {
    let until = Instant::now();
    let mut forward = Forward::ask(&hello("a", 1), &options(MirrorAck::After), until);
    assert_eq!(forward.deadline(), Some(until));
    forward.tick(until - Duration::from_millis(1));
    assert!(forward.take_answer().is_none());
    forward.tick(until);
    assert!(forward.take_answer().unwrap().is_err());
    assert!(!forward.wants_link());
}

#[test]
fn bye_stands_behind_all_else() {
    let mut forward = on(MirrorAck::After, 4096);
    store(&mut forward, 1);
    forward.bye();
    assert!(!forward.wants_link());
    let all = [&store_bytes(1, 1, &page(1))[..], &Message::Bye.encode()[..]].concat();
    assert_eq!(forward.take_parting(), Some(all));
    assert_eq!(forward.take_parting(), None);
    // Without a mirror there is nobody to say it to.
    let mut forward = on(MirrorAck::After, 4096);
    forward.fail("gone");
    forward.bye();
    assert_eq!(forward.take_parting(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever a mirror says, in whatever pieces: no more is acknowledged than was forwarded, a NAK is of a store
    /// that was, once, and what is held is no longer than the longest message that counts.
    #[test]
    fn nothing_that_a_mirror_says_does_harm(
        sayings in prop::collection::vec(
            prop_oneof![
                (0u64..12).prop_map(|seq| ack(seq).to_vec()),
                (0u64..12).prop_map(|seq| {
                    let (seq, status) = (Seq(seq), Status::Quota);
                    Message::Nak { seq, status }.encode().to_vec()
                }),
                Just(Message::Pong { tag: Tag(1) }.encode().to_vec()),
                (0u32..300).prop_map(|len| {
                    let notice = Message::Notice { status: Status::Draining, len };
                    let words = vec![b'x'; usize::try_from(len).unwrap()];
                    [&notice.encode()[..], &words].concat()
                }),
                prop::collection::vec(any::<u8>(), 0..300),
            ],
            0..12,
        ),
        piece in 1usize..300,
    ) {
        let mut forward = on(MirrorAck::After, 4096);
        [1, 2, 4, 7].iter().for_each(|seq| store(&mut forward, *seq));
        let stream: Vec<u8> = sayings.concat();
        let (mut held, mut told) = (Vec::new(), Vec::new());
        let mut limit = Seq(0);
        for piece in stream.chunks(piece) {
            held.extend_from_slice(piece);
            let consumed = forward.hear(&held);
            held.drain(..consumed);
            if !forward.wants_link() {
                break;
            }
            prop_assert!(held.len() < HEADER_LEN + 200);
            told.extend(forward.take_refused());
            let now = forward.limit().unwrap();
            prop_assert!(now >= limit && [0, 1, 2, 4, 7].contains(&now.0));
            limit = now;
        }
        told.extend(forward.take_refused());
        let mut numbers: Vec<u64> = told.iter().map(|(seq, _)| seq.0).collect();
        prop_assert!(numbers.iter().all(|seq| [1, 2, 4, 7].contains(seq)));
        numbers.sort_unstable();
        numbers.dedup();
        prop_assert_eq!(numbers.len(), told.len(), "a NAK twice");
    }
}
