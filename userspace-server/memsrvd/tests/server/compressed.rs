// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! LZ4: what is stored compressed comes back as it came, in less memory, and to nobody who cannot read it.
//!
//! The server does not look into what it stores, so the blocks here are any bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::entry::{self, converse, Nobody};
use crate::mirror::*;
use crate::source::{instance, mask, pull_bytes, pull_from};
use crate::support::*;
use memsrv_protocol::*;
use memsrvd::arena::Arena;
use memsrvd::batch::checksum;
use memsrvd::session::Session;
use memsrvd::table::{Quota, Table};
use proptest::prelude::*;

/// A HELLO that asks for LZ4.
fn lz4_hello(client: &str, life: u8, issued: u64) -> Hello {
    Hello {
        options: Hello::LZ4,
        issued: Seq(issued),
        ..hello(client, life)
    }
}

/// A session with one stream and compressed pages.
fn session(server: &Server, client: &str, life: u8) -> Client {
    let mut connection = server.connect();
    let welcome = connection.welcome(&lz4_hello(client, life, 0));
    assert_eq!(welcome.options, Hello::LZ4);
    connection
}

/// A block of that length that tells its seed.
fn block(seed: u64, len: usize) -> Vec<u8> {
    page(seed)[..len].to_vec()
}

/// Lengths around each limit of a room, and some between.
const LENGTHS: [usize; 18] = [
    1, 2, 30, 501, 502, 503, 700, 1005, 1006, 1007, 1341, 1343, 2013, 2015, 2900, 3583, 3584, 4096,
];

#[test]
fn compressed_pages_come_back_as_they_came_from_less_memory() {
    let server = Server::start(&["--capacity", "8M"]);
    let mut client = session(&server, "a", 1);
    let lengths = || (0..3000).map(|slot| 40 + usize::try_from(slot % 5).unwrap() * 100);
    for (slot, len) in (0..).zip(lengths()) {
        client.store(slot, &block(slot, len));
    }
    let report = server.report();
    assert_eq!((report.stored_pages, report.regions[0].pages), (3000, 3000));
    assert_eq!(report.used_pages, 3000 / 8, "eight to a frame");
    for (slot, len) in (0..).zip(lengths()) {
        assert_eq!(client.load(slot).unwrap(), block(slot, len), "slot {slot}");
    }
    // Whatever stood in a slot: the next that stands there is itself.
    let mut seed = 10_000;
    for first in LENGTHS {
        for second in LENGTHS {
            seed += 2;
            client.store(7, &block(seed, first));
            assert_eq!(client.load(7).unwrap(), block(seed, first));
            client.store(7, &block(seed + 1, second));
            assert_eq!(
                client.load(7).unwrap(),
                block(seed + 1, second),
                "{first}, {second}"
            );
        }
    }
    assert_eq!(client.load(6).unwrap(), block(6, 140));
    (0..6).for_each(|cluster| client.free(cluster * 512, &FreeMask::ALL));
    let report = server.report();
    assert_eq!((report.used_pages, report.stored_pages), (0, 0));
    assert_eq!(report.free_clusters, report.clusters);
}

#[test]
fn a_length_that_no_page_has_ends_the_connection() {
    let server = Server::start(&[]);
    for (options, lengths) in [
        (Hello::LZ4, &[0, 3585, 4095, 4097, 200_000][..]),
        (0, &[0, 1, 500, 3584, 3585, 4095, 4097]),
        (!Hello::LZ4, &[1, 3584]),
    ] {
        for (life, &len) in (10..).zip(lengths) {
            let mut client = server.connect();
            client.welcome(&Hello {
                options,
                ..hello("a", life)
            });
            let payload = vec![1; len];
            client.send(&store_bytes(1, 3, &payload));
            let words = client.refused(Status::BadRequest);
            assert!(
                words.contains(&format!("operation 2 with {len} bytes")),
                "{words}"
            );
            assert_eq!(server.report().used_pages, 0);
        }
    }
}

#[test]
fn a_compressed_page_that_does_not_match_its_checksum_is_refused() {
    let server = Server::start(&[]);
    let mut client = session(&server, "a", 1);
    client.store(5, &block(1, 700));
    for at in [0, 350, 699] {
        let mut bytes = store_bytes(client.seq + 1, 5, &block(2, 700));
        bytes[HEADER_LEN + at] ^= 4;
        client.seq += 1;
        client.send(&bytes);
        assert_eq!(client.acknowledged(), Err(Status::BadChecksum));
        assert_eq!(client.load(5).unwrap(), block(1, 700));
    }
}

