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
use crate::link::Link;
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
        loop {
            if let Err(error) = self.receive(&mut buffer) {
                // A server that breaks the protocol once may have been damaged on its way; the same
                // connection cannot go on, the next one can.
                self.lock().last_fault = Some(error);
            }
            self.disconnected();
            if let Err(reason) = self.reconnect() {
                self.end(Arc::new(reason));
                self.lock().expire(u64::MAX, u64::MAX);
                self.changed.notify_all();
                return;
            }
        }
    }

    /// Takes in what comes, until the connection ends; an error is the server's.
    fn receive(&self, buffer: &mut [u8]) -> Result<(), Error> {
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
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    let due = !self.lock().is_quiet();
                    if due && silent {
                        return Ok(());
                    }
                    silent = due;
                }
                Err(_) => return Ok(()),
            }
        }
    }

    /// Tries until there is a connection, giving up meanwhile what is too old.
    fn reconnect(&self) -> Result<(), Error> {
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (store_ms, load_ms) = (ms(self.config.store_timeout), ms(self.config.load_timeout));
        let (mut wait_ms, longest_ms) = BACKOFF_MS;
        loop {
            if self.lock().end.is_some() {
                return Err(Error::Closed);
            }
            match self.connect() {
                Ok(_) => return Ok(()),
                Err(error) if error.is_passing() => {}
                Err(error) => return Err(error),
            }
            let mut state = self.lock();
            let now_ms = self.now_ms();
            state.expire(
                now_ms.saturating_sub(store_ms),
                now_ms.saturating_sub(load_ms),
            );
            self.changed.notify_all();
            let until_ms = now_ms.saturating_add(wait_ms);
            while state.end.is_none() && self.now_ms() < until_ms {
                let left_ms = until_ms.saturating_sub(self.now_ms());
                state = self.wait_ms(state, left_ms.max(1));
            }
            wait_ms = wait_ms.saturating_mul(2).min(longest_ms);
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
            Event::PageEnd { tag, slot, crc } => self.page_end(state, tag, slot, crc)?,
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
