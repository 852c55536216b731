// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The pattern program: fills memory from a seed, and later verifies every word of it.
//!
//! It does one thing per line of its standard input (`fill`, `verify`, `shuffled`, `rewrite`,
//! `fork-verify`, `fork-rewrite`, `end`) and answers each with one line of JSON, so that a scenario
//! can evict, unload, kill a server or anything else between two of them. Each word depends on the seed,
//! the page, how often the page was rewritten, and its place in the page: a page that comes back in
//! another's place, old, shifted or torn is seen. (In what compresses very well a place says nothing.)

use std::io::{BufRead, Write};
use std::time::Instant;

use anyhow::{bail, ensure, Context, Result};
use serde::{Deserialize, Serialize};

use crate::sys::{self, Kind, Region};

/// What stands in a page, as one who compresses it sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contents {
    /// Words that count up: about half.
    Counting,
    /// One word again and again: next to nothing.
    Flat,
    /// In turns noise, counting words, one word, and a quarter of noise.
    Mixed,
}

/// What to fill.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Kind of memory.
    pub kind: Kind,
    /// How many pages of 4 KiB.
    pub pages: usize,
    /// What the contents follow from.
    pub seed: u64,
    /// Every so many pages one is all zeroes; 0 for none.
    pub zero_every: usize,
    /// What stands in the others.
    pub contents: Contents,
}

/// The answer to one line.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Pages written or read.
    pub pages: u64,
    /// Bytes that differ from what they should be.
    pub wrong: u64,
    /// How long it took.
    pub seconds: f64,
}

impl Spec {
    /// As arguments of the `pattern` program.
    pub fn arguments(&self) -> Vec<String> {
        let kind = match self.kind {
            Kind::Small => "small",
            Kind::Huge => "huge",
            Kind::Shared => "shared",
        };
        vec![
            kind.to_owned(),
            self.pages.to_string(),
            self.seed.to_string(),
            self.zero_every.to_string(),
            match self.contents {
                Contents::Counting => "counting",
                Contents::Flat => "flat",
                Contents::Mixed => "mixed",
            }
            .to_owned(),
        ]
    }

    fn parse(arguments: &[String]) -> Result<Self> {
        let [kind, pages, seed, zero_every, contents] = arguments else {
            bail!("usage: pattern small|huge|shared PAGES SEED ZERO_EVERY counting|flat|mixed");
        };
        let kind = match kind.as_str() {
            "small" => Kind::Small,
            "huge" => Kind::Huge,
            "shared" => Kind::Shared,
            other => bail!("no such kind of memory: {other}"),
        };
        Ok(Self {
            kind,
            pages: pages.parse().context("PAGES")?,
            seed: seed.parse().context("SEED")?,
            zero_every: zero_every.parse().context("ZERO_EVERY")?,
            contents: match contents.as_str() {
                "counting" => Contents::Counting,
                "flat" => Contents::Flat,
                "mixed" => Contents::Mixed,
                other => bail!("no such contents: {other}"),
            },
        })
    }

    /// The word before the first of page `page` in its `generation`; `None` for a zero page.
    fn base(&self, page: usize, generation: u8) -> Option<u64> {
        if self.zero_every != 0 && page % self.zero_every == 0 {
            return None;
        }
        let page = u64::try_from(page).unwrap_or(u64::MAX);
        Some(mix(self.seed ^ mix(page ^ (u64::from(generation) << 56))) & !0xffff)
    }

    /// The words of page `page` in its `generation`.
    fn words(&self, page: usize, generation: u8) -> impl Iterator<Item = u64> {
        const QUARTER: u64 = 128;
        let base = self.base(page, generation);
        let contents = match (base, self.contents, page % 4) {
            (None, ..) => Contents::Flat,
            (_, Contents::Mixed, 1) => Contents::Counting,
            (_, Contents::Mixed, 2) => Contents::Flat,
            (_, contents, _) => contents,
        };
        let base = base.unwrap_or(0);
        let noise = if page % 4 == 0 { u64::MAX } else { QUARTER };
        (0..).map(move |place| match contents {
            Contents::Counting => base.wrapping_add(place),
            Contents::Mixed if place < noise => mix(base ^ place),
            Contents::Flat | Contents::Mixed => base,
        })
    }
}

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014): every bit of the input moves half of the output.
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

