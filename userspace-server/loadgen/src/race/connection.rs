// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! One connection: its socket, what is in flight on it, and what it does next.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream as Blocking;
use std::ops::Range;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;

use crate::protocol::{has_mark, Gave, Greeting, Kind, Place, Protocol, Wrong};
use crate::random::Random;
use crate::Failure;

/// Bytes that one read may give.
const READ_LEN: usize = 128 * 1024;
/// A server that says nothing for so long is taken for gone.
pub const SILENCE: Duration = Duration::from_secs(20);

/// How long requests took, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Tally {
    pub loads: Histogram<u64>,
    pub stores: Histogram<u64>,
}

impl Tally {
    /// Nothing yet.
    ///
    /// # Errors
    ///
    /// Never: the bounds and the precision are such as there are.
    pub fn new() -> Result<Self, Failure> {
        let longest = u64::try_from(SILENCE.as_nanos()).unwrap_or(u64::MAX);
        let histogram = || Histogram::new_with_bounds(1, longest, 2).map_err(|_| Failure::Ended);
        Ok(Self {
            loads: histogram()?,
            stores: histogram()?,
        })
    }

    /// Adds what another thread has counted.
    ///
    /// # Errors
    ///
    /// Never: both have the same bounds.
    pub fn add(&mut self, other: &Self) -> Result<(), Failure> {
        self.loads.add(&other.loads).map_err(|_| Failure::Ended)?;
        self.stores.add(&other.stores).map_err(|_| Failure::Ended)
    }

    fn record(&mut self, kind: Kind, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let histogram = match kind {
            Kind::Load => &mut self.loads,
            Kind::Store => &mut self.stores,
        };
        histogram.saturating_record(ns);
    }
}

/// What a connection asks for.
#[derive(Clone, Debug)]
pub enum Work {
    /// Nothing any more.
    Nothing,
    /// Stores in these slots, in their order.
    Fill(Range<u32>),
    /// Loads and stores anywhere, so many of a hundred loads, until then.
    Random(Random, u8, Instant),
}

impl Work {
    fn next(&mut self, pages: u32, now: Instant) -> Option<(Kind, u32)> {
        match self {
            Self::Nothing => None,
            Self::Fill(slots) => Some((Kind::Store, slots.next()?)),
            Self::Random(_, _, until) if now >= *until => None,
            Self::Random(random, loads, _) => {
                let slot = random.below(pages);
                // What is always the same needs no chance.
                let load = *loads == 100 || (*loads > 0 && random.below(100) < u32::from(*loads));
                Some((if load { Kind::Load } else { Kind::Store }, slot))
            }
        }
    }
}

/// A request in flight.
#[derive(Clone, Copy, Debug)]
struct Asked {
    kind: Kind,
    slot: u32,
    at: Instant,
}

/// One connection.
pub struct Connection {
    /// For epoll to wait for.
    pub socket: TcpStream,
    codec: Box<dyn Protocol>,
    /// The mark of the first page; and how many pages it has.
    base: u64,
    pages: u32,
    work: Work,
    depth: usize,
    /// What is in flight, by place, and the places without anything.
    asked: Vec<Option<Asked>>,
    free: Vec<Place>,
    /// What has come: so many bytes from the front are not taken yet.
    input: Vec<u8>,
    come: usize,
    /// What is to go, and how much of it has gone.
    output: Vec<u8>,
    gone: usize,
}

