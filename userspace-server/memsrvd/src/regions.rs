// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Who has which pages: clients, their regions, the lives of those, and the streams that serve them.
//!
//! ```text
//!            HELLO, new incarnation                  BYE, or HELLO with a newer incarnation
//!  (none) ------------------------> life, streams ----------------------------------------> ended
//!                                    |        ^
//!                     all streams    |        |  HELLO, same incarnation
//!                     disconnected   v        |
//!                                   life, kept as it is
//! ```
//!
//! A connection owns one stream of one life. It executes its messages under the stream's lock and
//! only while it is the owner; a newer connection for the stream takes the ownership under the same
//! lock. So once the newer one has its WELCOME, nothing that the older one had buffered is executed.
//!
//! A connection of another server (ATTACH) owns no stream: it only reads the life, until that ends.
//!
//! Lock order: the registry, then a stream, then the log's queue, then a table's shard or a life's readers.

mod options;
mod readers;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use memsrv_protocol::{Hello, Incarnation, Instance, Name, Seq, Status, Welcome, HEADER_LEN};

use crate::arena::{lock, Arena};
use crate::config::Limits;
use crate::mirror::Mirror;
use crate::num::to_u64;
use crate::persist::queue::{LifeLog, Need, NoRoom};
use crate::persist::{refusal, Health, Persist};
use crate::pull::Pulls;
use crate::stats::{Counters, Recent, Refusals};
use crate::table::{Quota, Table};

/// How many operations may be unanswered on a stream: twice what the client's table holds.
const WINDOW: u32 = 4096;

/// The other end of a connection, as far as sessions know it.
pub trait Peer: Send + Sync {
    /// Where it is, for log lines and statistics.
    fn address(&self) -> String;
    /// Closes the connection, from any thread; its own thread notices.
    fn hang_up(&self);
    /// Sends a message without a payload, from any thread, between those of the connection's own.
    fn tell(&self, message: [u8; HEADER_LEN]);
}

/// A client's quota, common to its regions.
pub struct Client {
    /// What it may store, and what it has.
    pub quota: Quota,
}

/// One stream of a life.
#[derive(Default)]
pub struct Stream {
    /// The connection that may execute operations, by its number.
    pub owner: Option<(u64, Arc<dyn Peer>)>,
    /// The highest number executed.
    pub executed: Seq,
    /// The highest number that a client may have been acknowledged; kept where the server has a mirror.
    pub released: Seq,
    /// It was read from a log and nobody has come for it yet.
    pub recovered: bool,
}

/// A region, from the HELLO that made it to its end.
pub struct Life {
    /// Whose it is.
    pub client: Arc<Client>,
    /// The client's life that it belongs to.
    pub incarnation: Incarnation,
    /// Its pages.
    pub table: Table,
    /// Its streams, as many as the first HELLO said.
    pub streams: Box<[Mutex<Stream>]>,
    /// The connections that only read, by their numbers.
    readers: Mutex<Vec<(u64, Arc<dyn Peer>)>>,
    /// What was done with it.
    pub counters: Counters,
    /// What the log knows of it.
    pub log: LifeLog,
    /// Whether it may hold pages that do not match their checksums: its loads look.
    pub suspect: AtomicBool,
    /// Whether one of its streams has lost the mirror: none begins to be forwarded any more.
    pub mirror_lost: AtomicBool,
    /// Whether a stream was granted LZ4: it may hold compressed pages.
    pub lz4: AtomicBool,
}

impl Life {
    /// A life without pages.
    pub fn new(
        client: Arc<Client>,
        incarnation: Incarnation,
        streams: usize,
        log: LifeLog,
    ) -> Life {
        Life {
            client,
            incarnation,
            table: Table::default(),
            streams: (0..streams).map(|_| Mutex::default()).collect(),
            readers: Mutex::default(),
            counters: Counters::default(),
            log,
            suspect: AtomicBool::new(false),
            mirror_lost: AtomicBool::new(false),
            lz4: AtomicBool::new(false),
        }
    }

