// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Peers that break the rules, stop half way, or never listen: nothing they do harms others.

use std::io::{ErrorKind, Write};
use std::time::{Duration, Instant};

use crate::support::*;
use memsrv_protocol::*;

/// A client that must not notice what others do.
fn witness(server: &Server) -> Client {
    let mut client = server.session("witness", 1);
    client.store(1, &page(1));
    client
}

fn unharmed(client: &mut Client) {
    assert_eq!(client.load(1).unwrap(), page(1));
    client.store(2, &page(2));
}

/// Every message a client sends, whole.
fn messages() -> Vec<u8> {
    let load = Message::Load {
        tag: Tag(1),
        slot: Slot(0),
        count: 2,
    };
    [
        hello_bytes(&hello("cut", 1)),
        store_bytes(1, 0, &page(1)),
        load.encode().to_vec(),
        free_bytes(2, 0, &FreeMask::ALL),
        Message::Ping { tag: Tag(2) }.encode().to_vec(),
        Message::Stat { tag: Tag(3) }.encode().to_vec(),
    ]
    .concat()
}

#[test]
fn a_connection_cut_at_any_byte_harms_nobody() {
    let server = Server::start(&[]);
    let mut witness = witness(&server);
    let all = messages();
    // Every byte but those well inside of the page.
    let page_at = 2 * HEADER_LEN + Hello::LEN;
    let cuts = (0..=all.len()).filter(|at| !(page_at + 9..page_at + 4090).contains(at));
    for cut in cuts {
        let mut client = server.connect();
        client.send(&all[..cut]);
    }
    wait_until("all are gone", || server.report().connections == 2);
    unharmed(&mut witness);
    let regions = server.report().regions;
    assert_eq!(
        regions
            .iter()
            .map(|region| region.client.as_str())
            .collect::<Vec<_>>(),
        ["cut", "witness"]
    );
}

#[test]
fn a_torn_store_is_never_seen() {
    let server = Server::start(&[]);
    let mut client = server.session("a", 1);
    client.store(1, &page(1));
    let bytes = store_bytes(2, 1, &page(2));
    for cut in [HEADER_LEN, HEADER_LEN + 1, HEADER_LEN + 4095] {
        let mut torn = server.connect();
        torn.welcome(&Hello {
            issued: Seq(2),
            ..hello("a", 1)
        });
        torn.send(&bytes[..cut]);
        drop(torn);
        let mut again = server.connect();
        assert_eq!(
            again
                .welcome(&Hello {
                    issued: Seq(2),
                    ..hello("a", 1)
                })
                .executed,
            Seq(1)
        );
        assert_eq!(again.load(1).unwrap(), page(1));
    }
}

#[test]
fn headers_with_impossible_fields_end_their_connection_only() {
    let server = Server::start(&[]);
    let mut witness = witness(&server);
    let header = |op: Op, count, len, slot| {
        Header {
            op,
            count,
            len,
            id: 1,
            slot,
            aux: 0,
            crc: 0,
        }
        .encode()
    };
    let bad = [
        header(Op::STORE, 0, 4095, 0),
        header(Op::STORE, 0, u32::MAX, 0),
        header(Op::FREE, 0, 65, 0),
        header(Op::FREE, 0, 64, 1),
        header(Op::LOAD, 0, 0, 0),
        header(Op::LOAD, 2, 0, 511),
        header(Op::LOAD, u16::MAX, 0, 0),
        header(Op::LOAD, 1, 1, 0),
        header(Op::HELLO, 0, 207, 0),
        header(Op::BYE, 0, 1, 0),
        header(Op(999), 0, MAX_PAYLOAD + 1, 0),
        header(Op::WELCOME, 0, u32::MAX, 0),
    ];
    for (number, header) in bad.iter().enumerate() {
        for session in [false, true] {
            let mut client = server.connect();
            if session {
                client.welcome(&hello(&format!("bad-{number}"), 1));
            }
            client.send(header);
            client.refused(Status::BadRequest);
        }
    }
    unharmed(&mut witness);
}

#[test]
fn another_protocol_is_refused() {
    let server = Server::start(&[]);
    for text in [
        "GET / HTTP/1.1\r\nHost: memsrv\r\nAccept: */*\r\n\r\n",
        &"\0".repeat(64),
    ] {
        let mut client = server.connect();
        client.send(text.as_bytes());
        let answer = client.receive();
        let odd = matches!(answer.0, Message::Refused { .. } | Message::Unknown { .. });
        assert!(odd, "{answer:?}");
    }
}

