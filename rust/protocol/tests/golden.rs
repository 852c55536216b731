// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The bytes of every message, written down by hand: a change of the wire format fails here.
//!
//! Bytes are in hexadecimal, a space where a field ends.

#[cfg(test)]
mod golden {
    use memsrv_protocol::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    const SEQ: Seq = Seq(0x1122_3344_5566_7788);
    const TAG: Tag = Tag(0x1122_3344_5566_7788);
    const SLOT: Slot = Slot(0x0001_0000_0000_0207);
    const CLUSTER: Slot = Slot(0x0001_0000_0000_0200);
    const CRC: u32 = 0xdead_beef;

    /// Every message: who sends it, and its header.
    fn all() -> Vec<(Sender, Message, &'static str)> {
        use Sender::{Client, Server};
        let full = Status::Full;
        vec![
            (
                Client,
                Message::Hello,
                "0100 0000 d0000000 0000000000000000 0000000000000000 00000000 00000000",
            ),
            (
                Client,
                Message::Store {
                    seq: SEQ,
                    slot: SLOT,
                    crc: CRC,
                    len: PAGE_LEN,
                },
                "0200 0000 00100000 8877665544332211 0702000000000100 00000000 efbeadde",
            ),
            (
                Client,
                Message::Load {
                    tag: TAG,
                    slot: SLOT,
                    count: 0x0102,
                },
                "0300 0201 00000000 8877665544332211 0702000000000100 00000000 00000000",
            ),
            (
                Client,
                Message::Free {
                    seq: SEQ,
                    slot: CLUSTER,
                    crc: CRC,
                },
                "0400 0000 40000000 8877665544332211 0002000000000100 00000000 efbeadde",
            ),
            (
                Client,
                Message::Ping { tag: TAG },
                "0500 0000 00000000 8877665544332211 0000000000000000 00000000 00000000",
            ),
            (
                Client,
                Message::Stat { tag: TAG },
                "0600 0000 00000000 8877665544332211 0000000000000000 00000000 00000000",
            ),
            (
                Client,
                Message::Bye,
                "0700 0000 00000000 0000000000000000 0000000000000000 00000000 00000000",
            ),
            (
                Client,
                Message::Pull {
                    tag: TAG,
                    slot: CLUSTER,
                    crc: CRC,
                },
                "0800 0000 68000000 8877665544332211 0002000000000100 00000000 efbeadde",
            ),
            (
                Client,
                Message::Attach,
                "0900 0000 d0000000 0000000000000000 0000000000000000 00000000 00000000",
            ),
            (
                Client,
                Message::Reach { tag: TAG },
                "0a00 0000 00000000 8877665544332211 0000000000000000 00000000 00000000",
            ),
            (
                Server,
                Message::Reached {
                    tag: TAG,
                    seq: Seq(0x0102_0304_0506_0708),
                },
                "8c00 0000 00000000 8877665544332211 0807060504030201 00000000 00000000",
            ),
            (
                Server,
                Message::Pulled {
                    tag: TAG,
                    slot: CLUSTER,
                    status: None,
                },
                "8b00 0000 00000000 8877665544332211 0002000000000100 00000000 00000000",
            ),
            (
                Server,
                Message::Pulled {
                    tag: TAG,
                    slot: CLUSTER,
                    status: Some(Status::Unreachable),
                },
                "8b00 0000 00000000 8877665544332211 0002000000000100 0c000000 00000000",
            ),
            (
                Server,
                Message::Welcome,
                "8100 0000 50000000 0000000000000000 0000000000000000 00000000 00000000",
            ),
            (
                Server,
                Message::Refused {
                    status: Status::Busy,
                    len: 9,
                },
                "8200 0000 09000000 0000000000000000 0000000000000000 06000000 00000000",
            ),
            (
                Server,
                Message::Page {
                    tag: TAG,
                    slot: SLOT,
                    crc: CRC,
                    len: PAGE_LEN,
                },
                "8300 0000 00100000 8877665544332211 0702000000000100 00000000 efbeadde",
            ),
            (
                Server,
                Message::NoPage {
                    tag: TAG,
                    slot: SLOT,
                    status: Status::NotFound,
                },
                "8400 0000 00000000 8877665544332211 0702000000000100 03000000 00000000",
            ),
            (
                Server,
                Message::Ack { seq: SEQ },
                "8500 0000 00000000 8877665544332211 0000000000000000 00000000 00000000",
            ),
            (
                Server,
                Message::Nak {
                    seq: SEQ,
                    status: full,
                },
                "8600 0000 00000000 8877665544332211 0000000000000000 01000000 00000000",
            ),
            (
                Server,
                Message::Pong { tag: TAG },
                "8700 0000 00000000 8877665544332211 0000000000000000 00000000 00000000",
            ),
            (
                Server,
                Message::Stats {
                    tag: TAG,
                    len: 0x0304,
                },
                "8800 0000 04030000 8877665544332211 0000000000000000 00000000 00000000",
            ),
            (
                Server,
                Message::Notice {
                    status: Status::Draining,
                    len: 5,
                },
                "8900 0000 05000000 0000000000000000 0000000000000000 0b000000 00000000",
            ),
            (
                Server,
                Message::Unknown {
                    tag: TAG,
                    op: Op(0x7f7e),
                },
                "8a00 0000 00000000 8877665544332211 0000000000000000 7e7f0000 00000000",
            ),
            (
                Client,
                Message::Strange {
                    tag: TAG,
                    op: Op(0x7f7e),
                    len: MAX_PAYLOAD,
                },
                "7e7f 0000 00000400 8877665544332211 0000000000000000 00000000 00000000",
            ),
        ]
    }

