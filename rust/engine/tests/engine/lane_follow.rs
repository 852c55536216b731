// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A primary that forwards to a mirror which is there for reading only, in a simulated network.
//!
//! The mirror starts anew, empty or with what it had at an earlier time, and is set back with its connections alive; it
//! refuses stores, and is cut off from the primary, which may not have heard what it refused, and acknowledges alone
//! when it has told the client.
//! Whatever happens: no older page, nothing but loads for the mirror, and no load fails, since the primary has all pages.

use super::common::config;
use super::sim::{take, Book, Counts, Mirrored, Pipe, Server, Wire};
use memsrv_engine::{Replica, Standing};
use memsrv_protocol::{Message, Sender, Seq, Slot, Status, HEADER_LEN};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::rc::Rc;

const CLUSTERS: u64 = 4;
const READER: usize = 1;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    Store(u8),
    Load {
        which: usize,
        count: u16,
    },
    Invalidate(u8),
    FreeFlagged,
    Hedge,
    Wait(u64),
    Expire(u64),
    Up(Replica, usize),
    Down(Replica, usize),
    Answer(Replica, usize),
    /// The primary acknowledges what it may.
    Acknowledge,
    /// So many bytes get to the mirror.
    Forward(usize),
    Break(Replica),
    Connect(Replica),
    /// The mirror gets what there is, and the connection breaks before the primary hears of it.
    Cut,
    /// The mirror's state is remembered.
    Save,
    /// The mirror is as it was then, or empty. The primary's connection is of no use any more; the reader's may be.
    SetBack {
        empty: bool,
        cut: bool,
    },
    /// The primary has seen that the mirror is lost, and says so.
    Notice,
    RefuseNext,
    DamageNext(Replica),
    /// All comes to its end, and the mirror has what the primary has, as at the beginning.
    Renew,
}

struct World {
    lane: Mirrored,
    book: Rc<Book>,
    primary: Server,
    mirror: Server,
    wires: [Wire; 2],
    saved: (BTreeMap<u64, Vec<u8>>, Seq),
    /// The primary's connection to the mirror works.
    linked: bool,
    /// The primary acknowledges alone.
    alone: bool,
    /// What the mirror has acknowledged to the primary.
    covered: Seq,
    seeds: u64,
    read: usize,
}

fn slot(number: u8) -> Slot {
    let (cluster, index) = (u64::from(number) % CLUSTERS, u64::from(number / 4 % 6));
    Slot(cluster * 512 + index)
}

impl World {
    fn new() -> Self {
        let book = Rc::new(Book::default());
        for cluster in 0..CLUSTERS {
            book.set(Replica::Mirror, cluster, Standing::Behind);
        }
        let mut world = Self {
            lane: Mirrored::new(book.clone(), false),
            book,
            primary: Server::new(1, usize::MAX, 64),
            mirror: Server::new(2, usize::MAX, usize::MAX),
            wires: [Wire::default(), Wire::default()],
            saved: (BTreeMap::new(), Seq(0)),
            linked: true,
            alone: false,
            covered: Seq(0),
            seeds: 0,
            read: 0,
        };
        world.mirror.reader = Some(READER);
        Replica::BOTH.map(|replica| world.connect(replica));
        world
    }

    fn host(&mut self, replica: Replica) -> (&mut Server, usize, &mut Wire) {
        let [primary, reader] = &mut self.wires;
        match replica {
            Replica::Primary => (&mut self.primary, 0, primary),
            Replica::Mirror => (&mut self.mirror, READER, reader),
        }
    }

    fn connect(&mut self, replica: Replica) {
        let lane = &self.lane.lane;
        if lane.is_connected(replica) || lane.is_attached(replica) {
            return;
        }
        match replica {
            Replica::Primary => {
                if !self.linked {
                    self.alone = true;
                    self.lane.alone();
                }
                self.lane.connected(replica, 64, 0);
            }
            Replica::Mirror if self.lane.followed => self.lane.attached(replica),
            Replica::Mirror => {}
        }
    }

    fn disconnect(&mut self, replica: Replica) {
        let lane = &self.lane.lane;
        if lane.is_connected(replica) || lane.is_attached(replica) {
            let (server, stream, wire) = self.host(replica);
            *wire = Wire::default();
            server.disconnected(stream);
            self.lane.disconnected(replica);
        }
        if replica == Replica::Primary {
            // Its connection to the mirror ends with the client's, and is made anew with that.
            self.primary.forwarded.clear();
            self.covered = Seq(0);
            if self.linked {
                self.mirror.disconnected(0);
            }
        }
    }

    fn up(&mut self, replica: Replica, bytes: usize) {
        let mut up = std::mem::take(&mut self.host(replica).2.up);
        while self.lane.send(replica, &mut up) {}
        let bytes = take(&mut up, bytes);
        let (server, stream, wire) = self.host(replica);
        wire.up = up;
        server.receive(stream, &bytes, &mut wire.down);
    }

    fn down(&mut self, replica: Replica, bytes: usize) {
        let mut down = std::mem::take(&mut self.host(replica).2.down);
        self.lane.receive(replica, &mut down, bytes);
        self.host(replica).2.down = down;
    }

