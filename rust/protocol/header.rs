// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The message header: 32 bytes, the same fields at the same places in every message.
//!
//! ```text
//!  0      2      4            8                16               24      28      32
//!  +------+------+------------+----------------+----------------+-------+-------+
//!  |  op  | count|   length   |  seq or tag    |      slot      |  aux  |  crc  |
//!  | u16  | u16  |    u32     |      u64       |      u64       |  u32  |  u32  |
//!  +------+------+------------+----------------+----------------+-------+-------+
//! ```
//!
//! `length` counts the payload's bytes. Fields that an operation has no use for are sent as zero and
//! not looked at. `crc` is CRC-32C over the slot's eight bytes followed by the payload: binding the
//! page to its slot finds a page that was put or fetched at the wrong place, too.

use super::bytes::{Reader, Writer};
use super::{
    FreeMask, Hello, Pull, Seq, Slot, Status, Tag, Welcome, HEADER_LEN, LZ4_MAX_LEN, MAX_PAYLOAD,
    PAGE_LEN, PAGE_SIZE,
};

/// Who sent a message: the operations of the two sides are told apart by their numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// The side that connected.
    Client,
    /// The side that holds the pages.
    Server,
}

/// The numbers of the operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Op(pub u16);

impl Op {
    /// Client: opens a session's stream. Payload: [`Hello`].
    pub const HELLO: Op = Op(1);
    /// Client: stores a page in a slot. Payload: the page, or with [`Hello::LZ4`] a shorter block.
    pub const STORE: Op = Op(2);
    /// Client: asks for `count` pages from a slot on, all in one cluster.
    pub const LOAD: Op = Op(3);
    /// Client: frees slots of one cluster. Payload: [`FreeMask`].
    pub const FREE: Op = Op(4);
    /// Client: asks for a PONG.
    pub const PING: Op = Op(5);
    /// Client: asks for the server's statistics; needs no session.
    pub const STAT: Op = Op(6);
    /// Client: ends the session; the region's pages are freed.
    pub const BYE: Op = Op(7);
    /// Client: has the server fetch pages of a cluster from another one. Payload: [`Pull`].
    pub const PULL: Op = Op(8);
    /// Client, or a server that pulls for it: opens a connection that only reads a region. Payload: [`Hello`].
    pub const ATTACH: Op = Op(9);
    /// Client: asks how far the stream has come.
    pub const REACH: Op = Op(10);
    /// Server: the session stands. Payload: [`Welcome`].
    pub const WELCOME: Op = Op(0x81);
    /// Server: the session is refused. Payload: the reason in UTF-8. The connection is closed.
    pub const REFUSED: Op = Op(0x82);
    /// Server: one page of a LOAD, in the order of the slots. Payload: the STORE's.
    pub const PAGE: Op = Op(0x83);
    /// Server: one page of a LOAD that cannot be had, in its place.
    pub const NOPAGE: Op = Op(0x84);
    /// Server: every STORE and FREE up to this number is done, but for those a NAK named before.
    pub const ACK: Op = Op(0x85);
    /// Server: this STORE was not done. It comes before the ACK that covers its number.
    pub const NAK: Op = Op(0x86);
    /// Server: the answer to a PING.
    pub const PONG: Op = Op(0x87);
    /// Server: the answer to a STAT. Payload: JSON.
    pub const STATS: Op = Op(0x88);
    /// Server: something that the client should know, unasked.
    pub const NOTICE: Op = Op(0x89);
    /// Server: the answer to an operation it does not know, whose number is in `aux`.
    pub const UNKNOWN: Op = Op(0x8a);
    /// Server: a PULL has ended.
    pub const PULLED: Op = Op(0x8b);
    /// Server: the answer to a REACH.
    pub const REACHED: Op = Op(0x8c);
}

