// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A session: its streams, and the operations that programs ask for.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;

use memsrv_protocol::{Instance, Message, Slot, PAGE_SIZE};

use crate::config::ClientConfig;
use crate::error::Error;
use crate::handshake;
use crate::link::Link;
use crate::ticket::{check_run, LoadTicket, StoreTicket};
use crate::Page;

/// A session with a memory server. Dropping it closes the connections and leaves the pages to the server;
/// [`Client::bye`] frees them.
pub struct Client {
    links: Vec<Arc<Link>>,
    threads: Vec<JoinHandle<()>>,
    granted_pages: u64,
}

impl Client {
    /// Connects all streams.
    ///
    /// # Errors
    ///
    /// The settings are not valid, the server cannot be reached, or it refuses the session.
    pub fn connect(address: impl ToAddress, config: ClientConfig) -> Result<Client, Error> {
        let address = address.to_address()?;
        let hello = config.hello()?;
        let mut client = Client {
            links: Vec::new(),
            threads: Vec::new(),
            granted_pages: 0,
        };
        for stream in 0..config.streams {
            let hello = memsrv_protocol::Hello { stream, ..hello };
            let link = Arc::new(Link::new(address, config.clone(), hello));
            client.granted_pages = link.connect()?.granted;
            client.links.push(link);
        }
        for link in client.links.clone() {
            let receiver = link.clone();
            client.start("memsrv-receive", move || receiver.run_receiver())?;
            client.start("memsrv-send", move || link.run_sender())?;
        }
        Ok(client)
    }

    fn start(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run);
        self.threads.push(thread.map_err(Error::Thread)?);
        Ok(())
    }

    /// Stores a page and waits for the server to have it.
    ///
    /// # Errors
    ///
    /// The page was refused, or there was no connection for too long. The slot is empty then.
    pub fn store(&self, slot: Slot, page: &Page) -> Result<(), Error> {
        self.submit_store(slot, page)?.wait()
    }

    /// Asks for a page to be stored. Waits only for room among the stores in flight.
    ///
    /// # Errors
    ///
    /// The session is over.
    pub fn submit_store(&self, slot: Slot, page: &Page) -> Result<StoreTicket, Error> {
        let link = self.link(slot)?;
        Ok(StoreTicket::new(link.clone(), link.store(slot, page)?))
    }

    /// Loads a page.
    ///
    /// # Errors
    ///
    /// There is no page in the slot, it is damaged, or there was no connection for too long. `page` is
    /// unchanged then.
    pub fn load(&self, slot: Slot, page: &mut Page) -> Result<(), Error> {
        let bytes = self.submit_load(slot, 1)?.wait()?;
        if let Some(bytes) = bytes.first_chunk::<PAGE_SIZE>() {
            *page = *bytes;
        }
        Ok(())
    }

    /// Asks for `count` pages from `slot` on, all in one cluster. Waits only for room among the loads in
    /// flight, and for stores of these slots that are unanswered.
    ///
    /// # Errors
    ///
    /// The slots are not within one cluster, or the session is over.
    pub fn submit_load(&self, slot: Slot, count: u16) -> Result<LoadTicket, Error> {
        check_run(slot, count)?;
        let link = self.link(slot)?;
        Ok(LoadTicket::new(link.clone(), link.load(slot, count)?))
    }

    /// Frees a slot. Does not wait; [`Client::flush`] does.
    ///
    /// # Errors
    ///
    /// The session is over.
    pub fn free(&self, slot: Slot) -> Result<(), Error> {
        self.free_run(slot, 1)
    }

    /// Frees `count` slots from `slot` on, all in one cluster.
    ///
    /// # Errors
    ///
    /// The slots are not within one cluster, or the session is over.
    pub fn free_run(&self, slot: Slot, count: u16) -> Result<(), Error> {
        check_run(slot, count)?;
        self.link(slot)?.free(slot, count)
    }

    /// Waits until the server has answered all that was asked before, frees too.
    ///
    /// # Errors
    ///
    /// The session is over, or there was no connection for the store timeout.
    pub fn flush(&self) -> Result<(), Error> {
        self.links.iter().try_for_each(|link| link.flush())
    }

    /// Ends the session; the server frees its pages.
    ///
    /// # Errors
    ///
    /// The server could not be told: it keeps the pages.
    pub fn bye(self) -> Result<(), Error> {
        self.flush()?;
        match self.links.split_first() {
            Some((first, others)) => {
                others
                    .iter()
                    .for_each(|link| link.end(Arc::new(Error::Closed)));
                first.say_last(&Message::Bye.encode())
            }
            None => Ok(()),
        }
    }

    /// The server's statistics, as JSON.
    ///
    /// # Errors
    ///
    /// The server cannot be reached.
    pub fn stat(&self) -> Result<String, Error> {
        let link = self.link(Slot(0))?;
        handshake::stat(link.address, link.config.connect_timeout)
    }

    /// How many pages the server granted.
    pub fn granted_pages(&self) -> u64 {
        self.granted_pages
    }

    /// The server's life that was last connected to. When it changes the pages stored before are gone.
    pub fn instance(&self) -> Instance {
        self.links.first().map_or_else(Instance::default, |link| {
            link.hello
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .instance
        })
    }

    /// How many connections were made anew, over all streams.
    pub fn reconnects(&self) -> u64 {
        let again = |link: &Arc<Link>| link.lock().connections.saturating_sub(1);
        self.links.iter().map(again).fold(0, u64::saturating_add)
    }

    /// What the server last did against the protocol, in words.
    pub fn last_fault(&self) -> Option<String> {
        self.links
            .iter()
            .find_map(|link| link.lock().last_fault.as_ref().map(Error::to_string))
    }

    /// The stream that the slot's cluster travels.
    fn link(&self, slot: Slot) -> Result<&Arc<Link>, Error> {
        let streams = u64::try_from(self.links.len()).unwrap_or(u64::MAX);
        let stream = slot.cluster().checked_rem(streams).unwrap_or(0);
        let link = usize::try_from(stream)
            .ok()
            .and_then(|stream| self.links.get(stream));
        link.ok_or(Error::Closed)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let closed = Arc::new(Error::Closed);
        self.links.iter().for_each(|link| link.end(closed.clone()));
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            let _panicked = thread.join();
        }
    }
}

/// What tells a server's address: a [`SocketAddr`], or `HOST:PORT`.
pub trait ToAddress {
    /// The address.
    ///
    /// # Errors
    ///
    /// [`Error::Resolve`].
    fn to_address(&self) -> Result<SocketAddr, Error>;
}

impl ToAddress for SocketAddr {
    fn to_address(&self) -> Result<SocketAddr, Error> {
        Ok(*self)
    }
}

impl ToAddress for &str {
    fn to_address(&self) -> Result<SocketAddr, Error> {
        let resolve = |source| Error::Resolve {
            address: (*self).to_owned(),
            source,
        };
        let none = || std::io::Error::other("the name has no address");
        self.to_socket_addrs()
            .map_err(resolve)?
            .next()
            .ok_or_else(|| resolve(none()))
    }
}
