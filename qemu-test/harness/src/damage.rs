// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Damage to what a memory server stores, as by bad RAM: bits flipped behind its back.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use anyhow::{ensure, Context, Result};

const PAGE: usize = 4096;
/// How much is looked at in one read.
const STEP: u64 = 1 << 20;

/// Flips one bit in each of at most `count` pages, all over the process's largest mapping, zero pages left
/// alone; says in how many.
///
/// That mapping is memsrvd's arena. Some of its pages are free and keep old bytes, so not every flip is ever seen.
pub fn flip_bits(pid: u32, count: usize) -> Result<usize> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).context("reading memsrvd's maps")?;
    let (from, to) = largest(&maps).context("memsrvd has no memory")?;
    let path = format!("/proc/{pid}/mem");
    let memory = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("opening {path}"))?;
    let mut used = Vec::new();
    let mut buffer = vec![0_u8; usize::try_from(STEP)?];
    for at in (from..to).step_by(usize::try_from(STEP)?) {
        let length = usize::try_from((to - at).min(STEP))?;
        let part = buffer.get_mut(..length).context("a step's length")?;
        memory.read_exact_at(part, at).context("reading an arena")?;
        let pages = part.chunks(PAGE).zip((at..).step_by(PAGE));
        used.extend(pages.filter_map(|(page, place)| {
            let zero = page.iter().all(|&byte| byte == 0);
            (!zero).then_some(place)
        }));
    }
    ensure!(!used.is_empty(), "memsrvd stores no page that is not zero");
    let step = (used.len() / count.max(1)).max(1);
    let mut flipped = 0;
    // Another byte and bit each time. The server may be writing there: then the page is torn, which is damage
    // as well.
    for (number, place) in used.iter().step_by(step).take(count).enumerate() {
        let at = place + u64::try_from(number * 97 % PAGE)?;
        let mut byte = [0];
        memory.read_exact_at(&mut byte, at).context("reading")?;
        let damaged = byte.map(|byte| byte ^ (1 << (number % 8)));
        memory.write_all_at(&damaged, at).context("writing")?;
        flipped += 1;
    }
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
