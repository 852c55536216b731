// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Whatever the network does: no wrong page, every store ends once, and the server keeps exactly what it should.

use super::common::config;
use super::sim::{take, Client, Server, Wire};
use memsrv_protocol::{Slot, Status};
use proptest::prelude::*;

/// One thing that happens. Streams and slots are taken modulo their count.
#[derive(Clone, Debug)]
enum Step {
    Store {
        slot: u8,
    },
    Load {
        slot: u8,
        count: u16,
    },
    /// A load of one of the slots that were stored and wait for nothing.
    LoadPresent {
        which: usize,
        count: u16,
    },
    Invalidate {
        slot: u8,
    },
    FreeFlagged,
    /// The driver puts so many messages on the wire.
    Send {
        stream: usize,
        messages: u8,
    },
    /// So many bytes reach the server.
    Up {
        stream: usize,
        bytes: usize,
    },
    /// The server answers: so many pages, of LOADs in this order, or an ACK.
    Answer {
        stream: usize,
        which: Vec<usize>,
    },
    Acknowledge {
        stream: usize,
    },
    /// All that is on its way on a stream arrives and is answered.
    Flush {
        stream: usize,
    },
    /// So many bytes reach the client.
    Down {
        stream: usize,
        bytes: usize,
    },
    /// The connection breaks: so many bytes still arrive on either side, the others never.
    Break {
        stream: usize,
        up: usize,
        down: usize,
    },
    Connect {
        stream: usize,
    },
    /// Time passes.
    Wait {
        ms: u64,
    },
    /// What is older than this is given up on the streams that are not connected.
    Expire {
        age_ms: u64,
    },
    RefuseNext {
        status: Status,
    },
    DamageNext,
}

fn bytes() -> impl Strategy<Value = usize> {
    prop_oneof![1 => 0..80_usize, 2 => 3900..4300_usize, 3 => 0..60_000_usize]
}

fn step() -> impl Strategy<Value = Step> {
    let stream = 0..6_usize;
    prop_oneof![
        6 => any::<u8>().prop_map(|slot| Step::Store { slot }),
        3 => (any::<u8>(), 1..5_u16).prop_map(|(slot, count)| Step::Load { slot, count }),
        6 => (any::<usize>(), prop_oneof![2 => Just(1), 1 => 2..5_u16])
            .prop_map(|(which, count)| Step::LoadPresent { which, count }),
        2 => any::<u8>().prop_map(|slot| Step::Invalidate { slot }),
        2 => Just(Step::FreeFlagged),
        6 => (stream.clone(), 1..12_u8)
            .prop_map(|(stream, messages)| Step::Send { stream, messages }),
        6 => (stream.clone(), bytes()).prop_map(|(stream, bytes)| Step::Up { stream, bytes }),
        4 => (stream.clone(), prop::collection::vec(0..8_usize, 1..8))
            .prop_map(|(stream, which)| Step::Answer { stream, which }),
        3 => stream.clone().prop_map(|stream| Step::Acknowledge { stream }),
        6 => stream.clone().prop_map(|stream| Step::Flush { stream }),
        6 => (stream.clone(), bytes()).prop_map(|(stream, bytes)| Step::Down { stream, bytes }),
        1 => (stream.clone(), bytes(), bytes())
            .prop_map(|(stream, up, down)| Step::Break { stream, up, down }),
        2 => stream.prop_map(|stream| Step::Connect { stream }),
        2 => (0..20_u64).prop_map(|ms| Step::Wait { ms }),
        1 => (5..100_u64).prop_map(|age_ms| Step::Expire { age_ms }),
        1 => prop_oneof![Just(Status::Full), Just(Status::BadChecksum)]
            .prop_map(|status| Step::RefuseNext { status }),
        1 => Just(Step::DamageNext),
    ]
}

/// Streams, their wires, and one server.
struct World {
    clients: Vec<Client>,
    wires: Vec<Wire>,
    server: Server,
    seeds: u64,
}

