// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `bench`: how long a page takes, beside others and the floor.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::Table;
use qemu_test_results::figures::{middle, quantile};
use qemu_test_wire::Samples;

use crate::measure;
use crate::record::Recording;
use crate::tree::Tree;

/// The floor.
const FLOOR: &str = "ping-pong";

/// What a page's checksum takes, and figures with one in each page.
const CHECKSUM: &str = "checksum_ns";
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

/// What these would have taken if a checksum took no time, as it nearly is where the processor has an instruction for it:
/// the emulator has not.
fn less_checksum(samples: &[Samples]) -> Vec<Samples> {
    let mut less = Vec::new();
    for checksum in samples.iter().filter(|samples| samples.what == CHECKSUM) {
        let one = checksum.values.first().copied().unwrap_or(0);
        let with = samples.iter().filter(|samples| {
            samples.who == checksum.who
                && samples.round == checksum.round
                && WITH_CHECKSUM.contains(&samples.what.as_str())
        });
        less.extend(with.map(|samples| {
            let values = samples.values.iter();
            Samples {
                who: format!("{} less checksum", samples.who),
                values: values.map(|ns| ns.saturating_sub(one)).collect(),
                ..samples.clone()
            }
        }));
    }
    less
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
    let samples = &[samples, &less_checksum(samples)].concat();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_its_own_round_is_taken_off() {
        let of = |what: &str, round, value| Samples {
            who: "memsrv".into(),
            what: what.into(),
            round,
            values: vec![value],
        };
        let samples = [
            of(CHECKSUM, 0, 40),
            of(CHECKSUM, 1, 50),
            of("evict_ns", 0, 100),
            of("evict_ns", 1, 100),
            of("update_ns", 1, 100),
        ];
        let less: Vec<_> = less_checksum(&samples)
            .into_iter()
            .map(|samples| (samples.who, samples.what, samples.round, samples.values))
            .collect();
        let evict = |round, ns| {
            (
                "memsrv less checksum".to_owned(),
                "evict_ns".to_owned(),
                round,
                vec![ns],
            )
        };
        assert_eq!(less, [evict(0, 60), evict(1, 50)]);
    }
}
