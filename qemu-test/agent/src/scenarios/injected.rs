// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The kernel's allocations fail, on the debug kernel: pages come late or go to the disk, none is wrong,
//! and an insmod that fails leaves nothing behind.

use std::time::Duration;

use anyhow::{ensure, Result};
use qemu_test_wire::HOST_ADDRESS;
use rustix::io::Errno;

use super::common::{begin, evicted, filled, small, PAGES, ROOMY};
use crate::guest::fault::{Faults, Which};
use crate::guest::{module, Guest, Swap};

/// Everything off; stores may have failed meanwhile, loads may not.
fn end(guest: &mut Guest, disk: &Swap) -> Result<()> {
    disk.off()?;
    guest.expect_server_pages(0)?;
    for key in ["remote_pages", "failed_loads", "leftover_slots"] {
        let value = guest.stat(key)?;
        ensure!(value == 0, "the module's {key} is {value} at the end");
    }
    for key in ["failed_stores", "reconnects"] {
        let value = guest.stat(key)?;
        guest.figures.insert(key.to_owned(), value);
    }
    guest.rmmod()?;
    guest.host.stop_server()
}

fn swap_under(guest: &mut Guest, which: Which, percent: u32) -> Result<()> {
    let disk = begin(guest, ROOMY, "silence_ms=1000")?;
    let (_cgroup, mut filler) = filled(guest, "faults", 8, small(PAGES / 2, 61))?;
    let faults = Faults::on(which, percent)?;
    filler.verify()?;
    filler.perform("rewrite")?;
    // The connections are lost, and made anew.
    guest.host.pause_server()?;
    filler.order("shuffled")?;
    std::thread::sleep(Duration::from_secs(4));
    guest.host.resume_server()?;
    let answer = filler.answer()?;
    ensure!(answer.wrong == 0, "{} bytes are wrong", answer.wrong);
    drop(faults);
    filler.verify()?;
    let stored = guest.stat("stored_pages")?;
    guest.figures.insert("stored_pages".to_owned(), stored);
    ensure!(stored > 1000, "only {stored} pages were stored");
    filler.end()?;
    end(guest, &disk)
}

/// Whoever cannot wait gets nothing, one time in thirty: the network's interrupts, among others.
pub fn atomic(guest: &mut Guest) -> Result<()> {
    swap_under(guest, Which::Atomic, 3)
}

/// Whatever is allocated because the module asked: sockets, packets, bitmaps.
pub fn ours(guest: &mut Guest) -> Result<()> {
    swap_under(guest, Which::Ours, 10)
}

/// Each of the allocations of insmod fails once, or, where there are too many, some of them.
pub fn insmod(guest: &mut Guest) -> Result<()> {
    const ATTEMPTS: u64 = 60;
    const MANY: u64 = 1_000_000;
    let disk = Swap::on(0, 10)?;
    let (_cgroup, mut filler) = evicted(guest, "faults-insmod", small(PAGES / 8, 62))?;
    guest.host.start_server(ROOMY)?;
    let parameters = format!("server={HOST_ADDRESS}");
    let faults = Faults::ready()?;
    let (loaded, left) = faults.nth(MANY, || module::insmod(&parameters))?;
    loaded?;
    guest.rmmod()?;
    let total = MANY - left;
    ensure!(total > 10, "insmod made {total} allocations only");
    guest.figures.insert("allocations".to_owned(), total);
    let mut refused = 0;
    for attempt in 0..ATTEMPTS {
        // The first ten one by one, the rest spread.
        let nth = if attempt < 10 {
            attempt + 1
        } else {
            10 + (total - 10) * (attempt - 9) / (ATTEMPTS - 10)
        };
        let (result, left) = faults.nth(nth, || module::insmod(&parameters))?;
        match result {
            // What can be done without may fail: the statistics' files.
            Ok(()) => guest.rmmod()?,
            Err(Errno::NOMEM) => refused += 1,
            Err(error) => anyhow::bail!("allocation {nth} failed, and insmod said {error}"),
        }
        ensure!(
            !module::is_loaded(),
            "allocation {nth}: the module is there ({left} left)"
        );
    }
    drop(faults);
    guest.figures.insert("refused".to_owned(), refused);
    ensure!(
        refused > ATTEMPTS / 2,
        "of {ATTEMPTS} insmods {refused} failed"
    );
    guest.insmod("")?;
    filler.verify()?;
    filler.end()?;
    end(guest, &disk)
}