#[test]
fn twice_the_capacity_is_granted_and_no_more_than_a_quota() {
    let server = Server::start(&["--capacity", "4M"]);
    let granted = |options, wanted| {
        let mut client = server.connect();
        let welcome = client.welcome(&Hello {
            options,
            wanted,
            ..hello("g", 1)
        });
        (welcome.options, welcome.granted)
    };
    assert_eq!(granted(0, 0), (0, 1024));
    assert_eq!(granted(Hello::LZ4, 0), (Hello::LZ4, 2048));
    assert_eq!(granted(Hello::LZ4, 1500), (Hello::LZ4, 1500));
    assert_eq!(granted(0, 1500), (0, 1024));
    // Who may not be refused could be, with more than that.
    let strict = Hello::LZ4 | Hello::NO_REFUSAL;
    assert_eq!(granted(strict, 0), (strict, 1024));
    // So many fit if they are small enough, and not one more.
    let mut client = session(&server, "a", 1);
    for slot in 0..2048 {
        client.store(slot, &block(slot, 1000));
    }
    assert_eq!(client.try_store(2048, &block(1, 1000)), Err(Status::Quota));
    assert_eq!(server.report().used_pages, 512);
    // Where frames run out before, it is full.
    client.free(0, &FreeMask::ALL);
    let full = (0..512).find(|&slot| client.try_store(slot, &page(slot)) == Err(Status::Full));
    assert_eq!(full, None, "there were 640 frames");
    for slot in 512..2048 {
        if let Err(status) = client.try_store(slot, &page(slot)) {
            assert_eq!(status, Status::Full);
            assert_eq!(
                client.load(slot).unwrap(),
                block(slot, 1000),
                "the older page is untouched"
            );
            return;
        }
    }
    panic!("2048 pages in 1024 frames");
}

#[test]
fn a_quota_counts_pages_compressed_or_not() {
    let server = Server::start(&["--capacity", "4M", "--quota", "1M"]);
    let mut client = server.connect();
    let welcome = client.welcome(&lz4_hello("a", 1, 0));
    assert_eq!((welcome.options, welcome.granted), (Hello::LZ4, 256));
    (0..256).for_each(|slot| client.store(slot, &block(slot, 10)));
    assert_eq!(client.try_store(256, &block(1, 10)), Err(Status::Quota));
}

#[test]
fn who_cannot_read_a_compressed_page_is_told_so() {
    let server = Server::start(&[]);
    let mut client = session(&server, "a", 1);
    client.store(1, &block(1, 700));
    client.store(2, &page(2));
    let issued = client.seq;
    drop(client);
    let mut again = server.connect();
    let welcome = again.welcome(&Hello {
        issued: Seq(issued),
        ..hello("a", 1)
    });
    assert_eq!((welcome.options, welcome.stored), (0, 2));
    let (tag, slot, count) = (Tag(5), Slot(1), 2);
    again.send(&Message::Load { tag, slot, count }.encode());
    let status = Status::BadRequest;
    assert_eq!(again.receive().0, Message::NoPage { tag, slot, status });
    assert_eq!(again.receive().1, page(2));
    // It is not lost by that.
    drop(again);
    let mut client = server.connect();
    client.welcome(&lz4_hello("a", 1, issued));
    assert_eq!(client.load(1).unwrap(), block(1, 700));
}

#[test]
fn a_server_with_a_log_takes_whole_pages_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let server = Server::start(&["--persist", path.to_str().unwrap()]);
    let mut client = server.connect();
    let welcome = client.welcome(&lz4_hello("a", 1, 0));
    assert_eq!((welcome.options, welcome.granted), (0, 4096));
    client.store(1, &page(1));
    client.send(&store_bytes(2, 2, &block(2, 700)));
    client.refused(Status::BadRequest);
}

