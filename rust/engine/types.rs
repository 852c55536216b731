// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What goes in and out of a stream: messages to send, completions, and the ways either can fail.

use super::super::protocol::{FreeMask, Op, Seq, Slot, Status, Tag, HEADER_LEN, PAGE_LEN};

/// What a store sends for its page: so many bytes with that checksum.
///
/// From a checksum alone it is the whole page. Less than a page is only for a server that has granted
/// [`Hello::LZ4`](super::super::protocol::Hello::LZ4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Payload {
    /// CRC-32C over the slot's 8 bytes, little-endian, and the payload.
    pub crc: u32,
    /// Its bytes.
    pub len: u32,
}

impl From<u32> for Payload {
    fn from(crc: u32) -> Self {
        Self { crc, len: PAGE_LEN }
    }
}

/// There is no entry for one more operation of this kind, or its number would overflow.
///
/// Nothing was changed. Entries come back with completions. From `load` it also means that the slots
/// are none, or not all in one cluster: such a load can never be asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoRoom;

/// Why a lane has not taken a store or load. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NotTaken {
    /// As [`NoRoom`]: an entry comes back with completions.
    NoRoom,
    /// No replica can be stored to, or asked, as the clusters stand now.
    NoTarget,
}

/// The next message to put on the wire, whole and in this order.
///
/// The header is ready to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outgoing<S> {
    /// A LOAD; no payload.
    Load {
        /// Under which it is answered.
        tag: Tag,
        /// The header's bytes.
        header: [u8; HEADER_LEN],
    },
    /// A REACH and a LOAD under the same tag, on a connection that only reads; no payload.
    Read {
        /// Both headers' bytes.
        headers: [u8; 2 * HEADER_LEN],
    },
    /// A STORE; the payload is the page that `token` stands for.
    Store {
        /// The header's bytes.
        header: [u8; HEADER_LEN],
        /// Bytes of the payload.
        len: u32,
        /// What the caller gave with the store.
        token: S,
    },
    /// A FREE; the payload is the mask.
    Free {
        /// The header's bytes.
        header: [u8; HEADER_LEN],
        /// The payload, as the caller's closure gave it.
        mask: FreeMask,
    },
}

/// An operation has ended; its token comes back, once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Completion<S, L> {
    /// A store.
    Store {
        /// What the caller gave with it.
        token: S,
        /// Whether the server holds the page.
        result: Result<(), StoreError>,
    },
    /// A load: all its pages were answered, or it was given up.
    Load {
        /// What the caller gave with it.
        token: L,
        /// Whether every page is there; else the first failure.
        result: Result<(), LoadError>,
    },
}

/// Why a store failed. The server holds the slot's older page, or the new one, or none: unknown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreError {
    /// The server said no.
    Refused(Status),
    /// Given up by `expire_stores`; the server may have it all the same.
    Expired,
}

/// Why a load failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LoadError {
    /// The server has no page in a slot (`NOT_FOUND`).
    Gone,
    /// The server said no for another reason.
    Refused(Status),
    /// A page came and was not the one that was stored; the driver says so in `page_done`.
    Checksum,
    /// Given up by `expire_loads`.
    Expired,
}

/// Whose page it is that comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageTarget<L> {
    /// What the caller gave with the load.
    pub token: L,
    /// Which of the load's pages, from 0.
    pub index: u16,
}

/// The peer broke the protocol, or the driver this interface: reset the connection.
///
/// The stream is as it was before the message; after `disconnected` and `connected` all that is
/// unanswered is sent again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// There is no connection, so this cannot have come from it.
    NotConnected,
    /// An ACK covers an operation that was not sent on this connection.
    AckAhead {
        /// The number in the ACK.
        seq: Seq,
        /// The highest number sent on this connection; 0 if none.
        sent: Seq,
    },
    /// A NAK names no operation that is sent and unanswered.
    NakUnknown {
        /// The number in the NAK.
        seq: Seq,
    },
    /// A NAK names a FREE, which cannot be refused.
    NakFree {
        /// The number in the NAK.
        seq: Seq,
    },
    /// A PAGE or NOPAGE for no load that waits for one: forged, late, repeated, or one too many.
    TagUnknown {
        /// The tag in the answer.
        tag: Tag,
    },
    /// A PAGE or NOPAGE for another slot than the load's next.
    SlotUnexpected {
        /// The tag in the answer.
        tag: Tag,
        /// The slot whose turn it was.
        expected: Slot,
        /// The slot in the answer.
        got: Slot,
    },
    /// `page_done` without the `page` before it.
    PageNotBegun {
        /// The tag given.
        tag: Tag,
    },
    /// The server does not know an operation without which a stream is of no use.
    OpUnknown {
        /// The operation.
        op: Op,
    },
    /// A WELCOME or REFUSED after the handshake.
    Handshake,
    /// A message of a client, or a PAGE that did not go through `page`.
    Unexpected,
}
