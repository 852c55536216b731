// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What is promised while connections break, servers restart, and nobody answers.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::common::{config, load, page, Server};
use memsrv_client::{Client, ClientConfig, Error, Slot};
use proptest::test_runner::{RngAlgorithm, TestRng};

/// Passes bytes on between clients and a server, and breaks connections after some of them.
struct Cutter {
    address: SocketAddr,
    calm: Arc<AtomicBool>,
}

impl Cutter {
    /// Each connection lives for fewer than `most` bytes in each direction.
    fn start(server: SocketAddr, most: usize, seed: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let calm = Arc::new(AtomicBool::new(false));
        let calm_too = calm.clone();
        let mut random = random(seed);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let (down, up) = (socket.unwrap(), TcpStream::connect(server).unwrap());
                down.set_nodelay(true).unwrap();
                up.set_nodelay(true).unwrap();
                for (from, to) in [(&down, &up), (&up, &down)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let calm = calm_too.clone();
                    let limit = random(most);
                    std::thread::spawn(move || pass(from, to, limit, &calm));
                }
            }
        });
        Self { address, calm }
    }
}

/// Passes bytes on until there are no more, or as many as the limit says.
fn pass(mut from: TcpStream, mut to: TcpStream, mut limit: usize, calm: &AtomicBool) {
    let mut buffer = [0; 10_000];
    loop {
        let n = from.read(&mut buffer).unwrap_or(0);
        let passed = if calm.load(Ordering::Relaxed) {
            n
        } else {
            n.min(limit)
        };
        if n == 0 || to.write_all(&buffer[..passed]).is_err() || passed < n {
            break;
        }
        limit = limit.saturating_sub(passed);
    }
    for socket in [from, to] {
        let _gone = socket.shutdown(Shutdown::Both);
    }
}

/// Numbers below a limit, the same for the same seed.
fn random(seed: u64) -> impl FnMut(usize) -> usize + Send {
    use proptest::prelude::RngCore;
    let seed: Vec<u8> = seed.to_le_bytes().repeat(4);
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    move |below| usize::try_from(rng.next_u64() % u64::try_from(below).unwrap()).unwrap()
}

/// A seed that is printed, so that a failure can be had again with `MEMSRV_SEED`.
fn seed() -> u64 {
    let given = std::env::var("MEMSRV_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let clock = || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        u64::from(now.unwrap().subsec_nanos())
    };
    let seed = given.unwrap_or_else(clock);
    println!("MEMSRV_SEED={seed}");
    seed
}

fn quick() -> ClientConfig {
    ClientConfig {
        connect_timeout: Duration::from_secs(2),
        silence_timeout: Duration::from_millis(300),
        store_timeout: Duration::from_millis(500),
        load_timeout: Duration::from_millis(500),
        ..config()
    }
}

/// Many operations in flight, against what a map says; each answer as it must be.
fn work(server: &Server, client: &Client, steps: usize, mut random: impl FnMut(usize) -> usize) {
    let mut oracle = BTreeMap::new();
    let (mut stores, mut loads) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let slot = Slot(u64::try_from(random(4) * 512 + random(12)).unwrap());
        let version = u64::try_from(step).unwrap();
        match random(10) {
            0..=4 => {
                // An older load of the slot might see the new page.
                loads.retain(|(other, _, _)| *other != slot);
                stores.push(client.submit_store(slot, &page(slot, version)).unwrap());
                oracle.insert(slot, version);
            }
            5..=8 => {
                let expected = oracle.get(&slot).copied();
                loads.push((slot, expected, client.submit_load(slot, 1).unwrap()));
            }
            _ => {
                loads.retain(|(other, _, _)| *other != slot);
                client.free(slot).unwrap();
                oracle.remove(&slot);
            }
        }
        if random(20) == 0 {
            loads
                .drain(..)
                .for_each(|(slot, expected, ticket)| check(slot, expected, ticket.wait()));
        }
    }
    loads
        .into_iter()
        .for_each(|(slot, expected, ticket)| check(slot, expected, ticket.wait()));
    stores.into_iter().for_each(|ticket| ticket.wait().unwrap());
    client.flush().unwrap();
    for (&slot, &version) in &oracle {
        assert!(
            load(client, slot).unwrap() == page(slot, version),
            "{slot:?}"
        );
    }
    assert_eq!(server.used_pages(), u64::try_from(oracle.len()).unwrap());
}

