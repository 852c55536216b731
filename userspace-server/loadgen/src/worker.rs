// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! One connection's work: fill, then load and store at random, verifying each page.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use memsrv_client::{Client, ClientConfig, Error, LoadTicket, Page, Slot, StoreTicket, PAGE_SIZE};

use crate::histogram::Histogram;
use crate::options::Options;
use crate::random::Random;

/// Bytes from one mark in a page to the next.
const MARK_SPACING: usize = 512;

/// What was done, and how long it took.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Of the measured part.
    pub elapsed: Duration,
    /// Loads that gave a page.
    pub loads: Histogram,
    /// Stores that the server took.
    pub stores: Histogram,
    /// Stores that it did not take.
    pub refused: u64,
    /// Loads that gave another page, or none where one was stored.
    pub wrong: u64,
    /// Connections made anew.
    pub reconnects: u64,
}

impl Outcome {
    /// Adds what another connection did at the same time.
    pub fn add(&mut self, other: &Outcome) {
        self.elapsed = self.elapsed.max(other.elapsed);
        self.loads.add(&other.loads);
        self.stores.add(&other.stores);
        self.refused = self.refused.saturating_add(other.refused);
        self.wrong = self.wrong.saturating_add(other.wrong);
        self.reconnects = self.reconnects.saturating_add(other.reconnects);
    }
}

/// An operation in flight, and what is to come of it.
enum Ticket {
    /// A store of this version in this slot.
    Store(u32, u64, StoreTicket),
    /// A load of this slot, which must give this version; `None`: nothing must be there.
    Load(u32, Option<u64>, LoadTicket),
}

/// A connection at work.
struct Worker {
    client: Client,
    /// How often each slot was stored; `None` after a refusal.
    versions: Vec<Option<u64>>,
    stored: u64,
    in_flight: VecDeque<(Instant, Ticket)>,
    depth: usize,
    outcome: Outcome,
}

/// Does one connection's work.
///
/// # Errors
///
/// The session could not be had, or ended.
pub fn run(options: &Options, number: u16) -> Result<Outcome, Error> {
    let config = ClientConfig {
        streams: 1,
        stores_in_flight: options.depth.into(),
        loads_in_flight: options.depth.into(),
        ..ClientConfig::new(&options.client, &format!("load-{number}"))
    };
    let mut worker = Worker {
        client: Client::connect(options.server.as_str(), config)?,
        versions: vec![None; usize::try_from(options.pages).unwrap_or(usize::MAX)],
        stored: 0,
        in_flight: VecDeque::new(),
        depth: options.depth.into(),
        outcome: Outcome::default(),
    };
    for slot in 0..options.pages {
        worker.store(slot)?;
    }
    worker.finish()?;
    worker.outcome = Outcome {
        refused: worker.outcome.refused,
        ..Outcome::default()
    };
    let mut random = Random(options.seed.wrapping_add(u64::from(number)));
    let start = Instant::now();
    while start.elapsed().as_secs() < options.seconds {
        for _ in 0..64 {
            let slot = random.below(options.pages);
            if random.below(100) < u32::from(options.read_ratio) {
                worker.load(slot)?;
            } else {
                worker.store(slot)?;
            }
        }
    }
    worker.finish()?;
    worker.outcome.elapsed = start.elapsed();
    worker.outcome.reconnects = worker.client.reconnects();
    worker.client.bye()?;
    Ok(worker.outcome)
}

impl Worker {
    fn store(&mut self, slot: u32) -> Result<(), Error> {
        self.make_room()?;
        self.stored = self.stored.wrapping_add(1);
        let asked = Instant::now();
        let ticket = self
            .client
            .submit_store(Slot(slot.into()), &page(slot, self.stored))?;
        self.set_version(slot, Some(self.stored));
        self.in_flight
            .push_back((asked, Ticket::Store(slot, self.stored, ticket)));
        Ok(())
    }

    fn load(&mut self, slot: u32) -> Result<(), Error> {
        self.make_room()?;
        // A load that had to wait for a store of its slot would tell the store's time.
        let storing = |(_, ticket): &(Instant, Ticket)| matches!(ticket, Ticket::Store(other, ..) if *other == slot);
        while self.in_flight.iter().any(storing) {
            self.take_one()?;
        }
        let version = self.version(slot);
        let asked = Instant::now();
        let ticket = self.client.submit_load(Slot(slot.into()), 1)?;
        self.in_flight
            .push_back((asked, Ticket::Load(slot, version, ticket)));
        Ok(())
    }

    /// Waits until one more operation may be in flight.
    fn make_room(&mut self) -> Result<(), Error> {
        while self.in_flight.len() >= self.depth {
            self.take_one()?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Error> {
        while !self.in_flight.is_empty() {
            self.take_one()?;
        }
        self.client.flush()
    }

    /// Waits for the operation that was asked first.
    fn take_one(&mut self) -> Result<(), Error> {
        let Some((asked, ticket)) = self.in_flight.pop_front() else {
            return Ok(());
        };
        match ticket {
            Ticket::Store(slot, version, ticket) => match ticket.wait() {
                Ok(()) => self.outcome.stores.record_us(us_since(asked)),
                Err(Error::StoreRefused { .. }) => {
                    self.outcome.refused = self.outcome.refused.saturating_add(1);
                    // A newer store of the slot may be on its way, and then counts.
                    if self.version(slot) == Some(version) {
                        self.set_version(slot, None);
                    }
                }
                Err(other) => return Err(other),
            },
            Ticket::Load(slot, version, ticket) => {
                let got = ticket.wait();
                self.outcome.loads.record_us(us_since(asked));
                let right = match (version, got) {
                    (Some(version), Ok(got)) => got == page(slot, version),
                    (None, Err(Error::NotFound { .. })) => true,
                    (_, Ok(_) | Err(Error::NotFound { .. } | Error::Checksum { .. })) => false,
                    (_, Err(other)) => return Err(other),
                };
                self.outcome.wrong = self.outcome.wrong.saturating_add(u64::from(!right));
            }
        }
        Ok(())
    }

    fn version(&self, slot: u32) -> Option<u64> {
        *self.versions.get(usize::try_from(slot).ok()?)?
    }

    fn set_version(&mut self, slot: u32, version: Option<u64>) {
        let place = usize::try_from(slot)
            .ok()
            .and_then(|slot| self.versions.get_mut(slot));
        if let Some(place) = place {
            *place = version;
        }
    }
}

fn us_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// The page of this slot and version: it says both in each part, so that a page put together from two
/// is seen; to fill all of it would measure the load generator.
fn page(slot: u32, version: u64) -> Page {
    let mut page = [0x5a; PAGE_SIZE];
    let mark = [u64::from(slot).to_le_bytes(), version.to_le_bytes()].concat();
    for part in page.chunks_exact_mut(MARK_SPACING) {
        if let Some((head, _)) = part.split_at_mut_checked(mark.len()) {
            head.copy_from_slice(&mark);
        }
    }
    page
}
