// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! FORWARD while the mirror is there: what it gets, what the client is told and when, and who goes on where.

use crate::mirror::*;
use crate::source::{instance, mask};
use crate::support::*;
use memsrv_protocol::*;
use memsrvd::config::Config;
use memsrvd::mirror::forward::MOST_OWED;

#[test]
fn what_is_stored_and_freed_is_so_at_the_mirror() {
    let mirror = Server::start(&[]);
    let server = primary(mirror.address, &[]);
    let mut client = server.connect();
    let welcome = client.welcome(&forward_hello("a", 1, 0));
    assert!(is_forwarded(&welcome));
    assert_eq!(mirror_of(&welcome), mirror.address);
    assert_eq!(welcome.instance, instance(&server));
    for slot in 0..600 {
        client.store(slot, &page(slot));
    }
    client.store(3, &page(3333));
    client.free(0, &mask([7, 8]));
    client.free(512, &FreeMask::ALL);
    client.ping();
    assert_eq!(client.load(3).unwrap(), page(3333));
    let mut there = mirror.connect();
    let attach = Hello {
        instance: instance(&mirror),
        ..hello("a", 1)
    };
    there.send(&[&Message::Attach.encode()[..], &attach.encode()].concat());
    there.welcomed();
    assert_eq!(there.load_run(0, 512), client.load_run(0, 512));
    assert_eq!(there.load_run(512, 512), client.load_run(512, 512));
    let (here, there) = (server.report(), mirror.report());
    assert_eq!(here.regions[0].pages, 510);
    assert_eq!(there.regions[0].pages, 510);
    let counts = here.mirror.unwrap();
    assert_eq!(counts.address, mirror.address.to_string());
    assert_eq!((counts.forwarded, counts.streams, counts.lost), (603, 1, 0));
    assert_eq!(there.mirror, None);
    drop(client);
    wait_until("no stream is forwarded", || {
        server.report().mirror.unwrap().streams == 0
    });
    // The connection there goes with it.
    wait_until("the mirror is left", || {
        mirror.report().regions[0].connected.is_empty()
    });
}

#[test]
fn the_mirror_gets_the_clients_hello_and_its_bytes_in_order() {
    let mirror = Mirror::new();
    let server = primary(mirror.address, &[]);
    let mut client = server.connect();
    let hello = Hello {
        instance: Instance([9; 16]),
        stream: 2,
        streams: 5,
        wanted: 1000,
        ..forward_hello("a", 1, 7)
    };
    client.send(&hello_bytes(&hello));
    let mut fed = mirror.accept();
    let expected = Hello {
        options: 0,
        instance: Instance::default(),
        ..hello
    };
    assert_eq!(fed.hello(), expected);
    fed.welcome_as(&Welcome {
        version: VERSION,
        options: 0,
        instance: Instance([0x77; 16]),
        granted: 99,
        stored: 0,
        executed: Seq(0),
        window: 16,
        mirror: None,
    });
    let welcome = client.welcomed();
    assert_eq!((welcome.granted, welcome.executed), (99, Seq(0)));
    let store = store_bytes(8, 512, &page(1));
    // Slot 512 becomes 513, and the checksum does not match.
    let mut damaged = store_bytes(9, 512, &page(2));
    damaged[16] ^= 1;
    let free = free_bytes(11, 512, &mask([1, 2, 500]));
    let last = store_bytes(20, u64::MAX, &page(3));
    client.send(&[&store[..], &damaged, &free, &last].concat());
    client.ping_after_nak(9);
    // Of what was refused it hears the number.
    let refused = free_bytes(9, 512, &mask([]));
    fed.bytes(&[store, refused, free, last].concat());
    // Only what the client sent is acknowledged.
    fed.ack(8);
    assert_eq!(client.ack(), 8);
    fed.ack(15);
    assert_eq!(client.ack(), 11);
    fed.ack(20);
    assert_eq!(client.ack(), 20);
}

impl Client {
    /// Stores what is refused: the mirror hears of the number, and has it acknowledged.
    fn try_store_at(&mut self, fed: &mut Fed) -> Status {
        self.seq += 1;
        self.send(&store_bytes(self.seq, 9, &page(9)));
        fed.bytes(&free_bytes(self.seq, 0, &mask([])));
        fed.ack(self.seq);
        self.acknowledged().unwrap_err()
    }

