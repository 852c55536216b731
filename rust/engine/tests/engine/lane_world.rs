// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Lanes to two servers that break, die and lose pages, and what must be so after each step.
//!
//! A server that dies comes back as a new, empty one; connections to its earlier life find out later, and
//! the first handshake marks what it has lost, as the driver does.

use super::sim::{page_of, place, take, Book, Counts, Host, Mirrored, Wire};
use memsrv_engine::{LoadError, Replica, Standing};
use memsrv_protocol::{Slot, Status};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

pub const CLUSTERS: u64 = 4;

/// What may happen in a run, beside the usual.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// The primary, or the mirror, dies, loses and damages pages, is away; the other is always there.
    One(Replica),
    /// Both are away at times; none loses a page.
    Breaks,
    /// Anything, to either.
    Any,
}

/// One thing that happens. Lanes and slots are taken modulo their count.
#[derive(Clone, Debug)]
pub enum Step {
    Store {
        slot: u8,
    },
    /// A load of one of the slots that hold a page and wait for nothing.
    Load {
        which: usize,
        count: u16,
    },
    Invalidate {
        slot: u8,
    },
    FreeFlagged,
    /// What has waited so long is asked of the other replica, too.
    Hedge {
        age_ms: u64,
    },
    Wait {
        ms: u64,
    },
    Expire {
        age_ms: u64,
    },
    /// Something about one connection.
    On(usize, Replica, Event),
    /// A server dies and comes back empty; the connections find out later.
    Kill(Replica),
    /// A server has a page no more.
    Lose {
        replica: Replica,
        which: usize,
    },
    RefuseNext {
        replica: Replica,
        status: Status,
    },
    DamageNext(Replica),
    /// The lanes go on with refilling this replica.
    Refill(Replica),
    /// This server asks the other one for a page of what it pulls.
    Fetch {
        replica: Replica,
        which: usize,
    },
    /// And gets one that it asked for.
    Deliver {
        replica: Replica,
        which: usize,
    },
}

#[derive(Clone, Debug)]
pub enum Event {
    Send {
        messages: u8,
    },
    Up {
        bytes: usize,
    },
    Answer {
        which: Vec<usize>,
    },
    Acknowledge,
    Flush,
    Down {
        bytes: usize,
    },
    /// The connection breaks: so many bytes still arrive on either side, the others never.
    Break {
        up: usize,
        down: usize,
    },
    Connect,
}

/// One of 24 slots in four clusters, so that slots meet again often and runs cross a cluster's end.
fn slot(number: u8) -> Slot {
    let (cluster, index) = (u64::from(number) % CLUSTERS, u64::from(number / 4 % 6));
    Slot(cluster * 512 + if index < 4 { index } else { 506 + index })
}

/// Lanes and two servers.
pub struct World {
    pub lanes: Vec<Mirrored>,
    hosts: [Host; 2],
    pub book: Rc<Book>,
    trouble: Trouble,
    strict: bool,
    seeds: u64,
    /// Clusters that a replica calls its own and has lost pages of.
    hollow: BTreeSet<(usize, u64)>,
    /// Clusters that a replica lost a page of while they were being filled, which does not bring it back.
    torn: BTreeSet<(usize, u64)>,
    pub kills: usize,
    pub resyncs: usize,
    overtaken: usize,
}

impl World {
    pub fn new(
        lanes: usize,
        capacity: usize,
        window: usize,
        trouble: Trouble,
        strict: bool,
    ) -> Self {
        let book = Rc::new(Book::default());
        let mut world = Self {
            lanes: (0..lanes)
                .map(|_| Mirrored::new(book.clone(), strict))
                .collect(),
            hosts: [(); 2].map(|()| Host::new(lanes, capacity, window)),
            book,
            trouble,
            strict,
            seeds: 0,
            hollow: BTreeSet::new(),
            torn: BTreeSet::new(),
            kills: 0,
            resyncs: 0,
            overtaken: 0,
        };
        for lane in 0..lanes {
            for replica in Replica::BOTH {
                world.connect(lane, replica);
            }
        }
        world
    }

    fn of(&mut self, slot: Slot) -> &mut Mirrored {
        let lane = usize::try_from(slot.cluster()).unwrap() % self.lanes.len();
        &mut self.lanes[lane]
    }

    /// Whether this replica may lose its pages.
    fn may_die(&self, replica: Replica) -> bool {
        match self.trouble {
            Trouble::One(weak) => weak == replica,
            Trouble::Breaks => false,
            Trouble::Any => true,
        }
    }

