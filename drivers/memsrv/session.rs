// SPDX-License-Identifier: GPL-2.0-only

//! A link's thread: it connects, sends what nobody else has sent, watches the time, and says goodbye.
//!
//! ```text
//!            connected, welcomed                  broken, silent, protocol fault
//!   down ------------------------> up ----------------------------------------------> down
//!    ^  |                          |
//!    +--+ refused, unreachable:    +--> stopped (rmmod): frees flushed, BYE
//!         again after a while
//! ```
//!
//! While down, stores end after `store_ms` and loads after `hold_ms`; what is left when the link is
//! up again is sent again, in order.

use super::areas::index;
use super::config::{Config, Server};
use super::engine::Replica;
use super::lane::State;
use super::link::{event, Link};
use super::no_session::{is_absence, NoSession};
use super::platform::{
    socket::Connection,
    sys,
    thread::{should_stop, Bell, ThreadMain}, //
};
use super::protocol::{Instance, Message, Seq, Status};
use super::refill::{Refilling, Source};
use super::rx::Rx;
use super::tx::Pumped;
use kernel::{
    prelude::*,
    str::CStr,
    sync::{
        atomic::{Acquire, Relaxed, Release},
        Arc, //
    }, //
};

/// Steps of connecting that may each wait: the network's, and two of the handshake.
const STEPS: u64 = 3;
/// How long each of them may take, in milliseconds; less where stores must end sooner.
pub(super) const STEP_MS: u64 = 1000;
/// The delays before connecting anew: doubled each time, from the first to the last.
const RETRY_MS: (u64, u64) = (100, 3000);
/// A connection that lasted so long was a good one: the delays begin anew.
const GOOD_MS: u64 = 5000;
/// A server that still has our earlier life's connections is asked again for so long, at insmod.
const BUSY_MS: u64 = 15_000;
/// How long the last frees may take at rmmod.
const GOODBYE_MS: u64 = 3000;
/// How long a server that is to forward needs at the least: it asks its mirror first, for half a second.
const FORWARD_MS: u64 = 700;
/// How often a socket that took no more is tried anew, in milliseconds, should no event come.
const BLOCKED_MS: u32 = 20;
/// How often the clock is looked at while something is in flight, in milliseconds.
const WATCH_MS: u32 = 200;

/// When to connect, and what was said of it.
pub(super) struct Session {
    pub(super) started_ms: u64,
    pub(super) connected_ms: u64,
    /// When there was a connection last.
    pub(super) up_ms: u64,
    pub(super) retry_at_ms: u64,
    pub(super) retry_ms: u64,
    pub(super) blocked: bool,
    /// Why it could not be spoken to, as it was logged last since it was last there; all ways to be away are one.
    pub(super) told: Option<Error>,
    pub(super) refilling: Refilling,
    /// Whether another server is to take this one's place.
    pub(super) replaced: bool,
    /// Whether the mirror, when it was looked at in the server's place, had not got all that was acknowledged.
    pub(super) lacks: bool,
    /// How often the servers had changed places when an attempt to connect began.
    pub(super) turns: u32,
}

impl Session {
    /// Whether a reason for being without a connection is another than the last that was logged; it is logged now.
    pub(super) fn is_news(&mut self, reason: &NoSession) -> bool {
        let errno = match reason.errno() {
            error if is_absence(error) => EAGAIN,
            error => error,
        };
        self.told.replace(errno) != Some(errno)
    }

    fn new() -> Self {
        Self {
            started_ms: sys::now_ms(),
            connected_ms: 0,
            up_ms: sys::now_ms(),
            retry_at_ms: 0,
            retry_ms: RETRY_MS.0,
            blocked: false,
            told: None,
            refilling: Refilling::default(),
            replaced: false,
            lacks: false,
            turns: 0,
        }
    }

    /// Connecting failed, or the connection did not last: the next attempt is later each time.
    pub(super) fn back_off(&mut self) {
        let now = sys::now_ms();
        if self.connected_ms != 0 && now.saturating_sub(self.connected_ms) >= GOOD_MS {
            self.retry_ms = RETRY_MS.0;
        }
        self.connected_ms = 0;
        self.retry_at_ms = now.saturating_add(self.retry_ms);
        self.retry_ms = self.retry_ms.saturating_mul(2).min(RETRY_MS.1);
    }
}