    /// Expects that NAK and then, without an ACK between, the answer to a PING.
    fn ping_after_nak(&mut self, seq: u64) {
        self.send(&Message::Ping { tag: Tag(5) }.encode());
        let (seq, status) = (Seq(seq), Status::BadChecksum);
        assert_eq!(self.receive().0, Message::Nak { seq, status });
        assert_eq!(self.receive().0, Message::Pong { tag: Tag(5) });
    }
}

#[test]
fn a_welcome_and_an_ack_wait_for_the_mirror() {
    let mirror = Mirror::new();
    let server = primary(mirror.address, &[]);
    let mut client = server.connect();
    // All at once: nothing of it may be done before the mirror has answered.
    let stores: Vec<u8> = (1..=3).flat_map(|n| store_bytes(n, n, &page(n))).collect();
    let ping = Message::Ping { tag: Tag(5) }.encode();
    let hello = hello_bytes(&forward_hello("a", 1, 0));
    client.send(&[&hello[..], &ping, &stores, &ping].concat());
    let mut fed = mirror.accept();
    fed.hello();
    let region = &server.report().regions[0];
    assert_eq!((region.pages, region.connected.len()), (0, 1));
    fed.welcome(0);
    assert!(is_forwarded(&client.welcomed()));
    assert_eq!(client.receive().0, Message::Pong { tag: Tag(5) });
    fed.stores(1..=3);
    // It is executed in order: had there been an ACK, it would be here.
    assert_eq!(client.receive().0, Message::Pong { tag: Tag(5) });
    fed.ack(2);
    assert_eq!(client.ack(), 2);
    // One that repeats an older one, and what means nothing.
    fed.ack(1);
    fed.send(&Message::Pong { tag: Tag(1) }.encode());
    let notice = Message::Notice {
        status: Status::Draining,
        len: 4,
    };
    let words = [&notice.encode()[..], b"stop"].concat();
    words.chunks(5).for_each(|piece| fed.send(piece));
    fed.ack(3);
    assert_eq!(client.ack(), 3);
    client.ping();
    // Others were served meanwhile, and are without the mirror.
    server.session("b", 1).store(1, &page(1));
    assert!(!mirror.is_called());
}

#[test]
fn nothing_is_said_before_the_welcome() {
    let mirror = Mirror::new();
    // One worker, which tells all of its connections at once.
    let mut server = Server::with(Config {
        threads: 1,
        ..mirrored(mirror.address, &["--drain", "60"])
    });
    let mut witness = server.session("b", 1);
    witness.store(1, &page(1));
    let mut client = server.connect();
    client.send(&hello_bytes(&forward_hello("a", 1, 0)));
    let mut fed = mirror.accept();
    fed.hello();
    server.tell_to_stop();
    witness.told_of_the_stop();
    fed.welcome(0);
    assert!(is_forwarded(&client.welcomed()));
    client.told_of_the_stop();
    assert_eq!(client.try_store_at(&mut fed), Status::Draining);
}

#[test]
fn an_ack_waits_for_both_the_disk_and_the_mirror() {
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirror::new();
    let options = ["--persist", dir.path().to_str().unwrap(), "--persist-ack"];
    let server = primary(mirror.address, &options);
    let (mut client, mut fed, _) = mirror.session(&server, &forward_hello("a", 1, 0), 0);
    client.send_stores(1..=3);
    fed.stores(1..=3);
    wait_until("the disk has it", || {
        server.report().persist.unwrap().queue_bytes == 0
    });
    client.ping();
    fed.ack(3);
    client.acked_up_to(3);
}

#[test]
fn who_does_not_ask_is_not_forwarded() {
    let mirror = Mirror::new();
    let server = primary(mirror.address, &[]);
    let mut client = server.connect();
    let welcome = client.welcome(&hello("a", 1));
    assert_eq!((welcome.mirror, welcome.options), (None, 0));
    client.store(1, &page(1));
    // Nor does one who reads only, or whose server has no mirror.
    let attach = Hello {
        instance: instance(&server),
        ..forward_hello("a", 1, 0)
    };
    let mut reader = server.connect();
    reader.send(&[&Message::Attach.encode()[..], &attach.encode()].concat());
    assert_eq!(reader.welcomed().mirror, None);
    assert!(!mirror.is_called());
    let plain = Server::start(&[]);
    let welcome = plain.connect().welcome(&forward_hello("a", 1, 0));
    assert_eq!((welcome.mirror, welcome.options), (None, 0));
}

