// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! How long operations took, in buckets that are at most an eighth wide.

/// Buckets for each doubling.
const STEPS: u64 = 8;

/// Enough for 2^32 microseconds.
const BUCKETS: usize = 32 * 8;

/// Times in microseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS],
            count: 0,
        }
    }
}

impl Histogram {
    /// Counts one operation.
    pub fn record_us(&mut self, us: u64) {
        let place = bucket(us).min(BUCKETS.saturating_sub(1));
        if let Some(bucket) = self.buckets.get_mut(place) {
            *bucket = bucket.saturating_add(1);
            self.count = self.count.saturating_add(1);
        }
    }

    /// How many operations there were.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Counts what another has counted.
    pub fn add(&mut self, other: &Histogram) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine = mine.saturating_add(*theirs);
        }
        self.count = self.count.saturating_add(other.count);
    }

    /// The time within which so many of a hundred operations ended, rounded up to its bucket's end.
    pub fn quantile_us(&self, percent: u64) -> u64 {
        let wanted = self.count.saturating_mul(percent).div_ceil(100);
        let mut seen = 0_u64;
        for (place, count) in self.buckets.iter().enumerate() {
            seen = seen.saturating_add(*count);
            if seen >= wanted && seen > 0 {
                return end_us(place);
            }
        }
        0
    }
}

/// Times below 8 us have a bucket each; from there on each doubling has eight.
fn bucket(us: u64) -> usize {
    let doubling = us.max(STEPS).ilog2().saturating_sub(STEPS.ilog2());
    let place = (us >> doubling).saturating_add(STEPS.saturating_mul(u64::from(doubling)));
    usize::try_from(place).unwrap_or(usize::MAX)
}

/// The longest time in a bucket.
fn end_us(place: usize) -> u64 {
    let place = u64::try_from(place).unwrap_or(u64::MAX);
    let doubling = (place / STEPS).saturating_sub(1).min(40);
    let step = place.saturating_sub(doubling.saturating_mul(STEPS));
    (step.saturating_add(1) << doubling).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_lies_in_a_bucket_that_ends_at_most_an_eighth_above_it() {
        for us in (0..5000).chain([1 << 20, (1 << 31) + 12345]) {
            let end = end_us(bucket(us));
            assert!(
                us <= end && end <= us + us / 8,
                "{us} us in a bucket up to {end} us"
            );
        }
    }

    #[test]
    fn quantiles_are_those_of_what_was_counted() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_us(50), 0);
        (1..=100).for_each(|us| histogram.record_us(us * 10));
        let mut twice = histogram.clone();
        twice.add(&histogram);
        assert_eq!(twice.count(), 200);
        for histogram in [histogram, twice] {
            assert!((500..=563).contains(&histogram.quantile_us(50)));
            assert!((990..=1115).contains(&histogram.quantile_us(99)));
        }
    }
}
