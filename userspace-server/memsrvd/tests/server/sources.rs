// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! PULL from a server that is not there, will not, or is no server; and PULLs that are refused.

use std::net::{IpAddr, TcpListener};
use std::sync::mpsc;
use std::time::Instant;

use crate::source::*;
use crate::support::*;
use memsrv_protocol::*;
use memsrvd::pull::Network;

/// A client that must not notice; it has a page, and its pulls are answered.
fn witness(server: &Server) -> Client {
    let mut client = server.session("witness", 1);
    client.store(0, &page(5));
    client
}

#[test]
fn a_source_that_is_not_there_is_unreachable() {
    let server = Server::start(&[]);
    let mut client = server.session("a", 1);
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    for tag in 1..4 {
        let pull = pull_from(&FreeMask::ALL, address, INSTANCE);
        client.send(&pull_bytes(tag, 512 * tag, &pull));
        assert_eq!(client.pulled(), (tag, Err(Status::Unreachable)));
    }
    let report = server.report();
    assert_eq!((report.pull_failures, report.pulls_waiting), (3, 0));
    assert_eq!(
        report.free_clusters, report.clusters,
        "page tables given back"
    );
    client.store(512, &page(1));
}

#[test]
fn a_server_without_this_life_of_the_client_gives_nothing() {
    let (from, to) = (Server::start(&[]), Server::start(&[]));
    let mut there = from.session("a", 1);
    there.store(0, &page(1));
    let other = instance(&from);
    let outcome = |client: &str, life: u8, instance: Instance| {
        let mut here = to.session(client, life);
        let pull = pull_from(&mask([0]), from.address, instance);
        here.send(&pull_bytes(1, 0, &pull));
        let (_, outcome) = here.pulled();
        let found = here.load(0);
        here.bye();
        (outcome, found)
    };
    let nothing = (Err(Status::Unreachable), None);
    assert_eq!(outcome("a", 2, other), nothing, "another incarnation");
    assert_eq!(outcome("b", 1, other), nothing, "another client");
    assert_eq!(
        outcome("a", 1, Instance([3; 16])),
        nothing,
        "another life of the server"
    );
    assert_eq!(outcome("a", 1, other), (Ok(()), Some(page(1).to_vec())));
    let refused = from.report().refused;
    assert_eq!((refused["not_found"], refused["stale"]), (2, 1));
}

/// Each says something in place of the WELCOME, or of the page.
#[test]
fn nonsense_from_a_source_is_unreachable_and_harms_nobody() {
    let server = hasty(&[]);
    let mut witness = witness(&server);
    let mut client = server.session("a", 1);
    let strange = |len| Message::Strange {
        tag: Tag(1),
        op: Op(0xf00),
        len,
    };
    let words = Message::Refused {
        status: Status::Busy,
        len: MAX_PAYLOAD,
    };
    let stats = Message::Stats {
        tag: Tag(1),
        len: MAX_PAYLOAD,
    };
    let mut too_long = strange(0).encode();
    too_long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    let sayings: Vec<Vec<u8>> = vec![
        b"HTTP/1.1 400 Bad Request\r\n\r\nno such thing here at all".to_vec(),
        vec![0; 4000],
        vec![0xff; 4000],
        too_long.to_vec(),
        [&words.encode()[..], &[0xc3; 5000]].concat(),
        [&stats.encode()[..], &[b'{'; 5000]].concat(),
        Message::Unknown {
            tag: Tag(0),
            op: Op::ATTACH,
        }
        .encode()
        .to_vec(),
        Message::Ack { seq: Seq(1) }.encode().to_vec(),
        Message::Bye.encode().repeat(3),
    ];
    for (tag, saying) in (1..).zip(&sayings) {
        for welcomed in [false, true] {
            let source = Source::new();
            client.pull(tag, 512, &FreeMask::ALL, &source);
            let mut puller = source.accept();
            puller.attach();
            if welcomed {
                puller.welcome(INSTANCE);
                puller.load();
            }
            puller.send(saying);
            assert_eq!(
                client.pulled(),
                (tag, Err(Status::Unreachable)),
                "{saying:?}"
            );
            puller.closed();
        }
    }
    assert!(client.load_run(512, 512).iter().all(Option::is_none));
    assert_eq!(witness.load(0).unwrap(), page(5));
    let report = server.report();
    assert_eq!(report.pulled_pages, 0);
    assert_eq!((report.pulls_waiting, report.used_pages), (0, 1));
}

