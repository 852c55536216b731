// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What is promised of the parser: the same messages however the bytes arrive, and no way astray.

use memsrv_engine::{Event, Receiver, Want};
use memsrv_protocol::{
    Header, Hello, Message, Op, Seq, Slot, Status, Tag, WireError, HEADER_LEN, LZ4_MAX_LEN,
    MAX_PAYLOAD, PAGE_LEN, PAGE_SIZE,
};
use proptest::prelude::*;

/// What a driver has seen: events, and the pages' bytes.
#[derive(Default, PartialEq, Eq, Debug)]
struct Seen {
    events: Vec<Event>,
    pages: Vec<Vec<u8>>,
    error: Option<WireError>,
}

/// Feeds `bytes` in pieces of at most the given sizes, repeated, to a receiver without options.
fn feed(bytes: &[u8], pieces: &[usize]) -> Seen {
    feed_with(0, bytes, pieces)
}

/// The same where these options are on.
fn feed_with(options: u32, bytes: &[u8], pieces: &[usize]) -> Seen {
    let (mut receiver, mut seen) = (Receiver::with(options), Seen::default());
    let mut rest = bytes;
    for &piece in pieces.iter().cycle() {
        let n = match receiver.want() {
            Want::Header(room) => {
                let n = room.len().min(piece).min(rest.len());
                room[..n].copy_from_slice(&rest[..n]);
                n
            }
            Want::Page { offset, len } => {
                let page = seen.pages.last_mut().expect("a page's header came first");
                assert_eq!(page.len(), offset);
                let n = len.min(piece).min(rest.len());
                page.extend_from_slice(&rest[..n]);
                n
            }
            Want::Skip(len) => len.min(piece).min(rest.len()),
        };
        assert!(n > 0 || rest.is_empty(), "nothing is wanted");
        rest = &rest[n..];
        match receiver.advance(n) {
            Ok(Some(event)) => {
                if matches!(event, Event::PageHeader { .. }) {
                    seen.pages.push(Vec::new());
                }
                seen.events.push(event);
            }
            Ok(None) => {}
            Err(error) => {
                assert_eq!(receiver.advance(0), Err(error));
                seen.error = Some(error);
                break;
            }
        }
        if rest.is_empty() {
            break;
        }
    }
    seen
}

fn page(tag: u64, slot: u64, byte: u8) -> Vec<u8> {
    let header = Message::Page {
        tag: Tag(tag),
        slot: Slot(slot),
        crc: 5,
        len: PAGE_LEN,
    }
    .encode();
    [&header[..], &[byte; PAGE_SIZE]].concat()
}

/// A PAGE of `len` bytes.
fn short(len: u32, byte: u8) -> Vec<u8> {
    let header = Message::Page {
        tag: Tag(3),
        slot: Slot(9),
        crc: 5,
        len,
    };
    let payload = vec![byte; usize::try_from(len).unwrap()];
    [&header.encode()[..], &payload].concat()
}

/// The same or a compressed page.
fn some_message_or_short() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        some_message(),
        (1..=LZ4_MAX_LEN, any::<u8>()).prop_map(|(len, byte)| short(len, byte)),
    ]
}

/// A message of any kind that a server may send, with its payload.
fn some_message() -> impl Strategy<Value = Vec<u8>> {
    let with_payload = |message: Message| {
        let len = usize::try_from(message.payload_len()).unwrap();
        [&message.encode()[..], &vec![0x55; len]].concat()
    };
    prop_oneof![
        (any::<u64>(), any::<u64>(), any::<u8>()).prop_map(|(tag, slot, b)| page(tag, slot, b)),
        any::<u64>().prop_map(move |seq| with_payload(Message::Ack { seq: Seq(seq) })),
        (0..300_u32).prop_map(move |len| {
            with_payload(Message::Notice {
                status: Status::Draining,
                len,
            })
        }),
        (0..300_u32).prop_map(move |len| {
            with_payload(Message::Strange {
                tag: Tag(1),
                op: Op(0x99),
                len,
            })
        }),
    ]
}

#[test]
fn a_page_is_announced_filled_and_ended() {
    let (tag, slot, crc, len) = (Tag(3), Slot(9), 5, PAGE_SIZE);
    let bytes = [
        page(3, 9, 0xaa),
        Message::Ack { seq: Seq(1) }.encode().to_vec(),
    ]
    .concat();
    let seen = feed(&bytes, &[usize::MAX]);
    let expected = [
        Event::PageHeader {
            tag,
            slot,
            crc,
            len,
        },
        Event::PageEnd {
            tag,
            slot,
            crc,
            len,
        },
        Event::Message(Message::Ack { seq: Seq(1) }),
    ];
    assert_eq!(seen.events, expected);
    assert_eq!(seen.pages, [vec![0xaa; PAGE_SIZE]]);
}

#[test]
fn a_compressed_page_is_announced_with_its_length_where_the_option_is_on() {
    for len in [1, 2, 700, LZ4_MAX_LEN] {
        let bytes = [short(len, 0xbb), page(4, 10, 0xcc)].concat();
        let seen = feed_with(Hello::LZ4, &bytes, &[usize::MAX]);
        assert_eq!(seen.error, None);
        let lens: Vec<usize> = seen.events.iter().filter_map(page_len).collect();
        let short = usize::try_from(len).unwrap();
        assert_eq!(lens, [short, short, PAGE_SIZE, PAGE_SIZE]);
        assert_eq!(seen.pages, [vec![0xbb; short], vec![0xcc; PAGE_SIZE]]);
        // Cut anywhere, it has not come; and however it is cut, the rest makes it whole.
        for cut in 0..HEADER_LEN + short {
            let seen = feed_with(Hello::LZ4, &bytes[..cut], &[usize::MAX]);
            assert!(!seen
                .events
                .iter()
                .any(|e| matches!(e, Event::PageEnd { .. })));
            assert_eq!(seen.error, None);
        }
    }
}

