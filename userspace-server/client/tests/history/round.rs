// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Rounds: each starts a server, lets clients work while it and the network fail, and has the history checked.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{mpsc, Arc, Mutex};
use std::thread::{scope, sleep, spawn};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use memsrv_client::{Client, ClientConfig, Error, Slot};

use crate::check::{check, Op, What};
use crate::proxy::{Proxy, Upstream};
use crate::random::Random;
use crate::server::Server;
use crate::work::{Clock, Counts, Worker, CLUSTERS, SLOTS, THREADS};

/// Whose regions they are: two of one client, and one of the same name of another client.
const REGIONS: [(&str, &str); 3] = [("one", "first"), ("one", "second"), ("two", "first")];

/// Operations of each thread in a round.
const STEPS: u64 = 120;

/// How long a round may take; only one in which something never ends takes so long.
const PATIENCE: Duration = Duration::from_secs(300);

/// What happens to the server or to everybody; the proxies do the rest.
#[derive(Debug)]
enum Fault {
    /// All connections are reset.
    Resets,
    /// SIGSTOP, and SIGCONT so many milliseconds later.
    Pause(u64),
    /// SIGKILL, and an empty server so many milliseconds later.
    Restart(u64),
}

/// What a round is, all of it from its seed.
struct Plan {
    /// The server's memory: all slots fit in, or about half of them.
    capacity: &'static str,
    /// What happens once so many steps are done.
    faults: Vec<(u64, Fault)>,
}

impl Plan {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, &[3]);
        let clients = u64::try_from(REGIONS.len()).unwrap();
        let steps = STEPS * THREADS * clients;
        let mut at: Vec<u64> = (0..3).map(|_| random.below(steps)).collect();
        at.sort_unstable();
        let mut fault = |at| {
            let fault = match random.below(4) {
                0 => Fault::Resets,
                1 | 2 => Fault::Pause(random.below(250)),
                _ => Fault::Restart(random.below(120)),
            };
            (at, fault)
        };
        let faults = at.into_iter().map(&mut fault).collect();
        let capacity = if random.one_in(2) { "1M" } else { "160K" };
        Self { capacity, faults }
    }
}

/// A round's things.
struct Round {
    clock: Clock,
    upstream: Upstream,
    proxies: Vec<Proxy>,
    clients: Vec<Client>,
    /// When servers died.
    lost: Vec<Op>,
    /// What was done, by client and slot.
    ops: BTreeMap<(u64, Slot), Vec<Op>>,
    counts: Vec<Counts>,
}

impl Round {
    /// Connects each client through a proxy of its own.
    fn new(seed: u64, server: &Server) -> Self {
        let upstream = Arc::new(Mutex::new(Some(server.address)));
        let (mut proxies, mut clients) = (Vec::new(), Vec::new());
        for (number, (client, region)) in (0..).zip(REGIONS) {
            let proxy = Proxy::start(upstream.clone(), seed, number);
            // Short, so that operations do expire; what expires on a busy machine is no failure.
            let config = ClientConfig {
                connect_timeout: Duration::from_secs(2),
                silence_timeout: Duration::from_millis(150),
                store_timeout: Duration::from_millis(150),
                load_timeout: Duration::from_millis(200),
                stores_in_flight: 12,
                loads_in_flight: 12,
                ..ClientConfig::new(client, region)
            };
            clients.push(Client::connect(proxy.address, config).unwrap());
            proxies.push(proxy);
        }
        Self {
            clock: Clock::default(),
            upstream,
            proxies,
            clients,
            lost: Vec::new(),
            ops: BTreeMap::new(),
            counts: Vec::new(),
        }
    }

    /// Lets all threads work while the faults happen; gives back the server that there is in the end.
    fn work(&mut self, seed: u64, plan: Plan, mut server: Server) -> Server {
        self.proxies.iter().for_each(|proxy| proxy.set_calm(false));
        let (clock, clients) = (&self.clock, &self.clients);
        let mut workers: Vec<_> = (0..)
            .zip(clients)
            .flat_map(|(n, client)| {
                (0..THREADS).map(move |t| Worker::new(clock, client, n, t, seed))
            })
            .collect();
        scope(|threads| {
            let working: Vec<_> = workers
                .iter_mut()
                .map(|worker| threads.spawn(|| worker.run(STEPS)))
                .collect();
            let (upstream, proxies, lost) = (&self.upstream, &self.proxies, &mut self.lost);
            threads.spawn(|| {
                for (at, fault) in plan.faults {
                    clock.wait_for(at);
                    match fault {
                        Fault::Resets => proxies.iter().for_each(Proxy::reset),
                        Fault::Pause(ms) => server.pause(ms),
                        Fault::Restart(ms) => {
                            *upstream.lock().unwrap() = None;
                            lost.push(kill(clock, &mut server, ms, plan.capacity));
                            *upstream.lock().unwrap() = Some(server.address);
                        }
                    }
                }
            });
            let ended: Vec<_> = working.into_iter().map(|thread| thread.join()).collect();
            clock.end();
            assert!(ended.iter().all(Result::is_ok), "an answer was wrong");
        });
        for worker in workers {
            self.counts.push(worker.counts);
            for (slot, op) in worker.ops {
                self.ops.entry((worker.number, slot)).or_default().push(op);
            }
        }
        server
    }

