// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A peer that keeps no rule: nothing panics, and nothing ends twice, too early, or with another's page.

use super::common::{config, crc, decode, stream, Done, TestStream};
use memsrv_engine::{Completion, Event, LoadError, Receiver, StoreError, Want};
use memsrv_protocol::{FreeMask, Message, Op, Seq, Slot, Status, Tag, PAGE_LEN};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// One thing that happens. Numbers near the truth are made from what the client has sent.
#[derive(Clone, Debug)]
enum Step {
    Store,
    Free {
        cluster: u64,
    },
    Load {
        slot: u64,
        count: u16,
    },
    Send {
        messages: u8,
    },
    /// An ACK or NAK of the last number sent, more or less.
    Ack {
        off: i64,
    },
    Nak {
        off: i64,
        status: u32,
    },
    /// A PAGE or NOPAGE for one of the LOADs ever sent, a place on or off, its tag perhaps changed.
    Page {
        which: usize,
        off: i64,
        flip: u64,
        good: bool,
        end: bool,
    },
    NoPage {
        which: usize,
        off: i64,
        flip: u64,
        status: u32,
    },
    PageDone {
        which: usize,
        flip: u64,
    },
    Any {
        message: Message,
    },
    Reconnect {
        window: u32,
    },
    Expire,
}

/// Mostly the usual, sometimes another.
fn sometimes<T: Clone + std::fmt::Debug + 'static>(
    usual: T,
    other: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = T> {
    prop_oneof![3 => Just(usual), 1 => other]
}

fn any_message() -> impl Strategy<Value = Message> {
    (
        any::<[u64; 2]>(),
        any::<u32>(),
        any::<u16>(),
        any::<u32>(),
        0..14_u8,
    )
        .prop_map(|([id, slot], aux, op, len, kind)| {
            let (tag, seq, slot, status) =
                (Tag(id), Seq(id), Slot(slot), Status::from_code(aux % 16));
            match kind {
                0 => Message::Hello,
                1 => Message::Store {
                    seq,
                    slot,
                    crc: aux,
                    len: PAGE_LEN,
                },
                2 => Message::Load {
                    tag,
                    slot,
                    count: op,
                },
                3 => Message::Free {
                    seq,
                    slot,
                    crc: aux,
                },
                4 => Message::Welcome,
                5 => Message::Refused { status, len },
                6 => Message::Page {
                    tag,
                    slot,
                    crc: aux,
                    len: PAGE_LEN,
                },
                7 => Message::NoPage { tag, slot, status },
                8 => Message::Ack { seq },
                9 => Message::Nak { seq, status },
                10 => Message::Pong { tag },
                11 => Message::Notice { status, len },
                12 => Message::Unknown {
                    tag,
                    op: Op(op % 10),
                },
                _ => Message::Strange {
                    tag,
                    op: Op(op),
                    len,
                },
            }
        })
}

fn step() -> impl Strategy<Value = Step> {
    let flip = || {
        sometimes(
            0,
            prop_oneof![any::<u64>(), (0..64_u32).prop_map(|bit| 1 << bit)],
        )
    };
    let which = any::<usize>;
    prop_oneof![
        3 => Just(Step::Store),
        1 => (0..4_u64).prop_map(|cluster| Step::Free { cluster }),
        3 => (0..2000_u64, 0..5_u16).prop_map(|(slot, count)| Step::Load { slot, count }),
        4 => (1..8_u8).prop_map(|messages| Step::Send { messages }),
        2 => (-4..3_i64).prop_map(|off| Step::Ack { off }),
        2 => (-4..3_i64, 0..16_u32).prop_map(|(off, status)| Step::Nak { off, status }),
        4 => (which(), sometimes(0, -2..3_i64), flip(), any::<bool>(), sometimes(true, Just(false)))
            .prop_map(|(which, off, flip, good, end)| Step::Page { which, off, flip, good, end }),
        2 => (which(), sometimes(0, -2..3_i64), flip(), 0..16_u32)
            .prop_map(|(which, off, flip, status)| Step::NoPage { which, off, flip, status }),
        1 => (which(), flip()).prop_map(|(which, flip)| Step::PageDone { which, flip }),
        2 => any_message().prop_map(|message| Step::Any { message }),
        1 => any::<u32>().prop_map(|window| Step::Reconnect { window: window % 40 }),
        1 => Just(Step::Expire),
    ]
}

/// A LOAD as it was sent, and what this connection has answered of it.
#[derive(Clone, Copy)]
struct Sent {
    tag: Tag,
    slot: Slot,
    count: u16,
    answered: u16,
}

/// The client under attack, with what it has asked.
struct Victim {
    stream: TestStream,
    tokens: u32,
    stores: BTreeSet<u32>,
    /// Loads by token: slot, count, pages answered.
    loads: BTreeMap<u32, (Slot, u16, u16)>,
    sent: Vec<Sent>,
    last_seq: u64,
    /// Tokens of stores that are on this connection's wire.
    stores_sent: BTreeSet<u32>,
}