    /// The mirror executes what has come from the primary, and answers.
    fn forward(&mut self, bytes: usize) {
        let bytes = take(&mut self.primary.forwarded, bytes);
        if !self.linked {
            return;
        }
        let mut back = Pipe::new();
        self.mirror.receive(0, &bytes, &mut back);
        self.mirror.acknowledge(0, &mut back);
        for header in Vec::from(back).chunks(HEADER_LEN) {
            match Message::decode(header.try_into().unwrap(), Sender::Server) {
                Ok(Message::Ack { seq }) => self.covered = self.covered.max(seq),
                // The client hears of it.
                Ok(Message::Nak { .. }) => self.wires[0].down.extend(header),
                other => panic!("{other:?} from the mirror"),
            }
        }
    }

    fn acknowledge(&mut self) {
        let limit = if self.alone {
            Seq(u64::MAX)
        } else {
            self.covered
        };
        let down = &mut self.wires[0].down;
        self.primary.acknowledge_up_to(0, limit, down);
    }

    fn renew(&mut self) {
        self.settle();
        Replica::BOTH.map(|replica| self.disconnect(replica));
        let executed = self.primary.executed(0);
        self.mirror.set_back(self.primary.pages.clone(), executed);
        self.saved = (self.primary.pages.clone(), executed);
        self.linked = true;
        self.alone = false;
        self.lane.followed = true;
        Replica::BOTH.map(|replica| self.connect(replica));
    }

    fn cut(&mut self) {
        if self.linked {
            let bytes = take(&mut self.primary.forwarded, usize::MAX);
            self.mirror.receive(0, &bytes, &mut Pipe::new());
            self.mirror.disconnected(0);
            self.linked = false;
        }
    }

    fn notice(&mut self) {
        if self.linked || self.alone || !self.lane.lane.is_connected(Replica::Primary) {
            return;
        }
        // What the mirror has acknowledged is not on the primary alone.
        self.acknowledge();
        let notice = Message::Notice {
            status: Status::MirrorLost,
            len: 0,
        };
        self.wires[0].down.extend(notice.encode());
        self.alone = true;
    }

    fn set_back(&mut self, empty: bool, cut: bool) {
        let saved = match empty {
            true => (BTreeMap::new(), Seq(0)),
            false => self.saved.clone(),
        };
        self.mirror.set_back(saved.0, saved.1);
        self.linked = false;
        if cut {
            self.disconnect(Replica::Mirror);
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Store(number) => {
                self.seeds += 1;
                self.lane.store(slot(number), self.seeds);
            }
            Step::Load { which, count } => {
                let settled: Vec<Slot> = self.lane.settled().map(|(slot, _)| slot).collect();
                if let Some(which) = which.checked_rem(settled.len()) {
                    self.lane.load(settled[which], count);
                }
            }
            Step::Invalidate(number) => self.lane.invalidate(slot(number)),
            Step::FreeFlagged => {
                self.lane.free_on(Replica::Primary);
                if self.lane.lane.is_attached(Replica::Mirror) {
                    // Which is not taken.
                    self.lane.free_on(Replica::Mirror);
                }
            }
            Step::Hedge => self.lane.hedge(0),
            Step::Wait(ms) => self.lane.now_ms += ms,
            Step::Expire(age_ms) => self.lane.expire(age_ms),
            Step::Up(replica, bytes) => self.up(replica, bytes),
            Step::Down(replica, bytes) => {
                let before = self.lane.counts.loaded;
                self.down(replica, bytes);
                if replica == Replica::Mirror {
                    self.read += self.lane.counts.loaded - before;
                }
            }
            Step::Answer(replica, which) => {
                let (server, stream, wire) = self.host(replica);
                server.answer_load(stream, which, &mut wire.down);
            }
            Step::Acknowledge => self.acknowledge(),
            Step::Forward(bytes) => self.forward(bytes),
            Step::Break(replica) => self.disconnect(replica),
            Step::Connect(replica) => self.connect(replica),
            Step::Save if self.linked => {
                self.saved = (self.mirror.pages.clone(), self.mirror.executed(0));
            }
            Step::Save => {}
            Step::SetBack { empty, cut } => self.set_back(empty, cut),
            Step::Notice => self.notice(),
            Step::Cut => self.cut(),
            Step::Renew => self.renew(),
            Step::RefuseNext => self.mirror.refuse_next = Some(Status::Full),
            Step::DamageNext(replica) => self.host(replica).0.damage_next = true,
        }
        self.check();
    }

    /// What must be so after each step; wrong bytes are seen where a load ends.
    fn check(&mut self) {
        for failed in self.lane.failed.drain(..) {
            assert!(failed.damaged[0], "{failed:?}, and the primary has it");
        }
        assert_eq!(self.lane.lane.issued(Replica::Mirror), Seq(0));
        for cluster in 0..CLUSTERS {
            assert_eq!(self.book.of(Replica::Primary, cluster), Standing::Whole);
        }
    }

