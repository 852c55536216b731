// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! stress-ng's vm stressor: writes random numbers all over 48 MiB and verifies them, so many times.

use anyhow::Result;

use super::Ran;
use crate::guest::{program, Cgroup};

const WORDS: &[&str] = &[
    "/usr/bin/stress-ng",
    "--quiet",
    "--vm",
    "1",
    "--vm-bytes",
    "48M",
    "--vm-keep",
    "--vm-method",
    "rand-set",
    "--verify",
    "--vm-ops",
    "4000",
];

/// Runs it once, so that its text is in memory.
pub fn prepare() -> Result<()> {
    program::run(None, WORDS).map(drop)
}

/// Runs it; it ends with an error if it finds a wrong byte.
pub fn run(cgroup: &Cgroup) -> Result<Ran> {
    let ran = program::run(Some(cgroup), WORDS)?;
    Ok(Ran::after(ran.seconds, 0))
}
