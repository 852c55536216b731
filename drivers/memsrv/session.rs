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
use super::no_session::NoSession;
use super::platform::{
    socket::Connection,
    sys,
    thread::{should_stop, Bell, ThreadMain}, //
};
use super::protocol::{
    Hello, Instance, Message, Sender, Seq, Status, Welcome, HEADER_LEN, VERSION,
};
use super::refill::{Refilling, Source};
use super::relay::Turn;
use super::rx::Rx;
use super::tx::Pumped;
use kernel::{
    prelude::*,
    str::CStr,
    sync::{
        atomic::{Acquire, Relaxed, Release},
        Arc, //
    },
    time::{delay::fsleep, Delta}, //
};

/// Steps of connecting that may each wait: the network's, and two of the handshake.
const STEPS: u64 = 3;
/// How long each of them may take, in milliseconds; less where stores must end sooner.
const STEP_MS: u64 = 1000;
/// The delays before connecting anew: doubled each time, from the first to the last.
const RETRY_MS: (u64, u64) = (100, 3000);
/// A connection that lasted so long was a good one: the delays begin anew.
const GOOD_MS: u64 = 5000;
/// A server that still has our earlier life's connections is asked again for so long, at insmod.
const BUSY_MS: u64 = 15_000;
/// How long the last frees may take at rmmod.
const GOODBYE_MS: u64 = 3000;
/// How long a server that has forgotten what it acknowledged is not taken, at the least, in milliseconds: its
/// mirror may come.
const MIRROR_MS: u64 = 10_000;
/// How often a socket that took no more is tried anew, in milliseconds, should no event come.
const BLOCKED_MS: u32 = 20;
/// How often the clock is looked at while something is in flight, in milliseconds.
const WATCH_MS: u32 = 200;
/// The smallest window that leaves room for loads beside stores.
const MIN_WINDOW: u32 = 16;

/// When to connect, and what was said of it.
struct Session {
    started_ms: u64,
    connected_ms: u64,
    /// When there was a connection last.
    up_ms: u64,
    retry_at_ms: u64,
    retry_ms: u64,
    blocked: bool,
    /// Whether the server's absence was logged since it was last there.
    told: bool,
    refilling: Refilling,
    /// Whether another server is to take this one's place.
    replaced: bool,
    /// Whether the mirror, when it was looked at in the server's place, had not got all that was acknowledged.
    lacks: bool,
}

impl Session {
    fn new() -> Self {
        Self {
            started_ms: sys::now_ms(),
            connected_ms: 0,
            up_ms: sys::now_ms(),
            retry_at_ms: 0,
            retry_ms: RETRY_MS.0,
            blocked: false,
            told: false,
            refilling: Refilling::default(),
            replaced: false,
            lacks: false,
        }
    }

    /// Connecting failed, or the connection did not last: the next attempt is later each time.
    fn back_off(&mut self) {
        let now = sys::now_ms();
        if self.connected_ms != 0 && now.saturating_sub(self.connected_ms) >= GOOD_MS {
            self.retry_ms = RETRY_MS.0;
        }
        self.connected_ms = 0;
        self.retry_at_ms = now.saturating_add(self.retry_ms);
        self.retry_ms = self.retry_ms.saturating_mul(2).min(RETRY_MS.1);
    }
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
    fn config(&self) -> &Config {
        &self.lane.shared.config
    }

    fn server(&self) -> Server {
        self.lane.shared.address(self.replica)
    }

    /// How long the thread may sleep: 0 is without limit.
    fn timeout(&self, session: &Session) -> u32 {
        let unread = self.lane.unread.len() > 0;
        let behind = self.is_behind();
        let state = self.lane.state.lock();
        let busy = state.streams.oldest_ms(self.replica).is_some() || unread;
        let timeout = if self.is_idle() {
            0
        } else if !state.streams.is_connected(self.replica) {
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
        } else if behind || session.replaced {
            WATCH_MS
        } else {
            0
        };
        // Under the lock: what is asked from here on rings, if nobody looks at the clock.
        self.part().watched.store(timeout != 0, Relaxed);
        timeout
    }

    fn connected(&self) -> bool {
        self.lane.state.lock().streams.is_connected(self.replica)
    }

