// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The memsrv wire format, version 1: what a byte on the connection means.
//!
//! Every message is a [`Header`] of 32 bytes, and a payload of as many bytes as the header says.
//! All integers are little-endian. `Documentation/protocol/README.md` is the same in prose, with the
//! state diagrams; the golden tests pin the bytes.
//!
//! There is no allocation, no I/O and no dependency here, so that the module, the server and the
//! tests share one implementation.

mod bytes;
mod free;
mod header;
mod hello;
mod ids;
mod pull;
mod status;

pub use free::FreeMask;
pub use header::{Header, Message, Op, Sender, WireError};
pub use hello::{Endpoint, Hello, HelloError, Name, Welcome};
pub use ids::{Incarnation, Instance, Seq, Slot, Tag};
pub use pull::Pull;
pub use status::Status;

/// The port a server listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 7170;

/// The version of the protocol that this code speaks.
///
/// | version | what changed |
/// |---|---|
/// | 1 | the first |
pub const VERSION: u16 = 1;

/// Bytes in a page. A client with other pages is refused in the handshake.
pub const PAGE_SIZE: usize = 4096;

/// [`PAGE_SIZE`] as the header carries it.
pub const PAGE_LEN: u32 = 4096;

/// The longest payload of a STORE or PAGE that is a compressed page, where [`Hello::LZ4`] is on.
///
/// Seven eighths of a page: what saves less is not worth being decompressed, and travels as it is.
pub const LZ4_MAX_LEN: u32 = 3584;

/// Bytes in a message header.
pub const HEADER_LEN: usize = 32;

/// Slots in a cluster: an aligned group that travels one stream and that one FREE can address.
///
/// It is the swap allocator's own group (`SWAPFILE_CLUSTER` with transparent huge pages on x86-64),
/// so that a huge page lies within one.
pub const CLUSTER_SLOTS: u16 = 512;

/// The longest payload that a message other than those of this version may have.
///
/// It bounds what a receiver has to skip for an operation that it does not know.
pub const MAX_PAYLOAD: u32 = 256 * 1024;

/// The most streams (connections) in a session.
pub const MAX_STREAMS: u16 = 64;

/// The first eight bytes of a HELLO's and of a WELCOME's payload.
///
/// The line end makes a text peer, or one that translates line ends, fail at once.
pub const MAGIC: [u8; 8] = *b"memsrv\r\n";
