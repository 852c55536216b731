// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What tables and pictures need of raw values: medians, quantiles, spreads.

use std::collections::BTreeMap;

use qemu_test_wire::Samples;

/// As a floating-point number; what is measured here is far below 2^53.
#[expect(
    clippy::as_conversions,
    reason = "there is no other way from u64 to f64"
)]
#[must_use]
pub fn float(value: u64) -> f64 {
    value as f64
}

/// The one below which so many of a thousand are; 0 of none.
#[must_use]
pub fn quantile(values: &mut [u64], thousandths: usize) -> f64 {
    values.sort_unstable();
    let place = values.len() * thousandths / 1000;
    values
        .get(place.min(values.len().saturating_sub(1)))
        .copied()
        .map_or(0.0, float)
}

/// The median, and how far rounds lie from it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The least of the rounds.
    pub least: f64,
    /// Their median.
    pub middle: f64,
    /// The most of them.
    pub most: f64,
}

impl Spread {
    /// Of some values; of none there is none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        Some(Self {
            least: values.iter().copied().reduce(f64::min)?,
            middle: middle(values),
            most: values.iter().copied().reduce(f64::max)?,
        })
    }
}

/// The median, and the least and the most, with so many digits; of none nothing.
#[must_use]
pub fn spread(values: &[f64], digits: usize) -> String {
    Spread::of(values).map_or(String::new(), |spread| {
        let Spread {
            least,
            middle,
            most,
        } = spread;
        format!("{middle:.digits$} ({least:.digits$} to {most:.digits$})")
    })
}

/// The median; of an even number the mean of the two in the middle; 0 of none.
#[must_use]
pub fn middle(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let at = |place: usize| values.get(place).copied().unwrap_or(0.0);
    let half = values.len() / 2;
    if values.len() % 2 == 0 && half > 0 {
        f64::midpoint(at(half - 1), at(half))
    } else {
        at(half)
    }
}

/// Each once, in the order of their first appearance, which is the order of measuring.
#[must_use]
pub fn once<'a>(words: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for word in words {
        if !seen.contains(&word) {
            seen.push(word);
        }
    }
    seen
}

/// The median of each round.
#[must_use]
pub fn rounds(samples: &[Samples], what: &str, who: &str) -> BTreeMap<usize, f64> {
    let mut rounds: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    for samples in samples {
        if samples.what == what && samples.who == who {
            let values = rounds.entry(samples.round).or_default();
            values.extend(&samples.values);
        }
    }
    rounds
        .into_iter()
        .map(|(round, mut values)| (round, quantile(&mut values, 500)))
        .collect()
}
