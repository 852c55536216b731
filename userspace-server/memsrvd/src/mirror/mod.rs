// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Sends what a client stores and frees on to another server, so that there are two copies of it.
//!
//! ```text
//!  client --STORE, FREE--> session, batch --the same bytes--> Forward --> Link --> mirror
//!         <--NAK, ACK----- session        <--its NAKs, ACKs--
//! ```
//!
//! | file | what it is |
//! |---|---|
//! | [`forward`] | what one stream has sent and is owed, without I/O or clock |
//! | [`link`] | the socket |
//! | `session/forward.rs`, `conn/forward.rs` | where the two meet the client's session and its connection |
//!
//! Each stream that is forwarded has one connection to the mirror, which the worker that serves the client's
//! connection serves, too; it ends with that. The mirror is another machine: nothing that it sends is trusted
//! further than a client would trust it, and the worst that it can do is to be lost.

pub mod forward;
pub mod link;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use memsrv_protocol::{Endpoint, Hello};
use serde::{Deserialize, Serialize};

use crate::listener::SocketOptions;
use crate::regions::Shared;

/// How long the mirror may take to answer a HELLO, the making of the connection included. The client waits.
pub const MIRROR_WELCOME: Duration = Duration::from_millis(500);

/// How long the mirror may answer nothing while it owes answers; then it is lost.
pub const MIRROR_TIMEOUT: Duration = Duration::from_secs(1);

/// When a client is told that an operation is done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MirrorAck {
    /// When the mirror has said so, too.
    #[default]
    After,
    /// At once. At a failure the mirror may lack the last operations.
    Before,
}

/// Where the mirror is, and how it is dealt with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the server, and its clients, find it.
    pub address: SocketAddr,
    /// When clients are acknowledged.
    pub ack: MirrorAck,
    /// [`MIRROR_WELCOME`], but for tests.
    pub welcome: Duration,
    /// [`MIRROR_TIMEOUT`], but for tests.
    pub silence: Duration,
}

/// The server's mirror, and what was done with it since the start.
pub struct Mirror {
    /// Where, and how.
    pub options: Options,
    /// What the sockets of the connections to it are told.
    pub sockets: SocketOptions,
    /// Stores and frees that were given to connections to it.
    forwarded: AtomicU64,
    /// Streams that are forwarded now.
    streams: AtomicU64,
    /// How often a stream lost it.
    lost: AtomicU64,
}

impl Mirror {
    /// A mirror that nothing was sent to yet.
    pub fn new(options: Options, sockets: SocketOptions) -> Mirror {
        Mirror {
            options,
            sockets,
            forwarded: AtomicU64::new(0),
            streams: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        }
    }

    /// The option that it must grant.
    pub fn no_refusal(&self) -> u32 {
        match self.options.ack {
            // Its refusals are passed on, and nothing was acknowledged before.
            MirrorAck::After => 0,
            MirrorAck::Before => Hello::NO_REFUSAL,
        }
    }

    /// Where it is, as a WELCOME says it.
    pub fn endpoint(&self) -> Endpoint {
        let address = match self.options.address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Endpoint {
            address: address.octets(),
            port: self.options.address.port(),
        }
    }

    /// Counts operations that were forwarded.
    pub fn count(&self, operations: u64) {
        if operations > 0 {
            self.forwarded.fetch_add(operations, Ordering::Relaxed);
        }
    }

    /// Counts a stream that lost it.
    pub fn count_lost(&self) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }

    /// For the statistics.
    pub fn report(&self) -> MirrorReport {
        MirrorReport {
            address: self.options.address.to_string(),
            streams: self.streams.load(Ordering::Relaxed),
            forwarded: self.forwarded.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }
}

/// What STAT says of the mirror; the counts are since the server's start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MirrorReport {
    /// Its address and port.
    pub address: String,
    /// Streams that are forwarded now.
    pub streams: u64,
    /// Stores and frees that were forwarded.
    pub forwarded: u64,
    /// How often a stream that was forwarded lost the mirror.
    pub lost: u64,
}

/// A stream that is forwarded, counted as long as this is kept.
pub struct Streaming(Arc<Shared>);

impl Streaming {
    /// Counts one.
    pub fn new(shared: &Arc<Shared>) -> Streaming {
        if let Some(mirror) = &shared.mirror {
            mirror.streams.fetch_add(1, Ordering::Relaxed);
        }
        Streaming(shared.clone())
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        if let Some(mirror) = &self.0.mirror {
            mirror.streams.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Whether `mirror` is what listens on `own`, as far as this machine can tell now. Nothing is sent.
pub fn is_own(own: SocketAddr, mirror: SocketAddr) -> bool {
    let (ours, theirs) = (own.ip().to_canonical(), mirror.ip().to_canonical());
    if own.port() != mirror.port() {
        return false;
    }
    if !ours.is_unspecified() {
        return ours == theirs;
    }
    // To an address of its own the kernel sends from that same address.
    let from = SocketAddr::new(ours, 0);
    let from = match (theirs, ours) {
        (IpAddr::V4(_), IpAddr::V6(_)) => SocketAddr::from(([0, 0, 0, 0], 0)),
        _ => from,
    };
    let source = UdpSocket::bind(from).and_then(|socket| {
        socket.connect(SocketAddr::new(theirs, mirror.port()))?;
        socket.local_addr()
    });
    source.is_ok_and(|source| source.ip().to_canonical() == theirs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_address_is_known_by_any_of_its_names() {
        for (own, mirror, same) in [
            ("127.0.0.1:7170", "127.0.0.1:7170", true),
            ("127.0.0.1:7170", "127.0.0.1:7171", false),
            ("127.0.0.1:7170", "[::ffff:127.0.0.1]:7170", true),
            ("0.0.0.0:7170", "127.0.0.1:7170", true),
            ("[::]:7170", "127.0.0.1:7170", true),
            ("[::]:7170", "127.0.0.1:7171", false),
            ("[::]:7170", "192.0.2.1:7170", false),
            ("192.0.2.2:7170", "192.0.2.1:7170", false),
        ] {
            let found = is_own(own.parse().unwrap(), mirror.parse().unwrap());
            assert_eq!(found, same, "{own} {mirror}");
        }
    }
}
