// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the debug kernel's watchers have seen: lockdep still watches, and kmemleak found nothing.
//!
//! KASAN, lockdep and the others speak up on the console, where the harness reads it. These two have
//! to be asked. With the stock kernel there is nobody to ask.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};

const LEAKS: &str = "/sys/kernel/debug/kmemleak";
const LOCKDEP: &str = "/proc/lockdep_stats";
/// What the release of the debug kernel ends with (qemu-test/env/kernel-debug.config).
const NAME: &str = "-memsrv-debug";
/// kmemleak says nothing of objects that are younger (MSECS_MIN_AGE, mm/kmemleak.c).
const YOUNG: Duration = Duration::from_secs(6);

/// Whether this is the debug kernel.
pub fn is_debug_kernel() -> bool {
    fs::read_to_string("/proc/sys/kernel/osrelease").is_ok_and(|name| name.trim().ends_with(NAME))
}

/// What is leaked by now is not the next scenario's.
pub fn begin() {
    if Path::new(LEAKS).exists() {
        // A kmemleak that is out of order is found at the end.
        let _ = fs::write(LEAKS, "clear");
    }
}

/// Asks the watchers.
pub fn look(scenario: &str) -> Result<()> {
    if !is_debug_kernel() {
        return Ok(());
    }
    match (lockdep(), leaks(scenario)) {
        (Err(first), Err(second)) => bail!("{first:#}; {second:#}"),
        (first, second) => first.and(second),
    }
}

/// After its first report, or when its tables are full, lockdep watches no more.
fn lockdep() -> Result<()> {
    let text = fs::read_to_string(LOCKDEP).with_context(|| format!("reading {LOCKDEP}"))?;
    let on = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("debug_locks:"))
        .with_context(|| format!("{LOCKDEP} has no debug_locks"))?;
    ensure!(on.trim() == "1", "lockdep has turned itself off");
    Ok(())
}

/// Scans twice: what is seen the first time while it moves from one place to another is not the second.
fn leaks(scenario: &str) -> Result<()> {
    std::thread::sleep(YOUNG);
    for _ in 0..2 {
        fs::write(LEAKS, "scan").context("asking kmemleak for a scan")?;
    }
    let text = fs::read_to_string(LEAKS).with_context(|| format!("reading {LEAKS}"))?;
    if !text.trim().is_empty() {
        bail!("after {scenario} kmemleak says:\n{}", text.trim());
    }
    Ok(())
}