    /// Without further faults loads every slot; gives back how many have a page.
    fn look(&mut self, seed: u64) -> u64 {
        self.proxies.iter().for_each(|proxy| proxy.set_calm(true));
        let mut pages = 0;
        for (number, client) in (0..).zip(&self.clients) {
            while let Err(error) = client.flush() {
                assert!(matches!(error, Error::Unreachable { .. }), "{error}");
            }
            let mut worker = Worker::new(&self.clock, client, number, 0, seed);
            for slot in (0..CLUSTERS * SLOTS).map(|n| Slot(n / SLOTS * 512 + n % SLOTS)) {
                let answers = worker.ops.len();
                while worker.ops.len() == answers {
                    worker.load(slot, 1);
                    worker.take(0);
                }
            }
            pages += worker.counts.loaded;
            for (slot, op) in worker.ops {
                self.ops.entry((number, slot)).or_default().push(op);
            }
        }
        pages
    }

    /// Whether each slot's history has an order.
    fn check(&self) {
        for ((client, slot), ops) in &self.ops {
            let ops = [ops.as_slice(), &self.lost].concat();
            if let Err(text) = check(&ops) {
                panic!("client {client}, slot {:#x}: {text}", slot.0);
            }
        }
    }

    fn tell(&self) -> String {
        let sum = |count: fn(&Counts) -> u64| self.counts.iter().map(count).sum::<u64>();
        format!(
            "{} stored, {} refused, {} expired, {} frees, {} loaded, {} empty, {} loads expired; {} cuts, {} reconnects",
            sum(|c| c.stored), sum(|c| c.refused), sum(|c| c.expired), sum(|c| c.frees),
            sum(|c| c.loaded), sum(|c| c.empty), sum(|c| c.loads_expired),
            self.proxies.iter().map(Proxy::cuts).sum::<u64>(),
            self.clients.iter().map(Client::reconnects).sum::<u64>(),
        )
    }
}

/// Kills the server and puts an empty one in its place; gives back when it died.
fn kill(clock: &Clock, server: &mut Server, ms: u64, capacity: &str) -> Op {
    let asked = clock.now();
    server.kill();
    let answered = clock.now();
    sleep(Duration::from_millis(ms));
    *server = Server::start(capacity);
    Op {
        asked,
        answered,
        what: What::Lost,
    }
}

/// Ends the test if the sender is not dropped in time: what waits for an answer cannot do so itself.
fn watch(seed: u64) -> mpsc::Sender<()> {
    let (ended, wait) = mpsc::channel();
    spawn(move || {
        if wait.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            let text = format!("MEMSRV_TEST_SEED={seed}: an operation never ended\n");
            // Not by a macro, whose words would be kept for the end of the test.
            let _unread = std::io::stderr().write_all(text.as_bytes());
            std::process::exit(1);
        }
    });
    ended
}

fn run(seed: u64) {
    let start = Instant::now();
    let _watched = watch(seed);
    let plan = Plan::new(seed);
    println!(
        "MEMSRV_TEST_SEED={seed}: {} for {:?}",
        plan.capacity, plan.faults
    );
    let server = Server::start(plan.capacity);
    let mut round = Round::new(seed, &server);
    let server = round.work(seed, plan, server);
    let pages = round.look(seed);
    println!("  {}; {} ms", round.tell(), start.elapsed().as_millis());
    round.check();
    assert_eq!(server.used_pages(), pages, "what was freed is still there");
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is {text}, no number")),
    )
}

#[test]
fn every_history_of_clients_under_faults_has_an_order() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let given = number("MEMSRV_TEST_SEED");
    let first = given.unwrap_or_else(|| u64::from(now.subsec_nanos()));
    let rounds = number("MEMSRV_TEST_ROUNDS").unwrap_or(if given.is_some() { 1 } else { 12 });
    for seed in (0..rounds).map(|n| first.wrapping_add(n)) {
        run(seed);
    }
}
