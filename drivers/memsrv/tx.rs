// SPDX-License-Identifier: GPL-2.0-only

//! The sending side of a lane, for each of its connections: whoever asks sends, if nobody else does just now.
//!
//! A send never waits. What the socket does not take stays first in the batch, and goes on when there
//! is room (`sk_write_space`), or by the thread's timer: a shortage of memory with nothing in flight
//! gives no event.

use super::areas::index;
use super::engine::{Outgoing, Replica};
use super::lane::{Lane, State};
use super::link::{event, Link};
use super::platform::{
    page::Headers,
    socket::{SendVec, Slice, Socket},
    sys, //
};
use super::pool::Pool;
use super::protocol::{FreeMask, HEADER_LEN, PAGE_SIZE};
use super::refill::PULL_LEN;
use kernel::{
    prelude::*,
    sync::atomic::Relaxed, //
};

/// Messages in a batch. Each is two slices at the most, and a send takes 128.
const BATCH: usize = 64;

/// The same where the socket took no more of the last: what is in a batch is overtaken by nothing.
const NARROW: usize = 4;

/// Batches that a task sends which came to ask for something of its own; more are the thread's.
const ROUNDS: usize = 8;

/// A part of a batch.
#[derive(Clone, Copy)]
enum Part {
    /// Bytes in the batch's own memory.
    Bytes { start: usize, len: usize },
    /// The header of a page of the pool.
    Header(u32),
    /// What there is to be sent of a page of the pool.
    Page { number: u32, len: usize },
}

impl Part {
    fn len(self) -> usize {
        match self {
            Part::Bytes { len, .. } => len,
            Part::Header(_) => HEADER_LEN,
            Part::Page { len, .. } => len,
        }
    }
}

/// Messages on their way into the socket, in order; the first may be half gone.
struct Batch {
    bytes: KVec<u8>,
    /// Headers of the pool's pages, by its numbers: sent like those, without a copy.
    headers: Headers<HEADER_LEN>,
    parts: KVec<Part>,
    /// The first part that is not gone, and how much of it is.
    next: usize,
    gone: usize,
}

impl Batch {
    fn new(copies: usize) -> Result<Self> {
        Ok(Self {
            bytes: KVec::with_capacity(BATCH * PULL_LEN, GFP_KERNEL)?,
            headers: Headers::new(copies)?,
            parts: KVec::with_capacity(BATCH * 2, GFP_KERNEL)?,
            next: 0,
            gone: 0,
        })
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.parts.clear();
        self.next = 0;
        self.gone = 0;
    }

    fn is_empty(&self) -> bool {
        self.next >= self.parts.len()
    }

    /// The memory was made for a whole batch, so that nothing is ever left out.
    fn push_bytes(&mut self, bytes: &[u8]) {
        let start = self.bytes.len();
        // GFP_NOWAIT: there is room, so that nothing is allocated.
        let _ = self.bytes.extend_from_slice(bytes, GFP_NOWAIT);
        self.push(Part::Bytes {
            start,
            len: bytes.len(),
        });
    }

    fn push_page(&mut self, number: u32, header: &[u8; HEADER_LEN], len: usize) {
        self.headers.set(number, header);
        self.push(Part::Header(number));
        self.push(Part::Page { number, len });
    }

    fn push(&mut self, part: Part) {
        let _ = self.parts.push_within_capacity(part);
    }

    /// What is not gone.
    fn slices<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = Slice<'a>> {
        let parts = self.parts.get(self.next..).unwrap_or(&[]);
        parts.iter().enumerate().filter_map(move |(i, part)| {
            let gone = if i == 0 { self.gone } else { 0 };
            let fragment = match *part {
                Part::Bytes { start, len } => {
                    let end = start.saturating_add(len);
                    let bytes = self.bytes.get(start.saturating_add(gone)..end);
                    return bytes.map(Slice::Bytes);
                }
                Part::Header(number) => self.headers.fragment(number),
                Part::Page { number, len } => pool.buffers().fragment(number, len),
            };
            fragment.map(|fragment| Slice::Fragment(fragment.skip(gone)))
        })
    }

    /// `n` bytes are gone.
    fn advance(&mut self, mut n: usize) {
        while let Some(part) = self.parts.get(self.next) {
            let left = part.len().saturating_sub(self.gone);
            if n < left {
                self.gone += n;
                return;
            }
            n -= left;
            self.next += 1;
            self.gone = 0;
        }
    }
}

/// What sending needs; who holds its lock sends.
pub(crate) struct Tx {
    pub(crate) socket: Option<Socket<Link>>,
    batch: Batch,
    vec: SendVec,
    /// Whether the socket takes less than there is.
    narrow: bool,
}

