// SPDX-License-Identifier: GPL-2.0-only

//! A mirror that the server feeds (`memsrvd --mirror`): which of the two is spoken to, and when to go over.
//!
//! ```text
//!            the server is away, has started anew,          the mirror goes on where it ended
//!            or does not give a page                        (all lanes follow)
//!   AT_SERVER ------------------------------> AT_MIRROR ------------------------------> OFF
//!    |      ^                                 |  |                                       ^
//!    |      +---------------------------------+  | MIRROR_LOST came meanwhile            |
//!    |        it cannot be reached, or lacks     v                                       |
//!    |        what was acknowledged            BACK ------- at the server again ---------+
//!    +-----------------------------------------------------------------------------------+
//!             MIRROR_LOST: the server acknowledges alone from now on
//! ```
//!
//! Until OFF only the primary's links are connected, the mirror's at the most for reading (`follow.rs`). The server at their end has the same streams, with the
//! same numbers, wherever that is, so going over is no more than another address: the engine sends again what was
//! not acknowledged, as after any lost connection. The other server counts as away meanwhile, and
//! falls behind for all that is stored. Once OFF, both are spoken to as with `mirror=`, and the one that is behind
//! is refilled.

use super::config::Server;
use super::engine::Replica;
use super::lane::Lane;
use super::link::Link;
use super::no_session::NoSession;
use super::platform::{socket::Connection, sys};
use super::protocol::{Hello, Instance, Seq, Welcome};
use super::session::{Session, STEP_MS};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Full, Relaxed},
        new_mutex,
        Arc,
        Mutex, //
    },
    time::{delay::fsleep, Delta}, //
};

/// How many operations a server lets its mirror be behind.
const MOST_BEHIND: u64 = 2048;

/// How long both servers are asked for pages that the disk has, too, in milliseconds, before one is taken that has
/// lost them.
const MIRROR_MS: u64 = 10_000;

/// How long nobody goes over to a mirror that did not do, in milliseconds: doubled each time.
const WAIT_MS: (u64, u64) = (100, 3000);

/// How long the server is believed that it has not got pages once the mirror was to be asked, in milliseconds.
const GONE_MS: u64 = 10_000;

/// The states.
mod at {
    pub(super) const OFF: u32 = 0;
    pub(super) const SERVER: u32 = 1;
    pub(super) const MIRROR: u32 = 2;
    pub(super) const BACK: u32 = 3;
}

/// What is to be done after an attempt to connect has failed.
#[derive(PartialEq, Eq)]
pub(crate) enum Turn {
    /// Try the same one again, later.
    Stay,
    /// Try the mirror now.
    Over,
    /// Try the server again, later.
    Back,
}

/// The state, and who is to hear of it.
#[pin_data]
pub(crate) struct Relay {
    state: Atomic<u32>,
    /// Whether the server did not give a page.
    damaged: Atomic<bool>,
    /// When it said last that it has not got one, in milliseconds.
    gone_ms: Atomic<u64>,
    /// Until when nobody goes over, since the mirror did not do, and how long that was, in milliseconds.
    wait_until_ms: Atomic<u64>,
    wait_ms: Atomic<u64>,
    /// The mirror that the server named before there was anything to store.
    #[pin]
    found: Mutex<Option<Server>>,
    /// All lanes, while their threads run. Held for moments, by threads only.
    #[pin]
    pub(super) lanes: Mutex<KVec<Arc<Lane>>>,
}

impl Relay {
    /// Whether the server feeds a mirror that it has named.
    pub(crate) fn new(on: bool) -> impl PinInit<Self> {
        pin_init!(Self {
            state: Atomic::new(if on { at::SERVER } else { at::OFF }),
            damaged: Atomic::new(false),
            gone_ms: Atomic::new(0),
            wait_until_ms: Atomic::new(0),
            wait_ms: Atomic::new(0),
            found <- new_mutex!(None),
            lanes <- new_mutex!(KVec::new()),
        })
    }

