// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What most scenarios begin and end with.

use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::guest::{poll, Cgroup, Filler, Guest, Swap};
use crate::pattern::{Contents, Spec};
use crate::sys::Kind;

/// A server with much room.
pub const ROOMY: &str = "256M";
/// 32 MiB in pages: what most scenarios fill.
pub const PAGES: usize = 8192;

/// Single pages, none of them zero.
pub fn small(pages: usize, seed: u64) -> Spec {
    Spec {
        kind: Kind::Small,
        pages,
        seed,
        zero_every: 0,
        contents: Contents::Counting,
    }
}

/// Server, swap on the first disk, module.
pub fn begin(guest: &mut Guest, capacity: &str, parameters: &str) -> Result<Swap> {
    guest.host.start_server(capacity)?;
    let disk = Swap::on(0, 10)?;
    guest.insmod(parameters)?;
    Ok(disk)
}

/// A pattern program that has filled its pages, in a cgroup of its own with a limit.
pub fn filled(
    guest: &mut Guest,
    name: &str,
    limit_mib: u64,
    spec: Spec,
) -> Result<(Cgroup, Filler)> {
    let cgroup = guest.cgroup(name, limit_mib)?;
    let mut filler = guest.filler(&cgroup, spec)?;
    filler.fill()?;
    Ok((cgroup, filler))
}

/// The same without a limit, and then all of it evicted.
pub fn evicted(guest: &mut Guest, name: &str, spec: Spec) -> Result<(Cgroup, Filler)> {
    let (cgroup, filler) = filled(guest, name, 0, spec)?;
    evict_all(&cgroup, &spec)?;
    Ok((cgroup, filler))
}

/// Evicts nearly all of a pattern program's pages (those under writeback stay a moment, C4).
pub fn evict_all(cgroup: &Cgroup, spec: &Spec) -> Result<()> {
    let pages = u64::try_from(spec.pages)?;
    let zero = if spec.zero_every == 0 {
        0
    } else {
        pages / u64::try_from(spec.zero_every)?
    };
    cgroup.evict(pages - zero - pages / 50)
}

/// Everything off, nothing left: in the module's eyes, in the server's, and rmmod works.
///
/// The server is asked before rmmod, whose goodbye would free what a lost FREE left there.
pub fn end(guest: &mut Guest, disk: &Swap) -> Result<()> {
    if disk.is_on()? {
        disk.off()?;
    }
    nothing_remote(guest)?;
    guest.rmmod()?;
    guest.host.stop_server()
}

/// No page is on the server, none was lost on the way.
pub fn nothing_remote(guest: &mut Guest) -> Result<()> {
    guest.expect_server_pages(0)?;
    for key in [
        "remote_pages",
        "failed_loads",
        "leftover_slots",
        "failed_stores",
    ] {
        let value = guest.stat(key)?;
        ensure!(value == 0, "the module's {key} is {value} at the end");
    }
    Ok(())
}

/// A statistic must grow to at least `least`: what was evicted may still be on its way.
pub fn expect_at_least(guest: &mut Guest, key: &str, least: u64) -> Result<()> {
    let mut value = 0;
    poll(key, Duration::from_secs(20), || {
        value = guest.stat(key)?;
        Ok(value >= least)
    })
    .with_context(|| format!("the module's {key} is {value}, less than {least}"))?;
    guest.figures.insert(key.to_owned(), value);
    Ok(())
}
