// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A stream's receiving thread: takes answers in, and makes a new connection when one breaks.
//!
//! ```text
//!             connection broke, silence, fault
//!  connected ---------------------------------> waiting --- refused for good ---> ended
//!      ^                                         |   |  ^
//!      +------------- HELLO, WELCOME ------------+   +--+ no connection: expire, wait longer
//! ```

use std::io::{ErrorKind, Read};
use std::sync::{Arc, MutexGuard};

use memsrv_engine::{Event, Fault, LoadError, PageTarget, Receiver, Want};
use memsrv_protocol::{Slot, Tag, WireError, PAGE_SIZE};

use crate::error::Error;
use crate::link::{ms, Link};
use crate::state::{checksum, State};
use crate::Page;

/// Bytes read at a time.
const INPUT_LEN: usize = 256 * 1024;

/// The shortest and longest wait between two attempts to connect.
const BACKOFF_MS: (u64, u64) = (10, 1000);

/// Why a connection is given up.
enum Broken {
    Fault(Fault),
    Wire(WireError),
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        Broken::Fault(fault)
    }
}

impl From<WireError> for Broken {
    fn from(error: WireError) -> Self {
        Broken::Wire(error)
    }
}

impl From<Broken> for Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Fault(fault) => Error::Fault(fault),
            Broken::Wire(error) => Error::Wire(error),
        }
    }
}

/// One connection's incoming side.
struct Input<'a> {
    link: &'a Link,
    receiver: Receiver,
    page: Box<Page>,
    target: Option<PageTarget<u32>>,
}

impl Link {
    /// The receiver's thread, from a connection that stands until the stream ends.
    pub(crate) fn run_receiver(&self) {
        let mut buffer = vec![0; INPUT_LEN];
        let (shortest_ms, longest_ms) = BACKOFF_MS;
        let mut wait_ms = 0;
        loop {
            let mut answered = false;
            if let Err(error) = self.receive(&mut buffer, &mut answered) {
                // What came may have been damaged on its way; the next connection may be better.
                self.lock().last_fault = Some(error);
            }
            self.disconnected();
            if answered {
                wait_ms = 0;
            }
            // A server that welcomes and then answers nothing right is no better than none: what is too old
            // is given up, and the next attempt is later, in either case.
            loop {
                self.expire();
                self.pause(wait_ms);
                wait_ms = wait_ms.saturating_mul(2).clamp(shortest_ms, longest_ms);
                if self.lock().end.is_some() {
                    return self.give_up(Error::Closed);
                }
                match self.connect() {
                    Ok(_) => break,
                    Err(error) if error.is_passing() => {}
                    Err(error) => return self.give_up(error),
                }
            }
        }
    }

    /// Ends the stream and everything that is unanswered.
    fn give_up(&self, reason: Error) {
        self.end(Arc::new(reason));
        self.lock().expire(u64::MAX, u64::MAX);
        self.changed.notify_all();
    }

    /// Gives up what is too old.
    fn expire(&self) {
        let before = |time| self.now_ms().saturating_sub(ms(time));
        let (stores, loads) = (self.config.store_timeout, self.config.load_timeout);
        self.lock().expire(before(stores), before(loads));
        self.changed.notify_all();
    }

    /// Waits so long, or until the stream ends.
    fn pause(&self, ms: u64) {
        let until_ms = self.now_ms().saturating_add(ms);
        let mut state = self.lock();
        while state.end.is_none() && self.now_ms() < until_ms {
            state = self.wait_ms(state, until_ms.saturating_sub(self.now_ms()).max(1));
        }
    }

    /// Takes in what comes until the connection ends, and tells whether anything came that was right; an
    /// error is the server's.
    fn receive(&self, buffer: &mut [u8], answered: &mut bool) -> Result<(), Error> {
        let socket = self
            .lock()
            .connection
            .as_ref()
            .map(|connection| connection.socket.clone());
        let Some(socket) = socket else { return Ok(()) };
        let page = Box::new([0; PAGE_SIZE]);
        let mut input = Input {
            link: self,
            receiver: Receiver::new(),
            page,
            target: None,
        };
        let mut silent = false;
        loop {
            match (&*socket).read(buffer) {
                Ok(0) => {
                    self.lock().closed_by_server = true;
                    return Ok(());
                }
                Ok(n) => {
                    silent = false;
                    input.take(buffer.get(..n).unwrap_or(&[]))?;
                    *answered = true;
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                        let due = !self.lock().is_quiet();
                        if due && silent {
                            return Ok(());
                        }
                        silent = due;
                    }
                    _ => return Ok(()),
                },
            }
        }
    }
}

impl Input<'_> {
    /// Takes in bytes, under the lock from the first event on.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let link = self.link;
        let mut locked = None;
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = match self.receiver.want() {
                Want::Header(room) => copy(room, rest),
                Want::Page { offset, .. } => {
                    copy(self.page.get_mut(offset..).unwrap_or(&mut []), rest)
                }
                Want::Skip(len) => len.min(rest.len()),
            };
            rest = rest.get(n..).unwrap_or(&[]);
            if let Some(event) = self.receiver.advance(n)? {
                let state = locked.get_or_insert_with(|| link.lock());
                self.event(state, event)?;
            }
        }
        if let Some(mut state) = locked {
            state.settle();
            link.wake_sender(&state);
            drop(state);
            link.changed.notify_all();
        }
        Ok(())
    }

    fn event(&mut self, state: &mut MutexGuard<'_, State>, event: Event) -> Result<(), Fault> {
        match event {
            Event::Message(message) => {
                let mut ended = Vec::new();
                state
                    .engine
                    .message(message, &mut |completion| ended.push(completion))?;
                ended
                    .into_iter()
                    .for_each(|completion| state.complete(completion));
            }
            Event::PageHeader { tag, slot, .. } => {
                self.target = Some(state.engine.page(tag, slot)?);
            }
            Event::PageEnd { tag, slot, crc, .. } => self.page_end(state, tag, slot, crc)?,
        }
        Ok(())
    }

    fn page_end(
        &mut self,
        state: &mut MutexGuard<'_, State>,
        tag: Tag,
        slot: Slot,
        crc: u32,
    ) -> Result<(), Fault> {
        let intact = checksum(slot, self.page.as_slice()) == crc;
        if let Some(target) = self.target.take().filter(|_| intact) {
            let entry = state.loads.get_mut(target.token);
            let pages = entry
                .map(|entry| entry.pages.as_mut_slice())
                .unwrap_or_default();
            if let Some(place) = pages.chunks_exact_mut(PAGE_SIZE).nth(target.index.into()) {
                place.copy_from_slice(self.page.as_slice());
            }
        }
        let result = if intact {
            Ok(())
        } else {
            Err(LoadError::Checksum)
        };
        if let Some(completion) = state.engine.page_done(tag, result)? {
            state.complete(completion);
        }
        Ok(())
    }
}

/// Copies as much as fits, and says how much that was.
fn copy(to: &mut [u8], from: &[u8]) -> usize {
    let n = to.len().min(from.len());
    if let (Some(to), Some(from)) = (to.get_mut(..n), from.get(..n)) {
        to.copy_from_slice(from);
    }
    n
}
