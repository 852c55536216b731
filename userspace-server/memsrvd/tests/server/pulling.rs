// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! PULL between two servers, and from one that a test plays: what arrives, and what must not.

use crate::source::*;
use crate::support::*;
use memsrv_protocol::*;

const BASE: u64 = (1 << 48) | (512 * 9);

#[test]
fn a_whole_cluster_is_fetched_from_another_server() {
    let (from, to) = (Server::start(&[]), Server::start(&[]));
    let mut there = from.session("a", 1);
    for index in 0..512 {
        there.store(BASE + index, &page(index));
    }
    let mut here = to.session("a", 1);
    // What it has already is newer.
    here.store(BASE + 7, &page(7777));
    let pull = pull_from(&FreeMask::ALL, from.address, instance(&from));
    here.send(&pull_bytes(42, BASE, &pull));
    let (message, _) = here.receive();
    let (tag, slot) = (Tag(42), Slot(BASE));
    let expected = Message::Pulled {
        tag,
        slot,
        status: None,
    };
    assert_eq!(message, expected);
    let pages = here.load_run(BASE, 512);
    for (index, found) in (0..).zip(&pages) {
        let seed = if index == 7 { 7777 } else { index };
        assert_eq!(found.as_deref(), Some(&page(seed)[..]), "{index}");
    }
    let report = to.report();
    assert_eq!((report.pulls, report.pulled_pages), (1, 511));
    assert_eq!((report.pull_failures, report.pulls_waiting), (0, 0));
    assert_eq!(report.regions[0].pages, 512);
    assert_eq!(from.report().regions[0].operations.loads, 511);
    // There is nothing left to fetch, and so nobody to ask.
    drop(from);
    here.send(&pull_bytes(43, BASE, &pull));
    assert_eq!(here.pulled(), (43, Ok(())));
}

#[test]
fn a_resync_of_many_clusters_uses_few_connections() {
    let options = ["--capacity", "128M"];
    let (from, to) = (Server::start(&options), Server::start(&options));
    let (mut there, mut here) = (from.session("a", 1), to.session("a", 1));
    for n in 0..60 {
        there.store(BASE + n * 512 + n, &page(n));
    }
    let other = instance(&from);
    for n in 0..60 {
        let pull = pull_from(&FreeMask::ALL, from.address, other);
        here.send(&pull_bytes(n, BASE + n * 512, &pull));
    }
    let mut tags: Vec<u64> = (0..60)
        .map(|_| {
            let (tag, outcome) = here.pulled();
            assert_eq!(outcome, Ok(()), "{tag}");
            tag
        })
        .collect();
    tags.sort_unstable();
    assert_eq!(tags, (0..60).collect::<Vec<_>>());
    // The session, the report's, and one of each thread.
    assert!(from.report().connections <= 4);
    for n in 0..60 {
        assert_eq!(here.load(BASE + n * 512 + n).unwrap(), page(n));
    }
}

/// The rule that all of PULL's bookkeeping is for.
#[test]
fn what_is_stored_or_freed_before_a_page_arrives_stays_so() {
    let (source, server) = (
        Source::new(),
        Server::start(&["--capacity", "64K", "--quota", "32K"]),
    );
    let mut client = server.session("a", 1);
    client.pull(1, BASE, &mask(0..8), &source);
    let mut puller = source.attached();
    let (tag, slot, count) = puller.load();
    assert_eq!((slot, count), (BASE, 8));
    // Stored, freed, stored and freed; refused for a lack of room comes last.
    client.store(BASE, &page(100));
    client.free(BASE, &mask([1, 2]));
    client.store(BASE + 2, &page(102));
    client.store(BASE + 3, &page(103));
    client.free(BASE, &mask([3]));
    for other in 0..6 {
        client.store(BASE + 512 + other, &page(other));
    }
    assert_eq!(client.try_store(BASE + 4, &page(104)), Err(Status::Quota));
    client.free(BASE + 512, &FreeMask::ALL);
    for index in 0..8 {
        puller.page(tag, BASE + index, &page(index));
    }
    assert_eq!(client.pulled(), (1, Ok(())));
    let found = client.load_run(BASE, 8);
    let newer = [(0, 100), (2, 102), (5, 5), (6, 6), (7, 7)];
    for (index, found) in (0..).zip(found) {
        let seed = newer.iter().find(|(at, _)| *at == index);
        let expected = seed.map(|(_, seed)| page(*seed).to_vec());
        assert_eq!(found, expected, "slot {index}");
    }
    assert_eq!(server.report().pulled_pages, 3);
}

