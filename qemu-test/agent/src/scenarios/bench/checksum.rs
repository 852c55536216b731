// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! What the emulator adds to each page that we store or load.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{ensure, Context, Result};

/// CRC-32C's polynomial, the lowest bit first (RFC 3720, 12.1).
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// What a page's checksum takes on this processor, in nanoseconds: a store and a load have one each. The benchmark's
/// kernel does not use the instruction for it (the harness says why), so it is computed as the kernel does then, a byte at a
/// time.
pub fn checksum() -> Result<u64> {
    const TIMES: u32 = 256;
    let flags = std::fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
    let has = flags.split_whitespace().any(|flag| flag == "sse4_2");
    ensure!(!has, "the kernel has an instruction for CRC-32C");
    let table = table();
    let page = [0x5a_u8; 4096];
    let began = Instant::now();
    for _ in 0..TIMES {
        let mut crc = !0;
        for byte in black_box(&page) {
            crc = step(&table, crc, *byte);
        }
        black_box(crc);
    }
    Ok(u64::try_from(began.elapsed().as_nanos())? / u64::from(TIMES))
}

fn step(table: &[u32; 256], crc: u32, byte: u8) -> u32 {
    let [lowest, ..] = crc.to_le_bytes();
    // A byte has no value that the table has not.
    let entry = table.get(usize::from(lowest ^ byte));
    (crc >> 8) ^ entry.copied().unwrap_or_default()
}

fn table() -> [u32; 256] {
    let mut table = [0; 256];
    for (entry, mut crc) in table.iter_mut().zip(0..) {
        for _ in 0..8 {
            crc = (crc >> 1) ^ (POLYNOMIAL * (crc & 1));
        }
        *entry = crc;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_checksum_that_is_timed() {
        let table = table();
        // RFC 3720's and every catalogue's check value.
        let crc = b"123456789"
            .iter()
            .fold(!0, |crc, byte| step(&table, crc, *byte));
        assert_eq!(!crc, 0xe306_9283);
    }
}
