// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What a start makes of the directory, and which instance id the server gets.
//!
//! A client that sees the instance id it knows takes it that each page which was acknowledged is here and
//! each that it freed is not. So the old id is kept only where the log surely holds all that was ever
//! acknowledged:
//!
//! | the server before | id and pages |
//! |---|---|
//! | was stopped, and closed the log | kept |
//! | was cut off, and acknowledged only what the disk had (`--persist-ack`) | kept |
//! | was cut off, and acknowledged before the disk had it | new id, no pages: some that it acknowledged may be missing, and neither side can say which |
//! | could not write its log and went on without | new id, no pages |
//! | left a log of which a part that counts cannot be read | new id, no pages |
//!
//! Keeping some clients' pages in the third case (those that had asked for nothing that the log lacks) was
//! weighed: HELLO tells what a client issued for one stream at a time, so it would be decided stream by
//! stream which life of the server a client talks to. It was not worth that.
//!
//! One thing more can be wrong: the server may have run without this log meanwhile, under another id, and
//! a client may have newer pages from then. It says so by the id in its HELLO; `regions.rs` asks for that
//! on the first HELLO of each stream (`Stream::recovered`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memsrv_protocol::{FreeMask, Name, Seq, Slot, CLUSTER_SLOTS, PAGE_SIZE};

use super::disk::{Directory, Disk, LOCK};
use super::format::{segment_number, Head, Kind, NoHead, Origin, HEAD_LEN};
use super::queue::LifeLog;
use super::scan::{scan, Found, Outcome};
use super::segments::{Segments, Start, HEAD};
use super::{disk_bound, segment_len, Options, Persist};
use crate::arena::lock;
use crate::batch::checksum;
use crate::error::StartError;
use crate::regions::{Life, Registry, Shared};
use crate::size::Size;

/// How often a long start says how far it is.
const PROGRESS: Duration = Duration::from_secs(2);

/// Damaged pages that are named one by one.
const NAMED: usize = 20;

fn refuse(options: &Options, what: impl std::fmt::Display) -> StartError {
    StartError::Persist {
        dir: options.dir.clone(),
        reason: what.to_string(),
    }
}

/// Opens the directory of the options.
///
/// # Errors
///
/// [`StartError::Persist`]: it cannot be used, or another server uses it.
pub fn directory(options: &Options) -> Result<Box<dyn Disk>, StartError> {
    match Directory::open(&options.dir) {
        Ok(directory) => Ok(Box::new(directory)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(refuse(
            options,
            "another memsrvd uses it; each needs a directory of its own",
        )),
        Err(error) => Err(refuse(options, error)),
    }
}

/// Reads what is there, fills the server with it and gives it its instance id; gives back the files to
/// go on with. The caller has nothing stored yet, and a random instance id.
///
/// # Errors
///
/// [`StartError::Persist`]: what is there is not ours, or too new, or does not fit.
pub fn open(
    shared: &mut Shared,
    mut disk: Box<dyn Disk>,
    options: &Options,
) -> Result<Segments, StartError> {
    let fail = |error: io::Error| refuse(options, error);
    let names = disk.list().map_err(fail)?;
    let numbered = |name: &String| Some((segment_number(name)?, name.clone()));
    let old: Vec<(u64, String)> = names.iter().filter_map(numbered).collect();
    let head = read_head(&mut *disk, &names, options)?;
    let highest = old.iter().map(|(number, _)| *number).max().unwrap_or(0);
    let mut start = Start {
        instance: shared.instance,
        behind: !options.ack,
        files: VecDeque::new(),
        end: 0,
        // The numbers that a head names have no gap. A file that was kept ready is made anew.
        next: head.map_or(highest, |head| head.last).saturating_add(1),
        generation: head.map_or(0, |head| head.generation),
    };
    let (mut next_life, mut damaged) = (1, 0);
    if let Some(head) = head {
        match usable(&head) {
            Err(why) => tracing::warn!(
                "the log in {} is not resumed: {why}; the pages in it are gone, \
                and this is a new instance",
                options.dir.display()
            ),
            Ok(()) => {
                let mut rebuild = Rebuild::new(shared, options);
                let outcome = scan(
                    &mut *disk,
                    &head,
                    &mut |found| rebuild.apply(&found),
                    &|error| refuse(options, error),
                )?;
                match outcome {
                    Outcome::Whole {
                        end,
                        files,
                        torn,
                        repaired,
                    } => {
                        (next_life, damaged) = rebuild.finish(torn, repaired);
                        (start.end, start.files) = (end, files.into());
                        start.instance = head.instance;
                        shared.instance = head.instance;
                    }
                    Outcome::Lost { what } => {
                        rebuild.forget();
                        tracing::error!(
                            "the log in {} is damaged: {what}; what that held may be any \
                            page, so all of them are gone, and this is a new instance",
                            options.dir.display()
                        );
                    }
                }
            }
        }
    }
    let regions = shared
        .limits
        .regions
        .max(lock(&shared.registry).regions.len());
    let persist = Persist::new(options, regions, start.instance, start.end, next_life);
    persist.note_damaged(damaged);
    let there = start.files.iter().map(|(_, len)| *len).sum();
    check_room(&mut *disk, shared, options, regions, there);
    let mut segments = Segments::begin(disk, start, segment_len(options, regions)).map_err(fail)?;
    segments.tidy(&old).map_err(fail)?;
    shared.persist = Some(Arc::new(persist));
    Ok(segments)
}

/// Whether a log with that head may be resumed, if it can be read.
fn usable(head: &Head) -> Result<(), &'static str> {
    if head.withdrawn {
        return Err("its disk failed, and the server went on without it");
    }
    if head.behind && head.end.is_none() {
        return Err(
            "the server did not stop in order, and had acknowledged what may not have reached the \
             disk (--persist-ack prevents that)",
        );
    }
    Ok(())
}

