// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A session under random operations, compared with a map; and the fuzzer's entries, for a short while.
//!
//! A failure prints the smallest case found and saves its seed beside this file.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::entry::{self, answers, converse, Nobody};
use crate::support::*;
use memsrv_protocol::*;
use memsrvd::session::{Session, LONGEST, OUTPUT_LIMIT};
use proptest::prelude::*;

/// What a client may do.
#[derive(Debug, Clone)]
enum Do {
    Store { slot: u64, seed: u64 },
    StoreBroken { slot: u64 },
    Free { cluster: u64, words: [u64; 8] },
    Load { slot: u64, count: u16 },
    Ping,
    Stat,
    Strange { len: u16 },
    Reconnect,
}

/// Slots of three clusters, few enough that operations meet.
fn slot() -> impl Strategy<Value = u64> {
    (0..3_u64, prop_oneof![0..12_u64, 505..512_u64])
        .prop_map(|(cluster, index)| cluster * 512 + index)
}

fn run() -> impl Strategy<Value = (u64, u16)> {
    slot().prop_flat_map(|slot| {
        let most = 512 - u16::try_from(slot % 512).unwrap();
        (Just(slot), prop_oneof![1..=most.min(9), Just(most)])
    })
}

fn operation() -> impl Strategy<Value = Do> {
    prop_oneof![
        8 => (slot(), any::<u64>()).prop_map(|(slot, seed)| Do::Store { slot, seed }),
        1 => slot().prop_map(|slot| Do::StoreBroken { slot }),
        2 => (0..3_u64, any::<[u64; 8]>()).prop_map(|(cluster, words)| Do::Free { cluster, words }),
        5 => run().prop_map(|(slot, count)| Do::Load { slot, count }),
        1 => Just(Do::Ping),
        1 => Just(Do::Stat),
        1 => (0..5000_u16).prop_map(|len| Do::Strange { len }),
        1 => Just(Do::Reconnect),
    ]
}

/// What the server should hold, and what it should say.
struct Oracle {
    pages: BTreeMap<u64, u64>,
    room: usize,
    no_room: Status,
    seq: u64,
    expected: Vec<String>,
}

impl Oracle {
    fn bytes(&mut self, operation: &Do) -> Vec<u8> {
        match *operation {
            Do::Store { slot, seed } => {
                self.seq += 1;
                if self.pages.contains_key(&slot) || self.pages.len() < self.room {
                    self.pages.insert(slot, seed);
                } else {
                    self.expected
                        .push(format!("nak {} {:?}", self.seq, self.no_room));
                }
                store_bytes(self.seq, slot, &page(seed))
            }
            Do::StoreBroken { slot } => {
                self.seq += 1;
                self.expected
                    .push(format!("nak {} {:?}", self.seq, Status::BadChecksum));
                let mut bytes = store_bytes(self.seq, slot, &page(1));
                bytes[HEADER_LEN + 17] ^= 0x40;
                bytes
            }
            Do::Free { cluster, words } => {
                self.seq += 1;
                let mask = FreeMask::from_words(words);
                let freed =
                    |slot: &u64| slot / 512 == cluster && mask.contains(Slot(*slot).index());
                self.pages.retain(|slot, _| !freed(slot));
                free_bytes(self.seq, cluster * 512, &mask)
            }
            Do::Load { slot, count } => {
                for slot in slot..slot + u64::from(count) {
                    self.expected.push(match self.pages.get(&slot) {
                        Some(seed) => format!("page {slot} {seed}"),
                        None => format!("none {slot}"),
                    });
                }
                Message::Load {
                    tag: Tag(slot),
                    slot: Slot(slot),
                    count,
                }
                .encode()
                .to_vec()
            }
            Do::Ping => {
                self.expected.push("pong".to_owned());
                Message::Ping { tag: Tag(5) }.encode().to_vec()
            }
            Do::Stat => {
                self.expected.push(format!("stats {}", self.pages.len()));
                Message::Stat { tag: Tag(6) }.encode().to_vec()
            }
            Do::Strange { len } => {
                self.expected.push("unknown".to_owned());
                let message = Message::Strange {
                    tag: Tag(7),
                    op: Op(0x70),
                    len: len.into(),
                };
                let mut bytes = message.encode().to_vec();
                bytes.resize(bytes.len() + usize::from(len), 0xaa);
                bytes
            }
            Do::Reconnect => vec![],
        }
    }

