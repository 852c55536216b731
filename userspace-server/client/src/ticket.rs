// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Operations that were asked and not yet waited for.

use std::marker::PhantomData;
use std::sync::Arc;

use memsrv_engine::{LoadError, StoreError};
use memsrv_protocol::Slot;

use crate::error::Error;
use crate::link::Link;
use crate::slab::Slab;
use crate::state::{LoadEntry, State, StoreEntry};

/// A store that was asked. Dropping it leaves the store to itself: it is done, or fails unseen.
#[must_use = "a store may fail"]
pub struct StoreTicket(Pending<StoreEntry>);

/// A load that was asked. Dropping it throws the pages away.
#[must_use = "the pages are fetched by waiting"]
pub struct LoadTicket(Pending<LoadEntry>);

impl StoreTicket {
    pub(crate) fn new(link: Arc<Link>, token: u32) -> Self {
        Self(Pending::new(link, token))
    }

    /// Whether [`StoreTicket::wait`] would return at once.
    pub fn is_done(&self) -> bool {
        self.0.is_done()
    }

    /// Waits for the server's answer.
    ///
    /// # Errors
    ///
    /// The page was refused, or given up; the slot is empty then.
    pub fn wait(self) -> Result<(), Error> {
        let (entry, ended) = self.0.wait();
        let Some(entry) = entry else {
            return Err(Error::Closed);
        };
        let slot = entry.slot;
        match entry.result.unwrap_or(Err(StoreError::Expired)) {
            Ok(()) => Ok(()),
            Err(StoreError::Refused(status)) => Err(Error::StoreRefused { slot, status }),
            Err(StoreError::Expired) => Err(ended.unwrap_or(Error::StoreExpired { slot })),
        }
    }
}

impl LoadTicket {
    pub(crate) fn new(link: Arc<Link>, token: u32) -> Self {
        Self(Pending::new(link, token))
    }

    /// Whether [`LoadTicket::wait`] would return at once.
    pub fn is_done(&self) -> bool {
        self.0.is_done()
    }

    /// Waits for the pages, one behind the other.
    ///
    /// # Errors
    ///
    /// A page is not there or not intact, or the load was given up. The first failure of several is told.
    pub fn wait(self) -> Result<Vec<u8>, Error> {
        let (entry, ended) = self.0.wait();
        let Some(entry) = entry else {
            return Err(Error::Closed);
        };
        let slot = entry.slot;
        match entry.result.unwrap_or(Err(LoadError::Expired)) {
            Ok(()) => Ok(entry.pages),
            Err(LoadError::Gone) => Err(Error::NotFound { slot }),
            Err(LoadError::Refused(status)) => Err(Error::LoadRefused { slot, status }),
            Err(LoadError::Checksum) => Err(Error::Checksum { slot }),
            Err(LoadError::Expired) => Err(ended.unwrap_or(Error::LoadExpired { slot })),
        }
    }
}

/// What both kinds have in common.
struct Pending<T: Entry> {
    link: Arc<Link>,
    token: u32,
    taken: bool,
    entry: PhantomData<T>,
}

/// An operation's entry in the stream's state.
trait Entry: Sized {
    fn table(state: &mut State) -> &mut Slab<Self>;
    fn is_done(&self) -> bool;
    fn abandon(&mut self);
}

impl Entry for StoreEntry {
    fn table(state: &mut State) -> &mut Slab<Self> {
        &mut state.stores
    }

    fn is_done(&self) -> bool {
        self.result.is_some()
    }

    fn abandon(&mut self) {
        self.abandoned = true;
    }
}

impl Entry for LoadEntry {
    fn table(state: &mut State) -> &mut Slab<Self> {
        &mut state.loads
    }

    fn is_done(&self) -> bool {
        self.result.is_some()
    }

    fn abandon(&mut self) {
        self.abandoned = true;
    }
}

impl<T: Entry> Pending<T> {
    fn new(link: Arc<Link>, token: u32) -> Self {
        Self {
            link,
            token,
            taken: false,
            entry: PhantomData,
        }
    }

    fn is_done(&self) -> bool {
        let mut state = self.link.lock();
        T::table(&mut state).get(self.token).is_none_or(T::is_done)
    }

    /// The entry once it is done, and the reason why the session is over, if it is.
    fn wait(mut self) -> (Option<T>, Option<Error>) {
        let link = self.link.clone();
        let mut state = link.lock();
        while T::table(&mut state)
            .get(self.token)
            .is_some_and(|entry| !entry.is_done())
        {
            state = link.wait(state);
        }
        self.taken = true;
        let entry = T::table(&mut state).remove(self.token);
        (entry, state.check().err())
    }
}

impl<T: Entry> Drop for Pending<T> {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        let mut state = self.link.lock();
        let table = T::table(&mut state);
        match table.get_mut(self.token) {
            Some(entry) if !entry.is_done() => entry.abandon(),
            _ => {
                table.remove(self.token);
            }
        }
    }
}

/// Where an operation's slots are told from: a run in one cluster.
pub(crate) fn check_run(slot: Slot, count: u16) -> Result<(), Error> {
    if slot.run_fits(count) {
        Ok(())
    } else {
        Err(Error::Run { slot, count })
    }
}
