// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The messages of an open session, executed in batches under the stream's lock.
//!
//! What a batch did is acknowledged once, at its end, by the number of its last store or free; if a part of the next
//! message is there, with that, unless much is owed: each ACK is a packet and a wake-up for the client.
//!
//! A connection that only reads (ATTACH) has batches without a stream.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use memsrv_protocol::{
    FreeMask, Hello, Message, Pull, Seq, Slot, Status, Tag, HEADER_LEN, PAGE_SIZE,
};

use crate::mirror::forward::{Forward, Kind};
use crate::num::{to_u32, to_u64};
use crate::persist::promise::Promises;
use crate::persist::queue::{Need, NoRoom, UNLOGGED};
use crate::pull::Asker;
use crate::regions::{refused, Attachment, Peer, Shared, Stream};
use crate::session::{bad, next, op_name, End, Stop, OUTPUT_LIMIT};
use crate::stats::Operations;
use crate::table::Ended;

/// The rest of a LOAD that was begun.
pub(crate) struct Run {
    tag: Tag,
    slot: Slot,
    left: u16,
    /// How many of them the processor was asked for ([`crate::table::Table::expect`]).
    expected: usize,
}

/// So many messages, or pages of a run, are looked at together, before the first of them is executed.
const TOGETHER: usize = 8;

/// So many stores and frees are acknowledged even if a part of the next message is there: as many as the module sends at
/// a time.
const MOST_OWED: u32 = 32;

/// Whether a message is one for a connection that only reads, too.
fn reads(message: Message) -> bool {
    matches!(
        message,
        Message::Load { .. }
            | Message::Ping { .. }
            | Message::Reach { .. }
            | Message::Stat { .. }
            | Message::Strange { .. }
    )
}

/// Whether a message is forwarded to a mirror.
fn changes(message: Message) -> bool {
    matches!(message, Message::Store { .. } | Message::Free { .. })
}

/// The checksum that goes with a payload: CRC-32C over the slot's bytes and it.
pub fn checksum(slot: Slot, payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&slot.0.to_le_bytes()), payload)
}

/// What a connection has acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    /// As far as this server goes, everything up to here may be.
    pub(crate) ours: Seq,
    /// Everything up to here is.
    pub(crate) sent: Seq,
}

/// Why a batch was interrupted.
pub(crate) enum Paused {
    /// There is nothing more to do.
    Stop(Stop),
    /// A STAT is to be answered without the stream's lock.
    Stat(Tag),
}

/// The messages of one call, executed under the stream's lock.
pub(crate) struct Batch<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) at: &'a Attachment,
    /// The stream, which is this connection's; `None`: it only reads.
    pub(crate) stream: Option<&'a mut Stream>,
    pub(crate) peer: &'a Arc<dyn Peer>,
    /// Held by each PULL of the connection that is not answered.
    pub(crate) pulls: &'a Arc<()>,
    /// The connection's.
    pub(crate) options: u32,
    pub(crate) done: Operations,
    pub(crate) last: &'a mut Seq,
    pub(crate) run: &'a mut Option<Run>,
    /// How many stores and frees were executed and not acknowledged here; the connection's.
    pub(crate) owed: &'a mut u32,
    /// Where the log ends with what this connection did.
    pub(crate) logged: &'a mut u64,
    pub(crate) promises: &'a mut Promises,
    pub(crate) acks: &'a mut Acks,
    pub(crate) forward: &'a mut Forward,
    pub(crate) output: &'a mut Vec<u8>,
}