/// The cluster has neither a page nor an awaited slot then, and yet its pull was not superseded.
#[test]
fn a_pull_all_of_whose_slots_were_freed_ends_well() {
    let (source, server) = (Source::new(), Server::start(&[]));
    let mut client = server.session("a", 1);
    client.pull(1, BASE, &mask([0, 1]), &source);
    let mut puller = source.attached();
    let (tag, ..) = puller.load();
    client.store(BASE, &page(100));
    client.free(BASE, &FreeMask::ALL);
    puller.page(tag, BASE, &page(0));
    puller.page(tag, BASE + 1, &page(1));
    assert_eq!(client.pulled(), (1, Ok(())));
    assert_eq!(client.load_run(BASE, 2), [None, None]);
    let report = server.report();
    assert_eq!(report.free_clusters, report.clusters);
}

#[test]
fn a_store_that_comes_damaged_ends_its_clusters_pull() {
    let (source, server) = (Source::new(), Server::start(&[]));
    let mut client = server.session("a", 1);
    client.pull(1, BASE, &mask([3, 4]), &source);
    let mut puller = source.attached();
    let (tag, ..) = puller.load();
    client.seq += 1;
    let mut bytes = store_bytes(client.seq, BASE + 3, &page(1));
    // Slot 3 becomes 4: taken for a STORE of 4, the pull would end well without that page.
    bytes[16] ^= 7;
    client.send(&bytes);
    assert_eq!(client.acknowledged(), Err(Status::BadChecksum));
    puller.page(tag, BASE + 3, &page(3));
    puller.page(tag, BASE + 4, &page(4));
    assert_eq!(client.pulled(), (1, Err(Status::Cancelled)));
    assert_eq!(client.load_run(BASE + 3, 2), [None, None]);
}

#[test]
fn a_newer_pull_cancels_the_older_whose_late_pages_are_dropped() {
    let (old, new) = (Source::new(), Source::new());
    let server = Server::start(&[]);
    let mut client = server.session("a", 1);
    client.pull(1, BASE, &mask([0, 1]), &old);
    let mut late = old.attached();
    let (late_tag, ..) = late.load();
    client.pull(2, BASE, &mask([0, 1]), &new);
    let mut puller = new.attached();
    let (tag, ..) = puller.load();
    // Awaited again, by the other; of the older pull's pages neither may be put.
    late.page(late_tag, BASE, &page(100));
    late.page(late_tag, BASE + 1, &page(101));
    assert_eq!(client.pulled(), (1, Err(Status::Cancelled)));
    assert_eq!(client.load_run(BASE, 2), [None, None]);
    puller.page(tag, BASE, &page(0));
    puller.page(tag, BASE + 1, &page(1));
    assert_eq!(client.pulled(), (2, Ok(())));
    let pages = [Some(page(0).to_vec()), Some(page(1).to_vec())];
    assert_eq!(client.load_run(BASE, 2), pages);
    let report = server.report();
    assert_eq!((report.pulls, report.pull_failures), (1, 0));
}

