// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A memsrv client in user space: pages stored in and loaded from a memory server.
//!
//! ```no_run
//! use memsrv_client::{Client, ClientConfig, Slot};
//!
//! # fn main() -> Result<(), memsrv_client::Error> {
//! let client = Client::connect("127.0.0.1:7170", ClientConfig::new("this-host", "scratch"))?;
//! client.store(Slot(7), &[0x5a; 4096])?;
//! let mut page = [0; 4096];
//! client.load(Slot(7), &mut page)?;
//! client.free(Slot(7))?;
//! client.bye()
//! # }
//! ```
//!
//! It is the same engine that the kernel module runs, with threads and blocking sockets around it. A
//! session has some streams, each a connection with its own order; all slots of a cluster (512 slots)
//! travel one stream. When a connection breaks it is made anew and what was unanswered is sent again,
//! until it expires.
//!
//! # What it promises
//!
//! - A load gives the bytes that were stored last in the slot, or an error. One that is asked after a store of
//!   the slot sees it; it waits for the store's answer.
//! - A store that fails leaves its slot empty: the older page is freed, too.
//! - A load asked after a free says [`Error::NotFound`].
//! - Of operations on one slot that overlap in time, the order is open.
//! - Every store and load ends, at the latest when it expires.
//!
//! # Threads and locks
//!
//! A [`Client`] may be shared by threads. Each stream has one lock, never held while a socket is read
//! or written. The one who asks also sends, unless another is sending; a thread of the stream sends what
//! the window held back, and one receives and reconnects.

mod client;
mod config;
mod error;
mod handshake;
mod link;
mod receive;
mod slab;
mod state;
mod ticket;

pub use client::{Client, ToAddress};
pub use config::ClientConfig;
pub use error::Error;
pub use handshake::stat;
pub use memsrv_protocol::{Incarnation, Instance, Slot, Status, PAGE_SIZE};
pub use ticket::{LoadTicket, StoreTicket};

/// A page's bytes.
pub type Page = [u8; PAGE_SIZE];