#[test]
fn a_page_that_nobody_asked_for_is_not_taken() {
    let server = hasty(&[]);
    let mut client = server.session("a", 1);
    client.store(9, &page(9));
    // Another tag, slots before, behind, and of other clusters; a NOPAGE likewise.
    for (tag, slot) in [(1, 512), (0, 514), (0, 511), (0, 9), (0, u64::MAX)] {
        for is_page in [true, false] {
            let source = Source::new();
            client.pull(1, 512, &mask([0, 1, 2]), &source);
            let mut puller = source.attached();
            let (asked, first, _) = puller.load();
            assert_eq!(first, 512);
            let tag = Tag(asked.0 + tag);
            match is_page {
                true => puller.page(tag, slot, &page(66)),
                false => puller.no_page(tag, slot, Status::NotFound),
            }
            assert_eq!(client.pulled(), (1, Err(Status::Unreachable)), "{slot}");
        }
    }
    // Answered once, a slot is not answered again.
    let source = Source::new();
    client.pull(2, 512, &mask([0, 2]), &source);
    let mut puller = source.attached();
    let (tag, ..) = puller.load();
    puller.page(tag, 512, &page(0));
    puller.page(tag, 512, &page(66));
    assert_eq!(client.pulled(), (2, Err(Status::Unreachable)));
    assert_eq!(client.load(512).unwrap(), page(0));
    assert_eq!(client.load(9).unwrap(), page(9));
    assert_eq!(server.report().used_pages, 2);
}

#[test]
fn another_life_or_version_in_the_welcome_is_unreachable() {
    let server = hasty(&[]);
    let mut client = server.session("a", 1);
    for (version, instance) in [(VERSION, Instance([1; 16])), (VERSION + 1, INSTANCE)] {
        let source = Source::new();
        client.pull(1, 0, &mask([0]), &source);
        let mut puller = source.accept();
        let hello = puller.attach();
        assert_eq!((hello.instance, hello.incarnation.0), (INSTANCE, [1; 16]));
        assert_eq!((hello.client.as_str(), hello.region.as_str()), ("a", "r"));
        puller.welcome_as(version, instance);
        assert_eq!(client.pulled(), (1, Err(Status::Unreachable)));
        assert_eq!(puller.closed(), b"", "it asks for pages");
    }
}

#[test]
fn what_else_a_source_may_say_is_skipped() {
    let (source, server) = (Source::new(), hasty(&[]));
    let mut client = server.session("a", 1);
    client.pull(1, 0, &mask([0]), &source);
    let mut puller = source.accept();
    puller.attach();
    let notice = Message::Notice {
        status: Status::Draining,
        len: MAX_PAYLOAD,
    };
    let notice = [&notice.encode()[..], &vec![b'x'; 256 * 1024]].concat();
    puller.send(&notice);
    puller.welcome(INSTANCE);
    let (tag, ..) = puller.load();
    puller.send(&notice);
    puller.page(tag, 0, &page(1));
    assert_eq!(client.pulled(), (1, Ok(())));
    assert_eq!(client.load(0).unwrap(), page(1));
}

#[test]
fn a_silent_source_is_given_up_and_who_asked_before_does_not_wait_for_it_again() {
    let (source, mut config) = (Source::new(), config(&["--capacity", "128M"]));
    config.limits.pull.threads = 1;
    config.limits.pull.silence = std::time::Duration::from_millis(400);
    let server = Server::with(config);
    let mut client = server.session("a", 1);
    let start = Instant::now();
    for tag in 0..60 {
        client.pull(tag, tag * 512, &FreeMask::ALL, &source);
    }
    let mut puller = source.accept();
    puller.attach();
    for tag in 0..60 {
        assert_eq!(client.pulled(), (tag, Err(Status::Unreachable)));
    }
    assert!(start.elapsed() < PATIENCE / 2);
    puller.closed();
    assert!(!source.is_called(), "asked in vain again");
}

