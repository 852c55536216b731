// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `disk=through`: every page is on the disk, too, so whatever becomes of the server, every byte is right and
//! nobody waits long.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use qemu_test_wire::{HOST_ADDRESS, MIRROR_ADDRESS};
use rustix::io::Errno;

use super::common::{begin, end, evict_all, evicted, expect_at_least, filled, small, PAGES, ROOMY};
use super::losses::renamed;
use crate::guest::{module, poll, vm, Guest, Swap};
use crate::pattern::Spec;
use crate::sys::Kind;

/// Room for all that a scenario stores at once, and patience with a busy machine.
const ALL: &str = "disk=through inflight=8192 silence_ms=20000";

/// No load may take longer than this many seconds for all of a program's pages, whatever became of the server.
const BOUND: u64 = 60;

/// Every copy has been answered.
fn settled(guest: &mut Guest) -> Result<()> {
    poll("the end of all stores", Duration::from_secs(60), || {
        Ok(guest.stat("inflight_stores")? == 0)
    })
}

/// Notes what was read from the disk, and requires that it was something.
fn expect_disk_reads(guest: &mut Guest, read: u64) -> Result<()> {
    guest.figures.insert("disk".to_owned(), read);
    let handed = guest.stat("disk_reads")?;
    guest.figures.insert("disk_reads".to_owned(), handed);
    ensure!(read > 0, "nothing was read from the disk");
    Ok(())
}

/// What took longer than it may with the disk there.
fn within_bound(what: &str, started: Instant) -> Result<()> {
    let seconds = started.elapsed().as_secs();
    ensure!(seconds < BOUND, "{what} took {seconds} s");
    Ok(())
}

/// Nothing of ours failed.
fn nothing_failed(guest: &Guest) -> Result<()> {
    for key in ["failed_loads", "leftover_slots", "inflight_unread"] {
        let value = guest.stat(key)?;
        ensure!(value == 0, "the module's {key} is {value}");
    }
    Ok(())
}

/// Pages go to both, come from the server, and are freed there.
pub fn both(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, ALL)?;
    ensure!(module::text("disk")? == "through", "the mode is not shown");
    let spec = small(PAGES, 81);
    let (cgroup, mut filler) = filled(guest, "through", 0, spec)?;
    let written = disk.pages_written()?;
    for order in ["verify", "shuffled"] {
        evict_all(&cgroup, &spec)?;
        settled(guest)?;
        let (away, on_server) = (guest.stat("remote_pages")?, guest.host.server_pages()?);
        ensure!(
            away > 7000 && on_server == away,
            "{away} pages away, {on_server} on the server"
        );
        let read = disk.pages_read()?;
        filler.expect_right(order)?;
        let read = disk.pages_read()? - read;
        ensure!(read == 0, "{read} pages were read from the disk");
        filler.perform("rewrite")?;
    }
    let written = disk.pages_written()? - written;
    guest.figures.insert("disk".to_owned(), written);
    let stored = guest.stat("through_stores")?;
    ensure!(
        written >= stored && stored > 9000,
        "{written} pages were written to the disk, {stored} sent to the server"
    );
    expect_at_least(guest, "loaded_pages", 14_000)?;
    evict_all(&cgroup, &spec)?;
    settled(guest)?;
    disk.off()?;
    guest.expect_server_pages(0)?;
    filler.verify()?;
    filler.end()?;
    ensure!(guest.stat("disk_reads")? == 0, "some loads failed");
    end(guest, &disk)
}

/// Huge folios, shared memory and zero pages: from the server while it is there, and then from the disk.
pub fn kinds(guest: &mut Guest) -> Result<()> {
    vm::set_huge_pages("always")?;
    let disk = begin(guest, ROOMY, ALL)?;
    let mut programs = Vec::new();
    for (name, kind, zero_every) in [
        ("through-huge", Kind::Huge, 0),
        ("through-shared", Kind::Shared, 0),
        ("through-zero", Kind::Small, 2),
    ] {
        let spec = Spec {
            kind,
            zero_every,
            ..small(PAGES / 2, 91)
        };
        let (cgroup, mut filler) = evicted(guest, name, spec)?;
        settled(guest)?;
        filler.verify()?;
        filler.perform("rewrite")?;
        evict_all(&cgroup, &spec)?;
        programs.push(filler);
    }
    expect_at_least(guest, "loaded_pages", 8000)?;
    settled(guest)?;
    let read = disk.pages_read()?;
    let [first, rest @ ..] = programs.as_mut_slice() else {
        bail!("no programs");
    };
    first.expect_right("shuffled")?;
    guest.host.kill_server()?;
    for filler in rest {
        filler.expect_right("shuffled")?;
    }
    expect_disk_reads(guest, disk.pages_read()? - read)?;
    for filler in programs {
        filler.end()?;
    }
    nothing_failed(guest)?;
    disk.off()?;
    guest.rmmod()
}

