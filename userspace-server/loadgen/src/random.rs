// SPDX-License-Identifier: GPL-2.0-only OR MIT

//! A small generator of random numbers (splitmix64), quick and the same everywhere.

/// Where it stands; the same start, the same numbers.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// A number below the limit, each as likely as the others.
    pub fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let high = (x ^ (x >> 31)) >> 32;
        let scaled = high.wrapping_mul(u64::from(limit)) >> 32;
        u32::try_from(scaled).unwrap_or(0)
    }
}
