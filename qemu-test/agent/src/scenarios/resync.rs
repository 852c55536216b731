// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A server that comes back, or takes another's place, is filled by the other one, while programs run on.

use std::time::Duration;

use anyhow::{ensure, Result};
use qemu_test_wire::{HOST_ADDRESS, MIRROR_ADDRESS};

use super::common::{evict_all, evicted, expect_at_least, filled, small, PAGES, ROOMY};
use super::mirror::{begin, end, off_by_giveup, primary_up, settled, whole};
use crate::guest::{module, poll, vm, Filler, Guest};

/// The primary comes back empty, and is filled: then it has every page, the newest of each.
pub fn returns(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "")?;
    let spec = small(PAGES, 65);
    let (cgroup, mut filler) = evicted(guest, "resync", spec)?;
    settled(guest)?;
    guest.host.kill_server()?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    settled(guest)?;
    guest.host.start_server(ROOMY)?;
    primary_up()?;
    filler.verify()?;
    whole(guest)?;
    expect_at_least(guest, "refilled_clusters_primary", 2)?;
    // What is read now can only have come from the mirror, server to server.
    guest.host.mirror(|host| host.kill_server())?;
    filler.verify()?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    filler.verify()?;
    filler.end()?;
    end(guest, &disk, true, false)
}

/// The mirror comes back empty twice, while a program with twice its memory never stops writing: pages
/// are stored, loaded and freed as they are copied.
pub fn under_pressure(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "")?;
    let spec = small(PAGES, 71);
    let (cgroup, mut filler) = filled(guest, "resync-pressure", 16, spec)?;
    for _ in 0..2 {
        guest.host.mirror(|host| host.kill_server())?;
        filler.perform("rewrite")?;
        guest.host.mirror(|host| host.start_server(ROOMY))?;
        let mut rounds = 0;
        while guest.stat("degraded")? != 0 {
            ensure!(rounds < 60, "the pair is not whole after {rounds} rounds");
            rounds += 1;
            filler.perform("rewrite")?;
            filler.expect_right("shuffled")?;
        }
    }
    expect_at_least(guest, "refilled_clusters_mirror", 2)?;
    settled(guest)?;
    guest.host.kill_server()?;
    filler.expect_right("shuffled")?;
    cgroup.set_limit(0)?;
    filler.end()?;
    end(guest, &disk, false, true)
}

/// Does something to the servers while a program writes all its pages.
fn rewrite_while(filler: &mut Filler, deed: impl FnOnce() -> Result<()>) -> Result<()> {
    filler.order("rewrite")?;
    deed()?;
    filler.answer()?;
    Ok(())
}

/// Faults in the midst of it: who is filled dies again, who fills stands still, the wire breaks.
pub fn broken(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "")?;
    let spec = small(PAGES, 72);
    let (cgroup, mut filler) = evicted(guest, "resync-broken", spec)?;
    settled(guest)?;
    cgroup.set_limit(16)?;
    for pause in [0, 300] {
        guest.host.mirror(|host| host.kill_server())?;
        guest.host.mirror(|host| host.start_server(ROOMY))?;
        let pause = Duration::from_millis(pause);
        rewrite_while(&mut filler, || {
            std::thread::sleep(pause);
            guest.host.pause_server()?;
            std::thread::sleep(pause);
            guest.host.resume_server()?;
            std::thread::sleep(pause);
            guest.host.mirror(|host| host.reach(false))?;
            std::thread::sleep(pause);
            guest.host.mirror(|host| host.reach(true))
        })?;
        filler.expect_right("shuffled")?;
    }
    whole(guest)?;
    settled(guest)?;
    guest.host.kill_server()?;
    filler.expect_right("shuffled")?;
    cgroup.set_limit(0)?;
    filler.end()?;
    end(guest, &disk, false, true)
}