/// What the engine is told of a connection: whether there is one, what for, and the server's window.
pub(super) enum Attached {
    Whole(u32),
    /// For loads only.
    Reading(u32),
    No,
}

impl ThreadMain for Link {
    const IN_RECLAIM: bool = true;

    fn main(self: Arc<Self>) {
        let mut session = Session::new();
        let part = self.part();
        part.bell.ring(event::WATCH);
        loop {
            let events = part.bell.wait(self.timeout(&session));
            if should_stop() || part.leaving.load(Relaxed) {
                break;
            }
            if self.connected() {
                self.tend(&mut session, events);
            } else {
                self.wait_down(&mut session, events);
            }
        }
        self.close();
        part.left.complete_all();
    }

    fn bell(&self) -> &Bell {
        &self.part().bell
    }
}

impl Link {
    pub(super) fn config(&self) -> &Config {
        &self.lane.shared.config
    }

    pub(super) fn server(&self) -> Server {
        self.lane.shared.address(self.replica)
    }

    /// How long the thread may sleep: 0 is without limit.
    fn timeout(&self, session: &Session) -> u32 {
        let unread = self.lane.unread.len() > 0;
        let behind = self.is_behind();
        let state = self.lane.state.lock();
        let reads = state.streams.is_attached(self.replica);
        let there = reads || state.streams.is_connected(self.replica);
        let busy = state.streams.oldest_ms(self.replica).is_some() || unread;
        let timeout = if !there && self.is_idle() && !self.follows() {
            0
        } else if !there {
            let left = session.retry_at_ms.saturating_sub(sys::now_ms()).max(1);
            u32::try_from(left).unwrap_or(u32::MAX).min(WATCH_MS)
        } else if session.blocked {
            BLOCKED_MS
        } else if busy {
            match self.config().mirror {
                Some(_) => u32::try_from(self.config().hedge_ms / 2).unwrap_or(u32::MAX),
                None => WATCH_MS,
            }
            .clamp(1, WATCH_MS)
        } else if (behind && !reads) || session.replaced {
            WATCH_MS
        } else {
            0
        };
        // Under the lock: what is asked from here on rings, if nobody looks at the clock.
        self.part().watched.store(timeout != 0, Relaxed);
        timeout
    }

    fn connected(&self) -> bool {
        self.lane.is_connected(self.replica) || self.reads()
    }

    /// The link is up: send, and see whether the server still answers.
    fn tend(&self, session: &mut Session, events: u32) {
        let relay = &self.lane.shared.areas.relay;
        if events & event::BROKEN != 0 {
            self.disconnect(session, "the connection was lost");
            let relayed = self.replica == Replica::Primary && relay.is_on();
            let damaged = self.replica == Replica::Primary && relay.take_damaged();
            if damaged || relayed {
                // Nobody waits for a page that is asked for again, or for a mirror, longer than need be.
                session.retry_at_ms = 0;
            }
            if damaged && relayed && relay.is_at_server() {
                self.turn(session, self.server());
            }
            self.expire(0);
            return;
        }
        if events & event::MOVED != 0 {
            self.disconnect(session, "another server goes on in its place");
            session.retry_at_ms = 0;
            return;
        }
        if events & event::ALONE != 0 {
            self.lane.shared.tell_mirrors();
        }
        session.replaced |= events & event::REPLACED != 0;
        if session.replaced {
            if self.leave_to_other() {
                self.disconnect(session, "another server takes its place");
                session.retry_at_ms = 0;
                session.replaced = false;
                return;
            }
            // The other one has gone meanwhile; what this one has is needed until that is back.
            self.part().up.store(true, Relaxed);
        }
        // Before it asks for something itself.
        if events == 0 && !session.blocked {
            self.lane.note_overslept(self.replica);
        }
        if !self.reads() {
            if events & event::FREE != 0 {
                self.lane.flush_frees(self.replica);
            }
            self.refill(&mut session.refilling);
        }
        self.lane.read_again();
        session.blocked = self.lane.send_once(self.replica) == Pumped::Blocked;
        if let Some(why) = self.overdue(session.connected_ms) {
            let server = self.server();
            self.disconnect(session, why);
            if relay.is_at_server() {
                self.turn(session, server);
            }
            self.expire(0);
        } else if self.config().mirror.is_some() {
            self.hedge();
            if self.lane.shared.has_given_up(self.replica.other()) {
                self.expire(0);
            }
        }
    }

