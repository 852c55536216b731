// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How many requests a server answers for a second of its processor, by how many are in flight.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::lines::{self, Line, Panel};
use crate::style::{legend, looks, number, picture, Look, TEXT};
use qemu_test_results::figures::{float, once, Spread};
use qemu_test_results::race::{Raced, Sample};
use qemu_test_results::Part;

/// Percent of loads, and a panel's title.
const KINDS: [(u64, &str); 2] = [(100, "Loads"), (0, "Stores")];

/// The picture, if servers were compared.
pub fn draw(part: &Part<Raced>) -> Result<Option<String>> {
    let samples: Vec<&Sample> = part
        .samples
        .samples
        .iter()
        .filter(|sample| sample.series == "compare" && sample.line.connections == 1)
        .collect();
    let whos = once(samples.iter().map(|sample| sample.who.as_str()));
    if whos.is_empty() {
        return Ok(None);
    }
    let looks = looks(&whos);
    let entries: Vec<(String, Look)> = looks
        .iter()
        .map(|(who, look)| ((*who).to_owned(), *look))
        .collect();
    let panels = KINDS.map(|(percent, title)| panel(&samples, &looks, percent, title));
    let rates = samples.iter().map(|sample| sample.line.per_cpu_second());
    let most = rates.fold(1.0, f64::max) * 1.05;
    let title = "Requests that a server answers for a second of its processor: higher is better";
    let svg = picture(title, &part.about, |area| {
        let area = legend(area, &entries)?;
        for (panel, area) in panels.iter().zip(area.split_evenly((1, panels.len()))) {
            lines::draw(&area, panel, 0.0..most)?;
        }
        Ok(())
    })?;
    Ok(Some(svg))
}

fn panel(samples: &[&Sample], looks: &[(&str, Look)], percent: u64, title: &str) -> Panel<'static> {
    let samples: Vec<&&Sample> = samples
        .iter()
        .filter(|sample| sample.line.loads_percent == percent)
        .collect();
    let depths: BTreeSet<u64> = samples.iter().map(|sample| sample.line.depth).collect();
    let lines = looks.iter().map(|(who, look)| {
        let point = |(step, depth): (usize, &u64)| {
            let at_it = |sample: &&&&Sample| sample.who == *who && sample.line.depth == *depth;
            let rates = samples.iter().filter(at_it);
            let rates: Vec<f64> = rates.map(|sample| sample.line.per_cpu_second()).collect();
            Some((step, Spread::of(&rates)?))
        };
        Line {
            look: *look,
            points: depths.iter().enumerate().filter_map(point).collect(),
        }
    });
    Panel {
        title: format!("{title}, one connection"),
        x: "requests in flight",
        y: "requests per second of the server's processor",
        room: TEXT * 5,
        lines: lines.collect(),
        steps: depths.iter().map(|depth| number(float(*depth))).collect(),
    }
}