impl Victim {
    fn new() -> Self {
        let mut stream = stream(8, 4);
        stream.connected(16);
        Self {
            stream,
            tokens: 0,
            stores: BTreeSet::new(),
            loads: BTreeMap::new(),
            sent: Vec::new(),
            last_seq: 0,
            stores_sent: BTreeSet::new(),
        }
    }

    fn step(&mut self, step: &Step) {
        self.tokens += 1;
        let token = self.tokens;
        match *step {
            Step::Store => {
                if self
                    .stream
                    .store(Slot(token.into()), 0, token, token.into())
                    .is_ok()
                {
                    self.stores.insert(token);
                }
            }
            Step::Free { cluster } => {
                let _full = self.stream.free(Slot(cluster * 512));
            }
            Step::Load { slot, count } => {
                // A cluster of its own for each, so that a slot tells the load.
                let slot = Slot(u64::from(token) * 512 + slot % 512);
                if self.stream.load(slot, count, token, token.into()).is_ok() {
                    self.loads.insert(token, (slot, count, 0));
                }
            }
            Step::Send { messages } => (0..messages).for_each(|_| self.send()),
            Step::Reconnect { window } => self.reconnect(window),
            Step::Expire => self.expire(),
            _ => self.peer_says(step),
        }
    }

    /// The steps that are the peer's.
    fn peer_says(&mut self, step: &Step) {
        match *step {
            Step::Ack { off } => {
                let seq = Seq(self.last_seq.wrapping_add_signed(off));
                self.message(Message::Ack { seq });
            }
            Step::Nak { off, status } => {
                let seq = Seq(self.last_seq.wrapping_add_signed(off));
                self.message(Message::Nak {
                    seq,
                    status: Status::from_code(status),
                });
            }
            Step::Page {
                which,
                off,
                flip,
                good,
                end,
            } => {
                if let Some((tag, slot)) = self.near(which, off, flip) {
                    self.page(tag, slot, good, end);
                }
            }
            Step::NoPage {
                which,
                off,
                flip,
                status,
            } => {
                if let Some((tag, slot)) = self.near(which, off, flip) {
                    self.message(Message::NoPage {
                        tag,
                        slot,
                        status: Status::from_code(status),
                    });
                }
            }
            Step::PageDone { which, flip } => {
                if let Some((tag, _)) = self.near(which, 0, flip) {
                    assert!(self.stream.page_done(tag, Ok(())).is_err());
                }
            }
            Step::Any { message } => self.message(message),
            _ => {}
        }
    }

    fn send(&mut self) {
        let Some(out) = self.stream.next(|_| FreeMask::ALL, crc) else {
            return;
        };
        if let memsrv_engine::Outgoing::Store { token, .. } = out {
            assert!(self.stores.contains(&token), "an ended store is sent");
            self.stores_sent.insert(token);
        }
        match decode(&out) {
            Message::Store { seq, .. } | Message::Free { seq, .. } => self.last_seq = seq.0,
            Message::Load { tag, slot, count } => {
                assert!(
                    self.sent.iter().all(|sent| sent.tag != tag),
                    "a tag is used twice"
                );
                self.sent.push(Sent {
                    tag,
                    slot,
                    count,
                    answered: 0,
                });
            }
            other => panic!("{other:?}"),
        }
    }

    /// A tag and slot near those of some LOAD's next answer.
    fn near(&self, which: usize, off: i64, flip: u64) -> Option<(Tag, Slot)> {
        // Mostly the latest ones: the others can only be faults.
        let which = which.checked_rem(self.sent.len().min(6))?;
        let sent = self.sent.get(self.sent.len() - 1 - which)?;
        let slot = (sent.slot.0 + u64::from(sent.answered)).wrapping_add_signed(off);
        Some((Tag(sent.tag.0 ^ flip), Slot(slot)))
    }

    /// The LOAD that an answer with this tag and slot is due for, counting the answer.
    fn due(&mut self, tag: Tag, slot: Slot) -> bool {
        let due = self.sent.iter_mut().find(|sent| {
            let next = Slot(sent.slot.0 + u64::from(sent.answered));
            sent.tag == tag && sent.answered < sent.count && next == slot
        });
        if let Some(sent) = due {
            sent.answered += 1;
            return true;
        }
        false
    }

    fn message(&mut self, message: Message) {
        let due = match message {
            Message::NoPage { tag, slot, .. } => self.due(tag, slot).then_some(slot),
            _ => None,
        };
        let mut done = Vec::new();
        let result = self.stream.message(message, &mut |d| done.push(d));
        if let Some(slot) = due {
            assert_eq!(result, Ok(()));
            self.answered(slot, done.iter().find_map(load_token));
        } else {
            assert!(
                done.iter().all(|d| load_token(d).is_none()),
                "a load ends by {message:?}"
            );
        }
        assert!(
            result.is_ok() || done.is_empty(),
            "a fault completes something"
        );
        done.into_iter().for_each(|d| self.ended(d));
        if result.is_err() {
            self.reconnect(16);
        }
    }

