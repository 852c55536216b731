// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! A second guest whose kernel serves its RAM by NVMe/TCP, because the host's kernel may have no such server.
//!
//! It is booted for this and killed afterwards: a guest, even an idle one, takes time of the processors that others are
//! measured on. What makes it serve is a scenario of its own ([`wire::TARGET_SCENARIO`]), and that lasts when the
//! scenario is over, in its kernel.

use anyhow::{bail, Context, Result};
use qemu_test_wire as wire;

use crate::boot::Guest;
use crate::network::{SecondTap, SECOND_TAP};
use crate::suite::{self, Nobody};
use crate::tree::Tree;

/// The guest and the way to it; both end with the value, in this order.
pub struct Target {
    _guest: Guest,
    _tap: SecondTap,
}

impl Target {
    /// Boots it and waits until it serves. Its logs are beside those of scenarios.
    pub fn start(tree: &Tree) -> Result<Self> {
        let scenario = tree.scenario(wire::TARGET_SCENARIO)?;
        let tap = SecondTap::up().context("making the way to a second guest")?;
        let boot = format!("{}-boot", scenario.name);
        let mut guest = suite::boot_behind(tree, &scenario.machine, SECOND_TAP, &boot)?;
        let logs = tree.logs(&scenario.name)?;
        let verdict = suite::run_one(tree, &mut guest, &scenario, &logs, &mut Nobody)?;
        if let Some(error) = verdict.error {
            bail!("the second guest: {error}; see {}", tree.short(&logs));
        }
        Ok(Self {
            _guest: guest,
            _tap: tap,
        })
    }
}
