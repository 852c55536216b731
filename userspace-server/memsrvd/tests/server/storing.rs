// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What is stored is what is loaded: over real sockets, by several clients, within quota and capacity.

use std::sync::Arc;

use crate::entry::{answers, server, Nobody};
use crate::support::*;
use memsrv_protocol::*;
use memsrvd::session::Session;

/// The first slot of a cluster somewhere, as the kernel module would number it.
const BASE: u64 = (1 << 48) | (512 * 9);

#[test]
fn a_load_gives_the_bytes_last_stored_or_not_found() {
    let server = Server::start(&[]);
    let mut client = server.session("a", 1);
    assert_eq!(client.load(BASE), None);
    client.store(BASE, &page(1));
    client.store(BASE + 1, &page(2));
    assert_eq!(client.load(BASE).unwrap(), page(1));
    client.store(BASE, &page(3));
    let run = client.load_run(BASE, 3);
    assert_eq!(run, [Some(page(3).to_vec()), Some(page(2).to_vec()), None]);
    let region = &server.report().regions[0];
    assert_eq!((region.pages, region.operations.stores), (2, 3));
    assert_eq!(
        (region.operations.loads, region.operations.not_found),
        (3, 2)
    );
}

#[test]
fn the_whole_range_of_slot_numbers_can_be_used() {
    let server = Server::start(&[]);
    let mut client = server.session("a", 1);
    for slot in [0, 511, 512, (63 << 48) | 7, u64::MAX] {
        client.store(slot, &page(slot));
    }
    for slot in [0, 511, 512, (63 << 48) | 7, u64::MAX] {
        assert_eq!(client.load(slot).unwrap(), page(slot), "{slot:#x}");
    }
    assert_eq!(
        client
            .load_run(u64::MAX - 511, 512)
            .iter()
            .flatten()
            .count(),
        1
    );
}

#[test]
fn a_mask_frees_its_slots_and_no_others() {
    let server = Server::start(&[]);
    let mut client = server.session("a", 1);
    let slots = [0, 1, 7, 8, 63, 64, 300, 511];
    for i in slots {
        client.store(BASE + i, &page(i));
    }
    let mut mask = FreeMask::EMPTY;
    for i in [0, 8, 64, 200, 511] {
        mask.insert(i);
    }
    client.free(BASE, &mask);
    let left = client.load_run(BASE, 512);
    let left: Vec<_> = (0..)
        .zip(&left)
        .filter_map(|(i, page)| page.as_ref().map(|_| i))
        .collect();
    assert_eq!(left, [1_u64, 7, 63, 300]);
    assert_eq!(client.load(BASE + 63).unwrap(), page(63));
    // Freeing is idempotent, also where there never was anything.
    client.free(BASE, &mask);
    client.free(BASE + 512, &FreeMask::ALL);
    client.free(BASE, &FreeMask::ALL);
    let report = server.report();
    assert_eq!((report.used_pages, report.regions[0].pages), (0, 0));
    assert_eq!(report.regions[0].operations.frees, 8);
    assert_eq!(report.free_clusters, report.clusters);
}

#[test]
fn a_page_that_does_not_match_its_checksum_is_not_stored() {
    let server = Server::start(&[]);
    let mut client = server.session("a", 1);
    client.store(BASE, &page(1));
    // In the page, in the slot's number, and in the checksum itself.
    for wrong in [HEADER_LEN, HEADER_LEN + 4095, 16, 28] {
        client.seq += 1;
        let mut bytes = store_bytes(client.seq, BASE, &page(2));
        bytes[wrong] ^= 1;
        client.send(&bytes);
        assert_eq!(
            client.acknowledged(),
            Err(Status::BadChecksum),
            "byte {wrong}"
        );
        assert_eq!(client.load(BASE).unwrap(), page(1), "byte {wrong}");
        assert_eq!(client.load(BASE ^ 1), None, "byte {wrong}");
    }
    assert_eq!(server.report().regions[0].operations.crc_errors, 4);
}

#[test]
fn a_mask_that_does_not_match_its_checksum_frees_nothing_and_is_not_acknowledged() {
    let server = Server::start(&[]);
    let mut client = server.session("a", 1);
    client.store(BASE, &page(1));
    let mut bytes = free_bytes(2, BASE, &FreeMask::EMPTY);
    bytes[HEADER_LEN] ^= 1;
    client.send(&bytes);
    client.refused(Status::BadChecksum);
    let mut again = server.connect();
    let executed = again
        .welcome(&Hello {
            issued: Seq(2),
            ..hello("a", 1)
        })
        .executed;
    assert_eq!(executed, Seq(1));
    assert_eq!(again.load(BASE).unwrap(), page(1));
}

