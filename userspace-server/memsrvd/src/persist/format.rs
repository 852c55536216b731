// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The bytes on the disk; `Documentation/design/persist.md` has them as tables.
//!
//! Whatever says which slot a record is about stands there twice, far apart or apart from the page, each
//! time with a checksum of its own. So one damaged place never leaves it open *which* page is damaged, and
//! two damaged places in one record are what a power cut leaves, not what a tired disk does.

use memsrv_protocol::{Incarnation, Instance, Name, Slot, PAGE_SIZE};

use crate::num::{to_u32, to_u64, to_usize};

/// The version of all that is here.
pub const VERSION: u32 = 1;

/// Bytes of a record's header, and what every length is a multiple of.
pub const UNIT: usize = 64;

/// Bytes before a segment's first record: its head, twice.
pub const SEGMENT_HEAD: usize = 2 * UNIT;

/// Where the second copy of the head begins: far enough for no disk to write both in one.
pub const HEAD_STEP: usize = 4096;

/// Bytes of the head file.
pub const HEAD_LEN: usize = 2 * HEAD_STEP;

/// Bytes of one copy of the head.
pub const HEAD_COPY: usize = 128;

/// Bytes of a record with a page.
pub const PAGE_RECORD: usize = 2 * UNIT + PAGE_SIZE;

/// Bytes of the longest record without one: a life with 64 streams.
pub const LONGEST_SMALL: usize = 2 * UNIT + 2 * 704;

const RECORD_MAGIC: [u8; 4] = *b"mRec";
const SEGMENT_MAGIC: [u8; 8] = *b"memsrvSG";
const HEAD_MAGIC: [u8; 8] = *b"memsrvHD";

/// Bytes of a life's description before its streams.
const LIFE_LEN: usize = 152;

fn put<const N: usize>(to: &mut [u8], at: usize, bytes: [u8; N]) {
    if let Some(place) = to.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
        *place = bytes;
    }
}

fn take<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    let bytes = from.get(at..).and_then(<[u8]>::first_chunk);
    bytes.copied().unwrap_or([0; N])
}

fn padded(len: usize) -> usize {
    len.next_multiple_of(UNIT)
}

/// What a record's checksums begin with: the instance. So what another server's log left is none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u32);

impl Key {
    /// The key of a server's log.
    pub fn of(instance: Instance) -> Key {
        Key(crc32c::crc32c(&instance.0))
    }

    fn sum(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }
}

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A page was stored, or copied by compaction (then without a number).
    Store,
    /// Slots of a cluster were freed.
    Free,
    /// A life of a region began, in place of an older one; or, said again by compaction, goes on.
    Begin,
    /// A life ended, with its pages.
    End,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Store => 1,
            Kind::Free => 2,
            Kind::Begin => 3,
            Kind::End => 4,
        }
    }

    fn of(code: u8) -> Option<Kind> {
        [Kind::Store, Kind::Free, Kind::Begin, Kind::End]
            .into_iter()
            .find(|kind| kind.code() == code)
    }

    fn takes(self, len: usize) -> bool {
        match self {
            Kind::Store => len == PAGE_SIZE,
            Kind::Free => len == 64,
            Kind::Begin => (LIFE_LEN + 8..=LIFE_LEN + 64 * 8).contains(&len),
            Kind::End => len == 0,
        }
    }
}

/// A record's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What it says.
    pub kind: Kind,
    /// The stream of a numbered store or free.
    pub stream: u16,
    /// Where the record stands in the log: bytes of records before it.
    pub pos: u64,
    /// Up to where the log was known to be on the disk when the record was made.
    pub durable: u64,
    /// The life that it is about.
    pub life: u64,
    /// The operation's number; 0: a copy.
    pub seq: u64,
    /// The slot, or the first of the cluster.
    pub slot: Slot,
    /// Bytes of payload.
    pub len: u32,
    /// Checksum of the payload; of a page, the one that came with it.
    pub crc: u32,
}

impl Header {
    /// Bytes of the payload, once.
    pub fn payload_len(&self) -> usize {
        to_usize(u64::from(self.len))
    }

    /// Bytes that the payload takes each time.
    pub fn payload_room(&self) -> usize {
        padded(self.payload_len())
    }

    /// Whether the payload stands there twice: all but a page, whose loss is one page's.
    pub fn doubled(&self) -> bool {
        self.kind != Kind::Store
    }

    /// Bytes of the whole record.
    pub fn record_len(&self) -> usize {
        let times = if self.doubled() { 2 } else { 1 };
        self.payload_room()
            .saturating_mul(times)
            .saturating_add(2 * UNIT)
    }

    /// Checksum of a payload as `crc` has it.
    pub fn sum(kind: Kind, slot: Slot, payload: &[u8]) -> u32 {
        match kind {
            // The protocol's: slot and page.
            Kind::Store => crate::batch::checksum(slot, payload),
            _ => crc32c::crc32c(payload),
        }
    }