#[test]
fn a_server_fetches_compressed_pages_as_they_are() {
    const BASE: u64 = 512 * 9;
    let (from, to) = (Server::start(&[]), Server::start(&[]));
    let (mut there, mut here) = (session(&from, "a", 1), session(&to, "a", 1));
    let len = |index: u64| LENGTHS[usize::try_from(index).unwrap() % LENGTHS.len()];
    for index in 0..512 {
        there.store(BASE + index, &block(index, len(index)));
    }
    here.store(BASE + 7, &block(7777, 9));
    let pull = pull_from(&FreeMask::ALL, from.address, instance(&from));
    here.send(&pull_bytes(42, BASE, &pull));
    assert_eq!(here.pulled(), (42, Ok(())));
    for (index, found) in (0..).zip(here.load_run(BASE, 512)) {
        let expected = match index {
            7 => block(7777, 9),
            index => block(index, len(index)),
        };
        assert_eq!(found, Some(expected), "{index}");
    }
    assert_eq!(to.report().pulled_pages, 511);
}

#[test]
fn a_server_that_cannot_keep_compressed_pages_does_not_fetch_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let from = Server::start(&[]);
    let to = Server::start(&["--persist", path.to_str().unwrap()]);
    let (mut there, mut here) = (session(&from, "a", 1), to.session("a", 1));
    there.store(1, &block(1, 700));
    there.store(2, &page(2));
    let pull = pull_from(&mask([1, 2]), from.address, instance(&from));
    here.send(&pull_bytes(1, 0, &pull));
    assert_eq!(here.pulled(), (1, Err(Status::Unreachable)));
    assert_eq!(here.load_run(1, 2), [None, Some(page(2).to_vec())]);
}

fn both(issued: u64) -> Hello {
    Hello {
        options: Hello::FORWARD | Hello::LZ4,
        ..lz4_hello("a", 1, issued)
    }
}

#[test]
fn compressed_pages_are_forwarded_as_they_are() {
    let mirror = Server::start(&[]);
    let server = primary(mirror.address, &[]);
    let mut client = server.connect();
    let welcome = client.welcome(&both(0));
    assert_eq!(welcome.options, Hello::FORWARD | Hello::LZ4);
    assert_eq!(welcome.granted, 8192);
    for (slot, len) in (0..).zip(LENGTHS) {
        client.store(slot, &block(slot, len));
    }
    let issued = client.seq;
    drop((client, server));
    let mut client = mirror.connect();
    client.welcome(&lz4_hello("a", 1, issued));
    for (slot, len) in (0..).zip(LENGTHS) {
        assert_eq!(client.load(slot).unwrap(), block(slot, len), "{len}");
    }
}

#[test]
fn what_the_mirror_does_not_take_is_not_granted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mirror = Server::start(&["--persist", path.to_str().unwrap()]);
    let server = primary(mirror.address, &[]);
    let mut client = server.connect();
    let welcome = client.welcome(&both(0));
    assert_eq!((welcome.options, welcome.granted), (Hello::FORWARD, 4096));
    client.store(1, &page(1));
    assert_eq!(mirror.report().stored_pages, 1);
}

/// The mirror has all that was acknowledged, and comes back as one that takes no compressed pages.
#[test]
fn a_mirror_that_cannot_take_the_pages_that_there_are_is_not_forwarded_to() {
    let mirror = Mirror::new();
    let server = primary(mirror.address, &[]);
    let answer = |options, executed| Welcome {
        version: VERSION,
        options,
        instance: Instance([0x77; 16]),
        granted: 1 << 40,
        stored: 0,
        executed: Seq(executed),
        window: 4096,
        mirror: None,
    };
    let mut client = server.connect();
    client.send(&hello_bytes(&both(0)));
    let mut fed = mirror.accept();
    assert_eq!(fed.hello().options, Hello::LZ4);
    fed.welcome_as(&answer(Hello::LZ4, 0));
    let welcome = client.welcomed();
    assert_eq!(welcome.options, Hello::FORWARD | Hello::LZ4);
    let store = store_bytes(1, 1, &block(1, 700));
    client.send(&store);
    fed.bytes(&store);
    fed.ack(1);
    assert_eq!(client.ack(), 1);
    drop(client);
    fed.closed();
    let mut client = server.connect();
    client.send(&hello_bytes(&both(1)));
    let mut fed = mirror.accept();
    fed.hello();
    fed.welcome_as(&answer(0, 1));
    let welcome = client.welcomed();
    // Its own pages it can always have.
    assert_eq!((welcome.options, welcome.executed), (Hello::LZ4, Seq(1)));
    client.options = welcome.options;
    assert_eq!(client.load(1).unwrap(), block(1, 700));
}

/// What happens to one slot.
#[derive(Debug, Clone)]
enum Do {
    Store { slot: u64, seed: u64, len: usize },
    Free { cluster: u64, words: [u64; 8] },
}

