// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The measuring program: memory whose pages are touched one by one, each touch timed and checked.
//!
//! It does one thing per line of its standard input (`fill`, `random COUNT`, `further COUNT`, `sequential COUNT`,
//! `update COUNT`, `end`) and answers each with one line of JSON. A page is half noise and half zeroes, so that who compresses has something to win.

use std::io::{BufRead, Write};
use std::time::Instant;

use anyhow::{bail, Context, Result};
use serde::{Deserialize, Serialize};

use crate::pattern::{coprime_step, mix};
use crate::sys::{Kind, Region, WORDS_PER_PAGE};

/// The answer to one line.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Touched {
    /// How long each touch took, in nanoseconds, in the order of touching.
    pub ns: Vec<u64>,
    /// How long all took, the program's own work included.
    pub total_ns: u64,
    /// Pages that did not say what they should.
    pub wrong: u64,
}

struct Toucher {
    region: Region,
    pages: usize,
    /// Where the last order ended.
    next: usize,
}

/// What word `word` of page `page` is to be.
fn noise(page: usize, word: usize) -> u64 {
    u64::try_from(page * WORDS_PER_PAGE + word).map_or(1, mix)
}

impl Toucher {
    fn fill(&mut self) -> Result<Touched> {
        for page in 0..self.pages {
            let words = self.region.page(page).context("page out of range")?;
            for (word, place) in words.iter_mut().take(WORDS_PER_PAGE / 2).enumerate() {
                *place = noise(page, word);
            }
        }
        Ok(Touched::default())
    }

    /// Touches so many pages from the first on, each so many after the one before, and writes to them if `update`.
    fn touch(&mut self, step: usize, count: usize, update: bool) -> Result<Touched> {
        self.next = 0;
        self.further(step, count, update)
    }

    /// The same from where the last order ended.
    fn further(&mut self, step: usize, count: usize, update: bool) -> Result<Touched> {
        let mut touched = Touched {
            ns: Vec::with_capacity(count),
            ..Touched::default()
        };
        let mut page = self.next;
        let start = Instant::now();
        for _ in 0..count {
            let words = self.region.page(page).context("page out of range")?;
            let began = Instant::now();
            let first = std::hint::black_box(words.first().copied());
            if let (true, Some(last)) = (update, words.last_mut()) {
                *last = last.wrapping_add(1);
            }
            let ns = began.elapsed().as_nanos();
            touched.ns.push(u64::try_from(ns).unwrap_or(u64::MAX));
            touched.wrong += u64::from(first != Some(noise(page, 0)));
            page = (page + step) % self.pages;
        }
        self.next = page;
        touched.total_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Ok(touched)
    }
}

/// The `touch` program: `touch PAGES`.
pub fn program(arguments: &[String]) -> Result<()> {
    let [pages] = arguments else {
        bail!("usage: touch PAGES");
    };
    let pages = pages.parse().context("PAGES")?;
    let mut toucher = Toucher {
        region: Region::new(Kind::Small, pages)?,
        pages,
        next: 0,
    };
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line.context("reading standard input")?;
        let (order, count) = line.split_once(' ').unwrap_or((&line, "0"));
        let count = count.parse().context("COUNT")?;
        let answer = match order {
            "fill" => toucher.fill()?,
            "random" => toucher.touch(coprime_step(pages), count, false)?,
            "further" => toucher.further(coprime_step(pages), count, false)?,
            "sequential" => toucher.touch(1, count, false)?,
            "update" => toucher.touch(coprime_step(pages), count, true)?,
            "end" => break,
            other => bail!("no such order: {other}"),
        };
        // In one write, and made before: it may be of any length.
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        output.write_all(&line)?;
        output.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_is_touched_once_and_checked() {
        let mut toucher = Toucher {
            region: Region::new(Kind::Small, 50).unwrap(),
            pages: 50,
            next: 0,
        };
        toucher.fill().unwrap();
        let touched = toucher.touch(coprime_step(50), 50, true).unwrap();
        assert_eq!((touched.ns.len(), touched.wrong), (50, 0));
        toucher.region.page(7).unwrap()[0] ^= 1;
        assert_eq!(toucher.touch(1, 50, false).unwrap().wrong, 1);
    }
}
