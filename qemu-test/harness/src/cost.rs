// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `bench-cost`: what a page costs in instructions, beside what is kept in `Documentation/benchmarks/cost.json`.
//!
//! The machine's clock counts instructions, so the figures do not depend on who runs it. They do on the kernel;
//! therefore what is held is their ratio to others' of the same run.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{ensure, Context, Result};
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use qemu_test_results::figures::float;
use qemu_test_wire::Samples;
use serde::{Deserialize, Serialize};

use crate::measure;
use crate::tree::Tree;

/// By how much of itself a ratio may grow.
const TOLERANCE: f64 = 0.03;
/// Whose figures are held.
const OURS: &str = "memsrv";
/// To whom they are held: who does the same work each time. What nbdkit does with its 16 threads differs by
/// hundredths.
const OTHERS: [&str; 2] = ["nbd -t1", "brd"];
/// What is measured, and its words for a table.
const WHAT: [(&str, &str); 3] = [
    ("fault_ns", "page faulted in"),
    ("sequential_ns", "page read in sequence, with readahead"),
    ("evict_ns", "page evicted"),
];

/// The stages of a fault, and their words.
const STAGES: [(&str, &str); 4] = [
    ("stage_hand_ns", "until the request is handed to TCP"),
    ("stage_answer_ns", "until the answer is there"),
    ("stage_fill_ns", "until the page is filled"),
    ("stage_rest_ns", "the kernel before and after"),
];

/// What is kept: ratios of ours to another's, by figure and by whose.
#[derive(Debug, Default, Serialize, Deserialize, PartialEq)]
struct Kept {
    /// The kernel that they were measured on.
    kernel: String,
    ratios: BTreeMap<String, f64>,
}

/// Instructions, by what and whose.
type Figures = BTreeMap<(String, String), f64>;

/// Measures, shows, and compares; with `update` it keeps what it has measured.
pub fn run(tree: &Tree, update: bool) -> Result<bool> {
    println!("counting instructions in a guest with client and server");
    let Some(samples) = measure::run(tree, "cost")? else {
        return Ok(false);
    };
    let raw = tree.place("bench").join("cost.json");
    fs::create_dir_all(tree.place("bench")).context("making build/bench")?;
    fs::write(&raw, serde_json::to_vec(&samples)?)
        .with_context(|| format!("writing {}", raw.display()))?;
    let figures = figures(&samples);
    let ratios = ratios(&figures)?;
    println!("\n{}", table(&figures));
    println!("{}\n", stages(&figures)?);
    let place = kept_place(tree);
    if update {
        let kernel = fs::read_to_string(tree.file("kernel/release")?)?;
        let kept = Kept {
            kernel: kernel.trim().to_owned(),
            ratios,
        };
        let mut text = serde_json::to_string_pretty(&kept)?;
        text.push('\n');
        fs::write(&place, text).with_context(|| format!("writing {}", place.display()))?;
        println!("kept in {}", tree.short(&place));
        return Ok(true);
    }
    let text = fs::read_to_string(&place)
        .with_context(|| format!("reading {}, which --update writes", place.display()))?;
    let kept: Kept =
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", place.display()))?;
    Ok(compare(&kept, &ratios))
}

fn kept_place(tree: &Tree) -> PathBuf {
    tree.source("Documentation/benchmarks/cost.json")
}

/// The mean of each, without the extremes: a timer's interrupt, or what only the first of many has to do.
fn figures(samples: &[Samples]) -> Figures {
    let mut all: BTreeMap<(String, String), Vec<u64>> = BTreeMap::new();
    for samples in samples {
        let values = all
            .entry((samples.what.clone(), samples.who.clone()))
            .or_default();
        values.extend(&samples.values);
    }
    all.into_iter()
        .map(|(key, mut values)| (key, trimmed_mean(&mut values)))
        .collect()
}

/// The mean of all but the twentieth part at either end, and at least the least and the most: of an eviction there is
/// one figure in each round, and now and then one is larger.
fn trimmed_mean(values: &mut [u64]) -> f64 {
    values.sort_unstable();
    let cut = (values.len() / 20).max(usize::from(values.len() > 2));
    let kept = values
        .get(cut..values.len().saturating_sub(cut))
        .unwrap_or_default();
    let count = u64::try_from(kept.len()).unwrap_or(u64::MAX).max(1);
    float(kept.iter().sum()) / float(count)
}

