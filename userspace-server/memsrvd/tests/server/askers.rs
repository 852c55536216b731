// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What becomes of a pull whose asker goes away, loses its stream, ends its life, or does not listen.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use crate::source::*;
use crate::support::*;
use memsrv_protocol::*;

#[test]
fn a_late_page_does_not_come_back_after_the_life_has_ended() {
    let (source, server) = (Source::new(), Server::start(&[]));
    let mut client = server.session("a", 1);
    client.pull(1, 0, &mask([0, 1]), &source);
    let mut puller = source.attached();
    let (tag, ..) = puller.load();
    client.bye();
    let mut newer = server.session("a", 2);
    // The same slots of the next life are awaited from elsewhere.
    let other = Source::new();
    newer.pull(2, 0, &mask([0, 1]), &other);
    let mut second = other.attached();
    second.load();
    puller.page(tag, 0, &page(1));
    puller.page(tag, 1, &page(2));
    wait_until("the old pull is over", || {
        server.report().pulls_waiting == 1
    });
    assert_eq!(newer.load_run(0, 2), [None, None]);
    let report = server.report();
    assert_eq!((report.used_pages, report.pulled_pages), (0, 0));
    assert_eq!(report.clusters - report.free_clusters, 1);
}

#[test]
fn a_region_forgotten_for_room_takes_no_late_page() {
    let (source, mut config) = (Source::new(), config(&[]));
    config.limits.regions = 1;
    let server = Server::with(config);
    let mut client = server.session("a", 1);
    client.pull(1, 0, &mask([0]), &source);
    let mut puller = source.attached();
    let (tag, ..) = puller.load();
    drop(client);
    wait_until("the region has no connection", || {
        server.report().regions[0].connected.is_empty()
    });
    let mut other = server.session("b", 1);
    puller.page(tag, 0, &page(1));
    wait_until("the pull is over", || server.report().pulls_waiting == 0);
    let report = server.report();
    assert_eq!((report.used_pages, report.pulled_pages), (0, 0));
    assert_eq!(report.free_clusters, report.clusters);
    other.store(0, &page(2));
}

#[test]
fn who_takes_a_stream_over_is_not_told_of_the_olders_pulls() {
    let (source, server) = (Source::new(), Server::start(&[]));
    let mut older = server.session("a", 1);
    older.pull(1, 0, &mask([0, 1]), &source);
    let mut puller = source.attached();
    let (tag, ..) = puller.load();
    let mut newer = server.session("a", 1);
    assert_eq!(older.rest(), b"");
    newer.store(1, &page(11));
    puller.page(tag, 0, &page(0));
    puller.page(tag, 1, &page(1));
    wait_until("the pull is over", || server.report().pulls_waiting == 0);
    // It asks anew; what has come is not fetched again.
    newer.pull(2, 0, &mask([0, 1]), &source);
    assert_eq!(newer.pulled(), (2, Ok(())));
    assert_eq!(newer.load(0).unwrap(), page(0));
    assert_eq!(newer.load(1).unwrap(), page(11));
}

#[test]
fn a_pull_that_nobody_waits_for_is_not_begun() {
    let (source, mut config) = (Source::new(), config(&[]));
    config.limits.pull.threads = 1;
    let server = Server::with(config);
    let mut first = server.session("a", 1);
    first.pull(1, 0, &mask([0]), &source);
    let mut puller = source.attached();
    let (tag, ..) = puller.load();
    let mut gone = server.session("b", 1);
    gone.pull(2, 0, &mask([0]), &source);
    gone.ping();
    drop(gone);
    wait_until("it has gone", || server.report().connections == 2);
    puller.page(tag, 0, &page(1));
    assert_eq!(first.pulled(), (1, Ok(())));
    wait_until("nothing waits", || server.report().pulls_waiting == 0);
    assert!(!source.is_called());
}

#[test]
fn a_full_queue_refuses_at_once() {
    let (source, mut config) = (Source::new(), config(&[]));
    config.limits.pull.silence = PATIENCE;
    let server = Server::with(config);
    let mut clients: Vec<Client> = (0..17)
        .map(|n| server.session(&format!("c{n}"), 1))
        .collect();
    // Both threads are held.
    clients[0].pull(0, 0, &mask([0]), &source);
    let _first = source.accept();
    clients[0].pull(1, 512, &mask([0]), &source);
    let _second = source.accept();
    // An older pull of the cluster keeps its place until a thread finds that it is over.
    for (n, client) in clients.iter_mut().enumerate() {
        let first = if n == 0 { 2 } else { 0 };
        for tag in first..64 {
            client.pull(tag, 1024, &mask([0]), &source);
        }
        client.ping_after(if n == 16 { 62 } else { 0 });
    }
    assert_eq!(server.report().pulls_waiting, 1026);
}

impl Client {
    /// Takes so many refused PULLs, and then the answer to a PING.
    fn ping_after(&mut self, refused: u64) {
        for _ in 0..refused {
            assert_eq!(self.pulled().1, Err(Status::Full));
        }
        self.ping();
    }
}

/// PULLED comes from another thread than the answers; it must stand between two of them.
#[test]
fn who_does_not_listen_for_a_while_misses_nothing() {
    let (source, server) = (Source::new(), Server::start(&[]));
    let mut client = server.session("a", 1);
    (0..256).for_each(|slot| client.store(slot, &page(slot)));
    for tag in 1..=8 {
        client.pull(tag, tag * 512, &mask([0]), &source);
    }
    let (tag, slot, count) = (Tag(1000), Slot(0), 256);
    let load = Message::Load { tag, slot, count }.encode();
    let patience = Duration::from_millis(300);
    client.stream.set_write_timeout(Some(patience)).unwrap();
    let mut asked: usize = 0;
    loop {
        match client.stream.write(&load) {
            Ok(n) => asked += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
        assert!(asked < 8 << 20, "the server takes all that it is asked");
        // Far more than both sockets hold.
        if asked >= 200 * HEADER_LEN {
            break;
        }
    }
    let mut pullers = [source.attached(), source.attached()];
    for puller in &mut pullers {
        let (tag, slot, _) = puller.load();
        puller.page(tag, slot, &page(slot));
    }
    let report = || server.report();
    wait_until("two are done", || report().pulls == 2);
    drop((pullers, source));
    wait_until("none waits", || report().pulls_waiting == 0);
    let loads = u64::try_from(asked / HEADER_LEN).unwrap();
    let (mut told, mut next) = (Vec::new(), 0);
    while told.len() < 8 || next < loads * 256 {
        match client.receive() {
            (Message::Page { slot, .. }, bytes) => {
                assert_eq!(slot.0, next % 256);
                assert_eq!(bytes, page(slot.0));
                next += 1;
            }
            (Message::Pulled { tag, slot, status }, _) => {
                assert_eq!(slot.0, tag.0 * 512);
                told.push((tag.0, status));
            }
            (other, _) => panic!("{other:?}"),
        }
    }
    told.sort_unstable_by_key(|(tag, _)| *tag);
    let tags: Vec<u64> = told.iter().map(|(tag, _)| *tag).collect();
    assert_eq!(tags, (1..=8).collect::<Vec<_>>());
    let done = told.iter().filter(|(_, status)| status.is_none());
    assert_eq!(done.count(), 2);
}
