// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Evicting all of a program, and how long it took.

use std::time::{Duration, Instant};

use anyhow::{ensure, Result};

use crate::guest::{vm, Cgroup};

/// What it took.
pub struct Evicted {
    /// Pages that are in swap.
    pub pages: u64,
    /// Until the last was written.
    pub ns: u64,
    /// Of that, the time in which no processor had anything to do, of all processors.
    pub idle_ns: u64,
}

/// Evicts a cgroup's `pages` pages, or nearly all, until they are written, which is looked at so often.
pub fn evict(cgroup: &Cgroup, pages: usize, look: Duration) -> Result<Evicted> {
    let (began, idle) = (Instant::now(), vm::idle_ns()?);
    let mut last = u64::MAX;
    loop {
        let mapped = cgroup.anonymous_pages()?;
        // What was under writeback when it was looked at is taken the next time.
        if mapped < 64 || mapped == last {
            break;
        }
        last = mapped;
        cgroup.reclaim_some(mapped)?;
        while cgroup.pages_in_writeback()? > 0 {
            std::thread::sleep(look);
        }
    }
    let ns = u64::try_from(began.elapsed().as_nanos())?;
    let evicted = Evicted {
        pages: cgroup.swapped_pages()?,
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