#[test]
fn a_source_that_trickles_holds_a_thread_only_so_long() {
    let (source, server) = (Source::new(), hasty(&[]));
    let mut client = server.session("a", 1);
    client.pull(1, 0, &FreeMask::ALL, &source);
    let mut puller = source.attached();
    let (tag, ..) = puller.load();
    let (stop, stopped) = mpsc::channel::<()>();
    let trickle = std::thread::spawn(move || {
        for byte in page_bytes(tag, 0, &page(0)) {
            puller.send(&[byte]);
            let wait = std::time::Duration::from_millis(50);
            if stopped.recv_timeout(wait) != Err(mpsc::RecvTimeoutError::Timeout) {
                return;
            }
        }
    });
    assert_eq!(client.pulled(), (1, Err(Status::Unreachable)));
    drop(stop);
    trickle.join().unwrap();
}

#[test]
fn a_pull_without_room_says_so_and_keeps_what_it_could() {
    for (options, expected) in [
        (["--capacity", "40K", "--quota", "1M"], Status::Full),
        (["--capacity", "1M", "--quota", "40K"], Status::Quota),
    ] {
        let (source, server) = (Source::new(), hasty(&options));
        let mut client = server.session("a", 1);
        client.store(600, &page(600));
        client.pull(1, 512, &mask(0..20), &source);
        let mut puller = source.attached();
        let (tag, ..) = puller.load();
        for index in 0..20 {
            puller.page(tag, 512 + index, &page(index));
        }
        assert_eq!(client.pulled(), (1, Err(expected)));
        let found = client.load_run(512, 20);
        assert_eq!(found.iter().flatten().count(), 9);
        assert_eq!(client.load(600).unwrap(), page(600));
        client.free(512, &FreeMask::ALL);
        let report = server.report();
        assert_eq!((report.used_pages, report.pulls_waiting), (0, 0));
        assert_eq!(report.free_clusters, report.clusters);
    }
}

#[test]
fn a_pull_without_a_page_table_says_so() {
    let (source, server) = (Source::new(), Server::start(&["--capacity", "1M"]));
    let mut client = server.session("a", 1);
    for n in 0..64 {
        client.store(n * 512, &page(n));
    }
    client.pull(1, 64 * 512, &FreeMask::ALL, &source);
    assert_eq!(client.pulled(), (1, Err(Status::Full)));
    assert!(!source.is_called());
}

/// The source answers none of them, so that they wait.
#[test]
fn a_connection_has_so_many_pulls_unanswered_and_no_more() {
    let (source, server) = (Source::new(), Server::start(&["--capacity", "128M"]));
    let mut client = server.session("a", 1);
    for tag in 0..65 {
        client.pull(tag, tag * 512, &mask([1]), &source);
    }
    assert_eq!(client.pulled(), (64, Err(Status::Full)));
    assert_eq!(server.report().pulls_waiting, 64);
    // Another connection has its own, and an answer makes room.
    let mut other = server.session("b", 1);
    other.pull(1, 0, &mask([1]), &source);
    let mut puller = source.attached();
    let (tag, slot, _) = puller.load();
    puller.page(tag, slot, &page(1));
    assert_eq!(client.pulled().1, Ok(()));
    client.pull(99, 99 * 512, &mask([1]), &source);
    client.ping();
    assert_eq!(server.report().pulls_waiting, 65);
    // The connections gone, nobody waits for the rest.
    drop((client, other, puller, source));
    wait_until("nothing waits", || server.report().pulls_waiting == 0);
}