impl Batch<'_> {
    /// Executes messages until there is no whole one, or no room for answers.
    pub(crate) fn execute(&mut self, rest: &mut &[u8], skip: &mut u32) -> Result<Paused, End> {
        // How many bytes are behind the messages that were looked at.
        let mut beyond = rest.len();
        loop {
            self.load()?;
            if self.run.is_some() || self.output.len() >= OUTPUT_LIMIT {
                return Ok(Paused::Stop(Stop::OutputFull));
            }
            if rest.len() <= beyond && !self.forward.blocks() {
                beyond = self.look_ahead(rest, *skip);
            }
            let before = *rest;
            let Some((message, payload)) = next(rest, skip, self.options)? else {
                return Ok(Paused::Stop(Stop::NeedInput));
            };
            if self.forward.blocks() && changes(message) {
                *rest = before;
                return Ok(Paused::Stop(Stop::Stalled));
            }
            if self.stream.is_none() && !reads(message) {
                let text = format!("{} on a connection that only reads", op_name(message));
                return Err(bad(text));
            }
            match message {
                Message::Store { seq, slot, crc, .. } => self.store(seq, slot, crc, payload)?,
                Message::Load { tag, slot, count } => {
                    *self.run = Some(Run {
                        tag,
                        slot,
                        left: count,
                        expected: 0,
                    });
                }
                Message::Free { seq, slot, crc } => {
                    if !self.free(seq, slot, crc, payload)? {
                        *rest = before;
                        return Ok(Paused::Stop(Stop::Stalled));
                    }
                }
                Message::Pull { tag, slot, crc } => self.pull(tag, slot, crc, payload)?,
                Message::Ping { tag } => self.answer(Message::Pong { tag }),
                Message::Reach { tag } => {
                    let seq = self.reached();
                    self.answer(Message::Reached { tag, seq });
                }
                Message::Stat { tag } => return Ok(Paused::Stat(tag)),
                Message::Bye => return Err(End::Bye),
                Message::Strange { tag, op, .. } => self.answer(Message::Unknown { tag, op }),
                other => return Err(bad(format!("{} within a session", op_name(other)))),
            }
        }
    }

    /// Asks the processor for the pages of the next messages; gives back how many bytes are behind those.
    fn look_ahead(&self, mut rest: &[u8], mut skip: u32) -> usize {
        // Of a message that is alone the page is needed at once.
        if rest.len() <= HEADER_LEN {
            return 0;
        }
        let (mut slots, mut count) = ([Slot(0); TOGETHER], 0_usize);
        for _ in 0..TOGETHER {
            // What is wrong with a message is said when it is its turn.
            let Ok(Some((message, _))) = next(&mut rest, &mut skip, self.options) else {
                break;
            };
            if let Message::Store { slot, .. } | Message::Load { slot, count: 1, .. } = message {
                if let Some(place) = slots.get_mut(count) {
                    *place = slot;
                    count = count.saturating_add(1);
                }
            }
        }
        if count > 1 {
            let slots = slots.get(..count).unwrap_or(&[]);
            self.at.life.table.expect(slots);
        }
        rest.len()
    }

    /// Counts what was done and acknowledges it; where a part of a message is there, later, if that is soon.
    pub(crate) fn finish(&mut self, partial: bool) {
        self.at.life.counters.add(&self.done);
        if *self.owed > 0 {
            if let Some(stream) = &mut self.stream {
                stream.executed = stream.executed.max(*self.last);
            }
            if partial && *self.owed < MOST_OWED {
                return;
            }
            *self.owed = 0;
            match &self.shared.persist {
                Some(persist) if persist.ack => self.promises.add(*self.logged, *self.last),
                _ => self.acknowledge(),
            }
        }
    }

    /// Acknowledges what the batch did, or leaves it to [`crate::session::Session::settle`] if the mirror has to
    /// acknowledge it first.
    fn acknowledge(&mut self) {
        let seq = *self.last;
        self.acks.ours = seq;
        if self.forward.limit().is_none() {
            self.acks.sent = seq;
            if let Some(stream) = &mut self.stream {
                stream.released = stream.released.max(seq);
            }
            self.answer(Message::Ack { seq });
        }
    }

    fn answer(&mut self, message: Message) {
        self.output.extend_from_slice(&message.encode());
    }

    /// How far the stream has come; for who only reads, the one that his ATTACH named. What is told of as done can be
    /// read by now.
    fn reached(&self) -> Seq {
        match &self.stream {
            Some(stream) => stream.executed.max(*self.last),
            None => self.at.followed(),
        }
    }

    /// The stream's number; who only reads changes nothing.
    fn number(&self) -> usize {
        self.at.stream.unwrap_or_default()
    }

    /// Checks an operation's number, which must be above all before on this connection.
    fn check_number(&self, seq: Seq) -> Result<(), End> {
        if seq > *self.last {
            return Ok(());
        }
        let text = format!("operation {} after operation {}", seq.0, self.last.0);
        Err(bad(text))
    }

    /// Takes note that an operation was executed, or refused with a NAK.
    fn executed(&mut self, seq: Seq) {
        *self.last = seq;
        *self.owed = self.owed.saturating_add(1);
    }

    fn store(&mut self, seq: Seq, slot: Slot, crc: u32, payload: &[u8]) -> Result<(), End> {
        self.check_number(seq)?;
        let result = if self.shared.draining.load(Ordering::Relaxed) {
            Err(Status::Draining)
        } else if checksum(slot, payload) != crc {
            Err(Status::BadChecksum)
        } else {
            self.put(seq, slot, crc, payload)?
        };
        match result {
            Ok(()) => {
                self.done.stores = self.done.stores.saturating_add(1);
                let len = to_u32(payload.len());
                let store = Message::Store {
                    seq,
                    slot,
                    crc,
                    len,
                };
                let header = store.encode();
                self.forward.executed(seq, Kind::Store, &header, payload);
            }
            Err(status) if self.options & Hello::NO_REFUSAL != 0 => {
                let text = format!(
                    "operation {} cannot be done ({}), and was to be",
                    seq.0,
                    status.as_str()
                );
                return Err(refused(status, text).into());
            }
            Err(status) => {
                self.forward.passed_over(seq, slot);
                let life = &self.at.life;
                let (arena, quota) = (&self.shared.arena, &life.client.quota);
                life.table.refused(arena, quota, slot, status)?;
                self.done.count_refused(status);
                self.answer(Message::Nak { seq, status });
            }
        }
        self.executed(seq);
        Ok(())
    }

    /// Stores a page and logs that, as one.
    fn put(
        &mut self,
        seq: Seq,
        slot: Slot,
        crc: u32,
        payload: &[u8],
    ) -> Result<Result<(), Status>, Ended> {
        let life = &self.at.life;
        let (arena, quota) = (&self.shared.arena, &life.client.quota);
        let Some(persist) = &self.shared.persist else {
            return life.table.store(arena, quota, slot, crc, payload);
        };
        // The log has whole pages only, and compressed ones are not granted.
        let Some(page) = payload.first_chunk::<PAGE_SIZE>() else {
            return Ok(Err(Status::BadRequest));
        };
        let Ok(mut entry) = persist.enter(Need::Page) else {
            return Ok(Err(Status::Full));
        };
        let done = life.table.store(arena, quota, slot, crc, page)?;
        if done.is_ok() {
            *self.logged = entry.store(&life.log, self.number(), seq, slot, crc, page);
        }
        Ok(done)
    }

    /// Frees slots and logs that, as one; `None`: the log has no room for it now.
    fn take_out(&mut self, seq: Seq, slot: Slot, mask: &FreeMask) -> Result<Option<u64>, Ended> {
        let life = &self.at.life;
        let (arena, quota) = (&self.shared.arena, &life.client.quota);
        let mut entry = match self
            .shared
            .persist
            .as_ref()
            .map(|log| log.enter(Need::Small))
        {
            Some(Err(NoRoom::Now)) => return Ok(None),
            Some(Err(NoRoom::Disk(_))) => {
                *self.logged = UNLOGGED;
                None
            }
            Some(Ok(entry)) => Some(entry),
            None => None,
        };
        let freed = life.table.free(arena, quota, slot, mask)?;
        if let Some(entry) = &mut entry {
            *self.logged = entry.free(&life.log, self.number(), seq, slot, mask);
        }
        Ok(Some(freed))
    }

    /// Frees slots; false: not now. A mask that does not match its checksum ends the connection, for a NAK is of stores
    /// only: the client sends again what was not acknowledged.
    fn free(&mut self, seq: Seq, slot: Slot, crc: u32, payload: &[u8]) -> Result<bool, End> {
        self.check_number(seq)?;
        let mask = payload.first_chunk();
        let mask = mask.ok_or_else(|| bad("FREE is too short"))?;
        if checksum(slot, mask) != crc {
            self.done.count_refused(Status::BadChecksum);
            let text = format!("FREE {} does not match its checksum", seq.0);
            return Err(refused(Status::BadChecksum, text).into());
        }
        let Some(freed) = self.take_out(seq, slot, &FreeMask(*mask))? else {
            return Ok(false);
        };
        self.done.frees = self.done.frees.saturating_add(freed);
        let header = Message::Free { seq, slot, crc }.encode();
        self.forward.executed(seq, Kind::Free, &header, mask);
        self.executed(seq);
        Ok(true)
    }

    /// Begins to fetch pages from another server, in the order of the stream's stores and frees.
    fn pull(&mut self, tag: Tag, slot: Slot, crc: u32, payload: &[u8]) -> Result<(), End> {
        let pull = payload.first_chunk::<{ Pull::LEN }>();
        let pull = pull.ok_or_else(|| bad("PULL is too short"))?;
        if checksum(slot, pull) != crc {
            self.done.count_refused(Status::BadChecksum);
            let text = format!("PULL {} does not match its checksum", tag.0);
            return Err(refused(Status::BadChecksum, text).into());
        }
        let asker = Asker {
            shared: self.shared,
            at: self.at,
            peer: self.peer,
            places: self.pulls,
        };
        if let Some(outcome) = asker.pull(tag, slot, &Pull::decode(pull))? {
            let status = outcome.err();
            self.answer(Message::Pulled { tag, slot, status });
        }
        Ok(())
    }

    /// Answers as much of the LOAD in hand as the output has room for.
    fn load(&mut self) -> Result<(), End> {
        while let Some(Run {
            tag,
            slot,
            left,
            mut expected,
        }) = *self.run
        {
            if self.output.len() >= OUTPUT_LIMIT {
                return Ok(());
            }
            if expected == 0 && left > 1 {
                expected = usize::from(left).min(TOGETHER);
                let slots: [Slot; TOGETHER] =
                    std::array::from_fn(|n| Slot(slot.0.saturating_add(to_u64(n))));
                self.at
                    .life
                    .table
                    .expect(slots.get(..expected).unwrap_or(&[]));
            }
            let output = &mut *self.output;
            let suspect = self.at.life.suspect.load(Ordering::Relaxed);
            let whole_only = self.options & Hello::LZ4 == 0;
            let (mut damaged, mut compressed) = (false, false);
            let found = self.at.life.table.load(slot, |crc, page| {
                if suspect && checksum(slot, page) != crc {
                    damaged = true;
                    return;
                }
                if whole_only && page.len() != PAGE_SIZE {
                    compressed = true;
                    return;
                }
                let len = to_u32(page.len());
                let header = Message::Page {
                    tag,
                    slot,
                    crc,
                    len,
                };
                output.extend_from_slice(&header.encode());
                output.extend_from_slice(page);
            })?;
            if damaged {
                let status = Status::BadChecksum;
                self.done.count_refused(status);
                self.answer(Message::NoPage { tag, slot, status });
            } else if compressed {
                // It is here, and what this connection could make of it is nothing.
                let status = Status::BadRequest;
                self.answer(Message::NoPage { tag, slot, status });
            } else if found {
                self.done.loads = self.done.loads.saturating_add(1);
            } else {
                self.done.not_found = self.done.not_found.saturating_add(1);
                self.answer(Message::NoPage {
                    tag,
                    slot,
                    status: Status::NotFound,
                });
            }
            // A run lies within one cluster, so only its last slot can have no next one.
            *self.run = match (left.saturating_sub(1), slot.plus(1)) {
                (0, _) | (_, None) => None,
                (left, Some(slot)) => Some(Run {
                    tag,
                    slot,
                    left,
                    expected: expected.saturating_sub(1),
                }),
            };
        }
        Ok(())
    }
}
