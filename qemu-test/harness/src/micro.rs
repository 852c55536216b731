// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `bench`: how long a page takes, beside others and the floor.

use std::collections::BTreeMap;

use anyhow::Result;
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use qemu_test_results::figures::{float, middle, quantile, spread};
use qemu_test_wire::Samples;

use crate::checksum;
use crate::measure;
use crate::record::Recording;
use crate::tree::Tree;

/// Whose module tells of itself.
const OURS: &str = "memsrv";
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
    if let Some(words) = spins(&samples) {
        println!("{words}");
    }
    if let Some(words) = slow(&samples) {
        println!("{words}");
    }
    recording.keep(tree, samples, |results| &mut results.page)?;
    Ok(true)
}

/// A figure of each round, by what and whose.
type Figures<'a> = BTreeMap<(&'a str, &'a str), BTreeMap<usize, f64>>;

/// Below what so many of a thousand values of each round are, in nanoseconds. Where a round has one value, only half.
fn by_round(samples: &[Samples], thousandths: usize) -> Figures<'_> {
    let mut figures = Figures::new();
    for samples in samples {
        if samples.what.ends_with("_ns") && (thousandths == 500 || samples.values.len() > 1) {
            let of = figures.entry((&*samples.what, &*samples.who)).or_default();
            let value = quantile(&mut samples.values.clone(), thousandths);
            of.insert(samples.round, value);
        }
    }
    figures
}