    /// Lets everything come to its end.
    fn settle(&mut self) {
        self.primary.damage_next = false;
        self.mirror.damage_next = false;
        self.notice();
        for round in 0.. {
            assert!(round < 1000, "it does not come to rest");
            for replica in Replica::BOTH {
                self.connect(replica);
                self.up(replica, usize::MAX);
                let (server, stream, wire) = self.host(replica);
                for _ in 0..20 {
                    server.answer_load(stream, 0, &mut wire.down);
                }
                self.forward(usize::MAX);
                self.acknowledge();
                self.down(replica, usize::MAX);
                self.check();
            }
            let lane = &self.lane.lane;
            let owed = Replica::BOTH.map(|replica| lane.loads_owed(replica));
            if lane.stores_in_flight() + lane.loads_in_flight() == 0 && owed == [0, 0] {
                break;
            }
        }
        assert!(!self.lane.lane.has_output(Replica::Mirror));
    }
}

fn replica() -> impl Strategy<Value = Replica> {
    prop_oneof![Just(Replica::Primary), Just(Replica::Mirror)]
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop_oneof![1 => 0..5000_usize, 8 => Just(usize::MAX)];
    prop_oneof![
        24 => any::<u8>().prop_map(Step::Store),
        30 => (any::<usize>(), prop_oneof![3 => Just(1), 1 => 2..4_u16])
            .prop_map(|(which, count)| Step::Load { which, count }),
        2 => any::<u8>().prop_map(Step::Invalidate),
        2 => Just(Step::FreeFlagged),
        24 => Just(Step::Hedge),
        20 => (1..20_u64).prop_map(Step::Wait),
        1 => (5..100_u64).prop_map(Step::Expire),
        50 => (replica(), bytes()).prop_map(|(replica, bytes)| Step::Up(replica, bytes)),
        50 => (replica(), bytes()).prop_map(|(replica, bytes)| Step::Down(replica, bytes)),
        // The mirror is the quicker of the two to answer loads.
        4 => (0..8_usize).prop_map(|which| Step::Answer(Replica::Primary, which)),
        40 => (0..8_usize).prop_map(|which| Step::Answer(Replica::Mirror, which)),
        30 => Just(Step::Acknowledge),
        30 => bytes().prop_map(Step::Forward),
        2 => replica().prop_map(Step::Break),
        6 => replica().prop_map(Step::Connect),
        6 => Just(Step::Save),
        2 => any::<(bool, bool)>().prop_map(|(empty, cut)| Step::SetBack { empty, cut }),
        1 => Just(Step::Notice),
        1 => Just(Step::Cut),
        6 => Just(Step::RefuseNext),
        1 => replica().prop_map(Step::DamageNext),
        6 => Just(Step::Renew),
    ]
}

proptest! {
    #![proptest_config(config(300))]

    #[test]
    fn who_follows_gives_no_older_page(steps in prop::collection::vec(step(), 1..400)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.settle();
    }
}

/// What the mirror has refused without the primary's hearing of it, and what it had before it was set back.
#[test]
fn what_the_mirror_has_counted_and_not_stored_is_not_read_there() {
    let all = usize::MAX;
    let store = |number| {
        vec![
            Step::Store(number),
            Step::Up(Replica::Primary, all),
            Step::Forward(all),
            Step::Acknowledge,
            Step::Down(Replica::Primary, all),
        ]
    };
    let read = vec![
        Step::Load { which: 0, count: 1 },
        Step::Wait(1),
        Step::Hedge,
        Step::Up(Replica::Mirror, all),
        Step::Answer(Replica::Mirror, 0),
        Step::Down(Replica::Mirror, all),
    ];
    let refused = vec![
        Step::RefuseNext,
        Step::Store(0),
        Step::Up(Replica::Primary, all),
        Step::Cut,
        Step::Notice,
        Step::Acknowledge,
        Step::Down(Replica::Primary, all),
    ];
    let set_back = |cut, empty| {
        let back = [Step::SetBack { empty, cut }, Step::Connect(Replica::Mirror)];
        [&[Step::Save][..], &store(0), &back].concat()
    };
    for (between, reads) in [
        (vec![], 1),
        (store(0), 1),
        (refused, 0),
        (set_back(false, false), 0),
        (set_back(true, false), 0),
        (set_back(false, true), 0),
    ] {
        let mut world = World::new();
        for step in [&store(0)[..], &between, &read].concat() {
            world.step(&step);
        }
        assert_eq!(world.read, reads, "{between:?}");
        world.settle();
        assert_eq!(world.lane.counts.loaded, 1);
    }
}

/// The random steps reach what they are meant to test.
#[test]
fn the_simulation_of_who_follows_reaches_every_end() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let (mut read, mut refused, mut skipped) = (0, 0, 0);
    for _ in 0..64 {
        let steps = prop::collection::vec(step(), 400);
        let steps = steps.new_tree(&mut runner).unwrap().current();
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.settle();
        let Counts {
            refused: naks,
            skipped: late,
            ..
        } = world.lane.counts;
        read += world.read;
        refused += naks;
        skipped += late;
    }
    println!(
        "read at the mirror {read}, stores that it refused {refused}, answers skipped {skipped}"
    );
    assert!(read > 100 && refused > 100 && skipped > 150);
}