/// `replace`: another server takes the place of a dead one, with no swapoff and no rmmod.
pub fn replaced(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "")?;
    let spec = small(PAGES, 73);
    let (cgroup, mut filler) = evicted(guest, "replaced", spec)?;
    settled(guest)?;
    let other = format!("{MIRROR_ADDRESS}:7171");
    let refused = |command: &str| {
        ensure!(
            module::control(command).is_err(),
            "{command:?} was not refused"
        );
        Ok(())
    };
    for command in [
        format!("replace mirror {HOST_ADDRESS}"),
        "replace mirror nowhere".to_owned(),
        "replace mirror".to_owned(),
        format!("replace both {other}"),
    ] {
        refused(&command)?;
    }
    guest.host.mirror(|host| host.kill_server())?;
    // What only the primary has would go with it.
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    settled(guest)?;
    refused(&format!("replace primary {other}"))?;
    guest
        .host
        .mirror(|host| host.start_server_with(ROOMY, &["--listen", &other]))?;
    module::control(&format!("replace mirror {other}"))?;
    whole(guest)?;
    ensure!(
        module::text("mirror")? == other,
        "the module does not say where its mirror is"
    );
    expect_at_least(guest, "refilled_clusters_mirror", 2)?;
    guest.host.kill_server()?;
    filler.verify()?;
    filler.end()?;
    disk.off()?;
    poll("an empty machine", Duration::from_secs(30), || {
        Ok(guest.stat("remote_pages")? == 0)
    })?;
    guest.rmmod()?;
    guest.host.mirror(|host| host.stop_server())
}

/// A server that was replaced still has its pages, and is not believed when it is to come back: they are of an
/// earlier time. Started anew it is filled.
pub fn replaced_back(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "")?;
    let spec = small(PAGES, 74);
    let (cgroup, mut filler) = evicted(guest, "replaced-back", spec)?;
    settled(guest)?;
    guest.host.mirror(|host| host.spare())?;
    let other = format!("{MIRROR_ADDRESS}:7171");
    guest
        .host
        .mirror(|host| host.start_server_with(ROOMY, &["--listen", &other]))?;
    module::control(&format!("replace mirror {other}"))?;
    whole(guest)?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    settled(guest)?;
    let mut log = vm::Log::from_now()?;
    module::control(&format!("replace mirror {MIRROR_ADDRESS}"))?;
    log.says("an earlier time")?;
    ensure!(guest.stat("degraded")? == 1, "the old server is believed");
    filler.verify()?;
    guest.host.mirror(|host| {
        host.kill_server()?;
        host.spare()?;
        host.kill_server()?;
        host.start_server(ROOMY)
    })?;
    whole(guest)?;
    guest.host.kill_server()?;
    filler.verify()?;
    filler.end()?;
    end(guest, &disk, false, true)
}

/// The primary comes back with less room than it had and is filled in part, the mirror dies: `giveup` ends the wait for
/// what only the mirror had, and every page that the primary has is read.
pub fn given_up(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "hold_ms=60000")?;
    vm::set_sysctl("vm/page-cluster", "0")?;
    let (_cgroup, filler) = evicted(guest, "resync-given-up", small(PAGES, 75))?;
    settled(guest)?;
    guest.host.kill_server()?;
    guest.host.start_server("8M")?;
    primary_up()?;
    poll("a server that is full", Duration::from_secs(30), || {
        Ok(guest.host.server_pages()? == 2048 && guest.stat("refilled_clusters_primary")? > 0)
    })?;
    guest.host.mirror(|host| host.kill_server())?;
    poll("that the mirror is away", Duration::from_secs(30), || {
        Ok(module::text("mirror_link.0.state")? == "down"
            && module::text("mirror_link.1.state")? == "down")
    })?;
    let (away, held) = (guest.stat("remote_pages")?, guest.host.server_pages()?);
    off_by_giveup(&disk)?;
    let failed = guest.stat("failed_loads")?;
    // A few were still in RAM.
    let most = away - held;
    ensure!(
        (most - most / 20..=most).contains(&failed),
        "of {away} pages the primary had {held}, and {failed} loads failed"
    );
    super::losses::ends_by_loss(filler)?;
    guest.expect_server_pages(0)?;
    guest.rmmod()?;
    guest.host.stop_server()
}