    /// The link is up: send, and see whether the server still answers.
    fn tend(&self, session: &mut Session, events: u32) {
        let relay = &self.lane.shared.areas.relay;
        if events & event::BROKEN != 0 {
            self.disconnect(session, "the connection was lost");
            let relayed = self.replica == Replica::Primary && relay.is_on();
            let damaged = relay.take_damaged();
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
        if events & event::FREE != 0 {
            self.lane.flush_frees(self.replica);
        }
        self.refill(&mut session.refilling);
        self.lane.read_again();
        let pumped = self.lane.pump(self.replica, &mut self.part().tx.lock());
        session.blocked = pumped == Pumped::Blocked;
        // Somebody may have asked while `tx` was held, and relied on its holder to look again.
        let more =
            pumped == Pumped::Idle && self.lane.state.lock().streams.has_output(self.replica);
        if more || pumped == Pumped::More {
            self.part().bell.ring(event::SEND);
        }
        if let Some(why) = self.overdue(session.connected_ms) {
            let server = self.server();
            self.disconnect(session, why);
            if relay.is_at_server() {
                self.turn(session, server);
            }
            self.expire(0);
        } else if self.config().mirror.is_some() {
            self.hedge();
        }
    }

    /// Asks the other server, too, for loads that wait too long for this one.
    fn hedge(&self) {
        let now = sys::now_ms();
        let before = now.saturating_sub(self.config().hedge_ms);
        let mut state = self.lane.state.lock();
        let hedged = state.streams.hedge(before, &self.lane.shared.areas, now);
        if hedged > 0 {
            state.table.counters.hedged_loads += u64::try_from(hedged).unwrap_or(0);
            self.lane.tell_output(&state.streams);
        }
    }

    /// Whether the server owes an answer for too long: it may be silent, or answer only other things.
    fn overdue(&self, connected_ms: u64) -> Option<&'static str> {
        let config = self.config();
        let now = sys::now_ms();
        let age = |since: u64| now.saturating_sub(since);
        let state = self.lane.state.lock();
        let streams = &state.streams;
        let oldest = age(streams.oldest_ms(self.replica)?);
        let heard = age(self.part().heard_ms.load(Relaxed));
        if oldest > config.silence_ms && heard > config.silence_ms {
            return Some("the server does not answer");
        }
        // With time to connect anew before a store must have ended.
        if age(streams.oldest_store_ms(self.replica).unwrap_or(now)) > config.store_ms {
            return Some("the server does not answer stores");
        }
        // A load that has waited for so long for the connection is given time to be answered on it.
        let answerable = age(connected_ms) > config.silence_ms;
        let late = |number: Option<&u32>, since| {
            answerable
                && age(since) > config.load_ms
                && !number.is_some_and(|n| state.table.is_patient(*n))
        };
        streams
            .any_load(self.replica, late)
            .then_some("the server does not answer loads")
    }

