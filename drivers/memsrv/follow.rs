// SPDX-License-Identifier: GPL-2.0-only

//! Reading at a mirror that the server feeds, while the server is spoken to: so loads need not wait for a server that is
//! slow, or away, until the session has gone over to the mirror.
//!
//! A mirror's link, which has nothing else to do then, opens a connection that only reads (ATTACH). To all that is
//! stored, freed, admitted or said to be up, it is none. When a page may be asked for there, and when the answer counts,
//! the engine says (`engine::Lane::attached`); here is for how long such a connection is wanted:
//!
//! - from a handshake in which the server promises that the mirror is first in all that it acknowledges, until a handshake
//!   without that, or its word that it has lost the mirror. Then the engine is told before the next acknowledgement;
//! - opened only as long as it is the server that is spoken to; once open, kept while it is not known whether the mirror
//!   takes its place. When that is known the mirror is a server like another.

use super::engine::Replica;
use super::lane::{Lane, State};
use super::link::{event, Link};
use super::no_session::NoSession;
use super::platform::{
    socket::Connection,
    sys, //
};
use super::protocol::{Hello, Welcome};
use super::rx::Rx;
use super::session::{Attached, Session, STEP_MS};
use kernel::{
    prelude::*,
    sync::{
        atomic::Relaxed,
        Arc, //
    },
};

impl Lane {
    /// A new connection to the primary is about to be used, on which it has promised that much. Under the lane's lock.
    pub(super) fn promised(&self, state: &mut State, welcome: &Welcome) {
        let all = Hello::FORWARD | Hello::MIRROR_FIRST;
        if welcome.options & all == all {
            let mirror = self.part(Replica::Mirror);
            mirror.follows.store(true, Relaxed);
            mirror.bell.ring(event::WATCH);
        } else {
            self.alone(state);
        }
    }

    /// The primary may acknowledge from now on what the mirror has not got. Under the lane's lock.
    pub(super) fn alone(&self, state: &mut State) {
        let mirror = self.part(Replica::Mirror);
        mirror.follows.store(false, Relaxed);
        state.streams.dismiss(Replica::Mirror);
        if state.streams.is_attached(Replica::Mirror) {
            mirror.bell.ring(event::MOVED);
        }
    }
}

impl Link {
    /// Whether this link is to read at a mirror that the server feeds.
    pub(super) fn follows(&self) -> bool {
        let at_server = self.lane.shared.areas.relay.is_at_server();
        self.replica == Replica::Mirror && at_server && self.part().follows.load(Relaxed)
    }

    /// Whether it does.
    pub(super) fn reads(&self) -> bool {
        self.replica == Replica::Mirror && self.lane.state.lock().streams.is_attached(self.replica)
    }

    /// Tries to. If that is not to be, loads wait for the server as if there were no mirror.
    pub(super) fn follow(self: &Arc<Self>, session: &mut Session) {
        session.turns = self.lane.turns();
        match self.try_follow(session) {
            Ok(()) => {
                session.connected_ms = sys::now_ms();
                session.told = None;
                session.blocked = false;
                let server = self.server();
                ratelimited!(pr_info, "{self}: pages can be read at {server}, too\n");
                self.part().bell.ring(event::SEND);
            }
            Err(reason) => {
                session.back_off();
                if session.is_news(&reason) {
                    ratelimited!(
                        pr_warn,
                        "{self}: pages cannot be read at {} for now ({:?}): loads wait for the server, which forwards to it\n",
                        self.server(),
                        reason.errno()
                    );
                }
            }
        }
    }

    fn try_follow(self: &Arc<Self>, session: &Session) -> Result<(), NoSession> {
        let (lane, part) = (&self.lane, self.part());
        let network = NoSession::Network;
        let step_ms = u32::try_from(STEP_MS).unwrap_or(u32::MAX);
        let connection = Connection::open(self.server().0, step_ms).map_err(network)?;
        let welcome = self.ask_to_read(&connection)?;
        // As in `connect`.
        let mut tx = part.tx.lock();
        part.heard_ms.store(sys::now_ms(), Relaxed);
        let here = lane.change(|state| {
            let here = state.turns == session.turns && self.follows();
            if here {
                self.tell_engine(state, Attached::Reading(welcome.window));
            }
            here
        });
        if !here {
            return Err(network(EAGAIN));
        }
        match connection.attach(self.clone(), Rx::reading(self.lz4())) {
            Ok(socket) => {
                socket.poll();
                tx.reset(Some(socket));
                Ok(())
            }
            Err(error) => {
                lane.change(|state| self.attached(state, None));
                Err(network(error))
            }
        }
    }
}