    /// Whether the mirror's links are to stay down, or only read.
    pub(crate) fn is_on(&self) -> bool {
        self.state.load(Relaxed) != at::OFF
    }

    /// Whether the primary is the server that feeds the mirror.
    pub(crate) fn is_at_server(&self) -> bool {
        self.state.load(Relaxed) == at::SERVER
    }

    /// Whether the primary is the mirror that the server fed, and it is not known yet whether it can go on.
    pub(crate) fn is_at_mirror(&self) -> bool {
        matches!(self.state.load(Relaxed), at::MIRROR | at::BACK)
    }

    fn change(&self, from: u32, to: u32) -> bool {
        self.state.cmpxchg(from, to, Full).is_ok()
    }

    /// The server acknowledges alone from now on. Any context; before the next acknowledgement is looked at.
    pub(crate) fn lost(&self) {
        while matches!(self.state.load(Relaxed), at::SERVER | at::MIRROR) {
            if self.change(at::SERVER, at::OFF) || self.change(at::MIRROR, at::BACK) {
                return;
            }
        }
    }

    /// The server says that it has not got a page: whether the mirror is to be asked, which it is once in
    /// [`GONE_MS`]. Any context.
    pub(crate) fn gone(&self) -> bool {
        let now = sys::now_ms();
        if !self.is_at_server() || now.saturating_sub(self.gone_ms.load(Relaxed)) < GONE_MS {
            return false;
        }
        self.gone_ms.store(now, Relaxed);
        self.damaged();
        true
    }

    /// There is a connection to the primary.
    pub(crate) fn connected(&self) {
        self.wait_ms.store(0, Relaxed);
    }

    /// The server did not give a page that it has acknowledged, which is to be asked for on a new connection.
    /// Any context.
    pub(crate) fn damaged(&self) {
        self.damaged.store(true, Relaxed);
    }

    /// Whether it did not, since this was last asked.
    pub(crate) fn take_damaged(&self) -> bool {
        self.damaged.load(Relaxed) && {
            self.damaged.store(false, Relaxed);
            true
        }
    }

    /// The server has named its mirror.
    pub(crate) fn find(&self, mirror: Server) {
        *self.found.lock() = Some(mirror);
    }

    /// The mirror that it has named.
    pub(crate) fn found(&self) -> Option<Server> {
        *self.found.lock()
    }

    /// The primary's address changes, if the state allows it: what is to be done. Under the addresses' lock.
    pub(super) fn turn(&self) -> Turn {
        let now = sys::now_ms();
        if now >= self.wait_until_ms.load(Relaxed) && self.change(at::SERVER, at::MIRROR) {
            return Turn::Over;
        }
        if !self.change(at::MIRROR, at::SERVER) && !self.change(at::BACK, at::OFF) {
            return Turn::Stay;
        }
        let (first, last) = WAIT_MS;
        let wait = self.wait_ms.load(Relaxed).saturating_mul(2);
        let wait = wait.clamp(first, last);
        self.wait_ms.store(wait, Relaxed);
        self.wait_until_ms.store(now.saturating_add(wait), Relaxed);
        Turn::Back
    }

    /// The mirror goes on where the server ended; false: it must not. Under the addresses' lock.
    pub(super) fn settle(&self) -> bool {
        self.change(at::MIRROR, at::OFF)
    }
}

impl Link {
    /// Whether there is nothing to do for this link: the other server sees to its server, or lane 0 to whether
    /// the mirror can go on.
    pub(super) fn is_idle(&self) -> bool {
        let relay = &self.lane.shared.areas.relay;
        match self.replica {
            Replica::Primary => relay.is_at_mirror() && self.lane.number != 0,
            Replica::Mirror => relay.is_on(),
        }
    }

