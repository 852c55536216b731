// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Lives, streams and who may speak for them: resume, take-over, refusal, end.

use std::io::Write;

use crate::support::*;
use memsrv_protocol::*;
use memsrvd::config::Limits;

#[test]
fn the_instance_is_the_servers_life() {
    let server = Server::start(&[]);
    let first = server.connect().welcome(&hello("a", 1)).instance;
    let second = server.connect().welcome(&hello("b", 1)).instance;
    assert_eq!(first, second);
    assert_ne!(first, Instance::default());
    let digits = format!("{:032x}", u128::from_be_bytes(first.0));
    assert_eq!(server.report().instance, digits);
    let other = Server::start(&[]);
    assert_ne!(other.connect().welcome(&hello("a", 1)).instance, first);
}

#[test]
fn a_client_of_another_server_life_is_told_ours_and_decides_itself() {
    let server = Server::start(&[]);
    let stranger = Hello {
        instance: Instance([9; 16]),
        issued: Seq(1000),
        ..hello("a", 1)
    };
    let welcome = server.connect().welcome(&stranger);
    assert_ne!(welcome.instance, stranger.instance);
    assert_eq!((welcome.stored, welcome.executed), (0, Seq(0)));
}

#[test]
fn the_same_life_resumes_where_it_was() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let instance = client.welcome(&hello("a", 1)).instance;
    (1..=5).for_each(|slot| client.store(slot, &page(slot)));
    drop(client);
    let mut again = server.connect();
    let resume = Hello {
        instance,
        issued: Seq(7),
        ..hello("a", 1)
    };
    let welcome = again.welcome(&resume);
    assert_eq!((welcome.stored, welcome.executed), (5, Seq(5)));
    // What was not acknowledged is sent again, from whatever number on; all is idempotent.
    again.seq = 3;
    again.store(4, &page(44));
    assert_eq!(again.load(4).unwrap(), page(44));
    drop(again);
    let welcome = server.connect().welcome(&resume);
    assert_eq!(welcome.executed, Seq(5), "the highest, not the last");
}

/// Design, rule 1: the client was restored from a snapshot of itself.
#[test]
fn a_client_older_than_its_pages_is_refused() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let instance = client.welcome(&hello("a", 1)).instance;
    (1..=5).for_each(|slot| client.store(slot, &page(slot)));
    for instance in [instance, Instance::default(), Instance([9; 16])] {
        let stale = Hello {
            instance,
            issued: Seq(4),
            ..hello("a", 1)
        };
        let mut restored = server.connect();
        restored.send(&hello_bytes(&stale));
        restored.refused(Status::Stale);
    }
    // The one that is in use is not disturbed, and its pages are as they were.
    assert_eq!(client.load(5).unwrap(), page(5));
    assert_eq!(server.report().refused.get("stale"), Some(&3));
}

#[test]
fn a_new_life_frees_what_an_older_one_left_but_not_while_that_is_connected() {
    let server = Server::start(&[]);
    let mut old = server.session("a", 1);
    old.store(1, &page(1));
    let mut new = server.connect();
    new.send(&hello_bytes(&hello("a", 2)));
    new.refused(Status::Busy);
    assert_eq!(old.load(1).unwrap(), page(1));
    drop(old);
    wait_until("the old connection is gone", || {
        server.report().regions[0].connected.is_empty()
    });
    let mut new = server.connect();
    let welcome = new.welcome(&hello("a", 2));
    assert_eq!((welcome.stored, welcome.executed), (0, Seq(0)));
    assert_eq!(new.load(1), None);
    assert_eq!(server.report().used_pages, 0);
}

#[test]
fn pages_outlive_their_connections() {
    let server = Server::start(&[]);
    let mut client = server.session("a", 1);
    client.store(1, &page(1));
    drop(client);
    wait_until("the connection is gone", || {
        server.report().connections == 1
    });
    assert_eq!(server.report().regions[0].pages, 1);
    let mut again = server.connect();
    again.welcome(&Hello {
        issued: Seq(1),
        ..hello("a", 1)
    });
    assert_eq!(again.load(1).unwrap(), page(1));
}

#[test]
fn bye_frees_the_region_and_ends_its_other_connections() {
    let server = Server::start(&[]);
    let mut streams: Vec<Client> = (0..3).map(|_| server.connect()).collect();
    for (stream, client) in (0..).zip(&mut streams) {
        client.welcome(&Hello {
            stream,
            streams: 3,
            ..hello("a", 1)
        });
        client.store(u64::from(stream) * 512, &page(1));
    }
    let mut other = server.session("b", 1);
    other.store(0, &page(9));
    streams.remove(1).bye();
    // The answer to BYE is the end of the connection, and it comes after the deed.
    let report = server.report();
    assert_eq!((report.used_pages, report.regions.len()), (1, 1));
    for mut client in streams {
        assert_eq!(client.rest(), b"");
    }
    assert_eq!(other.load(0).unwrap(), page(9));
}

