// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the emulator adds to each page that we store or load.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use crc::{Crc, Table, CRC_32_ISCSI};

/// CRC-32C, a byte at a time.
static CRC32C: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISCSI);

/// What a page's checksum takes on this processor, in nanoseconds: a store and a load have one each. The benchmark's
/// kernel does not use the instruction for it (the harness says why), so it is computed as the kernel does then, a byte at a
/// time.
pub fn checksum() -> Result<u64> {
    const TIMES: u32 = 256;
    let flags = std::fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
    let has = flags.split_whitespace().any(|flag| flag == "sse4_2");
    ensure!(!has, "the kernel has an instruction for CRC-32C");
    let page = [0x5a_u8; 4096];
    let began = Instant::now();
    for _ in 0..TIMES {
        black_box(CRC32C.checksum(black_box(&page)));
    }
    Ok(u64::try_from(began.elapsed().as_nanos())? / u64::from(TIMES))
}