#[test]
fn it_pulls_only_from_where_it_may_and_never_from_itself() {
    let source = Source::new();
    let mut config = config(&[]);
    config.limits.pull.from = vec![Network::parse("192.0.2.0/24").unwrap()];
    let server = Server::with(config.clone());
    let mut client = server.session("a", 1);
    client.pull(1, 0, &FreeMask::ALL, &source);
    assert_eq!(client.pulled(), (1, Err(Status::Denied)));
    config
        .limits
        .pull
        .from
        .push(Network::parse("127.0.0.1").unwrap());
    let server = Server::with(config.clone());
    let mut client = server.session("a", 1);
    client.pull(1, 0, &mask([0]), &source);
    let mut puller = source.attached();
    let (tag, ..) = puller.load();
    puller.page(tag, 0, &page(1));
    assert_eq!(client.pulled(), (1, Ok(())));
    let own = pull_from(&FreeMask::ALL, server.address, instance(&server));
    client.send(&pull_bytes(2, 0, &own));
    assert_eq!(client.pulled(), (2, Err(Status::Denied)));
    config.limits.pull.threads = 0;
    let server = Server::with(config);
    let mut client = server.session("a", 1);
    client.pull(1, 0, &FreeMask::ALL, &source);
    assert_eq!(client.pulled(), (1, Err(Status::Denied)));
    assert!(!source.is_called());
}

#[test]
fn an_ipv6_source_is_reached_too() {
    let Ok(there) = TcpListener::bind("[::1]:0") else {
        // This machine has no IPv6.
        return;
    };
    let address = there.local_addr().unwrap();
    let server = hasty(&[]);
    let mut client = server.session("a", 1);
    assert!(matches!(address.ip(), IpAddr::V6(_)));
    client.send(&pull_bytes(1, 0, &pull_from(&mask([0]), address, INSTANCE)));
    drop(there.accept().unwrap());
    assert_eq!(client.pulled(), (1, Err(Status::Unreachable)));
}

#[test]
fn a_pull_that_comes_damaged_is_refused() {
    let (source, server) = (Source::new(), Server::start(&[]));
    let mut client = server.session("a", 1);
    let pull = pull_from(&FreeMask::ALL, source.address, INSTANCE);
    for wrong in [17, 28, HEADER_LEN, HEADER_LEN + 97] {
        let mut bytes = pull_bytes(1, 0, &pull);
        bytes[wrong] ^= 2;
        client.send(&bytes);
        client.refused(Status::BadChecksum);
        client = server.session("a", 1);
    }
    // Not a slot that begins a cluster; no session.
    client.send(&pull_bytes(1, 5, &pull));
    client.refused(Status::BadRequest);
    let mut stranger = server.connect();
    stranger.send(&pull_bytes(1, 0, &pull));
    stranger.refused(Status::BadRequest);
    assert!(!source.is_called());
}

#[test]
fn a_draining_server_pulls_no_more() {
    let mut config = config(&["--drain", "60"]);
    config.limits.pull.threads = 1;
    let (source, mut server) = (Source::new(), Server::with(config));
    let mut client = server.session("a", 1);
    client.store(99, &page(9));
    client.pull(1, 0, &mask([0]), &source);
    client.pull(2, 512, &mask([0]), &source);
    let mut puller = source.attached();
    let (tag, ..) = puller.load();
    server.tell_to_stop();
    client.told_of_the_stop();
    client.pull(3, 1024, &mask([0]), &source);
    assert_eq!(client.pulled(), (3, Err(Status::Draining)));
    puller.page(tag, 0, &page(1));
    assert_eq!(client.pulled().0, 1);
    assert_eq!(client.pulled(), (2, Err(Status::Draining)));
    client.load(99).unwrap();
}

#[test]
fn a_server_stops_at_once_though_a_source_is_silent() {
    let (source, mut server) = (Source::new(), Server::start(&[]));
    let mut client = server.session("a", 1);
    for tag in 0..10 {
        client.pull(tag, tag * 512, &FreeMask::ALL, &source);
    }
    let mut pullers = [source.attached(), source.accept()];
    pullers[0].load();
    let start = Instant::now();
    server.tell_to_stop();
    server.join().unwrap();
    // Its patience with the source is five seconds.
    assert!(start.elapsed().as_secs() < 3);
    for puller in pullers {
        puller.closed();
    }
}