    /// The link is down: give up what waited too long, and try to connect when it is time.
    fn wait_down(self: &Arc<Self>, session: &mut Session, events: u32) {
        self.lane.load_room.notify_all();
        session.replaced |= events & event::REPLACED != 0;
        if events & event::ALONE != 0 {
            self.lane.shared.tell_mirrors();
        }
        // Back at the server, which did not do a moment ago, there is no haste.
        let moved = events & event::MOVED != 0 && !self.lane.shared.areas.relay.is_at_server();
        if core::mem::take(&mut session.replaced) || moved {
            session.retry_at_ms = 0;
            session.retry_ms = RETRY_MS.0;
        }
        // In this order: a mirror's link that is neither to read nor idle is one for good.
        let follows = self.follows();
        if self.is_idle() && !follows {
            self.first_ended(0);
            self.expire(0);
            return;
        }
        if sys::now_ms() < session.retry_at_ms {
            self.expire(0);
            return;
        }
        if follows {
            self.first_ended(0);
            self.follow(session);
            self.expire(0);
            return;
        }
        // Nobody looks at the clock while this connects.
        self.expire(STEPS * self.step_ms());
        // In this order: if they change places in between, the attempt ends before it is used.
        session.turns = self.lane.turns();
        let server = self.server();
        let went_on = self.go_on(server, session);
        match went_on.and_then(|()| self.connect(server, session)) {
            Ok(()) => {
                session.connected_ms = sys::now_ms();
                session.told = None;
                session.blocked = false;
                self.first_ended(0);
            }
            Err(reason) => {
                self.not_connected(session, &reason);
                self.turn(session, server);
            }
        }
        self.expire(0);
    }

    /// How long a step of connecting may take, so that stores end in time all the same.
    pub(super) fn step_ms(&self) -> u64 {
        let least = if self.asks_to_forward() {
            FORWARD_MS
        } else {
            0
        };
        STEP_MS.min(self.config().store_ms / (STEPS + 1)).max(least)
    }

    fn not_connected(&self, session: &mut Session, reason: &NoSession) {
        let first = self.is_first();
        let busy = matches!(reason, NoSession::Refused(Status::Busy));
        let waited = sys::now_ms().saturating_sub(session.started_ms);
        session.back_off();
        if first && busy && waited < BUSY_MS {
            // An earlier life of this machine may still be connected, in the server's eyes.
            return;
        }
        let news = session.is_news(reason);
        let outdated = matches!(reason, NoSession::Outdated | NoSession::WholeOnly);
        if first || (outdated && news) {
            reason.log(self);
        } else if news {
            ratelimited!(
                pr_warn,
                "{self}: {} is away ({:?}); {}\n",
                self.server(),
                reason.errno(),
                match self.config().mirror {
                    None if self.config().through => "its pages are read from the disk",
                    None => "its stores go elsewhere, its loads wait for hold_ms",
                    Some(_) => "the other server carries on alone",
                }
            );
        }
        let stale = !first && matches!(reason, NoSession::Refused(Status::Stale));
        if stale {
            // What it has of ours it will not give.
            self.lost_pages();
            if self.lane.shared.refused_as_stale(self.replica) {
                reason.log(self);
            }
        }
        self.first_ended(reason.errno().to_errno());
    }

    /// Whether it is insmod that connects.
    pub(super) fn is_first(&self) -> bool {
        self.part().first.load(Relaxed) == 1
    }

    fn first_ended(&self, errno: i32) {
        let part = self.part();
        if part.first.load(Relaxed) == 1 {
            part.first.store(errno, Release);
            part.first_done.complete_all();
        }
    }

