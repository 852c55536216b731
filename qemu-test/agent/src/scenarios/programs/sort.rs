// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! coreutils' sort of a file, all of it in memory.

use std::fs::File;
use std::io::{BufWriter, Write};

use anyhow::{Context, Result};

use super::{Printing, Ran};
use crate::guest::Cgroup;
use crate::pattern::mix;
use crate::ROOT;

/// In memory with one thread; of what it prints, the checksum.
const SORT: Printing = Printing {
    name: "sort",
    words: &[
        "/bin/sh",
        "-c",
        "sort --parallel=1 -S 100M -T /srv /srv/unsorted | sha256sum",
    ],
};

/// The file, of so many lines of so many characters, their ends included; and what its sorting gives.
pub fn prepare(lines: u64, line_bytes: usize) -> Result<()> {
    let path = format!("{ROOT}/srv/unsorted");
    let mut file = BufWriter::new(File::create(&path).with_context(|| format!("making {path}"))?);
    let mut text = vec![b'\n'; line_bytes];
    for line in 0..lines {
        let mut state = mix(line);
        for character in text.iter_mut().take(line_bytes - 1) {
            // Knuth's multiplier for 64-bit linear congruential generators; its high bits are good.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *character = b'a' + u8::try_from(state >> 60).unwrap_or(0);
        }
        file.write_all(&text)?;
    }
    file.flush().context("writing the file to sort")?;
    drop(file);
    SORT.prepare()
}

/// Sorts.
pub fn run(cgroup: &Cgroup) -> Result<Ran> {
    SORT.run(cgroup)
}
