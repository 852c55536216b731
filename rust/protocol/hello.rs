// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The handshake: HELLO from the client, WELCOME (or REFUSED) from the server, once on each stream.
//!
//! ```text
//! HELLO, 208 bytes                          WELCOME, 80 bytes
//!   0  magic          8                       0  magic           8
//!   8  version_min    u16                     8  version         u16
//!  10  version_max    u16                    10  zero            u16
//!  12  options        u32                    12  options         u32
//!  16  incarnation   16                      16  instance       16
//!  32  instance      16                      32  granted         u64 pages
//!  48  stream         u16                    40  stored          u64 pages
//!  50  streams        u16                    48  executed        u64
//!  52  page_size      u32                    56  window          u32 operations
//!  56  wanted         u64 pages              60  mirror address 16
//!  64  issued         u64                    76  mirror port     u16
//!  72  client length  u8                     78  zero            2
//!  73  region length  u8
//!  74  zero           6
//!  80  client        64
//! 144  region        64
//! ```
//!
//! Magic and version stand at these places in every version, so that any two versions can refuse
//! each other in words.

use super::bytes::{Reader, Writer};
use super::{Incarnation, Instance, Seq, MAGIC, MAX_STREAMS, PAGE_LEN};

/// A client's or region's name: 1 to 64 bytes of `A-Z a-z 0-9 . _ -`.
///
/// The set is that of host names and a little more, so that a name can stand in a log line, a file
/// name or a metric without quoting.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name {
    bytes: [u8; Name::MAX],
    len: u8,
}

impl Name {
    /// The most bytes in a name.
    pub const MAX: usize = 64;

    /// Makes a name; `None` where `name` is empty, too long, or has another character.
    pub fn new(name: &[u8]) -> Option<Name> {
        let len = u8::try_from(name.len()).ok()?;
        let valid = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if name.is_empty() || !name.iter().all(valid) {
            return None;
        }
        let mut bytes = [0; Name::MAX];
        bytes.get_mut(..name.len())?.copy_from_slice(name);
        Some(Name { bytes, len })
    }

    /// The name's text.
    pub fn as_str(&self) -> &str {
        let text = self.bytes.get(..usize::from(self.len)).unwrap_or(&[]);
        // Only ASCII gets past `new`.
        core::str::from_utf8(text).unwrap_or("")
    }
}

impl core::fmt::Debug for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Debug::fmt(self.as_str(), f)
    }
}

impl core::fmt::Display for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a HELLO's or WELCOME's payload got wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HelloError {
    /// It does not begin with [`MAGIC`]: the peer is no memsrv.
    Magic,
    /// The client's or the region's name is not a [`Name`].
    Name,
    /// The stream's number is not below their count, or the count is zero or above [`MAX_STREAMS`].
    Stream,
    /// The page size is not 4096 bytes.
    PageSize,
}

/// What a client says of itself when it opens a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    /// The oldest version that the client speaks.
    pub version_min: u16,
    /// The newest.
    pub version_max: u16,
    /// Options that the client would like: [`Hello::FORWARD`], [`Hello::MIRROR_FIRST`], [`Hello::LZ4`], or none.
    pub options: u32,
    /// The client's life.
    pub incarnation: Incarnation,
    /// The server's life that holds the client's pages; zeroes in a first HELLO.
    pub instance: Instance,
    /// Which of the session's streams this connection is.
    pub stream: u16,
    /// How many streams the session has.
    pub streams: u16,
    /// How many pages the client would like to store; 0: as many as it is given.
    pub wanted: u64,
    /// The number of the last operation that the client issued on this stream.
    pub issued: Seq,
    /// Who the client is: its pages and quota go by this name.
    pub client: Name,
    /// Which of the client's sets of slots.
    pub region: Name,
}

impl Hello {
    /// Bytes in the payload.
    pub const LEN: usize = 208;

    /// An option: the server is to name its mirror, and to forward this stream's stores and frees to it.
    ///
    /// In a WELCOME: it does. Whoever opens the same stream at the mirror goes on where this one ended.
    pub const FORWARD: u32 = 1;

    /// An option beside [`Hello::FORWARD`]: the client would like to read at the mirror.
    ///
    /// In a WELCOME: this stream is forwarded, and nothing is acknowledged on it as done that the mirror has refused or
    /// not answered. So a mirror that has come as far as the client was acknowledged (see [`Op::REACH`]) has the newest
    /// page of every slot.
    ///
    /// [`Op::REACH`]: super::Op::REACH
    pub const MIRROR_FIRST: u32 = 2;
    /// An option: the payload of a STORE or PAGE may be a page compressed with LZ4, of 1 to
    /// [`LZ4_MAX_LEN`](super::LZ4_MAX_LEN) bytes.
    pub const LZ4: u32 = 4;