/// It is promised only where it is so.
#[test]
fn who_asks_is_told_whether_the_mirror_is_first() {
    let mirror = Server::start(&[]);
    let both = Hello {
        options: Hello::FORWARD | Hello::MIRROR_FIRST | 0x80,
        ..forward_hello("a", 1, 0)
    };
    for (client, arguments, options, expected) in [
        ("a", &[][..], both.options, 3),
        ("b", &["--mirror-ack", "after"], both.options, 3),
        ("c", &["--mirror-ack", "before"], both.options, 1),
        ("d", &[], Hello::FORWARD, 1),
        ("e", &[], Hello::MIRROR_FIRST, 0),
    ] {
        let server = primary(mirror.address, arguments);
        let hello = Hello {
            options,
            client: Name::new(client.as_bytes()).unwrap(),
            ..both
        };
        assert_eq!(
            server.connect().welcome(&hello).options,
            expected,
            "{client}"
        );
    }
    // Nor without a mirror, or while it is away.
    let plain = Server::start(&[]);
    assert_eq!(plain.connect().welcome(&both).options, 0);
    let away = mirror.address;
    drop(mirror);
    let server = primary(away, &[]);
    assert_eq!(server.connect().welcome(&both).options, 0);
}

#[test]
fn a_client_goes_on_at_the_mirror() {
    let mirror = Server::start(&[]);
    let server = primary(mirror.address, &[]);
    let mut client = forwarded(&server, "a", 1);
    (1..=50).for_each(|slot| client.store(slot, &page(slot)));
    client.send_stores(51..=60);
    // Whether it is dead or only thought to be.
    let mut there = Client::connect(mirror.address);
    let welcome = there.welcome(&Hello {
        options: 0,
        ..forward_hello("a", 1, 60)
    });
    assert!((50..=60).contains(&welcome.executed.0), "{welcome:?}");
    there.send_stores(welcome.executed.0 + 1..=60);
    there.seq = 61;
    there.send(&store_bytes(61, 61, &page(61)));
    there.acked_up_to(61);
    for slot in 1..=61 {
        assert_eq!(there.load(slot).unwrap(), page(slot), "{slot}");
    }
    // Nothing that the older server had yet is executed behind that.
    drop(server);
    for slot in 1..=61 {
        assert_eq!(there.load(slot).unwrap(), page(slot), "{slot}");
    }
}

/// Else it would seem to lack what was stored last.
#[test]
fn the_mirror_knows_of_what_was_refused_last() {
    let mirror = Server::start(&[]);
    let server = primary(mirror.address, &["--capacity", "64K"]);
    let mut client = forwarded(&server, "a", 1);
    let stored = (1..40).take_while(|&slot| client.try_store(slot, &page(slot)).is_ok());
    assert!(stored.count() < 30);
    client.try_store(50, &page(50)).unwrap_err();
    let issued = client.seq;
    drop(server);
    let hello = Hello {
        options: 0,
        ..forward_hello("a", 1, issued)
    };
    let welcome = Client::connect(mirror.address).welcome(&hello);
    assert_eq!(welcome.executed, Seq(issued));
}

#[test]
fn a_client_that_comes_back_is_forwarded_again() {
    let mirror = Server::start(&[]);
    let server = primary(mirror.address, &[]);
    let mut older = forwarded(&server, "a", 1);
    (1..=20).for_each(|slot| older.store(slot, &page(slot)));
    // The older connection is there still, and so is its one to the mirror: neither counts as a loss.
    for round in 1..=5 {
        let mut newer = server.connect();
        let issued = 20 * round;
        let welcome = newer.welcome(&forward_hello("a", 1, issued));
        assert!(is_forwarded(&welcome));
        assert_eq!(welcome.executed, Seq(issued));
        assert_eq!(older.rest(), b"");
        (1..=20).for_each(|slot| newer.store(slot, &page(issued + slot)));
        older = newer;
    }
    let counts = server.report().mirror.unwrap();
    assert_eq!((counts.forwarded, counts.lost, counts.streams), (120, 0, 1));
    let region = mirror.report().regions.remove(0);
    assert_eq!((region.operations.stores, region.pages), (120, 20));
    assert_eq!(region.connected[0].executed, 120);
}

