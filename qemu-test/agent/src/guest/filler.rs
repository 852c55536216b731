// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The pattern program as a scenario drives it: one order, one answer.

use std::fs;
use std::os::unix::fs::FileExt;

use anyhow::{ensure, Context, Result};

use super::cgroup::Cgroup;
use super::ordered::Ordered;
use crate::pattern::{Answer, Spec};

/// Bytes in a page.
const PAGE: u64 = 4096;

/// A running pattern program; it dies with the value.
pub struct Filler {
    program: Ordered,
    /// Wrong bytes found so far.
    pub wrong: u64,
}

impl Filler {
    /// Starts it in a cgroup.
    pub fn start(cgroup: &Cgroup, spec: Spec) -> Result<Self> {
        Ok(Self {
            program: Ordered::start(cgroup, "pattern", &spec.arguments())?,
            wrong: 0,
        })
    }

    /// Gives an order and does not wait.
    pub fn order(&mut self, order: &str) -> Result<()> {
        self.program.order(order)
    }

    /// Waits for the answer to the last order.
    pub fn answer(&mut self) -> Result<Answer> {
        let answer: Answer = self.program.answer()?;
        self.wrong += answer.wrong;
        Ok(answer)
    }

    /// One order, its answer.
    pub fn perform(&mut self, order: &str) -> Result<Answer> {
        self.order(order)?;
        self.answer()
            .with_context(|| format!("pattern program: {order}"))
    }

    /// Writes every page.
    pub fn fill(&mut self) -> Result<Answer> {
        self.perform("fill")
    }

    /// Reads every page; a wrong byte is an error.
    pub fn verify(&mut self) -> Result<Answer> {
        self.expect_right("verify")
    }

    /// An order after which nothing may be wrong.
    pub fn expect_right(&mut self, order: &str) -> Result<Answer> {
        self.order(order)?;
        self.right_answer()
            .with_context(|| format!("pattern program: {order}"))
    }

    /// The answer to the last order: no byte may be wrong.
    pub fn right_answer(&mut self) -> Result<Answer> {
        let answer = self.answer()?;
        ensure!(answer.wrong == 0, "{} bytes are wrong", answer.wrong);
        Ok(answer)
    }

    /// Reads its memory from outside, a byte of each page; returns how many cannot be read. That costs
    /// us an error, where it would cost the program its life.
    pub fn unreadable_pages(&self) -> Result<u64> {
        let pid = self.program.id();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).context("reading maps")?;
        let largest = maps
            .lines()
            .filter_map(|line| {
                let (range, rest) = line.split_once(' ')?;
                let (from, to) = range.split_once('-')?;
                let from = u64::from_str_radix(from, 16).ok()?;
                let to = u64::from_str_radix(to, 16).ok()?;
                rest.starts_with("rw").then_some((to - from, from, to))
            })
            .max();
        let (_, from, to) = largest.context("the pattern program has no memory")?;
        let memory = fs::File::open(format!("/proc/{pid}/mem")).context("opening mem")?;
        let mut byte = [0];
        let step = usize::try_from(PAGE).context("a page's size")?;
        let failed = (from..to)
            .step_by(step)
            .filter(|&at| memory.read_exact_at(&mut byte, at).is_err());
        Ok(u64::try_from(failed.count())?)
    }

    /// Lets it end by itself.
    pub fn end(self) -> Result<()> {
        self.program.end()
    }

    /// Kills it, as the OOM killer would.
    pub fn kill(self) -> Result<()> {
        self.program.kill()
    }
}
