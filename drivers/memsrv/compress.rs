// SPDX-License-Identifier: GPL-2.0-only

//! `compress=lz4`: pages travel, and are kept by the servers, as LZ4 blocks.
//!
//! A page is compressed where it waits to be sent, in its copy in the pool, before the lane's lock is taken; one that
//! does not become an eighth smaller stays as it is. The checksum is over what travels. A block that comes back is
//! gathered in a page of the connection's own, its checksum looked at, and only then decompressed into the folio, in
//! softirq. One that is not a page's is treated as one that came damaged.
//!
//! It is on for all servers or for none, from insmod to rmmod, since what one server has another may have to give
//! out or fetch: if one does not grant it in the first handshake, the session is begun anew without; later, such a
//! server is not spoken to.

use super::areas::index;
use super::engine::{Payload, Replica};
use super::lane::Lane;
use super::platform::{folio::FolioView, lz4::Lz4, page::Buffers, sys};
use super::protocol::{LZ4_MAX_LEN, PAGE_SIZE};
use super::stats::Counter;
use kernel::{
    prelude::*,
    sync::atomic::{Atomic, Full}, //
};

/// Whether servers have been heard that do not grant it, and whether that still counts.
mod is {
    pub(super) const OPEN: u32 = 0;
    pub(super) const DENIED: u32 = 1;
    pub(super) const SETTLED: u32 = 2;
}

/// What compressing takes, and what it has done.
pub(crate) struct Compression {
    lz4: Lz4,
    /// One of [`is`].
    state: Atomic<u32>,
    /// Pages that were compressed, the bytes of that, and pages that travel as they are.
    pub(crate) compressed_pages: Counter,
    pub(crate) compressed_bytes: Counter,
    pub(crate) incompressible_pages: Counter,
}

impl Compression {
    /// Compression, if it is `wanted`.
    ///
    /// # Errors
    ///
    /// `ENOENT`, after a line in the log: the kernel has no LZ4. `ENOMEM`.
    pub(crate) fn new(wanted: bool) -> Result<Option<Self>> {
        if !wanted {
            return Ok(None);
        }
        let lz4 = Lz4::new().inspect_err(|error| {
            if *error == ENOENT {
                pr_err!("compress=lz4 needs the kernel's LZ4, which was not there when this module was loaded: load lz4_compress and lz4_decompress first (`modprobe memsrv` does), or give compress=none\n");
            }
        })?;
        Ok(Some(Self {
            lz4,
            state: Atomic::new(is::OPEN),
            compressed_pages: Counter::default(),
            compressed_bytes: Counter::default(),
            incompressible_pages: Counter::default(),
        }))
    }

    /// A server has not granted it. Whether insmod will hear of that, and begin anew without.
    pub(crate) fn deny(&self) -> bool {
        let denied = self.state.cmpxchg(is::OPEN, is::DENIED, Full);
        denied != Err(is::SETTLED)
    }

    /// The session begins: whether no server has denied it. From now on one that does is not spoken to.
    pub(crate) fn settle(&self) -> bool {
        let settled = self.state.cmpxchg(is::OPEN, is::SETTLED, Full);
        settled != Err(is::DENIED)
    }

    fn compress(&self, page: &mut [u8]) -> Option<u32> {
        let len = self.lz4.compress(page, LZ4_MAX_LEN);
        match len {
            Some(len) => {
                self.compressed_pages.add(1);
                self.compressed_bytes.add(u64::from(len));
            }
            None => self.incompressible_pages.add(1),
        }
        len
    }
}

/// A page for each connection of a lane, in which blocks are gathered.
pub(crate) fn blocks(wanted: bool) -> Result<Buffers> {
    Buffers::new(if wanted { Replica::BOTH.len() } else { 0 })
}

fn number(replica: Replica) -> u32 {
    u32::try_from(index(replica)).unwrap_or(u32::MAX)
}

impl Lane {
    /// Copies a folio's page into a place of the pool, and tells what there is to be sent of it.
    pub(crate) fn copy(&self, to: u32, folio: FolioView<'_>, index: u16, slot: u64) -> Payload {
        let page = self.shared.pool.buffers().fill(to, folio, index);
        let Some(compression) = &self.shared.compression else {
            return sys::crc32c(slot, page).into();
        };
        match compression.compress(page) {
            None => sys::crc32c(slot, page).into(),
            Some(len) => {
                let block = usize::try_from(len).ok().and_then(|len| page.get(..len));
                let crc = sys::crc32c(slot, block.unwrap_or(&[]));
                Payload { crc, len }
            }
        }
    }

    /// Where the bytes of a block from that server are gathered: whoever receives from it.
    pub(crate) fn block(&self, replica: Replica) -> &mut [u8] {
        self.blocks.page_mut(number(replica))
    }

    /// Whether what has come, of that length, is what was stored: whole pages are in place, a block becomes one.
    pub(crate) fn unpack(
        &self,
        replica: Replica,
        page: &mut [u8],
        len: usize,
        slot: u64,
        crc: u32,
    ) -> bool {
        if len == PAGE_SIZE {
            return sys::crc32c(slot, page) == crc;
        }
        let (Some(compression), Some(block)) =
            (&self.shared.compression, self.block(replica).get(..len))
        else {
            return false;
        };
        sys::crc32c(slot, block) == crc && compression.lz4.decompress(block, page)
    }
}