    /// An option of a server that acknowledges stores before its mirror has them: one that would be refused ends the
    /// connection (REFUSED with the reason), and is not counted in `executed`.
    ///
    /// So a mirror that has executed as much as was acknowledged has the newest page of every slot, also if the server
    /// has died before it heard of a refusal.
    pub const NO_REFUSAL: u32 = 8;

    /// The payload's bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        let mut w = Writer(&mut out);
        w.bytes(&MAGIC);
        w.u16(self.version_min);
        w.u16(self.version_max);
        w.u32(self.options);
        w.bytes(&self.incarnation.0);
        w.bytes(&self.instance.0);
        w.u16(self.stream);
        w.u16(self.streams);
        w.u32(PAGE_LEN);
        w.u64(self.wanted);
        w.u64(self.issued.0);
        w.u8(self.client.len);
        w.u8(self.region.len);
        w.bytes(&[0; 6]);
        w.bytes(&self.client.bytes);
        w.bytes(&self.region.bytes);
        out
    }

    /// The range of versions in a payload of whatever version, or `None` if it is no HELLO at all.
    ///
    /// Asked before [`Hello::decode`], whose layout only version 1 promises.
    pub fn versions(payload: &[u8; Self::LEN]) -> Option<(u16, u16)> {
        let mut r = Reader(payload);
        (r.array::<8>() == MAGIC).then(|| (r.u16(), r.u16()))
    }

    /// Reads a payload of version 1.
    ///
    /// # Errors
    ///
    /// The first field that the protocol does not allow.
    pub fn decode(payload: &[u8; Self::LEN]) -> Result<Hello, HelloError> {
        let mut r = Reader(payload);
        if r.array::<8>() != MAGIC {
            return Err(HelloError::Magic);
        }
        let (version_min, version_max, options) = (r.u16(), r.u16(), r.u32());
        let (incarnation, instance) = (Incarnation(r.array()), Instance(r.array()));
        let (stream, streams, page_size) = (r.u16(), r.u16(), r.u32());
        let (wanted, issued) = (r.u64(), Seq(r.u64()));
        let (client_len, region_len, _zero) = (r.u8(), r.u8(), r.array::<6>());
        let (client, region) = (r.array::<{ Name::MAX }>(), r.array::<{ Name::MAX }>());
        if streams == 0 || streams > MAX_STREAMS || stream >= streams {
            return Err(HelloError::Stream);
        }
        if page_size != PAGE_LEN {
            return Err(HelloError::PageSize);
        }
        let name = |bytes: &[u8], len: u8| {
            bytes
                .get(..usize::from(len))
                .and_then(Name::new)
                .ok_or(HelloError::Name)
        };
        Ok(Hello {
            version_min,
            version_max,
            options,
            incarnation,
            instance,
            stream,
            streams,
            wanted,
            issued,
            client: name(&client, client_len)?,
            region: name(&region, region_len)?,
        })
    }
}

/// What a server grants to a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Welcome {
    /// The version to speak from here on.
    pub version: u16,
    /// Those of the client's options that are on.
    pub options: u32,
    /// The server's life.
    pub instance: Instance,
    /// How many pages the client may store in all.
    pub granted: u64,
    /// How many pages the region holds now.
    pub stored: u64,
    /// The number of the last operation that was executed on this stream.
    pub executed: Seq,
    /// How many operations (stores, frees and loads together) may be unanswered on a stream.
    pub window: u32,
    /// The server's mirror, where [`Hello::FORWARD`] was asked for and the server has one.
    pub mirror: Option<Endpoint>,
}

/// Where a server is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// Its address, as IPv6; one of IPv4 is mapped. Not all zeroes.
    pub address: [u8; 16],
    /// Its port.
    pub port: u16,
}

impl Welcome {
    /// Bytes in the payload.
    pub const LEN: usize = 80;

    /// The payload's bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        let mut w = Writer(&mut out);
        w.bytes(&MAGIC);
        w.u16(self.version);
        w.u16(0);
        w.u32(self.options);
        w.bytes(&self.instance.0);
        w.u64(self.granted);
        w.u64(self.stored);
        w.u64(self.executed.0);
        w.u32(self.window);
        if let Some(mirror) = self.mirror {
            w.bytes(&mirror.address);
            w.u16(mirror.port);
        }
        out
    }

    /// Reads a payload.
    ///
    /// # Errors
    ///
    /// [`HelloError::Magic`] where the peer is no memsrv.
    pub fn decode(payload: &[u8; Self::LEN]) -> Result<Welcome, HelloError> {
        let mut r = Reader(payload);
        if r.array::<8>() != MAGIC {
            return Err(HelloError::Magic);
        }
        let (version, _zero, options) = (r.u16(), r.u16(), r.u32());
        Ok(Welcome {
            version,
            options,
            instance: Instance(r.array()),
            granted: r.u64(),
            stored: r.u64(),
            executed: Seq(r.u64()),
            window: r.u32(),
            mirror: {
                let (address, port) = (r.array(), r.u16());
                (address != [0; 16]).then_some(Endpoint { address, port })
            },
        })
    }
}