    #[test]
    fn every_header_is_these_bytes_and_these_bytes_are_it() {
        for (from, message, hex) in all() {
            assert_eq!(message.encode().to_vec(), bytes(hex), "{message:?}");
            let header: [u8; HEADER_LEN] = bytes(hex).try_into().unwrap();
            assert_eq!(Message::decode(&header, from), Ok(message));
        }
    }

    #[test]
    fn a_message_of_the_wrong_side_is_strange() {
        for (from, message, _) in all() {
            let other = if from == Sender::Client {
                Sender::Server
            } else {
                Sender::Client
            };
            let decoded = Message::decode(&message.encode(), other).unwrap();
            let Message::Strange { op, len, .. } = decoded else {
                panic!("{message:?} from the other side is {decoded:?}");
            };
            assert_eq!(
                (op, len),
                (Header::decode(&message.encode()).op, message.payload_len())
            );
        }
    }

    #[test]
    fn a_length_other_than_the_operations_is_refused() {
        for (from, message, _) in all() {
            let header = Header::decode(&message.encode());
            let free = matches!(
                message,
                Message::Refused { .. }
                    | Message::Stats { .. }
                    | Message::Notice { .. }
                    | Message::Strange { .. }
            );
            for len in [
                0,
                header.len.wrapping_sub(1),
                header.len + 1,
                MAX_PAYLOAD,
                MAX_PAYLOAD + 1,
                u32::MAX,
            ] {
                let wrong = Header { len, ..header }.encode();
                let allowed = len == header.len || (free && len <= MAX_PAYLOAD);
                assert_eq!(
                    Message::decode(&wrong, from).is_ok(),
                    allowed,
                    "{message:?}, {len}"
                );
            }
        }
    }

    #[test]
    fn a_loads_slots_lie_within_one_cluster() {
        for (slot, count, good) in [
            (0, 1, true),
            (0, 512, true),
            (511, 1, true),
            (512 + 510, 2, true),
            (u64::MAX, 1, true),
            (u64::MAX - 511, 512, true),
            (0, 0, false),
            (0, 513, false),
            (511, 2, false),
            (1, 512, false),
            (0, u16::MAX, false),
            (u64::MAX, 2, false),
        ] {
            let (tag, slot) = (Tag(0), Slot(slot));
            let load = Message::Load { tag, slot, count };
            let expected = if good {
                Ok(load)
            } else {
                Err(WireError::BadRun { slot, count })
            };
            assert_eq!(Message::decode(&load.encode(), Sender::Client), expected);
        }
    }

    #[test]
    fn a_pull_is_these_bytes() {
        let pull = Pull {
            mask: FreeMask::from_words([0x0201, 0, 0, 0, 0, 0, 0, 1 << 63]),
            instance: Instance(*b"server's life #2"),
            address: *b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x02",
            port: 7170,
        };
        let expected = [
            &bytes("01 02")[..],
            &[0; 61],
            &bytes("80"),
            b"server's life #2",
            &bytes("00000000000000000000ffff0a000002 021c 000000000000"),
        ]
        .concat();
        assert_eq!(expected.len(), Pull::LEN);
        assert_eq!(pull.encode().to_vec(), expected);
        assert_eq!(Pull::decode(&pull.encode()), pull);
    }

