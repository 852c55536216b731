// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What is promised of operations while the network is good.

use std::sync::Arc;

use super::common::{config, connect, load, page, Server};
use memsrv_client::{Client, ClientConfig, Error, Slot, Status, PAGE_SIZE};

#[test]
fn what_is_stored_comes_back_from_every_stream() {
    let server = Server::start(&["--capacity", "8M"]);
    let client = Client::connect(
        server.address,
        ClientConfig {
            streams: 5,
            ..config()
        },
    )
    .unwrap();
    let slots = (0..20).map(|i| Slot(i * 500));
    for slot in slots.clone() {
        client.store(slot, &page(slot, 1)).unwrap();
    }
    for slot in slots {
        assert_eq!(load(&client, slot).unwrap(), page(slot, 1));
    }
    assert_eq!(server.used_pages(), 20);
}

#[test]
fn a_thousand_in_flight_come_back_each_in_its_place() {
    let server = Server::start(&["--capacity", "8M"]);
    let client = connect(&server);
    let slots: Vec<Slot> = (0..1000).map(|i| Slot(i * 7)).collect();
    let stores: Vec<_> = slots
        .iter()
        .map(|&slot| client.submit_store(slot, &page(slot, 2)).unwrap())
        .collect();
    // These wait for their own stores and overtake the others.
    let loads: Vec<_> = slots
        .iter()
        .rev()
        .map(|&slot| client.submit_load(slot, 1))
        .collect();
    for (slot, load) in slots.iter().rev().zip(loads) {
        assert_eq!(load.unwrap().wait().unwrap(), page(*slot, 2));
    }
    for store in stores {
        store.wait().unwrap();
    }
    assert_eq!(client.reconnects(), 0, "an answer did not come");
}

#[test]
fn a_store_replaces_the_older_page_even_while_that_is_in_flight() {
    let server = Server::start(&["--capacity", "8M"]);
    let client = connect(&server);
    let slot = Slot(3);
    let tickets: Vec<_> = (0..50)
        .map(|version| client.submit_store(slot, &page(slot, version)).unwrap())
        .collect();
    assert_eq!(load(&client, slot).unwrap(), page(slot, 49));
    tickets
        .into_iter()
        .for_each(|ticket| ticket.wait().unwrap());
    assert_eq!(server.used_pages(), 1);
}

#[test]
fn a_run_of_slots_is_loaded_in_one_and_not_across_clusters() {
    let server = Server::start(&["--capacity", "8M"]);
    let client = connect(&server);
    for i in 500..512 {
        client.store(Slot(i), &page(Slot(i), 0)).unwrap();
    }
    let pages = client.submit_load(Slot(500), 12).unwrap().wait().unwrap();
    for (i, got) in (500..).zip(pages.chunks(PAGE_SIZE)) {
        assert_eq!(got, page(Slot(i), 0));
    }
    assert!(matches!(
        client.submit_load(Slot(500), 13),
        Err(Error::Run { count: 13, .. })
    ));
    assert!(matches!(
        client.submit_load(Slot(500), 0),
        Err(Error::Run { .. })
    ));
    client.free(Slot(505)).unwrap();
    let hole = client.submit_load(Slot(500), 12).unwrap().wait();
    assert!(matches!(hole, Err(Error::NotFound { slot: Slot(500) })));
}

#[test]
fn a_freed_slot_is_empty_at_once_and_on_the_server_after_a_flush() {
    let server = Server::start(&["--capacity", "8M"]);
    let client = connect(&server);
    let slots = (0..100).map(Slot);
    let tickets: Vec<_> = slots
        .clone()
        .map(|slot| client.submit_store(slot, &page(slot, 1)).unwrap())
        .collect();
    client.free_run(Slot(0), 50).unwrap();
    for slot in slots.clone().take(50) {
        assert!(
            matches!(load(&client, slot), Err(Error::NotFound { .. })),
            "{slot:?}"
        );
    }
    // Stored again behind the free: the free must not take it.
    client.store(Slot(10), &page(Slot(10), 2)).unwrap();
    client.flush().unwrap();
    assert_eq!(server.used_pages(), 51);
    assert_eq!(load(&client, Slot(10)).unwrap(), page(Slot(10), 2));
    assert_eq!(load(&client, Slot(50)).unwrap(), page(Slot(50), 1));
    tickets
        .into_iter()
        .for_each(|ticket| ticket.wait().unwrap());
}

