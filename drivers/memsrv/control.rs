// SPDX-License-Identifier: GPL-2.0-only

//! Commands to the module: a word written to `/sys/kernel/debug/memsrv/control`.
//!
//! | word | does | fails |
//! |---|---|---|
//! | `giveup` | ends every wait for a page that no server is there to give, `swapoff`'s too | `EBUSY` while a server is connected; `EOPNOTSUPP` with `disk=through`, where nobody waits and nothing can be lost |
//!
//! An unknown word is `EINVAL`.

use super::stats::Report;
use kernel::{
    prelude::*,
    uaccess::UserSliceReader, //
};

/// The longest word, and the newline that `echo` adds.
const LONGEST: usize = 16;

/// Does what is written.
pub(crate) fn control(report: &Report, reader: &mut UserSliceReader) -> Result {
    let mut buf = [0u8; LONGEST];
    let word = buf.get_mut(..reader.len()).ok_or(EINVAL)?;
    reader.read_slice(word)?;
    match word.trim_ascii() {
        b"giveup" => give_up(report),
        _ => Err(EINVAL),
    }
}

fn give_up(report: &Report) -> Result {
    let (shared, lanes) = (&report.shared, &report.lanes);
    if shared.config.through {
        return Err(EOPNOTSUPP);
    }
    let is_up = |lane: &kernel::sync::Arc<super::lane::Lane>| {
        shared
            .config
            .replicas()
            .any(|replica| lane.part(replica).is_up())
    };
    if lanes.iter().any(is_up) {
        return Err(EBUSY);
    }
    let pages = shared.areas.present();
    pr_warn!("given up: {pages} pages are lost unless a server comes back; programs that need them get SIGBUS\n");
    shared.give_up(true);
    for lane in lanes {
        lane.give_up();
    }
    Ok(())
}
