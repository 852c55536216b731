// SPDX-License-Identifier: GPL-2.0-only OR MIT
//! The kernel's own counters and knobs: /proc/vmstat, zswap, huge pages, and what the log said.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use anyhow::{Context, Result};

use super::poll;

/// A counter of /proc/vmstat.
pub fn vmstat(name: &str) -> Result<u64> {
    number("/proc/vmstat", name)
}

/// The number of that name in a file of lines `NAME NUMBER`.
pub fn number(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    text.lines()
        .find_map(|line| {
            line.strip_prefix(name)?
                .strip_prefix(' ')?
                .trim()
                .parse()
                .ok()
        })
        .with_context(|| format!("{path} has no {name}"))
}

/// Pages that are being written just now, anybody's.
///
/// A cgroup's `memory.stat` says it, too, but late: of pages long written it counted the last 50 to 60 for up to two
/// seconds more. Before `/proc/vmstat` is read its counters are summed up.
pub fn pages_in_writeback() -> Result<u64> {
    set_sysctl("vm/stat_refresh", "1")?;
    vmstat("nr_writeback")
}

/// How long the processors had nothing to do since boot, in nanoseconds, to a hundredth of a second.
pub fn idle_ns() -> Result<u64> {
    let text = fs::read_to_string("/proc/uptime").context("reading /proc/uptime")?;
    let idle = text.split_whitespace().nth(1);
    let hundredths = idle.and_then(|seconds| seconds.replace('.', "").parse::<u64>().ok());
    Ok(hundredths.with_context(|| format!("/proc/uptime says {text:?}"))? * 10_000_000)
}

/// Sets a parameter of zswap; leaves alone what is so already, for a write makes zswap set itself up.
pub fn set_zswap(name: &str, value: &str) -> Result<()> {
    let path = format!("/sys/module/zswap/parameters/{name}");
    if fs::read_to_string(&path).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))
}

/// A number of zswap's in debugfs.
pub fn zswap_number(name: &str) -> Result<u64> {
    let path = format!("/sys/kernel/debug/zswap/{name}");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    text.trim()
        .parse()
        .with_context(|| format!("{path} says {text:?}"))
}

/// Sets the policy for huge pages: `always`, `madvise`, `never`.
pub fn set_huge_pages(policy: &str) -> Result<()> {
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    fs::write(path, policy).with_context(|| format!("writing {policy} to {path}"))
}

/// Sets a sysctl below /proc/sys.
pub fn set_sysctl(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{name}");
    fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))
}

/// A sysctl below /proc/sys.
pub fn sysctl(name: &str) -> Result<String> {
    let path = format!("/proc/sys/{name}");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    Ok(text.trim().to_owned())
}

/// Forgets clean file pages, so that one scenario's cache is not another's pressure.
pub fn drop_caches() -> Result<()> {
    set_sysctl("vm/drop_caches", "3")
}

/// Reads the kernel log from the moment of its making.
pub struct Log {
    file: fs::File,
}

impl Log {
    /// From now on.
    pub fn from_now() -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .context("opening /dev/kmsg")?;
        file.seek(SeekFrom::End(0)).context("seeking /dev/kmsg")?;
        Ok(Self { file })
    }

    /// The lines since then or since the last call, without their prefix.
    pub fn lines(&mut self) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut record = vec![0; 8192];
        loop {
            match self.file.read(&mut record) {
                Ok(0) => break,
                Ok(length) => {
                    let text = String::from_utf8_lossy(record.get(..length).unwrap_or_default());
                    if let Some((_, message)) = text.split_once(';') {
                        lines.push(message.lines().next().unwrap_or_default().to_owned());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // Overtaken by the ring buffer: go on with what is there.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => {}
                Err(error) => return Err(error).context("reading /dev/kmsg"),
            }
        }
        Ok(lines)
    }

    /// Waits for a line with these words.
    pub fn says(&mut self, words: &str) -> Result<()> {
        let what = format!("a line with {words:?} in the log");
        poll(&what, Duration::from_secs(30), || {
            Ok(self.lines()?.iter().any(|line| line.contains(words)))
        })
    }
}