    /// Whether the client's pages are with another life of the server, though this life of the client is
    /// here: the log it was read from is older than the pages.
    fn is_outdated(&self, hello: &Hello, ours: Instance) -> bool {
        let elsewhere = hello.instance != Instance::default() && hello.instance != ours;
        let stream = self.streams.get(usize::from(hello.stream));
        elsewhere && stream.is_some_and(|stream| lock(stream).recovered)
    }

    fn is_connected(&self) -> bool {
        self.streams
            .iter()
            .any(|stream| lock(stream).owner.is_some())
    }
}

/// A connection's place in a life. Dropping it leaves the stream without an owner.
pub struct Attachment {
    /// The life.
    pub life: Arc<Life>,
    /// Which of its streams; `None`: it only reads.
    pub stream: Option<usize>,
    /// Whose REACH it may ask, if it only reads.
    pub follows: usize,
    /// The connection's number, compared with the stream's owner.
    pub id: u64,
    /// Whose it is, for log lines.
    pub client: Name,
    /// Which of the client's regions.
    pub region: Name,
}

impl Attachment {
    /// The highest number that was executed on the stream that it follows.
    pub fn followed(&self) -> Seq {
        let stream = self.life.streams.get(self.follows);
        stream.map_or(Seq(0), |stream| lock(stream).executed)
    }

    /// The stream, locked, if it is this connection's still.
    pub fn own(&self) -> Option<MutexGuard<'_, Stream>> {
        let stream = lock(self.life.streams.get(self.stream?)?);
        matches!(&stream.owner, Some((id, _)) if *id == self.id).then_some(stream)
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let Some(number) = self.stream else {
            lock(&self.life.readers).retain(|(id, _)| *id != self.id);
            return;
        };
        if let Some(stream) = self.life.streams.get(number) {
            let mut stream = lock(stream);
            if matches!(&stream.owner, Some((id, _)) if *id == self.id) {
                stream.owner = None;
            }
        }
    }
}

/// Why a HELLO was refused, and in which words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The reason.
    pub status: Status,
    /// What happened, to what, what to do.
    pub text: String,
}

/// Makes a refusal.
pub fn refused(status: Status, text: impl Into<String>) -> Refused {
    Refused {
        status,
        text: text.into(),
    }
}

/// The clients and regions that the server knows.
#[derive(Default)]
pub struct Registry {
    /// Clients by name.
    pub clients: HashMap<Name, Arc<Client>>,
    /// The present life of each region.
    pub regions: HashMap<(Name, Name), Arc<Life>>,
}

/// All that connections share.
pub struct Shared {
    /// The memory.
    pub arena: Arena,
    /// This server's life.
    pub instance: Instance,
    /// The version of the protocol it speaks.
    pub version: u16,
    /// Who may store how much.
    pub limits: Limits,
    /// Who stores what.
    pub registry: Mutex<Registry>,
    /// Pages to be fetched from other servers.
    pub pulls: Pulls,
    /// Refused connections, by reason.
    pub refusals: Refusals,
    /// The last report.
    pub recent: Recent,
    /// Set when the server is about to stop.
    pub draining: AtomicBool,
    /// The log, if one is kept.
    pub persist: Option<Arc<Persist>>,
    /// The server that stores and frees are forwarded to, if there is one.
    pub mirror: Option<Mirror>,
    /// When the server started.
    pub started: Instant,
    /// Connections open now.
    pub connections: AtomicU64,
    next_id: AtomicU64,
}

impl Shared {
    /// A server without clients.
    pub fn new(arena: Arena, limits: Limits, instance: Instance, version: u16) -> Shared {
        Shared {
            pulls: Pulls::new(limits.pull.threads),
            arena,
            instance,
            version,
            limits,
            registry: Mutex::default(),
            refusals: Refusals::default(),
            recent: Recent::default(),
            draining: AtomicBool::new(false),
            persist: None,
            mirror: None,
            started: Instant::now(),
            connections: AtomicU64::new(0),
            next_id: AtomicU64::new(1),
        }
    }