/// The server is killed under pressure, with pages out: nothing fails, and nothing takes long.
pub fn killed(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "disk=through")?;
    let (cgroup, mut filler) = filled(guest, "through-killed", 8, small(PAGES, 82))?;
    ensure!(guest.stat("remote_pages")? > 1000, "nothing is away");
    filler.order("rewrite")?;
    std::thread::sleep(Duration::from_millis(200));
    guest.host.kill_server()?;
    let (started, read) = (Instant::now(), disk.pages_read()?);
    let answer = filler.answer()?;
    ensure!(answer.wrong == 0, "{} bytes are wrong", answer.wrong);
    for order in ["verify", "rewrite", "shuffled"] {
        filler.expect_right(order)?;
    }
    within_bound("reading without a server", started)?;
    expect_disk_reads(guest, disk.pages_read()? - read)?;
    cgroup.set_limit(0)?;
    disk.off()?;
    filler.verify()?;
    filler.end()?;
    nothing_failed(guest)?;
    guest.rmmod()
}

/// The server stands still in the middle of reading: the loads that it owes are read from the disk.
pub fn paused(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "disk=through inflight=8192 silence_ms=1000")?;
    let spec = small(PAGES, 83);
    let (cgroup, mut filler) = evicted(guest, "through-paused", spec)?;
    settled(guest)?;
    let read = disk.pages_read()?;
    guest.host.pause_server()?;
    let started = Instant::now();
    filler.verify()?;
    within_bound("reading from a server that stands still", started)?;
    expect_disk_reads(guest, disk.pages_read()? - read)?;
    expect_at_least(guest, "disk_reads", 1)?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    guest.host.resume_server()?;
    poll("stores on the server", Duration::from_secs(60), || {
        filler.perform("rewrite")?;
        evict_all(&cgroup, &spec)?;
        Ok(guest.stat("remote_pages")? > 2000)
    })?;
    filler.expect_right("shuffled")?;
    filler.end()?;
    nothing_failed(guest)?;
    end(guest, &disk)
}

/// Slots are stored again and freed while copies of them wait for a server that stands still: the late
/// acknowledgements set nothing. The table is too small for all the newer copies: those pages are on the disk only.
pub fn rewritten(guest: &mut Guest) -> Result<()> {
    let parameters = "disk=through inflight=1024 silence_ms=60000 store_ms=60000";
    let disk = begin(guest, ROOMY, parameters)?;
    let (spec, other) = (small(512, 84), small(256, 85));
    let (cgroup, mut filler) = filled(guest, "through-rewritten", 0, spec)?;
    let (other_cgroup, ended) = filled(guest, "through-rewritten-ended", 0, other)?;
    guest.host.pause_server()?;
    evict_all(&cgroup, &spec)?;
    evict_all(&other_cgroup, &other)?;
    let waiting = guest.stat("inflight_stores")?;
    ensure!(waiting > 700, "only {waiting} copies wait");
    ensure!(guest.stat("remote_pages")? == 0, "not all copies wait");
    // Their slots are freed, and used again by others.
    ended.kill()?;
    // Read from the disk; then other bytes for the same slots, in three steps all of them.
    filler.verify()?;
    for _ in 0..3 {
        filler.perform("rewrite")?;
    }
    evict_all(&cgroup, &spec)?;
    let (_others_cgroup, mut others) = evicted(guest, "through-rewritten-others", other)?;
    expect_at_least(guest, "refused_inflight", 1)?;
    let more = guest.stat("inflight_stores")?;
    ensure!(more > waiting, "no newer copies wait");
    guest.host.resume_server()?;
    settled(guest)?;
    filler.verify()?;
    others.verify()?;
    expect_at_least(guest, "through_late", 500)?;
    let (away, sent) = (guest.stat("remote_pages")?, guest.stat("through_stores")?);
    let late = guest.stat("through_late")?;
    ensure!(
        away <= sent - late,
        "{away} pages away, {sent} sent and {late} of them late"
    );
    guest.expect_server_pages(away)?;
    filler.expect_right("shuffled")?;
    others.end()?;
    filler.end()?;
    end(guest, &disk)
}

