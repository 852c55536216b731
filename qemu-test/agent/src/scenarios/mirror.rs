// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Two servers, each page on both: whichever goes, no program notices more than a pause.

use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use qemu_test_wire::{HOST_ADDRESS, MIRROR_ADDRESS};
use rustix::io::Errno;

use super::common::{evict_all, evicted, expect_at_least, filled, small, PAGES, ROOMY};
use super::faults::Who;
use crate::guest::{joined, module, poll, vm, Filler, Guest, Swap};

/// Both servers, swap on the first disk, module.
pub(super) fn begin(guest: &mut Guest, parameters: &str) -> Result<Swap> {
    begin_with(guest, ROOMY, parameters)
}

/// The same with a mirror of another size.
fn begin_with(guest: &mut Guest, mirror: &str, parameters: &str) -> Result<Swap> {
    guest.host.start_server(ROOMY)?;
    guest.host.mirror(|host| host.start_server(mirror))?;
    let disk = Swap::on(0, 10)?;
    guest.insmod(&format!("mirror={MIRROR_ADDRESS} {parameters}"))?;
    Ok(disk)
}

/// Everything off; nothing is left on the servers that run, and no load has failed.
pub(super) fn end(guest: &mut Guest, disk: &Swap, server: bool, mirror: bool) -> Result<()> {
    disk.off()?;
    if server {
        guest.expect_server_pages(0)?;
    }
    if mirror {
        expect_mirror_pages(guest, 0)?;
    }
    for key in ["remote_pages", "failed_loads", "leftover_slots"] {
        let value = guest.stat(key)?;
        ensure!(value == 0, "the module's {key} is {value} at the end");
    }
    guest.rmmod()?;
    if server {
        guest.host.stop_server()?;
    }
    if mirror {
        guest.host.mirror(|host| host.stop_server())?;
    }
    Ok(())
}

pub(super) fn mirror_pages(guest: &mut Guest) -> Result<u64> {
    guest.host.mirror(|host| host.server_pages())
}

fn expect_mirror_pages(guest: &mut Guest, pages: u64) -> Result<()> {
    poll("pages on the mirror", Duration::from_secs(30), || {
        Ok(mirror_pages(guest)? == pages)
    })
}

pub(super) fn settled(guest: &mut Guest) -> Result<()> {
    poll("the end of all stores", Duration::from_secs(30), || {
        Ok(guest.stat("inflight_stores")? == 0)
    })
}

/// Every page is on both servers, and freed on both.
pub fn both(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "")?;
    let (_cgroup, mut filler) = evicted(guest, "mirror-both", small(PAGES, 61))?;
    settled(guest)?;
    let (away, one, other) = (
        guest.stat("remote_pages")?,
        guest.host.server_pages()?,
        mirror_pages(guest)?,
    );
    ensure!(
        away > 1000 && one >= away && other >= away,
        "{away} pages away, {one} on the server, {other} on the mirror"
    );
    ensure!(guest.stat("degraded")? == 0, "degraded with both there");
    filler.verify()?;
    filler.end()?;
    end(guest, &disk, true, true)
}

/// What a program that reads all its pages sees when a server is killed in the midst of it.
pub(super) fn verify_while(filler: &mut Filler, deed: impl FnOnce() -> Result<()>) -> Result<()> {
    filler.order("shuffled")?;
    std::thread::sleep(Duration::from_millis(300));
    deed()?;
    let answer = filler.answer()?;
    ensure!(answer.wrong == 0, "{} bytes are wrong", answer.wrong);
    Ok(())
}

/// The primary is killed while its pages are read: the mirror answers, and takes what comes later alone.
pub fn primary_killed(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "")?;
    let spec = small(PAGES, 62);
    let (cgroup, mut filler) = evicted(guest, "primary-killed", spec)?;
    settled(guest)?;
    verify_while(&mut filler, || guest.host.kill_server())?;
    let stored = guest.stat("stored_pages")?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    settled(guest)?;
    ensure!(
        guest.stat("stored_pages")? > stored + 1000,
        "the mirror was not stored to while it was alone"
    );
    ensure!(guest.stat("degraded")? == 1, "not degraded with one there");
    filler.verify()?;
    expect_at_least(guest, "failovers", 1)?;
    let stall = guest.stat("failover_us_max")?;
    guest.figures.insert("failover_us_max".to_owned(), stall);
    filler.end()?;
    end(guest, &disk, false, true)
}

/// The mirror is killed while pages are stored: nobody waits for it.
pub fn mirror_killed(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "")?;
    let spec = small(PAGES, 63);
    let (cgroup, mut filler) = filled(guest, "mirror-killed", 16, spec)?;
    filler.order("rewrite")?;
    std::thread::sleep(Duration::from_millis(300));
    guest.host.mirror(|host| host.kill_server())?;
    filler.answer()?;
    evict_all(&cgroup, &spec)?;
    filler.verify()?;
    cgroup.set_limit(0)?;
    filler.end()?;
    end(guest, &disk, true, false)
}