/// How a round of sending ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pumped {
    /// There is nothing to send now.
    Idle,
    /// The socket takes no more, now or ever.
    Blocked,
    /// There is more.
    More,
}

impl Tx {
    /// No connection; for pages out of a pool of so many.
    pub(crate) fn new(copies: usize) -> Result<Self> {
        Ok(Self {
            socket: None,
            batch: Batch::new(copies)?,
            vec: SendVec::new()?,
            narrow: false,
        })
    }

    /// For a new connection, or none.
    pub(crate) fn reset(&mut self, socket: Option<Socket<Link>>) -> Option<Socket<Link>> {
        self.batch.clear();
        core::mem::replace(&mut self.socket, socket)
    }
}

impl Lane {
    /// For the connection's thread: sends some batches to a server, and rings for the rest.
    pub(crate) fn send_once(&self, replica: Replica) -> Pumped {
        let part = self.part(replica);
        let pumped = match part.tx.try_lock() {
            Some(mut tx) => self.pump(replica, &mut tx),
            // Whoever sends looks again, and rings if the socket takes no more.
            None => Pumped::Idle,
        };
        // Somebody may have asked while `tx` was held, and relied on its holder to look again.
        let more = pumped == Pumped::Idle && self.is_due(replica);
        if more || pumped == Pumped::More {
            part.bell.ring(event::SEND);
        }
        pumped
    }

    /// Sends to a server what there is, unless somebody else does; then he finds it.
    pub(crate) fn send(&self, replica: Replica) {
        let part = self.part(replica);
        loop {
            let Some(mut tx) = part.tx.try_lock() else {
                // Its holder looks again after he has dropped it.
                return;
            };
            let pumped = self.pump(replica, &mut tx);
            drop(tx);
            match pumped {
                Pumped::Idle => {
                    if !self.is_due(replica) {
                        return;
                    }
                }
                Pumped::Blocked | Pumped::More => {
                    part.bell.ring(event::SEND);
                    return;
                }
            }
        }
    }

    /// Sends some batches.
    pub(crate) fn pump(&self, replica: Replica, tx: &mut Tx) -> Pumped {
        let Tx {
            socket,
            batch,
            vec,
            narrow,
        } = tx;
        let Some(socket) = socket else {
            return Pumped::Idle;
        };
        for _ in 0..ROUNDS {
            if batch.is_empty() {
                self.fill(replica, batch, if *narrow { NARROW } else { BATCH });
                if batch.is_empty() {
                    *narrow = false;
                    return Pumped::Idle;
                }
            }
            while !batch.is_empty() {
                match socket.send(batch.slices(&self.shared.pool), vec) {
                    Ok(n) => batch.advance(n),
                    Err(error) if error == EAGAIN => {
                        *narrow = true;
                        return Pumped::Blocked;
                    }
                    Err(_) => {
                        let part = self.part(replica);
                        part.up.store(false, Relaxed);
                        part.bell.ring(event::BROKEN);
                        return Pumped::Blocked;
                    }
                }
            }
        }
        Pumped::More
    }

    fn fill(&self, replica: Replica, batch: &mut Batch, most: usize) {
        batch.clear();
        let mut state = self.state.lock();
        self.part(replica).plugged.store(false, Relaxed);
        self.part(replica).held.store(false, Relaxed);
        let State {
            streams,
            sources,
            table,
            handed,
            ..
        } = &mut *state;
        for _ in 0..most {
            if let Some((tag, slot)) = streams.next_pull(replica) {
                let source = sources.get(index(replica.other())).copied();
                let stored = self.shared.areas.stored(slot.0);
                batch.push_bytes(&source.unwrap_or_default().pull(tag, slot, stored));
                continue;
            }
            let mask = |slot: super::protocol::Slot| {
                let flights = table.flights.as_ref();
                let busy = || flights.map_or([0; 8], |flights| flights.busy(slot.0));
                FreeMask::from_words(self.shared.areas.absent(replica, slot.0, busy))
            };
            match streams.next(replica, mask, |slot, payload| sys::crc32c(slot.0, payload)) {
                None => break,
                Some(Outgoing::Load { tag, header }) => {
                    handed.note(replica, tag);
                    batch.push_bytes(&header);
                }
                Some(Outgoing::Read { headers }) => batch.push_bytes(&headers),
                Some(Outgoing::Store { header, len, token }) => {
                    // No more than a page.
                    batch.push_page(token, &header, usize::try_from(len).unwrap_or(PAGE_SIZE));
                }
                Some(Outgoing::Free { header, mask }) => {
                    batch.push_bytes(&header);
                    batch.push_bytes(&mask.0);
                }
            }
        }
    }
}
