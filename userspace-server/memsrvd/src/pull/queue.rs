// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The jobs that wait for a thread, what the threads are connected to, and how they are all stopped.

use std::collections::VecDeque;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use memsrv_protocol::Status;

use super::{queue_len, Job, QUEUE_LEN};
use crate::arena::lock;

/// The threads are to end.
pub(super) struct Stopping;

/// Where a thread is that might wait for another machine.
#[derive(Default)]
enum Line {
    #[default]
    None,
    Connecting,
    Connected(Arc<TcpStream>),
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// One for each thread.
    lines: Vec<Line>,
    stopping: bool,
}

/// The PULLs of all clients.
#[derive(Default)]
pub struct Pulls {
    state: Mutex<State>,
    /// Something is in the queue, or it is all over.
    ready: Condvar,
    last_id: AtomicU64,
    done: AtomicU64,
    failures: AtomicU64,
    pub(super) pages: AtomicU64,
    pub(super) waiting: AtomicU64,
}

/// How many there were, and are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Ended well.
    pub done: u64,
    /// Ended with a status, other than CANCELLED.
    pub failures: u64,
    /// Pages that were fetched and put.
    pub pages: u64,
    /// Not answered yet.
    pub waiting: u64,
}

impl Pulls {
    /// An empty queue, with room for `threads` threads' lines.
    pub(crate) fn new(threads: usize) -> Pulls {
        let mut lines = Vec::new();
        lines.resize_with(threads, Line::default);
        let state = State {
            jobs: VecDeque::with_capacity(queue_len(threads)),
            lines,
            stopping: false,
        };
        Pulls {
            state: Mutex::new(state),
            ..Pulls::default()
        }
    }

    /// The number of a new pull; never 0.
    pub(super) fn next_id(&self) -> u64 {
        self.last_id
            .fetch_add(1, Ordering::Relaxed)
            .saturating_add(1)
    }

    /// How many there were, and are.
    pub fn counts(&self) -> Counts {
        let get = |from: &AtomicU64| from.load(Ordering::Relaxed);
        Counts {
            done: get(&self.done),
            failures: get(&self.failures),
            pages: get(&self.pages),
            waiting: get(&self.waiting),
        }
    }

    pub(super) fn count(&self, outcome: Result<(), Status>) {
        match outcome {
            Ok(()) => self.done.fetch_add(1, Ordering::Relaxed),
            // The client changed its mind.
            Err(Status::Cancelled) => 0,
            Err(_) => self.failures.fetch_add(1, Ordering::Relaxed),
        };
    }

    /// Puts a job into the queue; false where that is full.
    pub(super) fn push(&self, job: Job) -> bool {
        let mut state = lock(&self.state);
        if state.jobs.len() >= QUEUE_LEN {
            return false;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        state.jobs.push_back(job);
        drop(state);
        self.ready.notify_one();
        true
    }

    /// Waits for the next job; with a limit, not longer than that: `None` then.
    pub(super) fn next(&self, limit: Option<Duration>) -> Result<Option<Job>, Stopping> {
        let idle = |state: &mut State| !state.stopping && state.jobs.is_empty();
        let state = lock(&self.state);
        let mut state = match limit {
            None => self.ready.wait_while(state, idle),
            Some(limit) => match self.ready.wait_timeout_while(state, limit, idle) {
                Ok((state, _)) => Ok(state),
                Err(error) => Err(PoisonError::new(error.into_inner().0)),
            },
        }
        .unwrap_or_else(PoisonError::into_inner);
        if state.stopping {
            return Err(Stopping);
        }
        Ok(state.jobs.pop_front())
    }

    fn set_line(&self, thread: usize, line: Line) -> bool {
        let mut state = lock(&self.state);
        if state.stopping {
            return false;
        }
        if let Some(place) = state.lines.get_mut(thread) {
            *place = line;
        }
        true
    }

    /// A thread is about to connect; false where it is to end instead.
    pub(super) fn connecting(&self, thread: usize) -> bool {
        self.set_line(thread, Line::Connecting)
    }

    /// A thread has connected; false where it is to end.
    pub(super) fn connected(&self, thread: usize, stream: &Arc<TcpStream>) -> bool {
        self.set_line(thread, Line::Connected(stream.clone()))
    }

    /// A thread has no connection.
    pub(super) fn unconnected(&self, thread: usize) {
        self.set_line(thread, Line::None);
    }

    /// Has every thread end; gives back which of them will do so at once, by number. One that is
    /// connecting cannot be interrupted: it ends when that has come to something, and does nothing more.
    pub(super) fn stop(&self) -> Vec<bool> {
        let mut state = lock(&self.state);
        state.stopping = true;
        let lines = std::mem::take(&mut state.lines);
        let jobs = std::mem::take(&mut state.jobs);
        drop(state);
        self.ready.notify_all();
        drop(jobs);
        let at_once = |line: Line| match line {
            Line::None => true,
            Line::Connecting => false,
            Line::Connected(stream) => {
                // Whoever reads from it finds the end.
                let _ = stream.shutdown(Shutdown::Both);
                true
            }
        };
        lines.into_iter().map(at_once).collect()
    }
}