/// A primary that stands still: the mirror is asked, too, and nobody waits as long as that stands.
pub fn primary_slow(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "silence_ms=60000 store_ms=600000")?;
    let (_cgroup, mut filler) = evicted(guest, "primary-slow", small(64, 64))?;
    settled(guest)?;
    vm::set_sysctl("vm/page-cluster", "0")?;
    guest.host.pause_server()?;
    filler.verify()?;
    let hedged = guest.stat("hedged_loads")?;
    ensure!(hedged > 0, "no load was asked of the mirror, too");
    guest.figures.insert("hedged_loads".to_owned(), hedged);
    guest.host.resume_server()?;
    filler.verify()?;
    filler.end()?;
    end(guest, &disk, true, true)
}

pub(super) fn primary_up() -> Result<()> {
    links_are("up")
}

/// Waits until all of the primary's links are so.
fn links_are(state: &str) -> Result<()> {
    poll("the primary's links", Duration::from_secs(60), || {
        Ok(module::text("link.0.state")? == state && module::text("link.1.state")? == state)
    })
}

/// Waits until both servers have every page.
pub(super) fn whole(guest: &mut Guest) -> Result<()> {
    poll("a whole pair", Duration::from_secs(90), || {
        Ok(guest.stat("degraded")? == 0)
    })
}

/// The primary's cable is pulled and put back: the mirror answers meanwhile, and what the primary missed is
/// never asked of it.
pub fn primary_cut(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "")?;
    let spec = small(PAGES, 69);
    let (cgroup, mut filler) = evicted(guest, "mirror-cut", spec)?;
    settled(guest)?;
    verify_while(&mut filler, || guest.host.reach(false))?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    settled(guest)?;
    guest.host.reach(true)?;
    primary_up()?;
    filler.verify()?;
    // Now it gets what it missed, and has it all.
    whole(guest)?;
    guest.host.mirror(|host| host.kill_server())?;
    filler.expect_right("shuffled")?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    filler.expect_right("shuffled")?;
    filler.end()?;
    end(guest, &disk, true, false)
}

/// A mirror with less room: what does not fit on both goes to the disk.
pub fn mirror_full(guest: &mut Guest) -> Result<()> {
    let disk = begin_with(guest, "8M", "")?;
    let written = disk.pages_written()?;
    let spec = small(PAGES, 70);
    let (cgroup, mut filler) = evicted(guest, "mirror-full", spec)?;
    settled(guest)?;
    ensure!(
        guest.stat("remote_pages")? <= 2048 && disk.pages_written()? > written + 1000,
        "more is away than the mirror has room for"
    );
    filler.verify()?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    filler.verify()?;
    filler.end()?;
    end(guest, &disk, true, true)
}

/// `mirror_strict=1`: with one server away nothing is stored, and what is on both is read.
pub fn strict(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "mirror_strict=1")?;
    let spec = small(PAGES, 67);
    let (cgroup, mut filler) = evicted(guest, "mirror-strict", spec)?;
    settled(guest)?;
    guest.host.mirror(|host| host.kill_server())?;
    filler.perform("rewrite")?;
    settled(guest)?;
    let (stored, written) = (guest.stat("stored_pages")?, disk.pages_written()?);
    evict_all(&cgroup, &spec)?;
    ensure!(
        guest.stat("stored_pages")? == stored,
        "pages were stored on one server only"
    );
    ensure!(
        disk.pages_written()? > written + 1000,
        "what was refused did not go to the disk"
    );
    filler.verify()?;
    filler.end()?;
    end(guest, &disk, true, false)
}

/// The same server twice is refused.
pub fn twice(guest: &mut Guest) -> Result<()> {
    guest
        .host
        .start_server_with("16M", &["--listen", "0.0.0.0:7170"])?;
    let lines = guest.insmod_fails(
        &format!("server={HOST_ADDRESS} mirror={MIRROR_ADDRESS}"),
        Errno::INVAL,
    )?;
    ensure!(
        lines
            .iter()
            .any(|line| line.contains("the same as the other")),
        "the log does not say that it is the same server: {lines:?}"
    );
    guest.host.stop_server()
}

