// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! coreutils' sort of a file of several times the limit, all of it in memory; its output's checksum is
//! compared with that of the same sort without a limit and with a small buffer.

use std::fs::File;
use std::io::{BufWriter, Write};

use anyhow::{Context, Result};

use crate::guest::{program, Guest};
use crate::pattern::mix;
use crate::ROOT;

const LINES: u64 = 6144;
/// Hexadecimal words in a line, 16 characters each: 4 KiB a line.
const WORDS: u64 = 255;
const SORT: &str = "/usr/bin/sort";

/// The file, and what its sorting should give.
pub fn prepare() -> Result<()> {
    let path = format!("{ROOT}/work/unsorted");
    let mut file = BufWriter::new(File::create(&path).with_context(|| format!("making {path}"))?);
    for line in 0..LINES {
        let mut word = mix(line);
        for _ in 0..WORDS {
            write!(file, "{word:016x}")?;
            word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        }
        writeln!(file)?;
    }
    file.flush().context("writing the file to sort")?;
    let small = [
        "-S",
        "4M",
        "-T",
        "/work",
        "-o",
        "/work/expected",
        "/work/unsorted",
    ];
    program::run(None, &[&[SORT][..], &small].concat()).map(drop)
}

/// Sorts under the limit; compares.
pub fn run(guest: &mut Guest, limit_mib: u64) -> Result<u64> {
    let cgroup = guest.cgroup("sort", limit_mib)?;
    let large = [
        "--parallel=1",
        "-S",
        "100M",
        "-T",
        "/work",
        "-o",
        "/work/sorted",
        "/work/unsorted",
    ];
    program::run(Some(&cgroup), &[&[SORT][..], &large].concat())?;
    differing_bytes("/work/expected", "/work/sorted")
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
