// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! `bench-apps`: how much longer programs take with a part of the memory that they need, the rest with one contender
//! or another.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use qemu_test_results::figures::{float, middle, quantile, spread};
use qemu_test_wire::Samples;

use crate::checksum;
use crate::measure;
use crate::record::Recording;
use crate::tree::Tree;

/// Whoever has all the memory that it needs.
const LOCAL: &str = "local";
/// Whose slowdown is compared with the others'.
const OURS: &str = "memsrv";
/// With whose.
const THEIRS: &str = "nbd";

/// Runs it.
pub fn run(tree: &Tree, quick: bool) -> Result<bool> {
    let name = if quick { "apps-quick" } else { "apps" };
    let recording = Recording::begin(tree, quick)?;
    let Some(samples) = measure::run(tree, name)? else {
        return Ok(false);
    };
    println!("\n{}\n\n{}", table(&samples), spent(&samples));
    recording.keep(tree, samples, |results| &mut results.apps)?;
    Ok(true)
}

/// How many pages went out and came in while a program of ours ran.
fn pages(all: &[Samples], ran: &Samples) -> Option<u64> {
    let (app, share) = parse(&ran.what)?;
    let what = format!("{app}_{share}_pages");
    let moved = all.iter().find(|samples| {
        samples.who == ran.who && samples.round == ran.round && samples.what == what
    })?;
    moved.values.first().copied()
}

/// How long each took in each round, in nanoseconds, by program, percent of its memory, and whose.
type Figures = BTreeMap<(String, u64), BTreeMap<String, BTreeMap<usize, f64>>>;

fn figures(samples: &[Samples]) -> Figures {
    let mut figures = Figures::new();
    for samples in samples {
        if let Some(what) = parse(&samples.what) {
            let of = figures.entry(what).or_default();
            let rounds = of.entry(samples.who.clone()).or_default();
            let ns = quantile(&mut samples.values.clone(), 500);
            rounds.insert(samples.round, ns);
        }
    }
    figures
}

/// In how many rounds a program could not end because there was too little memory for it.
fn killed(samples: &[Samples], app: &str, share: u64, who: &str) -> usize {
    let what = format!("{app}_{share}_kills");
    let of = samples.iter();
    of.filter(|samples| samples.who == who && samples.what == what)
        .count()
}

/// `redis_50_ns` is redis with 50% of its memory.
fn parse(what: &str) -> Option<(String, u64)> {
    let (app, share) = what.strip_suffix("_ns")?.rsplit_once('_')?;
    Some((app.to_owned(), share.parse().ok()?))
}