    /// With the mirror in the server's place: makes sure that it has all that was acknowledged on any lane. From
    /// then on it is the primary.
    pub(super) fn go_on(&self, server: Server, session: &mut Session) -> Result<(), NoSession> {
        let shared = &self.lane.shared;
        if self.replica == Replica::Mirror || !shared.areas.relay.is_at_mirror() {
            return Ok(());
        }
        let network = NoSession::Network;
        let lanes = shared.lanes().map_err(network)?;
        // What the server may still say would count.
        let mut patience = STEP_MS;
        while lanes.iter().any(|lane| lane.is_connected(self.replica)) {
            patience = patience.checked_sub(1).ok_or(network(EBUSY))?;
            fsleep(Delta::from_millis(1));
        }
        let step_ms = u32::try_from(self.step_ms()).unwrap_or(u32::MAX);
        let mut instance: Option<Instance> = None;
        let mut missing = KVec::new();
        for lane in &lanes {
            let connection = Connection::open(server.0, step_ms).map_err(network)?;
            let link = Link::new(lane.clone(), self.replica).map_err(network)?;
            let welcome = link.handshake(&connection, Instance::default())?;
            let one_life = *instance.get_or_insert(welcome.instance) == welcome.instance;
            let lacks = link.last().1 .0.saturating_sub(welcome.executed.0);
            let does = match (lacks, welcome.executed) {
                (0, _) => true,
                // It has started anew.
                (_, Seq(0)) => self.may_forget(session),
                // The server, if it can be had after all, lacks nothing.
                _ => lacks <= MOST_BEHIND && session.lacks,
            };
            if !one_life || !does {
                session.lacks = true;
                return Err(NoSession::Outdated);
            }
            missing
                .push(lacks, GFP_KERNEL)
                .map_err(|_| network(ENOMEM))?;
        }
        let life = instance.unwrap_or_default();
        let lost = shared.settle(server, life, &missing).map_err(network)?;
        if lost > 0 {
            pr_err!(
                "{server} has not got the last {lost} pages that were stored; programs that need them get SIGBUS\n"
            );
        }
        Ok(())
    }

    /// Whether pages that may be elsewhere are given up: by the administrator, or because the disk has them.
    pub(super) fn may_forget(&self, session: &Session) -> bool {
        let waited = sys::now_ms().saturating_sub(session.up_ms);
        let through = self.config().through && waited >= MIRROR_MS;
        through || self.lane.shared.has_given_up(self.replica)
    }

    /// The server, if it forwards to its mirror, or the mirror, if that is in its place, does not do: the other
    /// one is tried. Every other time it is at once.
    pub(super) fn turn(&self, session: &mut Session, from: Server) {
        let shared = &self.lane.shared;
        let first = self.part().first.load(Relaxed) == 1;
        if self.replica == Replica::Mirror || first || !shared.areas.relay.is_on() {
            return;
        }
        if shared.turn(from) == Turn::Over {
            session.retry_at_ms = 0;
            let to = self.server();
            ratelimited!(pr_warn, "{self}: going over from {from} to {to}\n");
        }
    }

    /// Whether the server is to feed a mirror, if it has one: where there is nothing stored yet, to know whether
    /// it has; and as long as it does.
    pub(super) fn asks_to_forward(&self) -> bool {
        let first = self.part().first.load(Relaxed) == 1;
        let unknown = self.config().mirror.is_none() && self.lane.number == 0 && first;
        let relayed = self.lane.shared.areas.relay.is_at_server();
        self.replica == Replica::Primary && (unknown || relayed)
    }

    /// What a server's WELCOME says of a mirror.
    pub(super) fn forwarded(&self, server: Server, welcome: &Welcome) {
        let relay = &self.lane.shared.areas.relay;
        if self.replica == Replica::Mirror {
            return;
        }
        if let (None, Some(mirror)) = (self.config().mirror, welcome.mirror) {
            relay.find(Server::from(mirror));
        }
        if relay.is_at_server() && welcome.options & Hello::FORWARD == 0 {
            pr_warn!("{self}: server {server} does not reach its mirror, which is spoken to directly from now on\n");
            relay.lost();
            self.lane.shared.tell_mirrors();
        }
    }
}
