// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The guest as a scenario sees it: swap areas, cgroups, programs, the module, and the host outside.
//!
//! [`Guest`] remembers what a scenario made, so that [`Guest::tidy`] can undo it whatever happened: the
//! next scenario in the same boot begins as the first did.

pub mod card;
pub mod cgroup;
pub mod disk;
pub mod fault;
pub mod filler;
pub mod module;
pub mod ordered;
pub mod program;
pub mod vm;
pub mod watch;

use std::collections::BTreeMap;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail, ensure, Context, Result};
use qemu_test_wire as wire;
use rustix::io::Errno;

pub use cgroup::Cgroup;
pub use disk::Swap;
pub use filler::Filler;

use crate::pattern::Spec;
use crate::port::Host;

/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;

/// What a thread came to.
pub fn joined<T>(thread: JoinHandle<Result<T>>, what: &str) -> Result<T> {
    let ended = thread
        .join()
        .map_err(|_| anyhow!("{what}: its thread panicked"))?;
    ended.with_context(|| what.to_owned())
}

/// Asks `done` until it says true, an error, or the deadline is over, which is later on the debug kernel.
pub fn poll(what: &str, patience: Duration, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let patience = patience * if watch::is_debug_kernel() { 4 } else { 1 };
    let deadline = Instant::now() + patience;
    loop {
        if done()? {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{what}: not within {} s",
            patience.as_secs()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The guest, during one scenario.
pub struct Guest<'a> {
    /// The outside.
    pub host: &'a mut Host,
    /// What is measured on the way.
    pub figures: BTreeMap<String, u64>,
    cgroups: Vec<Cgroup>,
}

impl<'a> Guest<'a> {
    /// A guest in which nothing was made yet.
    pub fn new(host: &'a mut Host) -> Self {
        Self {
            host,
            figures: BTreeMap::new(),
            cgroups: Vec::new(),
        }
    }

    /// Makes a cgroup that ends with the scenario; a limit of 0 MiB is none.
    pub fn cgroup(&mut self, name: &str, limit_mib: u64) -> Result<Cgroup> {
        let cgroup = Cgroup::new(name, limit_mib)?;
        self.cgroups.push(cgroup.clone());
        Ok(cgroup)
    }

    /// Starts the pattern program in a cgroup.
    pub fn filler(&mut self, cgroup: &Cgroup, spec: Spec) -> Result<Filler> {
        Filler::start(cgroup, spec)
    }

    /// insmod memsrv.ko with the harness's server and further parameters; it must load.
    pub fn insmod(&mut self, parameters: &str) -> Result<()> {
        let mut parameters = format!("server={} {parameters}", wire::HOST_ADDRESS);
        if watch::is_debug_kernel() {
            // There a full table takes longer than the usual limits to be sent and answered, and pages are evicted
            // sooner than that: with the usual table they go to the disk.
            for (name, value) in [
                ("store_ms=", "120000"),
                ("silence_ms=", "60000"),
                ("inflight=", "8192"),
            ] {
                if !parameters.contains(name) {
                    parameters.push_str(&format!(" {name}{value}"));
                }
            }
        }
        self.load_module(&parameters)
    }

    /// insmod memsrv.ko with these parameters only; it must load.
    pub fn load_module(&mut self, parameters: &str) -> Result<()> {
        let mut log = vm::Log::from_now()?;
        module::insmod(parameters.trim())?.with_context(|| {
            let said = log.lines().unwrap_or_default().join(" | ");
            format!("insmod memsrv.ko {parameters} (the kernel log says: {said})")
        })
    }

    /// insmod memsrv.ko, which must fail with `errno`; returns the lines that the kernel logged.
    pub fn insmod_fails(&mut self, parameters: &str, errno: Errno) -> Result<Vec<String>> {
        let mut log = vm::Log::from_now()?;
        match module::insmod(parameters)? {
            Ok(()) => bail!("insmod memsrv.ko {parameters} loaded, it should have failed: {errno}"),
            Err(error) => ensure!(
                error == errno,
                "insmod memsrv.ko {parameters} failed with {error}, not {errno}"
            ),
        }
        ensure!(
            !module::is_loaded(),
            "insmod failed, but the module is there"
        );
        let lines = log.lines()?;
        Ok(lines
            .into_iter()
            .filter(|line| line.contains("memsrv"))
            .collect())
    }

    /// rmmod, which must work now or soon (the last pages may still be on their way to being freed).
    pub fn rmmod(&mut self) -> Result<()> {
        let mut last = None;
        poll(
            "rmmod memsrv",
            Duration::from_secs(60),
            || match module::rmmod() {
                Ok(()) => Ok(true),
                Err(error @ (Errno::AGAIN | Errno::BUSY)) => {
                    last = Some(error);
                    Ok(false)
                }
                Err(error) => bail!("rmmod memsrv: {error}"),
            },
        )
        .with_context(|| match module::stats() {
            Ok(stats) => format!("the last was {last:?}; the module's statistics are {stats:?}"),
            Err(error) => format!("the last was {last:?}; no statistics: {error:#}"),
        })?;
        ensure!(
            !module::is_loaded(),
            "rmmod said yes, but the module is there"
        );
        Ok(())
    }

    /// One number of the module's statistics.
    pub fn stat(&self, key: &str) -> Result<u64> {
        let stats = module::stats()?;
        stats
            .get(key)
            .copied()
            .with_context(|| format!("no {key} among the statistics {stats:?}"))
    }

    /// Waits until the server holds `pages` pages.
    pub fn expect_server_pages(&mut self, pages: u64) -> Result<()> {
        let mut last = 0;
        poll(
            &format!("{pages} pages left on the server"),
            Duration::from_secs(30),
            || {
                last = self.host.server_pages()?;
                Ok(last == pages)
            },
        )
        .with_context(|| format!("the server holds {last}"))
    }

    /// Undoes whatever the scenario did.
    pub fn tidy(&mut self) -> Result<()> {
        for cgroup in &self.cgroups {
            cgroup.kill()?;
        }
        disk::all_off()?;
        if module::is_loaded() {
            self.rmmod()?;
        }
        for cgroup in self.cgroups.drain(..) {
            // A killed program's pages may keep the cgroup for a moment.
            poll("removing a cgroup", Duration::from_secs(30), || {
                Ok(cgroup.remove().is_ok())
            })?;
        }
        vm::set_zswap("enabled", "N")?;
        vm::set_zswap("shrinker_enabled", "N")?;
        vm::set_zswap("max_pool_percent", "20")?;
        vm::set_huge_pages("always")?;
        vm::set_sysctl("vm/page-cluster", "3")?;
        vm::drop_caches()
    }
}
