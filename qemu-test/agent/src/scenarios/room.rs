// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! No room, no server, too much in flight: pages are turned away one by one and nothing is wrong.

use std::time::Duration;

use anyhow::{anyhow, ensure, Result};
use rustix::io::Errno;

use super::common::{begin, end, evict_all, evicted, expect_at_least, filled, small, PAGES, ROOMY};
use crate::guest::{card, joined, module, poll, vm, watch, Guest, Swap};
use crate::pattern::Spec;
use crate::sys::Kind;

fn quiet(log: &mut vm::Log) -> Result<()> {
    let lines: Vec<_> = log
        .lines()?
        .into_iter()
        .filter(|line| line.contains("memsrv"))
        .collect();
    ensure!(
        lines.is_empty(),
        "the kernel log was to stay quiet, it says: {}",
        lines.join(" | ")
    );
    Ok(())
}

/// A server with room for a quarter: the rest goes to the disk, in silence.
pub fn full(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "8M", "")?;
    let before = disk.pages_written()?;
    let mut log = vm::Log::from_now()?;
    let spec = small(PAGES, 31);
    let (cgroup, mut filler) = evicted(guest, "full", spec)?;
    let stored = guest.host.server_pages()?;
    ensure!(stored >= 1500, "the server holds {stored} pages of 2048");
    filler.verify()?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    filler.expect_right("shuffled")?;
    let written = disk.pages_written()? - before;
    guest.figures.insert("disk".to_owned(), written);
    ensure!(written > 4000, "only {written} pages went to the disk");
    filler.end()?;
    quiet(&mut log)?;
    end(guest, &disk)
}

/// A server that keeps its pages is stopped under eviction and started anew, as for an upgrade. It refuses what comes
/// while it stops; so its log ends before the last numbers that it has answered, and yet it has forgotten nothing.
pub fn upgraded(guest: &mut Guest) -> Result<()> {
    let kept = ["--persist", "@life", "--persist-ack", "--drain", "1"];
    guest.host.start_server_with(ROOMY, &kept)?;
    let disk = Swap::on(0, 10)?;
    guest.insmod("")?;
    let spec = small(PAGES, 36);
    let (cgroup, mut filler) = filled(guest, "upgraded", 0, spec)?;
    let mut log = vm::Log::from_now()?;
    std::thread::scope(|scope| {
        // Nothing is freed meanwhile: a FREE would be in the log.
        let evicting = scope.spawn(|| evict_all(&cgroup, &spec));
        poll("pages on the server", Duration::from_secs(60), || {
            Ok(guest.stat("stored_pages")? >= 1000)
        })?;
        guest.host.stop_server()?;
        guest.host.start_server_with(ROOMY, &kept)?;
        let ended = evicting.join();
        ended.map_err(|_| anyhow!("the thread that evicts panicked"))?
    })?;
    // None on a machine where everything waited for the disk.
    let refused = guest.stat("failed_stores_full")?;
    guest.figures.insert("refused".to_owned(), refused);
    filler.expect_right("shuffled")?;
    filler.end()?;
    let lines = log.lines()?;
    ensure!(
        !lines.iter().any(|line| line.contains("pages are lost")),
        "the log says that pages are lost: {lines:?}"
    );
    end(guest, &disk)
}

/// A full server with zswap on, which takes what the server refuses.
pub fn full_zswap(guest: &mut Guest) -> Result<()> {
    vm::set_zswap("max_pool_percent", "60")?;
    vm::set_zswap("enabled", "Y")?;
    let disk = begin(guest, "8M", "")?;
    let before = disk.pages_written()?;
    let mut log = vm::Log::from_now()?;
    let spec = small(PAGES, 32);
    let (cgroup, mut filler) = evicted(guest, "full-zswap", spec)?;
    let held = vm::zswap_number("stored_pages")?;
    guest.figures.insert("zswap".to_owned(), held);
    ensure!(held > 4000, "zswap holds only {held} pages");
    filler.verify()?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    filler.expect_right("shuffled")?;
    let written = disk.pages_written()? - before;
    ensure!(
        written < 200,
        "{written} pages went to the disk, zswap had room"
    );
    filler.end()?;
    quiet(&mut log)?;
    end(guest, &disk)
}

