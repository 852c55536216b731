// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The model of a server: a map from slots to pages, and the protocol without any haste.

use super::super::common::crc;
use super::pulls::Pulls;
use super::{Pipe, Wire};
use memsrv_protocol::{
    FreeMask, Message, Pull, Sender, Seq, Slot, Status, Tag, HEADER_LEN, PAGE_LEN,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Answers that are still to be given to one LOAD.
struct Pending {
    tag: Tag,
    pages: VecDeque<(Slot, Option<Vec<u8>>)>,
}

/// What a server keeps of one stream.
#[derive(Default)]
struct Session {
    input: Vec<u8>,
    /// The last number executed in the session's life, and on this connection.
    executed: Seq,
    executed_here: Seq,
    /// Operations done and not answered on this connection.
    unanswered: usize,
    pending: Vec<Pending>,
}

/// The server and its pages.
pub struct Server {
    pub pages: BTreeMap<u64, Vec<u8>>,
    /// Slots that had no page when they were loaded last; one may have come by a pull since.
    pub lacked: BTreeSet<u64>,
    /// How many pages it takes.
    pub capacity: usize,
    /// The next STORE is refused with this, whatever it is.
    pub refuse_next: Option<Status>,
    /// The next PAGE is damaged on its way.
    pub damage_next: bool,
    pub window: usize,
    pub pulls: Pulls,
    /// What it has done, in bytes for its mirror.
    pub forwarded: Pipe,
    /// The stream whose connections only read, and follow stream 0.
    pub reader: Option<usize>,
    sessions: Vec<Session>,
}

impl Server {
    pub fn new(streams: usize, capacity: usize, window: usize) -> Self {
        Self {
            pages: BTreeMap::new(),
            lacked: BTreeSet::new(),
            capacity,
            refuse_next: None,
            damage_next: false,
            window,
            pulls: Pulls::default(),
            forwarded: Pipe::new(),
            reader: None,
            sessions: (0..streams).map(|_| Session::default()).collect(),
        }
    }

    /// A connection is gone with all that it had.
    pub fn disconnected(&mut self, stream: usize) {
        self.pulls.disconnected(stream);
        let session = &mut self.sessions[stream];
        let executed = session.executed;
        *session = Session {
            executed,
            ..Session::default()
        };
    }

    /// It has only these pages from now on, and has executed so much of stream 0.
    pub fn set_back(&mut self, pages: BTreeMap<u64, Vec<u8>>, executed: Seq) {
        self.pages = pages;
        self.sessions[0] = Session {
            executed,
            ..Session::default()
        };
    }

    /// The last operation executed on the stream.
    pub fn executed(&self, stream: usize) -> Seq {
        self.sessions[stream].executed
    }

    /// Bytes came: executes every message that is whole.
    pub fn receive(&mut self, stream: usize, bytes: &[u8], down: &mut Pipe) {
        self.sessions[stream].input.extend(bytes);
        loop {
            let input = &self.sessions[stream].input;
            let Some(header) = input.first_chunk::<HEADER_LEN>() else {
                return;
            };
            let message = Message::decode(header, Sender::Client).unwrap();
            let end = HEADER_LEN + usize::try_from(message.payload_len()).unwrap();
            if input.len() < end {
                return;
            }
            let payload = input[HEADER_LEN..end].to_vec();
            self.sessions[stream].input.drain(..end);
            self.execute(stream, message, &payload, down);
            let session = &self.sessions[stream];
            let unanswered = session.unanswered + session.pending.len();
            assert!(
                unanswered <= self.window,
                "{unanswered} in a window of {}",
                self.window
            );
        }
    }

    fn execute(&mut self, stream: usize, message: Message, payload: &[u8], down: &mut Pipe) {
        if self.reader == Some(stream) {
            assert!(
                matches!(message, Message::Reach { .. } | Message::Load { .. }),
                "{message:?} to who only reads"
            );
        }
        match message {
            Message::Reach { tag } => {
                let seq = self.executed(0);
                down.extend(Message::Reached { tag, seq }.encode());
            }
            Message::Store {
                seq,
                slot,
                crc: sum,
                ..
            } => {
                assert_eq!(sum, crc(slot, payload), "a STORE's checksum");
                self.next_number(stream, seq);
                self.forwarded.extend(message.encode());
                self.forwarded.extend(payload);
                if let Some(status) = self.store(slot, payload) {
                    down.extend(Message::Nak { seq, status }.encode());
                    self.sessions[stream].unanswered -= 1;
                }
            }
            Message::Free {
                seq,
                slot,
                crc: sum,
                ..
            } => {
                assert_eq!(sum, crc(slot, payload), "a FREE's checksum");
                self.next_number(stream, seq);
                self.forwarded.extend(message.encode());
                self.forwarded.extend(payload);
                for index in FreeMask(payload.try_into().unwrap()).indices() {
                    let slot = slot.0 + u64::try_from(index).unwrap();
                    self.pages.remove(&slot);
                    self.pulls.overtake(slot);
                }
            }
            Message::Pull {
                tag,
                slot,
                crc: sum,
                ..
            } => {
                assert_eq!(sum, crc(slot, payload), "a PULL's checksum");
                let pull = Pull::decode(payload.try_into().unwrap());
                let has = |slot| self.pages.contains_key(&slot);
                if let Some(tag) = self.pulls.begin(stream, tag, slot, &pull, has) {
                    let status = Some(Status::Cancelled);
                    down.extend(Message::Pulled { tag, slot, status }.encode());
                }
            }
            Message::Load { tag, slot, count } => {
                let page = |n| {
                    let slot = slot.plus(n).unwrap();
                    (slot, self.pages.get(&slot.0).cloned())
                };
                let pages: VecDeque<_> = (0..count).map(page).collect();
                for (slot, page) in &pages {
                    if page.is_some() {
                        self.lacked.remove(&slot.0);
                    } else {
                        self.lacked.insert(slot.0);
                    }
                }
                self.sessions[stream].pending.push(Pending { tag, pages });
            }
            other => panic!("the engine does not send {other:?}"),
        }
    }

    fn next_number(&mut self, stream: usize, seq: Seq) {
        let session = &mut self.sessions[stream];
        assert!(
            seq > session.executed_here,
            "{seq:?} after {:?}",
            session.executed_here
        );
        session.executed_here = seq;
        session.executed = session.executed.max(seq);
        session.unanswered += 1;
    }

    fn store(&mut self, slot: Slot, page: &[u8]) -> Option<Status> {
        self.pulls.overtake(slot.0);
        let refused = self.refuse_next.take();
        let full = self.pages.len() >= self.capacity && !self.pages.contains_key(&slot.0);
        let refused = refused.or(full.then_some(Status::Full));
        self.lacked.remove(&slot.0);
        if refused.is_none() {
            self.pages.insert(slot.0, page.to_vec());
        }
        refused
    }

    /// Asks for a page of one of the pulls.
    pub fn fetch(&mut self, which: usize, source: &Server, life: u8) {
        self.pulls.fetch(which, life, &source.pages);
    }

    /// A page of one of the pulls comes in, the source having this life now.
    pub fn deliver(&mut self, which: usize, life: u8, wires: &mut [Wire]) {
        let (pulls, pages) = (&mut self.pulls, &mut self.pages);
        if let Some((stream, message)) = pulls.deliver(which, life, self.capacity, pages) {
            wires[stream].down.extend(message.encode());
        }
    }

    /// Acknowledges all that was executed.
    pub fn acknowledge(&mut self, stream: usize, down: &mut Pipe) {
        self.acknowledge_up_to(stream, Seq(u64::MAX), down);
    }

    /// Acknowledges what was executed, but nothing above that number.
    pub fn acknowledge_up_to(&mut self, stream: usize, limit: Seq, down: &mut Pipe) {
        let session = &mut self.sessions[stream];
        let seq = session.executed_here.min(limit);
        if seq > Seq(0) {
            down.extend(Message::Ack { seq }.encode());
            if seq == session.executed_here {
                session.unanswered = 0;
            }
        }
    }

    /// Answers one page of one of the waiting LOADs, chosen by `which`.
    pub fn answer_load(&mut self, stream: usize, which: usize, down: &mut Pipe) {
        let pending = &mut self.sessions[stream].pending;
        if pending.is_empty() {
            return;
        }
        let which = which % pending.len();
        let load = &mut pending[which];
        let tag = load.tag;
        let (slot, page) = load.pages.pop_front().unwrap();
        if load.pages.is_empty() {
            pending.remove(which);
        }
        match page {
            Some(mut page) => {
                down.extend(
                    Message::Page {
                        tag,
                        slot,
                        crc: crc(slot, &page),
                        len: PAGE_LEN,
                    }
                    .encode(),
                );
                if std::mem::take(&mut self.damage_next) {
                    page[100] ^= 4;
                }
                down.extend(page);
            }
            None => {
                down.extend(
                    Message::NoPage {
                        tag,
                        slot,
                        status: Status::NotFound,
                    }
                    .encode(),
                );
            }
        }
    }

    /// Answers everything on a stream.
    pub fn answer_all(&mut self, stream: usize, wire: &mut Wire) {
        while !self.sessions[stream].pending.is_empty() {
            self.answer_load(stream, 0, &mut wire.down);
        }
        if self.sessions[stream].unanswered > 0 {
            self.acknowledge(stream, &mut wire.down);
        }
    }
}