    /// The header's bytes; `back` for the second copy.
    pub fn encode(&self, key: Key, back: bool) -> [u8; UNIT] {
        let mut bytes = [0; UNIT];
        put(&mut bytes, 0, RECORD_MAGIC);
        put(&mut bytes, 4, [self.kind.code(), u8::from(back)]);
        put(&mut bytes, 6, self.stream.to_le_bytes());
        put(&mut bytes, 8, self.pos.to_le_bytes());
        put(&mut bytes, 16, self.durable.to_le_bytes());
        put(&mut bytes, 24, self.life.to_le_bytes());
        put(&mut bytes, 32, self.seq.to_le_bytes());
        put(&mut bytes, 40, self.slot.0.to_le_bytes());
        put(&mut bytes, 48, self.len.to_le_bytes());
        put(&mut bytes, 52, self.crc.to_le_bytes());
        let sum = key.sum(bytes.get(..60).unwrap_or(&[]));
        put(&mut bytes, 60, sum.to_le_bytes());
        bytes
    }

    /// The header in these bytes, if they are one, whole, of this log, and the copy asked for.
    pub fn decode(bytes: &[u8], key: Key, back: bool) -> Option<Header> {
        let bytes = bytes.first_chunk::<UNIT>()?;
        let [code, copy] = take(bytes, 4);
        if take::<4>(bytes, 0) != RECORD_MAGIC || copy != u8::from(back) {
            return None;
        }
        if key.sum(bytes.get(..60)?) != u32::from_le_bytes(take(bytes, 60)) {
            return None;
        }
        let header = Header {
            kind: Kind::of(code)?,
            stream: u16::from_le_bytes(take(bytes, 6)),
            pos: u64::from_le_bytes(take(bytes, 8)),
            durable: u64::from_le_bytes(take(bytes, 16)),
            life: u64::from_le_bytes(take(bytes, 24)),
            seq: u64::from_le_bytes(take(bytes, 32)),
            slot: Slot(u64::from_le_bytes(take(bytes, 40))),
            len: u32::from_le_bytes(take(bytes, 48)),
            crc: u32::from_le_bytes(take(bytes, 52)),
        };
        header.kind.takes(header.payload_len()).then_some(header)
    }

    /// Puts the whole record behind `to`.
    pub fn append(&self, key: Key, payload: &[u8], to: &mut Vec<u8>) {
        const ZEROES: [u8; UNIT] = [0; UNIT];
        let padding = self.payload_room().saturating_sub(payload.len());
        let padding = ZEROES.get(..padding).unwrap_or(&[]);
        to.extend_from_slice(&self.encode(key, false));
        for _ in 0..if self.doubled() { 2 } else { 1 } {
            to.extend_from_slice(payload);
            to.extend_from_slice(padding);
        }
        to.extend_from_slice(&self.encode(key, true));
    }
}

/// A life, as [`Kind::Begin`] tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Whose.
    pub client: Name,
    /// Which of the client's regions.
    pub region: Name,
    /// The client's life.
    pub incarnation: Incarnation,
    /// The highest number executed on each stream.
    pub executed: Vec<u64>,
}

impl Origin {
    /// The payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; LIFE_LEN];
        let names = [(0, &self.client), (64, &self.region)];
        for (at, name) in names {
            let name = name.as_str().as_bytes();
            if let Some(place) = bytes
                .get_mut(at..)
                .and_then(|rest| rest.get_mut(..name.len()))
            {
                place.copy_from_slice(name);
            }
        }
        put(&mut bytes, 128, self.incarnation.0);
        put(&mut bytes, 144, to_u64(self.executed.len()).to_le_bytes());
        for executed in &self.executed {
            bytes.extend_from_slice(&executed.to_le_bytes());
        }
        bytes
    }

    /// What the payload says.
    pub fn decode(bytes: &[u8]) -> Option<Origin> {
        let name = |at: usize| {
            let bytes: [u8; 64] = take(bytes, at);
            let len = bytes.iter().position(|&byte| byte == 0).unwrap_or(64);
            Name::new(bytes.get(..len)?)
        };
        let streams = to_usize(u64::from_le_bytes(take(bytes, 144)));
        let executed: Vec<u64> = bytes
            .get(LIFE_LEN..)?
            .chunks_exact(8)
            .map(|number| u64::from_le_bytes(take(number, 0)))
            .collect();
        (executed.len() == streams).then_some(Origin {
            client: name(0)?,
            region: name(64)?,
            incarnation: Incarnation(take(bytes, 128)),
            executed,
        })
    }
}

/// The head of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHead {
    /// Its number, which is in its name, too.
    pub number: u64,
    /// The position of its first record.
    pub start: u64,
}

