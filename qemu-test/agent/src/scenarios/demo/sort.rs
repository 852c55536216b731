// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! coreutils' sort of a file of several times the limit, all of it in memory; its output's checksum is
//! compared with that of the same sort without a limit and with a small buffer.

use std::fs::File;
use std::io::{BufWriter, Write};

use anyhow::{Context, Result};

use crate::guest::{program, Cgroup};
use crate::pattern::mix;
use crate::ROOT;

const LINES: u64 = 2048;
/// Characters in a line, its end included.
const LINE_BYTES: usize = 4096;
const SORT: &str = "/usr/bin/sort";

/// The file, and what its sorting should give.
pub fn prepare() -> Result<()> {
    let path = format!("{ROOT}/srv/unsorted");
    let mut file = BufWriter::new(File::create(&path).with_context(|| format!("making {path}"))?);
    let mut text = vec![b'\n'; LINE_BYTES];
    for line in 0..LINES {
        let mut state = mix(line);
        for character in text.iter_mut().take(LINE_BYTES - 1) {
            // Knuth's multiplier for 64-bit linear congruential generators; its high bits are good.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *character = b'a' + u8::try_from(state >> 60).unwrap_or(0);
        }
        file.write_all(&text)?;
    }
    file.flush().context("writing the file to sort")?;
    let small = [
        "-S",
        "4M",
        "-T",
        "/srv",
        "-o",
        "/srv/expected",
        "/srv/unsorted",
    ];
    program::run(None, &[&[SORT][..], &small].concat()).map(drop)
}

/// Sorts under the limit; compares.
pub fn run(cgroup: &Cgroup) -> Result<u64> {
    let large = [
        "--parallel=1",
        "-S",
        "100M",
        "-T",
        "/srv",
        "-o",
        "/srv/sorted",
        "/srv/unsorted",
    ];
    program::run(Some(cgroup), &[&[SORT][..], &large].concat())?;
    differing_bytes("/srv/expected", "/srv/sorted")
}

/// How many bytes differ between two files of the guest's root; none if their checksums agree.
pub fn differing_bytes(one: &str, other: &str) -> Result<u64> {
    let sums = program::run(None, &["/usr/bin/sha256sum", one, other])?.output;
    let mut sums = sums
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    if sums.next().context("no checksum")? == sums.next().context("no second checksum")? {
        return Ok(0);
    }
    let read = |path: &str| std::fs::read(format!("{ROOT}{path}")).context("reading to compare");
    let (one, other) = (read(one)?, read(other)?);
    let common = one
        .iter()
        .zip(&other)
        .filter(|(one, other)| one != other)
        .count();
    u64::try_from(common + one.len().abs_diff(other.len())).context("counting")
}