    /// Gives a connection its stream, in place of an older connection.
    ///
    /// # Errors
    ///
    /// The refusal to send.
    pub fn open(
        &self,
        hello: &Hello,
        peer: &Arc<dyn Peer>,
    ) -> Result<(Attachment, Welcome), Refused> {
        let mut registry = lock(&self.registry);
        let known = registry.regions.get(&(hello.client, hello.region));
        let resumes = known.is_some_and(|life| life.incarnation == hello.incarnation);
        // Who has pages here may come back for them.
        if !resumes && self.draining.load(Ordering::Relaxed) {
            return Err(refused(
                Status::Draining,
                "server is stopping; use another server",
            ));
        }
        let client = self.client(&mut registry, hello.client)?;
        let (life, replaced) = self.life(&mut registry, hello, client)?;
        let attached = self.attach(life, hello, peer);
        drop(registry);
        // Without the registry's lock, for other clients wait for that.
        if let Some(older) = replaced {
            let pages = older.end(&self.arena);
            tracing::info!(client = %hello.client, region = %hello.region, pages,
                "new life of the client: freed what the older one left");
        }
        let (attachment, fenced) = attached?;
        if let Some(older) = fenced {
            tracing::info!(client = %hello.client, region = %hello.region, stream = hello.stream,
                old = older.address(), new = peer.address(), "a newer connection took the stream");
            older.hang_up();
        }
        let quota = &attachment.life.client.quota;
        let options = self.options(hello.options);
        // Who may not be refused is promised no more than there is room for at the worst.
        let compressed = options & (Hello::LZ4 | Hello::NO_REFUSAL) == Hello::LZ4;
        let stream = attachment.life.streams.get(usize::from(hello.stream));
        let executed = match stream {
            Some(stream) => lock(stream).executed,
            None => Seq(0),
        };
        let welcome = Welcome {
            version: self.version,
            options,
            instance: self.instance,
            granted: quota.granted(&self.arena, hello.wanted, compressed),
            stored: attachment.life.table.pages(),
            executed,
            window: WINDOW,
            mirror: None,
        };
        Ok((attachment, welcome))
    }

    /// The client of that name, made known if it may be.
    pub(crate) fn client(
        &self,
        registry: &mut Registry,
        name: Name,
    ) -> Result<Arc<Client>, Refused> {
        if let Some(client) = registry.clients.get(&name) {
            return Ok(client.clone());
        }
        let Some(quota) = self.limits.quota(name.as_str()) else {
            let text = format!(
                "client {name} is not admitted; add [client.{name}] to the server's configuration"
            );
            return Err(refused(Status::Denied, text));
        };
        let client = Arc::new(Client {
            quota: Quota::new(quota, &self.arena),
        });
        registry.clients.insert(name, client.clone());
        Ok(client)
    }

    /// The life that a HELLO belongs to: the present one, or a new one in place of an older one, which
    /// comes with it and is to be ended.
    fn life(
        &self,
        registry: &mut Registry,
        hello: &Hello,
        client: Arc<Client>,
    ) -> Result<(Arc<Life>, Option<Arc<Life>>), Refused> {
        let key = (hello.client, hello.region);
        if let Some(life) = registry.regions.get(&key) {
            let same = life.incarnation == hello.incarnation;
            if same && !life.is_outdated(hello, self.instance) {
                return Ok((life.clone(), None));
            }
            if same {
                tracing::warn!(client = %hello.client, region = %hello.region, "the client has been \
                    with another life of this server since the log was written: its pages here are \
                    older than it is, and are freed");
            } else if life.is_connected() {
                let text = format!(
                    "region {} of client {} is in use by another life of the client; stop that one, \
                     or wait until its connections are seen to be dead",
                    hello.region, hello.client
                );
                return Err(refused(Status::Busy, text));
            }
        } else if registry.regions.len() >= self.limits.regions {
            self.forget_empty(registry);
            if registry.regions.len() >= self.limits.regions {
                let text = format!(
                    "server has its {} regions (max_regions)",
                    self.limits.regions
                );
                return Err(refused(Status::Full, text));
            }
            registry.clients.insert(hello.client, client.clone());
        }
        let streams = usize::from(hello.streams);
        let log = self.log_begin(hello, streams)?;
        let life = Arc::new(Life::new(client, hello.incarnation, streams, log));
        let replaced = registry.regions.insert(key, life.clone());
        Ok((life, replaced))
    }

