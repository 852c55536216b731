// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A server without sockets and threads on a simulated disk, and clients that know what they were promised.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use memsrv_protocol::*;
use memsrvd::arena::{lock, Arena};
use memsrvd::config::Limits;
use memsrvd::error::StartError;
use memsrvd::mirror::{Mirror, MirrorAck, MIRROR_TIMEOUT, MIRROR_WELCOME};
use memsrvd::num::{to_u64, to_usize};
use memsrvd::persist::writer::Writer;
use memsrvd::persist::{disk_bound, recover, Options};
use memsrvd::regions::Shared;
use memsrvd::session::{Session, Stop};

use crate::entry::{answers, Nobody};
use crate::sim::Sim;
use crate::support::{free_bytes, hello, hello_bytes, page, store_bytes};

/// The most regions.
pub const REGIONS: usize = 4;

/// Pages that the server has.
pub const PAGES: usize = 96;

pub fn arena() -> Arena {
    Arena::new(memsrvd::sys::map_pages(PAGES, false).unwrap())
}

pub fn options(ack: bool, queue_len: usize) -> Options {
    let dir = "simulated".into();
    Options {
        dir,
        ack,
        queue_len,
    }
}

/// A mirror that nobody connects to.
fn mirror() -> memsrvd::mirror::Options {
    memsrvd::mirror::Options {
        address: "192.0.2.1:7170".parse().unwrap(),
        ack: MirrorAck::After,
        welcome: MIRROR_WELCOME,
        silence: MIRROR_TIMEOUT,
    }
}

/// A server that is running.
pub struct Machine {
    pub sim: Sim,
    pub shared: Arc<Shared>,
    pub writer: Writer,
    options: Options,
}

fn release(shared: Shared) -> Arena {
    for life in lock(&shared.registry).regions.values() {
        life.table.end(&shared.arena, &life.client.quota);
    }
    assert_eq!(shared.used_pages(), 0, "pages lost");
    shared.arena
}

impl Machine {
    /// Starts it; the arena comes back if it does not.
    pub fn boot(
        sim: &Sim,
        arena: Arena,
        options: &Options,
    ) -> Result<Machine, (StartError, Arena)> {
        thread_local!(static NEXT: std::cell::Cell<u8> = const { std::cell::Cell::new(1) });
        let id = NEXT.replace(NEXT.get() % 250 + 1);
        let limits = Limits {
            unlisted: Some(u64::MAX),
            regions: REGIONS,
            ..Limits::default()
        };
        let mut shared = Shared::new(arena, limits, Instance([id; 16]), VERSION);
        // Only who asks for it is forwarded.
        shared.mirror = Some(Mirror::new(mirror(), Default::default()));
        match recover::open(&mut shared, Box::new(sim.clone()), options) {
            Ok(segments) => {
                let shared = Arc::new(shared);
                Ok(Machine {
                    sim: sim.clone(),
                    writer: Writer::new(shared.clone(), segments).unwrap(),
                    shared,
                    options: options.clone(),
                })
            }
            Err(error) => Err((error, release(shared))),
        }
    }

    /// It is gone; nothing is written any more. Clients have let go of it.
    pub fn off(self) -> Arena {
        drop(self.writer);
        release(Arc::into_inner(self.shared).expect("somebody holds the server"))
    }

    /// It stops in order.
    pub fn stop(self) -> Arena {
        assert!(self.writer.close(), "the log is not whole");
        release(Arc::into_inner(self.shared).expect("somebody holds the server"))
    }

    pub fn bound(&self) -> u64 {
        disk_bound(&self.options, REGIONS, to_u64(PAGES))
    }

    pub fn instance(&self) -> Instance {
        self.shared.instance
    }
}

#[derive(Clone)]
pub enum What {
    Store { slot: u64, seed: u64 },
    Free { base: u64, mask: FreeMask },
}

#[derive(Clone)]
struct Op {
    what: What,
    nak: bool,
}

#[derive(Default)]
struct Stream {
    ops: Vec<Op>,
    /// How many of them are acknowledged.
    acked: usize,
    session: Option<Session>,
    /// What the server has not taken yet.
    input: Vec<u8>,
    executed: u64,
}

/// What a load gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Got {
    Page(u64),
    Nothing,
    Damaged,
}

/// A client of two streams. Cluster `c` travels stream `c % 2`.
pub struct Client {
    name: String,
    life: u8,
    instance: Instance,
    streams: [Stream; 2],
    next_seed: u64,
    /// The server said that it cannot go on.
    pub refused: Option<Status>,
}

impl Client {
    pub fn new(name: &str) -> Client {
        Client {
            name: name.to_owned(),
            life: 1,
            instance: Instance::default(),
            streams: Default::default(),
            next_seed: 1,
            refused: None,
        }
    }

