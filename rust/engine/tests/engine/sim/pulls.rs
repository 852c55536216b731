// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The model of a server that pulls: pages that it asks for at one time and gets at another.

use memsrv_protocol::{Message, Pull, Slot, Status, Tag};
use std::collections::{BTreeMap, BTreeSet};

/// A page on its way from the other server, or its word that it has none.
type Late = (u64, Option<Vec<u8>>);

struct Job {
    /// Who asked; nobody once the connection is gone.
    stream: Option<usize>,
    tag: Tag,
    cluster: Slot,
    /// The life of the other server.
    life: u8,
    awaited: BTreeSet<u64>,
    asked: BTreeSet<u64>,
    late: Vec<Late>,
}

/// What a server is pulling.
#[derive(Default)]
pub struct Pulls {
    jobs: Vec<Job>,
    /// Pages of pulls that have ended: they come all the same, and must be dropped.
    pub overtaken: usize,
}

impl Pulls {
    /// A PULL; `has` tells which slots have a page. Returns the tag of an older one that ends by it.
    pub fn begin(
        &mut self,
        stream: usize,
        tag: Tag,
        cluster: Slot,
        pull: &Pull,
        has: impl Fn(u64) -> bool,
    ) -> Option<Tag> {
        let older = self.jobs.iter().position(|job| job.cluster == cluster);
        let older = older.map(|older| self.jobs.remove(older));
        let slot = |index| cluster.0 + u64::try_from(index).unwrap();
        self.jobs.push(Job {
            stream: Some(stream),
            tag,
            cluster,
            life: pull.instance.0[0],
            awaited: pull.mask.indices().map(slot).filter(|&s| !has(s)).collect(),
            asked: BTreeSet::new(),
            late: Vec::new(),
        });
        older
            .filter(|older| older.stream.is_some())
            .map(|older| older.tag)
    }

    /// The slot was stored or freed.
    pub fn overtake(&mut self, slot: u64) {
        for job in &mut self.jobs {
            if job.awaited.remove(&slot) && job.asked.contains(&slot) {
                self.overtaken += 1;
            }
        }
    }

    /// The stream's connection is gone; what it asked for goes on.
    pub fn disconnected(&mut self, stream: usize) {
        for job in &mut self.jobs {
            job.stream = job.stream.filter(|&other| other != stream);
        }
    }

    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Asks the other server, whose life and pages these are, for one page of one job.
    pub fn fetch(&mut self, which: usize, life: u8, pages: &BTreeMap<u64, Vec<u8>>) {
        let Some(which) = which.checked_rem(self.jobs.len()) else {
            return;
        };
        let job = &mut self.jobs[which];
        if job.life != life {
            return;
        }
        let wanted = job.awaited.difference(&job.asked).next().copied();
        if let Some(slot) = wanted {
            job.asked.insert(slot);
            job.late.push((slot, pages.get(&slot).cloned()));
        }
    }

    /// One page of one job comes in; then, if nothing is awaited any more, the job has ended: who asked is
    /// to be told. A job whose source has died fails.
    pub fn deliver(
        &mut self,
        which: usize,
        life: u8,
        capacity: usize,
        pages: &mut BTreeMap<u64, Vec<u8>>,
    ) -> Option<(usize, Message)> {
        let which = which.checked_rem(self.jobs.len())?;
        let job = &mut self.jobs[which];
        let mut status = None;
        if !job.late.is_empty() {
            let (slot, page) = job.late.remove(0);
            if job.awaited.remove(&slot) {
                match page {
                    Some(_) if pages.len() >= capacity => status = Some(Status::Full),
                    Some(page) => drop(pages.insert(slot, page)),
                    None => {}
                }
            }
        } else if job.life != life {
            status = Some(Status::Unreachable);
        }
        if status.is_none() && !job.awaited.is_empty() {
            return None;
        }
        let job = self.jobs.remove(which);
        let (tag, slot) = (job.tag, job.cluster);
        Some((job.stream?, Message::Pulled { tag, slot, status }))
    }
}
