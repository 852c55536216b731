// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A stream, and beside it a lane of one replica that must do the same at every step.
//!
//! It has a stream's methods, so that each test of streams is one of lanes, too.

use memsrv_engine::{
    AskSlot, Clusters, Completion, CopySlot, Fault, Lane, LoadError, LoadSlot, NoRoom, NotTaken,
    OpSlot, Outgoing, PageTarget, Replica, Standing, Stream,
};
use memsrv_protocol::{FreeMask, Message, Seq, Slot, Tag};
use std::cell::RefCell;

pub type TestLane =
    Lane<u32, Vec<CopySlot>, Vec<AskSlot<u32>>, Vec<OpSlot<u32>>, Vec<LoadSlot<u16>>>;
type Done = Completion<u32, u32>;

const ONE: Replica = Replica::Primary;

/// A single replica's clusters.
struct Single;

impl Clusters for Single {
    fn standing(&self, replica: Replica, _: Slot) -> Standing {
        assert_eq!(replica, ONE);
        Standing::Whole
    }

    fn fell_behind(&self, replica: Replica, slot: Slot) {
        panic!("{replica:?} cannot fall behind for {slot:?}");
    }

    fn wiping(&self, _: Replica, _: Slot) {
        panic!("there is nothing to refill from");
    }

    fn wiped(&self, _: Replica, _: Slot) -> bool {
        panic!("there is nothing to refill from");
    }

    fn filled(&self, _: Replica, _: Slot) {
        panic!("there is nothing to refill from");
    }
}

pub struct Twin {
    stream: Stream<u32, u32, Vec<OpSlot<u32>>, Vec<LoadSlot<u32>>>,
    lane: TestLane,
    /// The stream's token of each store of the lane's.
    tokens: RefCell<Vec<Option<u32>>>,
}

impl Twin {
    pub fn new(ops: usize, loads: usize) -> Self {
        let memory = (vec![OpSlot::EMPTY; ops], vec![LoadSlot::EMPTY; loads]);
        Self {
            stream: Stream::new(vec![OpSlot::EMPTY; ops], vec![LoadSlot::EMPTY; loads]),
            lane: Lane::new(
                memory,
                None,
                vec![CopySlot::EMPTY; ops],
                vec![AskSlot::EMPTY; loads],
                true,
            ),
            tokens: RefCell::new(vec![None; ops]),
        }
    }

    /// A completion of the lane's, as the stream would say it.
    fn as_stream(tokens: &RefCell<Vec<Option<u32>>>, done: Done) -> Done {
        match done {
            Completion::Store { token, result } => {
                let entry = &mut tokens.borrow_mut()[usize::try_from(token).unwrap()];
                let token = entry.take().expect("a store ends once");
                Completion::Store { token, result }
            }
            load @ Completion::Load { .. } => load,
        }
    }

    fn same(&self) {
        let (stream, lane) = (&self.stream, &self.lane);
        assert_eq!(lane.is_connected(ONE), stream.is_connected());
        assert_eq!(lane.issued(ONE), stream.issued());
        assert_eq!(lane.has_output(ONE), stream.has_output());
        assert_eq!(lane.queued(ONE), stream.queued());
        assert_eq!(lane.oldest_ms(ONE), stream.oldest_ms());
        assert_eq!(lane.oldest_store_ms(ONE), stream.oldest_store_ms());
        assert_eq!(lane.stores_in_flight(), stream.stores_in_flight());
        assert_eq!(lane.stores_owed(ONE), stream.stores_in_flight());
        assert_eq!(lane.loads_in_flight(), stream.loads_in_flight());
        assert_eq!(lane.loads_owed(ONE), stream.loads_in_flight());
        assert_eq!(lane.frees_in_flight(ONE), stream.frees_in_flight());
        assert_eq!(lane.op_room(ONE), stream.op_room());
        assert_eq!(lane.load_room(), stream.load_room());
        let other = Replica::Mirror;
        assert!(!lane.is_connected(other) && !lane.has_output(other));
    }

    pub fn connected(&mut self, window: u32) {
        self.stream.connected(window);
        self.lane
            .connected(ONE, window, &Single, 0, &mut |done| panic!("{done:?}"));
        self.same();
    }

    pub fn disconnected(&mut self) {
        self.stream.disconnected();
        self.lane
            .disconnected(ONE, &Single, 0, &mut |done| panic!("{done:?}"));
        self.same();
    }

    pub fn is_connected(&self) -> bool {
        self.stream.is_connected()
    }

    pub fn issued(&self) -> Seq {
        self.stream.issued()
    }

    pub fn executed(&self) -> Seq {
        let executed = self.stream.executed();
        assert_eq!(self.lane.executed(ONE), executed);
        executed
    }

    pub fn store(&mut self, slot: Slot, crc: u32, token: u32, now_ms: u64) -> Result<Seq, NoRoom> {
        let result = self.stream.store(slot, crc, token, now_ms);
        let free = self.tokens.borrow().iter().position(Option::is_none);
        let number = free.map_or(u32::MAX, |free| u32::try_from(free).unwrap());
        let taken = self.lane.store(slot, crc, number, now_ms, &Single);
        assert_eq!(taken, result.map(|_| ()).map_err(|_| NotTaken::NoRoom));
        if taken.is_ok() {
            self.tokens.borrow_mut()[free.unwrap()] = Some(token);
        }
        self.same();
        result
    }

