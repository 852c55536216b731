// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! With what was there before and what comes beside: pages on disk, zswap, several swap areas.

use anyhow::{ensure, Result};

use super::common::{
    begin, end, evict_all, evicted, expect_at_least, filled, nothing_remote, small, PAGES, ROOMY,
};
use crate::guest::{vm, Guest, Swap};

/// Pages that were on the disk before insmod load from there; their next eviction goes to the server.
pub fn disk_before(guest: &mut Guest) -> Result<()> {
    let disk = Swap::on(0, 10)?;
    let spec = small(PAGES, 41);
    let (cgroup, mut filler) = evicted(guest, "disk-before", spec)?;
    guest.host.start_server(ROOMY)?;
    guest.insmod("")?;
    filler.verify()?;
    let loaded = guest.stat("loaded_pages")?;
    ensure!(
        loaded == 0,
        "{loaded} pages came from a server that had none"
    );
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    expect_at_least(guest, "stored_pages", 2000)?;
    filler.expect_right("shuffled")?;
    filler.end()?;
    end(guest, &disk)
}

/// zswap was on and holds pages when the module comes.
pub fn zswap_before(guest: &mut Guest) -> Result<()> {
    vm::set_zswap("max_pool_percent", "60")?;
    vm::set_zswap("enabled", "Y")?;
    let disk = Swap::on(0, 10)?;
    let spec = small(PAGES, 42);
    let (cgroup, mut filler) = evicted(guest, "zswap-before", spec)?;
    guest.host.start_server(ROOMY)?;
    guest.insmod("")?;
    filler.verify()?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    expect_at_least(guest, "stored_pages", 2000)?;
    filler.expect_right("shuffled")?;
    filler.end()?;
    end(guest, &disk)
}

/// zswap is switched on, and off again, while pages are on the server.
pub fn zswap_after(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "16M", "")?;
    let spec = small(PAGES, 43);
    let (cgroup, mut filler) = evicted(guest, "zswap-after", spec)?;
    vm::set_zswap("max_pool_percent", "60")?;
    vm::set_zswap("enabled", "Y")?;
    for order in ["verify", "shuffled"] {
        filler.perform("rewrite")?;
        evict_all(&cgroup, &spec)?;
        filler.expect_right(order)?;
    }
    vm::set_zswap("enabled", "N")?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    filler.expect_right("shuffled")?;
    filler.end()?;
    end(guest, &disk)
}

/// zswap's shrinker writes to the disk what the server refused; no older copy of ours may shadow it (A1).
pub fn zswap_shrinker(guest: &mut Guest) -> Result<()> {
    vm::set_zswap("max_pool_percent", "2")?;
    vm::set_zswap("shrinker_enabled", "Y")?;
    vm::set_zswap("enabled", "Y")?;
    let disk = begin(guest, "8M", "")?;
    let before = disk.pages_written()?;
    let (_cgroup, mut filler) = filled(guest, "zswap-shrinker", 8, small(PAGES, 44))?;
    for round in 0..5 {
        filler.perform("rewrite")?;
        filler.expect_right(if round % 2 == 0 { "verify" } else { "shuffled" })?;
    }
    let written = disk.pages_written()? - before;
    guest.figures.insert("disk".to_owned(), written);
    ensure!(written > 0, "zswap's shrinker wrote nothing to the disk");
    filler.end()?;
    end(guest, &disk)
}

/// Two areas of one priority in use; each is switched off with pages away.
pub fn two_areas(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "")?;
    let second = Swap::on(1, 10)?;
    let spec = small(PAGES, 45);
    let (cgroup, mut filler) = evicted(guest, "two-areas", spec)?;
    filler.verify()?;
    evict_all(&cgroup, &spec)?;
    disk.off()?;
    filler.verify()?;
    evict_all(&cgroup, &spec)?;
    second.off()?;
    guest.expect_server_pages(0)?;
    filler.expect_right("shuffled")?;
    filler.end()?;
    end(guest, &disk)
}

/// No area at insmod; one is added, another takes over, the first comes back.
pub fn areas_come_and_go(guest: &mut Guest) -> Result<()> {
    guest.host.start_server(ROOMY)?;
    guest.insmod("")?;
    let first = Swap::on(0, 10)?;
    let spec = small(PAGES, 46);
    let (cgroup, mut filler) = evicted(guest, "areas", spec)?;
    expect_at_least(guest, "stored_pages", 7000)?;
    let second = Swap::on(1, 20)?;
    first.off()?;
    filler.verify()?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    first.enable(30)?;
    filler.expect_right("shuffled")?;
    evict_all(&cgroup, &spec)?;
    second.off()?;
    filler.verify()?;
    filler.end()?;
    first.off()?;
    nothing_remote(guest)?;
    end(guest, &first)
}
