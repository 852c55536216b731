// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The threads that fetch: each takes a job, sees that it has a connection for it, and answers.
//!
//! A thread keeps its last connection for the next job, since a resync is many jobs from one server.

use std::io;
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use memsrv_protocol::{FreeMask, Status};

use super::put::Got;
use super::queue::Stopping;
use super::source::{Buffers, Fault, Line};
use super::{Job, Key};
use crate::regions::Shared;

/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(10);

/// All of the threads.
pub struct Pullers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pullers {
    /// Starts the threads.
    ///
    /// # Errors
    ///
    /// The kernel's, if it has none to give.
    pub fn start(shared: &Arc<Shared>, stack: usize) -> io::Result<Pullers> {
        let mut threads = Vec::new();
        for number in 0..shared.limits.pull.threads {
            let puller = Puller {
                number,
                shared: shared.clone(),
                buffers: Buffers::default(),
                connection: None,
                failed: None,
            };
            let thread = std::thread::Builder::new()
                .name(format!("pull-{number}"))
                .stack_size(stack)
                .spawn(move || puller.run())?;
            threads.push(thread);
        }
        let shared = shared.clone();
        Ok(Pullers { shared, threads })
    }

    /// Has the threads end, and waits for those that can end at once.
    pub fn stop(self) {
        let at_once = self.shared.pulls.stop();
        for (thread, at_once) in self.threads.into_iter().zip(at_once) {
            if at_once && thread.join().is_err() {
                tracing::error!("a thread that fetches pages panicked");
            }
        }
    }
}

struct Puller {
    number: usize,
    shared: Arc<Shared>,
    buffers: Buffers,
    connection: Option<(Key, Arc<TcpStream>)>,
    /// A server that failed, and when.
    failed: Option<(Key, Instant)>,
}

/// How a job ended, unless the server stops.
struct Outcome {
    pages: u64,
    result: Result<(), Status>,
}

impl Puller {
    fn run(mut self) {
        loop {
            let limit = self.connection.is_some().then_some(IDLE);
            match self.shared.pulls.next(limit) {
                Err(Stopping) => return,
                Ok(None) => self.disconnect(),
                Ok(Some(job)) => match self.work(&job) {
                    Some(Outcome { pages, result }) => job.finish(&self.shared, pages, result),
                    None => return,
                },
            }
        }
    }

    fn disconnect(&mut self) {
        self.connection = None;
        self.shared.pulls.unconnected(self.number);
    }

    /// Does a job; `None`: the server stops.
    fn work(&mut self, job: &Job) -> Option<Outcome> {
        let over = |status| Outcome {
            pages: 0,
            result: Err(status),
        };
        // Its client has to ask anew, and will.
        if job.peer.strong_count() == 0 {
            return Some(over(Status::Cancelled));
        }
        // What was asked before it failed need not wait to learn the same.
        if self
            .failed
            .is_some_and(|(key, at)| key == job.key && job.asked <= at)
        {
            return Some(over(Status::Unreachable));
        }
        let deadline = Instant::now().checked_add(self.shared.limits.pull.whole)?;
        let mut got = Got::default();
        let result = loop {
            let kept = self
                .connection
                .as_ref()
                .is_some_and(|(key, _)| *key == job.key);
            match self.fetch(job, deadline, &mut got) {
                Ok(result) => break result,
                Err(Fault::Stopping) => return None,
                Err(Fault::Over(status)) => {
                    // Answers that are still to come are nobody's.
                    if self.buffers.expects_more() {
                        self.disconnect();
                    }
                    break Err(status);
                }
                // A connection from before may have ended since; that says nothing of the server.
                Err(Fault::Broken(_)) if kept => self.disconnect(),
                Err(Fault::Broken(words)) => {
                    self.disconnect();
                    self.failed = Some((job.key, Instant::now()));
                    tracing::warn!(client = %job.key.hello.client, region = %job.key.hello.region,
                        source = %job.key.address, slot = job.base.0, reason = ?words,
                        "cannot fetch pages from the other server");
                    break Err(Status::Unreachable);
                }
            }
        };
        let result = result.and_then(|()| got.is_kept(&self.shared, deadline));
        Some(Outcome {
            pages: got.pages,
            result,
        })
    }

    /// Fetches over the connection that there is, or a new one.
    fn fetch(
        &mut self,
        job: &Job,
        deadline: Instant,
        got: &mut Got,
    ) -> Result<Result<(), Status>, Fault> {
        // Superseded in the queue: not worth a connection.
        if still_awaited(&self.shared, job)?.is_empty() {
            return Ok(Ok(()));
        }
        let limits = &self.shared.limits.pull;
        let kept = self.connection.as_ref().filter(|(key, _)| *key == job.key);
        let stream = match kept {
            Some((_, stream)) => stream.clone(),
            None => {
                self.connection = None;
                if !self.shared.pulls.connecting(self.number) {
                    return Err(Fault::Stopping);
                }
                let left = deadline.saturating_duration_since(Instant::now());
                let limit = limits.connect.min(left).max(Duration::from_millis(1));
                let stream = TcpStream::connect_timeout(&job.key.address, limit);
                let stream = Arc::new(stream.map_err(Fault::io)?);
                if !self.shared.pulls.connected(self.number, &stream) {
                    return Err(Fault::Stopping);
                }
                let line = Line::new(&stream, deadline, limits.silence);
                self.buffers.attach(&line, &job.key.hello)?;
                self.connection = Some((job.key, stream.clone()));
                stream
            }
        };
        let line = Line::new(&stream, deadline, limits.silence);
        self.buffers.fetch(&self.shared, job, &line, got)
    }
}

/// The slots that a job may still fill.
pub(super) fn still_awaited(shared: &Shared, job: &Job) -> Result<FreeMask, Fault> {
    if shared.draining.load(Ordering::Relaxed) {
        return Err(Fault::Over(Status::Draining));
    }
    match job.life.table.awaited(job.id, job.base) {
        Ok(Some(awaited)) => Ok(awaited),
        _ => Err(Fault::Over(Status::Cancelled)),
    }
}
