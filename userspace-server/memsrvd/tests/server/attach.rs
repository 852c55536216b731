// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! ATTACH: what a server that pulls can do on another one, and what it cannot.

use crate::source::{instance, mask};
use crate::support::*;
use memsrv_protocol::*;

/// The ATTACH for the pages of the client of that name, in its life number `life`.
fn attach_bytes(client: &str, life: u8, instance: Instance) -> Vec<u8> {
    let hello = Hello {
        instance,
        ..hello(client, life)
    };
    [&Message::Attach.encode()[..], &hello.encode()].concat()
}

/// A connection that reads these pages.
fn attached(server: &Server, client: &str, life: u8) -> (Client, Welcome) {
    let mut connection = server.connect();
    connection.send(&attach_bytes(client, life, instance(server)));
    let (message, payload) = connection.receive();
    assert_eq!(message, Message::Welcome);
    let welcome = Welcome::decode(payload.first_chunk().unwrap()).unwrap();
    (connection, welcome)
}

#[test]
fn it_reads_what_the_client_has_stored() {
    let server = Server::start(&[]);
    let mut client = server.session("a", 1);
    client.store(5, &page(5));
    let (mut reader, welcome) = attached(&server, "a", 1);
    assert_eq!((welcome.granted, welcome.stored), (0, 1));
    assert_eq!((welcome.executed, welcome.version), (Seq(1), VERSION));
    assert_eq!(welcome.instance, instance(&server));
    assert!(welcome.window >= 16);
    assert_eq!(reader.load(5).unwrap(), page(5));
    assert_eq!(reader.load_run(0, 512).iter().flatten().count(), 1);
    client.store(6, &page(6));
    assert_eq!(reader.load(6).unwrap(), page(6));
    reader.ping();
    assert_eq!(reader.report().regions[0].pages, 2);
    let strange = Message::Strange {
        tag: Tag(3),
        op: Op(0x77),
        len: 0,
    };
    reader.send(&strange.encode());
    assert!(matches!(
        reader.receive().0,
        Message::Unknown { tag: Tag(3), .. }
    ));
    // More than fits in one piece of output.
    (0..512).for_each(|slot| client.store(slot, &page(slot)));
    let all = reader.load_run(0, 512);
    assert!((0..)
        .zip(&all)
        .all(|(n, found)| found.as_deref() == Some(&page(n)[..])));
}

impl Client {
    /// How far the stream has come.
    fn reach(&mut self) -> u64 {
        self.send(&Message::Reach { tag: Tag(31) }.encode());
        match self.receive().0 {
            Message::Reached { tag: Tag(31), seq } => seq.0,
            other => panic!("{other:?} to a REACH"),
        }
    }
}

/// Whoever follows a stream knows which of its stores can be read: the answer stands before theirs.
#[test]
fn it_says_how_far_the_stream_has_come_that_it_names() {
    let server = Server::start(&[]);
    let stream = |number, issued| Hello {
        stream: number,
        streams: 3,
        issued: Seq(issued),
        ..hello("a", 1)
    };
    let mut client = server.connect();
    client.welcome(&stream(2, 0));
    let reader = |number: u16| {
        let mut reader = server.connect();
        // Whatever life it is.
        let hello = stream(number, 0);
        reader.send(&[&Message::Attach.encode()[..], &hello.encode()].concat());
        let welcome = reader.welcomed();
        assert_eq!(welcome.instance, instance(&server));
        (reader, welcome.executed.0)
    };
    let (mut late, executed) = reader(2);
    assert_eq!((executed, late.reach(), client.reach()), (0, 0, 0));
    client.seq = 40;
    client.store(5, &page(5));
    client.free(0, &mask([6]));
    assert_eq!((late.reach(), client.reach()), (42, 42));
    // Of what is refused the number counts, too.
    let mut damaged = store_bytes(50, 5, &page(6));
    damaged[HEADER_LEN] ^= 1;
    client.send(&damaged);
    client.seq = 50;
    assert_eq!(client.acknowledged().unwrap_err(), Status::BadChecksum);
    assert_eq!(late.reach(), 50);
    assert_eq!(reader(2).1, 50);
    // Streams are told apart, and it stays when nobody has the stream.
    assert_eq!(reader(0).1, 0);
    drop(client);
    assert_eq!(late.reach(), 50);
    let (mut other, _) = reader(1);
    assert_eq!(other.reach(), 0);
    // Nothing but a session answers it.
    let mut nobody = server.connect();
    nobody.send(&Message::Reach { tag: Tag(1) }.encode());
    nobody.refused(Status::BadRequest);
}