#[test]
fn a_flood_of_hellos_leaves_nothing_behind() {
    let mut config = config(&[]);
    config.limits.regions = 50;
    let server = Server::with(config);
    let mut witness = witness(&server);
    for n in 0..500 {
        server
            .connect()
            .send(&hello_bytes(&hello(&format!("flood-{n}"), 1)));
    }
    wait_until("the flood is over", || server.report().connections == 2);
    assert!(server.report().regions.len() <= 50);
    unharmed(&mut witness);
}

#[test]
fn who_says_nothing_or_half_a_hello_is_disconnected_in_time() {
    let mut config = config(&[]);
    config.hello_timeout = Duration::from_millis(200);
    let server = Server::with(config);
    let mut silent = server.connect();
    let mut half = server.connect();
    half.send(&hello_bytes(&hello("a", 1))[..100]);
    let mut strange = server.connect();
    strange.send(
        &Message::Strange {
            tag: Tag(1),
            op: Op(99),
            len: 0,
        }
        .encode(),
    );
    let mut session = server.session("b", 1);
    let start = Instant::now();
    assert_eq!((silent.rest(), half.rest()), (vec![], vec![]));
    assert_eq!(strange.rest().len(), HEADER_LEN);
    assert!(start.elapsed() < PATIENCE / 2);
    // One that has said who it is may be silent.
    session.ping();
}

#[test]
fn who_asks_for_statistics_and_says_no_more_is_disconnected_in_time() {
    let mut config = config(&[]);
    config.hello_timeout = Duration::from_millis(500);
    let server = Server::with(config);
    let mut client = server.connect();
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(200));
        client.report();
    }
    assert_eq!(client.rest(), b"");
}

/// Each is answered in a turn of its own, and with one report for all.
#[test]
fn a_flood_of_stats_leaves_room_for_others() {
    let mut config = config(&[]);
    config.threads = 1;
    let server = Server::with(config);
    let mut witness = witness(&server);
    let mut flood = server.connect();
    flood.send(&Message::Stat { tag: Tag(9) }.encode().repeat(2000));
    unharmed(&mut witness);
    let first = flood.receive().1;
    let same = (1..2000).filter(|_| flood.receive().1 == first).count();
    assert!(same > 100, "{same} of 2000 reports are the same");
}

#[test]
fn a_refused_peer_that_stays_is_disconnected_in_time() {
    let mut config = config(&[]);
    config.hello_timeout = Duration::from_secs(3600);
    let server = Server::with(config);
    let mut client = server.connect();
    client.send(&Message::Bye.encode());
    client.receive();
    // It neither closes nor reads; the server's own deadline ends it.
    wait_until("the server has closed", || server.report().connections == 1);
}

#[test]
fn connections_are_limited_in_number() {
    let server = Server::start(&["--max-connections", "3"]);
    let mut kept: Vec<Client> = (0..3)
        .map(|n| server.session(&format!("c{n}"), 1))
        .collect();
    let mut fourth = server.connect();
    assert!(fourth.refused(Status::Full).contains("max_connections"));
    kept.pop();
    wait_until("there is room again", || {
        let mut client = server.connect();
        client.send(&Message::Stat { tag: Tag(1) }.encode());
        matches!(client.receive().0, Message::Stats { .. })
    });
    kept[0].ping();
}

/// Asks for far more than it reads; gives back how many bytes of requests the server let it send.
fn deaf(client: &mut Client, request: &[u8]) -> usize {
    let requests = request.repeat(1 << 16 >> request.len().ilog2());
    client
        .stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut sent = 0;
    loop {
        match client.stream.write(&requests) {
            Ok(n) => sent += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return sent,
            Err(error) => panic!("{error}"),
        }
        assert!(
            sent < 64 << 20,
            "the server takes requests whose answers nobody reads"
        );
    }
}

#[test]
fn a_peer_that_never_reads_is_not_read_from_either() {
    let server = Server::start(&[]);
    let mut witness = witness(&server);
    let load = Message::Load {
        tag: Tag(1),
        slot: Slot(0),
        count: 512,
    }
    .encode();
    let mut full = server.session("deaf", 1);
    (0..512).for_each(|slot| full.store(slot, &page(slot)));
    deaf(&mut full, &load);
    deaf(
        &mut server.connect(),
        &Message::Stat { tag: Tag(1) }.encode(),
    );
    unharmed(&mut witness);
    // It gets all of its answers, and the right ones, as soon as it reads.
    for slot in (0..512).chain(0..512) {
        let (message, bytes) = full.receive();
        assert!(
            matches!(message, Message::Page { slot: s, .. } if s.0 == slot),
            "{message:?}"
        );
        assert_eq!(bytes, page(slot));
    }
}