    /// What the server said, in the oracle's words, without the ACKs, which must rise.
    fn check(&mut self, said: &[u8], before: &BTreeMap<u64, u64>, seeds: &[u64]) {
        let mut acknowledged = 0;
        let words = answers(said).into_iter().filter_map(|(message, payload)| {
            Some(match message {
                Message::Welcome => return None,
                Message::Ack { seq } => {
                    assert!(seq.0 > acknowledged, "ACK {} after {acknowledged}", seq.0);
                    acknowledged = seq.0;
                    return None;
                }
                Message::Nak { seq, status } => {
                    assert!(seq.0 > acknowledged, "NAK {} after its ACK", seq.0);
                    format!("nak {} {status:?}", seq.0)
                }
                Message::Page { slot, .. } => {
                    let all = seeds.iter().chain(before.values());
                    let seed = all.copied().find(|seed| payload == page(*seed));
                    format!(
                        "page {} {}",
                        slot.0,
                        seed.expect("a page that nobody stored")
                    )
                }
                Message::NoPage { slot, .. } => format!("none {}", slot.0),
                Message::Pong { .. } => "pong".to_owned(),
                Message::Stats { .. } => {
                    let report: memsrvd::stats::Report = serde_json::from_slice(payload).unwrap();
                    format!("stats {}", report.used_pages)
                }
                Message::Unknown { .. } => "unknown".to_owned(),
                other => format!("{other:?}"),
            })
        });
        let words: Vec<String> = words.collect();
        assert_eq!(words, std::mem::take(&mut self.expected));
    }
}

fn against_oracle(operations: &[Do], quota: u64, piece: usize) {
    let shared = entry::server(24, quota);
    let (room, no_room) = if quota < 24 {
        (20, Status::Quota)
    } else {
        (24, Status::Full)
    };
    let mut oracle = Oracle {
        pages: BTreeMap::new(),
        room,
        no_room,
        seq: 0,
        expected: Vec::new(),
    };
    let seed = |operation: &Do| match operation {
        Do::Store { seed, .. } => Some(*seed),
        _ => None,
    };
    for part in operations.split(|operation| matches!(operation, Do::Reconnect)) {
        let mut session = Session::new(shared.clone(), Arc::new(Nobody));
        let issued = Seq(oracle.seq);
        let mut bytes = hello_bytes(&Hello {
            issued,
            ..hello("a", 1)
        });
        let before = oracle.pages.clone();
        part.iter()
            .for_each(|operation| bytes.extend(oracle.bytes(operation)));
        let (said, closed) = converse(&mut session, &bytes, piece);
        assert!(!closed);
        oracle.check(
            &said,
            &before,
            &part.iter().filter_map(seed).collect::<Vec<_>>(),
        );
        assert_eq!(
            shared.used_pages(),
            u64::try_from(oracle.pages.len()).unwrap()
        );
    }
    let mut session = Session::new(shared.clone(), Arc::new(Nobody));
    let mut bytes = hello_bytes(&Hello {
        issued: Seq(oracle.seq),
        ..hello("a", 1)
    });
    bytes.extend(Message::Bye.encode());
    assert!(converse(&mut session, &bytes, bytes.len()).1);
    assert_eq!(shared.used_pages(), 0);
    assert_eq!(shared.arena.clusters.free(), shared.arena.clusters.total());
}

