// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What holds for any message and any bytes: decoding undoes encoding, and nothing panics.

#[cfg(test)]
mod properties {
    use memsrv_protocol::*;
    use proptest::prelude::*;

    fn name() -> impl Strategy<Value = Name> {
        proptest::string::string_regex("[A-Za-z0-9._-]{1,64}")
            .unwrap()
            .prop_map(|text| Name::new(text.as_bytes()).unwrap())
    }

    fn hello() -> impl Strategy<Value = Hello> {
        let numbers = any::<(u16, u16, u32, [u8; 16], [u8; 16], u64, u64)>();
        let streams = (1..=MAX_STREAMS).prop_flat_map(|streams| (0..streams, Just(streams)));
        (numbers, streams, name(), name()).prop_map(|(n, (stream, streams), client, region)| {
            Hello {
                version_min: n.0,
                version_max: n.1,
                options: n.2,
                incarnation: Incarnation(n.3),
                instance: Instance(n.4),
                stream,
                streams,
                wanted: n.5,
                issued: Seq(n.6),
                client,
                region,
            }
        })
    }

    fn message() -> impl Strategy<Value = (Sender, Message)> {
        use Sender::{Client, Server};
        let fields = any::<(u64, u64, u32, u32)>();
        let run = (any::<u64>(), 0..512_u64, 1..=512_u16).prop_map(|(cluster, index, count)| {
            let count = count.min(512 - u16::try_from(index).unwrap());
            (Slot((cluster / 512 * 512) | index), count)
        });
        (0..23_u8, fields, run, 0..=MAX_PAYLOAD, any::<u16>()).prop_map(
            |(kind, (id, slot, crc, code), (first, count), len, op)| {
                let (seq, tag, slot) = (Seq(id), Tag(id), Slot(slot));
                let status = Status::from_code(code);
                match kind {
                    0 => (Client, Message::Hello),
                    1 => (
                        Client,
                        Message::Store {
                            seq,
                            slot,
                            crc,
                            len: PAGE_LEN,
                        },
                    ),
                    2 => (
                        Client,
                        Message::Load {
                            tag,
                            slot: first,
                            count,
                        },
                    ),
                    3 => (
                        Client,
                        Message::Free {
                            seq,
                            slot: FreeMask::base(slot),
                            crc,
                        },
                    ),
                    4 => (Client, Message::Ping { tag }),
                    5 => (Client, Message::Stat { tag }),
                    6 => (Client, Message::Bye),
                    7 => (Server, Message::Welcome),
                    8 => (Server, Message::Refused { status, len }),
                    9 => (
                        Server,
                        Message::Page {
                            tag,
                            slot,
                            crc,
                            len: PAGE_LEN,
                        },
                    ),
                    10 => (Server, Message::NoPage { tag, slot, status }),
                    11 => (Server, Message::Ack { seq }),
                    12 => (Server, Message::Nak { seq, status }),
                    13 => (Server, Message::Pong { tag }),
                    14 => (Server, Message::Stats { tag, len }),
                    15 => (Server, Message::Notice { status, len }),
                    16 => (Server, Message::Unknown { tag, op: Op(op) }),
                    17 => (
                        Client,
                        Message::Pull {
                            tag,
                            slot: FreeMask::base(slot),
                            crc,
                        },
                    ),
                    18 => (Client, Message::Attach),
                    19 => {
                        let status = (code != 0).then_some(status);
                        (Server, Message::Pulled { tag, slot, status })
                    }
                    20 => (Client, Message::Reach { tag }),
                    21 => (Server, Message::Reached { tag, seq }),
                    _ => (
                        Client,
                        Message::Strange {
                            tag,
                            op: Op(op | 0x80),
                            len,
                        },
                    ),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding((from, message) in message()) {
            prop_assert_eq!(Message::decode(&message.encode(), from), Ok(message));
        }

        /// Whatever the length: with the option a page travels whole or as 1 to 3584 bytes, without it whole.
        #[test]
        fn a_page_travels_whole_or_where_the_option_is_on_as_a_shorter_block(
            (id, slot, crc) in any::<(u64, u64, u32)>(),
            len in prop_oneof![0..=4200_u32, Just(LZ4_MAX_LEN), Just(LZ4_MAX_LEN + 1), any::<u32>()],
            others in any::<u32>(),
        ) {
            let (seq, tag, slot) = (Seq(id), Tag(id), Slot(slot));
            let others = others & !Hello::LZ4;
            let short = (1..=LZ4_MAX_LEN).contains(&len);
            for (from, message) in [
                (Sender::Client, Message::Store { seq, slot, crc, len }),
                (Sender::Server, Message::Page { tag, slot, crc, len }),
            ] {
                let bytes = message.encode();
                let without = Message::decode_with(&bytes, from, others);
                prop_assert_eq!(without, Message::decode(&bytes, from));
                prop_assert_eq!(without.is_ok(), len == PAGE_LEN);
                let with = Message::decode_with(&bytes, from, others | Hello::LZ4);
                prop_assert_eq!(with.is_ok(), len == PAGE_LEN || short);
                prop_assert!(with.is_err() || with == Ok(message));
            }
        }

        #[test]
        fn decoding_a_hello_undoes_encoding(hello in hello()) {
            prop_assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        }

        #[test]
        fn decoding_a_welcome_undoes_encoding(bytes in any::<[[u8; 16]; 5]>()) {
            let mut payload = [0; Welcome::LEN];
            payload.copy_from_slice(&bytes.concat());
            payload[..8].copy_from_slice(&MAGIC);
            let welcome = Welcome::decode(&payload).unwrap();
            prop_assert_eq!(Welcome::decode(&welcome.encode()), Ok(welcome));
        }

        #[test]
        fn any_32_bytes_are_a_header_and_decode_to_something_or_an_error(bytes in any::<[u8; 32]>()) {
            prop_assert_eq!(Header::decode(&bytes).encode(), bytes);
            for from in [Sender::Client, Sender::Server] {
                if let Ok(message) = Message::decode(&bytes, from) {
                    prop_assert!(message.payload_len() <= MAX_PAYLOAD);
                    prop_assert_eq!(Message::decode(&message.encode(), from), Ok(message));
                }
            }
        }

        #[test]
        fn any_payload_is_a_hello_or_an_error(
            mut bytes in prop::collection::vec(any::<u8>(), Hello::LEN),
            good in hello(),
            kept in 0..Hello::LEN,
        ) {
            // From nothing right to nearly all right.
            bytes[..kept].copy_from_slice(&good.encode()[..kept]);
            let payload = bytes.first_chunk().unwrap();
            if let Ok(hello) = Hello::decode(payload) {
                prop_assert!(hello.stream < hello.streams && hello.streams <= MAX_STREAMS);
                prop_assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
            }
        }

        /// A receiver that waits for whole messages sees none in a truncated one: `first_chunk` is the
        /// only way to a header, and a header says how much must follow.
        #[test]
        fn a_message_cut_at_any_byte_is_seen_to_be_cut((from, message) in message()) {
            let payload = usize::try_from(message.payload_len()).unwrap().min(5000);
            let whole = [&message.encode()[..], &vec![0; payload]].concat();
            for cut in (0..whole.len()).step_by(1 + whole.len() / 200) {
                let seen = whole[..cut].first_chunk().map(|header| Message::decode(header, from));
                match seen {
                    None => prop_assert!(cut < HEADER_LEN),
                    Some(seen) => {
                        prop_assert_eq!(seen, Ok(message));
                        let len = usize::try_from(message.payload_len()).unwrap();
                        prop_assert!(len == 0 || cut - HEADER_LEN < len);
                    }
                }
            }
        }

        #[test]
        fn a_mask_contains_what_was_put_in(words in any::<[u64; 8]>(), index in 0..512_usize) {
            let mask = FreeMask::from_words(words);
            prop_assert_eq!(mask.contains(index), (words[index / 64] >> (index % 64)) & 1 == 1);
            let mut more = mask;
            more.insert(index);
            prop_assert!(more.contains(index));
            let count: u32 = words.iter().map(|word| word.count_ones()).sum();
            prop_assert_eq!(u32::try_from(mask.indices().count()).unwrap(), count);
        }

        #[test]
        fn a_run_fits_when_its_last_slot_is_in_the_same_cluster(slot: u64, count in 0..1000_u16) {
            let last = u128::from(slot) + u128::from(count.max(1)) - 1;
            let same = last / 512 == u128::from(slot) / 512;
            prop_assert_eq!(Slot(slot).run_fits(count), count > 0 && same);
        }

        #[test]
        fn a_name_is_kept_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..70)) {
            if let Some(name) = Name::new(&bytes) {
                prop_assert_eq!(name.as_str().as_bytes(), &bytes[..]);
            }
        }
    }
}
