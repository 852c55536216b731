// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Debian's own programs, unmodified, each with something to do that needs memory and whose result is known: the
//! demo shows them, the benchmark times them.

pub mod compile;
pub mod numpy;
pub mod redis;
pub mod sort;
pub mod sqlite;
pub mod stress;

use std::fs;

use anyhow::{Context, Result};

use crate::guest::{program, Cgroup};
use crate::ROOT;

/// How a program did.
pub struct Ran {
    /// How long what is timed took, in nanoseconds.
    pub ns: u64,
    /// How many bytes of the result are wrong.
    pub wrong: u64,
}

impl Ran {
    fn after(seconds: f64, wrong: u64) -> Self {
        // Beyond half a million years it would not fit.
        let ns = std::time::Duration::from_secs_f64(seconds).as_nanos();
        Self {
            ns: u64::try_from(ns).unwrap_or(u64::MAX),
            wrong,
        }
    }
}

/// A program that prints its result: what it should print is what it printed without a limit.
struct Printing {
    name: &'static str,
    words: &'static [&'static str],
}

impl Printing {
    fn expected(&self) -> String {
        format!("{ROOT}/srv/{}.expected", self.name)
    }

    fn prepare(&self) -> Result<()> {
        let ran = program::run(None, self.words)?;
        fs::write(self.expected(), ran.output).context("writing what is expected")
    }

    fn run(&self, cgroup: &Cgroup) -> Result<Ran> {
        let ran = program::run(Some(cgroup), self.words)?;
        let expected = fs::read_to_string(self.expected()).context("reading what is expected")?;
        let wrong = differing(expected.as_bytes(), ran.output.as_bytes());
        Ok(Ran::after(ran.seconds, wrong))
    }
}

/// Makes a file for a program, at a path in the root.
fn write(path: &str, text: &str) -> Result<()> {
    fs::write(format!("{ROOT}{path}"), text).with_context(|| format!("writing {path}"))
}

/// In how many bytes two results differ.
fn differing(one: &[u8], other: &[u8]) -> u64 {
    let common = one.iter().zip(other).filter(|(one, other)| one != other);
    let more = one.len().abs_diff(other.len());
    u64::try_from(common.count() + more).unwrap_or(u64::MAX)
}