/// A table of eight pages: most are turned away, none is wrong.
pub fn inflight(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "inflight=8")?;
    let mut log = vm::Log::from_now()?;
    let (_cgroup, mut filler) = filled(guest, "inflight", 8, small(PAGES, 33))?;
    filler.verify()?;
    filler.perform("rewrite")?;
    filler.expect_right("shuffled")?;
    filler.end()?;
    expect_at_least(guest, "refused_inflight", 1)?;
    expect_at_least(guest, "stored_pages", 1)?;
    // A table that is half full is not filled up with what waits for more.
    let (held, stored) = (guest.stat("held_stores")?, guest.stat("stored_pages")?);
    ensure!(
        held * 5 <= stored * 4,
        "{held} of {stored} stores waited for more"
    );
    quiet(&mut log)?;
    end(guest, &disk)
}

/// Huge folios and a table too small for one: they are split or go to the disk.
pub fn inflight_huge(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "inflight=64")?;
    let spec = Spec {
        kind: Kind::Huge,
        ..small(PAGES, 34)
    };
    let (_cgroup, mut filler) = evicted(guest, "inflight-huge", spec)?;
    filler.verify()?;
    filler.end()?;
    end(guest, &disk)
}

/// The server dies while it holds nothing: the disk takes over; a new server is taken up again.
pub fn killed_idle(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "")?;
    guest.host.kill_server()?;
    let spec = small(PAGES, 35);
    let (cgroup, mut filler) = evicted(guest, "killed-idle", spec)?;
    filler.verify()?;
    guest.host.start_server(ROOMY)?;
    // Refused stores wake the link; it takes the new server up within its retry time.
    poll("stores on the new server", Duration::from_secs(60), || {
        filler.perform("rewrite")?;
        evict_all(&cgroup, &spec)?;
        Ok(guest.stat("remote_pages")? > 1000)
    })?;
    filler.expect_right("shuffled")?;
    filler.end()?;
    end(guest, &disk)
}

/// The server stands still for a while with pages of ours, while we read and write.
pub fn paused(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "store_ms=2000 silence_ms=2000")?;
    let spec = small(PAGES, 36);
    let (_cgroup, mut away) = evicted(guest, "paused-away", spec)?;
    guest.host.pause_server()?;
    away.order("verify")?;
    // Meanwhile others are evicted: their stores fail or are refused, and go to the disk.
    let other = small(PAGES / 4, 37);
    let (other_cgroup, mut others) = filled(guest, "paused-others", 0, other)?;
    evict_all(&other_cgroup, &other)?;
    others.verify()?;
    guest.host.resume_server()?;
    let answer = away.answer()?;
    ensure!(answer.wrong == 0, "{} bytes are wrong", answer.wrong);
    away.expect_right("shuffled")?;
    others.verify()?;
    others.end()?;
    away.end()?;
    disk.off()?;
    guest.expect_server_pages(0)?;
    guest.rmmod()?;
    guest.host.stop_server()
}

/// The link goes down and comes back with pages away: the same pages come back.
pub fn link_down(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "silence_ms=1000")?;
    let (_cgroup, mut filler) = evicted(guest, "link-down", small(PAGES, 38))?;
    guest.host.link(false)?;
    filler.order("verify")?;
    // Long enough for the module to notice and give its connections up.
    std::thread::sleep(Duration::from_secs(3));
    guest.host.link(true)?;
    let answer = filler.answer()?;
    ensure!(answer.wrong == 0, "{} bytes are wrong", answer.wrong);
    filler.end()?;
    end(guest, &disk)
}

