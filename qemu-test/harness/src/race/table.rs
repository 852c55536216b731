// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What was raced, as tables: of the rounds the median, and in brackets the least and the most.

use std::collections::BTreeMap;

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use qemu_test_results::figures::{float, middle, once, spread};
use qemu_test_results::race::{Beside, Line, Sample};

use crate::race::contender::Contender;

/// A goal, and what came of it.
pub struct Goal {
    words: String,
    seen: String,
    kept: usize,
    of: usize,
}

impl Goal {
    /// Of each case's median, and the case: whether it is as `good` says; seen are the least and the most.
    fn new(words: String, mut medians: Vec<(f64, String)>, good: impl Fn(f64) -> bool) -> Self {
        medians.sort_by(|a, b| a.0.total_cmp(&b.0));
        let say = |median: Option<&(f64, String)>| {
            median.map_or(String::new(), |(value, case)| {
                format!("{value:.3} ({case})")
            })
        };
        let [least, most] = [say(medians.first()), say(medians.last())];
        Self {
            words,
            seen: if least == most {
                least
            } else {
                format!("{least} to {most}")
            },
            kept: medians.iter().filter(|(value, _)| good(*value)).count(),
            of: medians.len(),
        }
    }
}

/// A figure of each round.
type Figures = BTreeMap<usize, f64>;

fn figures(samples: &[&Sample], case: &str, who: &str, figure: fn(&Line) -> f64) -> Figures {
    samples
        .iter()
        .filter(|sample| sample.case == case && sample.who == who)
        .map(|sample| (sample.round, figure(&sample.line)))
        .collect()
}

/// The quotient of each round in which both were measured.
fn ratios(above: &Figures, below: &Figures) -> Vec<f64> {
    above
        .iter()
        .filter_map(|(round, above)| below.get(round).map(|below| above / below))
        .collect()
}

fn median(figures: &Figures) -> f64 {
    middle(&all(figures))
}

fn all(figures: &Figures) -> Vec<f64> {
    figures.values().copied().collect()
}

fn new_table(header: &[&str], words: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN);
    table.set_header(header.to_vec());
    for column in table.column_iter_mut().skip(words) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The cases of a series, in the order of measuring.
fn cases<'a>(samples: &[&'a Sample]) -> Vec<&'a str> {
    once(samples.iter().map(|sample| sample.case.as_str()))
}

/// Those of a series.
pub fn of_series<'a>(samples: &'a [Sample], series: &str) -> Vec<&'a Sample> {
    samples
        .iter()
        .filter(|sample| sample.series == series)
        .collect()
}

/// All contenders beside each other.
pub fn comparison(samples: &[&Sample]) -> Table {
    let header = [
        "what",
        "who",
        "requests/s",
        "requests per s of its CPU",
        "p50 us",
        "p99 us",
        "memsrvd / it, per CPU",
    ];
    let mut table = new_table(&header, 2);
    let ours = Contender::Memsrvd.name();
    for case in cases(samples) {
        let our_rate = figures(samples, case, ours, Line::per_cpu_second);
        for who in Contender::ALL.map(Contender::name) {
            let of = |figure| figures(samples, case, who, figure);
            let rate = of(Line::per_cpu_second);
            table.add_row([
                case.to_owned(),
                who.to_owned(),
                format!("{:.0}", median(&of(|line| line.per_second))),
                spread(&all(&rate), 0),
                format!("{:.1}", median(&of(Line::p50_us))),
                format!("{:.1}", median(&of(Line::p99_us))),
                spread(&ratios(&our_rate, &rate), 2),
            ]);
        }
    }
    table
}

/// Ours against another, in each case, and what is wanted at least.
pub fn goal_against(samples: &[&Sample], other: Contender, wanted: f64) -> Goal {
    let rate = |case, who: Contender| figures(samples, case, who.name(), Line::per_cpu_second);
    let medians = cases(samples).into_iter().map(|case| {
        let ratios = ratios(&rate(case, Contender::Memsrvd), &rate(case, other));
        (middle(&ratios), case.to_owned())
    });
    let name = other.name();
    let words = format!("requests per s of CPU, memsrvd / {name}, at least {wanted}");
    Goal::new(words, medians.collect(), |ratio| ratio >= wanted)
}

/// Costs, and what they are beside those of `base` in the same rounds.
pub fn growth(samples: &[&Sample], base: &str) -> Table {
    let header = [
        "what",
        "which",
        "us of CPU for a request",
        "p99 us",
        "beside the first's",
    ];
    let mut table = new_table(&header, 2);
    for case in cases(samples) {
        for who in whos(samples, case) {
            let of = |figure| figures(samples, case, who, figure);
            table.add_row([
                case.to_owned(),
                who.to_owned(),
                spread(&all(&of(Line::cost_us)), 2),
                format!("{:.1}", median(&of(Line::p99_us))),
                spread(&grown(samples, case, who, base), 3),
            ]);
        }
    }
    table
}

