// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The server goes with pages of ours, or answers what it must not: programs may end by SIGBUS, but
//! nobody reads wrong bytes, nothing hangs, and the module can be unloaded.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use qemu_test_wire::{Fake, HOST_ADDRESS};
use rustix::io::Errno;

use super::common::{begin, end, evict_all, evicted, expect_at_least, filled, small, PAGES, ROOMY};
use crate::guest::{joined, module, poll, vm, Filler, Guest, Swap};

/// The program was ended because a page of its was gone.
///
/// That is SIGBUS, and SIGSEGV where the pages that a handler of SIGBUS needs are gone, too: Rust's
/// runtime has one.
pub fn ended_by_loss(error: &anyhow::Error) -> Result<()> {
    let said = format!("{error:#}");
    let known = ["signal: 7 ", "signal: 11 "];
    ensure!(
        known.iter().any(|signal| said.contains(signal)),
        "not ended by SIGBUS: {said}"
    );
    Ok(())
}

/// Reads all pages, which are gone.
pub(super) fn ends_by_loss(mut filler: Filler) -> Result<()> {
    match filler.perform("verify") {
        Ok(answer) => bail!(
            "every page was read, {} bytes wrong: the server lost them all",
            answer.wrong
        ),
        Err(error) => ended_by_loss(&error),
    }
}

/// The server dies with pages and a new one starts: their readers get SIGBUS, no other bytes.
pub fn lost(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "")?;
    let mut log = vm::Log::from_now()?;
    let (_cgroup, filler) = evicted(guest, "lost", small(PAGES, 41))?;
    guest.host.kill_server()?;
    guest.host.start_server(ROOMY)?;
    ends_by_loss(filler)?;
    expect_at_least(guest, "failed_loads_lost", 1)?;
    let lines = log.lines()?;
    ensure!(
        lines.iter().any(|line| line.contains("pages are lost")),
        "the log does not say that pages are lost: {lines:?}"
    );
    // The new server serves as the old one did.
    let (_cgroup, mut other) = evicted(guest, "lost-other", small(PAGES / 4, 42))?;
    other.verify()?;
    other.end()?;
    disk.off()?;
    guest.expect_server_pages(0)?;
    ensure!(guest.stat("remote_pages")? == 0, "slots are left");
    guest.rmmod()?;
    guest.host.stop_server()
}

/// The server dies with pages and stays away: loads fail after `hold_ms`, and the module can go.
pub fn held(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "hold_ms=3000")?;
    let (_cgroup, filler) = evicted(guest, "held", small(PAGES, 43))?;
    guest.host.kill_server()?;
    ends_by_loss(filler)?;
    let (_cgroup, mut other) = evicted(guest, "held-other", small(PAGES / 4, 44))?;
    other.verify()?;
    other.end()?;
    disk.off()?;
    ensure!(guest.stat("remote_pages")? == 0, "slots are left");
    guest.rmmod()
}

/// swapoff while the server is away waits for the pages instead of destroying them.
pub fn swapoff_waits(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "hold_ms=1000 silence_ms=1000")?;
    // Read by swapoff alone: no readahead of a fault may be the one that asks.
    vm::set_sysctl("vm/page-cluster", "0")?;
    let (_cgroup, mut filler) = evicted(guest, "swapoff-waits", small(PAGES / 4, 45))?;
    guest.host.link(false)?;
    let off = disk.clone();
    let swapoff = std::thread::spawn(move || off.off());
    // Three times as long as a program's load would wait.
    std::thread::sleep(Duration::from_secs(3));
    ensure!(
        !swapoff.is_finished(),
        "swapoff did not wait for the server"
    );
    guest.host.link(true)?;
    joined(swapoff, "swapoff")?;
    filler.verify()?;
    filler.end()?;
    end(guest, &disk)
}

/// Reads that failed for want of time only are repeated when the server is back, those of pages that
/// nobody has asked for yet among them.
pub fn read_again(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "hold_ms=1000 silence_ms=1000")?;
    let (_cgroup, mut filler) = evicted(guest, "read-again", small(64, 48))?;
    guest.host.link(false)?;
    let unreadable = filler.unreadable_pages()?;
    ensure!(unreadable > 0, "every page was read without a server");
    expect_at_least(guest, "inflight_unread", unreadable)?;
    guest.host.link(true)?;
    poll("reading again", Duration::from_secs(30), || {
        Ok(guest.stat("inflight_unread")? == 0 && guest.stat("inflight_loads")? == 0)
    })?;
    // It has no handler that could hide a page that stayed unread: that would be its end.
    filler.verify()?;
    filler.end()?;
    disk.off()?;
    guest.expect_server_pages(0)?;
    guest.rmmod()?;
    guest.host.stop_server()
}

/// `giveup` ends a swapoff that waits for a server that will not come back.
pub fn given_up(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "hold_ms=60000 silence_ms=1000")?;
    vm::set_sysctl("vm/page-cluster", "0")?;
    let (_cgroup, filler) = evicted(guest, "given-up", small(PAGES / 4, 49))?;
    let refused = module::control("giveup").map_err(|e| e.raw_os_error());
    ensure!(
        refused == Err(Some(libc::EBUSY)),
        "giveup with the server there: {refused:?}"
    );
    let unknown = module::control("gibberish").map_err(|e| e.raw_os_error());
    ensure!(unknown == Err(Some(libc::EINVAL)), "gibberish: {unknown:?}");
    guest.host.kill_server()?;
    let off = disk.clone();
    let swapoff = std::thread::spawn(move || off.off());
    poll("the end of the links", Duration::from_secs(30), || {
        Ok(module::text("link.0.state")? == "down" && module::text("link.1.state")? == "down")
    })?;
    std::thread::sleep(Duration::from_secs(2));
    ensure!(
        !swapoff.is_finished(),
        "swapoff did not wait for the server"
    );
    let mut log = vm::Log::from_now()?;
    module::control("giveup").context("giveup")?;
    joined(swapoff, "swapoff")?;
    let lines = log.lines()?;
    ensure!(
        lines.iter().any(|line| line.contains("given up: ")),
        "the log does not say how many pages are lost: {lines:?}"
    );
    ends_by_loss(filler)?;
    ensure!(guest.stat("remote_pages")? == 0, "slots are left");
    guest.rmmod()
}

