// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Memory cgroups (version 2): limits, reclaim on demand, and the end of everything inside.

use std::fs;
use std::time::Duration;

use anyhow::{bail, Context, Result};

use super::{poll, MIB};

/// A cgroup that a scenario made.
#[derive(Clone, Debug)]
pub struct Cgroup {
    name: String,
}

impl Cgroup {
    /// Makes the cgroup, with a limit in MiB (0: none).
    pub fn new(name: &str, limit_mib: u64) -> Result<Self> {
        let cgroup = Self {
            name: name.to_owned(),
        };
        fs::create_dir_all(cgroup.path("")).with_context(|| format!("making the cgroup {name}"))?;
        cgroup.set_limit(limit_mib)?;
        Ok(cgroup)
    }

    /// Its name below the root of all.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn path(&self, file: &str) -> String {
        format!("/sys/fs/cgroup/{}/{file}", self.name)
    }

    /// A number from one of its files.
    pub fn number(&self, file: &str) -> Result<u64> {
        let path = self.path(file);
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        text.trim()
            .parse()
            .with_context(|| format!("{path} says {text:?}"))
    }

    /// Sets memory.max, in MiB; 0 for none.
    pub fn set_limit(&self, limit_mib: u64) -> Result<()> {
        let words = match limit_mib {
            0 => "max".to_owned(),
            limit => format!("{limit}M"),
        };
        fs::write(self.path("memory.max"), words)
            .with_context(|| format!("setting memory.max of {}", self.name))
    }

    /// Pages that its processes have in swap.
    pub fn swapped_pages(&self) -> Result<u64> {
        Ok(self.number("memory.swap.current")? / 4096)
    }

    /// Evicts until at least `pages` pages are in swap and out of memory.
    ///
    /// `memory.reclaim` returns while folios are under writeback and then says EAGAIN; so it is asked
    /// again until memory.current is small enough, with a deadline.
    pub fn evict(&self, pages: u64) -> Result<()> {
        let what = format!("evicting {pages} pages of {}", self.name);
        poll(&what, Duration::from_secs(300), || {
            let current = self.number("memory.current")?;
            let swapped = self.swapped_pages()?;
            // What is swapped but still cached, and page tables, stay: a quarter of slack.
            if swapped >= pages && current < (pages / 4).saturating_mul(4096).max(4 * MIB) {
                return Ok(true);
            }
            match fs::write(
                self.path("memory.reclaim"),
                format!("{current} swappiness=max"),
            ) {
                Ok(()) => Ok(false),
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(false),
                Err(error) => bail!("memory.reclaim of {}: {error}", self.name),
            }
        })
    }

    /// Kills every process inside and waits until they are gone.
    pub fn kill(&self) -> Result<()> {
        fs::write(self.path("cgroup.kill"), "1").context("cgroup.kill")?;
        poll(
            "the end of killed processes",
            Duration::from_secs(120),
            || {
                let events = fs::read_to_string(self.path("cgroup.events"))?;
                Ok(events.lines().any(|line| line == "populated 0"))
            },
        )
    }

    /// Removes it; it must be empty.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_dir(self.path("")) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.with_context(|| format!("removing the cgroup {}", self.name)),
        }
    }
}