    fn may_break(&self, replica: Replica) -> bool {
        self.trouble == Trouble::Breaks || self.may_die(replica)
    }

    pub fn step(&mut self, step: &Step) {
        let lanes = self.lanes.len();
        match *step {
            Step::Store { slot: number } => {
                self.seeds += 1;
                let seed = self.seeds;
                self.of(slot(number)).store(slot(number), seed);
            }
            Step::Load { which, count } => {
                let lane = &mut self.lanes[which % lanes];
                let settled: Vec<Slot> = lane.settled().map(|(slot, _)| slot).collect();
                if let Some(which) = (which / lanes).checked_rem(settled.len()) {
                    lane.load(settled[which], count);
                }
            }
            Step::Invalidate { slot: number } => self.of(slot(number)).invalidate(slot(number)),
            Step::FreeFlagged => self.lanes.iter_mut().for_each(Mirrored::free_flagged),
            Step::Hedge { age_ms } => self.lanes.iter_mut().for_each(|c| c.hedge(age_ms)),
            Step::Wait { ms } => self.lanes.iter_mut().for_each(|c| c.now_ms += ms),
            Step::Expire { age_ms } => self.lanes.iter_mut().for_each(|c| c.expire(age_ms)),
            Step::On(lane, replica, ref event) => self.event(lane % lanes, replica, event),
            Step::Kill(replica) if self.may_die(replica) => {
                self.kills += 1;
                self.overtaken += self.hosts[place(replica)].server.pulls.overtaken;
                self.hosts[place(replica)].kill();
            }
            Step::Lose { replica, which } if self.may_die(replica) => {
                let pages = &mut self.hosts[place(replica)].server.pages;
                let which = which.checked_rem(pages.len());
                let lost = which.and_then(|which| pages.keys().nth(which).copied());
                if let Some(lost) = lost {
                    pages.remove(&lost);
                    let cluster = Slot(lost).cluster();
                    self.hollow.insert((place(replica), cluster));
                    if self.book.of(replica, cluster) == Standing::Partial {
                        self.torn.insert((place(replica), cluster));
                    }
                }
            }
            Step::RefuseNext { replica, status } => {
                self.hosts[place(replica)].server.refuse_next = Some(status);
            }
            Step::DamageNext(replica) if self.may_die(replica) => {
                self.hosts[place(replica)].server.damage_next = true;
            }
            Step::Refill(replica) => self.refill(replica),
            Step::Fetch { replica, which } => self.fetch(replica, which),
            Step::Deliver { replica, which } => self.deliver(replica, which),
            Step::Kill(_) | Step::Lose { .. } | Step::DamageNext(_) => {}
        }
        self.check();
    }

    fn event(&mut self, lane: usize, replica: Replica, event: &Event) {
        let host = &mut self.hosts[place(replica)];
        match *event {
            Event::Send { messages } => self.send(lane, replica, messages.into()),
            Event::Up { bytes } => self.up(lane, replica, bytes),
            Event::Answer { ref which } if !host.dead[lane] => {
                for &which in which {
                    let down = &mut host.wires[lane].down;
                    host.server.answer_load(lane, which, down);
                }
            }
            Event::Acknowledge if !host.dead[lane] => {
                host.server.acknowledge(lane, &mut host.wires[lane].down);
            }
            Event::Answer { .. } | Event::Acknowledge => {}
            Event::Flush => self.flush(lane, replica),
            Event::Down { bytes } => self.down(lane, replica, bytes),
            Event::Break { up, down } if self.may_break(replica) => {
                self.disconnect(lane, replica, up, down);
            }
            Event::Break { .. } => {}
            Event::Connect => self.connect(lane, replica),
        }
    }

    fn send(&mut self, lane: usize, replica: Replica, messages: usize) {
        let up = &mut self.hosts[place(replica)].wires[lane].up;
        for _ in 0..messages {
            if !self.lanes[lane].send(replica, up) {
                break;
            }
        }
    }

    fn up(&mut self, lane: usize, replica: Replica, bytes: usize) {
        let host = &mut self.hosts[place(replica)];
        let Wire { up, down } = &mut host.wires[lane];
        let bytes = take(up, bytes);
        if !host.dead[lane] {
            host.server.receive(lane, &bytes, down);
        }
    }