#[test]
fn a_batch_is_answered_by_its_naks_and_one_ack() {
    let server = Server::start(&["--capacity", "40K"]);
    let mut client = server.session("a", 1);
    let bytes: Vec<u8> = (1..=12)
        .flat_map(|n| store_bytes(n, BASE + n, &page(n)))
        .collect();
    client.send(&bytes);
    let mut naks = Vec::new();
    loop {
        match client.receive().0 {
            Message::Nak { seq, status } => naks.push((seq.0, status)),
            Message::Ack { seq: Seq(12) } => break,
            Message::Ack { seq } => assert!(naks.iter().all(|(nak, _)| *nak <= seq.0)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(naks, [(11, Status::Full), (12, Status::Full)]);
}

#[test]
fn a_full_server_says_so_keeps_what_it_has_and_takes_more_after_a_free() {
    let server = Server::start(&["--capacity", "256K"]);
    let mut a = server.session("a", 1);
    let mut b = server.session("b", 1);
    for slot in 0..64 {
        a.store(slot, &page(slot));
    }
    assert_eq!(a.try_store(64, &page(64)), Err(Status::Full));
    assert_eq!(b.try_store(0, &page(0)), Err(Status::Full));
    let report = server.report();
    let tables = report.clusters - report.free_clusters;
    assert_eq!(tables, 1, "the refused page must not keep a page table");
    // Replacing takes no new page.
    a.store(3, &page(333));
    let mut mask = FreeMask::EMPTY;
    mask.insert(5);
    a.free(0, &mask);
    b.store(9, &page(99));
    assert_eq!(b.try_store(10, &page(10)), Err(Status::Full));
    for slot in (0..64).filter(|slot| ![3, 5].contains(slot)) {
        assert_eq!(a.load(slot).unwrap(), page(slot));
    }
    assert_eq!(a.load(3).unwrap(), page(333));
    assert_eq!((a.load(5), b.load(9).unwrap()), (None, page(99).to_vec()));
    assert_eq!(server.report().regions[0].operations.refused_full, 1);
}

#[test]
fn page_tables_can_run_out_too_and_that_is_full() {
    // One page in each cluster: a tiny server has 64 page tables.
    let server = Server::start(&["--capacity", "1M"]);
    let mut client = server.session("a", 1);
    for n in 0..64 {
        client.store(n * 512, &page(n));
    }
    assert_eq!(client.try_store(64 * 512, &page(64)), Err(Status::Full));
    client.store(1, &page(1));
    client.free(512, &FreeMask::ALL);
    client.store(64 * 512, &page(64));
    assert_eq!(client.load(64 * 512).unwrap(), page(64));
}

#[test]
fn a_quota_is_one_clients_over_all_its_regions() {
    let server = Server::start(&["--capacity", "1M", "--quota", "40K"]);
    let mut one = server.session("a", 1);
    let mut two = server.connect();
    let region = Name::new(b"second").unwrap();
    let welcome = two.welcome(&Hello {
        region,
        ..hello("a", 2)
    });
    assert_eq!(welcome.granted, 10);
    for slot in 0..6 {
        one.store(slot, &page(slot));
    }
    for slot in 0..4 {
        two.store(slot, &page(slot));
    }
    assert_eq!(one.try_store(6, &page(6)), Err(Status::Quota));
    assert_eq!(two.try_store(4, &page(4)), Err(Status::Quota));
    one.store(0, &page(100));
    // Another client has its own.
    server.session("b", 1).store(0, &page(0));
    let mut mask = FreeMask::EMPTY;
    mask.insert(2);
    one.free(0, &mask);
    two.store(4, &page(4));
    let report = server.report();
    let of_a: Vec<_> = report
        .regions
        .iter()
        .filter(|region| region.client == "a")
        .collect();
    assert_eq!((of_a[0].client_pages, of_a[0].quota_pages), (10, 10));
    assert_eq!(
        of_a.iter().map(|r| r.operations.refused_quota).sum::<u64>(),
        2
    );
}

/// A client with a page here and a page there must not use up the page tables of all.
#[test]
fn a_quota_covers_page_tables_too() {
    let server = Server::start(&["--capacity", "1M", "--quota", "256K"]);
    let mut sparse = server.session("sparse", 1);
    let stored = (0..64).take_while(|n| sparse.try_store(n * 512, &page(*n)).is_ok());
    assert_eq!(stored.count(), 16, "of 64 tables, a quarter");
    assert_eq!(sparse.try_store(99 * 512, &page(9)), Err(Status::Quota));
    let mut other = server.session("other", 1);
    for n in 0..16 {
        other.store(n * 512, &page(n));
    }
    sparse.bye();
    let mut sparse = server.session("sparse", 2);
    sparse.store(99 * 512, &page(9));
}

#[test]
fn what_is_granted_is_the_least_of_wish_quota_and_capacity() {
    let server = Server::start(&["--capacity", "1M", "--quota", "512K"]);
    for (wanted, granted) in [(0, 128), (5, 5), (128, 128), (u64::MAX, 128)] {
        let mut client = server.connect();
        assert_eq!(
            client
                .welcome(&Hello {
                    wanted,
                    ..hello("a", 1)
                })
                .granted,
            granted
        );
    }
    let server = Server::start(&["--capacity", "1M", "--quota", "8M"]);
    assert_eq!(server.connect().welcome(&hello("a", 1)).granted, 256);
}

/// Design, rule 13.
#[test]
fn clients_and_regions_see_and_free_only_their_own_pages() {
    let server = Server::start(&[]);
    let region = |name: &[u8]| Name::new(name).unwrap();
    let mut sessions: Vec<Client> = Vec::new();
    for (client, region) in [
        ("a", region(b"r")),
        ("a", region(b"s")),
        ("b", region(b"r")),
    ] {
        let mut session = server.connect();
        session.welcome(&Hello {
            region,
            ..hello(client, 1)
        });
        sessions.push(session);
    }
    for (n, session) in (0..).zip(&mut sessions) {
        session.store(BASE, &page(n));
        session.store(BASE + 1 + n, &page(100 + n));
    }
    sessions[0].free(BASE, &FreeMask::ALL);
    assert!(sessions[0].load_run(BASE, 512).iter().all(Option::is_none));
    for (n, session) in (0..).zip(&mut sessions).skip(1) {
        assert_eq!(session.load(BASE).unwrap(), page(n));
        let others: Vec<_> = (0..3).filter(|other| *other != n).collect();
        for other in others {
            assert_eq!(
                session.load(BASE + 1 + other),
                None,
                "{n} sees {other}'s page"
            );
        }
    }
}

/// Design, rule 13: the arena has room for 16 pages, so every page is reused many times.
#[test]
fn a_reused_page_never_shows_old_bytes() {
    let server = Server::start(&["--capacity", "64K"]);
    let secret = [0xa5; PAGE_SIZE];
    for round in 0..20 {
        let mut victim = server.session("victim", round);
        (0..16).for_each(|slot| victim.store(slot, &secret));
        victim.bye();
        let mut thief = server.session("thief", round);
        assert!(thief.load_run(0, 512).iter().all(Option::is_none));
        // A store that is never finished, and one that is refused, must not make a page visible.
        let mut torn = store_bytes(1, 3, &[0; PAGE_SIZE]);
        torn.truncate(HEADER_LEN + 100);
        thief.send(&torn);
        drop(thief);
        let mut thief = server.connect();
        thief.welcome(&hello("thief", round));
        let mut wrong = store_bytes(1, 4, &[0; PAGE_SIZE]);
        wrong[HEADER_LEN + 1] ^= 1;
        thief.send(&wrong);
        assert_eq!(
            thief.receive().0,
            Message::Nak {
                seq: Seq(1),
                status: Status::BadChecksum
            }
        );
        assert_eq!(thief.receive().0, Message::Ack { seq: Seq(1) });
        assert!(thief.load_run(0, 512).iter().all(Option::is_none));
        thief.bye();
    }
}

#[test]
fn many_clients_with_several_streams_at_once_each_find_their_own() {
    const STREAMS: u16 = 3;
    let server = Server::start(&["--capacity", "64M", "--max-connections", "30"]);
    let work = |client: u64, stream: u16| {
        let mut session = server.connect();
        let name = format!("client-{client}");
        session.welcome(&Hello {
            stream,
            streams: STREAMS,
            ..hello(&name, 1)
        });
        let slot = |n: u64| (n / 30 * u64::from(STREAMS) + u64::from(stream)) * 512 + n;
        let seed =
            |n: u64, round: u64| (client << 32) | (u64::from(stream) << 24) | (n << 4) | round;
        for round in 0..3 {
            (0..60).for_each(|n| session.store(slot(n), &page(seed(n, round))));
            (0..60).for_each(|n| {
                assert_eq!(session.load(slot(n)).unwrap(), page(seed(n, round)));
            });
            session.free(FreeMask::base(Slot(slot(59))).0, &FreeMask::ALL);
            assert_eq!(session.load(slot(59)), None);
        }
        session
    };
    let sessions: Vec<Client> = std::thread::scope(|scope| {
        let start = |n: u16| scope.spawn(move || work(u64::from(n / STREAMS), n % STREAMS));
        let threads: Vec<_> = (0..8 * STREAMS).map(start).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(server.report().used_pages, 24 * 30);
    wait_until("only the sessions are connected", || {
        server.report().connections == 25
    });
    drop(sessions);
    wait_until("the connections are gone", || {
        server.report().connections == 1
    });
    assert_eq!(server.report().used_pages, 24 * 30, "kept for their owners");
}

#[test]
fn a_store_that_may_not_be_refused_ends_the_connection_and_is_not_counted() {
    let server = Server::start(&["--capacity", "4K"]);
    let strict = |issued| Hello {
        options: Hello::NO_REFUSAL,
        issued: Seq(issued),
        ..hello("a", 1)
    };
    let mut client = server.connect();
    assert_eq!(client.welcome(&strict(0)).options, Hello::NO_REFUSAL);
    client.store(BASE, &page(1));
    // No room for a second page; the third would have some, for it takes the first one's place.
    client.send(&store_bytes(2, BASE + 1, &page(2)));
    client.refused(Status::Full);
    let mut damaged = store_bytes(2, BASE, &page(3));
    damaged[HEADER_LEN] ^= 1;
    let mut again = server.connect();
    assert_eq!(again.welcome(&strict(2)).executed, Seq(1));
    again.send(&damaged);
    again.refused(Status::BadChecksum);
    let mut last = server.connect();
    assert_eq!(last.welcome(&strict(2)).executed, Seq(1));
    assert_eq!(last.load(BASE).unwrap(), page(1));
}

/// A part of the next message says that there is more: one ACK for all of it, unless much is owed.
#[test]
fn an_ack_waits_for_the_message_of_which_a_part_is_there() {
    const MOST: u64 = 32;
    let shared = server(2 * 32 + 8, 2 * 32 + 8);
    let mut session = Session::new(shared, Arc::new(Nobody));
    let mut held = hello_bytes(&hello("acks", 1));
    let mut acks = |bytes: &[u8]| -> Vec<u64> {
        let mut output = Vec::new();
        held.extend_from_slice(bytes);
        let progress = session.feed(&held, &mut output);
        held.drain(..progress.consumed);
        let acks = answers(&output)
            .into_iter()
            .filter_map(|(answer, _)| match answer {
                Message::Ack { seq } => Some(seq.0),
                _ => None,
            });
        acks.collect()
    };
    assert_eq!(acks(&[]), [0_u64; 0]);
    let store = |seq| store_bytes(seq, seq, &page(seq));
    for first in [1, 3, 5] {
        let (next, whole) = (store(first + 1), store(first));
        let (part, rest) = next.split_at(if first == 1 { 1 } else { 2000 });
        assert_eq!(acks(&[&whole, part].concat()), [0_u64; 0]);
        assert_eq!(acks(rest), [first + 1]);
    }
    // Whoever goes on like that is acknowledged all the same.
    let mut all: Vec<u8> = (7..7 + 2 * MOST).flat_map(store).collect();
    let part = all.split_off(all.len() - 1);
    let mut seen = Vec::new();
    for piece in all.chunks(3000) {
        seen.extend(acks(piece));
    }
    assert_eq!(seen, [6 + MOST]);
    assert_eq!(acks(&part), [6 + 2 * MOST]);
}

/// What was executed and not acknowledged is known to who comes back: he may not take up an older state.
#[test]
fn what_is_executed_counts_though_its_ack_waits() {
    let server = Server::start(&[]);
    let mut client = server.session("a", 1);
    let next = store_bytes(2, BASE + 1, &page(2));
    client.send(&[&store_bytes(1, BASE, &page(1))[..], &next[..2000]].concat());
    wait_until("the first is executed", || {
        server.report().regions[0].operations.stores == 1
    });
    let mut again = server.connect();
    let hello = Hello {
        issued: Seq(2),
        ..hello("a", 1)
    };
    assert_eq!(again.welcome(&hello).executed, Seq(1));
    assert_eq!(again.load(BASE).unwrap(), page(1));
    assert_eq!(again.load(BASE + 1), None);
}
