// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `bench-links`: how long a page takes over narrow links, beside others.

use std::collections::BTreeSet;

use anyhow::Result;
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::Table;
use qemu_test_results::figures::{quantile, spread};
use qemu_test_wire::Samples;

use crate::measure;
use crate::record::Recording;
use crate::tree::Tree;

/// Runs it.
pub fn run(tree: &Tree, quick: bool) -> Result<bool> {
    let name = if quick { "links-quick" } else { "links" };
    let recording = Recording::begin(tree, quick)?;
    let Some(samples) = measure::run(tree, name)? else {
        return Ok(false);
    };
    println!("\n{}", table(&samples));
    recording.keep(tree, samples, |results| &mut results.links)?;
    Ok(true)
}

/// For each figure, who took how long, in microseconds: the median over the rounds, with the least and the most of
/// them, of what half of a round's values are below; and the same of 99 in a hundred where a round has many.
pub fn table(samples: &[Samples]) -> Table {
    let whos: BTreeSet<&str> = samples.iter().map(|samples| samples.who.as_str()).collect();
    let whats: BTreeSet<&str> = samples
        .iter()
        .map(|samples| samples.what.as_str())
        .collect();
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header(["us", "of a round"].iter().chain(&whos));
    for what in whats {
        for percent in [50, 99] {
            let of = |who: &str| {
                let rounds = samples
                    .iter()
                    .filter(|samples| samples.what == what && samples.who == who);
                us(
                    rounds.filter(|samples| percent == 50 || samples.values.len() > 1),
                    percent * 10,
                )
            };
            let cells: Vec<String> = whos.iter().map(|who| of(who)).collect();
            if cells.iter().any(|cell| !cell.is_empty()) {
                table.add_row(
                    [what.to_owned(), format!("p{percent}")]
                        .into_iter()
                        .chain(cells),
                );
            }
        }
    }
    table
}

fn us<'a>(rounds: impl Iterator<Item = &'a Samples>, thousandths: usize) -> String {
    let us: Vec<f64> = rounds
        .map(|samples| quantile(&mut samples.values.clone(), thousandths) / 1000.0)
        .collect();
    spread(&us, 0)
}