/// What the head file says; `None` where there is no log yet.
fn read_head(
    disk: &mut dyn Disk,
    names: &[String],
    options: &Options,
) -> Result<Option<Head>, StartError> {
    let ours = |name: &&String| segment_number(name).is_some();
    let segments = names.iter().filter(ours).count();
    if !names.iter().any(|name| name == HEAD) {
        let known = |name: &&String| *name == LOCK || *name == "lost+found" || ours(name);
        if let Some(strange) = names.iter().find(|name| !known(name)) {
            let what = format!(
                "there is no log in it, but there is \"{strange}\"; give an empty directory"
            );
            return Err(refuse(options, what));
        }
        // The first start makes the head before the segment; so these are what is left of another's.
        if segments > 0 {
            let what = "it has segments of a log, but not its file \"head\"; put that back, or empty the directory";
            return Err(refuse(options, what));
        }
        return Ok(None);
    }
    let mut bytes = vec![0; HEAD_LEN];
    let got = disk
        .read(HEAD, 0, &mut bytes)
        .map_err(|error| refuse(options, error))?;
    bytes.truncate(got);
    match Head::decode(&bytes) {
        Ok(head) => Ok(Some(head)),
        Err(NoHead::Version(version)) => {
            let what = format!(
                "its log has format {version}, this memsrvd knows {} only; use the \
                memsrvd that wrote it, or another directory",
                super::format::VERSION
            );
            Err(refuse(options, what))
        }
        // A first start that was cut off: nothing was ever acknowledged.
        Err(NoHead::Foreign) if bytes.iter().all(|&byte| byte == 0) && segments <= 1 => Ok(None),
        Err(NoHead::Foreign) => Err(refuse(
            options,
            "its file \"head\" is not a memsrvd log's, or is damaged; give another directory",
        )),
    }
}

/// Says if the log, of which so many bytes are there, has no room to grow as far as it may.
fn check_room(disk: &mut dyn Disk, shared: &Shared, options: &Options, regions: usize, there: u64) {
    let bound = disk_bound(options, regions, shared.arena.pages.total());
    match disk.room() {
        Ok(room) if room.saturating_add(there) < bound => tracing::warn!(
            "the log may grow to {}, and its file system has {} left; when it is full stores are refused",
            Size(bound),
            Size(room)
        ),
        _ => {}
    }
}

/// The server's state, as far as the log has been read.
struct Rebuild<'a> {
    shared: &'a Shared,
    options: &'a Options,
    lives: HashMap<u64, (Arc<Life>, Name, Name)>,
    /// Slots whose newest page is damaged, by life.
    damaged: HashSet<(u64, u64)>,
    next_life: u64,
    records: u64,
    said: Instant,
}

