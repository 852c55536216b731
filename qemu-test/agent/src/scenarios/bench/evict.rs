// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Evicting all of a program, and how long it took.

use std::time::{Duration, Instant};

use anyhow::{ensure, Result};

use crate::guest::{vm, Cgroup};

/// What it took.
pub struct Evicted {
    /// Pages that are in swap, and no longer in memory.
    pub pages: u64,
    /// Until the last was written and freed.
    pub ns: u64,
    /// Of that, the time in which no processor had anything to do, of all processors.
    pub idle_ns: u64,
}

/// Evicts a cgroup's `pages` pages, or nearly all, until they are written and freed, which is looked at so often.
///
/// A page whose writing ends when `memory.reclaim` has given up stays in the swap cache; the slower the device, the more
/// of them do.
pub fn evict(cgroup: &Cgroup, pages: usize, look: Duration) -> Result<Evicted> {
    let (began, idle) = (Instant::now(), vm::idle_ns()?);
    let mut last = u64::MAX;
    loop {
        // Not their sum: a page that was read back is both.
        let there = cgroup.anonymous_pages()?.max(cgroup.cached_pages()?);
        // What was under writeback when it was looked at is taken the next time.
        if there < 64 || there == last {
            break;
        }
        last = there;
        cgroup.reclaim_some(there)?;
        while vm::pages_in_writeback()? > 0 {
            std::thread::sleep(look);
        }
    }
    let ns = u64::try_from(began.elapsed().as_nanos())?;
    let evicted = Evicted {
        pages: cgroup
            .swapped_pages()?
            .saturating_sub(cgroup.cached_pages()?),
        ns,
        idle_ns: vm::idle_ns()?.saturating_sub(idle),
    };
    let wanted = u64::try_from(pages - pages / 16)?;
    ensure!(
        evicted.pages >= wanted,
        "only {} pages were evicted",
        evicted.pages
    );
    Ok(evicted)
}
