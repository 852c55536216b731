// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Runs a scenario that measures.

use anyhow::Result;
use qemu_test_wire::Samples;

use crate::suite::{self, Audience};
use crate::tree::Tree;

#[derive(Default)]
struct Listener {
    samples: Vec<Samples>,
}

impl Audience for Listener {
    fn note(&mut self, text: &str) {
        println!("  {text}");
    }

    fn samples(&mut self, samples: Samples) {
        self.samples.push(samples);
    }
}

/// Runs it in a guest of its own; `None`, and why is said, if it failed.
pub fn run(tree: &Tree, name: &str) -> Result<Option<Vec<Samples>>> {
    let scenario = tree.scenario(name)?;
    let mut guest = suite::boot(tree, &scenario.machine, &format!("{name}-boot"))?;
    let logs = tree.logs(name)?;
    let mut listener = Listener::default();
    let verdict = suite::run_one(tree, &mut guest, &scenario, &logs, &mut listener)?;
    if verdict.usable {
        guest.power_off()?;
    }
    if let Some(error) = verdict.error {
        println!("{name} failed: {error}\nlogs: {}", tree.short(&logs));
        return Ok(None);
    }
    Ok(Some(listener.samples))
}
