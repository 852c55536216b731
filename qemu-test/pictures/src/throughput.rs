// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! How many pages a second are evicted, and read one after another: bars by contender.

use anyhow::Result;
use qemu_test_results::Samples;

use crate::bars::{self, Bar, Panel};
use crate::style::{looks, picture};
use plotters::style::Color;
use qemu_test_results::figures::{once, rounds, Spread};
use qemu_test_results::Part;

/// What is drawn: the figure, which is nanoseconds for a page, and a panel's words.
const WHAT: [(&str, &str, &str); 2] = [
    ("evict_ns", "Eviction", "pages evicted per second"),
    (
        "sequential_ns",
        "Swap-in of all pages in turn, with readahead",
        "pages read per second",
    ),
];

/// The picture, if any of it was measured.
pub fn draw(part: &Part<Vec<Samples>>) -> Result<Option<String>> {
    let panels = panels(&part.samples);
    if panels.is_empty() {
        return Ok(None);
    }
    let title =
        "Pages per second: longer is better (median; whisker: least and most of the rounds)";
    let svg = picture(title, &part.about, |area| {
        for (panel, area) in panels.iter().zip(area.split_evenly((1, panels.len()))) {
            bars::draw(&area, panel)?;
        }
        Ok(())
    })?;
    Ok(Some(svg))
}

fn panels(samples: &[Samples]) -> Vec<Panel> {
    let whos = once(samples.iter().map(|samples| samples.who.as_str()));
    let looks = looks(&whos);
    let panels = WHAT.map(|(what, title, length)| {
        let bars = looks.iter().filter_map(|(who, look)| {
            let rates = rounds(samples, what, who);
            let rates: Vec<f64> = rates.values().map(|ns| 1e9 / ns.max(1.0)).collect();
            Some(Bar {
                name: (*who).to_owned(),
                // As a dashed line differs from a whole one.
                color: look.color.mix(if look.dashed { 0.5 } else { 1.0 }),
                spread: Spread::of(&rates)?,
            })
        });
        Panel {
            title,
            length,
            bars: bars.collect(),
        }
    });
    panels
        .into_iter()
        .filter(|panel| !panel.bars.is_empty())
        .collect()
}