impl Connection {
    /// Connects and shakes hands, waiting for it.
    ///
    /// # Errors
    ///
    /// The server cannot be reached, speaks something else, or refuses.
    pub fn open(
        server: &str,
        mut codec: Box<dyn Protocol>,
        base: u64,
        pages: u32,
        depth: Place,
    ) -> Result<Self, Failure> {
        let mut socket = Blocking::connect(server)
            .map_err(|error| Failure::Connect(server.to_owned(), error))?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(SILENCE))?;
        let (mut input, mut come) = (vec![0; READ_LEN], 0);
        let mut output = Vec::new();
        codec.begin(&mut output);
        loop {
            let bytes = input.get(..come).unwrap_or_default();
            let greeting = codec.greet(bytes, &mut output)?;
            socket.write_all(&output)?;
            output.clear();
            if let Greeting::Went(taken) | Greeting::Ready(taken) = greeting {
                input.copy_within(taken..come, 0);
                come -= taken;
            }
            match greeting {
                Greeting::Went(_) => {}
                Greeting::Ready(_) => break,
                Greeting::More => match socket.read(input.get_mut(come..).unwrap_or_default())? {
                    0 => return Err(Failure::Closed),
                    count => come += count,
                },
            }
        }
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: TcpStream::from_std(socket),
            codec,
            base,
            pages,
            work: Work::Nothing,
            depth: usize::from(depth),
            asked: vec![None; usize::from(depth)],
            free: (0..depth).rev().collect(),
            input,
            come,
            output,
            gone: 0,
        })
    }

    /// All of its slots.
    pub fn slots(&self) -> Range<u32> {
        0..self.pages
    }

    /// Whether something is in flight.
    pub fn is_busy(&self) -> bool {
        self.free.len() < self.asked.len()
    }

    /// Begins to do this, with so many requests in flight at a time.
    ///
    /// # Errors
    ///
    /// The connection is lost.
    pub fn start(&mut self, work: Work, depth: Place) -> Result<(), Failure> {
        self.work = work;
        self.depth = usize::from(depth).min(self.asked.len());
        self.ask(Instant::now());
        self.send()
    }

    /// Takes what has come, and asks for as much anew.
    ///
    /// # Errors
    ///
    /// The connection is lost, or an answer is wrong.
    pub fn turn(&mut self, tally: &mut Tally) -> Result<(), Failure> {
        loop {
            let room = self.input.get_mut(self.come..).unwrap_or_default();
            let len = room.len();
            let count = match self.socket.read(room) {
                Ok(0) => return Err(Failure::Closed),
                Ok(count) => count,
                // It may be room to write that there is.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.send(),
                Err(error) => return Err(error.into()),
            };
            self.come += count;
            let now = Instant::now();
            self.take_answers(now, tally)?;
            self.ask(now);
            self.send()?;
            if count < len {
                // All that was there; what comes later, epoll will tell.
                return Ok(());
            }
        }
    }

    fn take_answers(&mut self, now: Instant, tally: &mut Tally) -> Result<(), Wrong> {
        let mut rest = self.input.get(..self.come).unwrap_or_default();
        while let Some(answer) = self.codec.answer(&mut rest)? {
            let place = self.asked.get_mut(usize::from(answer.place));
            let asked = place.and_then(Option::take).ok_or(Wrong::Unasked)?;
            let mark = self.base + u64::from(asked.slot);
            match (asked.kind, answer.gave) {
                (Kind::Load, Gave::Page(page)) if has_mark(page, mark) => {}
                (Kind::Load, Gave::Filler) | (Kind::Store, Gave::Done) => {}
                (Kind::Load, Gave::Page(_)) => return Err(Wrong::Page(mark)),
                _ => return Err(Wrong::Unasked),
            }
            self.free.push(answer.place);
            tally.record(asked.kind, now.saturating_duration_since(asked.at));
        }
        let left = rest.len();
        self.input.copy_within(self.come - left..self.come, 0);
        self.come = left;
        Ok(())
    }

    /// Writes requests until there are as many in flight as may be.
    fn ask(&mut self, now: Instant) {
        while self.asked.len() - self.free.len() < self.depth {
            let Some((kind, slot)) = self.work.next(self.pages, now) else {
                return;
            };
            let Some(place) = self.free.pop() else {
                return;
            };
            self.codec.ask(place, kind, slot, &mut self.output);
            if let Some(asked) = self.asked.get_mut(usize::from(place)) {
                *asked = Some(Asked {
                    kind,
                    slot,
                    at: now,
                });
            }
        }
    }

    /// Sends what is to go, as far as there is room.
    fn send(&mut self) -> Result<(), Failure> {
        while let Some(bytes) = self
            .output
            .get(self.gone..)
            .filter(|bytes| !bytes.is_empty())
        {
            match self.socket.write(bytes) {
                Ok(count) => self.gone += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.output.clear();
        self.gone = 0;
        Ok(())
    }

    /// Takes leave.
    pub fn end(&mut self) {
        self.codec.end(&mut self.output);
        // A server that is gone needs no farewell.
        let _ = self.send();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.end();
    }
}