#[test]
fn a_newer_pull_that_is_refused_ends_the_older_all_the_same() {
    let (source, server) = (Source::new(), Server::start(&[]));
    let mut client = server.session("a", 1);
    client.pull(1, BASE, &mask([0]), &source);
    let mut late = source.attached();
    let (tag, ..) = late.load();
    let own = pull_from(&mask([0]), server.address, instance(&server));
    client.send(&pull_bytes(2, BASE, &own));
    // From here on the client believes that nothing is awaited.
    assert_eq!(client.pulled(), (2, Err(Status::Denied)));
    late.page(tag, BASE, &page(1));
    assert_eq!(client.pulled(), (1, Err(Status::Cancelled)));
    assert_eq!(client.load(BASE), None);
}

/// The older must not be taken for done because the newer has ended, too, and nothing is awaited.
#[test]
fn a_pull_whose_newer_one_failed_is_cancelled_and_not_done() {
    let (old, gone) = (Source::new(), Source::new().address);
    let server = Server::start(&[]);
    let mut client = server.session("a", 1);
    client.pull(1, BASE, &mask([0, 1]), &old);
    let mut late = old.attached();
    let (tag, ..) = late.load();
    let newer = pull_from(&mask([0]), gone, INSTANCE);
    client.send(&pull_bytes(2, BASE, &newer));
    assert_eq!(client.pulled(), (2, Err(Status::Unreachable)));
    late.page(tag, BASE, &page(1));
    late.no_page(tag, BASE + 1, Status::NotFound);
    assert_eq!(client.pulled(), (1, Err(Status::Cancelled)));
    assert_eq!(client.load_run(BASE, 2), [None, None]);
    let report = server.report();
    assert_eq!(report.free_clusters, report.clusters);
}

#[test]
fn a_slot_that_the_other_server_has_no_page_in_counts_as_fetched() {
    let (from, to) = (Server::start(&[]), Server::start(&[]));
    let (mut there, mut here) = (from.session("a", 1), to.session("a", 1));
    there.store(BASE + 511, &page(1));
    let pull = pull_from(&mask([0, 5, 511]), from.address, instance(&from));
    here.send(&pull_bytes(1, BASE, &pull));
    assert_eq!(here.pulled(), (1, Ok(())));
    let found = here.load_run(BASE, 512);
    assert_eq!(found.iter().flatten().count(), 1);
    assert_eq!(found[511].as_deref(), Some(&page(1)[..]));
    // With no page at all, the page table goes back.
    here.send(&pull_bytes(2, BASE + 512, &pull));
    assert_eq!(here.pulled(), (2, Ok(())));
    let report = to.report();
    assert_eq!(report.clusters - report.free_clusters, 1);
}

#[test]
fn too_many_pages_are_never_asked_for_at_a_time() {
    let (source, server) = (Source::new(), Server::start(&[]));
    let mut client = server.session("a", 1);
    client.pull(1, BASE, &mask((0..512).filter(|n| n % 3 != 2)), &source);
    let mut puller = source.attached();
    let mut waiting = std::collections::VecDeque::new();
    let mut given = 0;
    while given < 342 {
        while waiting.len() < 64 && waiting.len() + given < 342 {
            let (tag, slot, count) = puller.load();
            waiting.extend((0..u64::from(count)).map(|n| (tag, slot + n)));
        }
        puller.stream.set_nonblocking(true).unwrap();
        let mut more = [0; HEADER_LEN];
        let unread = puller.stream.peek(&mut more).unwrap_or(0);
        puller.stream.set_nonblocking(false).unwrap();
        assert!(waiting.len() + unread / HEADER_LEN <= 128);
        let (tag, slot) = waiting.pop_front().unwrap();
        puller.page(tag, slot, &page(slot));
        given += 1;
    }
    assert_eq!(client.pulled(), (1, Ok(())));
    assert_eq!(server.report().pulled_pages, 342);
}