/// A server that takes the session and then answers nothing but says that it is alive: every store ends
/// within `store_ms`, its page is in RAM or on the disk, and nothing waits for ever.
pub fn deaf(guest: &mut Guest) -> Result<()> {
    guest.host.fake_server(Fake::Deaf)?;
    let disk = Swap::on(0, 10)?;
    guest.insmod("store_ms=2000")?;
    let spec = small(PAGES, 46);
    let (cgroup, mut filler) = filled(guest, "deaf", 0, spec)?;
    let before = disk.pages_written()?;
    poll(
        "stores that ended, pages on the disk",
        Duration::from_secs(60),
        || {
            // Not all goes at once: what is in flight has to fail first.
            let _ = evict_all(&cgroup, &spec);
            Ok(guest.stat("failed_stores_expired")? > 0 && disk.pages_written()? - before > 1000)
        },
    )?;
    expect_at_least(guest, "failed_stores_expired", 1)?;
    filler.verify()?;
    filler.end()?;
    disk.off()?;
    ensure!(guest.stat("remote_pages")? == 0, "slots are left");
    guest.rmmod()
}

/// A connection made anew shortly before a store must end gives it no more time: others wait for its
/// writeback without limit.
pub fn deaf_again(guest: &mut Guest) -> Result<()> {
    const STORE_S: u64 = 16;
    guest.host.fake_server(Fake::Deaf)?;
    let disk = Swap::on(0, 10)?;
    guest.insmod(&format!("store_ms={}000 silence_ms=1000", STORE_S))?;
    let (cgroup, mut filler) = filled(guest, "deaf-again", 0, small(64, 71))?;
    let started = Instant::now();
    let reclaim = cgroup.reclaim_beside(64);
    poll("a store", Duration::from_secs(STORE_S / 4), || {
        Ok(guest.stat("inflight_stores")? > 0)
    })?;
    std::thread::sleep(Duration::from_secs(STORE_S / 2));
    guest.host.link(false)?;
    poll("a link that is down", Duration::from_secs(5), || {
        Ok(module::text("link.0.state")? == "down" || module::text("link.1.state")? == "down")
    })?;
    guest.host.link(true)?;
    let end = started + Duration::from_secs(STORE_S * 5 / 4);
    let left = end.saturating_duration_since(Instant::now());
    poll("the end of every store", left, || {
        Ok(guest.stat("inflight_stores")? == 0)
    })?;
    joined(reclaim, "reclaim")?;
    expect_at_least(guest, "reconnects", 1)?;
    filler.verify()?;
    filler.end()?;
    disk.off()?;
    guest.rmmod()
}

/// A server that takes the session and then breaks the protocol, differently at each connection.
pub fn hostile(guest: &mut Guest) -> Result<()> {
    guest.host.fake_server(Fake::Hostile)?;
    let disk = Swap::on(0, 10)?;
    guest.insmod("store_ms=2000 hold_ms=2000")?;
    let spec = small(PAGES, 47);
    let (cgroup, mut filler) = filled(guest, "hostile", 0, spec)?;
    poll("enough reconnections", Duration::from_secs(90), || {
        let _ = evict_all(&cgroup, &spec);
        Ok(guest.stat("reconnects")? >= 16)
    })?;
    // It acknowledged some stores that it never kept: those pages are gone, but never wrong.
    match filler.perform("verify") {
        Ok(answer) => ensure!(answer.wrong == 0, "{} bytes are wrong", answer.wrong),
        Err(error) => ended_by_loss(&error)?,
    }
    drop(filler);
    disk.off()?;
    guest.rmmod()
}

/// A kernel without one of the hooked functions: a copy of the module looks for another name.
pub fn no_hooks(guest: &mut Guest) -> Result<()> {
    guest.host.start_server("16M")?;
    let mut log = vm::Log::from_now()?;
    let changed = "/tmp/memsrv.ko";
    let image = std::fs::read(module::FILE).context("reading the module")?;
    let image = renamed(image, b"zswap_load\0", b"zswap_lxxx\0");
    std::fs::write(changed, image).context("writing a changed module")?;
    let ended = module::insmod_file(changed, &format!("server={HOST_ADDRESS}"))?;
    std::fs::remove_file(changed).context("removing the changed module")?;
    ensure!(
        matches!(ended, Err(Errno::INVAL)),
        "insmod without zswap_load: {ended:?}"
    );
    let lines = log.lines()?;
    ensure!(
        lines.iter().any(|line| line.contains("no zswap_lxxx")),
        "the log does not say which function is missing: {lines:?}"
    );
    ensure!(!module::is_loaded(), "the module is there");
    // Half of the hooks were there already, and are gone again.
    guest.insmod("")?;
    guest.rmmod()?;
    guest.host.stop_server()
}

/// Every `from` in the bytes becomes `to`, which is as long.
pub fn renamed(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut at = 0;
    while let Some(found) = bytes
        .get(at..)
        .and_then(|rest| rest.windows(from.len()).position(|part| part == from))
    {
        let begin = at + found;
        if let Some(part) = bytes.get_mut(begin..begin + from.len()) {
            part.copy_from_slice(to);
        }
        at = begin + from.len();
    }
    bytes
}