/// A message, but for its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(
    missing_docs,
    reason = "the operations are documented at `Op`, the fields by their types"
)]
pub enum Message {
    Hello,
    /// `len` is [`PAGE_LEN`], or that of a compressed page.
    Store {
        seq: Seq,
        slot: Slot,
        crc: u32,
        len: u32,
    },
    Load {
        tag: Tag,
        slot: Slot,
        count: u16,
    },
    Free {
        seq: Seq,
        slot: Slot,
        crc: u32,
    },
    Ping {
        tag: Tag,
    },
    Stat {
        tag: Tag,
    },
    Bye,
    Pull {
        tag: Tag,
        slot: Slot,
        crc: u32,
    },
    Attach,
    Reach {
        tag: Tag,
    },
    Welcome,
    Refused {
        status: Status,
        len: u32,
    },
    /// `len` is [`PAGE_LEN`], or that of a compressed page.
    Page {
        tag: Tag,
        slot: Slot,
        crc: u32,
        len: u32,
    },
    NoPage {
        tag: Tag,
        slot: Slot,
        status: Status,
    },
    Ack {
        seq: Seq,
    },
    Nak {
        seq: Seq,
        status: Status,
    },
    Pong {
        tag: Tag,
    },
    Stats {
        tag: Tag,
        len: u32,
    },
    Notice {
        status: Status,
        len: u32,
    },
    Unknown {
        tag: Tag,
        op: Op,
    },
    /// With a status: pages are missing, for that reason.
    Pulled {
        tag: Tag,
        slot: Slot,
        status: Option<Status>,
    },
    /// Every operation of the stream up to this number is done here, but for those that were refused.
    Reached {
        tag: Tag,
        seq: Seq,
    },
    /// An operation that this version does not know: skip `len` bytes; a server answers UNKNOWN.
    Strange {
        tag: Tag,
        op: Op,
        len: u32,
    },
}

/// A header that breaks the protocol. The stream cannot be followed past it: close the connection.
#[allow(
    clippy::enum_variant_names,
    reason = "what is bad about it is what an error says"
)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WireError {
    /// The payload's length is not what the operation has, or above the limit.
    BadLength {
        /// The operation.
        op: Op,
        /// The length it gave.
        len: u32,
    },
    /// A LOAD's slots are none, or not within one cluster.
    BadRun {
        /// The first slot.
        slot: Slot,
        /// How many.
        count: u16,
    },
    /// A FREE's or PULL's slot is not the first of its cluster.
    BadCluster {
        /// The slot.
        slot: Slot,
    },
}

/// The fields of a header, before they are given a meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// The operation.
    pub op: Op,
    /// How many slots, in a LOAD.
    pub count: u16,
    /// Bytes of payload.
    pub len: u32,
    /// A sequence number or a tag.
    pub id: u64,
    /// The first slot.
    pub slot: u64,
    /// A status, or an operation's number.
    pub aux: u32,
    /// The checksum of slot and payload.
    pub crc: u32,
}

impl Header {
    const fn new(op: Op) -> Header {
        Header {
            op,
            count: 0,
            len: 0,
            id: 0,
            slot: 0,
            aux: 0,
            crc: 0,
        }
    }

    /// The bytes on the wire.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        let mut w = Writer(&mut out);
        w.u16(self.op.0);
        w.u16(self.count);
        w.u32(self.len);
        w.u64(self.id);
        w.u64(self.slot);
        w.u32(self.aux);
        w.u32(self.crc);
        out
    }

    /// The fields of the bytes; any bytes are some header.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Header {
        let mut r = Reader(bytes);
        Header {
            op: Op(r.u16()),
            count: r.u16(),
            len: r.u32(),
            id: r.u64(),
            slot: r.u64(),
            aux: r.u32(),
            crc: r.u32(),
        }
    }
}

// The sizes that headers carry, as constants of the header's type.
const HELLO_LEN: u32 = 208;
const WELCOME_LEN: u32 = 80;
const FREE_LEN: u32 = 64;
const PULL_LEN: u32 = 104;
const _: () = assert!(Hello::LEN == 208 && Welcome::LEN == 80);
const _: () = assert!(FreeMask::LEN == 64 && Pull::LEN == 104);
const _: () = assert!(PAGE_SIZE == 4096 && PAGE_LEN == 4096 && LZ4_MAX_LEN < PAGE_LEN);

