// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The debug kernel's fault injection (the kernel's Documentation/fault-injection/fault-injection.rst):
//! allocations fail, of slab objects and of pages, for as long as a [`Faults`] lives.

use std::fs;

use anyhow::{Context, Result};

const KINDS: [&str; 2] = ["failslab", "fail_page_alloc"];
/// Where modules lie (the kernel's Documentation/arch/x86/x86_64/mm.rst); the debug kernel has none but ours.
const MODULES: (u64, u64) = (0xffff_ffff_a000_0000, 0xffff_ffff_ff00_0000);
const NTH: &str = "/proc/thread-self/fail-nth";

fn set(kind: &str, name: &str, value: &str) -> Result<()> {
    let path = format!("/sys/kernel/debug/{kind}/{name}");
    fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))
}

/// Which allocations fail.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Those that cannot wait, whoever makes them.
    Atomic,
    /// All those with the module's code among their callers.
    Ours,
}

/// Faults, on.
pub struct Faults;

impl Faults {
    /// From now on `percent` of a hundred fail, in every context.
    pub fn on(which: Which, percent: u32) -> Result<Self> {
        // Made first: whatever is on when something fails here is put off.
        let faults = Self;
        faults.choose(which)?;
        for kind in KINDS {
            set(kind, "probability", &percent.to_string())?;
        }
        Ok(faults)
    }

    /// Nothing fails yet, but [`Self::nth`] can be asked for.
    pub fn ready() -> Result<Self> {
        let faults = Self;
        faults.choose(Which::Ours)?;
        Ok(faults)
    }

    fn choose(&self, which: Which) -> Result<()> {
        for kind in KINDS {
            let spare_patient = if which == Which::Atomic { "Y" } else { "N" };
            set(kind, "ignore-gfp-wait", spare_patient)?;
            if which == Which::Ours {
                set(kind, "require-start", &format!("{:#x}", MODULES.0))?;
                set(kind, "require-end", &format!("{:#x}", MODULES.1))?;
                set(kind, "stacktrace-depth", "32")?;
            }
            set(kind, "task-filter", "N")?;
            set(kind, "verbose", "0")?;
            set(kind, "interval", "1")?;
            set(kind, "times", "-1")?;
        }
        set("fail_page_alloc", "min-order", "0")
    }

    /// The `n`th allocation from now on, counting from 1, of the module on this thread's behalf fails;
    /// runs `act`, and tells how many were left to come before that one: 0 if it has failed.
    pub fn nth<R>(&self, n: u64, act: impl FnOnce() -> Result<R>) -> Result<(R, u64)> {
        fs::write(NTH, n.to_string()).with_context(|| format!("writing {n} to {NTH}"))?;
        let result = act();
        let left = fs::read_to_string(NTH).with_context(|| format!("reading {NTH}"))?;
        fs::write(NTH, "0").with_context(|| format!("writing 0 to {NTH}"))?;
        Ok((result?, left.trim().parse().context("a number of faults")?))
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        // Nobody to tell: what goes on failing shows in the next scenario.
        for kind in KINDS {
            let _ = set(kind, "probability", "0");
        }
        for kind in KINDS {
            let _ = set(kind, "require-start", "0");
            let _ = set(kind, "require-end", &u64::MAX.to_string());
        }
    }
}
