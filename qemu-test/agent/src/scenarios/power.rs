// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The machine hibernates with pages away, or ends with them.

use std::fs;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

use super::common::{begin, end, evict_all, evicted, filled, small, PAGES, ROOMY};
use crate::guest::{joined, poll, vm, Guest, Swap};

/// Writes an image of the memory to the area, and wakes up from it at once (`test_resume`).
fn hibernate(disk: &Swap) -> Result<std::io::Result<()>> {
    fs::write("/sys/power/resume", disk.number()?).context("naming the image's place")?;
    fs::write("/sys/power/disk", "test_resume").context("choosing the way to hibernate")?;
    Ok(fs::write("/sys/power/state", "disk"))
}

/// The machine wakes from an image, and every page is there; a server that does not acknowledge keeps
/// it from hibernating at all.
pub fn hibernation(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "store_ms=2000")?;
    let (_cgroup, mut filler) = evicted(guest, "hibernation", small(PAGES / 2, 51))?;
    guest
        .host
        .without_port(|| hibernate(&disk))??
        .context("hibernating")?;
    filler.verify()?;

    // While the server has not said that it freed what it was told to, there must be no image.
    guest.host.pause_server()?;
    filler.kill()?;
    poll("a free in flight", Duration::from_secs(10), || {
        Ok(guest.stat("inflight_frees")? > 0)
    })?;
    let mut log = vm::Log::from_now()?;
    match guest.host.without_port(|| hibernate(&disk))?? {
        Ok(()) => bail!("the machine hibernated with frees in flight"),
        Err(error) => ensure!(
            error.raw_os_error() == Some(libc::EBUSY),
            "hibernating failed with {error}"
        ),
    }
    guest.host.resume_server()?;
    let lines = log.lines()?;
    ensure!(
        lines.iter().any(|line| line.contains("cannot hibernate")),
        "the log does not say why: {lines:?}"
    );
    // It goes on as if nothing had been.
    guest.expect_server_pages(0)?;
    let (_cgroup, mut other) = evicted(guest, "hibernation-other", small(PAGES / 4, 54))?;
    ensure!(
        guest.host.server_pages()? > 1000,
        "nothing is stored any more"
    );
    other.verify()?;
    other.end()?;
    end(guest, &disk)
}

/// The machine is switched off with pages away: the server has none of them any more.
pub fn goodbye(guest: &mut Guest) -> Result<()> {
    let _disk = begin(guest, ROOMY, "")?;
    let (_cgroup, filler) = evicted(guest, "goodbye", small(PAGES / 2, 52))?;
    ensure!(guest.host.server_pages()? > 0, "nothing is away");
    guest.host.expect_end()?;
    // Not before the program, whose pages would be freed with it.
    std::mem::forget(filler);
    crate::boot::power_off()
}

/// Pages change while their writeback waits for the server: each copy fits its checksum.
pub fn rewritten(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "")?;
    let spec = small(512, 53);
    let (cgroup, mut filler) = filled(guest, "rewritten", 0, spec)?;
    guest.host.pause_server()?;
    let reclaim = cgroup.reclaim_beside(512);
    poll("stores of most pages", Duration::from_secs(30), || {
        Ok(guest.stat("inflight_stores")? > 256)
    })?;
    filler.perform("rewrite")?;
    let (waiting, stored) = (guest.stat("inflight_stores")?, guest.stat("stored_pages")?);
    guest.figures.insert("waiting".to_owned(), waiting);
    ensure!(
        waiting > 256 && stored == 0,
        "{waiting} stores wait, {stored} pages were stored while the server stood still"
    );
    guest.host.resume_server()?;
    joined(reclaim, "reclaim")?;
    poll("the end of all stores", Duration::from_secs(30), || {
        Ok(guest.stat("inflight_stores")? == 0)
    })?;
    evict_all(&cgroup, &spec)?;
    filler.verify()?;
    filler.end()?;
    end(guest, &disk)
}
