// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Fetches pages from another server: PULL's jobs, the queue of them, and the threads that do them.
//!
//! ```text
//!   PULL --> awaited in the table, job in the queue --> a thread: ATTACH, LOADs, pages put --> PULLED
//!     \                                                                                  ^
//!      +-- nothing to fetch, or refused ------------------------------------------------+
//! ```
//!
//! A session makes a [`Job`] under its stream's lock, so a PULL has its place among the stores and frees.
//! A thread does it with calls that wait, since it does nothing else; what it may put where the table
//! decides (`table/awaits.rs`). The job ends by `Job::finish`, which takes it, so that it is answered
//! once.
//!
//! Everything is bounded: threads, jobs in the queue, jobs of a connection, pages asked for at a time,
//! and the time that one job may take.
//!
//! Lock order: the queue's lock is taken under a stream's, and none under it.

mod put;
mod queue;
mod source;
mod thread;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use memsrv_protocol::{Hello, Message, Name, Pull, Seq, Slot, Status, Tag, VERSION};

pub use queue::Pulls;
pub use source::Buffers;
pub use thread::Pullers;

use crate::regions::{Attachment, Life, Peer, Shared};
use crate::table::Ended;

/// How many PULLs of a connection may be unanswered.
const MOST_OF_A_CONNECTION: usize = 64;

/// How many jobs may wait for a thread.
const QUEUE_LEN: usize = 1024;

/// Without threads there is no queue, either.
fn queue_len(threads: usize) -> usize {
    match threads {
        0 => 0,
        _ => QUEUE_LEN,
    }
}

/// Whom the server fetches pages from, and with what patience.
#[derive(Debug, Clone)]
pub struct PullLimits {
    /// Threads that fetch; with none, every PULL is denied.
    pub threads: usize,
    /// The networks that the other servers are in; none: anywhere.
    pub from: Vec<Network>,
    /// How long a connection may take to be made.
    pub connect: Duration,
    /// How long another server may be silent that owes an answer, or take nothing.
    pub silence: Duration,
    /// How long one job may take in all: who sends a byte now and then holds a thread no longer.
    pub whole: Duration,
}

impl Default for PullLimits {
    fn default() -> PullLimits {
        PullLimits {
            threads: 2,
            from: Vec::new(),
            connect: Duration::from_secs(3),
            silence: Duration::from_secs(5),
            whole: Duration::from_secs(30),
        }
    }
}

impl PullLimits {
    /// Bytes that the queue and the threads' buffers take.
    pub fn bytes(&self) -> usize {
        let queue = queue_len(self.threads).saturating_mul(size_of::<Job>());
        queue.saturating_add(self.threads.saturating_mul(Buffers::LEN))
    }

    fn admits(&self, address: IpAddr) -> bool {
        self.from.is_empty() || self.from.iter().any(|network| network.contains(address))
    }
}

/// An address, or all that begin like it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// As IPv6; one of IPv4 is mapped.
    start: u128,
    /// How many of its bits count.
    bits: u32,
}

impl Network {
    /// Reads `10.0.0.3`, `10.0.0.0/24`, `2001:db8::/32`; `None` where it is none of these.
    pub fn parse(text: &str) -> Option<Network> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let (most, before) = match address {
            IpAddr::V4(_) => (32, 96),
            IpAddr::V6(_) => (128, 0),
        };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Network {
            start: mapped(address).to_bits(),
            bits: bits.saturating_add(before),
        })
    }

    fn contains(self, address: IpAddr) -> bool {
        let differing = self.start ^ mapped(address).to_bits();
        differing.leading_zeros() >= self.bits
    }
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Whose pages a connection to another server can read; jobs that agree in it may share one.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    address: SocketAddr,
    /// The ATTACH that opens it.
    hello: Hello,
}

/// One PULL that is not answered yet.
pub struct Job {
    /// Its number, which the table knows it by.
    id: u64,
    life: Arc<Life>,
    base: Slot,
    tag: Tag,
    key: Key,
    /// The connection that asked; gone with it.
    peer: Weak<dyn Peer>,
    /// The job's place among those of the connection.
    place: Arc<()>,
    asked: Instant,
}

impl Job {
    /// Whose pages it fetches.
    fn client(&self) -> Name {
        self.key.hello.client
    }

