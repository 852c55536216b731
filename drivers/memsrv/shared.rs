// SPDX-License-Identifier: GPL-2.0-only

//! What the hooks and all lanes share.

use super::areas::{index, Areas};
use super::compress::Compression;
use super::config::{Config, Server};
use super::engine::{Clusters, Replica, Spin, Standing};
use super::lane::Lane;
use super::link::event;
use super::platform::{sys, thread::Bell};
use super::pool::Pool;
use super::protocol::{Incarnation, Instance, Slot, Welcome};
use super::refill::Source;
use super::relay::Turn;
use super::stats::HookCounters;
use kernel::{
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        new_mutex,
        new_spinlock,
        Arc,
        Mutex,
        SpinLock, //
    }, //
};

/// How long nothing is stored after a store that failed, in milliseconds: as long where the server was
/// full; else twice as long each time, up to the last, until a store goes well.
const HOLD_OFF_MS: (u64, u64) = (500, 30_000);

/// More than any server grants.
const UNKNOWN: u64 = u64::MAX;

/// Shared state.
#[pin_data]
pub(crate) struct Shared {
    pub(crate) config: Config,
    #[pin]
    pub(crate) areas: Areas,
    #[pin]
    pub(crate) pool: Pool,
    /// If pages travel compressed.
    pub(crate) compression: Option<Compression>,
    pub(crate) counters: HookCounters,
    /// This client's life.
    pub(crate) incarnation: Incarnation,
    /// Each server's life, as the last handshake of any lane told; zeroes before the first. Held by threads
    /// only.
    #[pin]
    instances: Mutex<[Instance; 2]>,
    /// Where each server is. Held for moments, by threads only.
    #[pin]
    addresses: Mutex<[Server; 2]>,
    /// Held while a command is done.
    #[pin]
    pub(crate) commanding: Mutex<()>,
    /// How many pages each server grants; [`UNKNOWN`] before it has said so.
    granted: [Atomic<u64>; 2],
    /// Whether a server refuses us for good, as one that knows a later state of ours.
    stale: [Atomic<bool>; 2],
    /// Whether the machine hibernates, so that nothing may change on the server.
    pub(crate) frozen: Atomic<bool>,
    /// Whether loads are worth being waited for without sleeping.
    #[pin]
    pub(crate) spin: SpinLock<Spin>,
    /// What it says to loads that begin, without its lock.
    pub(crate) spinning: Atomic<bool>,
    /// Folios are to be read from the disk.
    pub(crate) disk_bell: Bell,
    /// Whether nobody is to wait any more for a server, which is away.
    given_up: [Atomic<bool>; 2],
    /// Until when nothing is stored, in milliseconds, and for how long that was.
    hold_off_until_ms: Atomic<u64>,
    hold_off_ms: Atomic<u64>,
}

impl Shared {
    /// With the parameters, an empty bitmap, and a pool of the size that the parameters say.
    pub(crate) fn new(
        config: Config,
        areas: impl PinInit<Areas>,
    ) -> Result<impl PinInit<Self, Error>> {
        let pool = Pool::new(config.inflight)?;
        let compression = Compression::new(config.lz4)?;
        let addresses = Replica::BOTH.map(|replica| config.address(replica));
        Ok(try_pin_init!(Self {
            config,
            areas <- areas,
            pool <- pool,
            compression,
            counters: HookCounters::default(),
            incarnation: Incarnation(sys::random()),
            instances <- new_mutex!([Instance::default(); 2]),
            addresses <- new_mutex!(addresses),
            commanding <- new_mutex!(()),
            granted: [const { Atomic::new(UNKNOWN) }; 2],
            stale: [const { Atomic::new(false) }; 2],
            frozen: Atomic::new(false),
            spin <- new_spinlock!(Spin::default()),
            spinning: Atomic::new(Spin::default().is_spinning()),
            disk_bell: Bell::new(),
            given_up: [const { Atomic::new(false) }; 2],
            hold_off_until_ms: Atomic::new(0),
            hold_off_ms: Atomic::new(0),
        }))
    }

    /// How many pages every server grants.
    pub(crate) fn granted(&self) -> u64 {
        let granted = self.granted.iter().map(|n| n.load(Relaxed)).min();
        granted.filter(|&n| n != UNKNOWN).unwrap_or(0)
    }

    /// Where a server is.
    pub(crate) fn address(&self, replica: Replica) -> Server {
        let [primary, mirror] = *self.addresses.lock();
        match replica {
            Replica::Primary => primary,
            Replica::Mirror => mirror,
        }
    }

