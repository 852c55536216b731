// SPDX-License-Identifier: GPL-2.0-only

//! Commands to the module: words written to `/sys/kernel/debug/memsrv/control`.
//!
//! | words | does | fails |
//! |---|---|---|
//! | `giveup` | ends every wait for a page that no server is there to give, `swapoff`'s too | `EBUSY` while all servers are connected; `EOPNOTSUPP` with `disk=through`, where nobody waits and nothing can be lost |
//! | `replace primary HOST[:PORT]`, `replace mirror ...` | takes another server in the place of one; it is filled from the other | `EINVAL` without a mirror, or where the address is none, or the other's; `EBUSY` while the other one is away or lacks pages, or the server forwards to the mirror |
//!
//! Unknown words are `EINVAL`.

use super::config;
use super::engine::Replica;
use super::link::event;
use super::stats::Report;
use kernel::{
    prelude::*,
    sync::atomic::Relaxed,
    uaccess::UserSliceReader, //
};

/// The longest command, and the newline that `echo` adds.
const LONGEST: usize = 96;

/// Does what is written.
pub(crate) fn control(report: &Report, reader: &mut UserSliceReader) -> Result {
    let mut buf = [0u8; LONGEST];
    let text = buf.get_mut(..reader.len()).ok_or(EINVAL)?;
    reader.read_slice(text)?;
    let text = core::str::from_utf8(text).map_err(|_| EINVAL)?;
    let mut words = text.split_ascii_whitespace();
    let _commanding = report.shared.commanding.lock();
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some("giveup"), None, ..) => give_up(report),
        (Some("replace"), Some("primary"), Some(server), None) => {
            replace(report, Replica::Primary, server)
        }
        (Some("replace"), Some("mirror"), Some(server), None) => {
            replace(report, Replica::Mirror, server)
        }
        _ => Err(EINVAL),
    }
}

fn give_up(report: &Report) -> Result {
    let (shared, lanes) = (&report.shared, &report.lanes);
    if shared.config.through {
        return Err(EOPNOTSUPP);
    }
    let pages = report.unreachable_pages().ok_or(EBUSY)?;
    pr_warn!("given up: {pages} pages are lost unless a server comes back; programs that need them get SIGBUS\n");
    shared.give_up(|replica| report.is_away(replica));
    let nobody = shared.spoken_to().all(|replica| report.is_away(replica));
    for lane in lanes {
        lane.give_up(nobody);
    }
    Ok(())
}

/// Whatever the old server has that the other one lacks would be out of reach, so that has to be there and
/// whole.
fn replace(report: &Report, replica: Replica, server: &str) -> Result {
    let (shared, lanes, other) = (&report.shared, &report.lanes, replica.other());
    if shared.config.mirror.is_none() {
        pr_err!("there is one server only: replace is for one of two, see mirror=\n");
        return Err(EINVAL);
    }
    if shared.areas.relay.is_on() {
        pr_err!(
            "{} forwards to its mirror: give memsrvd there another --mirror, or stop it\n",
            shared.address(Replica::Primary)
        );
        return Err(EBUSY);
    }
    let server = config::server("replace", server)?;
    if server.0 == shared.address(other).0 {
        pr_err!("{server} is the other server: two copies there are no better than one\n");
        return Err(EINVAL);
    }
    let behind = shared.areas.behind(other);
    if behind > 0 || lanes.iter().any(|lane| !lane.part(other).is_up()) {
        pr_err!(
            "{} cannot be replaced now: {} is away or lacks pages of {behind} clusters that only the former has\n",
            shared.address(replica),
            shared.address(other)
        );
        return Err(EBUSY);
    }
    pr_info!("{server} takes the place of {}\n", shared.address(replica));
    shared.replace(replica, server);
    for lane in lanes {
        let part = lane.part(replica);
        // At once, so that nobody takes the old server's links for the new one's.
        part.up.store(false, Relaxed);
        part.bell.ring(event::REPLACED);
    }
    Ok(())
}