fn figure(figures: &Figures, what: &str, who: &str) -> Option<f64> {
    figures.get(&(what.to_owned(), who.to_owned())).copied()
}

fn ratios(figures: &Figures) -> Result<BTreeMap<String, f64>> {
    let mut ratios = BTreeMap::new();
    for (what, _) in WHAT {
        for other in OTHERS {
            let name = format!("{what} {OURS}/{other}");
            let (Some(ours), Some(theirs)) =
                (figure(figures, what, OURS), figure(figures, what, other))
            else {
                anyhow::bail!("{name}: the guest has not measured both");
            };
            ensure!(theirs > 0.0, "{name}: the other one is 0");
            ratios.insert(name, (ours / theirs * 1000.0).round() / 1000.0);
        }
    }
    Ok(ratios)
}

fn table(figures: &Figures) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    let columns = ["ping-pong", "brd", "nbd", "nbd -t1", OURS];
    let mut header = vec!["instructions".to_owned()];
    header.extend(columns.map(str::to_owned));
    header.extend(OTHERS.map(|other| format!("{OURS}/{other}")));
    table.set_header(header);
    for (what, words) in WHAT {
        let mut row = vec![format!("per {words}")];
        row.extend(columns.map(|who| {
            figure(figures, what, who).map_or(String::new(), |value| format!("{value:.0}"))
        }));
        row.extend(OTHERS.map(|other| {
            let ours = figure(figures, what, OURS);
            let ratio = ours.zip(figure(figures, what, other));
            ratio.map_or(String::new(), |(ours, theirs)| {
                format!("{:.3}", ours / theirs)
            })
        }));
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// In which stages a fault of ours spends its instructions, as the module and the program have timed them.
fn stages(figures: &Figures) -> Result<String> {
    let mut stages = Vec::new();
    for (what, words) in STAGES {
        let mean = figure(figures, what, OURS)
            .with_context(|| format!("{what}: the guest has not measured it"))?;
        stages.push(format!("{words} {mean:.0}"));
    }
    Ok(format!("of a fault by {OURS}: {}", stages.join(", ")))
}

/// Says which ratios have grown, or shrunk by as much; whether none has grown.
fn compare(kept: &Kept, ratios: &BTreeMap<String, f64>) -> bool {
    let mut good = true;
    for (name, now) in ratios {
        let Some(before) = kept.ratios.get(name) else {
            println!("{name}: {now:.3}; none is kept, `qemu-test bench-cost --update` keeps it");
            good = false;
            continue;
        };
        if *now > before * (1.0 + TOLERANCE) {
            println!(
                "{name}: WORSE: {now:.3}, kept is {before:.3} (on {})",
                kept.kernel
            );
            good = false;
        } else if *now < before * (1.0 - TOLERANCE) {
            println!("{name}: better: {now:.3}, kept is {before:.3}; keep it by `qemu-test bench-cost --update`");
        } else {
            println!("{name}: {now:.3}, kept is {before:.3}");
        }
    }
    good
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(value: f64) -> Kept {
        Kept {
            kernel: "7".to_owned(),
            ratios: BTreeMap::from([("fault_ns memsrv/brd".to_owned(), value)]),
        }
    }

    #[test]
    fn a_ratio_may_grow_by_three_hundredths_and_no_more() {
        for (now, good) in [(0.50, true), (0.514, true), (0.516, false), (0.3, true)] {
            assert_eq!(compare(&kept(0.5), &kept(now).ratios), good, "{now}");
        }
        assert!(!compare(&Kept::default(), &kept(0.5).ratios));
    }

    #[test]
    fn extremes_do_not_count() {
        let mut values: Vec<u64> = (0..18).map(|_| 10).chain([0, 1_000_000]).collect();
        assert_eq!(trimmed_mean(&mut values).to_bits(), 10.0_f64.to_bits());
        assert_eq!(
            trimmed_mean(&mut [9, 1_000_000, 11, 10]).to_bits(),
            10.5_f64.to_bits()
        );
        assert_eq!(trimmed_mean(&mut [1, 4]).to_bits(), 2.5_f64.to_bits());
    }
}