#[test]
fn a_newer_connection_takes_the_stream_and_the_older_is_closed() {
    let server = Server::start(&[]);
    let mut old = server.session("a", 1);
    old.store(1, &page(1));
    let mut new = server.connect();
    assert_eq!(
        new.welcome(&Hello {
            issued: Seq(1),
            ..hello("a", 1)
        })
        .executed,
        Seq(1)
    );
    assert_eq!(old.rest(), b"");
    assert_eq!(new.load(1).unwrap(), page(1));
    let region = &server.report().regions[0];
    assert_eq!(region.connected.len(), 1);
    assert_eq!(
        region.connected[0].peer,
        new.stream.local_addr().unwrap().to_string()
    );
}

/// The old connection writes as fast as it can while the new one takes over: what the new one finds
/// executed must be all that is ever executed, though the old one's bytes are in the server's buffers.
#[test]
fn nothing_of_a_fenced_connection_is_executed_later() {
    let server = Server::start(&[]);
    for round in 0..30_u8 {
        let name = format!("client-{round}");
        let mut old = server.session(&name, 1);
        let mut writer = old.stream.try_clone().unwrap();
        let bytes: Vec<u8> = (1..=400)
            .flat_map(|n| store_bytes(n, n % 512, &page(n)))
            .collect();
        let thread = std::thread::spawn(move || drop(writer.write_all(&bytes)));
        assert!(matches!(old.receive().0, Message::Ack { .. }));
        let mut new = server.connect();
        let welcome = new.welcome(&Hello {
            issued: Seq(400),
            ..hello(&name, 1)
        });
        let executed = welcome.executed.0;
        assert_eq!(
            welcome.stored,
            executed.min(400),
            "stores 1 to {executed} were executed"
        );
        old.rest();
        thread.join().unwrap();
        for (slot, found) in (0_u64..).zip(new.load_run(0, 401)) {
            assert_eq!(
                found.is_some(),
                (1..=executed).contains(&slot),
                "slot {slot} of {executed}"
            );
        }
        new.bye();
    }
}

#[test]
fn no_common_version_is_refused_in_words() {
    let server = Server::start(&[]);
    for (min, max) in [(2, 9), (0, 0), (5, 2)] {
        let mut client = server.connect();
        client.send(&hello_bytes(&Hello {
            version_min: min,
            version_max: max,
            ..hello("a", 1)
        }));
        let words = client.refused(Status::Version);
        assert!(words.contains(&format!("client {min} to {max}")), "{words}");
    }
    let range = Hello {
        version_min: 0,
        version_max: 9,
        ..hello("a", 1)
    };
    assert_eq!(server.connect().welcome(&range).version, VERSION);
    let server = Server::start(&["--test-protocol-version", "2"]);
    let mut client = server.connect();
    client.send(&hello_bytes(&hello("a", 1)));
    client.refused(Status::Version);
}

#[test]
fn a_hello_that_is_none_is_refused() {
    let server = Server::start(&[]);
    let good = hello("a", 1);
    let mut cases = Vec::new();
    // Magic, stream not below streams, no streams, too many streams, page size, names.
    for (at, byte) in [
        (0, b'M'),
        (48, 1),
        (50, 0),
        (50, 65),
        (53, 0x20),
        (72, 0),
        (73, 65),
        (80, b'/'),
    ] {
        let mut bytes = hello_bytes(&good);
        bytes[HEADER_LEN + at] = byte;
        cases.push(bytes);
    }
    for bytes in cases {
        let mut client = server.connect();
        client.send(&bytes);
        client.refused(Status::BadRequest);
    }
    assert_eq!(server.report().refused.get("bad_request"), Some(&8));
    assert!(server.report().regions.is_empty());
}

#[test]
fn the_number_of_streams_is_the_sessions() {
    let server = Server::start(&[]);
    let _first = server.session("a", 1);
    let mut second = server.connect();
    second.send(&hello_bytes(&Hello {
        stream: 1,
        streams: 2,
        ..hello("a", 1)
    }));
    second.refused(Status::BadRequest);
}

#[test]
fn what_needs_a_session_is_refused_without_one() {
    let server = Server::start(&[]);
    let (tag, slot) = (Tag(1), Slot(0));
    for bytes in [
        store_bytes(1, 0, &page(1)),
        free_bytes(1, 0, &FreeMask::ALL),
        Message::Load {
            tag,
            slot,
            count: 1,
        }
        .encode()
        .to_vec(),
        Message::Ping { tag }.encode().to_vec(),
        Message::Bye.encode().to_vec(),
    ] {
        let mut client = server.connect();
        client.send(&bytes);
        assert!(client.refused(Status::BadRequest).contains("before HELLO"));
    }
    assert_eq!(server.report().used_pages, 0);
}