impl<'a> Rebuild<'a> {
    fn new(shared: &'a Shared, options: &'a Options) -> Rebuild<'a> {
        Rebuild {
            shared,
            options,
            lives: HashMap::new(),
            damaged: HashSet::new(),
            next_life: 1,
            records: 0,
            said: Instant::now(),
        }
    }

    fn apply(&mut self, found: &Found<'_>) -> Result<(), StartError> {
        let header = &found.header;
        self.progress();
        self.next_life = self.next_life.max(header.life.saturating_add(1));
        if header.kind == Kind::Begin {
            return self.begin(header.life, found.payload);
        }
        // A record of a life that has ended came in while it ended.
        let Some((life, client, region)) = self.lives.get(&header.life).cloned() else {
            return Ok(());
        };
        life.log.note(usize::from(header.stream), Seq(header.seq));
        let (arena, quota) = (&self.shared.arena, &life.client.quota);
        match header.kind {
            Kind::Store => {
                let Some(page) = found.payload.first_chunk::<PAGE_SIZE>() else {
                    return Ok(());
                };
                // Compaction copies what is there: of a bad copy the original is as good, and if there is
                // none (compaction was done) the slot is empty here.
                if !found.whole && header.seq == 0 {
                    let mut kept = false;
                    let _ = life.table.load(header.slot, |crc, page| {
                        kept = crc == header.crc && checksum(header.slot, page) == crc;
                    });
                    if kept {
                        return Ok(());
                    }
                }
                let stored = life
                    .table
                    .store(arena, quota, header.slot, header.crc, page);
                if let Ok(Err(status)) = stored {
                    let what = format!(
                        "what it holds does not fit ({}, of client {client}, region {region}); \
                        start with the capacity and quotas that it was written with, or larger ones",
                        status.as_str()
                    );
                    return Err(refuse(self.options, what));
                }
                let slot = (header.life, header.slot.0);
                if found.whole {
                    self.damaged.remove(&slot);
                } else {
                    // It keeps the checksum that it was stored with, which its bytes do not match.
                    self.damaged.insert(slot);
                }
            }
            Kind::Free => {
                if let Some(mask) = found.payload.first_chunk() {
                    let mask = FreeMask(*mask);
                    // The region has not ended.
                    let _ = life.table.free(arena, quota, header.slot, &mask);
                    let first = header.slot.0;
                    self.damaged.retain(|(of, slot)| {
                        let index = slot.wrapping_sub(first);
                        *of != header.life
                            || index >= u64::from(CLUSTER_SLOTS)
                            || !mask.contains(crate::num::to_usize(index))
                    });
                }
            }
            Kind::End => self.end(header.life),
            Kind::Begin => {}
        }
        Ok(())
    }

    fn begin(&mut self, id: u64, payload: &[u8]) -> Result<(), StartError> {
        let Some(origin) = Origin::decode(payload) else {
            return Err(refuse(self.options, "a life in its log makes no sense"));
        };
        if let Some((life, ..)) = self.lives.get(&id) {
            for (stream, &seq) in origin.executed.iter().enumerate() {
                life.log.note(stream, Seq(seq));
            }
            return Ok(());
        }
        let (name, region) = (origin.client, origin.region);
        let same = |(_, client, of): &&(Arc<Life>, Name, Name)| *client == name && *of == region;
        let older = self.lives.values().find(same).map(|(life, ..)| life.log.id);
        if let Some(older) = older {
            self.end(older);
        }
        let mut registry = lock(&self.shared.registry);
        let client = match self.shared.client(&mut registry, name) {
            Ok(client) => client,
            Err(_) => {
                let what = format!("it has pages of client {name}, which is not admitted; admit it, or use another directory");
                return Err(refuse(self.options, what));
            }
        };
        let log = LifeLog::new(id, &origin.executed);
        let life = Arc::new(Life::new(
            client,
            origin.incarnation,
            origin.executed.len(),
            log,
        ));
        registry.regions.insert((name, region), life.clone());
        drop(registry);
        self.lives.insert(id, (life, name, region));
        Ok(())
    }

    fn end(&mut self, id: u64) {
        if let Some((life, client, region)) = self.lives.remove(&id) {
            life.table.end(&self.shared.arena, &life.client.quota);
            let mut registry = lock(&self.shared.registry);
            registry.regions.remove(&(client, region));
            if !registry.regions.keys().any(|(left, _)| *left == client) {
                registry.clients.remove(&client);
            }
            drop(registry);
            self.damaged.retain(|(of, _)| *of != id);
        }
    }

    fn progress(&mut self) {
        self.records = self.records.saturating_add(1);
        if self.records % 1024 == 0 && self.said.elapsed() >= PROGRESS {
            self.said = Instant::now();
            tracing::info!(
                records = self.records,
                pages = self.shared.used_pages(),
                "reading the log"
            );
        }
    }

    /// Lets the streams go on where they were; gives back the number of the next life, and how many
    /// pages are damaged.
    fn finish(self, torn: bool, repaired: u64) -> (u64, usize) {
        for (life, ..) in self.lives.values() {
            for (stream, executed) in life.streams.iter().zip(life.log.executed()) {
                let mut stream = lock(stream);
                stream.executed = Seq(executed);
                stream.released = Seq(executed);
                stream.recovered = true;
            }
        }
        for (id, slot) in self.damaged.iter().take(NAMED) {
            if let Some((_, client, region)) = self.lives.get(id) {
                tracing::error!(%client, %region, "the page in slot {:#x} is damaged in the log: loads of it \
                    are refused", Slot(*slot).0);
            }
        }
        for (id, _) in &self.damaged {
            if let Some((life, ..)) = self.lives.get(id) {
                life.suspect.store(true, Ordering::Relaxed);
            }
        }
        if repaired > 0 {
            tracing::warn!(
                records = repaired,
                "the log is damaged in places that it has twice: look after the disk"
            );
        }
        if torn {
            tracing::info!("the end of the log was torn, and is cut off: it was not acknowledged");
        }
        tracing::info!(
            pages = self.shared.used_pages(),
            regions = self.lives.len(),
            damaged = self.damaged.len(),
            records = self.records,
            "log read; the instance goes on"
        );
        (self.next_life, self.damaged.len())
    }

    /// Takes back all that was done.
    fn forget(self) {
        for (life, ..) in self.lives.values() {
            life.table.end(&self.shared.arena, &life.client.quota);
        }
        *lock(&self.shared.registry) = Registry::default();
    }
}
