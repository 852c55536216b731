// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! FORWARD when the mirror is away, goes away, is silent, or is hostile: the client is told, and goes on.

use std::net::TcpListener;

use crate::mirror::*;
use crate::source::mask;
use crate::support::*;
use memsrv_protocol::*;

/// Opens a session that is told where the mirror is and that nothing is forwarded; it stores without.
fn alone(server: &Server, mirror: &Mirror, meanwhile: impl FnOnce(Fed)) {
    let mut client = server.connect();
    client.send(&hello_bytes(&forward_hello("a", 1, 0)));
    meanwhile(mirror.accept());
    let welcome = client.welcomed();
    assert!(!is_forwarded(&welcome));
    assert_eq!(mirror_of(&welcome), mirror.address);
    client.store(1, &page(1));
    client.bye();
}

#[test]
fn a_mirror_that_is_not_there_is_said_at_the_start() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let server = primary(address, &[]);
    let mut client = server.connect();
    let welcome = client.welcome(&forward_hello("a", 1, 0));
    assert!(!is_forwarded(&welcome));
    assert_eq!(mirror_of(&welcome), address);
    client.store(1, &page(1));
    assert_eq!(client.load(1).unwrap(), page(1));
    let counts = server.report().mirror.unwrap();
    assert_eq!((counts.forwarded, counts.streams, counts.lost), (0, 0, 0));
}

#[test]
fn a_mirror_that_does_not_welcome_is_said_at_the_start() {
    let mirror = Mirror::new();
    let server = primary(mirror.address, &[]);
    alone(&server, &mirror, drop);
    alone(&server, &mirror, |mut fed| {
        fed.hello();
        let refused = Message::Refused {
            status: Status::Busy,
            len: 4,
        };
        fed.send(&[&refused.encode()[..], b"busy"].concat());
        assert_eq!(fed.closed(), b"");
    });
    let good = Welcome {
        version: VERSION,
        options: 0,
        instance: Instance([0x77; 16]),
        granted: 1000,
        stored: 0,
        executed: Seq(0),
        window: 4096,
        mirror: None,
    };
    let version = VERSION + 1;
    for welcome in [Welcome { version, ..good }, Welcome { window: 15, ..good }] {
        alone(&server, &mirror, |mut fed| {
            fed.hello();
            fed.welcome_as(&welcome);
            assert_eq!(fed.closed(), b"");
        });
    }
    // A real one, where another life of the client is.
    let real = Server::start(&[]);
    let server = primary(real.address, &[]);
    let _other = real.session("a", 2);
    let welcome = server.connect().welcome(&forward_hello("a", 1, 0));
    assert!(!is_forwarded(&welcome));
    assert_eq!(mirror_of(&welcome), real.address);
}

#[test]
fn a_mirror_that_does_not_answer_is_not_waited_for_long() {
    let mirror = Mirror::new();
    let server = hasty_primary(mirror.address);
    alone(&server, &mirror, |mut fed| {
        fed.hello();
        // Others do not wait with it.
        server.session("b", 1).store(1, &page(1));
        assert_eq!(fed.closed(), b"");
    });
}

#[test]
fn who_leaves_before_the_mirror_answers_leaves_nothing() {
    let mirror = Mirror::new();
    let server = primary(mirror.address, &[]);
    let mut older = server.connect();
    older.send(&hello_bytes(&forward_hello("a", 1, 0)));
    let mut first = mirror.accept();
    first.hello();
    // A newer connection takes the stream meanwhile.
    let (mut newer, _fed, welcome) = mirror.session(&server, &forward_hello("a", 1, 0), 0);
    assert!(is_forwarded(&welcome));
    assert_eq!(older.rest(), b"", "no WELCOME for the older one");
    assert_eq!(first.closed(), b"");
    newer.ping();
    assert_eq!(server.report().mirror.unwrap().streams, 1);
}

#[test]
fn a_loss_is_said_before_anything_is_acknowledged_without_the_mirror() {
    let mirror = Mirror::new();
    let server = primary(mirror.address, &[]);
    let (mut client, mut fed, _) = mirror.session(&server, &forward_hello("a", 1, 0), 0);
    let mut other = {
        let hello = Hello {
            stream: 0,
            ..forward_hello("b", 1, 0)
        };
        mirror.session(&server, &hello, 0)
    };
    client.send_stores(1..=5);
    fed.stores(1..=5);
    fed.ack(2);
    assert_eq!(client.ack(), 2);
    fed.nak(4, Status::Full);
    fed.ack(3);
    drop(fed);
    let (seq, status) = (Seq(4), Status::Full);
    assert_eq!(client.receive().0, Message::Nak { seq, status });
    // It has 3, and that may be said.
    assert_eq!(client.ack(), 3);
    let words = client.told_of_the_loss();
    assert!(words.contains(&mirror.address.to_string()), "{words}");
    assert_eq!(client.ack(), 5);
    client.store(6, &page(6));
    client.free(0, &mask([1]));
    assert_eq!(client.load(5).unwrap(), page(5));
    // In this life it is so for good.
    drop(client);
    let mut client = server.connect();
    let welcome = client.welcome(&forward_hello("a", 1, 7));
    assert!(!is_forwarded(&welcome));
    assert_eq!(mirror_of(&welcome), mirror.address);
    client.store(7, &page(7));
    assert!(!mirror.is_called());
    // Another client's stream goes on, and so does the next life.
    other.0.send_stores(1..=1);
    other.1.stores(1..=1);
    other.1.ack(1);
    assert_eq!(other.0.ack(), 1);
    let counts = server.report().mirror.unwrap();
    assert_eq!((counts.streams, counts.lost), (1, 1));
    client.bye();
    let (_, _, welcome) = mirror.session(&server, &forward_hello("a", 2, 0), 0);
    assert!(is_forwarded(&welcome));
}

