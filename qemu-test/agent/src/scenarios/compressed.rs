// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `compress=lz4`: pages travel and are kept compressed, and come back as they were.

use std::time::Duration;

use anyhow::{ensure, Context, Result};
use qemu_test_wire::{Fake, HOST_ADDRESS, MIRROR_ADDRESS};
use rustix::io::Errno;

use super::common::{begin, end, evict_all, evicted, expect_at_least, small, PAGES, ROOMY};
use super::losses::{ended_by_loss, renamed};
use super::mirror::{self, primary_up, settled, verify_while, whole};
use crate::guest::{module, poll, vm, Guest, Swap};
use crate::pattern::{Contents, Spec};
use crate::sys::Kind;

const LZ4: &str = "compress=lz4";

/// In turns noise, counting words, one word, and a quarter of noise.
fn mixed(pages: usize, seed: u64) -> Spec {
    Spec {
        contents: Contents::Mixed,
        ..small(pages, seed)
    }
}

/// The parts of pages that compress and that do not, and their bytes, are what they are expected to be.
fn looks_compressed(guest: &mut Guest) -> Result<()> {
    settled(guest)?;
    ensure!(module::text("compress")? == "lz4", "it is not on");
    let (compressed, bytes, not) = (
        guest.stat("compressed_pages")?,
        guest.stat("compressed_bytes")?,
        guest.stat("incompressible_pages")?,
    );
    let percent = bytes * 100 / (compressed * 4096).max(1);
    guest
        .figures
        .insert("compressed to percent".to_owned(), percent);
    ensure!(
        compressed > 2 * not && not > compressed / 4,
        "{compressed} pages were compressed, {not} not"
    );
    ensure!(percent < 45, "{compressed} pages became {bytes} bytes");
    // Of four pages two take a frame each, one an eighth, one a third.
    let (away, frames) = (guest.stat("remote_pages")?, guest.host.server_pages()?);
    guest.figures.insert(
        "frames for 100 pages".to_owned(),
        frames * 100 / away.max(1),
    );
    ensure!(
        away > 4000 && frames * 10 < away * 7,
        "{away} pages away take {frames} frames"
    );
    Ok(())
}

/// Evict, read in order and out of order, rewrite, `swapoff` with all of it away, rmmod.
pub fn contents(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, LZ4)?;
    let written = disk.pages_written()?;
    let spec = mixed(PAGES, 101);
    let (cgroup, mut filler) = evicted(guest, "compressed", spec)?;
    expect_at_least(guest, "stored_pages", 8000)?;
    looks_compressed(guest)?;
    filler.verify()?;
    expect_at_least(guest, "loaded_pages", 8000)?;
    for _ in 0..3 {
        filler.perform("rewrite")?;
        evict_all(&cgroup, &spec)?;
        filler.expect_right("shuffled")?;
    }
    // Read one by one, and ahead along the way.
    vm::set_sysctl("vm/page-cluster", "0")?;
    evict_all(&cgroup, &spec)?;
    filler.verify()?;
    expect_at_least(guest, "ahead_pages_used", 1000)?;
    evict_all(&cgroup, &spec)?;
    disk.off()?;
    guest.expect_server_pages(0)?;
    filler.verify()?;
    filler.end()?;
    let written = disk.pages_written()? - written;
    ensure!(written == 0, "{written} pages went to the disk");
    end(guest, &disk)
}

/// Huge folios: each of their pages by itself.
pub fn huge(guest: &mut Guest) -> Result<()> {
    vm::set_huge_pages("always")?;
    let disk = begin(guest, ROOMY, LZ4)?;
    let spec = Spec {
        kind: Kind::Huge,
        ..mixed(PAGES, 102)
    };
    let (cgroup, mut filler) = evicted(guest, "compressed-huge", spec)?;
    looks_compressed(guest)?;
    filler.verify()?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    filler.expect_right("shuffled")?;
    filler.end()?;
    end(guest, &disk)
}