/// The module goes and comes while other programs swap to the disk through its hooks.
pub fn unload_busy(guest: &mut Guest) -> Result<()> {
    let disk = Swap::on(0, 10)?;
    let (cgroup, mut filler) = filled(guest, "unload-busy", 8, small(PAGES, 39))?;
    guest.host.start_server("4K")?;
    for round in 0..6 {
        guest.insmod("")?;
        filler.order(if round % 2 == 0 {
            "rewrite"
        } else {
            "shuffled"
        })?;
        // At most one page is on the server: whoever holds it gives it back at the next round.
        std::thread::sleep(Duration::from_millis(500));
        let gone = module::rmmod();
        let answer = filler.answer()?;
        ensure!(answer.wrong == 0, "{} bytes are wrong", answer.wrong);
        if gone.is_err() {
            // What swapoff reads back is charged to the cgroup: with its limit it would have no room.
            cgroup.set_limit(0)?;
            // What comes back must fit into the cgroup.
            cgroup.set_limit(0)?;
            disk.off()?;
            guest.rmmod()?;
            disk.enable(10)?;
            cgroup.set_limit(8)?;
            cgroup.set_limit(8)?;
        }
    }
    filler.verify()?;
    filler.end()?;
    disk.off()?;
    guest.host.stop_server()
}

/// The same, as often as the kernel's watchers are worth it, with a program that never pauses.
pub fn unload_often(guest: &mut Guest) -> Result<()> {
    let rounds = if watch::is_debug_kernel() { 100 } else { 12 };
    let disk = Swap::on(0, 10)?;
    let (_cgroup, mut filler) = filled(guest, "unload-often", 8, small(PAGES / 2, 40))?;
    // Room for one page, which is rewritten or read sooner or later, and then away for a moment.
    guest.host.start_server("4K")?;
    filler.order("rewrite")?;
    let mut waits = 0;
    for round in 0..rounds {
        guest.insmod("")?;
        std::thread::sleep(Duration::from_millis(round % 7 * 10));
        while let Err(error) = module::rmmod() {
            ensure!(error == Errno::AGAIN, "rmmod memsrv: {error}");
            waits += 1;
            std::thread::sleep(Duration::from_millis(5));
            if waits % 100 == 0 {
                // It may have come to its end with the page away.
                filler.answer()?;
                filler.order("rewrite")?;
            }
        }
    }
    guest.figures.insert("waits".to_owned(), waits);
    filler.answer()?;
    filler.verify()?;
    filler.end()?;
    disk.off()?;
    guest.host.stop_server()
}

/// rmmod while packets of a closed connection wait before the card: when they are dropped, or sent, TCP looks for its
/// socket, whose module is gone.
pub fn unload_throttled(guest: &mut Guest) -> Result<()> {
    let ended = throttled(guest);
    card::calm().and(ended)
}

fn throttled(guest: &mut Guest) -> Result<()> {
    // Stores end before they are sent, and then the connection.
    let disk = begin(guest, ROOMY, "store_ms=2000")?;
    let (cgroup, filler) = filled(guest, "unload-throttled", 0, small(2048, 43))?;
    // Slow enough that what TCP lets wait here is there long after rmmod.
    let bucket = ["tbf", "rate", "1kbit", "burst", "4kb", "limit", "4mb"];
    card::queue("eth0", &bucket)?;
    // What it had would have to be read back before rmmod.
    guest.host.pause_server()?;
    let reclaim = cgroup.reclaim_beside(2048);
    poll("stores", Duration::from_secs(30), || {
        Ok(guest.stat("inflight_stores")? > 64)
    })?;
    poll("the end of every store", Duration::from_secs(60), || {
        Ok(reclaim.is_finished() && guest.stat("inflight_stores")? == 0)
    })?;
    joined(reclaim, "reclaim")?;
    filler.kill()?;
    guest.rmmod()?;
    let said = card::queued()?;
    ensure!(
        said.contains("tbf") && !said.contains("backlog 0b"),
        "no packet waits any more: {said}"
    );
    card::calm()?;
    guest.host.resume_server()?;
    disk.off()?;
    guest.host.stop_server()
}
