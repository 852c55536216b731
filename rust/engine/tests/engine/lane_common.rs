// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Short words for what the tests do with a lane of two replicas.

pub use super::common::{crc, decode, loaded, stored};
pub use super::sim::{Book, Done, TestLane};
use memsrv_engine::{Completion, Fault, LoadError, NotTaken, StoreError};
pub use memsrv_engine::{
    Replica::{self, Mirror, Primary},
    Standing::{self, Behind, Partial, Whole},
};
use memsrv_protocol::{FreeMask, Message, Seq, Slot, Status, Tag};

pub const LARGE: u32 = 1 << 20;
pub const ROOM: usize = 16;

/// A lane, its book, and a clock that stands still unless a test moves it.
pub struct Bench {
    pub lane: TestLane,
    pub book: Book,
    pub now_ms: u64,
}

/// With connections to these.
pub fn bench(up: &[Replica]) -> Bench {
    with(super::sim::lane(ROOM, ROOM, false), up)
}

pub fn strict(up: &[Replica]) -> Bench {
    with(super::sim::lane(ROOM, ROOM, true), up)
}

pub fn with(lane: TestLane, up: &[Replica]) -> Bench {
    let mut bench = Bench {
        lane,
        book: Book::default(),
        now_ms: 100,
    };
    for &replica in up {
        assert_eq!(bench.connect(replica), []);
    }
    bench
}

impl Bench {
    /// What the replicas hold of cluster 0.
    pub fn standing(&self, primary: Standing, mirror: Standing) {
        self.book.set(Primary, 0, primary);
        self.book.set(Mirror, 0, mirror);
    }

    /// Who fell behind since this was last asked, and for which slots.
    pub fn fell(&self) -> Vec<(Replica, u64)> {
        let fell = self.book.fell.take().into_iter();
        fell.map(|(replica, slot)| (replica, slot.0)).collect()
    }

    pub fn connect(&mut self, replica: Replica) -> Vec<Done> {
        let mut done = Vec::new();
        self.lane
            .connected(replica, LARGE, &self.book, self.now_ms, &mut |d| {
                done.push(d)
            });
        done
    }

    /// The replica is there for reading only, and fed by the other: behind, to the driver.
    pub fn attach(&mut self, replica: Replica) -> Vec<Done> {
        self.book.set(replica, 0, Behind);
        let mut done = Vec::new();
        let take = &mut |d| done.push(d);
        self.lane
            .attached(replica, LARGE, &self.book, self.now_ms, take);
        done
    }

    /// The replica says that it has come so far, before it answers the LOAD with that tag.
    pub fn reached(&mut self, replica: Replica, tag: Tag, seq: u64) {
        let seq = Seq(seq);
        let done = self.answer(replica, Message::Reached { tag, seq });
        assert_eq!(done, Ok(vec![]));
    }

    pub fn disconnect(&mut self, replica: Replica) -> Vec<Done> {
        let mut done = Vec::new();
        self.lane
            .disconnected(replica, &self.book, self.now_ms, &mut |d| done.push(d));
        done
    }

    /// A store whose token is its slot's number.
    pub fn store(&mut self, token: u32) -> Result<(), NotTaken> {
        let slot = Slot(token.into());
        self.lane.store(slot, 0, token, self.now_ms, &self.book)
    }

    pub fn load(&mut self, slot: u64, count: u16, token: u32) -> Result<(), NotTaken> {
        self.lane
            .load(Slot(slot), count, token, self.now_ms, &self.book)
    }

    /// All messages that can be sent now.
    pub fn drain(&mut self, replica: Replica) -> Vec<Message> {
        let lane = &mut self.lane;
        let next = || lane.next(replica, |_| FreeMask::ALL, crc);
        core::iter::from_fn(next).map(|out| decode(&out)).collect()
    }

    /// Sends what can be sent; the slots of the STOREs in it.
    pub fn stores(&mut self, replica: Replica) -> Vec<u64> {
        let slot = |message| match message {
            Message::Store { slot, .. } => Some(slot.0),
            _ => None,
        };
        self.drain(replica).into_iter().filter_map(slot).collect()
    }