#[test]
fn it_cannot_change_anything() {
    let server = Server::start(&[]);
    let mut client = server.session("a", 1);
    client.store(5, &page(5));
    let pull = Pull {
        mask: FreeMask::ALL,
        instance: Instance([1; 16]),
        address: [0; 16],
        port: 1,
    };
    for bytes in [
        store_bytes(9, 6, &page(6)),
        store_bytes(9, 5, &page(6)),
        free_bytes(9, 0, &FreeMask::ALL),
        Message::Bye.encode().to_vec(),
        hello_bytes(&hello("a", 1)),
        attach_bytes("a", 1, instance(&server)),
        crate::source::pull_bytes(1, 0, &pull),
    ] {
        let (mut reader, _) = attached(&server, "a", 1);
        reader.send(&bytes);
        reader.refused(Status::BadRequest);
    }
    assert_eq!(client.load(5).unwrap(), page(5));
    assert_eq!(client.load(6), None);
    client.store(7, &page(7));
}

#[test]
fn who_does_not_know_the_life_is_shown_nothing() {
    let server = Server::start(&[]);
    let mut client = server.session("a", 1);
    client.store(5, &page(5));
    let own = instance(&server);
    for (name, life, instance, expected) in [
        ("a", 2, own, Status::NotFound),
        ("b", 1, own, Status::NotFound),
        ("a", 1, Instance([9; 16]), Status::Stale),
        ("a", 2, Instance::default(), Status::NotFound),
    ] {
        let mut reader = server.connect();
        reader.send(&attach_bytes(name, life, instance));
        reader.refused(expected);
    }
    let report = server.report();
    assert_eq!(report.regions.len(), 1, "it makes no region");
    assert_eq!(
        (report.refused["not_found"], report.refused["stale"]),
        (3, 1)
    );
    // Another client's pages are not those of the one it named.
    server.session("b", 1).store(5, &page(55));
    let (mut reader, _) = attached(&server, "b", 1);
    assert_eq!(reader.load(5).unwrap(), page(55));
    // Before it, a session is needed for the same operations as ever; another version is none of ours.
    let mut old = server.connect();
    let mut bytes = attach_bytes("a", 1, own);
    bytes[HEADER_LEN + 8..HEADER_LEN + 12].copy_from_slice(&[9, 0, 9, 0]);
    old.send(&bytes);
    old.refused(Status::Version);
}

#[test]
fn it_ends_with_the_life() {
    let server = Server::start(&[]);
    let mut client = server.session("a", 1);
    client.store(5, &page(5));
    let (mut reader, _) = attached(&server, "a", 1);
    assert_eq!(reader.load(5).unwrap(), page(5));
    client.bye();
    assert_eq!(reader.rest(), b"");
    // A newer life.
    let mut client = server.session("a", 1);
    client.store(5, &page(5));
    drop(client);
    let (mut reader, _) = attached(&server, "a", 1);
    wait_until("the region has no connection", || {
        server.report().regions[0].connected.is_empty()
    });
    let mut newer = server.session("a", 2);
    assert_eq!(reader.rest(), b"");
    assert_eq!(newer.load(5), None);
    wait_until("the readers are gone", || server.report().connections == 2);
}

#[test]
fn it_neither_takes_a_stream_nor_counts_as_one() {
    let server = Server::start(&[]);
    let mut client = server.session("a", 1);
    client.store(5, &page(5));
    let (mut reader, _) = attached(&server, "a", 1);
    client.store(6, &page(6));
    let region = &server.report().regions[0];
    assert_eq!((region.streams, region.connected.len()), (1, 1));
    drop(client);
    wait_until("the region has no connection", || {
        server.report().regions[0].connected.is_empty()
    });
    // The reader outlives the streams, keeps none of them, and is not in a newer life's way.
    assert_eq!(reader.load(6).unwrap(), page(6));
    let mut again = server.connect();
    let resume = Hello {
        issued: Seq(2),
        ..hello("a", 1)
    };
    assert_eq!(again.welcome(&resume).executed, Seq(2));
    drop(reader);
    again.store(7, &page(7));
}

#[test]
fn a_draining_server_gives_its_pages_out() {
    let mut server = Server::start(&["--drain", "60"]);
    let mut client = server.session("a", 1);
    client.store(5, &page(5));
    let own = instance(&server);
    server.tell_to_stop();
    client.told_of_the_stop();
    let mut reader = server.connect();
    reader.send(&attach_bytes("a", 1, own));
    assert_eq!(reader.receive().0, Message::Welcome);
    assert_eq!(reader.load(5).unwrap(), page(5));
}

/// A pull from a server that is about to stop is what a resync is for.
#[test]
fn pages_are_pulled_from_a_draining_server() {
    let (mut from, to) = (Server::start(&["--drain", "60"]), Server::start(&[]));
    let mut there = from.session("a", 1);
    (0..300).for_each(|slot| there.store(slot, &page(slot)));
    let pull = crate::source::pull_from(&FreeMask::ALL, from.address, instance(&from));
    from.tell_to_stop();
    there.told_of_the_stop();
    let mut here = to.session("a", 1);
    here.send(&crate::source::pull_bytes(1, 0, &pull));
    assert_eq!(here.pulled(), (1, Ok(())));
    let found = here.load_run(0, 300);
    assert!((0..)
        .zip(&found)
        .all(|(n, found)| found.as_deref() == Some(&page(n)[..])));
}