#[test]
fn a_page_that_comes_damaged_is_asked_for_once_more() {
    let (source, mut config) = (Source::new(), config(&[]));
    config.limits.pull.threads = 1;
    let server = Server::with(config);
    let mut client = server.session("a", 1);
    client.pull(1, BASE, &mask(0..4), &source);
    let mut puller = source.attached();
    let damaged = |tag, index: u64| {
        let mut bytes = page_bytes(tag, BASE + index, &page(index));
        bytes[HEADER_LEN + 99] ^= 4;
        bytes
    };
    let (tag, ..) = puller.load();
    puller.page(tag, BASE, &page(0));
    puller.send(&damaged(tag, 1));
    puller.send(&damaged(tag, 2));
    puller.page(tag, BASE + 3, &page(3));
    let (tag, slot, count) = puller.load();
    assert_eq!((slot, count), (BASE + 1, 1));
    puller.send(&damaged(tag, 1));
    let (tag, slot, count) = puller.load();
    assert_eq!((slot, count), (BASE + 2, 1));
    puller.page(tag, BASE + 2, &page(2));
    assert_eq!(client.pulled(), (1, Err(Status::BadChecksum)));
    let found = client.load_run(BASE, 4);
    let there: Vec<bool> = found.iter().map(Option::is_some).collect();
    assert_eq!(there, [true, false, true, true]);
    assert_eq!(server.report().pull_failures, 1);
    // The connection is as good as before, and so is the next pull.
    client.pull(2, BASE, &mask([1]), &source);
    let (tag, ..) = puller.load();
    puller.page(tag, BASE + 1, &page(1));
    assert_eq!(client.pulled(), (2, Ok(())));
    assert_eq!(client.load(BASE + 1).unwrap(), page(1));
}

#[test]
fn a_page_that_the_other_server_cannot_give_leaves_the_others() {
    let (source, server) = (Source::new(), Server::start(&[]));
    let mut client = server.session("a", 1);
    client.pull(1, BASE, &mask(0..2), &source);
    let mut puller = source.attached();
    let (tag, ..) = puller.load();
    puller.no_page(tag, BASE, Status::BadChecksum);
    puller.page(tag, BASE + 1, &page(1));
    assert_eq!(client.pulled(), (1, Err(Status::Unreachable)));
    assert_eq!(client.load(BASE + 1).unwrap(), page(1));
}

#[test]
fn a_source_that_goes_away_half_way_can_be_asked_again() {
    let (source, server) = (Source::new(), Server::start(&[]));
    let mut client = server.session("a", 1);
    client.pull(1, BASE, &mask(0..3), &source);
    let mut puller = source.attached();
    let (tag, ..) = puller.load();
    puller.page(tag, BASE, &page(0));
    puller.send(&page_bytes(tag, BASE + 1, &page(1))[..2000]);
    drop(puller);
    assert_eq!(client.pulled(), (1, Err(Status::Unreachable)));
    assert_eq!(client.load(BASE).unwrap(), page(0));
    assert_eq!(client.load(BASE + 1), None);
    client.pull(2, BASE, &mask(0..3), &source);
    let mut puller = source.attached();
    let (tag, slot, count) = puller.load();
    assert_eq!((slot, count), (BASE + 1, 2), "only what is missing");
    puller.page(tag, BASE + 1, &page(1));
    puller.page(tag, BASE + 2, &page(2));
    assert_eq!(client.pulled(), (2, Ok(())));
    assert_eq!(client.load_run(BASE, 3).iter().flatten().count(), 3);
}

#[test]
fn a_kept_connection_that_has_ended_is_made_anew() {
    let (source, mut config) = (Source::new(), config(&[]));
    config.limits.pull.threads = 1;
    let server = Server::with(config);
    let mut client = server.session("a", 1);
    client.pull(1, BASE, &mask([0]), &source);
    let mut puller = source.attached();
    let (tag, ..) = puller.load();
    puller.page(tag, BASE, &page(0));
    assert_eq!(client.pulled(), (1, Ok(())));
    drop(puller);
    client.pull(2, BASE, &mask([1]), &source);
    let mut puller = source.attached();
    let (tag, ..) = puller.load();
    puller.page(tag, BASE + 1, &page(1));
    assert_eq!(client.pulled(), (2, Ok(())));
    assert_eq!(server.report().pull_failures, 0);
}
