// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! Memory cgroups (version 2): limits, reclaim on demand, and the end of everything inside.

use std::fs;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{bail, Context, Result};

use super::{poll, vm, MIB};

/// A cgroup that a scenario made.
#[derive(Clone, Debug)]
pub struct Cgroup {
    name: String,
}

/// What the tasks of a cgroup have done so far.
pub struct Spent {
    /// With a processor, in user mode and in the kernel, in microseconds.
    pub user_us: u64,
    pub system_us: u64,
    /// At least one waited for memory (to come back, to be made free).
    pub waited_us: u64,
    /// Faults for which something was read.
    pub faults: u64,
    /// Pages that reclaim looked at, and freed.
    pub scanned: u64,
    pub freed: u64,
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

    /// Evicts until at least `pages` pages are in swap and hardly any is mapped.
    ///
    /// `memory.reclaim` returns while folios are under writeback and then says EAGAIN; so it is asked
    /// again, with a deadline. memory.current would not do as a measure: it counts what zswap holds.
    pub fn evict(&self, pages: u64) -> Result<()> {
        let mut state = (0, 0);
        poll("evicting", Duration::from_secs(150), || {
            let mapped = self.statistic("anon")? + self.statistic("shmem")?;
            state = (self.swapped_pages()?, mapped / 4096);
            if state.0 >= pages && mapped < (pages / 8).saturating_mul(4096).max(2 * MIB) {
                return Ok(true);
            }
            let request = format!("{} swappiness=max", mapped.max(MIB));
            match fs::write(self.path("memory.reclaim"), request) {
                Ok(()) => Ok(false),
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(false),
                Err(error) => bail!("memory.reclaim of {}: {error}", self.name),
            }
        })
        .with_context(|| {
            let (swapped, mapped) = state;
            format!(
                "{}: {pages} pages to evict, {swapped} in swap, {mapped} mapped",
                self.name
            )
        })
    }

    /// Begins to evict some pages, however it ends.
    pub fn reclaim_some(&self, pages: u64) -> Result<()> {
        let request = format!("{} swappiness=max", pages * 4096);
        match fs::write(self.path("memory.reclaim"), request) {
            Err(error) if error.raw_os_error() != Some(libc::EAGAIN) => {
                Err(error).context("memory.reclaim")
            }
            _ => Ok(()),
        }
    }

    /// The same beside the caller: it may wait for what it has begun to write, for as long as that takes.
    pub fn reclaim_beside(&self, pages: u64) -> JoinHandle<Result<()>> {
        let cgroup = self.clone();
        thread::spawn(move || cgroup.reclaim_some(pages))
    }

    /// Pages of private memory that are mapped.
    pub fn anonymous_pages(&self) -> Result<u64> {
        Ok(self.statistic("anon")? / 4096)
    }

    /// Pages that are in swap and still in memory, too: touching one fetches nothing.
    pub fn cached_pages(&self) -> Result<u64> {
        Ok(self.statistic("swapcached")? / 4096)
    }

    /// How many of its processes the kernel has killed because it was at its limit.
    pub fn oom_kills(&self) -> Result<u64> {
        vm::number(&self.path("memory.events"), "oom_kill")
    }

    /// What its tasks have done so far.
    pub fn spent(&self) -> Result<Spent> {
        let path = self.path("memory.pressure");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let waited_us = text
            .lines()
            .find_map(|line| {
                line.strip_prefix("some ")?
                    .rsplit_once("total=")?
                    .1
                    .parse()
                    .ok()
            })
            .with_context(|| format!("{path} says {text:?}"))?;
        let cpu = self.path("cpu.stat");
        Ok(Spent {
            user_us: vm::number(&cpu, "user_usec")?,
            system_us: vm::number(&cpu, "system_usec")?,
            waited_us,
            faults: self.statistic("pgmajfault")?,
            scanned: self.statistic("pgscan")?,
            freed: self.statistic("pgsteal")?,
        })
    }

    fn statistic(&self, name: &str) -> Result<u64> {
        vm::number(&self.path("memory.stat"), name)
    }

    /// Kills every process inside and waits until they are gone.
    pub fn kill(&self) -> Result<()> {
        match fs::write(self.path("cgroup.kill"), "1") {
            // The scenario has removed it itself.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            result => result.context("cgroup.kill")?,
        }
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