    fn down(&mut self, lane: usize, replica: Replica, bytes: usize) {
        let down = &mut self.hosts[place(replica)].wires[lane].down;
        self.lanes[lane].receive(replica, down, bytes);
    }

    fn flush(&mut self, lane: usize, replica: Replica) {
        self.send(lane, replica, usize::MAX);
        self.up(lane, replica, usize::MAX);
        let host = &mut self.hosts[place(replica)];
        if !host.dead[lane] {
            host.server.answer_all(lane, &mut host.wires[lane]);
        }
        self.down(lane, replica, usize::MAX);
    }

    fn connect(&mut self, lane: usize, replica: Replica) {
        if self.lanes[lane].lane.is_connected(replica) {
            return;
        }
        let host = &mut self.hosts[place(replica)];
        host.dead[lane] = false;
        assert!(self.lanes[lane].lane.issued(replica) >= host.server.executed(lane));
        if host.known != host.life {
            host.known = host.life;
            for cluster in self.book.lost(replica, 0..CLUSTERS) {
                self.hollow.insert((place(replica.other()), cluster));
            }
            for cluster in 0..CLUSTERS {
                self.hollow.insert((place(replica), cluster));
            }
        }
        let window = u32::try_from(host.server.window).unwrap();
        let life = host.life_byte();
        self.lanes[lane].connected(replica, window, life);
    }

    fn disconnect(&mut self, lane: usize, replica: Replica, up: usize, down: usize) {
        if self.lanes[lane].lane.is_connected(replica) {
            self.up(lane, replica, up);
            self.down(lane, replica, down);
            let host = &mut self.hosts[place(replica)];
            host.wires[lane] = Wire::default();
            if !host.dead[lane] {
                host.server.disconnected(lane);
            }
            self.lanes[lane].disconnected(replica);
        }
    }

    fn refill(&mut self, replica: Replica) {
        let lanes = u64::try_from(self.lanes.len()).unwrap();
        for (lane, number) in self.lanes.iter_mut().zip(0..) {
            lane.refill(replica, (0..CLUSTERS).filter(|c| c % lanes == number));
        }
        self.note_filled();
    }

    fn fetch(&mut self, replica: Replica, which: usize) {
        let [primary, mirror] = &mut self.hosts;
        let (own, other) = match replica {
            Replica::Primary => (primary, mirror),
            Replica::Mirror => (mirror, primary),
        };
        own.server.fetch(which, &other.server, other.life_byte());
    }

    fn deliver(&mut self, replica: Replica, which: usize) {
        let life = self.hosts[place(replica.other())].life_byte();
        let host = &mut self.hosts[place(replica)];
        host.server.deliver(which, life, &mut host.wires);
    }

    /// A cluster that was filled from one that has lost pages lacks them, too.
    fn note_filled(&mut self) {
        for (replica, cluster) in self.book.filled.take() {
            let from = (place(replica.other()), cluster);
            if self.hollow.contains(&from) || self.torn.remove(&(place(replica), cluster)) {
                self.hollow.insert((place(replica), cluster));
            } else {
                self.hollow.remove(&(place(replica), cluster));
            }
            self.resyncs += 1;
        }
    }

    /// What must be so after each step.
    fn check(&mut self) {
        self.note_filled();
        for lane in &mut self.lanes {
            for (slot, seed) in lane.settled() {
                check_slot(&self.hosts, &self.book, &self.hollow, slot, seed);
            }
            for failed in lane.failed.drain(..) {
                assert_ne!(failed.error, LoadError::Expired, "nobody gave it up");
                assert!(
                    self.trouble == Trouble::Any,
                    "{failed:?}, though the page is safe"
                );
                for replica in Replica::BOTH {
                    let host = &self.hosts[place(replica)];
                    let has = (failed.slot.0..)
                        .zip(&failed.expected)
                        .all(|(slot, &seed)| host.server.pages.get(&slot) == Some(&page_of(seed)));
                    let behind = self.book.of(replica, failed.slot.cluster()) == Standing::Behind;
                    // Its answer was true when it was given.
                    let late = (failed.slot.0..)
                        .zip(&failed.expected)
                        .any(|(slot, _)| host.server.lacked.contains(&slot));
                    let excused =
                        behind || late || failed.damaged[place(replica)] || host.known != host.life;
                    assert!(!has || excused, "{failed:?}, and {replica:?} has it");
                }
            }
        }
        if let Trouble::One(weak) = self.trouble {
            for cluster in 0..CLUSTERS {
                assert_eq!(self.book.of(weak.other(), cluster), Standing::Whole);
            }
            for Counts {
                expired,
                no_target,
                loads_expired,
                ..
            } in self.lanes.iter().map(|lane| lane.counts)
            {
                assert_eq!(loads_expired, 0);
                assert!(self.strict || expired + no_target == 0);
            }
        }
    }

