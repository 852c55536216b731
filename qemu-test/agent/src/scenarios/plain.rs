// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Without the module: shows that guest, disk, cgroups and the pattern program are what they should be.

use anyhow::{ensure, Result};

use crate::guest::{program, Guest, Swap};
use crate::pattern::{Contents, Spec};
use crate::sys::Kind;

/// Four times a cgroup's limit, all of it through the disk swap.
pub fn swap(guest: &mut Guest) -> Result<()> {
    let disk = Swap::on(0, 10)?;
    let before = disk.pages_written()?;
    let cgroup = guest.cgroup("plain", 16)?;
    let mut filler = guest.filler(
        &cgroup,
        Spec {
            kind: Kind::Small,
            pages: 16384,
            seed: 1,
            zero_every: 0,
            contents: Contents::Counting,
        },
    )?;
    filler.fill()?;
    filler.verify()?;
    filler.expect_right("shuffled")?;
    let written = disk.pages_written()? - before;
    guest.figures.insert("disk_pages".to_owned(), written);
    ensure!(written > 8000, "only {written} pages went to the disk");
    filler.end()?;
    disk.off().map(drop)
}

/// A program needs more than its limit and has no swap: whoever measures learns of its end, and the kernel's report of it
/// is no complaint there.
pub fn killed(guest: &mut Guest) -> Result<()> {
    const WORDS: [&str; 3] = ["/usr/bin/python3", "-c", "b'x' * (64 << 20)"];
    program::run(Some(&guest.cgroup("enough", 128)?), &WORDS)?;
    let cgroup = guest.cgroup("killed", 32)?;
    let ran = program::run(Some(&cgroup), &WORDS);
    ensure!(ran.is_err(), "64 MiB fit into 32");
    let kills = cgroup.oom_kills()?;
    ensure!(kills == 1, "the kernel counts {kills} killed, not 1");
    Ok(())
}
