// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What can go wrong, in words that say what happened, to what, and what to do.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use memsrv_engine::Fault;
use memsrv_protocol::{Slot, Status, WireError};

/// Why an operation or a session failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server's address has no meaning, or its name is not known.
    #[error("cannot find the server {address}: {source}; give it as HOST:PORT")]
    Resolve {
        /// The address as it was given.
        address: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No connection could be made.
    #[error("cannot connect to {address}: {source}; does memsrvd run there, and does every firewall between let the port through?")]
    Connect {
        /// The server.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A connection broke, or the server was silent, in the handshake.
    #[error("connection to {address} broke in the handshake: {source}; see the server's log")]
    Handshake {
        /// The server.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The other end is something else, or speaks a version that it did not offer.
    #[error("{address} does not answer as a memory server; is it memsrvd's port?")]
    NotMemsrv {
        /// The server.
        address: SocketAddr,
    },
    /// The server does not let the client in.
    #[error("{address} refused the session ({}): {text}", status.as_str())]
    Refused {
        /// The server.
        address: SocketAddr,
        /// Why.
        status: Status,
        /// Why, in the server's words.
        text: String,
    },
    /// A name has characters or a length that names don't have.
    #[error("{what} name {name:?} is not valid; use 1 to 64 of A-Z a-z 0-9 . _ -")]
    Name {
        /// Which name: client or region.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The number of streams is none that a session can have.
    #[error("a session cannot have {streams} streams; use 1 to 64")]
    Streams {
        /// The number.
        streams: u16,
    },
    /// The system gave no random bytes.
    #[error("the system gives no random bytes: {0}; give an incarnation instead")]
    Random(io::Error),
    /// A stream's thread could not be started.
    #[error("cannot start a thread: {0}; raise the limit on processes")]
    Thread(io::Error),
    /// The slots are none, or not all in one cluster.
    #[error("{count} slots from {:#x} are not within one cluster of 512; ask for them one by one", slot.0)]
    Run {
        /// The first slot.
        slot: Slot,
        /// How many.
        count: u16,
    },
    /// The server did not take the page. The slot is empty now.
    #[error("store of slot {:#x} was refused: {}; free other slots, or use another server", slot.0, status.as_str())]
    StoreRefused {
        /// The slot.
        slot: Slot,
        /// Why.
        status: Status,
    },
    /// There was no connection for too long. The slot is empty now.
    #[error("store of slot {:#x} was given up: no connection to the server", slot.0)]
    StoreExpired {
        /// The slot.
        slot: Slot,
    },
    /// The server has no page in the slot: none was stored, or the server was started anew since.
    #[error("there is no page in slot {:#x}", slot.0)]
    NotFound {
        /// The slot; of several, the first that was asked for.
        slot: Slot,
    },
    /// The page that came is not the one that was stored.
    #[error("the page of slot {:#x} does not match its checksum; the network or the server's memory damages data", slot.0)]
    Checksum {
        /// The slot; of several, the first that was asked for.
        slot: Slot,
    },
    /// The server did not give the page for another reason.
    #[error("load of slot {:#x} was refused: {}", slot.0, status.as_str())]
    LoadRefused {
        /// The slot; of several, the first that was asked for.
        slot: Slot,
        /// Why.
        status: Status,
    },
    /// There was no connection for too long. The page may still be on the server.
    #[error("load of slot {:#x} was given up: no connection to the server; try again", slot.0)]
    LoadExpired {
        /// The slot; of several, the first that was asked for.
        slot: Slot,
    },
    /// There was no connection for too long to see frees acknowledged, or to say BYE.
    #[error("no connection to the server for {seconds} s; it keeps the pages until it is told or restarted")]
    Unreachable {
        /// How long.
        seconds: u64,
    },
    /// The server sent what the protocol does not allow.
    #[error("server broke the protocol: {0:?}; this is an error in memsrv, please report it")]
    Fault(Fault),
    /// The server sent a header that the protocol does not allow.
    #[error("server broke the protocol: {0:?}; this is an error in memsrv, please report it")]
    Wire(WireError),
    /// The session is over for the reason given.
    #[error("the session is over: {0}")]
    Ended(Arc<Error>),
    /// The session was closed by this client.
    #[error("the session was closed")]
    Closed,
}

impl Error {
    /// Whether trying to connect again can help.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Error::Refused { status, .. } => {
                matches!(status, Status::Busy | Status::Full | Status::Draining)
            }
            _ => true,
        }
    }
}