    /// Sends what can be sent; the LOADs in it.
    pub fn loads(&mut self, replica: Replica) -> Vec<(Tag, u64, u16)> {
        let load = |message| match message {
            Message::Load { tag, slot, count } => Some((tag, slot.0, count)),
            _ => None,
        };
        self.drain(replica).into_iter().filter_map(load).collect()
    }

    /// Sends the only LOAD that there is; its tag.
    pub fn asked(&mut self, replica: Replica) -> Tag {
        let loads = self.loads(replica);
        assert_eq!(loads.len(), 1, "{replica:?} is asked {loads:?}");
        loads[0].0
    }

    /// Whether nobody is asked for anything.
    pub fn is_idle(&mut self) -> bool {
        self.loads(Primary).is_empty() && self.loads(Mirror).is_empty()
    }

    pub fn answer(&mut self, replica: Replica, message: Message) -> Result<Vec<Done>, Fault> {
        let mut done = Vec::new();
        let take = &mut |d| done.push(d);
        self.lane
            .message(replica, message, &self.book, self.now_ms, take)?;
        Ok(done)
    }

    /// Sends all, and acknowledges all up to this number.
    pub fn ack(&mut self, replica: Replica, seq: u64) -> Vec<Done> {
        self.drain(replica);
        self.answer(replica, Message::Ack { seq: Seq(seq) })
            .unwrap()
    }

    pub fn nak(&mut self, replica: Replica, seq: u64, status: Status) -> Vec<Done> {
        self.drain(replica);
        let seq = Seq(seq);
        self.answer(replica, Message::Nak { seq, status }).unwrap()
    }

    pub fn no_page(&mut self, replica: Replica, tag: Tag, slot: u64, status: Status) -> Vec<Done> {
        let slot = Slot(slot);
        let message = Message::NoPage { tag, slot, status };
        self.answer(replica, message).unwrap()
    }

    /// A page's header; whether its bytes are wanted.
    pub fn page_begins(&mut self, replica: Replica, tag: Tag, slot: u64) -> bool {
        self.lane.page(replica, tag, Slot(slot)).unwrap().is_some()
    }

    pub fn page_ends(
        &mut self,
        replica: Replica,
        tag: Tag,
        result: Result<(), LoadError>,
    ) -> Option<Done> {
        self.lane
            .page_done(replica, tag, result, &self.book, self.now_ms)
            .unwrap()
    }

    /// A whole page, which is wanted.
    pub fn page(&mut self, replica: Replica, tag: Tag, slot: u64) -> Option<Done> {
        assert!(self.page_begins(replica, tag, slot));
        self.page_ends(replica, tag, Ok(()))
    }

    pub fn hedge(&mut self) -> usize {
        self.lane.hedge(u64::MAX, &self.book, self.now_ms)
    }

    pub fn expire_stores(&mut self, before_ms: u64) -> Vec<Done> {
        let mut done = Vec::new();
        self.lane
            .expire_stores(before_ms, &self.book, &mut |d| done.push(d));
        done
    }

    pub fn expire_loads(&mut self, keep: impl FnMut(&u32, u64) -> bool) -> Vec<Done> {
        let mut done = Vec::new();
        self.lane.expire_loads(keep, &mut |d| done.push(d));
        done
    }
}

pub fn refused(token: u32, status: Status) -> Done {
    let result = Err(StoreError::Refused(status));
    Completion::Store { token, result }
}

pub fn expired(token: u32) -> Done {
    let result = Err(StoreError::Expired);
    Completion::Store { token, result }
}

pub fn failed(token: u32, error: LoadError) -> Done {
    let result = Err(error);
    Completion::Load { token, result }
}

/// The one replica that a load waits for.
pub fn waits(b: &Bench) -> Option<Replica> {
    let waiting: Vec<Replica> = Replica::BOTH
        .into_iter()
        .filter(|&replica| b.lane.loads_owed(replica) > 0)
        .collect();
    assert!(waiting.len() < 2, "{waiting:?}");
    waiting.first().copied()
}
