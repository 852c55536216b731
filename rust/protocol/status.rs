// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Why an operation did not succeed, as the wire carries it.

/// A failed operation's reason, in NAK, NOPAGE, PULLED, REFUSED and UNKNOWN messages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Status {
    /// The server's memory is used up; older pages are untouched. Try again after some were freed.
    Full,
    /// The client has as many pages as it may; older pages are untouched.
    Quota,
    /// The server has no page in this slot.
    NotFound,
    /// The page did not match its checksum: on its way (STORE) or in the server's memory (LOAD).
    BadChecksum,
    /// No common version of the protocol.
    Version,
    /// Another life of the same client is connected to this region.
    Busy,
    /// The server has executed operations that this client does not know of: the client was restored
    /// from a snapshot of itself, and its bookkeeping is older than the pages.
    Stale,
    /// The message breaks a rule of the protocol.
    BadRequest,
    /// The receiver does not know the operation.
    UnknownOp,
    /// The server's configuration does not admit this client.
    Denied,
    /// The server is about to stop and takes no new pages.
    Draining,
    /// The server that a PULL named could not be reached, or did not give its pages.
    Unreachable,
    /// A newer PULL of the same cluster was first, or the region's end.
    Cancelled,
    /// The server's mirror is away, or was refused something: what is acknowledged from here on is on the server
    /// alone.
    MirrorLost,
    /// A number that this version does not know.
    Other(u32),
}

impl Status {
    /// The number on the wire.
    pub fn code(self) -> u32 {
        match self {
            Status::Full => 1,
            Status::Quota => 2,
            Status::NotFound => 3,
            Status::BadChecksum => 4,
            Status::Version => 5,
            Status::Busy => 6,
            Status::Stale => 7,
            Status::BadRequest => 8,
            Status::UnknownOp => 9,
            Status::Denied => 10,
            Status::Draining => 11,
            Status::Unreachable => 12,
            Status::Cancelled => 13,
            Status::MirrorLost => 14,
            Status::Other(code) => code,
        }
    }

    /// The status of a number from the wire.
    pub fn from_code(code: u32) -> Status {
        match code {
            1 => Status::Full,
            2 => Status::Quota,
            3 => Status::NotFound,
            4 => Status::BadChecksum,
            5 => Status::Version,
            6 => Status::Busy,
            7 => Status::Stale,
            8 => Status::BadRequest,
            9 => Status::UnknownOp,
            10 => Status::Denied,
            11 => Status::Draining,
            12 => Status::Unreachable,
            13 => Status::Cancelled,
            14 => Status::MirrorLost,
            other => Status::Other(other),
        }
    }

    /// A few words for a log line.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Full => "server full",
            Status::Quota => "quota used up",
            Status::NotFound => "no such page",
            Status::BadChecksum => "checksum mismatch",
            Status::Version => "no common protocol version",
            Status::Busy => "region in use by another life of this client",
            Status::Stale => "client older than its pages (restored from a snapshot?)",
            Status::BadRequest => "message breaks the protocol",
            Status::UnknownOp => "unknown operation",
            Status::Denied => "client not admitted",
            Status::Draining => "server is stopping",
            Status::Unreachable => "the other server cannot be reached",
            Status::Cancelled => "no longer wanted",
            Status::MirrorLost => "the server's mirror is away",
            Status::Other(_) => "unknown status",
        }
    }

    /// Whether a store so refused may succeed later on the same connection.
    pub fn is_no_room(self) -> bool {
        matches!(self, Status::Full | Status::Quota | Status::Draining)
    }
}