/// Another server takes the place of one that was lost, and then the same one is away for a while.
pub fn gone_and_back(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "disk=through inflight=8192")?;
    let spec = small(PAGES, 86);
    let (cgroup, mut filler) = evicted(guest, "through-gone", spec)?;
    settled(guest)?;
    let (read, mut log) = (disk.pages_read()?, vm::Log::from_now()?);
    guest.host.kill_server()?;
    guest.host.start_server(ROOMY)?;
    let started = Instant::now();
    filler.verify()?;
    within_bound("reading with a new server", started)?;
    expect_disk_reads(guest, disk.pages_read()? - read)?;
    poll("the new server", Duration::from_secs(30), || {
        Ok(module::text("link.0.state")? == "up" && module::text("link.1.state")? == "up")
    })?;
    let lines = log.lines()?;
    ensure!(
        !lines.iter().any(|line| line.contains("are lost")),
        "the log says that pages are lost: {lines:?}"
    );
    poll("stores on the new server", Duration::from_secs(60), || {
        filler.perform("rewrite")?;
        evict_all(&cgroup, &spec)?;
        Ok(guest.stat("remote_pages")? > 2000)
    })?;
    settled(guest)?;
    let away = guest.stat("remote_pages")?;
    guest.host.link(false)?;
    let started = Instant::now();
    filler.expect_right("shuffled")?;
    within_bound("reading without a network", started)?;
    guest.host.link(true)?;
    // Those that were not asked for meanwhile are still there; what was given up is freed.
    poll("the server", Duration::from_secs(30), || {
        let (known, held) = (guest.stat("remote_pages")?, guest.host.server_pages()?);
        Ok(known == held && known > away / 4)
    })?;
    filler.verify()?;
    filler.end()?;
    nothing_failed(guest)?;
    end(guest, &disk)
}

/// swapoff with everything away and a server that stands still, and again with one that is dead: it waits for
/// nobody.
pub fn swapoff(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "disk=through inflight=8192 silence_ms=1000")?;
    let spec = small(PAGES, 87);
    let (cgroup, mut filler) = evicted(guest, "through-swapoff", spec)?;
    settled(guest)?;
    ensure!(guest.stat("remote_pages")? > 7000, "nothing is away");
    guest.host.pause_server()?;
    let started = Instant::now();
    disk.off()?;
    within_bound("swapoff", started)?;
    expect_at_least(guest, "disk_reads", 1)?;
    filler.verify()?;
    guest.host.resume_server()?;
    disk.enable(10)?;
    poll("stores on the server", Duration::from_secs(60), || {
        filler.perform("rewrite")?;
        evict_all(&cgroup, &spec)?;
        Ok(guest.stat("remote_pages")? > 2000)
    })?;
    guest.host.kill_server()?;
    let started = Instant::now();
    disk.off()?;
    within_bound("swapoff", started)?;
    filler.verify()?;
    filler.end()?;
    nothing_failed(guest)?;
    guest.rmmod()
}

/// The module goes with pages away, and while they are read; it comes again to find them on the disk.
pub fn unload(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, ALL)?;
    let spec = small(PAGES, 88);
    let (cgroup, mut filler) = filled(guest, "through-unload", 0, spec)?;
    for (order, pause) in [("verify", false), ("rewrite", false), ("shuffled", true)] {
        evict_all(&cgroup, &spec)?;
        if order != "rewrite" {
            settled(guest)?;
        }
        ensure!(guest.stat("remote_pages")? > 1000, "nothing is away");
        filler.order(order)?;
        std::thread::sleep(Duration::from_millis(300));
        if pause {
            // So that there are loads under way when the module goes.
            guest.host.pause_server()?;
            poll("a load under way", Duration::from_secs(10), || {
                Ok(guest.stat("inflight_loads")? > 0)
            })?;
        }
        let started = Instant::now();
        guest.rmmod()?;
        within_bound("rmmod", started)?;
        let answer = filler.answer()?;
        ensure!(answer.wrong == 0, "{} bytes are wrong", answer.wrong);
        if pause {
            guest.host.resume_server()?;
        }
        guest.expect_server_pages(0)?;
        filler.verify()?;
        guest.insmod(ALL)?;
        filler.perform("rewrite")?;
    }
    filler.expect_right("shuffled")?;
    filler.end()?;
    end(guest, &disk)
}

