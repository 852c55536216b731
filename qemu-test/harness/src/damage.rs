// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Damage to what a memory server stores, as by bad RAM: bits flipped behind its back.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use anyhow::{ensure, Context, Result};

const PAGE: usize = 4096;
/// How much is looked at in one read.
const STEP: u64 = 1 << 20;

/// Flips one bit in one of `every` pages of the process's largest mapping, zero pages not counted; says in how
/// many.
///
/// That mapping is memsrvd's arena. Some of its pages are free and keep old bytes, so not every flip is ever seen.
pub fn flip_bits(pid: u32, every: u64) -> Result<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).context("reading memsrvd's maps")?;
    let (from, to) = largest(&maps).context("memsrvd has no memory")?;
    let path = format!("/proc/{pid}/mem");
    let memory = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("opening {path}"))?;
    let mut buffer = vec![0_u8; usize::try_from(STEP)?];
    let (mut seen, mut flipped) = (0, 0);
    for at in (from..to).step_by(usize::try_from(STEP)?) {
        let length = usize::try_from((to - at).min(STEP))?;
        let part = buffer.get_mut(..length).context("a step's length")?;
        memory.read_exact_at(part, at).context("reading an arena")?;
        for (page, place) in part.chunks(PAGE).zip((at..).step_by(PAGE)) {
            if page.iter().all(|&byte| byte == 0) {
                continue;
            }
            seen += 1;
            if seen % every.max(1) == 0 {
                // Another byte and bit each time; the server may be writing here, then the page is torn,
                // which is damage as well.
                let (byte, bit) = (usize::try_from(seen)? * 97 % PAGE, seen % 8);
                let old = page.get(byte).copied().unwrap_or_default();
                memory
                    .write_all_at(&[old ^ (1 << bit)], place + u64::try_from(byte)?)
                    .context("writing to an arena")?;
                flipped += 1;
            }
        }
    }
    ensure!(flipped > 0, "only {seen} pages of the server are not zero");
    Ok(flipped)
}

/// The largest writable mapping: its start and its end.
fn largest(maps: &str) -> Option<(u64, u64)> {
    maps.lines()
        .filter_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (from, to) = range.split_once('-')?;
            let from = u64::from_str_radix(from, 16).ok()?;
            let to = u64::from_str_radix(to, 16).ok()?;
            rest.starts_with("rw").then_some((to - from, from, to))
        })
        .max()
        .map(|(_, from, to)| (from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_writable_mapping_is_found() {
        let maps = "1000-9000 r-xp 00000000 00:00 0\n\
                    10000-12000 rw-p 00000000 00:00 0 [heap]\n\
                    20000-25000 rw-p 00000000 00:00 0\n";
        assert_eq!(largest(maps), Some((0x20000, 0x25000)));
    }
}
