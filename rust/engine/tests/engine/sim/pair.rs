// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What the drivers of several lanes share: two servers that can die, and the book of what each holds.

use super::{Server, Wire};
use memsrv_engine::{Clusters, Replica, Standing};
use memsrv_protocol::Slot;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// A place in an array of two.
pub fn place(replica: Replica) -> usize {
    usize::from(replica == Replica::Mirror)
}

/// The driver's bitmaps, and its rule that a replica is left behind only by a whole one.
#[derive(Default)]
pub struct Book {
    standings: RefCell<BTreeMap<(usize, u64), Standing>>,
    /// Clusters that are wiped on a replica and have been behind there ever since.
    wiping: RefCell<BTreeSet<(usize, u64)>>,
    /// The calls of `fell_behind` since this was last emptied.
    pub fell: RefCell<Vec<(Replica, Slot)>>,
    /// What has become whole by `filled`, likewise.
    pub filled: RefCell<Vec<(Replica, u64)>>,
}

impl Book {
    pub fn set(&self, replica: Replica, cluster: u64, standing: Standing) {
        let key = (place(replica), cluster);
        let old = self.standings.borrow_mut().insert(key, standing);
        if old != Some(standing) {
            self.wiping.borrow_mut().remove(&key);
        }
    }

    pub fn of(&self, replica: Replica, cluster: u64) -> Standing {
        let key = (place(replica), cluster);
        let standing = self.standings.borrow().get(&key).copied();
        standing.unwrap_or(Standing::Whole)
    }

    /// The replica came back without its pages. What the other lacks, where that is partial, is lost; those
    /// clusters are given back.
    pub fn lost(&self, replica: Replica, clusters: impl Iterator<Item = u64>) -> Vec<u64> {
        let mut lost = Vec::new();
        for cluster in clusters {
            match self.of(replica.other(), cluster) {
                Standing::Behind => continue,
                Standing::Partial => {
                    self.set(replica.other(), cluster, Standing::Whole);
                    lost.push(cluster);
                }
                Standing::Whole => {}
            }
            self.set(replica, cluster, Standing::Behind);
        }
        lost
    }
}

impl Clusters for Book {
    fn standing(&self, replica: Replica, slot: Slot) -> Standing {
        self.of(replica, slot.cluster())
    }

    fn fell_behind(&self, replica: Replica, slot: Slot) {
        let (own, other) = (
            self.standing(replica, slot),
            self.standing(replica.other(), slot),
        );
        assert!(
            own == Standing::Behind || other == Standing::Whole,
            "{replica:?} falls behind for {slot:?} while the other is {other:?}"
        );
        self.set(replica, slot.cluster(), Standing::Behind);
        self.fell.borrow_mut().push((replica, slot));
    }

    fn wiping(&self, replica: Replica, slot: Slot) {
        assert_eq!(self.standing(replica, slot), Standing::Behind);
        let key = (place(replica), slot.cluster());
        self.wiping.borrow_mut().insert(key);
    }

    fn wiped(&self, replica: Replica, slot: Slot) -> bool {
        let key = (place(replica), slot.cluster());
        let wiped = self.wiping.borrow().contains(&key);
        if wiped {
            self.set(replica, slot.cluster(), Standing::Partial);
        }
        wiped
    }

    fn filled(&self, replica: Replica, slot: Slot) {
        if self.standing(replica, slot) == Standing::Partial {
            self.set(replica, slot.cluster(), Standing::Whole);
            self.filled.borrow_mut().push((replica, slot.cluster()));
        }
    }
}

/// A server and the connections to it, one for each lane.
pub struct Host {
    pub server: Server,
    pub wires: Vec<Wire>,
    /// Connections to an earlier life of the server: nothing comes from them but what is on its way.
    pub dead: Vec<bool>,
    /// The server's life, and the one that the client knows of.
    pub life: u32,
    pub known: u32,
}

impl Host {
    pub fn new(lanes: usize, capacity: usize, window: usize) -> Self {
        Self {
            server: Server::new(lanes, capacity, window),
            wires: (0..lanes).map(|_| Wire::default()).collect(),
            dead: vec![false; lanes],
            life: 0,
            known: 0,
        }
    }

    /// Its life as instances carry it in the model.
    pub fn life_byte(&self) -> u8 {
        u8::try_from(self.life % 251).unwrap()
    }

    /// Ends the server, and starts another without its pages.
    pub fn kill(&mut self) {
        let (lanes, window) = (self.wires.len(), self.server.window);
        self.server = Server::new(lanes, self.server.capacity, window);
        self.dead.fill(true);
        self.life += 1;
    }
}