/// Who was measured in a case, in that order.
fn whos<'a>(samples: &[&'a Sample], case: &str) -> Vec<&'a str> {
    let samples = samples.iter().filter(|sample| sample.case == case);
    once(samples.map(|sample| sample.who.as_str()))
}

/// The cost beside that of the base.
fn grown(samples: &[&Sample], case: &str, who: &str, base: &str) -> Vec<f64> {
    let cost = |who| figures(samples, case, who, Line::cost_us);
    ratios(&cost(who), &cost(base))
}

/// By how much the cost may be above the base's, in each case.
pub fn goal_growth(samples: &[&Sample], base: &str, words: &str, most: f64) -> Goal {
    let mut medians = Vec::new();
    for case in cases(samples) {
        for who in whos(samples, case).into_iter().filter(|who| *who != base) {
            let ratio = middle(&grown(samples, case, who, base));
            medians.push((ratio, format!("{case}, {who}")));
        }
    }
    let words = format!("cost of a request, {words}, at most {most}");
    Goal::new(words, medians, |ratio| ratio > 0.0 && ratio <= most)
}

/// How much memory there may be beside so many pages and more, in hundredths of those: with fewer, a process of
/// some MiB is much.
pub fn goal_memory(besides: &[Beside], from_pages: u64, below: f64) -> Goal {
    let besides = besides.iter().filter(|beside| beside.pages >= from_pages);
    let percents = besides.map(|beside| (beside.percent, format!("{} pages", beside.pages)));
    let words = format!("memory beside {from_pages} pages and more, below {below}%");
    Goal::new(words, percents.collect(), |percent| percent < below)
}

/// Memory beside the pages.
pub fn memory(besides: &[Beside]) -> Table {
    let header = [
        "pages",
        "RSS, MiB",
        "tables, MiB (its own words)",
        "beside the pages",
    ];
    let mut table = new_table(&header, 0);
    for beside in besides {
        let mib = |bytes: u64| format!("{:.1}", float(bytes) / 1_048_576.0);
        table.add_row([
            beside.pages.to_string(),
            mib(beside.rss_bytes),
            mib(beside.overhead_bytes),
            format!("{:.3}%", beside.percent),
        ]);
    }
    table
}

/// What was wanted and what came of it.
pub fn goals(goals: &[Goal]) -> Table {
    let mut table = new_table(&["goal", "seen, medians", "kept"], 2);
    for goal in goals {
        table.add_row([
            goal.words.clone(),
            goal.seen.clone(),
            format!("{} of {}", goal.kept, goal.of),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(who: &str, round: usize, cpu_us: u64) -> Sample {
        let line = serde_json::json!({
            "connections": 1, "depth": 1, "loads_percent": 100, "pages": 1,
            "requests": 1000, "seconds": 1.0, "per_second": 1000,
            "loads": { "count": 1000, "p50_us": 1.0, "p99_us": 2.0, "p999_us": 3.0 },
            "stores": { "count": 0, "p50_us": 0.0, "p99_us": 0.0, "p999_us": 0.0 },
            "server": { "cpu_us": cpu_us, "rss_bytes": 1, "locked_bytes": 0 },
            "generator": { "cpu_us": 1 },
        });
        Sample {
            series: "compare".to_owned(),
            case: "loads".to_owned(),
            who: who.to_owned(),
            round,
            line: serde_json::from_value(line).unwrap(),
        }
    }

    #[test]
    fn ratios_are_those_of_a_round_and_goals_of_their_median() {
        // In the third round the echo server was not measured.
        let ours = [(0, 100_000), (1, 200_000), (2, 900_000)];
        let echo = [(1, 160_000), (0, 90_000)];
        let ours = ours.map(|(round, cpu_us)| sample("memsrvd", round, cpu_us));
        let echo = echo.map(|(round, cpu_us)| sample("echo", round, cpu_us));
        let samples: Vec<&Sample> = ours.iter().chain(&echo).collect();
        let rate = |who| figures(&samples, "loads", who, Line::per_cpu_second);
        let ratios = ratios(&rate("memsrvd"), &rate("echo"));
        assert_eq!(spread(&ratios, 2), "0.85 (0.80 to 0.90)");
        let goal = goal_against(&samples, Contender::Echo, 0.8);
        assert_eq!((goal.kept, goal.of), (1, 1));
        assert_eq!(goal_against(&samples, Contender::Echo, 0.9).kept, 0);
        assert_eq!(goal.seen, "0.850 (loads)");
    }

    #[test]
    fn growth_may_be_a_tenth() {
        let samples = [sample("few", 0, 100_000), sample("many", 0, 109_000)];
        let samples: Vec<&Sample> = samples.iter().collect();
        let goal = |most| goal_growth(&samples, "few", "more", most);
        assert_eq!((goal(1.1).kept, goal(1.1).of), (1, 1));
        assert_eq!(goal(1.05).kept, 0);
    }
}