    /// Calls `then` if the server is still there.
    pub(crate) fn if_at(&self, replica: Replica, server: Server, then: impl FnOnce()) {
        let addresses = self.addresses.lock();
        if addresses
            .get(index(replica))
            .is_some_and(|now| now.0 == server.0)
        {
            then();
        }
    }

    /// The replicas whose links are to be up.
    pub(crate) fn spoken_to(&self) -> impl Iterator<Item = Replica> {
        let relayed = self.areas.relay.is_on();
        let spoken_to = move |replica: &Replica| *replica == Replica::Primary || !relayed;
        self.config.replicas().filter(spoken_to)
    }

    /// Whether a page that did not come back well is to be asked for again on a new connection, since nobody
    /// else can be asked now.
    pub(crate) fn asks_again(&self) -> bool {
        self.config.asks_again() || self.areas.relay.is_on()
    }

    /// The primary at that address, which feeds the mirror, cannot be spoken to, or the mirror cannot in its
    /// place: the other one of them is the primary from now on.
    pub(crate) fn turn(&self, from: Server) -> Turn {
        let mut addresses = self.addresses.lock();
        if addresses.first().is_none_or(|now| now.0 != from.0) {
            // Another lane was first: to where it went, this one follows.
            return Turn::Over;
        }
        let turn = self.areas.relay.turn();
        if turn != Turn::Stay {
            addresses.swap(0, 1);
            self.instances.lock().swap(0, 1);
            for lane in self.areas.relay.lanes.lock().iter() {
                let mut state = lane.state.lock();
                state.turns += 1;
                state.sources.swap(0, 1);
                state.failing_over = state.failing_over.map(|_| Replica::Primary);
                drop(state);
                lane.part(Replica::Primary).bell.ring(event::MOVED);
            }
        }
        turn
    }

    /// The mirror, at that address, in that life, has all that was acknowledged but so many of the last
    /// operations of each lane: it is the primary from now on. Returns how many pages are lost by that.
    ///
    /// # Errors
    ///
    /// `EAGAIN`: the server goes on, and acknowledges without it.
    pub(crate) fn settle(&self, at: Server, life: Instance, lacks: &[u64]) -> Result<usize> {
        let addresses = self.addresses.lock();
        let lanes = self.areas.relay.lanes.lock();
        if addresses.first().is_none_or(|now| now.0 != at.0) {
            return Err(EAGAIN);
        }
        let mut lost = 0;
        // Before anybody asks the mirror for them.
        for (lane, &lacks) in lanes.iter().zip(lacks) {
            lost += lane.lose_last(lacks);
            if lacks > 0 {
                // Nor has it got the last frees.
                self.areas
                    .flag_all(Replica::Primary, |cluster| lane.has(cluster));
            }
            let [primary, _] = &mut lane.state.lock().sources;
            *primary = Source::new(at.0, life);
        }
        {
            let [primary, _] = &mut *self.instances.lock();
            *primary = life;
        }
        if !self.areas.relay.settle() {
            for lane in lanes.iter() {
                lane.lose_last(0);
            }
            return Err(EAGAIN);
        }
        for lane in lanes.iter() {
            lane.part(Replica::Mirror).bell.ring(event::MOVED);
            // Lane 0's thread is the one that asks.
            if lane.number != 0 {
                lane.part(Replica::Primary).bell.ring(event::MOVED);
            }
        }
        Ok(lost)
    }

    /// The links to the mirror may connect now.
    pub(crate) fn tell_mirrors(&self) {
        for lane in self.areas.relay.lanes.lock().iter() {
            lane.part(Replica::Mirror).bell.ring(event::MOVED);
        }
    }