    #[test]
    fn a_free_and_a_pull_begin_at_a_cluster() {
        for (slot, good) in [
            (0, true),
            (512, true),
            (1, false),
            (511, false),
            (u64::MAX, false),
        ] {
            let slot = Slot(slot);
            let free = Message::Free {
                seq: Seq(1),
                slot,
                crc: 0,
            };
            let pull = Message::Pull {
                tag: Tag(1),
                slot,
                crc: 0,
            };
            for message in [free, pull] {
                let expected = if good {
                    Ok(message)
                } else {
                    Err(WireError::BadCluster { slot })
                };
                assert_eq!(Message::decode(&message.encode(), Sender::Client), expected);
            }
        }
    }

    fn hello() -> Hello {
        Hello {
            version_min: 1,
            version_max: 0x0203,
            options: 0x0405_0607,
            incarnation: Incarnation(*b"client's life #1"),
            instance: Instance(*b"server's life #2"),
            stream: 2,
            streams: 4,
            wanted: 0x0102_0304_0506_0708,
            issued: Seq(0x1112_1314_1516_1718),
            client: Name::new(b"web-1.example").unwrap(),
            region: Name::new(b"Swap_0").unwrap(),
        }
    }

    #[test]
    fn hello_is_these_bytes() {
        let names = [&b"web-1.example"[..], &[0; 51], b"Swap_0", &[0; 58]].concat();
        let expected = [
            &b"memsrv\r\n"[..],
            &bytes("0100 0302 07060504"),
            b"client's life #1",
            b"server's life #2",
            &bytes("0200 0400 00100000 0807060504030201 1817161514131211 0d 06 000000000000"),
            &names,
        ]
        .concat();
        assert_eq!(expected.len(), Hello::LEN);
        assert_eq!(hello().encode().to_vec(), expected);
        assert_eq!(Hello::decode(&hello().encode()), Ok(hello()));
        assert_eq!(Hello::versions(&hello().encode()), Some((1, 0x0203)));
    }

    #[test]
    fn welcome_is_these_bytes() {
        let welcome = Welcome {
            version: 1,
            options: 0x0405_0607,
            instance: Instance(*b"server's life #2"),
            granted: 0x0102_0304_0506_0708,
            stored: 0x1112_1314_1516_1718,
            executed: Seq(0x2122_2324_2526_2728),
            window: 0x3132_3334,
            mirror: None,
        };
        let expected = [
            &b"memsrv\r\n"[..],
            &bytes("0100 0000 07060504"),
            b"server's life #2",
            &bytes("0807060504030201 1817161514131211 2827262524232221 34333231"),
            &[0; 20],
        ]
        .concat();
        assert_eq!(welcome.encode().to_vec(), expected);
        assert_eq!(Welcome::decode(&welcome.encode()), Ok(welcome));
        let mirror = Some(Endpoint {
            address: *b"sixteen bytes of",
            port: 0x4142,
        });
        let mirrored = Welcome { mirror, ..welcome };
        let end = mirrored.encode()[60..].to_vec();
        assert_eq!(
            end,
            [&b"sixteen bytes of"[..], &bytes("4241 0000")].concat()
        );
        assert_eq!(Welcome::decode(&mirrored.encode()), Ok(mirrored));
        let mut wrong = welcome.encode();
        wrong[7] = b'\r';
        assert_eq!(Welcome::decode(&wrong), Err(HelloError::Magic));
    }

    #[test]
    fn a_hello_that_breaks_a_rule_is_refused_with_the_rule() {
        let cases: [(usize, &[u8], HelloError); 13] = [
            (0, b"M", HelloError::Magic),
            (6, b"\n", HelloError::Magic),
            (48, &[4, 0], HelloError::Stream),
            (48, &[2, 1], HelloError::Stream),
            (50, &[0, 0], HelloError::Stream),
            (50, &[65, 0], HelloError::Stream),
            (52, &[0, 0x20], HelloError::PageSize),
            (52, &[0, 0, 1, 0], HelloError::PageSize),
            (72, &[0], HelloError::Name),
            (72, &[65], HelloError::Name),
            (72, &[14], HelloError::Name),
            (73, &[0xff], HelloError::Name),
            (144, b" ", HelloError::Name),
        ];
        for (at, wrong, error) in cases {
            let mut bytes = hello().encode();
            bytes[at..at + wrong.len()].copy_from_slice(wrong);
            assert_eq!(Hello::decode(&bytes), Err(error), "byte {at} is {wrong:?}");
        }
        let mut foreign = hello().encode();
        foreign[0] = b'G';
        assert_eq!(Hello::versions(&foreign), None);
    }