#[test]
fn a_mirror_that_lacks_what_was_not_acknowledged_gets_it_again() {
    let mirror = Mirror::new();
    let server = primary(mirror.address, &[]);
    let (mut client, mut fed, _) = mirror.session(&server, &forward_hello("a", 1, 0), 0);
    client.send_stores(1..=5);
    fed.stores(1..=5);
    fed.ack(2);
    client.acked_up_to(2);
    drop(client);
    fed.closed();
    let again = forward_hello("a", 1, 5);
    let (mut client, mut fed, welcome) = mirror.session(&server, &again, 3);
    assert!(is_forwarded(&welcome));
    assert_eq!(welcome.executed, Seq(3), "the client sends the rest again");
    client.send_stores(4..=6);
    fed.stores(4..=6);
    fed.ack(6);
    client.acked_up_to(6);
    drop(client);
    fed.closed();
    // It has more than the client was told: that is no harm.
    let (client, _fed, welcome) = mirror.session(&server, &forward_hello("a", 1, 9), 8);
    assert!(is_forwarded(&welcome));
    assert_eq!(welcome.executed, Seq(6));
    drop(client);
}

#[test]
fn a_mirror_that_lacks_what_was_acknowledged_is_not_fed() {
    let mirror = Mirror::new();
    let server = primary(mirror.address, &[]);
    let (mut client, mut fed, _) = mirror.session(&server, &forward_hello("a", 1, 0), 0);
    client.send_stores(1..=5);
    fed.stores(1..=5);
    fed.ack(4);
    client.acked_up_to(4);
    drop(client);
    fed.closed();
    let (mut client, fed, welcome) = mirror.session(&server, &forward_hello("a", 1, 5), 3);
    assert!(!is_forwarded(&welcome));
    assert_eq!(mirror_of(&welcome), mirror.address);
    assert_eq!(welcome.executed, Seq(5));
    assert_eq!(fed.closed(), b"");
    client.store(9, &page(9));
    assert_eq!(server.report().mirror.unwrap().lost, 0);
}

#[test]
fn a_mirror_that_lacks_what_was_acknowledged_without_it_is_not_fed() {
    let mirror = Mirror::new();
    for options in [&[][..], &["--mirror-ack", "before"]] {
        let server = primary(mirror.address, options);
        let mut client = server.session("a", 1);
        client.store(1, &page(1));
        drop(client);
        let (_, _, welcome) = mirror.session(&server, &forward_hello("a", 1, 1), 0);
        assert!(!is_forwarded(&welcome), "stored without FORWARD");
        let (mut client, mut fed, _) = mirror.session(&server, &forward_hello("a", 1, 1), 1);
        client.send_stores(2..=3);
        fed.stores(2..=3);
        fed.ack(3);
        client.acked_up_to(3);
        drop(client);
        let (_, _, welcome) = mirror.session(&server, &forward_hello("a", 1, 3), 2);
        assert!(!is_forwarded(&welcome), "stored with it");
    }
}

/// A recovered stream may have been acknowledged all that it has.
#[test]
fn a_mirror_that_lacks_what_was_recovered_is_not_fed() {
    let dir = tempfile::tempdir().unwrap();
    let options = ["--persist", dir.path().to_str().unwrap()];
    let mirror = Mirror::new();
    let server = primary(mirror.address, &options);
    let (mut client, mut fed, _) = mirror.session(&server, &forward_hello("a", 1, 0), 0);
    client.send_stores(1..=5);
    fed.stores(1..=5);
    fed.ack(5);
    client.acked_up_to(5);
    drop(client);
    drop(server);
    let server = primary(mirror.address, &options);
    let (_, _, welcome) = mirror.session(&server, &forward_hello("a", 1, 5), 4);
    assert!(!is_forwarded(&welcome));
    assert_eq!(welcome.executed, Seq(5));
    let (_, _, welcome) = mirror.session(&server, &forward_hello("a", 1, 5), 5);
    assert!(is_forwarded(&welcome));
}