/// A server of half as many frames as there are pages has room for them all; and when they do not compress any more,
/// the rest goes to the disk.
pub fn more(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, "16M", LZ4)?;
    let granted = guest.stat("granted_pages")?;
    ensure!(
        granted == 8192,
        "{granted} pages are granted, of 4096 frames"
    );
    let written = disk.pages_written()?;
    let spec = Spec {
        contents: Contents::Flat,
        ..small(PAGES - 64, 103)
    };
    let (cgroup, mut filler) = evicted(guest, "compressed-more", spec)?;
    settled(guest)?;
    let (away, frames) = (guest.stat("remote_pages")?, guest.host.server_pages()?);
    ensure!(
        away > 7500 && frames < 1200,
        "{away} pages away take {frames} frames"
    );
    let now = disk.pages_written()?;
    ensure!(now == written, "{} pages went to the disk", now - written);
    filler.verify()?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    filler.verify()?;
    filler.end()?;
    let spec = mixed(PAGES, 104);
    let spec = Spec {
        contents: Contents::Counting,
        ..spec
    };
    let (_cgroup, mut filler) = evicted(guest, "compressed-full", spec)?;
    let written = disk.pages_written()? - now;
    ensure!(written > 1000, "only {written} pages went to the disk");
    filler.verify()?;
    filler.end()?;
    disk.off()?;
    guest.expect_server_pages(0)?;
    ensure!(guest.stat("failed_loads")? == 0, "loads have failed");
    end(guest, &disk)
}

/// Each page compressed on two servers. The primary dies while pages are read, comes back empty, is filled by the
/// mirror, and that dies.
pub fn mirrored(guest: &mut Guest) -> Result<()> {
    let disk = mirror::begin(guest, LZ4)?;
    let spec = mixed(PAGES, 105);
    let (cgroup, mut filler) = evicted(guest, "compressed-mirror", spec)?;
    looks_compressed(guest)?;
    let (one, other) = (guest.host.server_pages()?, mirror::mirror_pages(guest)?);
    ensure!(
        one == other,
        "{one} frames on the server, {other} on the mirror"
    );
    verify_while(&mut filler, || guest.host.kill_server())?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    settled(guest)?;
    guest.host.start_server(ROOMY)?;
    primary_up()?;
    whole(guest)?;
    expect_at_least(guest, "refilled_clusters_primary", 2)?;
    guest.host.mirror(|host| host.kill_server())?;
    filler.expect_right("shuffled")?;
    looks_compressed(guest)?;
    filler.end()?;
    mirror::end(guest, &disk, true, false)
}

/// With the disk behind: copied and compressed in the handler, where nothing may sleep.
pub fn through(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "compress=lz4 disk=through")?;
    let spec = mixed(PAGES, 106);
    let (cgroup, mut filler) = evicted(guest, "compressed-through", spec)?;
    looks_compressed(guest)?;
    filler.verify()?;
    expect_at_least(guest, "loaded_pages", 4000)?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    settled(guest)?;
    filler.order("shuffled")?;
    std::thread::sleep(Duration::from_millis(300));
    guest.host.kill_server()?;
    filler.right_answer()?;
    filler.end()?;
    disk.off()?;
    guest.rmmod()
}

/// A server that keeps a log does not grant it: pages travel as they are, whichever of two it is. And once it was
/// granted, a server that does not is not spoken to.
pub fn not_granted(guest: &mut Guest) -> Result<()> {
    let log = ["--persist", "@log"];
    guest.host.start_server_with(ROOMY, &log)?;
    whole_only(guest, LZ4)?;
    guest.host.stop_server()?;
    guest.host.start_server(ROOMY)?;
    guest
        .host
        .mirror(|host| host.start_server_with(ROOMY, &log))?;
    whole_only(guest, &format!("{LZ4} mirror={MIRROR_ADDRESS}"))?;
    guest.host.mirror(|host| host.stop_server())?;

    let disk = Swap::on(0, 10)?;
    guest.insmod(&format!("{LZ4} hold_ms=3000"))?;
    let spec = mixed(PAGES / 4, 108);
    let (_cgroup, mut filler) = evicted(guest, "compressed-then-not", spec)?;
    settled(guest)?;
    let mut kernel_log = vm::Log::from_now()?;
    guest.host.kill_server()?;
    // First it is away; that it takes none is news all the same.
    kernel_log.says("is away")?;
    guest.host.start_server_with(ROOMY, &log)?;
    match filler.perform("verify") {
        Ok(answer) => ensure!(answer.wrong == 0, "{} bytes are wrong", answer.wrong),
        Err(error) => ended_by_loss(&error)?,
    }
    kernel_log.says("takes no compressed pages")?;
    ensure!(module::text("link.0.state")? == "down", "it is spoken to");
    drop(filler);
    disk.off()?;
    guest.rmmod()?;
    guest.host.stop_server()
}