    #[test]
    fn compressed_pages_are_these_bytes_where_the_option_is_on() {
        assert_eq!((Hello::FORWARD, Hello::LZ4, LZ4_MAX_LEN), (1, 4, 3584));
        let store = |len| Message::Store {
            seq: SEQ,
            slot: SLOT,
            crc: CRC,
            len,
        };
        let page = |len| Message::Page {
            tag: TAG,
            slot: SLOT,
            crc: CRC,
            len,
        };
        for (from, message, hex) in [
            (
                Sender::Client,
                store(0x0123),
                "0200 0000 23010000 8877665544332211 0702000000000100 00000000 efbeadde",
            ),
            (
                Sender::Server,
                page(0x0e00),
                "8300 0000 000e0000 8877665544332211 0702000000000100 00000000 efbeadde",
            ),
        ] {
            let header = message.encode();
            assert_eq!(header[..], bytes(hex), "{message:?}");
            let on = Message::decode_with(&header, from, Hello::LZ4);
            assert_eq!(on, Ok(message));
            for options in [0, Hello::FORWARD, !Hello::LZ4] {
                let off = Message::decode_with(&header, from, options);
                assert!(matches!(off, Err(WireError::BadLength { .. })));
            }
        }
        for len in [1, LZ4_MAX_LEN, PAGE_LEN] {
            for (from, message) in [(Sender::Client, store(len)), (Sender::Server, page(len))] {
                let on = Message::decode_with(&message.encode(), from, Hello::LZ4);
                assert_eq!(on, Ok(message));
            }
        }
        for len in [0, LZ4_MAX_LEN + 1, PAGE_LEN - 1, PAGE_LEN + 1, u32::MAX] {
            for (from, message) in [(Sender::Client, store(len)), (Sender::Server, page(len))] {
                let on = Message::decode_with(&message.encode(), from, Hello::LZ4);
                assert!(matches!(on, Err(WireError::BadLength { .. })), "{len}");
            }
        }
    }

    #[test]
    fn a_mask_is_these_bytes() {
        let mut mask = FreeMask::EMPTY;
        for index in [0, 9, 511, 512, usize::MAX] {
            mask.insert(index);
        }
        let mut expected = [0; 64];
        (expected[0], expected[1], expected[63]) = (0x01, 0x02, 0x80);
        assert_eq!(mask.0, expected);
        assert_eq!(
            FreeMask::from_words([0x0201, 0, 0, 0, 0, 0, 0, 1 << 63]),
            mask
        );
        assert_eq!(mask.indices().collect::<Vec<_>>(), [0, 9, 511]);
        assert!(!mask.contains(512) && !mask.is_empty() && FreeMask::EMPTY.is_empty());
        assert_eq!(FreeMask::ALL.indices().count(), 512);
        assert_eq!(FreeMask::base(SLOT), CLUSTER);
        assert_eq!(FreeMask::base(Slot(u64::MAX)), Slot(u64::MAX - 511));
    }

    #[test]
    fn every_status_has_its_number() {
        let all = [
            Status::Full,
            Status::Quota,
            Status::NotFound,
            Status::BadChecksum,
            Status::Version,
            Status::Busy,
            Status::Stale,
            Status::BadRequest,
            Status::UnknownOp,
            Status::Denied,
            Status::Draining,
            Status::Unreachable,
            Status::Cancelled,
            Status::MirrorLost,
        ];
        for (code, status) in (1..).zip(all) {
            assert_eq!((status.code(), Status::from_code(code)), (code, status));
            assert_ne!(status.as_str(), Status::Other(0).as_str());
        }
        for code in [0, 15, u32::MAX] {
            assert_eq!(Status::from_code(code), Status::Other(code));
            assert_eq!(Status::Other(code).code(), code);
        }
        let no_room: Vec<u32> = (0..20)
            .filter(|&c| Status::from_code(c).is_no_room())
            .collect();
        assert_eq!(no_room, [1, 2, 11]);
    }

    #[test]
    fn sizes_and_limits_are_pinned() {
        assert_eq!(
            (
                HEADER_LEN,
                PAGE_SIZE,
                Hello::LEN,
                Welcome::LEN,
                FreeMask::LEN,
                Pull::LEN
            ),
            (32, 4096, 208, 80, 64, 104)
        );
        assert_eq!(
            (VERSION, DEFAULT_PORT, CLUSTER_SLOTS, MAX_STREAMS),
            (1, 7170, 512, 64)
        );
        assert_eq!(
            (MAX_PAYLOAD, Name::MAX, MAGIC),
            (262_144, 64, *b"memsrv\r\n")
        );
    }
}
