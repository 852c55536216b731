// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What our figures would be if a page's checksum took no time, as it nearly is where the processor has an instruction
//! for it: the emulator has not, and the guest measures what it takes.

use qemu_test_wire::Samples;

/// Whose figures are so.
const OURS: &str = "memsrv";
/// What a checksum takes, in each round.
const ONE: &str = "checksum_ns";
/// Who has them then.
pub const LESS: &str = "memsrv less checksum";

/// Ours, each value less `count` checksums of its own round; only those that have a count.
pub fn less(all: &[Samples], count: impl Fn(&Samples) -> Option<u64>) -> Vec<Samples> {
    let one = |round| {
        let one = all
            .iter()
            .find(|samples| samples.what == ONE && samples.round == round)?;
        one.values.first().copied()
    };
    let ours = all.iter().filter(|samples| samples.who == OURS);
    ours.filter_map(|samples| {
        let checksums = count(samples)? * one(samples.round)?;
        let values = samples.values.iter();
        Some(Samples {
            who: LESS.to_owned(),
            values: values.map(|ns| ns.saturating_sub(checksums)).collect(),
            ..samples.clone()
        })
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksums_of_its_own_round_are_taken_off() {
        let of = |who: &str, what: &str, round, value| Samples {
            who: who.into(),
            what: what.into(),
            round,
            values: vec![value],
        };
        let samples = [
            of(OURS, ONE, 0, 40),
            of(OURS, ONE, 1, 50),
            of(OURS, "evict_ns", 0, 100),
            of(OURS, "evict_ns", 1, 110),
            of(OURS, "update_ns", 1, 100),
            of("nbd", "evict_ns", 1, 100),
        ];
        let less = less(&samples, |samples| {
            (samples.what == "evict_ns").then_some(2)
        });
        let expected = [of(LESS, "evict_ns", 0, 20), of(LESS, "evict_ns", 1, 10)];
        assert_eq!(less, expected);
    }
}