/// One of 24 slots in four clusters, so that slots meet again often and runs cross a cluster's end.
fn slot(number: u8) -> Slot {
    let (cluster, index) = (u64::from(number % 4), u64::from(number / 4 % 6));
    Slot(cluster * 512 + if index < 4 { index } else { 506 + index })
}

impl World {
    fn new(streams: usize, capacity: usize, window: usize) -> Self {
        Self {
            clients: (0..streams).map(|_| Client::new()).collect(),
            wires: (0..streams).map(|_| Wire::default()).collect(),
            server: Server::new(streams, capacity, window),
            seeds: 0,
        }
    }

    fn of(&mut self, slot: Slot) -> &mut Client {
        let stream = usize::try_from(slot.cluster()).unwrap() % self.clients.len();
        &mut self.clients[stream]
    }

    fn step(&mut self, step: &Step) {
        let streams = self.clients.len();
        match *step {
            Step::Store { slot: number } => {
                self.seeds += 1;
                let seed = self.seeds;
                self.of(slot(number)).store(slot(number), seed);
            }
            Step::Load {
                slot: number,
                count,
            } => self.of(slot(number)).load(slot(number), count),
            Step::LoadPresent { which, count } => {
                let client = &mut self.clients[which % streams];
                if let Some(slot) = client.settled(which / streams) {
                    client.load(slot, count);
                }
            }
            Step::Invalidate { slot: number } => self.of(slot(number)).invalidate(slot(number)),
            Step::FreeFlagged => self.clients.iter_mut().for_each(Client::free_flagged),
            Step::Send { stream, messages } => self.send(stream % streams, messages.into()),
            Step::Up { stream, bytes } => self.up(stream % streams, bytes),
            Step::Answer { stream, ref which } => {
                for &which in which {
                    let down = &mut self.wires[stream % streams].down;
                    self.server.answer_load(stream % streams, which, down);
                }
            }
            Step::Acknowledge { stream } => {
                self.server
                    .acknowledge(stream % streams, &mut self.wires[stream % streams].down);
            }
            Step::Flush { stream } => self.flush(stream % streams),
            Step::Down { stream, bytes } => self.down(stream % streams, bytes),
            Step::Break { stream, up, down } => self.disconnect(stream % streams, up, down),
            Step::Connect { stream } => self.connect(stream % streams),
            Step::Wait { ms } => self.clients.iter_mut().for_each(|c| c.now_ms += ms),
            Step::Expire { age_ms } => self.clients.iter_mut().for_each(|c| c.expire(age_ms)),
            Step::RefuseNext { status } => self.server.refuse_next = Some(status),
            Step::DamageNext => self.server.damage_next = true,
        }
    }

    fn send(&mut self, i: usize, messages: usize) {
        for _ in 0..messages {
            if !self.clients[i].send(&mut self.wires[i].up) {
                break;
            }
        }
    }

    fn up(&mut self, i: usize, bytes: usize) {
        let bytes = take(&mut self.wires[i].up, bytes);
        self.server.receive(i, &bytes, &mut self.wires[i].down);
    }

    fn down(&mut self, i: usize, bytes: usize) {
        self.clients[i].receive(&mut self.wires[i].down, bytes);
    }

    fn flush(&mut self, i: usize) {
        self.send(i, usize::MAX);
        self.up(i, usize::MAX);
        self.server.answer_all(i, &mut self.wires[i]);
        self.down(i, usize::MAX);
    }

    fn connect(&mut self, i: usize) {
        if !self.clients[i].stream.is_connected() {
            assert!(self.clients[i].stream.issued() >= self.server.executed(i));
            let window = u32::try_from(self.server.window).unwrap();
            self.clients[i].stream.connected(window);
        }
    }

    fn disconnect(&mut self, i: usize, up: usize, down: usize) {
        if self.clients[i].stream.is_connected() {
            self.up(i, up);
            self.down(i, down);
            self.wires[i] = Wire::default();
            self.server.disconnected(i);
            self.clients[i].disconnected();
        }
    }