/// zswap holds older pages, and newer ones than the disk: neither shadows the newest, nor is it passed over.
pub fn zswap(guest: &mut Guest) -> Result<()> {
    vm::set_zswap("max_pool_percent", "60")?;
    vm::set_zswap("enabled", "Y")?;
    let disk = Swap::on(0, 10)?;
    let spec = small(PAGES, 89);
    let (cgroup, mut filler) = evicted(guest, "through-zswap", spec)?;
    guest.host.start_server(ROOMY)?;
    guest.insmod("disk=through inflight=512")?;
    // Mostly in zswap now. Of what is stored again a part goes to the server, too.
    filler.verify()?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    filler.expect_right("shuffled")?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    settled(guest)?;
    // The newest are in zswap, not on the disk; those that the server has are asked of it in vain.
    guest.host.pause_server()?;
    filler.verify()?;
    expect_at_least(guest, "disk_reads", 1)?;
    vm::set_zswap("enabled", "N")?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    guest.host.kill_server()?;
    filler.expect_right("shuffled")?;
    filler.end()?;
    nothing_failed(guest)?;
    disk.off()?;
    guest.rmmod()
}

/// A kernel without the function that reads the disk: a copy of the module looks for another name.
pub fn no_read(guest: &mut Guest) -> Result<()> {
    guest.host.start_server("16M")?;
    let changed = "/tmp/memsrv.ko";
    let image = std::fs::read(module::FILE).context("reading the module")?;
    let image = renamed(image, b"swap_read_submit\0", b"swap_read_subxxx\0");
    std::fs::write(changed, image).context("writing a changed module")?;
    let mut log = vm::Log::from_now()?;
    let ended = module::insmod_file(changed, &format!("server={HOST_ADDRESS} disk=through"))?;
    ensure!(
        matches!(ended, Err(Errno::NOENT)),
        "insmod without swap_read_submit: {ended:?}"
    );
    let lines = log.lines()?;
    ensure!(
        lines
            .iter()
            .any(|line| line.contains("disk=through cannot be had")),
        "the log does not say why: {lines:?}"
    );
    // Nobody needs it otherwise.
    module::insmod_file(changed, &format!("server={HOST_ADDRESS}"))?.context("insmod")?;
    std::fs::remove_file(changed).context("removing the changed module")?;
    guest.rmmod()?;
    guest.host.stop_server()
}

/// With two servers: one goes, the other gives the pages; that goes, too, and the disk does.
pub fn mirrored(guest: &mut Guest) -> Result<()> {
    guest.host.start_server(ROOMY)?;
    guest.host.mirror(|host| host.start_server(ROOMY))?;
    let disk = Swap::on(0, 10)?;
    guest.insmod(&format!("mirror={MIRROR_ADDRESS} {ALL}"))?;
    let spec = small(PAGES / 2, 90);
    let (cgroup, mut filler) = evicted(guest, "through-mirror", spec)?;
    settled(guest)?;
    ensure!(guest.stat("remote_pages")? > 3000, "nothing is away");
    let read = disk.pages_read()?;
    guest.host.kill_server()?;
    poll("the end of the links", Duration::from_secs(30), || {
        Ok(module::text("link.0.state")? == "down" && module::text("link.1.state")? == "down")
    })?;
    filler.verify()?;
    let from_disk = disk.pages_read()? - read;
    ensure!(
        from_disk == 0,
        "{from_disk} pages were read from the disk with the mirror there"
    );
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    guest.host.mirror(|host| host.kill_server())?;
    let started = Instant::now();
    filler.expect_right("shuffled")?;
    within_bound("reading without servers", started)?;
    expect_disk_reads(guest, disk.pages_read()? - read)?;
    filler.end()?;
    nothing_failed(guest)?;
    disk.off()?;
    guest.rmmod()
}