    /// Waits until the first attempt to connect has ended.
    pub(crate) fn wait_first(&self) -> Result {
        self.part().first_done.wait_for_completion();
        kernel::error::to_result(self.part().first.load(Acquire))
    }

    fn connect(self: &Arc<Self>, server: Server, session: &mut Session) -> Result<(), NoSession> {
        let (lane, part) = (&self.lane, self.part());
        let relay = &lane.shared.areas.relay;
        let step_ms = u32::try_from(self.step_ms()).unwrap_or(u32::MAX);
        let connection = Connection::open(server.0, step_ms).map_err(NoSession::Network)?;
        let (asked, executed) = self.last();
        let welcome = self.handshake(&connection, asked)?;
        let known = asked == Instance::default() || asked == welcome.instance;
        let forgot = !known || welcome.executed < executed;
        if forgot && self.replica == Replica::Primary && relay.is_on() {
            if !self.may_forget(session) {
                return Err(NoSession::Forgot);
            }
            relay.lost();
            lane.shared.tell_mirrors();
        }
        if !known && welcome.executed > Seq(0) {
            // Its pages were newest once, and would be taken for it again.
            return Err(NoSession::Outdated);
        }
        self.forwarded(server, &welcome);
        let told = lane.shared.welcomed(self.replica, asked, &welcome);
        if let Some(held) = told.map_err(NoSession::Network)? {
            self.started_anew(held);
        }
        if forgot {
            // Only this lane's: the others find out by themselves, when their connections are gone, too.
            self.lost_pages();
        }
        // Held to the end, so that nobody finds a socket without a stream or the other way round.
        let mut tx = part.tx.lock();
        part.heard_ms.store(sys::now_ms(), Relaxed);
        // Before there are callbacks: the server may say something at once.
        let source = Source::new(server.0, welcome.instance);
        let here = lane.change(|state| {
            let here = state.turns == session.turns;
            if let (true, Some(place)) = (here, state.sources.get_mut(index(self.replica))) {
                *place = source;
                if self.replica == Replica::Primary {
                    // Before it can acknowledge anything.
                    lane.promised(state, &welcome);
                }
                self.attached(state, Some(welcome.window));
            }
            here
        });
        if !here {
            return Err(NoSession::Network(EAGAIN));
        }
        match connection.attach(self.clone(), Rx::with(self.lz4())) {
            Ok(socket) => {
                lane.shared.if_at(self.replica, server, || {
                    part.up.store(true, Relaxed);
                    lane.shared.is_back(self.replica);
                });
                // What is broken by now says so.
                socket.poll();
                tx.reset(Some(socket));
            }
            Err(error) => {
                lane.change(|state| self.attached(state, None));
                return Err(NoSession::Network(error));
            }
        }
        drop(tx);
        if self.replica == Replica::Primary {
            relay.connected();
            session.lacks = false;
        }
        if part.first.load(Relaxed) != 1 {
            ratelimited!(pr_info, "{self}: connected to {server} again\n");
            part.reconnects.fetch_add(1u64, Relaxed);
        }
        part.bell.ring(event::SEND | event::FREE);
        Ok(())
    }

    /// The life of the server that this lane was connected to last, and what that has executed.
    pub(super) fn last(&self) -> (Instance, Seq) {
        let state = self.lane.state.lock();
        let source = state.sources.get(index(self.replica));
        let instance = source.map_or(Instance::default(), Source::instance);
        (instance, state.streams.executed(self.replica))
    }

    /// Before this server leaves for good: from now on the other one has all that counts of this lane, if it
    /// is there and whole. In one piece, so that it cannot fall behind meanwhile.
    fn leave_to_other(&self) -> bool {
        let (shared, other) = (&self.lane.shared, self.replica.other());
        self.lane.change(|state| {
            let whole = state.streams.is_connected(other) && shared.areas.behind(other) == 0;
            if whole {
                self.lost_pages();
            }
            whole
        })
    }

    /// The server does not have the pages of this lane any more.
    fn lost_pages(&self) {
        let mine = |cluster| self.lane.has(cluster);
        self.lane.shared.lost(self.replica, mine);
    }