    /// Lets everything come to its end, and checks that it is the right one.
    fn settle(&mut self) {
        self.server.refuse_next = None;
        self.server.damage_next = false;
        for round in 0.. {
            assert!(round < 1000, "it does not come to rest");
            for i in 0..self.clients.len() {
                self.connect(i);
                self.clients[i].free_flagged();
                self.flush(i);
            }
            if self.clients.iter().all(Client::is_quiet) {
                break;
            }
        }
        // The last answers may have been given to refused stores, whose ACK is still to be taken in.
        for client in &self.clients {
            client.assert_nothing_left();
        }
        let present = self.clients.iter().flat_map(Client::present).collect();
        assert_eq!(
            self.server.pages.len(),
            std::collections::BTreeMap::len(&present)
        );
        assert!(
            self.server.pages == present,
            "the server's pages are not the oracle's"
        );
    }
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn loads_return_what_was_stored_last_and_the_server_keeps_exactly_that(
        streams in 1..=3_usize,
        capacity in prop_oneof![1 => 2..12_usize, 2 => Just(1000)],
        window in prop_oneof![1 => 1..8_usize, 2 => Just(64)],
        steps in prop::collection::vec(step(), 1..300),
    ) {
        let mut world = World::new(streams, capacity, window);
        for i in 0..streams {
            world.connect(i);
        }
        for step in &steps {
            world.step(step);
        }
        world.settle();
    }

    #[test]
    fn a_break_at_any_byte_loses_and_repeats_nothing(
        stores in prop::collection::vec(any::<u8>(), 1..12),
        cut_up in any::<prop::sample::Index>(),
        cut_down in any::<prop::sample::Index>(),
    ) {
        let mut world = World::new(1, 1000, 64);
        world.connect(0);
        for &number in &stores {
            world.step(&Step::Store { slot: number });
            world.step(&Step::Invalidate { slot: number.wrapping_add(1) });
        }
        world.step(&Step::FreeFlagged);
        world.send(0, usize::MAX);
        let up = cut_up.index(world.wires[0].up.len() + 1);
        world.up(0, up);
        world.server.acknowledge(0, &mut world.wires[0].down);
        let down = cut_down.index(world.wires[0].down.len() + 1);
        world.disconnect(0, 0, down);
        world.settle();
        let client = &world.clients[0];
        prop_assert_eq!(client.stored, stores.len());
    }

    #[test]
    fn loads_survive_a_break_at_any_byte(
        loads in prop::collection::vec((any::<u8>(), 1..5_u16), 1..5),
        cut_down in any::<prop::sample::Index>(),
    ) {
        let mut world = World::new(1, 1000, 64);
        world.connect(0);
        for number in 0..12 {
            world.step(&Step::Store { slot: number });
        }
        world.settle();
        for &(slot, count) in &loads {
            world.step(&Step::Load { slot, count });
        }
        world.send(0, usize::MAX);
        world.up(0, usize::MAX);
        world.server.answer_all(0, &mut world.wires[0]);
        let down = cut_down.index(world.wires[0].down.len() + 1);
        world.disconnect(0, 0, down);
        world.settle();
    }
}

/// The random steps reach what they are meant to test.
#[test]
fn the_simulation_stores_loads_refuses_and_expires() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let mut runner = TestRunner::deterministic();
    let (mut stored, mut refused, mut loaded, mut expired) = (0, 0, 0, 0);
    for _ in 0..20 {
        let steps = prop::collection::vec(step(), 300)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        let mut world = World::new(2, 10, 16);
        for i in 0..2 {
            world.connect(i);
        }
        for step in &steps {
            world.step(step);
        }
        world.settle();
        for client in &world.clients {
            stored += client.stored;
            refused += client.refused;
            loaded += client.loaded;
            expired += client.expired;
        }
    }
    println!("stored {stored}, refused {refused}, pages loaded {loaded}, expired {expired}");
    assert!(stored > 300 && refused > 50 && loaded > 100 && expired > 10);
}
