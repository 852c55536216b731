// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A server that forwards to its mirror: the client knows of that from the server alone, and goes on there.

use std::time::Duration;

use anyhow::{ensure, Result};
use qemu_test_wire::{HOST_ADDRESS, MIRROR_ADDRESS};

use super::common::{evict_all, evicted, expect_at_least, filled, small, PAGES, ROOMY};
use super::losses::ended_by_loss;
use super::mirror::{end, mirror_pages, settled, verify_while, whole};
use crate::guest::{module, poll, vm, Guest, Swap};

/// Both servers, of which the first forwards; swap on the first disk; the module, which is told of the first.
fn begin(guest: &mut Guest, ack: &str) -> Result<Swap> {
    begin_with(guest, ack, "")
}

fn begin_with(guest: &mut Guest, ack: &str, parameters: &str) -> Result<Swap> {
    guest.host.mirror(|host| host.start_server(ROOMY))?;
    let forwards = ["--mirror", MIRROR_ADDRESS, "--mirror-ack", ack];
    guest.host.start_server_with(ROOMY, &forwards)?;
    let disk = Swap::on(0, 10)?;
    guest.insmod(parameters)?;
    ensure!(
        guest.stat("mirror_forwarded")? == 1,
        "the module does not know that the server forwards"
    );
    Ok(disk)
}

/// The server is the mirror from now on, and the mirror is spoken to as any server.
fn gone_over() -> Result<()> {
    let there = module::text("server")?;
    ensure!(
        there.starts_with(MIRROR_ADDRESS),
        "the server is {there}, not the mirror"
    );
    Ok(())
}

/// Every page is on both servers, and freed on both.
pub fn both(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "after")?;
    let spec = small(PAGES, 81);
    let (cgroup, mut filler) = evicted(guest, "forwarded", spec)?;
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
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    filler.expect_right("shuffled")?;
    filler.end()?;
    ensure!(
        guest.stat("mirror_forwarded")? == 1,
        "the server does not forward any more"
    );
    end(guest, &disk, true, true)
}

/// How long the longest load took, in microseconds, up to the next power of two.
fn longest_load_us() -> Result<u64> {
    let buckets = module::text("load_us_log2")?;
    let counts: Vec<&str> = buckets.split_ascii_whitespace().collect();
    let used = counts.iter().rposition(|count| *count != "0");
    Ok(used.map_or(0, |bucket| 1 << bucket))
}

/// Waits until all of the mirror's links are so.
fn mirror_links_are(state: &str) -> Result<()> {
    poll("the mirror's links", Duration::from_secs(60), || {
        let is = |number: u32| -> Result<bool> {
            Ok(module::text(&format!("mirror_link.{number}.state"))? == state)
        };
        Ok(is(0)? && is(1)?)
    })
}

/// The server stands still while its pages are read: its mirror is asked, too, and nobody waits until the server is
/// given up. Nothing is stored meanwhile, so that nothing has changed when it goes on.
pub fn slow(guest: &mut Guest) -> Result<()> {
    const SILENCE_MS: u64 = 60_000;
    let parameters = format!("hedge_ms=50 silence_ms={SILENCE_MS} store_ms=600000");
    let disk = begin_with(guest, "after", &parameters)?;
    mirror_links_are("reads")?;
    let (_cgroup, mut filler) = evicted(guest, "forwarded-slow", small(64, 89))?;
    settled(guest)?;
    vm::set_sysctl("vm/page-cluster", "0")?;
    guest.host.pause_server()?;
    filler.verify()?;
    let (hedged, longest) = (guest.stat("hedged_loads")?, longest_load_us()?);
    ensure!(hedged > 0, "no load was asked of the mirror, too");
    ensure!(
        longest < SILENCE_MS * 1000 / 4,
        "a load took up to {longest} us"
    );
    guest.figures.insert("hedged_loads".to_owned(), hedged);
    guest.figures.insert("longest_load_us".to_owned(), longest);
    guest.host.resume_server()?;
    filler.verify()?;
    ensure!(
        guest.stat("mirror_forwarded")? == 1 && module::text("server")?.starts_with(HOST_ADDRESS),
        "the module has gone over"
    );
    for key in ["degraded", "reconnects", "failovers"] {
        let value = guest.stat(key)?;
        ensure!(value == 0, "{key} is {value}");
    }
    filler.end()?;
    end(guest, &disk, true, true)
}

/// The server is killed while its pages are read: its mirror goes on. It comes back empty, is filled, and then
/// the mirror dies.
pub fn killed(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "after")?;
    let spec = small(PAGES, 82);
    let (cgroup, mut filler) = evicted(guest, "forwarded-killed", spec)?;
    settled(guest)?;
    verify_while(&mut filler, || guest.host.kill_server())?;
    gone_over()?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    filler.verify()?;
    ensure!(guest.stat("degraded")? == 1, "not degraded with one there");
    expect_at_least(guest, "failovers", 1)?;
    let stall = guest.stat("failover_us_max")?;
    guest.figures.insert("failover_us_max".to_owned(), stall);
    // It may forward again, but not for who is with its mirror.
    guest
        .host
        .start_server_with(ROOMY, &["--mirror", MIRROR_ADDRESS])?;
    whole(guest)?;
    guest.host.mirror(|host| host.kill_server())?;
    filler.expect_right("shuffled")?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    filler.verify()?;
    filler.end()?;
    end(guest, &disk, true, false)
}