    /// Ends the pull, and tells who asked.
    fn finish(self, shared: &Shared, pages: u64, outcome: Result<(), Status>) {
        let quota = &self.life.client.quota;
        let ended = self
            .life
            .table
            .end_pull(&shared.arena, quota, self.id, self.base);
        let outcome = match ended {
            Ok(true) => outcome,
            Ok(false) | Err(Ended) => Err(Status::Cancelled),
        };
        shared.pulls.count(outcome);
        shared.pulls.pages.fetch_add(pages, Ordering::Relaxed);
        shared.pulls.waiting.fetch_sub(1, Ordering::Relaxed);
        // Before the answer, for which the client may have the next PULL ready.
        drop(self.place);
        if let Some(peer) = self.peer.upgrade() {
            let message = Message::Pulled {
                tag: self.tag,
                slot: self.base,
                status: outcome.err(),
            };
            peer.tell(message.encode());
        }
    }
}

/// What a connection's session needs for its PULLs.
pub(crate) struct Asker<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) at: &'a Attachment,
    pub(crate) peer: &'a Arc<dyn Peer>,
    /// Each of the connection's jobs holds one of these.
    pub(crate) places: &'a Arc<()>,
}

impl Asker<'_> {
    /// Begins to fetch what a PULL asks for; `Some` where that is over at once, and how it ended.
    ///
    /// # Errors
    ///
    /// The region has ended.
    pub(crate) fn pull(
        &self,
        tag: Tag,
        base: Slot,
        pull: &Pull,
    ) -> Result<Option<Result<(), Status>>, Ended> {
        let shared = self.shared;
        let (table, quota) = (&self.at.life.table, &self.at.life.client.quota);
        let address = IpAddr::V6(Ipv6Addr::from(pull.address)).to_canonical();
        if let Err(status) = self.may_pull(address, pull) {
            // Whatever becomes of it, it ends an older one: the client believes that.
            table.cancel_pull(&shared.arena, quota, base)?;
            return Ok(Some(self.over(Err(status))));
        }
        let id = shared.pulls.next_id();
        match table.await_pages(&shared.arena, quota, base, &pull.mask, id)? {
            Err(status) => return Ok(Some(self.over(Err(status)))),
            Ok(awaited) if awaited.is_empty() => return Ok(Some(self.over(Ok(())))),
            Ok(_) => {}
        }
        let job = Job {
            id,
            life: self.at.life.clone(),
            base,
            tag,
            key: Key {
                address: SocketAddr::new(address, pull.port),
                hello: self.attach(pull),
            },
            peer: Arc::downgrade(self.peer),
            place: self.places.clone(),
            asked: Instant::now(),
        };
        if shared.pulls.push(job) {
            return Ok(None);
        }
        table.end_pull(&shared.arena, quota, id, base)?;
        Ok(Some(self.over(Err(Status::Full))))
    }

    fn may_pull(&self, address: IpAddr, pull: &Pull) -> Result<(), Status> {
        let limits = &self.shared.limits.pull;
        // Each job has one, and so has the session.
        let unanswered = Arc::strong_count(self.places).saturating_sub(1);
        if pull.instance == self.shared.instance || limits.threads == 0 || !limits.admits(address) {
            Err(Status::Denied)
        } else if self.shared.draining.load(Ordering::Relaxed) {
            Err(Status::Draining)
        } else if unanswered >= MOST_OF_A_CONNECTION {
            Err(Status::Full)
        } else {
            Ok(())
        }
    }

    fn over(&self, outcome: Result<(), Status>) -> Result<(), Status> {
        self.shared.pulls.count(outcome);
        outcome
    }

    /// The ATTACH that says to the other server whose pages we read.
    fn attach(&self, pull: &Pull) -> Hello {
        Hello {
            version_min: VERSION,
            version_max: VERSION,
            options: self.shared.options(Hello::LZ4),
            incarnation: self.at.life.incarnation,
            instance: pull.instance,
            stream: 0,
            streams: 1,
            wanted: 0,
            issued: Seq(0),
            client: self.at.client,
            region: self.at.region,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_addresses_that_begin_like_it() {
        for (network, address, inside) in [
            ("10.0.0.3", "10.0.0.3", true),
            ("10.0.0.3", "10.0.0.2", false),
            ("10.0.0.0/24", "10.0.0.255", true),
            ("10.0.0.0/24", "10.0.1.0", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("::/0", "10.0.0.1", true),
        ] {
            let found = Network::parse(network).unwrap();
            assert_eq!(
                found.contains(address.parse().unwrap()),
                inside,
                "{network} {address}"
            );
        }
        for text in [
            "",
            "10.0.0",
            "10.0.0.0/33",
            "10.0.0.0/",
            "::/129",
            "host",
            "10.0.0.1:7170",
        ] {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }
}