    /// Makes the connection the owner of its stream; with it comes the older owner, to hang up on.
    fn attach(
        &self,
        life: Arc<Life>,
        hello: &Hello,
        peer: &Arc<dyn Peer>,
    ) -> Result<(Attachment, Option<Arc<dyn Peer>>), Refused> {
        let streams = life.streams.len();
        let stream = usize::from(hello.stream);
        let Some(state) = life
            .streams
            .get(stream)
            .filter(|_| usize::from(hello.streams) == streams)
        else {
            let text = format!("the session has {streams} streams, not {}", hello.streams);
            return Err(refused(Status::BadRequest, text));
        };
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut state = lock(state);
        // Whatever life of ours it names: what was executed in this one it must know of.
        if hello.issued < state.executed {
            let text = format!(
                "stream {} has executed operation {}, the client knows of {} only: it was restored \
                 from a snapshot, and its pages here are newer than it is",
                hello.stream, state.executed.0, hello.issued.0
            );
            return Err(refused(Status::Stale, text));
        }
        let fenced = state.owner.replace((id, peer.clone()));
        state.recovered = false;
        drop(state);
        let attachment = Attachment {
            life,
            stream: Some(stream),
            follows: stream,
            id,
            client: hello.client,
            region: hello.region,
        };
        Ok((attachment, fenced.map(|(_, older)| older)))
    }

    /// Ends the life that a connection belongs to; gives back how many pages that freed.
    ///
    /// `None`: a newer connection has the stream, and what the older one says counts no more. The
    /// caller holds no stream's lock.
    pub fn end(&self, attachment: &Attachment) -> Option<u64> {
        let key = (attachment.client, attachment.region);
        let life = &attachment.life;
        let mut registry = lock(&self.registry);
        // Streams change hands under the registry's lock, so this stays true until the life has left it.
        let stream = life.streams.get(attachment.stream?)?;
        if !matches!(&lock(stream).owner, Some((id, _)) if *id == attachment.id) {
            return None;
        }
        if registry
            .regions
            .get(&key)
            .is_some_and(|present| Arc::ptr_eq(present, life))
        {
            registry.regions.remove(&key);
            let mut left = registry.regions.keys();
            if !left.any(|(client, _)| *client == attachment.client) {
                registry.clients.remove(&attachment.client);
            }
        }
        drop(registry);
        // Before the pages are others': the log never holds more than there is room for.
        self.log_end(life);
        let freed = life.end(&self.arena);
        for stream in &life.streams {
            let owner = lock(stream).owner.take();
            if let Some((id, peer)) = owner {
                if id != attachment.id {
                    peer.hang_up();
                }
            }
        }
        Some(freed)
    }

    /// A new life's place in the log, where one is kept.
    fn log_begin(&self, hello: &Hello, streams: usize) -> Result<LifeLog, Refused> {
        let Some(persist) = &self.persist else {
            return Ok(LifeLog::default());
        };
        match persist.enter(Need::Small) {
            Ok(mut entry) => {
                Ok(entry.begin(hello.client, hello.region, hello.incarnation, streams))
            }
            // Nothing will be logged any more.
            Err(NoRoom::Disk(Health::Failed | Health::Withdrawn)) => Ok(LifeLog::default()),
            Err(_) => {
                let (status, words) = refusal(Health::Full);
                Err(refused(status, words))
            }
        }
    }

