// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What the drivers of several lanes share: two servers that can die, and the book of what each holds.

use super::{Server, Wire};
use memsrv_engine::{Clusters, Replica, Standing};
use memsrv_protocol::Slot;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// A place in an array of two.
pub fn place(replica: Replica) -> usize {
    usize::from(replica == Replica::Mirror)
}

/// The driver's bitmaps, and its rule that a replica is left behind only by a whole one.
#[derive(Default)]
pub struct Book {
    standings: RefCell<BTreeMap<(usize, u64), Standing>>,
    /// The calls of `fell_behind` since this was last emptied.
    pub fell: RefCell<Vec<(Replica, Slot)>>,
}

impl Book {
    pub fn set(&self, replica: Replica, cluster: u64, standing: Standing) {
        let key = (place(replica), cluster);
        self.standings.borrow_mut().insert(key, standing);
    }

    pub fn of(&self, replica: Replica, cluster: u64) -> Standing {
        let key = (place(replica), cluster);
        let standing = self.standings.borrow().get(&key).copied();
        standing.unwrap_or(Standing::Whole)
    }

    /// The replica came back without its pages.
    pub fn lost(&self, replica: Replica, clusters: impl Iterator<Item = u64>) {
        for cluster in clusters {
            if self.of(replica.other(), cluster) == Standing::Whole {
                self.set(replica, cluster, Standing::Behind);
            }
        }
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

    /// Ends the server, and starts another without its pages.
    pub fn kill(&mut self) {
        let (lanes, window) = (self.wires.len(), self.server.window);
        self.server = Server::new(lanes, self.server.capacity, window);
        self.dead.fill(true);
        self.life += 1;
    }
}
