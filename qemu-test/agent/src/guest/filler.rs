// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The pattern program as a scenario drives it: one order, one answer.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use anyhow::{ensure, Context, Result};

use super::cgroup::Cgroup;
use super::program;
use crate::pattern::{Answer, Spec};
use crate::SELF;

/// Bytes in a page.
const PAGE: u64 = 4096;

/// A running pattern program; it dies with the value.
pub struct Filler {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Wrong bytes found so far.
    pub wrong: u64,
}

impl Filler {
    /// Starts it in a cgroup.
    pub fn start(cgroup: &Cgroup, spec: Spec) -> Result<Self> {
        let mut command = program::command(Some(cgroup), false, SELF);
        command.arg("pattern").args(spec.arguments());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("starting the pattern program")?;
        let orders = child
            .stdin
            .take()
            .context("the pattern program has no input")?;
        let answers = child
            .stdout
            .take()
            .context("the pattern program has no output")?;
        Ok(Self {
            child,
            orders,
            answers: BufReader::new(answers),
            wrong: 0,
        })
    }

    /// Gives an order and does not wait.
    pub fn order(&mut self, order: &str) -> Result<()> {
        // In one write: the program may sleep over the first in its own page fault, with the pipe locked.
        let line = format!("{order}\n");
        self.orders
            .write_all(line.as_bytes())
            .with_context(|| format!("ordering {order}"))
    }

    /// Waits for the answer to the last order.
    pub fn answer(&mut self) -> Result<Answer> {
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .context("reading from the pattern program")?;
        if line.is_empty() {
            let status = self
                .child
                .wait()
                .context("waiting for the pattern program")?;
            anyhow::bail!("the pattern program ended: {status}");
        }
        let answer: Answer = serde_json::from_str(&line).with_context(|| line.clone())?;
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
        let answer = self.perform(order)?;
        ensure!(
            answer.wrong == 0,
            "{order}: {} bytes are wrong",
            answer.wrong
        );
        Ok(answer)
    }

    /// Reads its memory from outside, a byte of each page; returns how many cannot be read. That costs
    /// us an error, where it would cost the program its life.
    pub fn unreadable_pages(&self) -> Result<u64> {
        let pid = self.child.id();
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
    pub fn end(mut self) -> Result<()> {
        self.order("end")?;
        let status = self
            .child
            .wait()
            .context("waiting for the pattern program")?;
        ensure!(status.success(), "the pattern program: {status}");
        Ok(())
    }

    /// Kills it, as the OOM killer would.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().context("killing the pattern program")?;
        self.child
            .wait()
            .context("waiting for the pattern program")
            .map(drop)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        // Already ended or not: neither is an error here.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