impl SegmentHead {
    /// The bytes, both copies.
    pub fn encode(&self, key: Key) -> [u8; SEGMENT_HEAD] {
        let mut both = [0; SEGMENT_HEAD];
        for copy in both.chunks_exact_mut(UNIT) {
            put(copy, 0, SEGMENT_MAGIC);
            put(copy, 8, VERSION.to_le_bytes());
            put(copy, 16, self.number.to_le_bytes());
            put(copy, 24, self.start.to_le_bytes());
            let sum = key.sum(copy.get(..60).unwrap_or(&[]));
            put(copy, 60, sum.to_le_bytes());
        }
        both
    }

    /// What either copy says.
    pub fn decode(both: &[u8], key: Key) -> Option<SegmentHead> {
        both.chunks_exact(UNIT).take(2).find_map(|copy| {
            let whole = take::<8>(copy, 0) == SEGMENT_MAGIC
                && key.sum(copy.get(..60)?) == u32::from_le_bytes(take(copy, 60));
            whole.then_some(SegmentHead {
                number: u64::from_le_bytes(take(copy, 16)),
                start: u64::from_le_bytes(take(copy, 24)),
            })
        })
    }
}

/// The head file: which segments there are, and what they may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The server's life that the log is of.
    pub instance: Instance,
    /// The first segment that is needed.
    pub first: u64,
    /// The last that may hold a record.
    pub last: u64,
    /// Acknowledgements went out before the disk had what they were for.
    pub behind: bool,
    /// Where the log ends, if it was closed.
    pub end: Option<u64>,
    /// The log could not be written: the server went on without it.
    pub withdrawn: bool,
    /// Counts up with each writing.
    pub generation: u64,
}

/// What is no head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHead {
    /// Nothing of ours, or damaged beyond use.
    Foreign,
    /// Of a version that we do not know.
    Version(u32),
}

impl Head {
    /// One copy's bytes.
    pub fn encode(&self) -> [u8; HEAD_COPY] {
        let mut copy = [0; HEAD_COPY];
        let flag = |on: bool, bit: u32| if on { bit } else { 0 };
        let flags = flag(self.behind, 1) | flag(self.end.is_some(), 2) | flag(self.withdrawn, 4);
        put(&mut copy, 0, HEAD_MAGIC);
        put(&mut copy, 8, VERSION.to_le_bytes());
        put(&mut copy, 12, flags.to_le_bytes());
        put(&mut copy, 16, self.instance.0);
        put(&mut copy, 32, self.first.to_le_bytes());
        put(&mut copy, 40, self.last.to_le_bytes());
        put(&mut copy, 48, self.end.unwrap_or(0).to_le_bytes());
        put(&mut copy, 56, self.generation.to_le_bytes());
        let sum = crc32c::crc32c(copy.get(..HEAD_COPY - 4).unwrap_or(&[]));
        put(&mut copy, HEAD_COPY - 4, sum.to_le_bytes());
        copy
    }

    /// What the file says: the newer of the copies that are whole. The older says the same, or what was
    /// true when the newer was being written, and nobody had acted by that yet.
    ///
    /// # Errors
    ///
    /// [`NoHead`].
    pub fn decode(file: &[u8]) -> Result<Head, NoHead> {
        let mut newest: Option<Head> = None;
        for copy in file.chunks(HEAD_STEP).take(2) {
            let copy = copy.get(..HEAD_COPY).unwrap_or(&[]);
            let sum = crc32c::crc32c(copy.get(..HEAD_COPY - 4).unwrap_or(&[]));
            if take::<8>(copy, 0) != HEAD_MAGIC
                || sum != u32::from_le_bytes(take(copy, HEAD_COPY - 4))
            {
                continue;
            }
            let version = u32::from_le_bytes(take(copy, 8));
            if version != VERSION {
                return Err(NoHead::Version(version));
            }
            let flags = u32::from_le_bytes(take(copy, 12));
            let end = u64::from_le_bytes(take(copy, 48));
            let head = Head {
                instance: Instance(take(copy, 16)),
                first: u64::from_le_bytes(take(copy, 32)),
                last: u64::from_le_bytes(take(copy, 40)),
                behind: flags & 1 != 0,
                end: (flags & 2 != 0).then_some(end),
                withdrawn: flags & 4 != 0,
                generation: u64::from_le_bytes(take(copy, 56)),
            };
            if newest.is_none_or(|newest| newest.generation < head.generation) {
                newest = Some(head);
            }
        }
        newest.ok_or(NoHead::Foreign)
    }
}

/// A payload's length as a header has it.
pub fn len_field(payload: &[u8]) -> u32 {
    to_u32(payload.len())
}

/// A segment's file name.
pub fn segment_name(number: u64) -> String {
    format!("segment-{number:016x}")
}

/// The number in a segment's file name.
pub fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("segment-")?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (segment_name(number) == name).then_some(number)
}