fn operation() -> impl Strategy<Value = Do> {
    let slot = (0..3_u64, 0..14_u64).prop_map(|(cluster, index)| cluster * 512 + index);
    let len = prop_oneof![1..=3584_usize, 1..520_usize, Just(PAGE_SIZE)];
    prop_oneof![
        6 => (slot, any::<u64>(), len).prop_map(|(slot, seed, len)| Do::Store { slot, seed, len }),
        1 => (0..3_u64, any::<[u64; 8]>()).prop_map(|(cluster, words)| Do::Free { cluster, words }),
    ]
}

fn as_a_map_does(arena: &Arena, operations: &[Do]) {
    let (table, quota) = (Table::default(), Quota::new(u64::MAX, arena));
    let mut pages: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for operation in operations {
        match operation {
            Do::Store { slot, seed, len } => {
                let bytes = block(*seed, *len);
                let crc = checksum(Slot(*slot), &bytes);
                match table
                    .store(arena, &quota, Slot(*slot), crc, &bytes)
                    .unwrap()
                {
                    Ok(()) => drop(pages.insert(*slot, bytes)),
                    // The older page is untouched; and there was no frame left, or no part that large.
                    Err(status) => {
                        let no_quota = quota.pages.used() == quota.pages.limit();
                        assert!(status == Status::Quota && no_quota || arena.pages.free() == 0);
                    }
                }
            }
            Do::Free { cluster, words } => {
                let free = FreeMask::from_words(*words);
                let of = |slot: &u64| slot / 512 == *cluster && free.contains(Slot(*slot).index());
                let before = pages.len();
                pages.retain(|slot, _| !of(slot));
                let freed = table
                    .free(arena, &quota, Slot(cluster * 512), &free)
                    .unwrap();
                assert_eq!(freed, u64::try_from(before - pages.len()).unwrap());
            }
        }
        for slot in (0..3).flat_map(|cluster| (0..14).map(move |index| cluster * 512 + index)) {
            let mut found = None;
            let show = |crc, bytes: &[u8]| found = Some((crc, bytes.to_vec()));
            table.load(Slot(slot), show).unwrap();
            let expected = pages.get(&slot);
            let expected = expected.map(|bytes| (checksum(Slot(slot), bytes), bytes.clone()));
            assert!(found == expected, "slot {slot}");
        }
        assert_eq!(table.pages(), u64::try_from(pages.len()).unwrap());
    }
    table.end(arena, &quota);
    assert_eq!(
        (arena.pages.free(), quota.pages.used()),
        (arena.pages.total(), 0)
    );
    assert_eq!(arena.clusters.free(), arena.clusters.total());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn pages_of_any_length_are_kept_as_a_map_keeps_them(
        operations in prop::collection::vec(operation(), 1..100),
        pages in 3..30_usize,
    ) {
        let arena = memsrvd::memory::take(pages, false, 0).unwrap();
        as_a_map_does(&arena, &operations);
    }

    /// A STORE that is cut anywhere has changed nothing, and with the rest of it, all.
    #[test]
    fn a_compressed_store_is_done_whole_or_not_at_all(
        len in prop_oneof![1..=3584_usize, Just(PAGE_SIZE)],
        cut in any::<prop::sample::Index>(),
        piece in prop_oneof![1..40_usize, Just(1 << 20)],
    ) {
        let shared = entry::server(24, u64::MAX);
        let mut session = Session::new(shared.clone(), Arc::new(Nobody));
        let mut bytes = hello_bytes(&lz4_hello("a", 1, 0));
        bytes.extend(store_bytes(1, 5, &block(1, 900)));
        prop_assert!(!converse(&mut session, &bytes, piece).1);
        let store = store_bytes(2, 5, &block(2, len));
        let cut = cut.index(store.len());
        let stored = || {
            let life = memsrvd::arena::lock(&shared.registry).regions.values().next().cloned();
            let mut found = Vec::new();
            life.unwrap().table.load(Slot(5), |_, bytes| found.extend_from_slice(bytes)).unwrap();
            found
        };
        let mut output = Vec::new();
        let progress = session.feed(&store[..cut], &mut output);
        prop_assert_eq!((progress.consumed, output), (0, vec![]));
        prop_assert_eq!(stored(), block(1, 900));
        prop_assert!(!converse(&mut session, &store, piece).1);
        prop_assert_eq!(stored(), block(2, len));
    }
}
