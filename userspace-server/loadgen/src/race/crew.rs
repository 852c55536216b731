// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The threads that serve the connections, each with an epoll of its own, and what they are told to do.

use std::sync::mpsc::{channel, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use memsrv_protocol::Name;
use mio::{Events, Interest, Poll, Token};
use rustix::rand::{getrandom, GetRandomFlags};

use crate::connection::{Connection, Tally, Work, SILENCE};
use crate::echo::Echo;
use crate::memsrv::Memsrv;
use crate::nbd::Nbd;
use crate::options::{Language, Options};
use crate::protocol::Protocol;
use crate::random::Random;
use crate::resp::Resp;
use crate::Failure;

/// What all threads do at the same time.
#[derive(Clone, Copy, Debug)]
pub enum Phase {
    /// Store every page.
    Fill,
    /// Load and store at random.
    Measure {
        /// Requests in flight on each connection.
        depth: u16,
        /// How many of a hundred are loads.
        loads: u8,
        /// How long.
        time: Duration,
        /// What the random places start from.
        seed: u64,
    },
}

/// A thread, and the two ends that reach it.
struct Hand {
    orders: Sender<Phase>,
    results: Receiver<Result<Tally, Failure>>,
    thread: JoinHandle<()>,
}

/// All threads.
pub struct Crew {
    hands: Vec<Hand>,
    depth: u16,
}

impl Crew {
    /// Connects, and starts the threads.
    ///
    /// # Errors
    ///
    /// The server cannot be reached or refuses; no thread.
    pub fn start(options: &Options) -> Result<Self, Failure> {
        let threads = usize::from(options.threads);
        let mut shares: Vec<Vec<Connection>> =
            std::iter::repeat_with(Vec::new).take(threads).collect();
        for (number, share) in (0..options.connections).zip((0..threads).cycle()) {
            let connection = connect(options, number)?;
            if let Some(share) = shares.get_mut(share) {
                share.push(connection);
            }
        }
        let mut hands = Vec::new();
        for connections in shares {
            let mut worker = Worker::new(connections)?;
            let (orders, ordered) = channel();
            let (reply, results) = channel();
            let work = move || {
                while let Ok(phase) = ordered.recv() {
                    if reply.send(worker.run(phase)).is_err() {
                        return;
                    }
                }
            };
            let thread = std::thread::Builder::new()
                .spawn(work)
                .map_err(Failure::Thread)?;
            hands.push(Hand {
                orders,
                results,
                thread,
            });
        }
        Ok(Self {
            hands,
            depth: options.depth,
        })
    }

    /// The most requests that may be in flight on a connection.
    pub fn depth(&self) -> u16 {
        self.depth
    }

    /// Has all threads do this, and waits for them.
    ///
    /// # Errors
    ///
    /// A connection is lost, or an answer is wrong.
    pub fn run(&self, phase: Phase) -> Result<Tally, Failure> {
        for hand in &self.hands {
            hand.orders.send(phase).map_err(|_| Failure::Ended)?;
        }
        let mut total = Tally::new()?;
        for hand in &self.hands {
            let tally = hand.results.recv().map_err(|_| Failure::Ended)??;
            total.add(&tally)?;
        }
        Ok(total)
    }

    /// Takes leave of the server and waits until all threads have ended.
    ///
    /// # Errors
    ///
    /// A thread has panicked.
    pub fn end(self) -> Result<(), Failure> {
        for hand in self.hands {
            drop(hand.orders);
            hand.thread.join().map_err(|_| Failure::Ended)?;
        }
        Ok(())
    }
}

fn connect(options: &Options, number: u16) -> Result<Connection, Failure> {
    let pages = options.pages.div_ceil(u32::from(options.connections));
    let base = u64::from(pages) * u64::from(number);
    let depth = options.depth;
    let codec: Box<dyn Protocol> = match options.protocol {
        Language::Memsrv => {
            let name = format!("race-{}-{number}", std::process::id());
            let name = Name::new(name.as_bytes()).ok_or(Failure::Ended)?;
            let mut incarnation = [0; 16];
            getrandom(&mut incarnation, GetRandomFlags::empty()).map_err(std::io::Error::from)?;
            Box::new(Memsrv::new(name, incarnation, base, pages, depth))
        }
        Language::Nbd => Box::new(Nbd::new(base, pages)),
        Language::Resp => Box::new(Resp::new(base)),
        Language::Echo => Box::new(Echo::default()),
    };
    Connection::open(&options.server, codec, base, pages, depth)
}

/// What one thread has.
struct Worker {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
}

impl Worker {
    fn new(mut connections: Vec<Connection>) -> Result<Self, Failure> {
        let poll = Poll::new()?;
        let both = Interest::READABLE | Interest::WRITABLE;
        for (number, connection) in connections.iter_mut().enumerate() {
            poll.registry()
                .register(&mut connection.socket, Token(number), both)?;
        }
        let events = Events::with_capacity(connections.len().max(1));
        Ok(Self {
            poll,
            events,
            connections,
        })
    }

    fn run(&mut self, phase: Phase) -> Result<Tally, Failure> {
        let mut tally = Tally::new()?;
        let start = Instant::now();
        for (number, connection) in (0_u64..).zip(&mut self.connections) {
            let slots = connection.slots();
            let (work, depth) = match phase {
                Phase::Fill => (Work::Fill(slots), u16::MAX),
                Phase::Measure {
                    depth,
                    loads,
                    time,
                    seed,
                } => {
                    let random = Random(seed.wrapping_add(number << 32));
                    (Work::Random(random, loads, start + time), depth)
                }
            };
            connection.start(work, depth)?;
        }
        let busy = |connections: &[Connection]| {
            connections
                .iter()
                .filter(|connection| connection.is_busy())
                .count()
        };
        let mut busy = busy(&self.connections);
        while busy > 0 {
            busy -= self.wait(&mut tally)?;
        }
        Ok(tally)
    }

    /// Waits for some of the answers, takes them, and says how many connections are idle since.
    fn wait(&mut self, tally: &mut Tally) -> Result<usize, Failure> {
        if let Err(error) = self.poll.poll(&mut self.events, Some(SILENCE)) {
            if error.kind() == std::io::ErrorKind::Interrupted {
                return Ok(0);
            }
            return Err(error.into());
        }
        if self.events.is_empty() {
            return Err(Failure::Silent);
        }
        let mut idle = 0;
        for event in &self.events {
            if let Some(connection) = self.connections.get_mut(event.token().0) {
                let was_busy = connection.is_busy();
                connection.turn(tally)?;
                idle += usize::from(was_busy && !connection.is_busy());
            }
        }
        Ok(idle)
    }
}
