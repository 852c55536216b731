// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! What a HELLO may ask for and be granted.

use memsrv_protocol::Hello;

use super::Shared;

impl Shared {
    /// Those of the options that a client asks for which this server has by itself.
    ///
    /// A log has whole pages only, so with one there are no compressed ones.
    pub(crate) fn options(&self, asked: u32) -> u32 {
        let has = match self.persist {
            Some(_) => Hello::NO_REFUSAL,
            None => Hello::NO_REFUSAL | Hello::LZ4,
        };
        asked & has
    }
}
