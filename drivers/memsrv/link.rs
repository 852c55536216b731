// SPDX-License-Identifier: GPL-2.0-only

//! A link: one of a lane's connections, to one of the servers, with the thread that keeps it up.

use super::engine::Replica;
use super::lane::Lane;
use super::platform::thread::Bell;
use super::tx::Tx;
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        new_mutex,
        Arc,
        Completion,
        Mutex, //
    }, //
};

/// Events of the thread.
pub(crate) mod event {
    /// There is something to send, or room to send it.
    pub(crate) const SEND: u32 = 1;
    /// Slots were freed.
    pub(crate) const FREE: u32 = 2;
    /// The connection is of no use any more.
    pub(crate) const BROKEN: u32 = 4;
    /// Something is in flight: watch the time.
    pub(crate) const WATCH: u32 = 8;
    /// The server has another address now.
    pub(crate) const REPLACED: u32 = 16;
    /// The session goes on at another server.
    pub(crate) const MOVED: u32 = 32;
    /// The server does not forward any more.
    pub(crate) const ALONE: u32 = 64;
}

/// What belongs to one connection.
#[pin_data]
pub(crate) struct Part {
    pub(crate) bell: Bell,
    /// Who holds it may send.
    #[pin]
    pub(crate) tx: Mutex<Tx>,
    /// Whether stores are worth being admitted.
    pub(crate) up: Atomic<bool>,
    /// Whether the thread looks at the clock by itself; else it must be told of what is in flight.
    pub(crate) watched: Atomic<bool>,
    /// Whether loads wait to be sent until the task that asked for them is unplugged: written under the lane's lock.
    pub(crate) plugged: Atomic<bool>,
    /// Whether a few stores wait for more of them, or the end of the plug of the task that stores: set, and ended by who
    /// sends them, under the lane's lock. Who unplugs ends it without, and looks what is due after that.
    pub(crate) held: Atomic<bool>,
    /// Of a mirror that the server feeds: whether pages may be read there meanwhile. Written under the lane's lock.
    pub(crate) follows: Atomic<bool>,
    /// When the server was last heard, in milliseconds.
    pub(crate) heard_ms: Atomic<u64>,
    pub(crate) reconnects: Atomic<u64>,
    /// Whether freed slots wait for room in the engine.
    pub(crate) frees_wait: Atomic<bool>,
    /// How the first attempt to connect ended: 1 before it has, else 0 or a negative errno.
    pub(crate) first: Atomic<i32>,
    #[pin]
    pub(crate) first_done: Completion,
    /// Whether the machine is about to end.
    pub(crate) leaving: Atomic<bool>,
    /// The thread has ended.
    #[pin]
    pub(crate) left: Completion,
}

impl Part {
    /// No connection; for pages out of a pool of so many.
    pub(crate) fn new(copies: usize) -> Result<impl PinInit<Self>> {
        let tx = Tx::new(copies)?;
        Ok(pin_init!(Self {
            bell: Bell::new(),
            tx <- new_mutex!(tx),
            up: Atomic::new(false),
            watched: Atomic::new(false),
            plugged: Atomic::new(false),
            held: Atomic::new(false),
            follows: Atomic::new(false),
            heard_ms: Atomic::new(0),
            reconnects: Atomic::new(0),
            frees_wait: Atomic::new(false),
            first: Atomic::new(1),
            first_done <- Completion::new(),
            leaving: Atomic::new(false),
            left <- Completion::new(),
        }))
    }

    /// Whether the server can be asked.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    /// The machine ends: the thread is to say goodbye and end, too.
    ///
    /// A load that is asked afterwards waits until there is no machine to wait on.
    pub(crate) fn leave(&self) {
        self.leaving.store(true, Relaxed);
        self.bell.ring(event::WATCH);
    }

    /// Waits until it has.
    pub(crate) fn has_left(&self) {
        self.left.wait_for_completion();
    }
}

/// One connection, as its thread and its socket know it.
pub(crate) struct Link {
    pub(crate) lane: Arc<Lane>,
    pub(crate) replica: Replica,
}

impl Link {
    /// A lane's connection to one of the servers.
    pub(crate) fn new(lane: Arc<Lane>, replica: Replica) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { lane, replica }, GFP_KERNEL)?)
    }

    /// What belongs to it.
    pub(crate) fn part(&self) -> &Part {
        self.lane.part(self.replica)
    }
}

impl kernel::fmt::Display for Link {
    fn fmt(&self, f: &mut kernel::fmt::Formatter<'_>) -> kernel::fmt::Result {
        match self.replica {
            Replica::Primary => write!(f, "link {}", self.lane.number),
            Replica::Mirror => write!(f, "mirror link {}", self.lane.number),
        }
    }
}