fn whole_only(guest: &mut Guest, parameters: &str) -> Result<()> {
    let disk = Swap::on(0, 10)?;
    let mut log = vm::Log::from_now()?;
    guest.insmod(parameters)?;
    let lines = log.lines()?;
    ensure!(
        lines.iter().any(|line| line.contains("is not granted")),
        "{parameters}: the log does not say so: {lines:?}"
    );
    ensure!(module::text("compress")? == "none", "it is said to be on");
    let (cgroup, mut filler) = evicted(guest, "compressed-not", mixed(PAGES / 4, 107))?;
    settled(guest)?;
    let (away, frames) = (guest.stat("remote_pages")?, guest.host.server_pages()?);
    ensure!(
        away > 1000 && frames >= away,
        "{away} pages away take {frames} frames"
    );
    filler.verify()?;
    filler.end()?;
    disk.off()?;
    guest.expect_server_pages(0)?;
    guest.rmmod()?;
    cgroup.remove()
}

/// A kernel without LZ4: a copy of the module looks for another name. It loads and swaps all the same, but for
/// `compress=lz4`.
pub fn missing(guest: &mut Guest) -> Result<()> {
    guest.host.start_server(ROOMY)?;
    let changed = "/tmp/memsrv.ko";
    let image = std::fs::read(module::FILE).context("reading the module")?;
    let image = renamed(image, b"LZ4_decompress_safe\0", b"LZ4_decompress_sxxx\0");
    std::fs::write(changed, image).context("writing a changed module")?;
    let mut log = vm::Log::from_now()?;
    let ended = module::insmod_file(changed, &format!("server={HOST_ADDRESS} {LZ4}"))?;
    ensure!(
        matches!(ended, Err(Errno::NOENT)),
        "insmod without LZ4: {ended:?}"
    );
    let lines = log.lines()?;
    ensure!(
        lines
            .iter()
            .any(|line| line.contains("needs the kernel's LZ4")),
        "the log does not say what is missing: {lines:?}"
    );
    ensure!(!module::is_loaded(), "the module is there");
    module::insmod_file(changed, &format!("server={HOST_ADDRESS}"))?
        .context("insmod without LZ4 and without compress=")?;
    std::fs::remove_file(changed).context("removing the changed module")?;
    let disk = Swap::on(0, 10)?;
    let (_cgroup, mut filler) = evicted(guest, "compressed-missing", mixed(PAGES / 4, 111))?;
    filler.verify()?;
    filler.end()?;
    end(guest, &disk)
}

/// What a server says matches its checksum and is no page: the load fails, and nobody sees other bytes.
pub fn rubbish(guest: &mut Guest) -> Result<()> {
    guest.host.fake_server(Fake::Rubbish)?;
    vm::set_sysctl("vm/page-cluster", "0")?;
    let disk = Swap::on(0, 10)?;
    guest.insmod("compress=lz4 ahead=0")?;
    let spec = mixed(PAGES / 4, 109);
    let (_cgroup, mut filler) = evicted(guest, "compressed-rubbish", spec)?;
    settled(guest)?;
    match filler.perform("shuffled") {
        Ok(answer) => ensure!(answer.wrong == 0, "{} bytes are wrong", answer.wrong),
        Err(error) => ended_by_loss(&error)?,
    }
    // From outside, which does not end it: of all that was away nothing can be read. Few, for each is asked for three
    // times, each time on a new connection.
    let (cgroup, filler) = evicted(guest, "compressed-rubbish-too", mixed(48, 110))?;
    settled(guest)?;
    poll("an empty swap cache", Duration::from_secs(30), || {
        cgroup.reclaim_some(48)?;
        Ok(cgroup.cached_pages()? == 0)
    })?;
    let unreadable = filler.unreadable_pages()?;
    guest.figures.insert("unreadable".to_owned(), unreadable);
    ensure!(unreadable > 30, "only {unreadable} pages cannot be read");
    expect_at_least(guest, "failed_loads_checksum", unreadable)?;
    ensure!(
        guest.stat("loaded_pages")? == 0,
        "a page was made of rubbish"
    );
    drop(filler);
    disk.off()?;
    guest.rmmod()
}
