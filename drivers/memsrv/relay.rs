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
//! Until OFF only the primary's links are connected. The server at their end has the same streams, with the
//! same numbers, wherever that is, so going over is no more than another address: the engine sends again what was
//! not acknowledged, as after any lost connection. The other server counts as away meanwhile, and
//! falls behind for all that is stored. Once OFF, both are spoken to as with `mirror=`, and the one that is behind
//! is refilled.

use super::config::Server;
use super::lane::Lane;
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Full, Relaxed},
        new_mutex,
        Arc,
        Mutex, //
    }, //
};

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
            found <- new_mutex!(None),
            lanes <- new_mutex!(KVec::new()),
        })
    }

    /// Whether the mirror's links are to stay down.
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
    /// Whether that is news.
    pub(crate) fn lost(&self) -> bool {
        self.change(at::SERVER, at::OFF) || self.change(at::MIRROR, at::BACK)
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
        if self.change(at::SERVER, at::MIRROR) {
            Turn::Over
        } else if self.change(at::MIRROR, at::SERVER) || self.change(at::BACK, at::OFF) {
            Turn::Back
        } else {
            Turn::Stay
        }
    }

    /// The mirror goes on where the server ended; false: it must not. Under the addresses' lock.
    pub(super) fn settle(&self) -> bool {
        self.change(at::MIRROR, at::OFF)
    }
}