fn page_len(event: &Event) -> Option<usize> {
    match event {
        Event::PageHeader { len, .. } | Event::PageEnd { len, .. } => Some(*len),
        Event::Message(_) => None,
    }
}

#[test]
fn a_page_of_another_length_ends_the_connection() {
    let lens = [0, LZ4_MAX_LEN + 1, PAGE_LEN - 1, PAGE_LEN + 1, u32::MAX];
    for (options, lens) in [
        (Hello::LZ4, &lens[..]),
        (0, &[1, LZ4_MAX_LEN]),
        (0, &lens),
        (!Hello::LZ4, &[1, LZ4_MAX_LEN]),
    ] {
        for &len in lens {
            let header = Message::Page {
                tag: Tag(3),
                slot: Slot(9),
                crc: 5,
                len,
            };
            let bytes = [&header.encode()[..], &[0; PAGE_SIZE]].concat();
            let seen = feed_with(options, &bytes, &[usize::MAX]);
            let op = Op::PAGE;
            assert_eq!(seen.error, Some(WireError::BadLength { op, len }));
            assert_eq!(seen.events, []);
        }
    }
}

#[test]
fn a_reset_keeps_the_options() {
    let mut receiver = Receiver::with(Hello::LZ4);
    receiver.reset();
    let header = short(1, 0);
    let Want::Header(room) = receiver.want() else {
        panic!("a header is wanted first")
    };
    room.copy_from_slice(&header[..HEADER_LEN]);
    assert!(receiver.advance(HEADER_LEN).is_ok());
}

#[test]
fn a_payload_nobody_wants_is_skipped() {
    let notice = Message::Notice {
        status: Status::Full,
        len: 5,
    };
    let strange = Message::Strange {
        tag: Tag(0),
        op: Op(0x77),
        len: MAX_PAYLOAD,
    };
    let mut bytes = [&notice.encode()[..], b"hello", &strange.encode()].concat();
    bytes.resize(bytes.len() + usize::try_from(MAX_PAYLOAD).unwrap(), 0);
    bytes.extend(Message::Pong { tag: Tag(4) }.encode());
    let seen = feed(&bytes, &[1000]);
    let expected = [notice, strange, Message::Pong { tag: Tag(4) }].map(Event::Message);
    assert_eq!(seen.events, expected);
}

#[test]
fn a_wrong_header_ends_the_connection_for_good_until_reset() {
    let wrong = Header {
        len: 7,
        ..Header::decode(&Message::Ack { seq: Seq(1) }.encode())
    };
    let bytes = [&wrong.encode()[..], &[0; 64]].concat();
    let seen = feed(&bytes, &[32]);
    assert_eq!(
        seen.error,
        Some(WireError::BadLength {
            op: Op::ACK,
            len: 7
        })
    );

    let mut receiver = Receiver::new();
    let Want::Header(room) = receiver.want() else {
        panic!("a header is wanted first")
    };
    room.copy_from_slice(&wrong.encode());
    assert!(receiver.advance(32).is_err());
    assert_eq!(receiver.want(), Want::Skip(0));
    receiver.reset();
    assert!(matches!(receiver.want(), Want::Header(room) if room.len() == 32));
}

#[test]
fn a_payload_above_the_limit_is_not_skipped_but_refused() {
    let message = Message::Notice {
        status: Status::Full,
        len: MAX_PAYLOAD + 1,
    };
    let seen = feed(&message.encode(), &[32]);
    assert!(matches!(seen.error, Some(WireError::BadLength { .. })));
}

proptest! {
    #![proptest_config(super::common::config(256))]

    #[test]
    fn where_the_bytes_are_split_makes_no_difference(
        messages in prop::collection::vec(some_message_or_short(), 1..8),
        pieces in prop::collection::vec(1..5000_usize, 1..20),
    ) {
        let bytes = messages.concat();
        let whole = feed_with(Hello::LZ4, &bytes, &[usize::MAX]);
        prop_assert_eq!(whole.error, None);
        prop_assert_eq!(&feed_with(Hello::LZ4, &bytes, &pieces), &whole);
        prop_assert_eq!(&feed_with(Hello::LZ4, &bytes, &[1]), &whole);
    }

    #[test]
    fn any_bytes_are_taken_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..10_000),
        pieces in prop::collection::vec(1..100_usize, 1..5),
    ) {
        feed(&bytes, &pieces);
        feed_with(Hello::LZ4, &bytes, &pieces);
    }

    #[test]
    fn a_cut_at_any_byte_yields_a_prefix_of_the_events(
        messages in prop::collection::vec(some_message_or_short(), 1..5),
        cut in any::<prop::sample::Index>(),
    ) {
        let bytes = messages.concat();
        let whole = feed_with(Hello::LZ4, &bytes, &[usize::MAX]);
        let part = feed_with(Hello::LZ4, &bytes[..cut.index(bytes.len())], &[usize::MAX]);
        prop_assert!(whole.events.starts_with(&part.events));
    }
}