    /// Connects what is not connected, and sends again what is not acknowledged. False: the server is
    /// another one, and what it had is gone.
    pub fn connect(&mut self, machine: &mut Machine) -> bool {
        let mut same = true;
        for number in 0..2 {
            let before = self.instance;
            let stream = &mut self.streams[number];
            if stream.session.is_some() {
                continue;
            }
            let hello = Hello {
                instance: before,
                stream: u16::try_from(number).unwrap(),
                streams: 2,
                issued: Seq(to_u64(stream.ops.len())),
                ..hello(&self.name, self.life)
            };
            stream.session = Some(Session::new(machine.shared.clone(), Arc::new(Nobody)));
            stream.input = hello_bytes(&hello);
            for (index, op) in stream.ops.iter().enumerate().skip(stream.acked) {
                stream.input.extend(bytes(index, &op.what));
            }
            self.pump(machine, number);
            same &= before == Instance::default() || before == self.instance;
        }
        same
    }

    /// The connections are gone.
    pub fn disconnect(&mut self) {
        for stream in &mut self.streams {
            stream.session = None;
            stream.input.clear();
        }
    }

    /// It says that it is done, and begins a new life.
    pub fn reborn(&mut self, machine: &mut Machine) {
        self.streams[0].input = Message::Bye.encode().to_vec();
        self.pump(machine, 0);
        *self = Client {
            life: self.life % 250 + 1,
            instance: self.instance,
            next_seed: self.next_seed,
            ..Client::new(&self.name)
        };
    }

    pub fn store(&mut self, machine: &mut Machine, slot: u64) {
        let seed = self.next_seed;
        self.next_seed += 1;
        self.ask(machine, What::Store { slot, seed });
    }

    pub fn free(&mut self, machine: &mut Machine, base: u64, mask: FreeMask) {
        self.ask(machine, What::Free { base, mask });
    }

    fn ask(&mut self, machine: &mut Machine, what: What) {
        let (What::Store { slot, .. } | What::Free { base: slot, .. }) = &what;
        let number = to_usize(slot / 512 % 2);
        let stream = &mut self.streams[number];
        stream.input.extend(bytes(stream.ops.len(), &what));
        stream.ops.push(Op { what, nak: false });
        self.pump(machine, number);
    }

    /// Gives the server what it takes, and takes what it says.
    fn pump(&mut self, machine: &mut Machine, number: usize) {
        loop {
            let stream = &mut self.streams[number];
            let Some(session) = &mut stream.session else {
                return;
            };
            let mut output = Vec::new();
            let progress = session.feed(&stream.input, &mut output);
            stream.input.drain(..progress.consumed);
            self.hear(number, &output);
            match progress.stop {
                Stop::NeedInput => break,
                // The log has no room for a free: a server with a thread would write it now.
                Stop::Stalled => {
                    if !machine.writer.step() {
                        break;
                    }
                }
                Stop::Close => self.streams[number].session = None,
                Stop::OutputFull | Stop::Yield => {}
            }
        }
        // As the client library does it: the slot of a store that failed is freed.
        let stream = &self.streams[number];
        let frees = |op: &Op, slot: u64| match &op.what {
            What::Free { base, mask } => {
                *base == slot / 512 * 512 && mask.contains(to_usize(slot % 512))
            }
            What::Store { .. } => false,
        };
        let failed = stream
            .ops
            .iter()
            .enumerate()
            .find_map(|(index, op)| match op.what {
                What::Store { slot, .. } if op.nak => {
                    let rest = &stream.ops[index + 1..];
                    (!rest.iter().any(|op| frees(op, slot))).then_some(slot)
                }
                _ => None,
            });
        if let (Some(slot), true) = (failed, stream.session.is_some()) {
            let mut mask = FreeMask::EMPTY;
            mask.insert(to_usize(slot % 512));
            let base = slot / 512 * 512;
            self.ask(machine, What::Free { base, mask });
        }
    }

    /// Takes what the disk's progress allows the server to say.
    pub fn settle(&mut self) {
        for number in 0..2 {
            let stream = &mut self.streams[number];
            if let Some(session) = &mut stream.session {
                let mut output = Vec::new();
                if session.settle(&mut output) {
                    stream.session = None;
                }
                self.hear(number, &output);
            }
        }
    }

    fn hear(&mut self, number: usize, output: &[u8]) {
        for (message, payload) in answers(output) {
            let stream = &mut self.streams[number];
            match message {
                Message::Welcome => {
                    let welcome = Welcome::decode(payload.first_chunk().unwrap()).unwrap();
                    assert!(welcome.executed.0 <= to_u64(stream.ops.len()));
                    stream.executed = welcome.executed.0;
                    if self.instance != welcome.instance {
                        self.instance = welcome.instance;
                    }
                }
                Message::Ack { seq } => {
                    let acked = to_usize(seq.0);
                    assert!(acked >= stream.acked && acked <= stream.ops.len());
                    stream.acked = acked;
                }
                Message::Nak { seq, status } => {
                    assert_eq!(status, Status::Full);
                    stream.ops[to_usize(seq.0) - 1].nak = true;
                }
                Message::Refused { status, .. } => self.refused = Some(status),
                other => panic!("{other:?}"),
            }
        }
    }

    /// How many operations are not acknowledged.
    pub fn owed(&self) -> usize {
        self.streams
            .iter()
            .map(|stream| stream.ops.len() - stream.acked)
            .sum()
    }