    /// Logs that a life is over. Where there is no room its pages may come back with a restart, until the
    /// client's next life frees them.
    fn log_end(&self, life: &Life) {
        if let Some(Ok(mut entry)) = self.persist.as_ref().map(|log| log.enter(Need::Small)) {
            entry.end(&life.log);
        }
    }

    /// Forgets regions without pages and connections, and clients without regions, to make room.
    fn forget_empty(&self, registry: &mut Registry) {
        registry.regions.retain(|_, life| {
            let keep = life.is_connected() || life.table.pages() > 0;
            if !keep {
                self.log_end(life);
                // A pull that is under way would put pages where nobody finds them.
                life.table.end(&self.arena, &life.client.quota);
            }
            keep
        });
        let left: HashSet<Name> = registry.regions.keys().map(|(client, _)| *client).collect();
        registry.clients.retain(|name, _| left.contains(name));
    }

    /// Pages stored, over all clients.
    pub fn used_pages(&self) -> u64 {
        self.arena
            .pages
            .total()
            .saturating_sub(self.arena.pages.free())
    }

    /// How many clients and regions are known.
    pub fn known(&self) -> (u64, u64) {
        let registry = lock(&self.registry);
        (
            to_u64(registry.clients.len()),
            to_u64(registry.regions.len()),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Somebody whose connection is closed only while no lock is held.
    struct Anyone(std::sync::Weak<Shared>);

    impl Peer for Anyone {
        fn address(&self) -> String {
            "anyone".to_owned()
        }

        fn tell(&self, _message: [u8; HEADER_LEN]) {}

        fn hang_up(&self) {
            let shared = self.0.upgrade().unwrap();
            let registry = shared.registry.try_lock().unwrap();
            for life in registry.regions.values() {
                assert!(life.streams.iter().all(|stream| stream.try_lock().is_ok()));
            }
        }
    }

    fn shared() -> Shared {
        let arena = crate::memory::take(16, false, 0).unwrap();
        let limits = Limits {
            unlisted: Some(16),
            regions: 4,
            ..Limits::default()
        };
        Shared::new(arena, limits, Instance([1; 16]), 1)
    }

    fn hello(client: &[u8]) -> Hello {
        Hello {
            version_min: 1,
            version_max: 1,
            options: 0,
            incarnation: Incarnation([1; 16]),
            instance: Instance::default(),
            stream: 0,
            streams: 1,
            wanted: 0,
            issued: Seq(0),
            client: Name::new(client).unwrap(),
            region: Name::new(b"r").unwrap(),
        }
    }

    #[test]
    fn a_bye_that_comes_after_the_stream_was_taken_ends_nothing() {
        let shared = Arc::new(shared());
        let peer: Arc<dyn Peer> = Arc::new(Anyone(Arc::downgrade(&shared)));
        let (older, _) = shared.open(&hello(b"a"), &peer).ok().unwrap();
        let (newer, _) = shared.open(&hello(b"a"), &peer).ok().unwrap();
        assert_eq!(shared.end(&older), None);
        assert_eq!(shared.known(), (1, 1));
        assert_eq!(shared.end(&newer), Some(0));
        assert_eq!(shared.known(), (0, 0));
    }

    #[test]
    fn a_flood_of_names_that_say_bye_leaves_nothing_behind() {
        let shared = Arc::new(shared());
        let peer: Arc<dyn Peer> = Arc::new(Anyone(Arc::downgrade(&shared)));
        let (staying, _) = shared.open(&hello(b"staying"), &peer).ok().unwrap();
        for n in 0..100 {
            let name = format!("flood-{n}");
            let (at, _) = shared.open(&hello(name.as_bytes()), &peer).ok().unwrap();
            assert_eq!(shared.end(&at), Some(0));
        }
        assert_eq!(shared.known(), (1, 1));
        drop(staying);
    }
}