    /// Tells the engine of a connection with that window, or of its end.
    pub(super) fn attached(&self, state: &mut State, window: Option<u32>) {
        let how = window.map_or(Attached::No, Attached::Whole);
        self.tell_engine(state, how);
    }

    /// The same, whatever the connection is for.
    pub(super) fn tell_engine(&self, state: &mut State, how: Attached) {
        let State { streams, table, .. } = state;
        let (areas, pool) = (&self.lane.shared.areas, &self.lane.shared.pool);
        let now = sys::now_ms();
        let done = &mut |ended| table.complete(ended, pool);
        match how {
            Attached::Whole(window) => streams.connected(self.replica, window, areas, now, done),
            Attached::Reading(window) => streams.attached(self.replica, window, areas, now, done),
            Attached::No => streams.disconnected(self.replica, areas, now, done),
        }
        // What waited for one server may have gone to the other.
        self.lane.tell_output(streams);
    }

    fn started_anew(&self, held: u64) {
        let server = self.server();
        if held == 0 {
            return;
        }
        match self.config().mirror {
            None if self.config().through => pr_warn!(
                "server {server} has started anew: the {held} pages that were there are on the disk\n"
            ),
            None => pr_err!(
                "server {server} has started anew: {held} pages are lost; programs that need them get SIGBUS\n"
            ),
            Some(_) => pr_warn!(
                "server {server} has started anew, without the pages that it held; of {held} pages some are on one server only\n"
            ),
        }
    }

    /// Ends the connection; what is unanswered waits for the next, or goes to the other server.
    fn disconnect(&self, session: &mut Session, why: &str) {
        session.up_ms = sys::now_ms();
        ratelimited!(
            pr_warn,
            "{self}: {why}; connecting to {} anew\n",
            self.server()
        );
        self.drop_connection(false);
        session.blocked = false;
        session.back_off();
    }

    /// Takes the connection away from everybody, and closes it or returns it; `None` if there is none.
    fn drop_connection(&self, keep: bool) -> Option<Connection> {
        self.part().up.store(false, Relaxed);
        // As in `connect`.
        let mut tx = self.part().tx.lock();
        let (connection, rx) = tx.reset(None)?.detach();
        // Closed before its pages are anybody's again: what TCP still had to send of them goes with it.
        let connection = Some(connection).filter(|_| keep);
        self.lane.change(|state| {
            rx.end(&mut state.table);
            if self.replica == Replica::Primary {
                let moved = self.lane.shared.areas.relay.is_at_mirror();
                let next = if moved {
                    Replica::Primary
                } else {
                    Replica::Mirror
                };
                state.failing_over = Some(next);
            }
            self.attached(state, None);
        });
        drop(tx);
        connection
    }

    /// rmmod, or the machine's end: the last frees, and BYE from the last link; then the connection is
    /// closed.
    fn close(&self) {
        let until = sys::now_ms().saturating_add(GOODBYE_MS);
        while self.connected() && sys::now_ms() < until {
            self.lane.flush_frees(self.replica);
            self.lane.pump(self.replica, &mut self.part().tx.lock());
            let state = self.lane.state.lock();
            let streams = &state.streams;
            if !streams.has_output(self.replica) && streams.frees_in_flight(self.replica) == 0 {
                break;
            }
            drop(state);
            // Whatever happens rings the bell; the limit is for a server that does not answer.
            if self.part().bell.wait_stopping(BLOCKED_MS) & event::BROKEN != 0 {
                break;
            }
        }
        // The threads are stopped from the last to the first. With the disk behind it the module may go with
        // stores under way; the server learns of that by the end of the connection.
        let last = self.lane.number == 0;
        let says_bye =
            last && !self.reads() && self.lane.state.lock().streams.stores_in_flight() == 0;
        let connection = self.drop_connection(says_bye);
        // And with loads.
        self.expire(0);
        if let Some(connection) = connection {
            if connection.send_all(&Message::Bye.encode()).is_ok() {
                // The server closes when it has read it.
                let mut end = [0u8; 1];
                let _ = connection.receive_exact(&mut end);
            }
        }
    }
}

/// The thread's name, as `ps` shows it.
pub(crate) const THREAD_NAME: &CStr = c"memsrv";