#[test]
fn frees_of_more_clusters_than_may_be_in_flight_all_arrive() {
    let server = Server::start(&["--capacity", "256M"]);
    let client = Client::connect(
        server.address,
        ClientConfig {
            streams: 1,
            ..config()
        },
    )
    .unwrap();
    let slots = (0..200).map(|i| Slot(i * 512 + i));
    let tickets: Vec<_> = slots
        .clone()
        .map(|slot| client.submit_store(slot, &page(slot, 1)).unwrap())
        .collect();
    tickets
        .into_iter()
        .for_each(|ticket| ticket.wait().unwrap());
    slots.for_each(|slot| client.free(slot).unwrap());
    client.flush().unwrap();
    assert_eq!(server.used_pages(), 0);
}

#[test]
fn a_full_server_refuses_new_slots_and_still_takes_those_it_has() {
    let server = Server::start(&["--capacity", "2M"]);
    let client = connect(&server);
    let capacity = server.number("capacity_pages");
    let slots = (0..capacity).map(Slot);
    slots
        .clone()
        .for_each(|slot| client.store(slot, &page(slot, 1)).unwrap());
    let refused = client.store(Slot(capacity), &page(Slot(0), 1));
    let status = match refused {
        Err(Error::StoreRefused { status, .. }) => status,
        other => panic!("{other:?}"),
    };
    assert!(status.is_no_room(), "{status:?}");
    assert!(matches!(
        load(&client, Slot(capacity)),
        Err(Error::NotFound { .. })
    ));
    client.store(Slot(3), &page(Slot(3), 2)).unwrap();
    assert_eq!(load(&client, Slot(3)).unwrap(), page(Slot(3), 2));
    client.free(Slot(4)).unwrap();
    // The free and the store are of two clusters, so perhaps on two streams, without an order.
    client.flush().unwrap();
    client
        .store(Slot(capacity), &page(Slot(capacity), 1))
        .unwrap();
    assert_eq!(
        load(&client, Slot(capacity)).unwrap(),
        page(Slot(capacity), 1)
    );
}

#[test]
fn bye_frees_the_pages_and_a_drop_keeps_them_until_the_next_life() {
    let server = Server::start(&["--capacity", "8M"]);
    let client = connect(&server);
    client.store(Slot(1), &page(Slot(1), 1)).unwrap();
    drop(client);
    assert_eq!(server.used_pages(), 1);
    // The server may take a moment to see that the connections are gone.
    let client = (0..100)
        .find_map(|_| match Client::connect(server.address, config()) {
            Ok(client) => Some(client),
            Err(Error::Refused {
                status: Status::Busy,
                ..
            }) => {
                std::thread::sleep(std::time::Duration::from_millis(20));
                None
            }
            Err(other) => panic!("{other}"),
        })
        .expect("the region comes free");
    assert_eq!(server.used_pages(), 0);
    client.store(Slot(1), &page(Slot(1), 1)).unwrap();
    assert_eq!(server.used_pages(), 1);
    client.bye().unwrap();
    assert_eq!(server.used_pages(), 0);
}

#[test]
fn many_threads_share_a_session() {
    let server = Server::start(&["--capacity", "32M"]);
    let config = ClientConfig {
        stores_in_flight: 8,
        loads_in_flight: 3,
        ..config()
    };
    let client = Arc::new(Client::connect(server.address, config).unwrap());
    let threads: Vec<_> = (0..8_u64)
        .map(|thread| {
            let client = client.clone();
            std::thread::spawn(move || {
                for round in 0..200 {
                    let slot = Slot(thread * 100_000 + round * 37 % 64);
                    client.store(slot, &page(slot, round)).unwrap();
                    assert_eq!(load(&client, slot).unwrap(), page(slot, round));
                    if round % 3 == 0 {
                        client.free(slot).unwrap();
                        assert!(matches!(load(&client, slot), Err(Error::NotFound { .. })));
                    }
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    client.flush().unwrap();
    assert_eq!(client.reconnects(), 0, "an answer did not come");
}

#[test]
fn tickets_that_nobody_waits_for_are_done_all_the_same() {
    let server = Server::start(&["--capacity", "8M"]);
    let client = connect(&server);
    for i in 0..600 {
        drop(client.submit_store(Slot(i), &page(Slot(i), 1)).unwrap());
        drop(client.submit_load(Slot(0), 1).unwrap());
    }
    client.flush().unwrap();
    assert_eq!(client.reconnects(), 0, "an answer did not come");
    assert_eq!(server.used_pages(), 600);
    assert_eq!(load(&client, Slot(599)).unwrap(), page(Slot(599), 1));
}

#[test]
fn the_servers_statistics_are_json() {
    let server = Server::start(&["--capacity", "8M"]);
    let client = connect(&server);
    client.store(Slot(1), &page(Slot(1), 1)).unwrap();
    let report: serde_json::Value = serde_json::from_str(&client.stat().unwrap()).unwrap();
    assert_eq!(report["used_pages"], 1);
}
