// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Kinds of memory: huge folios, zero pages, shared memory, and what fork shares.

use std::fs;

use anyhow::{ensure, Context, Result};

use super::common::{begin, end, evict_all, evicted, expect_at_least, small, PAGES, ROOMY};
use crate::guest::{vm, Guest};
use crate::pattern::Spec;
use crate::sys::Kind;

fn huge_folios_out() -> Result<u64> {
    let path = "/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/stats/zswpout";
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    text.trim()
        .parse()
        .with_context(|| format!("{path} says {text:?}"))
}

/// 2 MiB folios go out whole, and come back right.
pub fn huge(guest: &mut Guest) -> Result<()> {
    vm::set_huge_pages("always")?;
    let disk = begin(guest, ROOMY, "")?;
    let before = huge_folios_out()?;
    let spec = Spec {
        kind: Kind::Huge,
        ..small(PAGES, 21)
    };
    let (cgroup, mut filler) = evicted(guest, "huge", spec)?;
    let whole = huge_folios_out()? - before;
    guest.figures.insert("huge_folios".to_owned(), whole);
    ensure!(whole > 0, "no 2 MiB folio went out whole");
    filler.verify()?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    filler.expect_right("shuffled")?;
    filler.end()?;
    end(guest, &disk)
}

/// Folios of a middling size (64 KiB), mixed with single pages.
pub fn large(guest: &mut Guest) -> Result<()> {
    vm::set_huge_pages("never")?;
    let knob = "/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled";
    fs::write(knob, "always").with_context(|| format!("writing {knob}"))?;
    let result = large_folios(guest);
    fs::write(knob, "never").with_context(|| format!("writing {knob}"))?;
    result
}

fn large_folios(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "")?;
    let spec = Spec {
        kind: Kind::Huge,
        ..small(PAGES, 22)
    };
    let (cgroup, mut filler) = evicted(guest, "large", spec)?;
    filler.expect_right("shuffled")?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    filler.verify()?;
    filler.end()?;
    end(guest, &disk)
}

/// Every other page is zero: the kernel keeps those itself, the server must not hold an older copy.
pub fn zero(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "")?;
    let spec = Spec {
        zero_every: 2,
        ..small(PAGES, 23)
    };
    let (cgroup, mut filler) = evicted(guest, "zero", spec)?;
    let stored = guest.stat("stored_pages")?;
    ensure!(
        stored < 5000,
        "{stored} pages were stored of 4096 that are not zero"
    );
    filler.verify()?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    filler.expect_right("shuffled")?;
    filler.end()?;
    end(guest, &disk)
}

/// Shared memory: shmem's own way to and from swap.
pub fn shared(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "")?;
    let spec = Spec {
        kind: Kind::Shared,
        ..small(PAGES, 24)
    };
    let (cgroup, mut filler) = evicted(guest, "shared", spec)?;
    expect_at_least(guest, "stored_pages", 8000)?;
    filler.verify()?;
    filler.perform("rewrite")?;
    evict_all(&cgroup, &spec)?;
    filler.expect_right("shuffled")?;
    evict_all(&cgroup, &spec)?;
    disk.off()?;
    filler.verify()?;
    filler.end()?;
    end(guest, &disk)
}

/// A child is forked while everything is away; it reads, then rewrites its copies; both stay right.
pub fn fork(guest: &mut Guest) -> Result<()> {
    let disk = begin(guest, ROOMY, "")?;
    let spec = small(PAGES / 2, 25);
    let (cgroup, mut filler) = evicted(guest, "fork", spec)?;
    filler.expect_right("fork-verify")?;
    evict_all(&cgroup, &spec)?;
    filler.expect_right("fork-rewrite")?;
    cgroup.set_limit(4)?;
    filler.expect_right("fork-rewrite")?;
    filler.end()?;
    end(guest, &disk)
}
