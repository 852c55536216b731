// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! Random numbers (splitmix64), the same everywhere for the same seed.

pub struct Random(u64);

impl Random {
    /// The numbers of one part of a run, which is told by a list of numbers: they depend on no other part.
    pub fn new(seed: u64, part: &[u64]) -> Self {
        let mut random = Self(seed);
        for &number in part {
            random.0 = random.next() ^ number;
        }
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn size(&mut self, limit: u64) -> usize {
        usize::try_from(self.below(limit)).unwrap()
    }
}