fn check(slot: Slot, expected: Option<u64>, got: Result<Vec<u8>, Error>) {
    match (expected, got) {
        (Some(version), Ok(got)) => assert!(got == page(slot, version), "wrong page in {slot:?}"),
        (None, Err(Error::NotFound { .. })) => {}
        (expected, got) => panic!("{slot:?}: {expected:?} became {:?}", got.map(|_| "a page")),
    }
}

#[test]
fn every_answer_is_right_on_a_good_network() {
    let server = Server::start(&["--capacity", "8M"]);
    let client = Client::connect(server.address, config()).unwrap();
    work(&server, &client, 5000, random(seed()));
    assert_eq!(client.reconnects(), 0);
}

#[test]
fn every_answer_is_right_however_often_connections_break() {
    let server = Server::start(&["--capacity", "8M"]);
    let seed = seed();
    let cutter = Cutter::start(server.address, 200_000, seed);
    // A handshake may be cut, too.
    let client = (0..100)
        .find_map(|_| Client::connect(cutter.address, config()).ok())
        .unwrap();
    work(&server, &client, 3000, random(seed.wrapping_add(1)));
    cutter.calm.store(true, Ordering::Relaxed);
    println!("{} connections made anew", client.reconnects());
    assert!(client.reconnects() > 5);
    assert_eq!(client.last_fault(), None);
}

#[test]
fn without_a_server_stores_and_loads_expire_and_later_ones_work_again() {
    let server = Server::start(&["--capacity", "8M"]);
    let address = server.address;
    let client = Client::connect(address, quick()).unwrap();
    client.store(Slot(1), &page(Slot(1), 1)).unwrap();
    drop(server);
    let start = Instant::now();
    let load_ticket = client.submit_load(Slot(1), 1).unwrap();
    let store = client.store(Slot(2), &page(Slot(2), 1));
    assert!(
        matches!(store, Err(Error::StoreExpired { slot: Slot(2) })),
        "{store:?}"
    );
    let loaded = load_ticket.wait().map(|_| ());
    assert!(
        matches!(loaded, Err(Error::LoadExpired { slot: Slot(1) })),
        "{loaded:?}"
    );
    assert!(start.elapsed() < Duration::from_secs(5));
    // A new server life: what the old one held is gone, and says so; new pages are kept.
    let before = client.instance();
    let _server = Server::start_on(address, &["--capacity", "8M"]);
    let start = Instant::now();
    while client.store(Slot(3), &page(Slot(3), 1)).is_err() {
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    assert_ne!(client.instance(), before);
    assert!(matches!(
        load(&client, Slot(1)),
        Err(Error::NotFound { .. })
    ));
    assert!(matches!(
        load(&client, Slot(2)),
        Err(Error::NotFound { .. })
    ));
    assert_eq!(load(&client, Slot(3)).unwrap(), page(Slot(3), 1));
}

#[test]
fn bye_and_flush_without_a_server_say_that_it_keeps_the_pages() {
    let server = Server::start(&["--capacity", "8M"]);
    let client = Client::connect(server.address, quick()).unwrap();
    client.store(Slot(1), &page(Slot(1), 1)).unwrap();
    drop(server);
    client.free(Slot(1)).unwrap();
    assert!(matches!(client.flush(), Err(Error::Unreachable { .. })));
    assert!(matches!(client.bye(), Err(Error::Unreachable { .. })));
}

#[test]
fn a_server_that_keeps_quiet_is_left_and_its_operations_expire() {
    let server = Server::start(&["--capacity", "8M"]);
    // Lets WELCOME pass and then some, so that an answer is cut off but the connection stays.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = server.address;
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for down in listener.incoming() {
            let (mut down, mut up) = (down.unwrap(), TcpStream::connect(upstream).unwrap());
            let mut hello = [0; 240];
            if down.read_exact(&mut hello).is_ok() {
                up.write_all(&hello).unwrap();
                let mut welcome = [0; 112];
                up.read_exact(&mut welcome).unwrap();
                down.write_all(&welcome).unwrap();
            }
            kept.push(down);
        }
    });
    let client = Client::connect(address, quick()).unwrap();
    let start = Instant::now();
    let loaded = load(&client, Slot(1));
    assert!(
        matches!(loaded, Err(Error::LoadExpired { .. })),
        "{loaded:?}"
    );
    assert!(client.reconnects() > 0);
    assert!(start.elapsed() < Duration::from_secs(10));
}
