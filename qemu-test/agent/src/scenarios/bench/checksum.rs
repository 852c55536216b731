// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the emulator adds to each page that we store or load.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;

/// What a page's checksum takes on this processor, in nanoseconds: a store and a load have one each, and an emulator has no
/// instruction for it.
pub fn checksum() -> Result<u64> {
    const TIMES: u32 = 256;
    let page = [0x5a; 4096];
    let began = Instant::now();
    for _ in 0..TIMES {
        black_box(crc32c::crc32c(black_box(&page)));
    }
    Ok(u64::try_from(began.elapsed().as_nanos())? / u64::from(TIMES))
}
