// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Runs a scenario that measures, and keeps what it measured: raw, in `build/bench/NAME.json`.

use std::fs;

use anyhow::{Context, Result};
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
    let place = tree.place("bench").join(format!("{name}.json"));
    fs::create_dir_all(tree.place("bench")).context("making build/bench")?;
    fs::write(&place, serde_json::to_vec(&listener.samples)?)
        .with_context(|| format!("writing {}", place.display()))?;
    Ok(Some(listener.samples))
}

/// As a floating-point number; what is measured here is far below 2^53.
#[expect(
    clippy::as_conversions,
    reason = "there is no other way from u64 to f64"
)]
pub fn float(value: u64) -> f64 {
    value as f64
}

/// The one below which so many of a hundred are; 0 of none.
pub fn quantile(values: &mut [u64], percent: usize) -> f64 {
    values.sort_unstable();
    let place = values.len() * percent / 100;
    values
        .get(place.min(values.len().saturating_sub(1)))
        .copied()
        .map_or(0.0, float)
}