    pub fn free(&mut self, cluster: Slot) -> Result<(), NoRoom> {
        let result = self.stream.free(cluster);
        assert_eq!(self.lane.free(ONE, cluster), result);
        assert_eq!(self.lane.free(Replica::Mirror, cluster), Ok(()));
        self.same();
        result
    }

    pub fn load(&mut self, slot: Slot, count: u16, token: u32, now_ms: u64) -> Result<(), NoRoom> {
        let result = self.stream.load(slot, count, token, now_ms);
        let taken = self.lane.load(slot, count, token, now_ms, &Single);
        assert_eq!(taken, result.map_err(|_| NotTaken::NoRoom));
        self.same();
        result
    }

    pub fn next(
        &mut self,
        mask: impl Fn(Slot) -> FreeMask,
        crc: impl Fn(Slot, &[u8]) -> u32,
    ) -> Option<Outgoing<u32>> {
        let out = self.stream.next(&mask, &crc);
        let lane = self.lane.next(ONE, &mask, &crc);
        let as_stream = |out| match out {
            Outgoing::Store { header, len, token } => Outgoing::Store {
                header,
                len,
                token: self.tokens.borrow()[usize::try_from(token).unwrap()].unwrap(),
            },
            other => other,
        };
        assert_eq!(lane.map(as_stream), out);
        self.same();
        out
    }

    pub fn has_output(&self) -> bool {
        self.stream.has_output()
    }

    pub fn queued(&self) -> usize {
        self.stream.queued()
    }

    pub fn page(&mut self, tag: Tag, slot: Slot) -> Result<PageTarget<u32>, Fault> {
        let result = self.stream.page(tag, slot);
        assert_eq!(self.lane.page(ONE, tag, slot), result.map(Some));
        result
    }

    pub fn page_done(
        &mut self,
        tag: Tag,
        result: Result<(), LoadError>,
    ) -> Result<Option<Done>, Fault> {
        let done = self.stream.page_done(tag, result);
        assert_eq!(self.lane.page_done(ONE, tag, result, &Single, 0), done);
        self.same();
        done
    }

    pub fn message(&mut self, message: Message, done: &mut impl FnMut(Done)) -> Result<(), Fault> {
        let (mut ours, mut lanes) = (Vec::new(), Vec::new());
        let result = self.stream.message(message, &mut |done| ours.push(done));
        let take = &mut |done| lanes.push(Self::as_stream(&self.tokens, done));
        let lane = self.lane.message(ONE, message, &Single, 0, take);
        assert_eq!((lane, lanes), (result, ours.clone()));
        self.same();
        ours.into_iter().for_each(done);
        result
    }

    pub fn expire_stores(&mut self, before_ms: u64, done: &mut impl FnMut(Done)) {
        let (mut ours, mut lanes) = (Vec::new(), Vec::new());
        self.stream
            .expire_stores(before_ms, &mut |done| ours.push(done));
        let take = &mut |done| lanes.push(Self::as_stream(&self.tokens, done));
        self.lane.expire_stores(before_ms, &Single, take);
        assert_eq!(lanes, ours);
        self.same();
        ours.into_iter().for_each(done);
    }

    pub fn expire_loads(
        &mut self,
        mut keep: impl FnMut(&u32, u64) -> bool,
        done: &mut impl FnMut(Done),
    ) {
        let (mut ours, mut lanes, mut asked) = (Vec::new(), Vec::new(), Vec::new());
        let keep = |&token: &u32, since_ms: u64| {
            asked.push((token, since_ms, keep(&token, since_ms)));
            asked.last().unwrap().2
        };
        self.stream.expire_loads(keep, &mut |done| ours.push(done));
        let mut asked = asked.into_iter();
        let again = |&token: &u32, since_ms: u64| {
            let (expected, at_ms, keep) = asked.next().expect("as many questions");
            assert_eq!((token, since_ms), (expected, at_ms));
            keep
        };
        self.lane.expire_loads(again, &mut |done| lanes.push(done));
        assert_eq!(lanes, ours);
        self.same();
        ours.into_iter().for_each(done);
    }

    pub fn oldest_ms(&self) -> Option<u64> {
        self.stream.oldest_ms()
    }

    pub fn oldest_store_ms(&self) -> Option<u64> {
        self.stream.oldest_store_ms()
    }

    pub fn any_load(&self, overdue: impl Fn(&u32, u64) -> bool) -> bool {
        let any = self.stream.any_load(&overdue);
        let lanes = |token: Option<&u32>, since_ms| overdue(token.unwrap(), since_ms);
        assert_eq!(self.lane.any_load(ONE, lanes), any);
        any
    }

    pub fn stores_in_flight(&self) -> usize {
        self.stream.stores_in_flight()
    }

    pub fn frees_in_flight(&self) -> usize {
        self.stream.frees_in_flight()
    }

    pub fn loads_in_flight(&self) -> usize {
        self.stream.loads_in_flight()
    }

    pub fn op_room(&self) -> usize {
        self.stream.op_room()
    }

    pub fn load_room(&self) -> usize {
        self.stream.load_room()
    }
}