/// A short request may have a long answer; the session stops in the middle of it.
#[test]
fn an_answer_longer_than_the_limit_is_given_in_parts() {
    let shared = entry::server(600, u64::MAX);
    let mut session = Session::new(shared, Arc::new(Nobody));
    let mut bytes = hello_bytes(&hello("a", 1));
    (0..512).for_each(|slot| bytes.extend(store_bytes(slot + 1, slot, &page(slot))));
    assert!(!converse(&mut session, &bytes, 1 << 20).1);
    let (tag, slot, count) = (Tag(1), Slot(0), 512);
    let mut rest = Message::Load { tag, slot, count }.encode().to_vec();
    let (mut pages, mut parts) = (0, 0);
    while parts == 0 || pages < 512 {
        let mut output = Vec::new();
        let progress = session.feed(&rest, &mut output);
        rest.drain(..progress.consumed);
        assert!(
            output.len() <= OUTPUT_LIMIT + LONGEST,
            "{} bytes at once",
            output.len()
        );
        for (message, payload) in answers(&output) {
            assert!(matches!(message, Message::Page { slot, .. } if slot.0 == pages));
            assert_eq!(payload, page(pages));
            pages += 1;
        }
        parts += 1;
    }
    assert!(parts > 10, "{parts} parts");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 150,
        max_shrink_time: 10_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_session_does_what_a_map_does(
        operations in prop::collection::vec(operation(), 0..60),
        quota in prop_oneof![Just(20_u64), Just(u64::MAX)],
        piece in prop_oneof![1..40_usize, 4000..5000_usize, Just(1 << 20)],
    ) {
        against_oracle(&operations, quota, piece);
    }

    #[test]
    fn any_bytes_leave_the_decoder_sound(data in prop::collection::vec(any::<u8>(), 0..300)) {
        entry::decoder(&data);
    }

    #[test]
    fn any_header_leaves_the_decoder_sound(
        op in prop_oneof![0..12_u16, 0x80..0x8c_u16, any::<u16>()],
        count in prop_oneof![0..3_u16, 510..514_u16, any::<u16>()],
        len in prop_oneof![Just(0_u32), Just(64), Just(80), Just(208), Just(4096), any::<u32>()],
        slot in prop_oneof![0..1024_u64, any::<u64>()],
        rest in any::<(u64, u32, u32)>(),
    ) {
        let (id, aux, crc) = rest;
        entry::decoder(&Header { op: Op(op), count, len, id, slot, aux, crc }.encode());
    }

    #[test]
    fn any_bytes_leave_the_session_sound(
        head in any::<[u8; 2]>(),
        parts in prop::collection::vec(part(), 0..20),
    ) {
        entry::session(&[&head[..], &parts.concat()].concat());
    }
}

/// Bytes that look more or less like messages.
fn part() -> impl Strategy<Value = Vec<u8>> {
    let header = (
        0..11_u16,
        0..514_u16,
        0..5000_u32,
        any::<u64>(),
        0..1100_u64,
    );
    let header = header.prop_map(|(op, count, len, id, slot)| {
        Header {
            op: Op(op),
            count,
            len,
            id,
            slot,
            aux: 0,
            crc: 0,
        }
        .encode()
        .to_vec()
    });
    prop_oneof![
        2 => prop::collection::vec(any::<u8>(), 0..100),
        2 => header,
        4 => (any::<u8>(), slot()).prop_map(|(seq, slot)| store_bytes(seq.into(), slot, &page(slot))),
        2 => any::<u8>().prop_map(|seq| free_bytes(seq.into(), 512, &FreeMask::ALL)),
        2 => run().prop_map(|(slot, count)| {
            Message::Load { tag: Tag(1), slot: Slot(slot), count }.encode().to_vec()
        }),
        1 => Just(Message::Stat { tag: Tag(2) }.encode().to_vec()),
        1 => Just(Message::Bye.encode().to_vec()),
        1 => any::<u8>().prop_map(|life| hello_bytes(&hello("h", life))),
        1 => (any::<bool>(), 0..3_u64, any::<[u64; 8]>()).prop_map(|(own, cluster, words)| {
            let mask = FreeMask::from_words(words);
            let instance = Instance([if own { 7 } else { 8 }; 16]);
            let pull = Pull { mask, instance, address: [1; 16], port: 1 };
            crate::source::pull_bytes(1, cluster * 512, &pull)
        }),
        1 => any::<u8>().prop_map(|life| {
            [&Message::Attach.encode()[..], &hello("fuzz", life).encode()].concat()
        }),
    ]
}
