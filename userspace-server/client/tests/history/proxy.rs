// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What stands between a client and the server: passes bytes on, late or not at all.
//!
//! What a connection suffers is decided by the seed, the client, and the connection's number at this proxy:
//! after how many bytes of each direction it ends, whether by a reset or in good order, where it stalls and
//! for how long, and how large the pieces are that pass at a time. What was on its way to the server when
//! the client's connection ended may still get there later, when the client has connected anew.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{sleep, spawn, JoinHandle};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

use crate::random::Random;

/// Where the server is; `None` while there is none.
pub type Upstream = Arc<Mutex<Option<SocketAddr>>>;

pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    upstream: Upstream,
    calm: AtomicBool,
    stopped: AtomicBool,
    cuts: AtomicU64,
    /// Not held: a reset goes out when nobody has the socket any more.
    open: Mutex<Vec<Weak<Pair>>>,
}

/// A client's connection, and the one to the server that it goes on by.
struct Pair {
    down: TcpStream,
    up: TcpStream,
    /// The client's connection has ended, the server's has not.
    half: AtomicBool,
}

/// What one direction of a connection suffers.
struct Plan {
    random: Random,
    /// Bytes until it ends.
    left: usize,
    reset: bool,
}

impl Proxy {
    /// Starts one that does no harm yet.
    pub fn start(upstream: Upstream, seed: u64, client: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            upstream,
            calm: AtomicBool::new(true),
            stopped: AtomicBool::new(false),
            cuts: AtomicU64::new(0),
            open: Mutex::new(Vec::new()),
        });
        let run = {
            let shared = shared.clone();
            move || shared.accept(&listener, seed, client)
        };
        Self {
            address,
            shared,
            thread: Some(spawn(run)),
        }
    }

    /// Lets everything pass at once, or no more.
    pub fn set_calm(&self, calm: bool) {
        self.shared.calm.store(calm, Ordering::SeqCst);
    }

    /// Ends all connections, wherever they are in a message.
    pub fn reset(&self) {
        let open = self.shared.open.lock().unwrap();
        open.iter()
            .filter_map(Weak::upgrade)
            .for_each(|pair| pair.end(true));
    }

    /// How many connections it ended by its own decision.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread, if it is still there.
        let _woken = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || std::thread::panicking());
        }
        self.reset();
    }
}

impl Shared {
    fn accept(self: &Arc<Self>, listener: &TcpListener, seed: u64, client: u64) {
        for (number, down) in (0..).zip(listener.incoming()) {
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            // Without a server the client's connection ends at once.
            let upstream = *self.upstream.lock().unwrap();
            let up = upstream.map(TcpStream::connect);
            let (Ok(down), Some(Ok(up))) = (down, up) else {
                continue;
            };
            let half = AtomicBool::new(false);
            let pair = Arc::new(Pair { down, up, half });
            let mut open = self.open.lock().unwrap();
            open.retain(|pair| pair.strong_count() > 0);
            open.push(Arc::downgrade(&pair));
            drop(open);
            for upward in [true, false] {
                let plan = Plan::new(Random::new(seed, &[1, client, number, upward.into()]));
                let (shared, pair) = (self.clone(), pair.clone());
                spawn(move || shared.pass(&pair, upward, plan));
            }
        }
    }

    /// Passes bytes on in one direction until there are no more, or the plan says so.
    fn pass(&self, pair: &Pair, upward: bool, mut plan: Plan) {
        let (mut from, mut to) = match upward {
            true => (&pair.down, &pair.up),
            false => (&pair.up, &pair.down),
        };
        // Small pieces shall go as they come; a connection that is gone is seen below.
        let _gone = to.set_nodelay(true);
        let mut buffer = [0; 20_000];
        loop {
            let calm = self.calm.load(Ordering::SeqCst);
            let room = if calm { buffer.len() } else { plan.piece() };
            let n = from.read(&mut buffer[..room]).unwrap_or(0);
            let passed = if self.calm.load(Ordering::SeqCst) {
                n
            } else {
                n.min(plan.left)
            };
            let written = to.write_all(&buffer[..passed]).is_ok();
            if n == 0 || !(written || pair.half.load(Ordering::SeqCst)) {
                return pair.end(false);
            }
            if passed < n {
                self.cuts.fetch_add(1, Ordering::SeqCst);
                if upward && plan.random.one_in(2) {
                    pair.deliver_late(&buffer[passed..n], plan.random.below(40));
                }
                return pair.end(plan.reset);
            }
            plan.left = plan.left.saturating_sub(passed);
        }
    }
}

impl Pair {
    /// Ends the client's connection and has the server get these bytes later all the same.
    fn deliver_late(&self, bytes: &[u8], ms: u64) {
        self.half.store(true, Ordering::SeqCst);
        let _gone = self.down.shutdown(Shutdown::Both);
        sleep(Duration::from_millis(ms));
        let _gone = (&self.up).write_all(bytes);
    }

    /// Ends both connections, in good order or by a reset.
    fn end(&self, reset: bool) {
        for socket in [&self.down, &self.up] {
            // What is gone already needs no end.
            let _gone = match reset {
                // The reset goes out when both threads, which this wakes, have left the socket.
                true => set_socket_linger(socket, Some(Duration::ZERO))
                    .map_err(Into::into)
                    .and_then(|()| socket.shutdown(Shutdown::Read)),
                false => socket.shutdown(Shutdown::Both),
            };
        }
    }
}

impl Plan {
    fn new(mut random: Random) -> Self {
        let most = [2_000, 50_000, 400_000][random.size(3)];
        Self {
            left: random.size(most),
            reset: random.one_in(2),
            random,
        }
    }

    /// How many bytes pass next, after a stall perhaps.
    fn piece(&mut self) -> usize {
        if self.random.one_in(64) {
            sleep(Duration::from_millis(self.random.below(40)));
        }
        let most = [64, 5_000, 20_000][self.random.size(3)];
        1 + self.random.size(most)
    }
}