    /// How many pages were stored or freed while an older one was on its way.
    pub fn overtaken(&self) -> usize {
        let pulls = self.hosts.iter().map(|host| &host.server.pulls);
        self.overtaken + pulls.map(|pulls| pulls.overtaken).sum::<usize>()
    }

    /// Lets the resync come to its end, wherever it can.
    fn make_whole(&mut self) {
        for round in 0.. {
            assert!(round < 1000, "the pair does not become whole");
            for replica in Replica::BOTH {
                self.refill(replica);
                (0..self.lanes.len()).for_each(|lane| self.flush(lane, replica));
                for _ in 0..40 {
                    self.fetch(replica, round);
                    self.deliver(replica, round);
                }
                (0..self.lanes.len()).for_each(|lane| self.flush(lane, replica));
                self.check();
            }
            let whole = |&cluster: &u64| {
                let whole = |replica| self.book.of(replica, cluster) == Standing::Whole;
                whole(Replica::Primary) && whole(Replica::Mirror)
            };
            let quiet = self.lanes.iter().all(Mirrored::is_quiet);
            let idle = self.hosts.iter().all(|host| host.server.pulls.is_idle());
            if quiet && idle && (0..CLUSTERS).all(|cluster| whole(&cluster)) {
                return;
            }
        }
    }

    /// Lets everything come to its end, and checks that it is the right one.
    pub fn settle(&mut self) {
        for host in &mut self.hosts {
            host.server.refuse_next = None;
            // Two servers are whole only where there is room for all.
            host.server.capacity = usize::MAX;
            host.server.damage_next = false;
        }
        for round in 0.. {
            assert!(round < 1000, "it does not come to rest");
            for lane in 0..self.lanes.len() {
                for replica in Replica::BOTH {
                    if self.hosts[place(replica)].dead[lane] {
                        self.disconnect(lane, replica, 0, 0);
                    }
                    self.connect(lane, replica);
                    self.lanes[lane].free_flagged();
                    self.flush(lane, replica);
                }
            }
            self.check();
            if self.lanes.iter().all(Mirrored::is_quiet) {
                break;
            }
        }
        self.make_whole();
        for lane in &self.lanes {
            lane.assert_nothing_left();
        }
        let present: BTreeMap<u64, u64> = self
            .lanes
            .iter()
            .flat_map(|lane| lane.settled().map(|(slot, seed)| (slot.0, seed)))
            .collect();
        for host in &self.hosts {
            for slot in host.server.pages.keys() {
                assert!(present.contains_key(slot), "slot {slot} was not freed");
            }
        }
        for (&slot, &seed) in &present {
            let has = |host: &Host| host.server.pages.get(&slot) == Some(&page_of(seed));
            let [primary, mirror] = &self.hosts;
            let safe = match self.trouble {
                Trouble::One(Replica::Primary) => has(mirror),
                Trouble::One(Replica::Mirror) => has(primary),
                Trouble::Breaks => has(primary) && has(mirror),
                Trouble::Any => true,
            };
            assert!(safe, "slot {slot} is not where it should be");
        }
    }
}

/// What the standings say of a slot's page is so.
fn check_slot(
    hosts: &[Host; 2],
    book: &Book,
    hollow: &BTreeSet<(usize, u64)>,
    slot: Slot,
    seed: u64,
) {
    let mut behind = 0;
    for replica in Replica::BOTH {
        let host = &hosts[place(replica)];
        let mut standing = book.of(replica, slot.cluster());
        behind += usize::from(standing == Standing::Behind);
        if host.known != host.life {
            continue;
        }
        if standing == Standing::Whole && hollow.contains(&(place(replica), slot.cluster())) {
            standing = Standing::Partial;
        }
        let page = host.server.pages.get(&slot.0);
        let newest = page.map(|page| *page == page_of(seed));
        match standing {
            Standing::Whole => assert_eq!(newest, Some(true), "{replica:?} {slot:?}"),
            Standing::Partial => assert_ne!(newest, Some(false), "{replica:?} {slot:?}"),
            Standing::Behind => {}
        }
    }
    assert!(behind < 2, "{slot:?}: both are behind");
}