#[test]
fn a_refusal_of_the_mirror_is_the_clients() {
    let mirror = Server::start(&["--capacity", "64K"]);
    let server = primary(mirror.address, &[]);
    let mut client = server.connect();
    let welcome = client.welcome(&forward_hello("a", 1, 0));
    assert_eq!(welcome.granted, 16);
    (0..16).for_each(|slot| client.store(slot, &page(slot)));
    assert_eq!(client.try_store(16, &page(16)), Err(Status::Full));
    client.store(3, &page(33));
    client.free(0, &mask([5]));
    client.store(16, &page(16));
    // Many of them, before one ACK.
    client.send_stores(100..=130);
    let mut refused = 0;
    loop {
        match client.receive().0 {
            Message::Nak { seq, status } => {
                refused += 1;
                assert_eq!((seq.0, status), (99 + refused, Status::Full));
            }
            // Never before the NAK of what it covers.
            Message::Ack { seq } => {
                assert!(seq.0 <= 99 + refused);
                if seq.0 == 130 {
                    break;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, 31);
    assert_eq!(server.report().mirror.unwrap().lost, 0);
}

#[test]
fn before_acknowledges_at_once_and_stalls_at_the_bound() {
    let most = u64::try_from(MOST_OWED).unwrap();
    let mirror = Mirror::new();
    let server = primary(mirror.address, &["--mirror-ack", "before"]);
    let (mut client, mut fed, _) = mirror.session(&server, &forward_hello("a", 1, 0), 0);
    client.store(1, &page(1));
    fed.stores(1..=1);
    let mut writer = Client {
        stream: client.stream.try_clone().unwrap(),
        seq: 1,
        options: 0,
    };
    std::thread::scope(|scope| {
        scope.spawn(|| writer.send_stores(2..=most + 10));
        scope.spawn(|| client.acked_up_to(most));
        fed.stores(2..=most);
    });
    // Had it gone on, the next ACKs would be of more than there is room for.
    fed.ack(1);
    fed.stores([most + 1]);
    assert_eq!(client.ack(), most + 1);
    fed.ack(3);
    client.acked_up_to(most + 3);
    fed.stores(most + 2..=most + 3);
    fed.ack(most + 3);
    client.acked_up_to(most + 10);
    fed.stores(most + 4..=most + 10);
    client.seq = most + 10;
    client.store(1, &page(1));
    assert_eq!(server.report().mirror.unwrap().lost, 0);
}

/// What waits for its socket has a bound, at which the client's input waits, too; nothing is lost by that.
#[test]
fn a_mirror_that_reads_slowly_gets_everything() {
    for ack in ["after", "before"] {
        let mirror = Mirror::new();
        rustix::net::sockopt::set_socket_recv_buffer_size(&mirror.listener, 4096).unwrap();
        let server = primary(mirror.address, &["--mirror-ack", ack]);
        let (mut client, mut fed, _) = mirror.session(&server, &forward_hello("a", 1, 0), 0);
        let mut writer = Client {
            stream: client.stream.try_clone().unwrap(),
            seq: 0,
            options: 0,
        };
        std::thread::scope(|scope| {
            scope.spawn(|| writer.send_stores(1..=3000));
            scope.spawn(|| client.acked_up_to(3000));
            for first in (1..=3000).step_by(100) {
                fed.stores(first..first + 100);
                fed.ack(first + 99);
            }
        });
        client.ping();
        assert_eq!(server.report().mirror.unwrap().forwarded, 3000);
    }
}

#[test]
fn bye_frees_the_pages_of_both() {
    let mirror = Server::start(&[]);
    let server = primary(mirror.address, &[]);
    let mut client = forwarded(&server, "a", 1);
    (1..=50).for_each(|slot| client.store(slot, &page(slot)));
    let mut other = server.session("b", 1);
    other.store(1, &page(1));
    // With stores before it that nobody has answered.
    let stores = (51..=90).flat_map(|n| store_bytes(n, n, &page(n)));
    let bye = Message::Bye.encode();
    client.send(&stores.chain(bye).collect::<Vec<u8>>());
    client.rest();
    assert_eq!(server.report().regions.len(), 1);
    wait_until("the mirror has freed the region", || {
        mirror.report().regions.is_empty()
    });
    wait_until("the connections are gone", || {
        server.report().connections == 2 && mirror.report().connections == 1
    });
    let counts = server.report().mirror.unwrap();
    assert_eq!((counts.forwarded, counts.lost, counts.streams), (90, 0, 0));
}

#[test]
fn bye_reaches_the_mirror_behind_all_else_and_is_not_waited_for_without_end() {
    let mirror = Mirror::new();
    let server = primary(mirror.address, &[]);
    let (mut client, mut fed, _) = mirror.session(&server, &forward_hello("a", 1, 0), 0);
    client.send_stores(1..=20);
    client.send(&Message::Bye.encode());
    assert_eq!(client.rest(), b"");
    drop(client);
    fed.stores(1..=20);
    // It has been counted as long as it is there, and neither answers nor closes.
    fed.bytes(&Message::Bye.encode());
    wait_until("it is given up", || server.report().connections == 1);
    assert_eq!(fed.closed(), b"");
}