impl Message {
    /// The header's bytes. The payload, if any, follows on the wire.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        self.header().encode()
    }

    /// How many bytes of payload follow the header.
    pub fn payload_len(&self) -> u32 {
        self.header().len
    }

    fn header(&self) -> Header {
        let new = Header::new;
        match *self {
            Message::Hello => Header {
                len: HELLO_LEN,
                ..new(Op::HELLO)
            },
            Message::Store {
                seq,
                slot,
                crc,
                len,
            } => Header {
                len,
                id: seq.0,
                slot: slot.0,
                crc,
                ..new(Op::STORE)
            },
            Message::Load { tag, slot, count } => Header {
                count,
                id: tag.0,
                slot: slot.0,
                ..new(Op::LOAD)
            },
            Message::Free { seq, slot, crc } => Header {
                len: FREE_LEN,
                id: seq.0,
                slot: slot.0,
                crc,
                ..new(Op::FREE)
            },
            Message::Ping { tag } => Header {
                id: tag.0,
                ..new(Op::PING)
            },
            Message::Stat { tag } => Header {
                id: tag.0,
                ..new(Op::STAT)
            },
            Message::Bye => new(Op::BYE),
            Message::Pull { tag, slot, crc } => Header {
                len: PULL_LEN,
                id: tag.0,
                slot: slot.0,
                crc,
                ..new(Op::PULL)
            },
            Message::Attach => Header {
                len: HELLO_LEN,
                ..new(Op::ATTACH)
            },
            Message::Reach { tag } => Header {
                id: tag.0,
                ..new(Op::REACH)
            },
            Message::Welcome => Header {
                len: WELCOME_LEN,
                ..new(Op::WELCOME)
            },
            Message::Refused { status, len } => Header {
                len,
                aux: status.code(),
                ..new(Op::REFUSED)
            },
            Message::Page {
                tag,
                slot,
                crc,
                len,
            } => Header {
                len,
                id: tag.0,
                slot: slot.0,
                crc,
                ..new(Op::PAGE)
            },
            Message::NoPage { tag, slot, status } => Header {
                id: tag.0,
                slot: slot.0,
                aux: status.code(),
                ..new(Op::NOPAGE)
            },
            Message::Ack { seq } => Header {
                id: seq.0,
                ..new(Op::ACK)
            },
            Message::Nak { seq, status } => Header {
                id: seq.0,
                aux: status.code(),
                ..new(Op::NAK)
            },
            Message::Pong { tag } => Header {
                id: tag.0,
                ..new(Op::PONG)
            },
            Message::Stats { tag, len } => Header {
                len,
                id: tag.0,
                ..new(Op::STATS)
            },
            Message::Notice { status, len } => Header {
                len,
                aux: status.code(),
                ..new(Op::NOTICE)
            },
            Message::Unknown { tag, op } => Header {
                id: tag.0,
                aux: u32::from(op.0),
                ..new(Op::UNKNOWN)
            },
            Message::Pulled { tag, slot, status } => Header {
                id: tag.0,
                slot: slot.0,
                aux: status.map_or(0, Status::code),
                ..new(Op::PULLED)
            },
            Message::Reached { tag, seq } => Header {
                id: tag.0,
                slot: seq.0,
                ..new(Op::REACHED)
            },
            Message::Strange { tag, op, len } => Header {
                len,
                id: tag.0,
                ..new(op)
            },
        }
    }

    /// The message that a header from `from` stands for, where no option is on.
    ///
    /// # Errors
    ///
    /// As for [`Message::decode_with`].
    pub fn decode(bytes: &[u8; HEADER_LEN], from: Sender) -> Result<Message, WireError> {
        Self::decode_with(bytes, from, 0)
    }

    /// The message that a header from `from` stands for, where these options are on (as in the WELCOME).
    ///
    /// An operation of the wrong side is [`Message::Strange`], as one that nobody knows.
    ///
    /// # Errors
    ///
    /// A length or a run of slots that the protocol does not allow.
    pub fn decode_with(
        bytes: &[u8; HEADER_LEN],
        from: Sender,
        options: u32,
    ) -> Result<Message, WireError> {
        let h = Header::decode(bytes);
        let (tag, seq, slot) = (Tag(h.id), Seq(h.id), Slot(h.slot));
        let status = Status::from_code(h.aux);
        let known = match (from, h.op) {
            (Sender::Client, Op::HELLO) => Message::Hello,
            (Sender::Client, Op::STORE) => Message::Store {
                seq,
                slot,
                crc: h.crc,
                len: h.len,
            },
            (Sender::Client, Op::LOAD) => Message::Load {
                tag,
                slot,
                count: h.count,
            },
            (Sender::Client, Op::FREE) => Message::Free {
                seq,
                slot,
                crc: h.crc,
            },
            (Sender::Client, Op::PING) => Message::Ping { tag },
            (Sender::Client, Op::STAT) => Message::Stat { tag },
            (Sender::Client, Op::BYE) => Message::Bye,
            (Sender::Client, Op::PULL) => Message::Pull {
                tag,
                slot,
                crc: h.crc,
            },
            (Sender::Client, Op::ATTACH) => Message::Attach,
            (Sender::Client, Op::REACH) => Message::Reach { tag },
            (Sender::Server, Op::WELCOME) => Message::Welcome,
            (Sender::Server, Op::REFUSED) => Message::Refused { status, len: h.len },
            (Sender::Server, Op::PAGE) => Message::Page {
                tag,
                slot,
                crc: h.crc,
                len: h.len,
            },
            (Sender::Server, Op::NOPAGE) => Message::NoPage { tag, slot, status },
            (Sender::Server, Op::ACK) => Message::Ack { seq },
            (Sender::Server, Op::NAK) => Message::Nak { seq, status },
            (Sender::Server, Op::PONG) => Message::Pong { tag },
            (Sender::Server, Op::STATS) => Message::Stats { tag, len: h.len },
            (Sender::Server, Op::NOTICE) => Message::Notice { status, len: h.len },
            (Sender::Server, Op::UNKNOWN) => {
                let [low, high, ..] = h.aux.to_le_bytes();
                Message::Unknown {
                    tag,
                    op: Op(u16::from_le_bytes([low, high])),
                }
            }
            (Sender::Server, Op::PULLED) => Message::Pulled {
                tag,
                slot,
                status: (h.aux != 0).then_some(status),
            },
            (Sender::Server, Op::REACHED) => Message::Reached {
                tag,
                seq: Seq(h.slot),
            },
            (_, op) => Message::Strange {
                tag,
                op,
                len: h.len,
            },
        };
        known.check(&h, options)
    }

    /// Gives the message back if the header it came from keeps the operation's rules.
    fn check(self, h: &Header, options: u32) -> Result<Message, WireError> {
        let fits = match self {
            Message::Store { len, .. } | Message::Page { len, .. } => {
                let short = options & Hello::LZ4 != 0 && (1..=LZ4_MAX_LEN).contains(&len);
                len == PAGE_LEN || short
            }
            _ => h.len == self.payload_len() && h.len <= MAX_PAYLOAD,
        };
        if !fits {
            return Err(WireError::BadLength {
                op: h.op,
                len: h.len,
            });
        }
        match self {
            Message::Load { slot, count, .. } if !slot.run_fits(count) => {
                Err(WireError::BadRun { slot, count })
            }
            Message::Free { slot, .. } | Message::Pull { slot, .. } if slot.index() != 0 => {
                Err(WireError::BadCluster { slot })
            }
            message => Ok(message),
        }
    }
}