#[test]
fn the_other_streams_of_a_life_are_forwarded_until_they_lose_it_themselves() {
    let mirror = Mirror::new();
    let server = primary(mirror.address, &[]);
    let open = |stream: u16, issued: u64| Hello {
        stream,
        streams: 2,
        ..forward_hello("a", 1, issued)
    };
    let (mut first, fed, _) = mirror.session(&server, &open(0, 0), 0);
    let (mut second, mut kept, _) = mirror.session(&server, &open(1, 0), 0);
    drop(fed);
    first.told_of_the_loss();
    second.send_stores(1..=2);
    kept.stores(1..=2);
    kept.ack(2);
    second.acked_up_to(2);
    drop(second);
    kept.closed();
    let welcome = server.connect().welcome(&open(1, 2));
    assert!(!is_forwarded(&welcome));
}

#[test]
fn a_mirror_that_is_silent_is_lost() {
    let mirror = Mirror::new();
    let server = hasty_primary(mirror.address);
    // Reading does not help, nor does saying what answers nothing.
    for talks in [false, true] {
        let hello = forward_hello("a", 1 + u8::from(talks), 0);
        let (mut client, mut fed, welcome) = loop {
            let (client, fed, welcome) = mirror.session(&server, &hello, 0);
            // A slow machine: it took too long for so hasty a server.
            if is_forwarded(&welcome) {
                break (client, fed, welcome);
            }
        };
        assert!(is_forwarded(&welcome));
        client.send_stores(1..=3);
        let told = std::thread::scope(|scope| {
            let told = scope.spawn(|| {
                let words = client.told_of_the_loss();
                assert_eq!(client.ack(), 3);
                words
            });
            while talks && !told.is_finished() {
                fed.send(&Message::Pong { tag: Tag(1) }.encode());
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            told.join().unwrap()
        });
        assert!(told.contains("answered nothing"), "{told}");
        client.store(4, &page(4));
        client.bye();
    }
}

#[test]
fn a_mirror_that_owes_nothing_may_be_silent() {
    let mirror = Mirror::new();
    let server = hasty_primary(mirror.address);
    let (mut client, mut fed, _) = loop {
        let found = mirror.session(&server, &forward_hello("a", 1, 0), 0);
        if is_forwarded(&found.2) {
            break found;
        }
    };
    fed.ack(0);
    // Three times what it may be silent with an answer owed.
    std::thread::sleep(std::time::Duration::from_millis(900));
    client.ping();
    assert_eq!(server.report().mirror.unwrap().lost, 0);
}

#[test]
fn before_loses_a_mirror_that_refuses_what_was_acknowledged() {
    let mirror = Mirror::new();
    let server = primary(mirror.address, &["--mirror-ack", "before"]);
    let (mut client, mut fed, _) = mirror.session(&server, &forward_hello("a", 1, 0), 0);
    client.store(1, &page(1));
    fed.stores(1..=1);
    fed.nak(1, Status::Full);
    client.told_of_the_loss();
    client.store(2, &page(2));
    drop(client);
    let welcome = server.connect().welcome(&forward_hello("a", 1, 2));
    assert!(!is_forwarded(&welcome));
}

#[test]
fn before_wants_a_mirror_that_ends_the_connection_where_it_would_refuse() {
    let mirror = Mirror::new();
    for (ack, asked) in [("before", Hello::NO_REFUSAL), ("after", 0)] {
        let server = primary(mirror.address, &["--mirror-ack", ack]);
        let mut client = server.connect();
        client.send(&hello_bytes(&forward_hello("a", 1, 0)));
        let mut fed = mirror.accept();
        assert_eq!(fed.hello().options, asked, "{ack}");
        fed.welcome_with(0, 0);
        assert_eq!(is_forwarded(&client.welcomed()), asked == 0, "{ack}");
    }
    // A refusal is the end of the connection then, and the store is not executed there.
    let server = primary(mirror.address, &["--mirror-ack", "before"]);
    let (mut client, mut fed, _) = mirror.session(&server, &forward_hello("a", 1, 0), 0);
    client.store(1, &page(1));
    fed.stores(1..=1);
    let (status, len) = (Status::Draining, 0);
    fed.send(&Message::Refused { status, len }.encode());
    client.told_of_the_loss();
}

#[test]
fn a_hostile_mirror_is_lost_and_harms_nobody() {
    let mirror = Mirror::new();
    let server = primary(mirror.address, &[]);
    let mut witness = server.session("witness", 1);
    let strange = |len| Message::Strange {
        tag: Tag(1),
        op: Op(0xf00),
        len,
    };
    let mut too_long = strange(0).encode();
    too_long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let ack = |seq| Message::Ack { seq: Seq(seq) }.encode().to_vec();
    let nak = |seq| {
        let status = Status::Full;
        Message::Nak {
            seq: Seq(seq),
            status,
        }
        .encode()
        .to_vec()
    };
    let refused = Message::Refused {
        status: Status::Other(u32::MAX),
        len: MAX_PAYLOAD,
    };
    let (tag, slot) = (Tag(1), Slot(1));
    let no_page = Message::NoPage {
        tag,
        slot,
        status: Status::NotFound,
    };
    let welcome = [&Message::Welcome.encode()[..], &[0; Welcome::LEN]].concat();
    // Operations 1, 2 and 4 are stores, 5 is a FREE, 3 was never sent.
    let sayings: Vec<(&str, Vec<u8>)> = vec![
        ("http", b"HTTP/1.1 400 Bad Request\r\n\r\nno such".to_vec()),
        ("zeroes, then the end", vec![0; 40]),
        ("ones", vec![0xff; 4000]),
        ("too long", too_long.to_vec()),
        ("refused", [&refused.encode()[..], &[0xc3; 5000]].concat()),
        ("an ACK of what was not sent", ack(6)),
        ("the highest ACK", ack(u64::MAX)),
        ("a NAK of a FREE", nak(5)),
        ("a NAK of what was not sent", nak(3)),
        ("a NAK of what comes later", nak(6)),
        ("two NAKs", [nak(1), nak(1)].concat()),
        ("a NAK behind the ACK", [ack(1), nak(1)].concat()),
        ("a WELCOME", welcome),
        ("NOPAGE", no_page.encode().to_vec()),
    ];
    for (life, (name, saying)) in (1..).zip(&sayings) {
        let (mut client, mut fed, _) = mirror.session(&server, &forward_hello("a", life, 0), 0);
        client.send_stores([1, 2, 4]);
        client.send(&free_bytes(5, 512, &FreeMask::ALL));
        fed.stores([1, 2, 4]);
        fed.operation();
        fed.send(saying);
        if *name == "zeroes, then the end" {
            drop(fed);
        } else {
            fed.closed();
        }
        // It was passed on before it was seen to be nonsense.
        let mut acked = 0;
        let words = loop {
            match client.receive() {
                (Message::Nak { seq: Seq(1), .. }, _) if *name == "two NAKs" => {}
                (Message::Ack { seq: Seq(1) }, _) => acked = 1,
                (Message::Notice { status, .. }, words) => {
                    assert_eq!(status, Status::MirrorLost);
                    break String::from_utf8(words).unwrap();
                }
                other => panic!("{name}: {other:?}"),
            }
        };
        assert_eq!(acked == 1, *name == "a NAK behind the ACK", "{name}");
        assert!(words.len() < 2000, "{name}: {words}");
        assert_eq!(client.ack(), 5, "{name}");
        client.seq = 5;
        client.store(6, &page(6));
        witness.ping();
        client.bye();
        // Said in place of the WELCOME.
        if *name == "zeroes, then the end" || *name == "a NAK behind the ACK" {
            continue;
        }
        alone(&server, &mirror, |mut fed| {
            fed.hello();
            fed.send(saying);
            assert_eq!(fed.closed(), b"", "{name}");
        });
    }
    let lost = server.report().mirror.unwrap().lost;
    assert_eq!(usize::try_from(lost).unwrap(), sayings.len());
    witness.store(1, &page(1));
}

/// A message of which there is never an end, in as many bytes as one likes.
#[test]
fn a_mirror_that_talks_without_end_is_lost_and_holds_nobody_up() {
    let mirror = Mirror::new();
    let mut config = mirrored(mirror.address, &[]);
    config.threads = 1;
    config.mirror.as_mut().unwrap().silence = std::time::Duration::from_millis(500);
    let server = Server::with(config);
    let mut witness = server.session("witness", 1);
    let (mut client, mut fed, _) = mirror.session(&server, &forward_hello("a", 1, 0), 0);
    client.send_stores(1..=3);
    let notice = Message::Notice {
        status: Status::Draining,
        len: MAX_PAYLOAD,
    };
    let notice = [&notice.encode()[..], &[b'x'; 0x40000]].concat();
    std::thread::scope(|scope| {
        let told = scope.spawn(|| {
            client.told_of_the_loss();
            assert_eq!(client.ack(), 3);
        });
        while !told.is_finished() {
            fed.send(&notice);
            witness.ping();
        }
    });
    client.store(4, &page(4));
}