struct Filler {
    spec: Spec,
    region: Region,
    generations: Vec<u8>,
}

impl Filler {
    fn new(spec: Spec) -> Result<Self> {
        Ok(Self {
            spec,
            region: Region::new(spec.kind, spec.pages)?,
            generations: vec![0; spec.pages],
        })
    }

    fn write_page(&mut self, page: usize) -> Result<()> {
        let generation = self
            .generations
            .get(page)
            .copied()
            .context("page out of range")?;
        let words = self.region.page(page).context("page out of range")?;
        for (word, right) in words.iter_mut().zip(self.spec.words(page, generation)) {
            *word = right;
        }
        Ok(())
    }

    /// How many bytes of the page are wrong.
    fn check_page(&mut self, page: usize) -> Result<u64> {
        let generation = self
            .generations
            .get(page)
            .copied()
            .context("page out of range")?;
        let words = self.region.page(page).context("page out of range")?;
        let mut differences = 0;
        for (word, right) in words.iter().zip(self.spec.words(page, generation)) {
            if *word != right {
                differences += differing_bytes(*word, right);
            }
        }
        Ok(differences)
    }

    fn fill(&mut self) -> Result<Answer> {
        for page in 0..self.spec.pages {
            self.write_page(page)?;
        }
        Ok(Answer {
            pages: u64::try_from(self.spec.pages)?,
            ..Answer::default()
        })
    }

    /// Every third page, another third each time, gets new contents.
    fn rewrite(&mut self) -> Result<Answer> {
        let mut answer = Answer::default();
        let first = usize::from(self.generations.iter().copied().max().unwrap_or(0)) % 3;
        for page in (first..self.spec.pages).step_by(3) {
            if let Some(generation) = self.generations.get_mut(page) {
                *generation = generation.wrapping_add(1);
            }
            self.write_page(page)?;
            answer.pages += 1;
        }
        Ok(answer)
    }

    fn verify(&mut self, shuffled: bool) -> Result<Answer> {
        let mut answer = Answer::default();
        // A step that shares no factor with the number of pages visits each page once.
        let step = if shuffled {
            coprime_step(self.spec.pages)
        } else {
            1
        };
        let mut page = 0_usize;
        for _ in 0..self.spec.pages {
            answer.wrong += self.check_page(page)?;
            answer.pages += 1;
            page = page.wrapping_add(step) % self.spec.pages;
        }
        Ok(answer)
    }

    fn will_need(&self) -> Result<Answer> {
        self.region.will_need()?;
        Ok(Answer::default())
    }

    /// A forked child verifies (and perhaps rewrites its copy and verifies that), then this process does.
    fn forked(&mut self, rewriting: bool) -> Result<Answer> {
        let status = sys::in_fork(|| {
            let checked = self.verify(true).and_then(|before| {
                let mut wrong = before.wrong;
                if rewriting {
                    self.rewrite()?;
                    wrong += self.verify(false)?.wrong;
                }
                Ok(wrong)
            });
            match checked {
                Ok(0) => 0,
                Ok(_) => 1,
                Err(_) => 2,
            }
        })?;
        ensure!(
            status == 0,
            "the forked child found wrong bytes or failed (status {status})"
        );
        self.verify(false)
    }
}

fn differing_bytes(one: u64, other: u64) -> u64 {
    let differing = (one ^ other)
        .to_le_bytes()
        .into_iter()
        .filter(|&byte| byte != 0)
        .count();
    u64::try_from(differing).unwrap_or(8)
}

/// A step that shares no factor with `pages`: so many of them visit each page once.
pub fn coprime_step(pages: usize) -> usize {
    fn gcd(a: usize, b: usize) -> usize {
        if b == 0 {
            a
        } else {
            gcd(b, a % b)
        }
    }
    // Near the golden section, so that neighbours in time are far apart in space.
    let start = (pages / 1000).wrapping_mul(618).max(1);
    (start..).find(|&step| gcd(step, pages) == 1).unwrap_or(1)
}

