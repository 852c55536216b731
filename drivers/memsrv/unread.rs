// SPDX-License-Identifier: GPL-2.0-only

//! Folios whose read was given up because no server answered in time: read again when one is back.
//!
//! A page that could not be read stays in the swap cache as it is, and whoever touches it later gets
//! SIGBUS although the page may be had by then. Most such folios nobody has even asked for: they came of
//! the kernel's readahead. So they are remembered, and loaded as soon as a server is there.

use super::platform::folio::{Again, LoadingFolio, UnreadFolio};
use kernel::{
    prelude::*,
    sync::{
        new_mutex,
        Mutex, //
    }, //
};

/// Folios that are remembered; those beyond are as the kernel leaves them.
const ROOM: usize = 4096;

/// The folios of one lane.
#[pin_data]
pub(crate) struct Unread {
    /// Only threads of ours take it, which may sleep.
    #[pin]
    folios: Mutex<KVVec<UnreadFolio>>,
}

impl Unread {
    /// None.
    pub(crate) fn new() -> Result<impl PinInit<Self>> {
        let folios = KVVec::with_capacity(ROOM, GFP_KERNEL)?;
        Ok(pin_init!(Self { folios <- new_mutex!(folios) }))
    }

    /// Ends a read without the page. Process context.
    pub(crate) fn give_up(&self, folio: LoadingFolio) {
        // Without room it is dropped, which gives the reference back.
        let _ = self.folios.lock().push_within_capacity(folio.give_up());
    }

    /// Calls `load` for each folio that is still to be read. Process context.
    pub(crate) fn again(&self, mut load: impl FnMut(LoadingFolio)) {
        let mut left = self.folios.lock().len();
        while left > 0 {
            left -= 1;
            // From the front, where those stand that wait longest; what is busy goes to the end.
            let Some(folio) = self.first() else { return };
            match folio.again() {
                Again::Load(folio) => load(folio),
                Again::Busy(folio) => {
                    let _ = self.folios.lock().push_within_capacity(folio);
                }
                Again::Over => {}
            }
        }
    }

    fn first(&self) -> Option<UnreadFolio> {
        self.folios.lock().remove(0).ok()
    }

    /// Forgets them all.
    pub(crate) fn forget(&self) {
        self.folios.lock().clear();
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.folios.lock().len()
    }
}
