// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How much longer applications take with less memory: a panel for each, a line for each contender.

use std::collections::BTreeSet;

use anyhow::Result;
use plotters::prelude::*;
use qemu_test_results::Samples;

use crate::lines::{self, Line, Panel};
use crate::style::{legend, log_ticks, looks, picture, Look, TEXT};
use qemu_test_results::figures::{middle, once, rounds, Spread};
use qemu_test_results::Part;

/// Who is swapped to where there is memory enough.
const LOCAL: &str = "local";
/// All of its memory.
const ALL: u64 = 100;

/// The picture, if there are applications.
pub fn draw(part: &Part<Vec<Samples>>) -> Result<Option<String>> {
    let samples = &part.samples;
    let whos = once(samples.iter().map(|samples| samples.who.as_str()));
    let whos: Vec<&str> = whos.into_iter().filter(|who| *who != LOCAL).collect();
    let looks = looks(&whos);
    let entries: Vec<(String, Look)> = looks
        .iter()
        .map(|(who, look)| ((*who).to_owned(), *look))
        .collect();
    let apps = once(samples.iter().filter_map(|samples| Some(case(samples)?.0)));
    let panels = apps.iter().map(|app| panel(samples, app, &looks));
    let panels: Vec<Panel> = panels.filter(|panel| panel.steps.len() > 1).collect();
    if panels.is_empty() {
        return Ok(None);
    }
    let spreads = panels.iter().flat_map(|panel| &panel.lines);
    let spreads = spreads.flat_map(|line| &line.points);
    let (range, ticks) = log_ticks(spreads.flat_map(|(_, spread)| [spread.least, spread.most]))?;
    let title = "Slowdown of applications with less memory: lower is better";
    let svg = picture(title, &part.about, |area| {
        let area = legend(area, &entries)?;
        let columns = if panels.len() == 4 {
            2
        } else {
            panels.len().min(3)
        };
        let grid = (panels.len().div_ceil(columns), columns);
        for (panel, area) in panels.iter().zip(area.split_evenly(grid)) {
            let axis = range.clone().log_scale().with_key_points(ticks.clone());
            lines::draw(&area, panel, axis)?;
        }
        Ok(())
    })?;
    Ok(Some(svg))
}

/// An application and the percentage of its memory, of a name such as `redis_50_ns`.
fn case(samples: &Samples) -> Option<(&str, u64)> {
    let (app, percent) = samples.what.strip_suffix("_ns")?.rsplit_once('_')?;
    Some((app, percent.parse().ok()?))
}

fn panel<'w>(samples: &[Samples], app: &str, looks: &[(&str, Look)]) -> Panel<'w> {
    let percents = samples
        .iter()
        .filter_map(case)
        .filter(|(name, _)| *name == app);
    let percents: BTreeSet<u64> = percents.map(|(_, percent)| percent).collect();
    let lines = looks.iter().map(|(who, look)| {
        let less = percents.iter().rev().enumerate();
        let point =
            |(step, percent): (usize, &u64)| Some((step, slowdown(samples, app, who, *percent)?));
        Line {
            look: *look,
            points: less.filter_map(point).collect(),
        }
    });
    Panel {
        title: app.to_owned(),
        x: "memory, % of what it needs",
        y: "time / time with all memory",
        room: TEXT * 3,
        lines: lines.collect(),
        steps: percents.iter().rev().map(u64::to_string).collect(),
    }
}

/// The time of each round beside that with all memory in the same round.
fn slowdown(samples: &[Samples], app: &str, who: &str, percent: u64) -> Option<Spread> {
    let local = rounds(samples, &format!("{app}_{ALL}_ns"), LOCAL);
    let usual = middle(&local.values().copied().collect::<Vec<f64>>());
    let times = match percent {
        ALL => local.clone(),
        _ => rounds(samples, &format!("{app}_{percent}_ns"), who),
    };
    let ratios: Vec<f64> = times
        .into_iter()
        .map(|(round, ns)| ns / local.get(&round).copied().unwrap_or(usual).max(1.0))
        .collect();
    Spread::of(&ratios).filter(|_| usual > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(what: &str, who: &str, round: usize, ns: u64) -> Samples {
        Samples {
            who: who.to_owned(),
            what: what.to_owned(),
            round,
            values: vec![ns],
        }
    }

    #[test]
    fn a_slowdown_is_that_of_a_round_and_names_may_have_underscores() {
        let samples = [
            sample("a_sort_100_ns", "local", 0, 100),
            sample("a_sort_100_ns", "local", 1, 200),
            sample("a_sort_50_ns", "memsrv", 0, 300),
            sample("a_sort_50_ns", "memsrv", 1, 400),
        ];
        assert_eq!(case(&samples[2]), Some(("a_sort", 50)));
        let spread = |percent| slowdown(&samples, "a_sort", "memsrv", percent);
        let some = |least, middle, most| {
            Some(Spread {
                least,
                middle,
                most,
            })
        };
        assert_eq!(spread(50), some(2.0, 2.5, 3.0));
        assert_eq!(spread(100), some(1.0, 1.0, 1.0));
        assert_eq!(spread(30), None);
        assert_eq!(slowdown(&samples[2..], "a_sort", "memsrv", 50), None);
    }
}