/// For each figure and contender: medians of the rounds in microseconds, and the ratio to the floor of the same round;
/// of halves and of ratios with the least and the most of the rounds.
pub fn table(samples: &[Samples]) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header([
        "what",
        "who",
        "p50 us",
        "p90 us",
        "p99 us",
        "p99.9 us",
        "p50 / floor",
        "p99 / floor",
    ]);
    let one = |samples: &Samples| WITH_CHECKSUM.contains(&samples.what.as_str()).then_some(1);
    let samples = &[samples, &checksum::less(samples, one)].concat();
    let [halves, nine, tails, last] = [500, 900, 990, 999].map(|part| by_round(samples, part));
    for (key, half) in &halves {
        table.add_row([
            key.0.to_owned(),
            key.1.to_owned(),
            spread(&us(half), 1),
            median(&nine, *key),
            median(&tails, *key),
            median(&last, *key),
            ratios(&halves, *key),
            ratios(&tails, *key),
        ]);
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// How many of our single faults were waited for without sleeping; `None` where that was not counted.
pub fn spins(samples: &[Samples]) -> Option<String> {
    let rounds = |what: &str, figure: fn(&Samples) -> Option<f64>| -> Vec<f64> {
        let of = samples
            .iter()
            .filter(|of| of.who == OURS && of.what == what);
        of.filter_map(figure).collect()
    };
    let first = |of: &Samples| of.values.first().map(|value| float(*value));
    let all = rounds("fault_ns", |of| {
        u32::try_from(of.values.len()).ok().map(f64::from)
    });
    let of_all = |what| {
        let part = rounds(what, first).into_iter().zip(&all);
        let part: Vec<f64> = part.map(|(some, all)| 100.0 * some / all).collect();
        (!part.is_empty()).then(|| spread(&part, 1))
    };
    let (spins, won) = (of_all("fault_spins")?, of_all("fault_spins_won")?);
    Some(format!(
        "Of {OURS}'s single faults {spins}% were waited for without sleeping, {won}% with success."
    ))
}

/// In how many single faults of all rounds, ours and the floor's, which took a millisecond or more, a stage did so.
pub fn slow(samples: &[Samples]) -> Option<String> {
    let of = |who: &'static str, what: &'static str| {
        let of = samples
            .iter()
            .filter(move |of| of.who == who && of.what == what);
        of.flat_map(|of| of.values.iter().copied())
    };
    let faults = |who| of(who, "fault_ns").filter(|&ns| ns >= 1 << 20).count();
    let stage = |what| of(OURS, what).reduce(|sum, n| sum + n);
    let (hand, answer, fill) = (
        stage("slow_hand")?,
        stage("slow_answer")?,
        stage("slow_fill")?,
    );
    Some(format!(
        "{} of them took 1.05 ms or more, of which one stage did so: {hand} until handed to TCP, {answer} until the answer, {fill} until the page was filled; of as many of {FLOOR} {} did.",
        faults(OURS),
        faults(FLOOR),
    ))
}

fn us(rounds: &BTreeMap<usize, f64>) -> Vec<f64> {
    rounds.values().map(|ns| ns / 1000.0).collect()
}

fn median(figures: &Figures, key: (&str, &str)) -> String {
    let rounds = figures.get(&key);
    rounds.map_or(String::new(), |rounds| {
        format!("{:.1}", middle(&us(rounds)))
    })
}

/// Of the rounds that the floor has, too.
fn ratios(figures: &Figures, key: (&str, &str)) -> String {
    let both = figures.get(&key).zip(figures.get(&(key.0, FLOOR)));
    let ratios = both.into_iter().flat_map(|(ours, floor)| {
        let of = |(round, ours): (&usize, &f64)| floor.get(round).map(|floor| ours / floor);
        ours.iter().filter_map(of)
    });
    spread(&ratios.collect::<Vec<f64>>(), 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spins_are_a_part_of_the_same_rounds_faults() {
        let sample = |what: &str, round, values: &[u64]| Samples {
            who: OURS.to_owned(),
            what: what.to_owned(),
            round,
            values: values.to_vec(),
        };
        let mut samples = vec![
            sample("fault_spins", 0, &[2]),
            sample("fault_spins_won", 0, &[1]),
            sample("fault_ns", 0, &[7; 4]),
            sample("fault_ns", 1, &[7; 8]),
            sample("fault_spins", 1, &[8]),
            sample("fault_spins_won", 1, &[6]),
        ];
        let words = "Of memsrv's single faults 75.0 (50.0 to 100.0)% were waited for without sleeping, 50.0 (25.0 to 75.0)% with success.";
        assert_eq!(spins(&samples).as_deref(), Some(words));
        samples.retain(|samples| samples.what == "fault_ns");
        assert_eq!(spins(&samples), None);
    }

    #[test]
    fn slow_faults_of_all_rounds_are_counted_and_so_are_their_stages() {
        let sample = |who: &str, what: &str, values: &[u64]| Samples {
            who: who.to_owned(),
            what: what.to_owned(),
            round: 0,
            values: values.to_vec(),
        };
        let mut samples = vec![
            sample(OURS, "fault_ns", &[1 << 20, 5_000_000, 7]),
            sample(OURS, "fault_ns", &[2_000_000]),
            sample(OURS, "slow_hand", &[1]),
            sample(OURS, "slow_hand", &[1]),
            sample(OURS, "slow_answer", &[4]),
            sample(OURS, "slow_fill", &[0]),
            sample(FLOOR, "fault_ns", &[(1 << 20) - 1, 3_000_000]),
        ];
        let words = slow(&samples).unwrap();
        assert!(words.starts_with("3 of them"), "{words}");
        assert!(
            words.contains(": 2 until handed to TCP, 4 until the answer, 0 until"),
            "{words}"
        );
        assert!(words.ends_with("of ping-pong 1 did."), "{words}");
        samples.retain(|samples| samples.what != "slow_fill");
        assert_eq!(slow(&samples), None);
    }

    #[test]
    fn a_line_has_the_spread_of_rounds_and_no_tail_of_a_single_value() {
        let sample = |who: &str, what: &str, round, values: Vec<u64>| Samples {
            who: who.to_owned(),
            what: what.to_owned(),
            round,
            values,
        };
        let to = |most: u64| (1..=1000).map(|n| n * most).collect::<Vec<u64>>();
        let samples = [
            sample(FLOOR, "fault_ns", 0, to(1000)),
            sample(FLOOR, "fault_ns", 1, to(2000)),
            sample("nbd", "fault_ns", 1, to(3000)),
            sample("nbd", "fault_ns", 0, to(2000)),
            sample("nbd", "evict_ns", 0, vec![70_000]),
            sample("nbd", "evict_ns", 1, vec![90_000]),
            sample("nbd", "faults_spun", 1, vec![9]),
        ];
        let table = table(&samples).to_string();
        let lines = table.lines().skip(2).map(|line| {
            let words = line
                .split('|')
                .map(str::trim)
                .filter(|word| !word.is_empty());
            words.collect::<Vec<_>>().join("; ")
        });
        assert_eq!(
            lines.collect::<Vec<_>>(),
            [
                "evict_ns; nbd; 80.0 (70.0 to 90.0)",
                "fault_ns; nbd; 1252.5 (1002.0 to 1503.0); 2252.5; 2477.5; 2500.0; 1.75 (1.50 to 2.00); 1.75 (1.50 to 2.00)",
                "fault_ns; ping-pong; 751.5 (501.0 to 1002.0); 1351.5; 1486.5; 1500.0; 1.00 (1.00 to 1.00); 1.00 (1.00 to 1.00)",
            ]
        );
    }
}