/// A line for each program and share of its memory: how many times as long as with all of it in the same round, and in how
/// many rounds it was killed instead; and our extra time as a part of the other's. Medians of the rounds, with the least and
/// the most.
pub fn table(samples: &[Samples]) -> Table {
    let less = checksum::less(samples, |ran| pages(samples, ran));
    let samples = &[samples, &less].concat();
    let figures = figures(samples);
    let whos: BTreeSet<&str> = samples
        .iter()
        .map(|samples| samples.who.as_str())
        .filter(|who| *who != LOCAL)
        .collect();
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    let mut header = vec!["program".to_owned(), "memory".to_owned()];
    header.extend(whos.iter().map(|who| (*who).to_owned()));
    header.extend([OURS, checksum::LESS].map(|ours| format!("extra time, {ours}/{THEIRS}")));
    table.set_header(header);
    for ((app, share), of) in figures.iter().rev() {
        let local = figures
            .get(&(app.clone(), 100))
            .and_then(|of| of.get(LOCAL));
        let Some(local) = local.filter(|_| *share < 100) else {
            continue;
        };
        // Of the rounds in which it ran to its end with all memory, too.
        let slowdown = |who: &str| -> BTreeMap<usize, f64> {
            let rounds = of.get(who).into_iter().flatten();
            let part = |(round, ns): (&usize, &f64)| Some((*round, ns / local.get(round)?));
            rounds.filter_map(part).collect()
        };
        let mut row = vec![app.clone(), format!("{share}%")];
        row.extend(whos.iter().map(|who| {
            let slowdown: Vec<f64> = slowdown(who).into_values().collect();
            let slowdown = (!slowdown.is_empty()).then(|| spread(&slowdown, 2));
            let killed = killed(samples, app, *share, who);
            let killed = (killed > 0).then(|| format!("killed {killed}x"));
            let words: Vec<String> = slowdown.into_iter().chain(killed).collect();
            words.join(", ")
        }));
        let theirs = slowdown(THEIRS);
        row.extend([OURS, checksum::LESS].map(|ours| {
            let extra = slowdown(ours).into_iter().filter_map(|(round, ours)| {
                let theirs = theirs.get(&round)?;
                Some((ours - 1.0) / (theirs - 1.0))
            });
            spread(&extra.collect::<Vec<f64>>(), 2)
        }));
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// What programs spent their time on, in seconds, medians of the rounds: user mode, the kernel, and waiting for memory,
/// which may overlap where a program has several tasks. For each fault that read something, the wait in microseconds;
/// for each page that reclaim freed, how many it looked at.
pub fn spent(samples: &[Samples]) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header([
        "program",
        "memory",
        "whose",
        "time, s",
        "user",
        "kernel",
        "waited",
        "faults",
        "us waited for each",
        "scanned/freed",
    ]);
    let mut rounds: BTreeMap<(&str, &str, &str), Vec<f64>> = BTreeMap::new();
    for samples in samples {
        if let Some((of, what)) = split(&samples.what) {
            let values = rounds.entry((of, &samples.who, what)).or_default();
            values.extend(samples.values.iter().copied().map(float));
        }
    }
    let keys: BTreeSet<(&str, &str)> = rounds.keys().map(|(of, who, _)| (*of, *who)).collect();
    for (of, who) in keys {
        let median = |what| rounds.get(&(of, who, what)).map(|values| middle(values));
        let (Some(user), Some(system), Some(waited), Some(faults), Some(ns)) = (
            median("user_us"),
            median("system_us"),
            median("waited_us"),
            median("faults"),
            median("ns"),
        ) else {
            continue;
        };
        let Some((app, share)) = of.rsplit_once('_') else {
            continue;
        };
        let seconds = |us: f64| format!("{:.2}", us / 1e6);
        let each = (faults > 0.0).then(|| format!("{:.0}", waited / faults));
        let (scanned, freed) = (median("scanned"), median("freed"));
        let scans = scanned.zip(freed).filter(|(_, freed)| *freed > 0.0);
        let scans = scans.map(|(scanned, freed)| format!("{:.1}", scanned / freed));
        table.add_row([
            app.to_owned(),
            format!("{share}%"),
            who.to_owned(),
            seconds(ns / 1000.0),
            seconds(user),
            seconds(system),
            seconds(waited),
            format!("{faults:.0}"),
            each.unwrap_or_default(),
            scans.unwrap_or_default(),
        ]);
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// `redis_50_user_us` is `redis_50`'s `user_us`.
fn split(what: &str) -> Option<(&str, &str)> {
    let end = what.find(|c: char| c.is_ascii_digit())?;
    let digits = what.get(end..)?.find('_')?;
    let (of, what) = what.split_at_checked(end.checked_add(digits)?)?;
    Some((of, what.strip_prefix('_')?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_what_the_time_was_spent_on() {
        let sample = |what: &str, round, value: u64| Samples {
            who: OURS.to_owned(),
            what: format!("stress-ng_50_{what}"),
            round,
            values: vec![value],
        };
        let mut samples = vec![sample("kills", 1, 1)];
        for (round, value) in [1_000_000, 3_000_000, 9_000_000].into_iter().enumerate() {
            samples.push(sample("user_us", round, value));
            samples.push(sample("system_us", round, 2 * value));
            samples.push(sample("waited_us", round, 4 * value));
            samples.push(sample("faults", round, value / 100));
            samples.push(sample("scanned", round, 3 * value));
            samples.push(sample("freed", round, 2 * value));
        }
        assert_eq!(spent(&samples).row_count(), 0, "no time");
        samples.push(sample("ns", 0, 20_000_000_000));
        let table = spent(&samples).to_string();
        let line = table.lines().last().unwrap();
        let words: Vec<&str> = line.split('|').map(str::trim).collect();
        let wanted = [
            "",
            "stress-ng",
            "50%",
            OURS,
            "20.00",
            "3.00",
            "6.00",
            "12.00",
            "30000",
            "400",
            "1.5",
            "",
        ];
        assert_eq!(words, wanted);
    }

    #[test]
    fn a_line_tells_how_many_times_as_long_each_takes() {
        let sample = |who: &str, what: &str, values: &[u64]| Samples {
            who: who.to_owned(),
            what: what.to_owned(),
            round: 0,
            values: values.to_vec(),
        };
        let samples = [
            sample(LOCAL, "stress-ng_100_ns", &[100]),
            sample(OURS, "stress-ng_50_ns", &[150, 160, 110]),
            sample(OURS, "stress-ng_50_pages", &[4]),
            sample(OURS, "checksum_ns", &[5]),
            sample(THEIRS, "stress-ng_50_ns", &[300]),
            sample(THEIRS, "stress-ng_50_kills", &[7]),
            sample("zram", "stress-ng_50_kills", &[1]),
        ];
        let table = table(&samples).to_string();
        let line = table.lines().last().unwrap();
        let words: Vec<&str> = line.split('|').map(str::trim).collect();
        assert_eq!(
            words,
            [
                "",
                "stress-ng",
                "50%",
                "1.50 (1.50 to 1.50)",
                "1.30 (1.30 to 1.30)",
                "3.00 (3.00 to 3.00), killed 1x",
                "killed 1x",
                "0.25 (0.25 to 0.25)",
                "0.15 (0.15 to 0.15)",
                ""
            ]
        );
    }
}