    /// The link is down: give up what waited too long, and try to connect when it is time.
    fn wait_down(self: &Arc<Self>, session: &mut Session, events: u32) {
        self.lane.load_room.notify_all();
        session.replaced |= events & event::REPLACED != 0;
        if core::mem::take(&mut session.replaced) || events & event::MOVED != 0 {
            session.retry_at_ms = 0;
            session.retry_ms = RETRY_MS.0;
        }
        if self.is_idle() {
            self.first_ended(0);
            self.expire(0);
            return;
        }
        if sys::now_ms() < session.retry_at_ms {
            self.expire(0);
            return;
        }
        // Nobody looks at the clock while this connects.
        self.expire(STEPS * self.step_ms());
        let server = self.server();
        let went_on = self.go_on(server, session);
        match went_on.and_then(|()| self.connect(server, session)) {
            Ok(()) => {
                session.connected_ms = sys::now_ms();
                session.told = false;
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

    /// Whether there is nothing to do for this link: the other server sees to its server, or lane 0 to whether
    /// the mirror can go on.
    fn is_idle(&self) -> bool {
        let relay = &self.lane.shared.areas.relay;
        match self.replica {
            Replica::Primary => relay.is_at_mirror() && self.lane.number != 0,
            Replica::Mirror => relay.is_on(),
        }
    }

    /// With the mirror in the server's place: makes sure that it has all that was acknowledged on any lane. From
    /// then on it is the primary.
    fn go_on(&self, server: Server, session: &mut Session) -> Result<(), NoSession> {
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
        let (mut instance, mut missing) = (None, KVec::new());
        for lane in &lanes {
            let connection = Connection::open(server.0, step_ms).map_err(network)?;
            let link = Link::new(lane.clone(), self.replica).map_err(network)?;
            let welcome = link.handshake(&connection, Instance::default())?;
            let lacks = link.last().1 .0.saturating_sub(welcome.executed.0);
            let one_life = *instance.get_or_insert(welcome.instance) == welcome.instance;
            // The server, if it can be had after all, lacks nothing.
            if !one_life || !lane.knows_last(lacks) || (lacks > 0 && !session.lacks) {
                session.lacks = true;
                return Err(NoSession::Outdated);
            }
            missing
                .push(lacks, GFP_KERNEL)
                .map_err(|_| network(ENOMEM))?;
        }
        shared.settle(server).map_err(network)?;
        session.lacks = false;
        let lost = lanes.iter().zip(missing).map(|(lane, n)| lane.lose_last(n));
        let lost: usize = lost.sum();
        if lost > 0 {
            pr_err!(
                "{server} has not got the last {lost} pages that were stored; programs that need them get SIGBUS\n"
            );
        }
        Ok(())
    }

    /// The server, if it forwards to its mirror, or the mirror, if that is in its place, does not do: the other
    /// one is tried. Every other time it is at once.
    fn turn(&self, session: &mut Session, from: Server) {
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

    /// How long a step of connecting may take, so that stores end in time all the same.
    fn step_ms(&self) -> u64 {
        STEP_MS.min(self.config().store_ms / (STEPS + 1))
    }

    fn not_connected(&self, session: &mut Session, reason: &NoSession) {
        let first = self.part().first.load(Relaxed) == 1;
        let busy = matches!(reason, NoSession::Refused(Status::Busy));
        let waited = sys::now_ms().saturating_sub(session.started_ms);
        session.back_off();
        if first && busy && waited < BUSY_MS {
            // An earlier life of this machine may still be connected, in the server's eyes.
            return;
        }
        let outdated = matches!(reason, NoSession::Outdated);
        if first || (outdated && !session.told) {
            reason.log(self);
        } else if !session.told {
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
        session.told = true;
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
        let (asked, acked) = self.last();
        let welcome = self.handshake(&connection, asked)?;
        let known = asked == Instance::default() || asked == welcome.instance;
        let forgot = !known || welcome.executed < acked;
        if forgot && self.replica == Replica::Primary && relay.is_on() {
            let waited = sys::now_ms().saturating_sub(session.up_ms);
            if waited < self.config().hold_ms.max(MIRROR_MS) {
                return Err(NoSession::Forgot);
            }
            // The mirror did not come for so long: as without one.
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
        lane.change(|state| {
            if let Some(place) = state.sources.get_mut(index(self.replica)) {
                *place = source;
            }
            self.attached(state, Some(welcome.window));
        });
        match connection.attach(self.clone(), Rx::new()) {
            Ok(socket) => {
                lane.shared
                    .if_at(self.replica, server, || part.up.store(true, Relaxed));
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
        lane.shared.give_up(false);
        if part.first.load(Relaxed) != 1 {
            ratelimited!(pr_info, "{self}: connected to {server} again\n");
            part.reconnects.fetch_add(1u64, Relaxed);
        }
        part.bell.ring(event::SEND | event::FREE);
        Ok(())
    }

    /// The life of the server that this lane was connected to last, and what that has acknowledged.
    fn last(&self) -> (Instance, Seq) {
        let state = self.lane.state.lock();
        let source = state.sources.get(index(self.replica));
        let instance = source.map_or(Instance::default(), Source::instance);
        (instance, state.streams.acked(self.replica))
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
    fn attached(&self, state: &mut State, window: Option<u32>) {
        let State { streams, table, .. } = state;
        let (areas, pool) = (&self.lane.shared.areas, &self.lane.shared.pool);
        let now = sys::now_ms();
        let done = &mut |ended| table.complete(ended, pool);
        match window {
            Some(window) => streams.connected(self.replica, window, areas, now, done),
            None => streams.disconnected(self.replica, areas, now, done),
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

    fn handshake(&self, connection: &Connection, instance: Instance) -> Result<Welcome, NoSession> {
        let (lane, config) = (&self.lane, self.config());
        if self.replica == Replica::Mirror && config.forwarded {
            // It has followed the primary's streams, or served them.
            lane.state.lock().streams.skip_to_other(self.replica);
        }
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            options: if self.asks_to_forward() {
                Hello::FORWARD
            } else {
                0
            },
            incarnation: lane.shared.incarnation,
            instance,
            stream: lane.number,
            streams: config.connections,
            wanted: 0,
            issued: lane.state.lock().streams.issued(self.replica),
            client: config.client,
            region: config.region,
        };
        let network = NoSession::Network;
        let mut bytes = [0u8; HEADER_LEN + Hello::LEN];
        let (header, payload) = bytes.split_at_mut(HEADER_LEN);
        header.copy_from_slice(&Message::Hello.encode());
        payload.copy_from_slice(&hello.encode());
        connection.send_all(&bytes).map_err(network)?;

        let mut header = [0u8; HEADER_LEN];
        connection.receive_exact(&mut header).map_err(network)?;
        match Message::decode(&header, Sender::Server) {
            Ok(Message::Welcome) => {
                let mut payload = [0u8; Welcome::LEN];
                connection.receive_exact(&mut payload).map_err(network)?;
                let welcome = Welcome::decode(&payload).map_err(|_| NoSession::Stranger)?;
                if welcome.version != VERSION || welcome.window < MIN_WINDOW {
                    return Err(NoSession::Stranger);
                }
                // As the server checks, too: it must not know of more than we have asked for.
                if welcome.executed > hello.issued {
                    return Err(NoSession::Refused(Status::Stale));
                }
                Ok(welcome)
            }
            Ok(Message::Refused { status, .. }) => Err(NoSession::Refused(status)),
            _ => Err(NoSession::Stranger),
        }
    }

    /// Whether the server is to feed a mirror, if it has one: where there is nothing stored yet, to know whether
    /// it has; and as long as it does.
    fn asks_to_forward(&self) -> bool {
        let first = self.part().first.load(Relaxed) == 1;
        let unknown = self.config().mirror.is_none() && self.lane.number == 0 && first;
        let relayed = self.lane.shared.areas.relay.is_at_server();
        self.replica == Replica::Primary && (unknown || relayed)
    }

    /// What a server's WELCOME says of a mirror.
    fn forwarded(&self, server: Server, welcome: &Welcome) {
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

    /// Ends the connection; what is unanswered waits for the next, or goes to the other server.
    fn disconnect(&self, session: &mut Session, why: &str) {
        session.up_ms = sys::now_ms();
        ratelimited!(
            pr_warn,
            "{self}: {why}; connecting to {} anew\n",
            self.server()
        );
        self.drop_connection();
        session.blocked = false;
        session.back_off();
    }

    /// Takes the connection away from everybody; `None` if there is none.
    fn drop_connection(&self) -> Option<Connection> {
        self.part().up.store(false, Relaxed);
        // As in `connect`.
        let mut tx = self.part().tx.lock();
        let (connection, rx) = tx.reset(None)?.detach();
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
        Some(connection)
    }

    /// Ends stores that have waited too long for the server, or will have in `ahead_ms`, since others
    /// wait for them without limit; and loads that have.
    fn expire(&self, ahead_ms: u64) {
        let (lane, config) = (&self.lane, self.config());
        let now = sys::now_ms();
        let (areas, pool) = (&lane.shared.areas, &lane.shared.pool);
        lane.change(|state| {
            let State { streams, table, .. } = state;
            let before = now.saturating_add(ahead_ms).saturating_sub(config.store_ms);
            streams.expire_stores(before, areas, &mut |ended| table.complete(ended, pool));
        });
        lane.change(|state| {
            let State { streams, table, .. } = state;
            // The engine asks about each load between the endings of others.
            let table = core::cell::RefCell::new(table);
            let hopeless = lane.shared.all_stale() || lane.shared.has_given_up();
            streams.expire_loads(
                |&number, since| {
                    let waits = now.saturating_sub(since) < config.hold_ms;
                    !hopeless && (waits || table.borrow().is_patient(number))
                },
                &mut |ended| table.borrow_mut().complete(ended, pool),
            );
        });
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
        let connection = self.drop_connection();
        // With the disk behind it the module may go with loads under way.
        self.expire(0);
        if let Some(connection) = connection {
            // The threads are stopped from the last to the first.
            if self.lane.number == 0 && connection.send_all(&Message::Bye.encode()).is_ok() {
                // The server closes when it has read it.
                let mut end = [0u8; 1];
                let _ = connection.receive_exact(&mut end);
            }
        }
    }
}

/// The thread's name, as `ps` shows it.
pub(crate) const THREAD_NAME: &CStr = c"memsrv";