/// The module is loaded with one of the servers away, first the primary, then the mirror: that is filled when it comes,
/// and has every page when the other one dies. With neither there, it is not loaded; nor with one that is there and
/// refuses, which would refuse later, too.
pub fn absent(guest: &mut Guest) -> Result<()> {
    let parameters = format!("server={HOST_ADDRESS} mirror={MIRROR_ADDRESS}");
    guest.insmod_fails(&parameters, Errno::CONNREFUSED)?;
    for refuses in [Who::Primary, Who::Mirror] {
        let other = refuses.other();
        other.with(guest.host, |host| host.start_server(ROOMY))?;
        refuses.with(guest.host, |host| {
            host.start_server_with(ROOMY, &["--test-protocol-version", "77"])
        })?;
        guest.insmod_fails(&parameters, Errno::PROTONOSUPPORT)?;
        refuses.with(guest.host, |host| host.stop_server())?;
        other.with(guest.host, |host| host.stop_server())?;
    }
    for away in [Who::Primary, Who::Mirror] {
        let there = away.other();
        there.with(guest.host, |host| host.start_server(ROOMY))?;
        let disk = Swap::on(0, 10)?;
        guest.insmod(&format!("mirror={MIRROR_ADDRESS}"))?;
        let spec = small(PAGES, 72);
        let (cgroup, mut filler) = evicted(guest, "mirror-absent", spec)?;
        settled(guest)?;
        ensure!(guest.stat("degraded")? == 1, "not degraded with one there");
        let stored = guest.stat("stored_pages")?;
        ensure!(stored > 1000, "{stored} pages on the one that is there");
        away.with(guest.host, |host| host.start_server(ROOMY))?;
        filler.expect_right("shuffled")?;
        filler.perform("rewrite")?;
        evict_all(&cgroup, &spec)?;
        settled(guest)?;
        whole(guest)?;
        there.with(guest.host, |host| host.kill_server())?;
        filler.expect_right("shuffled")?;
        filler.end()?;
        end(guest, &disk, away == Who::Primary, away == Who::Mirror)?;
    }
    Ok(())
}

/// Switches an area off, which waits for the mirror, and gives up what that has.
pub(super) fn off_by_giveup(disk: &Swap) -> Result<()> {
    let off = disk.clone();
    let swapoff = std::thread::spawn(move || off.off());
    std::thread::sleep(Duration::from_secs(2));
    ensure!(
        !swapoff.is_finished(),
        "swapoff did not wait for the mirror"
    );
    module::control("giveup").context("giveup")?;
    joined(swapoff, "swapoff").map(drop)
}

/// The primary misses pages, the mirror dies: `giveup` ends the wait for those that only the mirror had, and for no
/// others.
pub fn given_up(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "hold_ms=60000")?;
    vm::set_sysctl("vm/page-cluster", "0")?;
    guest.host.reach(false)?;
    links_are("down")?;
    let (_cgroup, filler) = evicted(guest, "given-up-half", small(PAGES / 4, 70))?;
    guest.host.mirror(|host| host.kill_server())?;
    guest.host.reach(true)?;
    primary_up()?;
    let (unreachable, away) = (
        guest.stat("unreachable_pages")?,
        guest.stat("remote_pages")?,
    );
    ensure!(
        unreachable > 1000 && unreachable <= away,
        "of {away} pages {unreachable} are said to be out of reach"
    );
    off_by_giveup(&disk)?;
    super::losses::ends_by_loss(filler)?;
    guest.expect_server_pages(0)?;
    // What the primary alone has by now was not given up.
    let failed = guest.stat("failed_loads")?;
    let disk = Swap::on(0, 10)?;
    let (_cgroup, mut filler) = evicted(guest, "not-given-up", small(PAGES / 4, 71))?;
    guest.host.reach(false)?;
    links_are("down")?;
    verify_while(&mut filler, || {
        std::thread::sleep(Duration::from_secs(1));
        guest.host.reach(true)
    })?;
    filler.end()?;
    disk.off()?;
    let more = guest.stat("failed_loads")? - failed;
    ensure!(
        more == 0,
        "{more} loads failed of pages that the primary had"
    );
    guest.expect_server_pages(0)?;
    guest.rmmod()?;
    guest.host.stop_server()
}

/// Both servers stand still, then both are gone: reads fail in time, and the module can go.
pub fn both_gone(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "hold_ms=3000")?;
    let (_cgroup, mut filler) = evicted(guest, "both-gone", small(PAGES / 4, 68))?;
    settled(guest)?;
    guest.host.kill_server()?;
    guest.host.mirror(|host| host.kill_server())?;
    let started = Instant::now();
    match filler.perform("verify") {
        Ok(answer) => ensure!(answer.wrong == 0, "{} bytes are wrong", answer.wrong),
        Err(error) => super::losses::ended_by_loss(&error)?,
    }
    ensure!(
        started.elapsed() < Duration::from_secs(60),
        "a read waited for longer than hold_ms"
    );
    drop(filler);
    disk.off()?;
    guest.rmmod()
}