    fn page(&mut self, tag: Tag, slot: Slot, good: bool, end: bool) {
        let due = self.due(tag, slot);
        let target = self.stream.page(tag, slot);
        assert_eq!(target.is_ok(), due, "{target:?}");
        let Ok(target) = target else {
            return self.reconnect(16);
        };
        let (first, count, answered) = self.loads[&target.token];
        assert!(target.index < count && target.index == answered);
        assert_eq!(first.plus(target.index), Some(slot));
        if !end {
            // A second page for it, a late end of another: the connection breaks in the middle.
            assert!(self.stream.page(tag, slot).is_err());
            return self.reconnect(16);
        }
        let result = if good {
            Ok(())
        } else {
            Err(LoadError::Checksum)
        };
        let done = self.stream.page_done(tag, result).expect("the page began");
        self.answered(slot, done.as_ref().and_then(load_token));
        if let Some(done) = done {
            self.ended(done);
        }
    }

    /// The load whose turn this slot is has one answer more; it ends with the last, and only then.
    fn answered(&mut self, slot: Slot, ended: Option<u32>) {
        let token = match ended {
            Some(token) => token,
            None => return self.count_one(slot),
        };
        let (first, count, answered) = self.loads[&token];
        assert_eq!((first.plus(answered), answered + 1), (Some(slot), count));
    }

    fn count_one(&mut self, slot: Slot) {
        let waits = self.loads.values_mut().find(|(first, count, answered)| {
            first.plus(*answered) == Some(slot) && answered < count
        });
        waits.expect("a load that waits for this slot").2 += 1;
    }

    fn ended(&mut self, done: Done) {
        match done {
            Completion::Store { token, result } => {
                assert!(self.stores.remove(&token), "a store ends once");
                let was_sent = self.stores_sent.remove(&token);
                assert!(
                    was_sent || result == Err(StoreError::Expired),
                    "a store ends unsent"
                );
            }
            Completion::Load { token, .. } => {
                assert!(self.loads.remove(&token).is_some(), "a load ends once");
            }
        }
    }

    fn reconnect(&mut self, window: u32) {
        self.stream.disconnected();
        self.stores_sent.clear();
        // Tags of the old connection stay among those tried, and are never due again.
        self.sent
            .iter_mut()
            .for_each(|sent| sent.answered = sent.count);
        self.stream.connected(window);
    }

    fn expire(&mut self) {
        self.stream.disconnected();
        let mut done = Vec::new();
        self.stream
            .expire_stores(self.tokens.saturating_sub(20).into(), &mut |d| done.push(d));
        self.stream
            .expire_loads(|&token, _| token % 2 == 0, &mut |d| done.push(d));
        done.into_iter().for_each(|d| self.ended(d));
        self.reconnect(16);
    }

    fn check(&self) {
        assert_eq!(self.stream.stores_in_flight(), self.stores.len());
        assert_eq!(self.stream.loads_in_flight(), self.loads.len());
        assert_eq!(self.stream.load_room(), 4 - self.loads.len());
        assert_eq!(
            self.stream.op_room(),
            8 - self.stores.len() - self.stream.frees_in_flight()
        );
    }
}

fn load_token(done: &Done) -> Option<u32> {
    match *done {
        Completion::Load { token, .. } => Some(token),
        Completion::Store { .. } => None,
    }
}

proptest! {
    #![proptest_config(config(400))]

    #[test]
    fn no_answer_ends_anything_but_what_it_is_due_for(
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut victim = Victim::new();
        for step in &steps {
            victim.step(step);
            victim.check();
        }
    }

    #[test]
    fn any_bytes_at_all_are_faults_at_worst(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        ops in prop::collection::vec(0x80..0x8c_u8, 1..20),
    ) {
        let mut victim = Victim::new();
        for _ in 0..4 {
            victim.step(&Step::Store);
            victim.step(&Step::Load { slot: 3, count: 2 });
        }
        victim.step(&Step::Send { messages: 8 });
        // Headers with a known operation and otherwise chance, so that some get past the decoder.
        for (header, op) in bytes.chunks(32).zip(ops) {
            let mut receiver = Receiver::new();
            let Want::Header(room) = receiver.want() else { panic!("a header comes first") };
            let room = &mut room[..header.len()];
            room.copy_from_slice(header);
            let known = [op, 0, 0, 0, 0, 0, 0, 0];
            room.iter_mut().zip(known).for_each(|(byte, known)| *byte = known);
            if let Ok(Some(Event::Message(message))) = receiver.advance(header.len()) {
                victim.message(message);
            }
            victim.check();
        }
    }
}