#[test]
fn a_second_hello_ends_the_connection_but_not_what_was_stored() {
    let server = Server::start(&[]);
    let mut client = server.session("a", 1);
    client.send(&[store_bytes(1, 7, &page(7)), hello_bytes(&hello("a", 1))].concat());
    client.seq = 1;
    assert_eq!(client.acknowledged(), Ok(()));
    client.refused(Status::BadRequest);
    let mut again = server.connect();
    again.welcome(&Hello {
        issued: Seq(1),
        ..hello("a", 1)
    });
    assert_eq!(again.load(7).unwrap(), page(7));
}

#[test]
fn numbers_must_rise_on_a_connection() {
    let server = Server::start(&[]);
    for second in [5, 4, 0] {
        let name = format!("client-{second}");
        let mut client = server.session(&name, 1);
        client.seq = 5;
        client.send(
            &[
                store_bytes(5, 1, &page(1)),
                store_bytes(second, 2, &page(2)),
            ]
            .concat(),
        );
        assert_eq!(client.acknowledged(), Ok(()));
        client.refused(Status::BadRequest);
    }
    assert_eq!(server.report().used_pages, 3);
}

#[test]
fn operations_from_the_future_are_answered_and_skipped() {
    let server = Server::start(&[]);
    for session in [false, true] {
        let mut client = server.connect();
        if session {
            client.welcome(&hello("a", 1));
        }
        for len in [0, 1, 5000, MAX_PAYLOAD] {
            let strange = Message::Strange {
                tag: Tag(3),
                op: Op(0x77),
                len,
            };
            client.send(&strange.encode());
            client.send(&vec![0xee; usize::try_from(len).unwrap()]);
            assert_eq!(
                client.receive().0,
                Message::Unknown {
                    tag: Tag(3),
                    op: Op(0x77)
                }
            );
            client.report();
        }
    }
}

#[test]
fn only_listed_clients_are_admitted_where_the_configuration_says_so() {
    let mut config = config(&[]);
    config.limits = Limits {
        unlisted: None,
        listed: [("known".into(), 3)].into(),
        regions: 9,
        ..Limits::default()
    };
    let server = Server::with(config);
    assert_eq!(server.connect().welcome(&hello("known", 1)).granted, 3);
    let mut client = server.connect();
    client.send(&hello_bytes(&hello("unknown", 1)));
    assert!(client.refused(Status::Denied).contains("[client.unknown]"));
}

#[test]
fn regions_are_limited_in_number_and_empty_ones_make_room() {
    let mut config = config(&[]);
    config.limits.regions = 2;
    let server = Server::with(config);
    let mut holder = server.session("holder", 1);
    holder.store(1, &page(1));
    drop(holder);
    drop(server.session("empty", 1));
    wait_until("both are disconnected", || server.report().connections == 1);
    let third = server.session("third", 1);
    let mut fourth = server.connect();
    fourth.send(&hello_bytes(&hello("fourth", 1)));
    fourth.refused(Status::Full);
    let names: Vec<_> = server
        .report()
        .regions
        .into_iter()
        .map(|region| region.client)
        .collect();
    assert_eq!(names, ["holder", "third"]);
    drop(third);
}

#[test]
fn a_server_told_to_stop_says_so_to_its_clients_and_stops() {
    let mut server = Server::start(&[]);
    let mut client = server.session("a", 1);
    client.store(1, &page(1));
    server.tell_to_stop();
    client.told_of_the_stop();
    assert_eq!(client.rest(), b"");
    server.join().unwrap();
}

#[test]
fn a_draining_server_gives_pages_out_takes_none_and_stops_when_it_is_empty() {
    let mut server = Server::start(&["--drain", "3600"]);
    let mut client = server.session("a", 1);
    client.store(1, &page(1));
    server.tell_to_stop();
    client.told_of_the_stop();
    assert_eq!(client.try_store(2, &page(2)), Err(Status::Draining));
    assert_eq!(client.try_store(1, &page(2)), Err(Status::Draining));
    assert_eq!(client.load(1).unwrap(), page(1));
    let mut late = server.connect();
    late.send(&hello_bytes(&hello("late", 1)));
    late.refused(Status::Draining);
    // Who has lost its connection comes back for its pages, and hears the news.
    let resume = Hello {
        issued: Seq(client.seq),
        ..hello("a", 1)
    };
    drop(client);
    let mut client = server.connect();
    client.welcome(&resume);
    client.told_of_the_stop();
    assert_eq!(client.load(1).unwrap(), page(1));
    assert!(server.report().draining);
    client.free(0, &FreeMask::ALL);
    server.join().unwrap();
}

#[test]
fn a_ping_is_answered() {
    let server = Server::start(&[]);
    server.session("a", 1).ping();
}

#[test]
fn a_second_word_cuts_a_drain_short() {
    let mut server = Server::start(&["--drain", "3600"]);
    let mut client = server.session("a", 1);
    client.store(1, &page(1));
    server.tell_to_stop();
    client.told_of_the_stop();
    client.ping();
    server.tell_to_stop();
    assert_eq!(client.rest(), b"");
    server.join().unwrap();
}
