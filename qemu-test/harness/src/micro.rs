// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `bench`: how long a page takes, beside others and the floor.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::Table;
use qemu_test_results::figures::{middle, quantile};
use qemu_test_wire::Samples;

use crate::checksum;
use crate::measure;
use crate::record::Recording;
use crate::tree::Tree;

/// The floor.
const FLOOR: &str = "ping-pong";

/// Figures of pages that have one checksum each.
const WITH_CHECKSUM: [&str; 3] = ["evict_ns", "fault_ns", "sequential_ns"];

/// Runs it.
pub fn run(tree: &Tree, quick: bool) -> Result<bool> {
    let name = if quick { "micro-quick" } else { "micro" };
    let recording = Recording::begin(tree, quick)?;
    let Some(samples) = measure::run(tree, name)? else {
        return Ok(false);
    };
    println!("\n{}", table(&samples));
    recording.keep(tree, samples, |results| &mut results.page)?;
    Ok(true)
}

/// Of each round, what part of its values is below what; by what, whose, and round.
fn by_round(samples: &[Samples], percent: usize) -> BTreeMap<(String, String, usize), f64> {
    samples
        .iter()
        .map(|samples| {
            let key = (samples.what.clone(), samples.who.clone(), samples.round);
            (key, quantile(&mut samples.values.clone(), percent))
        })
        .collect()
}

/// For each figure and contender: the median in microseconds, and its ratio to the floor of the same round, with
/// the least and the most of the rounds.
pub fn table(samples: &[Samples]) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header([
        "what",
        "who",
        "p50 us",
        "p99 us",
        "p50 / floor",
        "p99 / floor",
    ]);
    let one = |samples: &Samples| WITH_CHECKSUM.contains(&samples.what.as_str()).then_some(1);
    let samples = &[samples, &checksum::less(samples, one)].concat();
    let whats: BTreeSet<&str> = samples
        .iter()
        .map(|samples| samples.what.as_str())
        .collect();
    let whos: BTreeSet<&str> = samples.iter().map(|samples| samples.who.as_str()).collect();
    let (halves, tails) = (by_round(samples, 50), by_round(samples, 99));
    for what in whats {
        for who in &whos {
            let of = |figures: &BTreeMap<(String, String, usize), f64>, who: &str| -> Vec<f64> {
                let of = |key: &&(String, String, usize)| key.0 == what && key.1 == who;
                figures
                    .iter()
                    .filter(|(key, _)| of(key))
                    .map(|(_, value)| *value)
                    .collect()
            };
            let (half, tail) = (of(&halves, who), of(&tails, who));
            if half.is_empty() {
                continue;
            }
            table.add_row([
                what.to_owned(),
                (*who).to_owned(),
                us(&half),
                us(&tail),
                ratios(&half, &of(&halves, FLOOR)),
                ratios(&tail, &of(&tails, FLOOR)),
            ]);
        }
    }
    table
}

fn us(ns: &[f64]) -> String {
    format!("{:.1}", middle(ns) / 1000.0)
}

fn ratios(ours: &[f64], floor: &[f64]) -> String {
    let mut ratios: Vec<f64> = ours
        .iter()
        .zip(floor)
        .map(|(ours, floor)| ours / floor)
        .collect();
    ratios.sort_by(f64::total_cmp);
    match (ratios.first(), ratios.last()) {
        (Some(least), Some(most)) => {
            format!("{:.2} ({least:.2} to {most:.2})", middle(&ratios))
        }
        _ => String::new(),
    }
}