/// The `pattern` program.
pub fn program(arguments: &[String]) -> Result<()> {
    let spec = Spec::parse(arguments)?;
    let mut filler = Filler::new(spec)?;
    let mut output = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line.context("reading standard input")?;
        let started = Instant::now();
        let mut answer = match line.as_str() {
            "fill" => filler.fill()?,
            "verify" => filler.verify(false)?,
            "shuffled" => filler.verify(true)?,
            "rewrite" => filler.rewrite()?,
            "will-need" => filler.will_need()?,
            "fork-verify" => filler.forked(false)?,
            "fork-rewrite" => filler.forked(true)?,
            "end" => break,
            other => bail!("no such order: {other}"),
        };
        answer.seconds = started.elapsed().as_secs_f64();
        serde_json::to_writer(&mut output, &answer)?;
        output.write_all(b"\n")?;
        output.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filler(kind: Kind, zero_every: usize) -> Filler {
        with(kind, zero_every, Contents::Counting)
    }

    fn with(kind: Kind, zero_every: usize, contents: Contents) -> Filler {
        Filler::new(Spec {
            kind,
            pages: 100,
            seed: 42,
            zero_every,
            contents,
        })
        .unwrap()
    }

    #[test]
    fn what_was_filled_verifies_in_any_order() {
        for kind in [Kind::Small, Kind::Huge, Kind::Shared] {
            let mut filler = filler(kind, 7);
            filler.fill().unwrap();
            assert_eq!(filler.verify(false).unwrap().wrong, 0);
            filler.rewrite().unwrap();
            let answer = filler.verify(true).unwrap();
            assert_eq!((answer.wrong, answer.pages), (0, 100));
        }
    }

    #[test]
    fn contents_are_as_they_are_called_and_verify() {
        for contents in [Contents::Flat, Contents::Mixed] {
            let mut filler = with(Kind::Small, 0, contents);
            filler.fill().unwrap();
            assert_eq!(filler.verify(true).unwrap().wrong, 0);
            let different: Vec<usize> = (0..4)
                .map(|page| {
                    let words = filler.region.page(page).unwrap();
                    words
                        .iter()
                        .collect::<std::collections::BTreeSet<_>>()
                        .len()
                })
                .collect();
            let expected = match contents {
                Contents::Mixed => [512, 512, 1, 129],
                _ => [1; 4],
            };
            assert_eq!(different, expected);
            filler.region.page(3).unwrap()[500] ^= 1;
            filler.region.page(2).unwrap()[3] ^= 1;
            assert_eq!(filler.verify(false).unwrap().wrong, 2);
        }
    }

    #[test]
    fn one_flipped_bit_is_one_wrong_byte() {
        let mut filler = filler(Kind::Small, 0);
        filler.fill().unwrap();
        filler.region.page(99).unwrap()[511] ^= 1 << 40;
        assert_eq!(filler.verify(false).unwrap().wrong, 1);
    }

    #[test]
    fn a_page_in_another_ones_place_is_wrong() {
        let mut filler = filler(Kind::Small, 0);
        filler.fill().unwrap();
        let copy: Vec<u64> = filler.region.page(3).unwrap().to_vec();
        filler.region.page(4).unwrap().copy_from_slice(&copy);
        assert!(filler.verify(false).unwrap().wrong > 512);
    }

    #[test]
    fn an_old_page_is_wrong() {
        let mut filler = filler(Kind::Small, 0);
        filler.fill().unwrap();
        let copy: Vec<u64> = filler.region.page(0).unwrap().to_vec();
        filler.rewrite().unwrap();
        filler.region.page(0).unwrap().copy_from_slice(&copy);
        assert!(filler.verify(false).unwrap().wrong > 512);
    }

    #[test]
    fn every_page_is_visited_once() {
        for pages in [1, 2, 3, 10, 256, 999, 1000, 16384] {
            let step = coprime_step(pages);
            let mut seen = vec![false; pages];
            let mut page = 0;
            for _ in 0..pages {
                assert!(!std::mem::replace(&mut seen[page], true));
                page = (page + step) % pages;
            }
        }
    }
}
