// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! The payload of PULL: which slots of one cluster a server is to fetch from another one.
//!
//! ```text
//!   0  mask        64   as FREE's: the slots that the client has stored
//!  64  instance    16   the life of the server that has them
//!  80  address     16   where that is: an IPv6 address, or an IPv4 one as ::ffff:a.b.c.d
//!  96  port        u16
//!  98  zero         6
//! ```

use super::bytes::{Reader, Writer};
use super::{FreeMask, Instance};

/// Where the pages of a cluster are to be had, and which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pull {
    /// The slots to be fetched; a slot that the server has a page in by then is left out.
    pub mask: FreeMask,
    /// The life of the server that has them.
    pub instance: Instance,
    /// Its address, as IPv6; one of IPv4 is mapped.
    pub address: [u8; 16],
    /// Its port.
    pub port: u16,
}

impl Pull {
    /// Bytes in the payload.
    pub const LEN: usize = 104;

    /// The payload's bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        let mut w = Writer(&mut out);
        w.bytes(&self.mask.0);
        w.bytes(&self.instance.0);
        w.bytes(&self.address);
        w.u16(self.port);
        out
    }

    /// Reads a payload; any bytes are some PULL.
    pub fn decode(payload: &[u8; Self::LEN]) -> Pull {
        let mut r = Reader(payload);
        Pull {
            mask: FreeMask(r.array()),
            instance: Instance(r.array()),
            address: r.array(),
            port: r.u16(),
        }
    }
}