/// The server is killed while pages are stored: what was acknowledged is on its mirror.
pub fn killed_storing(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "after")?;
    let (cgroup, mut filler) = filled(guest, "forwarded-storing", 16, small(PAGES, 83))?;
    filler.order("rewrite")?;
    std::thread::sleep(Duration::from_millis(300));
    guest.host.kill_server()?;
    filler.answer()?;
    gone_over()?;
    filler.expect_right("shuffled")?;
    cgroup.set_limit(0)?;
    filler.end()?;
    end(guest, &disk, false, true)
}

/// The mirror dies while pages are stored, and comes back empty: it is filled, and then the server dies.
pub fn mirror_killed(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "after")?;
    let spec = small(PAGES, 84);
    let (cgroup, mut filler) = filled(guest, "forwarded-mirror", 16, spec)?;
    filler.order("rewrite")?;
    std::thread::sleep(Duration::from_millis(300));
    guest.host.mirror(|host| host.kill_server())?;
    filler.answer()?;
    poll("the mirror's loss", Duration::from_secs(30), || {
        Ok(guest.stat("mirror_forwarded")? == 0)
    })?;
    ensure!(guest.stat("degraded")? == 1, "not degraded with one there");
    filler.expect_right("shuffled")?;
    guest.host.mirror(|host| host.start_server(ROOMY))?;
    whole(guest)?;
    evict_all(&cgroup, &spec)?;
    settled(guest)?;
    guest.host.kill_server()?;
    filler.expect_right("shuffled")?;
    cgroup.set_limit(0)?;
    filler.end()?;
    end(guest, &disk, false, true)
}

/// A server whose mirror is not there at first: the module sees to the second copy itself as soon as it is.
pub fn late(guest: &mut Guest) -> Result<()> {
    guest
        .host
        .start_server_with(ROOMY, &["--mirror", MIRROR_ADDRESS])?;
    let disk = Swap::on(0, 10)?;
    guest.insmod("")?;
    ensure!(
        module::text("mirror")?.starts_with(MIRROR_ADDRESS),
        "the module does not know the mirror"
    );
    let spec = small(PAGES, 86);
    let (_cgroup, mut filler) = evicted(guest, "forwarded-late", spec)?;
    ensure!(guest.stat("degraded")? == 1, "not degraded with one there");
    guest.host.mirror(|host| host.start_server(ROOMY))?;
    whole(guest)?;
    settled(guest)?;
    guest.host.kill_server()?;
    filler.expect_right("shuffled")?;
    ensure!(
        module::text("server")?.starts_with(HOST_ADDRESS),
        "the module went over, though it was with both"
    );
    filler.end()?;
    end(guest, &disk, false, true)
}

/// With `--mirror-ack before` the server dies in the midst of storing: what its mirror has not got is lost, and
/// no older page is taken for it.
pub fn before(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "before")?;
    for number in 0..2 {
        let state = module::text(&format!("mirror_link.{number}.state"))?;
        ensure!(
            state == "down",
            "mirror link {number} is {state}, though the mirror may lack what is acknowledged"
        );
    }
    let spec = small(PAGES, 87);
    let (cgroup, mut filler) = filled(guest, "forwarded-before", 16, spec)?;
    filler.perform("rewrite")?;
    filler.order("rewrite")?;
    std::thread::sleep(Duration::from_millis(200));
    guest.host.mirror(|host| host.pause_server())?;
    std::thread::sleep(Duration::from_millis(200));
    // What the mirror has received and not read yet goes with the connections; the server must not see that.
    guest.host.pause_server()?;
    let reset = guest.host.mirror(|host| host.reset_connections())?;
    guest.figures.insert("reset".to_owned(), reset);
    guest.host.kill_server()?;
    guest.host.mirror(|host| host.resume_server())?;
    // A page that is lost ends the program.
    let ended = filler
        .answer()
        .and_then(|_| filler.expect_right("shuffled"));
    let lost = guest.stat("failed_loads_lost")?;
    guest.figures.insert("failed_loads_lost".to_owned(), lost);
    match ended {
        Ok(_) => {
            cgroup.set_limit(0)?;
            filler.end()?;
        }
        Err(error) => {
            ended_by_loss(&error)?;
            ensure!(lost > 0, "the program was ended, but no page was lost");
        }
    }
    gone_over()?;
    // Who starts now is served as ever.
    let (_cgroup, mut filler) = evicted(guest, "forwarded-new", small(PAGES, 88))?;
    filler.verify()?;
    filler.end()?;
    disk.off()?;
    poll("no slot left", Duration::from_secs(30), || {
        Ok(guest.stat("remote_pages")? == 0)
    })?;
    guest.rmmod()?;
    guest.host.mirror(|host| host.stop_server())
}