    /// Whether the server refused a store.
    pub fn was_refused(&self) -> bool {
        self.streams
            .iter()
            .any(|stream| stream.ops.iter().any(|op| op.nak))
    }

    pub fn executed(&self) -> Vec<(u64, usize, usize)> {
        let of = |stream: &Stream| (stream.executed, stream.acked, stream.ops.len());
        self.streams.iter().map(of).collect()
    }

    /// What each slot may hold if the server has executed what it acknowledged, and of the rest any part.
    pub fn may_hold(&self) -> BTreeMap<u64, BTreeSet<Got>> {
        let mut all = BTreeMap::new();
        for stream in &self.streams {
            let mut now: BTreeMap<u64, BTreeSet<Got>> = BTreeMap::new();
            let mut open: BTreeMap<u64, BTreeSet<Got>> = BTreeMap::new();
            for (index, op) in stream.ops.iter().enumerate() {
                let unsure = index >= stream.acked;
                let mut set = |slot: u64, got: Got, keeps: bool| {
                    let held = now.entry(slot).or_insert_with(|| [Got::Nothing].into());
                    if unsure {
                        open.entry(slot).or_default().extend(held.iter().copied());
                    }
                    if !keeps {
                        held.clear();
                    }
                    held.insert(got);
                };
                match &op.what {
                    What::Store { slot, seed } => {
                        set(*slot, Got::Page(*seed), op.nak);
                        if op.nak {
                            // It may have been done on an earlier connection, and the disk been at it.
                            set(*slot, Got::Damaged, true);
                        }
                        if unsure {
                            // The power went while the disk was writing the page.
                            open.entry(*slot).or_default().insert(Got::Damaged);
                        }
                    }
                    What::Free { base, mask } => {
                        for index in mask.indices() {
                            set(base + to_u64(index), Got::Nothing, false);
                        }
                    }
                }
            }
            for (slot, more) in open {
                now.entry(slot).or_default().extend(more);
            }
            all.extend(now);
        }
        all
    }

    /// What a slot holds.
    pub fn load(&mut self, slot: u64) -> Got {
        let stream = &mut self.streams[to_usize(slot / 512 % 2)];
        let load = Message::Load {
            tag: Tag(slot),
            slot: Slot(slot),
            count: 1,
        };
        let mut output = Vec::new();
        let session = stream.session.as_mut().expect("a connection");
        session.feed(&load.encode(), &mut output);
        for (message, payload) in answers(&output) {
            match message {
                Message::Page { crc, .. } => {
                    assert_eq!(crc, memsrvd::batch::checksum(Slot(slot), payload));
                    let seed = u64::from_le_bytes(*payload.first_chunk().unwrap());
                    let whole = stamp(slot, seed) == payload;
                    assert!(whole, "bytes that were never stored");
                    return Got::Page(seed);
                }
                Message::NoPage { status, .. } => {
                    return match status {
                        Status::NotFound => Got::Nothing,
                        Status::BadChecksum => Got::Damaged,
                        other => panic!("{other:?}"),
                    }
                }
                // The disk got further meanwhile.
                Message::Ack { seq } => stream.acked = to_usize(seq.0),
                other => panic!("{other:?}"),
            }
        }
        panic!("no answer")
    }

    /// Checks every slot that was ever used. With `exact` nothing is under way.
    pub fn check(&mut self, exact: bool) {
        let may = self.may_hold();
        if exact {
            assert_eq!(self.owed(), 0, "not everything is acknowledged");
            assert!(may.values().all(|may| may.len() == 1 || self.was_refused()));
        }
        for (slot, may) in may {
            let got = self.load(slot);
            assert!(
                may.contains(&got),
                "{}: slot {slot} holds {got:?}, not one of {may:?}; {:?}",
                self.name,
                self.executed()
            );
        }
    }

    /// Checks that nothing is left.
    pub fn check_empty(&mut self) {
        for slot in self.may_hold().into_keys() {
            assert_eq!(self.load(slot), Got::Nothing, "slot {slot}");
        }
    }

    /// The same client, which sends nothing again; it must not store.
    pub fn silent(&self) -> Client {
        let stream = |stream: &Stream| Stream {
            ops: stream.ops.clone(),
            acked: stream.ops.len(),
            ..Stream::default()
        };
        Client {
            name: self.name.clone(),
            streams: [stream(&self.streams[0]), stream(&self.streams[1])],
            ..*self
        }
    }
}

/// The page that a store with that seed stores.
fn stamp(slot: u64, seed: u64) -> [u8; PAGE_SIZE] {
    // Half of the pages are mostly zeroes, which look like room that was never written.
    let mut page = match seed % 2 {
        0 => [0; PAGE_SIZE],
        _ => page(seed),
    };
    page[..8].copy_from_slice(&seed.to_le_bytes());
    page[8..16].copy_from_slice(&slot.to_le_bytes());
    page
}

fn bytes(index: usize, what: &What) -> Vec<u8> {
    let seq = to_u64(index) + 1;
    match what {
        What::Store { slot, seed } => store_bytes(seq, *slot, &stamp(*slot, *seed)),
        What::Free { base, mask } => free_bytes(seq, *base, mask),
    }
}