    /// All lanes.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn lanes(&self) -> Result<KVec<Arc<Lane>>> {
        let lanes = self.areas.relay.lanes.lock();
        let mut all = KVec::with_capacity(lanes.len(), GFP_KERNEL)?;
        for lane in lanes.iter() {
            all.push(lane.clone(), GFP_KERNEL)?;
        }
        Ok(all)
    }

    /// Another server takes the place of one.
    pub(crate) fn replace(&self, replica: Replica, server: Server) {
        if let Some(address) = self.addresses.lock().get_mut(index(replica)) {
            *address = server;
        }
    }

    /// A handshake in which a lane that knew of the life `asked` was told this one, and a grant; returns how
    /// many pages were away when an older life ended, if that is news.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the other replica is the same server. `EAGAIN`: another link has seen a later life meanwhile.
    pub(crate) fn welcomed(
        &self,
        replica: Replica,
        asked: Instance,
        welcome: &Welcome,
    ) -> Result<Option<u64>> {
        let mut instances = self.instances.lock();
        if instances.get(index(replica.other())) == Some(&welcome.instance) {
            return Err(EINVAL);
        }
        let instance = instances.get_mut(index(replica)).ok_or(EINVAL)?;
        if *instance != asked && *instance != welcome.instance {
            return Err(EAGAIN);
        }
        if let Some(granted) = self.granted.get(index(replica)) {
            granted.store(welcome.granted, Relaxed);
        }
        self.set_stale(replica, false);
        let old = core::mem::replace(instance, welcome.instance);
        let news = old != Instance::default() && old != welcome.instance;
        Ok(news.then(|| self.areas.present()))
    }

    /// A server holds a later state than ours, and refuses us. Whether that was not known.
    pub(crate) fn refused_as_stale(&self, replica: Replica) -> bool {
        let _instances = self.instances.lock();
        let news = !self.is_stale(replica);
        self.set_stale(replica, true);
        news
    }

    /// A server has lost its pages of the clusters that `mine` (by the cluster's number in its area) says.
    pub(crate) fn lost(&self, replica: Replica, mine: impl Fn(u64) -> bool) {
        if self.config.through && self.config.mirror.is_none() {
            // They are on the disk. A late acknowledgement of its older life may set a bit after this: that
            // page is then asked for, not found, and read from the disk.
            self.areas.forget(mine);
        } else {
            self.areas.lost(replica, mine);
        }
    }

    fn set_stale(&self, replica: Replica, on: bool) {
        if let Some(stale) = self.stale.get(index(replica)) {
            stale.store(on, Relaxed);
        }
    }

    fn is_stale(&self, replica: Replica) -> bool {
        let stale = self.stale.get(index(replica));
        stale.is_some_and(|stale| stale.load(Relaxed))
    }

    /// Whether every server refuses us so: nothing will come back.
    pub(crate) fn all_stale(&self) -> bool {
        let mut replicas = self.config.replicas();
        replicas.all(|replica| self.is_stale(replica))
    }

    /// Whether nobody is to wait any more for a server, which is away.
    pub(crate) fn has_given_up(&self, replica: Replica) -> bool {
        let given_up = self.given_up.get(index(replica));
        given_up.is_some_and(|given_up| given_up.load(Relaxed))
    }

    /// The administrator gives up what only servers have that are away.
    pub(crate) fn give_up(&self, is_away: impl Fn(Replica) -> bool) {
        // Who comes back does so under this lock (`if_at`).
        let _addresses = self.addresses.lock();
        for replica in self.spoken_to().filter(|&replica| is_away(replica)) {
            self.set_given_up(replica, true);
        }
    }

    /// A server is there.
    pub(crate) fn is_back(&self, replica: Replica) {
        self.set_given_up(replica, false);
    }

    fn set_given_up(&self, replica: Replica, on: bool) {
        if let Some(given_up) = self.given_up.get(index(replica)) {
            given_up.store(on, Relaxed);
        }
    }

    /// Whether a page was given up: `answers` says of a server whether it is there, but no help.
    pub(crate) fn is_given_up(&self, slot: u64, answers: impl Fn(Replica) -> bool) -> bool {
        let replicas = || self.config.replicas();
        let out = |replica| {
            self.has_given_up(replica)
                || answers(replica)
                || self.areas.standing(replica, Slot(slot)) == Standing::Behind
        };
        replicas().any(|replica| self.has_given_up(replica)) && replicas().all(out)
    }

    /// A store failed: the next go elsewhere for a while, else the same pages would come again at
    /// once, and never reach the disk.
    pub(crate) fn store_failed(&self, no_room: bool) {
        let now = sys::now_ms();
        let (first, last) = HOLD_OFF_MS;
        if now < self.hold_off_until_ms.load(Relaxed) {
            // One of many that failed together.
            return;
        }
        let next = match self.hold_off_ms.load(Relaxed) {
            _ if no_room => first,
            0 => first,
            before => before.saturating_mul(2).min(last),
        };
        self.hold_off_ms.store(next, Relaxed);
        self.hold_off_until_ms
            .store(now.saturating_add(next), Relaxed);
    }

    /// A store went well.
    pub(crate) fn store_went_well(&self) {
        if self.hold_off_ms.load(Relaxed) != 0 {
            self.hold_off_ms.store(0, Relaxed);
        }
    }

    /// Whether stores are pointless now.
    pub(crate) fn is_full(&self, pages: u16) -> bool {
        let until = self.hold_off_until_ms.load(Relaxed);
        (until != 0 && sys::now_ms() < until)
            || self.areas.present().saturating_add(u64::from(pages)) > self.granted()
    }
}
